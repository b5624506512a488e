"""Does the finished folder give the checkpoint's vectors? ``Embedder.encode`` against torch, pooling and modules.

The last check before a folder is published, and the only one that sees all of it: files, manifest, tokenizer, prompts,
truncation, graph, pooling, modules and normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.own_tokenizer import own_tokenizer
from export.reference import reference_vector, torch_states

if TYPE_CHECKING:
    import tokenizers

    from export.declared import Declared
    from export.models import EncoderModel
    from runtime import Embedder

__all__ = ["verify_vectors"]

TOLERANCE = 1e-5  # largest difference of a component of the unit vector, for fp32
TEXTS = 24  # without a prompt, evenly over the lengths
PROMPT_TEXTS = 4  # with each prompt
PROMPTS = 8  # most prompts that are tried
LONGEST_TOKENS = 512  # of a text that torch computes here; verify_fp32 has the longer ones


def verify_vectors(
    model: EncoderModel,
    stated: Declared,
    folder: Path,
    texts: Sequence[str],
    *,
    choice: str | None = None,
    least_cosine: float | None = None,
    threads: int = 2,
) -> dict[str, object]:
    """Compare the vectors of a model folder with those that its checkpoint declares.

    :param model: the torch model.
    :param stated: what the checkpoint's folder declares.
    :param folder: the model folder, complete.
    :param texts: verification texts.
    :param choice: see own_tokenizer.
    :param least_cosine: for int8: refuse below it. None for fp32: refuse a component of the unit vector that differs by
        more than TOLERANCE.
    :param threads: for the model folder.
    :return: how many texts and prompts, worst cosine, largest difference of a component of the unit vector.
    :raises ExportError: a vector is too far off.
    """
    from runtime import Embedder

    own = own_tokenizer(stated.backbone, choice)
    worst, difference, count = 1.0, 0.0, 0
    with Embedder(folder, threads=threads, verify=True) as embedder:
        limit = min(embedder.max_tokens, LONGEST_TOKENS)
        lengths = [len(own.encode(text[: 16 * limit]).ids) for text in texts]
        ordered = sorted(range(len(texts)), key=lengths.__getitem__)
        fitting = [index for index in ordered if lengths[index] <= limit] or ordered[:1]
        steps = np.linspace(0, len(fitting) - 1, min(TEXTS, len(fitting))).round().astype(int).tolist()
        picked = [texts[fitting[step]] for step in steps]
        cut = [texts[ordered[-1]]]  # longer than the limit, where there is one
        rounds: list[tuple[dict[str, Any], str, list[str]]] = [({"prompt": ""}, "", [*picked, *cut, ""])]
        if stated.default_prompt_name is not None:
            rounds.append(({}, stated.prompts[stated.default_prompt_name], picked[:PROMPT_TEXTS]))
        for name, prompt in list(stated.prompts.items())[:PROMPTS]:
            rounds.append(({"prompt_name": name}, prompt, picked[:PROMPT_TEXTS]))
        for named, prompt, several in rounds:
            if prompt and len(own.encode(prompt).ids) >= limit:
                continue  # no room for a text
            found = embedder.encode(several, max_length=limit, **named).astype(np.float64)
            for text, vector in zip(several, found, strict=True):
                expected = _expected(model, stated, own, embedder, prompt, text, limit)
                where = f"{text[:60]!r}" + (f" with the prompt {prompt[:40]!r}" if prompt else "")
                cosine, largest = _compare(expected, vector, stated.normalize, where, least_cosine)
                worst, difference, count = min(worst, cosine), max(difference, largest), count + 1
    return {
        "texts": count,
        "prompts": len(rounds) - 1,
        "worst": round(worst, 7),
        "difference": float(f"{difference:.2e}"),
        "least_allowed": least_cosine,
        "tolerance": TOLERANCE if least_cosine is None else None,
    }


def _expected(
    model: EncoderModel,
    stated: Declared,
    own: tokenizers.Tokenizer,
    embedder: Embedder,
    prompt: str,
    text: str,
    limit: int,
) -> NDArray[np.float64]:
    """A text's vector by torch, from the ids of the checkpoint's own tokenizer."""
    ids = own.encode(prompt + text).ids
    if len(ids) > limit:
        ids = embedder.tokenizer.truncate(ids, limit)
    skip = 0
    if prompt and not stated.include_prompt:
        skip = len(own.encode(prompt).ids) - len(embedder.tokenizer.suffix)
    vector: NDArray[np.float64] = reference_vector(torch_states(model, ids), stated, skip).numpy()
    return vector


def _compare(
    expected: NDArray[np.float64],
    found: NDArray[np.float64],
    normalized: bool,
    where: str,
    least_cosine: float | None,
) -> tuple[float, float]:
    """Cosine and largest difference of the unit vectors, if they are near enough."""
    if expected.shape != found.shape:
        raise ExportError(
            f"the model folder gives {len(found)} numbers for {where} where the checkpoint declares {len(expected)}"
        )
    lengths = float(np.linalg.norm(expected)), float(np.linalg.norm(found))
    one, other = (
        vector / max(length, 1e-12) for vector, length in zip((expected, found), lengths, strict=True)
    )
    cosine, largest = float(one @ other), float(np.abs(one - other).max())
    stretched = not normalized and abs(lengths[1] / max(lengths[0], 1e-12) - 1)
    if least_cosine is None and (not largest <= TOLERANCE or stretched > 1e-4):
        raise ExportError(
            f"the model folder does not give what the checkpoint declares: for {where} the unit vector differs by "
            f"{largest:.1e} (at most {TOLERANCE:g} is allowed), the length is {lengths[1]:.6g} instead of "
            f"{lengths[0]:.6g}"
        )
    if least_cosine is not None and not cosine >= least_cosine:
        raise ExportError(
            f"the model folder does not give what the checkpoint declares: for {where} the cosine is {cosine:.4f}, at "
            f"least {least_cosine} is needed: export with --precision fp32"
        )
    return cosine, largest
