"""Scores of a student on text that is held out from training: what settings and steps are chosen by.

Pairs of sentences with scores of people, as in STS-B dev, where a file of them is given. And retrieval: each passage
that the corpus held out is split after its first sentence, and the sentence has to find the rest among those of all
passages, by the vectors (cosine) and by the token vectors (MaxSim, arXiv 2004.12832).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from export.distill.corpus import sentence_end
from export.distill.student import encode, hidden_states
from export.errors import ExportError
from export.models.jinabert import JinaBertModel
from runtime.tokenization.wordpiece import WordPiece

__all__ = ["ScoredPairs", "load_pairs", "ndcg", "retrieval", "spearman", "split_passages"]

ScoredPairs = tuple[list[float], list[str], list[str]]
PASSAGES = 600  # at most
PASSAGE_TOKENS = 192
FIRST = 10


def load_pairs(path: Path) -> ScoredPairs:
    """Read sentence pairs with scores.

    :param path: lines of score TAB sentence TAB sentence.
    :return: scores, first sentences, second sentences.
    :raises ExportError: the file is of another form.
    """
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
        return [float(row[0]) for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise ExportError(f"{path} is not score TAB sentence TAB sentence: {error}") from None


def spearman(model: JinaBertModel, tokenizer: WordPiece, pairs: ScoredPairs) -> float:
    """Score a model on sentence pairs.

    :param model: in any state.
    :param pairs: of ``load_pairs``.
    :return: rank correlation of cosines and scores.
    """
    wanted, left, right = pairs
    vectors = encode(model, tokenizer, left + right)
    given = (vectors[: len(left)] * vectors[len(left) :]).sum(axis=1)
    return float(spearmanr(wanted, given).statistic)


def split_passages(texts: Sequence[str], tokenizer: WordPiece) -> list[tuple[str, str]]:
    """Make retrieval pairs of held-out texts.

    :param texts: that the corpus held out.
    :return: first sentence and the rest of those that have both, spread evenly over the texts.
    """
    pairs = []
    for text in texts:
        end = text.find(". ") + 1
        if end and sentence_end(np.array(tokenizer.encode(text))) is not None:
            pairs.append((text[:end], text[end:].strip()))
    return pairs[:: -(-len(pairs) // PASSAGES) or 1]


def retrieval(
    model: JinaBertModel, tokenizer: WordPiece, pairs: Sequence[tuple[str, str]]
) -> tuple[float, float]:
    """Score a model on retrieval.

    :param model: in any state.
    :param pairs: of ``split_passages``.
    :return: nDCG@10 by cosine of vectors, and by MaxSim.
    """
    asked, found = zip(*pairs, strict=True)
    own, others = (_states(model, tokenizer, texts) for texts in (asked, found))
    vectors = [torch.stack([functional.normalize(s.mean(0), dim=0) for s in side]) for side in (own, others)]
    tokens = functional.normalize(torch.cat(others), dim=1)
    bounds = np.cumsum([0, *(len(states) for states in others)])
    late = torch.empty(len(own), len(others))
    for row, states in enumerate(own):
        similarity = functional.normalize(states, dim=1) @ tokens.T
        for column, (start, end) in enumerate(pairwise(bounds)):
            late[row, column] = similarity[:, start:end].amax(1).sum()
    return ndcg(vectors[0] @ vectors[1].T), ndcg(late)


def ndcg(similarity: Tensor) -> float:
    """Compute nDCG@10.

    :param similarity: [queries, passages]; passage i answers query i.
    :return: nDCG@10.
    """
    own = similarity.diagonal()[:, None]
    ranks = 1 + (similarity > own).sum(1)
    return float(torch.where(ranks <= FIRST, 1 / torch.log2(1 + ranks.float()), 0.0).mean())


def _states(model: JinaBertModel, tokenizer: WordPiece, texts: Sequence[str]) -> list[Tensor]:
    """The states of each text, [CLS] and [SEP] included, float32 [tokens, hidden]."""
    result: list[Tensor] = [torch.empty(0)] * len(texts)
    for numbers, hidden, mask in hidden_states(model, tokenizer, texts, PASSAGE_TOKENS):
        for number, states, row in zip(numbers, hidden, mask, strict=True):
            result[number] = states[row.bool()].float().cpu()
    return result
