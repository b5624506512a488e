"""What the student is asked to do.

short texts   token       each token's state is the first teacher's: relative squared error
              vector      so is the text's vector: 1 - cosine
              similarity  the batch's texts are as similar to each other as the first teacher finds them, or both
                          together: Kullback-Leibler divergence of the distributions softmax(similarity /
                          temperature) over the other texts
documents     token       the same, by direction only: a token may count for less than another
              document    a short text is as similar to a document as to the best window of it, among the
                          documents of the batch: the same divergence. A mean over thousands of tokens would
                          drown it.
pairs         pair        a first sentence is as similar to what follows each sentence of the batch as the teacher
                          finds it: the same divergence, both ways
              contrast    what follows it is the most similar: cross entropy (InfoNCE, arXiv 1807.03748)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from export.distill.teachers import mean

__all__ = [
    "Target",
    "best_windows",
    "divergence",
    "document_losses",
    "mixed",
    "pair_losses",
    "similarity_losses",
    "text_losses",
]

PASSAGE, STRIDE = 48, 24  # tokens of a window of a document, and from one to the next


@dataclass(frozen=True)
class Target:
    """The first teacher's states of a padded batch."""

    states: Tensor  # float32 [batch, length, width]
    mask: Tensor  # int64 [batch, length]


def mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """How similar two teachers find texts.

    :param first: its vectors, float32 [batch, n], of length 1.
    :param second: its vectors, float32 [batch, m], of length 1.
    :param share: of the second.
    :return: the weighted mean of both's dot products, float32 [batch, batch].
    """
    return (1 - share) * (first @ first.T) + share * (second @ second.T)


def divergence(wanted: Tensor, given: Tensor, temperature: float) -> Tensor:
    """Compare the distributions of similarities.

    :param wanted: similarities [rows, columns]; -inf leaves a column out.
    :param given: the student's, of the same shape.
    :return: mean over rows of KL(softmax(wanted / t) || softmax(given / t)).
    """
    hidden = torch.isinf(wanted)
    given = (given / temperature).masked_fill(hidden, -1e4)
    wanted = (wanted / temperature).masked_fill(hidden, -1e4)
    return functional.kl_div(
        functional.log_softmax(given, dim=1),
        functional.log_softmax(wanted, dim=1),
        log_target=True,
        reduction="batchmean",
    )


def text_losses(
    hidden: Tensor, target: Target, temperature: float, similarity: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute the losses of a batch of short texts.

    :param hidden: the student's states, float [batch, length, student's width].
    :param target: the first teacher's.
    :param similarity: of the texts, [batch, batch], from ``mixed``; None: the first teacher's.
    :return: the losses by name, scalars.
    """
    mask = target.mask.float()
    wide = target.states.shape[-1]
    error = (hidden[..., :wide].float() - target.states).square().sum(-1) / target.states.square().sum(-1)
    own, vectors = mean(hidden[..., :wide], target.mask), mean(target.states, target.mask)
    losses = {"token": (error * mask).sum() / mask.sum(), "vector": 1 - (own * vectors).sum(-1).mean()}
    if len(own) > 2:
        itself = torch.eye(len(own), dtype=torch.bool, device=own.device)
        wanted = vectors @ vectors.T if similarity is None else similarity
        losses["similarity"] = divergence(wanted.masked_fill(itself, -torch.inf), own @ own.T, temperature)
    return losses


def document_losses(
    hidden: Tensor, target: Target, queries: Tensor, query_target: Target, temperature: float
) -> dict[str, Tensor]:
    """Compute the losses of a batch of documents.

    :param hidden: the student's states of the documents, which fill their rows, float [documents, length, width].
    :param target: the first teacher's of the same.
    :param queries: the student's states of short texts, float [texts, length, width].
    :param query_target: the first teacher's of the same.
    :return: the losses by name, scalars.
    """
    wide = target.states.shape[-1]
    similarity = functional.cosine_similarity(hidden[..., :wide].float(), target.states, dim=-1)
    wanted = best_windows(mean(query_target.states, query_target.mask), target.states)
    given = mean(queries, query_target.mask) @ mean(hidden, target.mask).T
    both = divergence(wanted, given, temperature) + divergence(wanted.T, given.T, temperature)
    return {"token": 1 - similarity.mean(), "document": both / 2}


def pair_losses(
    queries: Tensor, query_target: Target, passages: Tensor, passage_target: Target, temperature: float
) -> dict[str, Tensor]:
    """Compute the loss of queries and their passages.

    :param queries: the student's states of short texts, float [texts, length, width].
    :param query_target: the first teacher's of the same.
    :param passages: the student's states of the passage that belongs to each, float [texts, length, width].
    :param passage_target: the first teacher's of the same.
    :return: the losses by name, scalars.
    """
    sides = [(queries, query_target), (passages, passage_target)]
    asked, found = (mean(target.states, target.mask) for _, target in sides)
    own_asked, own_found = (mean(states, target.mask) for states, target in sides)
    wanted, given = asked @ found.T, own_asked @ own_found.T
    return similarity_losses(wanted, given, temperature)


def similarity_losses(wanted: Tensor, given: Tensor, temperature: float) -> dict[str, Tensor]:
    """Compute the losses of queries and their passages from similarities.

    :param wanted: of each query and each passage, [texts, texts]; its own are on the diagonal.
    :param given: the student's, of the same shape.
    :return: the losses by name, scalars.
    """
    both = divergence(wanted, given, temperature) + divergence(wanted.T, given.T, temperature)
    own = torch.arange(len(given), device=given.device)
    contrast = functional.cross_entropy(given / temperature, own) + functional.cross_entropy(
        given.T / temperature, own
    )
    return {"pair": both / 2, "contrast": contrast / 2}


def best_windows(queries: Tensor, states: Tensor) -> Tensor:
    """Find the part of each document that answers a query best.

    :param queries: the first teacher's vectors, float32 [texts, width], of length 1.
    :param states: its states of documents, float32 [documents, length, width].
    :return: similarity of each text and the window of each document that is most similar to it, [texts, documents].
    """
    windows = states.unfold(1, min(PASSAGE, states.shape[1]), STRIDE).mean(-1)
    return torch.einsum("tw,dpw->tdp", queries, functional.normalize(windows, dim=-1)).amax(-1)
