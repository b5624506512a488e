"""Published numbers of the official checkpoints, checked whenever one of them is exported.

The weights are on the Hugging Face hub only. The numbers are what other projects' tests state: fastembed
(``tests/test_text_onnx_embeddings.py``) and text-embeddings-inference (``backends/candle/tests``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError


@dataclass(frozen=True)
class Published:
    """First components of the unit vector of a text; ``norm`` is the length of the mean before normalising."""

    source: str
    text: str
    head: tuple[float, ...]
    tolerance: float
    norm: float | None = None


@dataclass(frozen=True)
class PublishedPair:
    """Cosine of two texts."""

    source: str
    texts: tuple[str, str]
    cosine: float
    tolerance: float


_TEI = "text-embeddings-inference, fp32"
_WHAT = "What is Deep Learning?"
_IS = "Deep Learning is..."

# hub name -> what is published of it. base-de, -es, -zh and -code have numbers too, but this export refuses
# their tokenizer or architecture before it could check any.
PUBLISHED: dict[str, tuple[Published | PublishedPair, ...]] = {
    "jinaai/jina-embeddings-v2-small-en": (
        Published("fastembed", "hello world", (-0.0455, -0.0428, -0.0122, 0.0613, 0.0015), 1e-3),
        Published(_TEI, _WHAT, (-0.071772, -0.033150, -0.006980, 0.010570, 0.013847), 1e-4, 10.2631),
        Published(_TEI, _IS, (-0.058591, -0.051307, 0.012952, 0.031533, 0.011056), 1e-4, 10.68183),
        PublishedPair(_TEI, (_WHAT, _IS), 0.957946, 1e-4),
    ),
    "jinaai/jina-embeddings-v2-base-en": (
        Published("fastembed", "hello world", (-0.0332, -0.0509, 0.0287, -0.0043, -0.0077), 1e-3),
    ),
}
NORM_TOLERANCE = 1e-3  # relative


def official_name(*candidates: str | None) -> str | None:
    """
    :param candidates: names that a checkpoint goes by: the source, ``_name_or_path`` of its config, ``--name``.
    :return: the official hub name that one of them is (with or without ``jinaai/``, or as the last part of a
        path or of a hub cache folder), or None.
    """
    for candidate in candidates:
        parts = (candidate or "").partition("@")[0].replace("--", "/").rstrip("/").split("/")
        for name in PUBLISHED:
            organisation, short = name.split("/")
            if (
                parts[-1] == short
                or parts[-2:] == [organisation, short]
                or f"models/{name}" in "/".join(parts)
            ):
                return name
    return None


def check(name: str, encode: Callable[[str], NDArray[np.float64]]) -> dict[str, object]:
    """
    :param name: a key of ``PUBLISHED``.
    :param encode: gives the mean of the last hidden states of a text, not normalised, float64 [D].
    :return: how far the vectors are from the published numbers.
    :raises ExportError: farther than the tolerance of the source.
    """
    worst = 0.0
    for entry in PUBLISHED[name]:
        if isinstance(entry, Published):
            mean = encode(entry.text)
            norm = float(np.linalg.norm(mean))
            expected = np.asarray(entry.head)
            difference = float(np.abs(mean[: expected.size] / norm - expected).max())
            if entry.norm is not None and not abs(norm / entry.norm - 1) <= NORM_TOLERANCE:
                raise ExportError(
                    f"{name}: the mean vector of {entry.text!r} has length {norm:.5f}, "
                    f"{entry.source} publishes {entry.norm}: not the official weights, or read wrongly"
                )
            what = f"the vector of {entry.text!r}"
        else:
            one, two = (encode(text) for text in entry.texts)
            cosine = float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
            difference = abs(cosine - entry.cosine)
            what = f"the cosine of {entry.texts[0]!r} and {entry.texts[1]!r}"
        if not difference <= entry.tolerance:
            raise ExportError(
                f"{name}: {what} is {difference:.2g} away from what {entry.source} publishes "
                f"(at most {entry.tolerance:g}): not the official weights, or read wrongly"
            )
        worst = max(worst, difference / entry.tolerance)
    return {"name": name, "checked": len(PUBLISHED[name]), "worst_share_of_tolerance": round(worst, 4)}
