"""Cross-encoders: a score for a query and a document, and the proof that the exported one is the checkpoint's.

The head is computed at run time in numpy, from fp32 weights (runtime.modules): tanh of a Dense on the first token,
and a Dense to one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from export.reference import ATTENTION_ROWS
from export.verify import FP32_LENGTHS, Figures, Progress, batches_by_length, open_session
from runtime.modules import Module, apply

if TYPE_CHECKING:
    import onnxruntime

    from export.models import EncoderModel
    from runtime.tokenization.tokenizer import Tokenizer

__all__ = ["kendall_tau", "score", "torch_score", "verify_scores"]

TOLERANCE = 1e-4  # of a logit beyond 1 relative to it
LISTS, DOCUMENTS = 1000, 5
DOCUMENT_TOKENS = 128  # the longest document of the lists
LEAST_TAU = 0.9  # mean over the lists


def torch_score(model: EncoderModel, ids: Sequence[int]) -> float:
    """Score a pair in torch.

    :param model: an encoder with a head.
    :param ids: tokens of the pair.
    :return: the logit.
    """
    hidden, output = model.head
    before, model.block_rows = model.block_rows, ATTENTION_ROWS
    try:
        with torch.inference_mode():
            tokens = torch.tensor([list(ids)], dtype=torch.int64)
            x = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
            first = x.last_hidden_state[:, 0]
            weights = [
                torch.from_numpy(part.arrays[name])
                for part in (hidden, output)
                for name in ("weight", "bias")
            ]
            pooled = torch.tanh(torch.nn.functional.linear(first, weights[0], weights[1]))
            return float(torch.nn.functional.linear(pooled, weights[2], weights[3]))
    finally:
        model.block_rows = before


def score(
    session: onnxruntime.InferenceSession, head: Sequence[Module], batch: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Score pairs with an exported graph.

    :param session: the graph.
    :param head: what follows it.
    :param batch: tokens of each pair, padded here on the right.
    :return: logits, float64 [len(batch)].
    """
    ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
    mask = np.zeros_like(ids)
    for row, pair in enumerate(batch):
        ids[row, : len(pair)], mask[row, : len(pair)] = pair, 1
    (hidden,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
    logits: NDArray[np.float64] = apply(head, hidden[:, 0].astype(np.float64))[:, 0]
    return logits


def verify_scores(
    model: EncoderModel,
    tokenizer: Tokenizer,
    corpus: Sequence[str],
    fp32_path: Path,
    int8_path: Path | None,
    *,
    longest: int,
    max_dense_tokens: int,
    threads: int = 2,
    progress: Progress = lambda line: None,
) -> Figures:
    """Compare the fp32 graph with torch by length, and int8 with fp32 by the order of lists.

    :param model: the torch model, with its head.
    :param tokenizer: of the checkpoint.
    :param corpus: texts to make pairs of.
    :param fp32_path: the fp32 graph.
    :param int8_path: the int8 graph; None where there is none.
    :param longest: leave out pairs of more tokens than this.
    :param max_dense_tokens: longer pairs come alone.
    :return: differences of logits; mean of Kendall's tau over lists.
    :raises ExportError: a score differs by more than ``TOLERANCE``, or int8 orders lists otherwise.
    """
    if tokenizer.second_type_id:
        raise ExportError(
            "the tokenizer gives the second text of a pair token type 1, which only models with pairs joined as "
            "<s> a </s></s> b </s> do without: export an encoder with such a tokenizer"
        )
    session = open_session(fp32_path, threads)
    stream = " ".join(sorted(corpus, key=len)[-8:])
    differences: dict[str, float] = {}
    for length in (length for length in FP32_LENGTHS if 3 <= length <= longest):
        pair, _, _ = tokenizer.encode_pair(corpus[0] if length > 100 else "", stream, max(length, 6))
        pair = pair[: length - 1] + pair[-1:]
        expected, found = torch_score(model, pair), float(score(session, model.head, [pair])[0])
        differences[str(length)] = float(f"{abs(found - expected):.2e}")
        if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
            raise ExportError(
                f"the exported fp32 graph does not score as the model: {found:.5f} for {expected:.5f} on a pair of "
                f"{length} tokens"
            )
        progress(f"score of a pair of {length} tokens: difference {abs(found - expected):.1e}")
    figures: Figures = {"fp32": differences, "tolerance": TOLERANCE}
    if int8_path is None:
        return figures
    pairs = _lists(tokenizer, corpus)
    progress(f"scoring {len(pairs):,} pairs in fp32 and int8")
    fp32, int8 = (
        _score_all(open_session(path, threads), model.head, pairs, max_dense_tokens)
        for path in (fp32_path, int8_path)
    )
    taus = [
        kendall_tau(fp32[start : start + DOCUMENTS], int8[start : start + DOCUMENTS])
        for start in range(0, len(pairs), DOCUMENTS)
    ]
    off = np.abs(fp32 - int8)
    figures["int8"] = {
        "lists": len(taus),
        "documents": DOCUMENTS,
        "tau": round(float(np.mean(taus)), 4),
        "least_allowed": LEAST_TAU,
        "largest_difference": float(f"{off.max():.3g}"),
        "mean_difference": float(f"{off.mean():.3g}"),
        "spread": float(f"{fp32.std():.3g}"),
    }
    if not np.mean(taus) >= LEAST_TAU:
        raise ExportError(
            f"int8 orders documents otherwise than fp32: Kendall's tau is {np.mean(taus):.3f} over {len(taus):,} "
            f"lists, at least {LEAST_TAU} is needed: export with --precision fp32"
        )
    return figures


def _lists(tokenizer: Tokenizer, corpus: Sequence[str]) -> list[list[int]]:
    """Pairs of seeded lists: a short text as the query, others as documents, some of them its neighbours."""
    chance = np.random.default_rng(19)
    queries = sorted(range(len(corpus)), key=lambda index: len(corpus[index]))[: max(1, len(corpus) // 2)]
    pairs = []
    for _ in range(LISTS):
        query = int(chance.choice(queries))
        near = [(query + step) % len(corpus) for step in (1, 2)]
        documents = near + chance.integers(0, len(corpus), DOCUMENTS - len(near)).tolist()
        for document in documents:
            ids, _, _ = tokenizer.encode_pair(corpus[query], corpus[document], DOCUMENT_TOKENS)
            pairs.append(ids)
    return pairs


def _score_all(
    session: onnxruntime.InferenceSession,
    head: Sequence[Module],
    pairs: Sequence[Sequence[int]],
    max_dense_tokens: int,
) -> NDArray[np.float64]:
    logits = np.empty(len(pairs))
    for batch in batches_by_length([len(pair) for pair in pairs], max_dense_tokens):
        logits[batch] = score(session, head, [pairs[index] for index in batch])
    return logits


def kendall_tau(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Tell how far two lists of scores order the same items alike (Kendall 1938, without correction for ties).

    :param one: scores.
    :param two: scores of the same items.
    :return: 1 for the same order, -1 for the opposite one; 1 for fewer than two items.
    """
    signs = [np.sign(one[i] - one[j]) * np.sign(two[i] - two[j]) for i, j in combinations(range(len(one)), 2)]
    return float(np.mean(signs)) if signs else 1.0
