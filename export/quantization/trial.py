"""Any choice of forms for the linear layers, measured: one session holds all forms, and an input selects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export import folder, graph, verify
from export.graph.encoder import Encoder
from export.graph.weights import FORMS

__all__ = ["Trial"]


class Trial:
    """A graph with every linear layer in fp32 and int8."""

    def __init__(self, encoder: Encoder, work: Path, threads: int) -> None:
        """Build the graph whose linear layers can each be chosen in any form.

        :param encoder: sizes and weights.
        :param work: an existing folder, for the graph.
        :param threads: of one operator.
        """
        self.names = graph.linear_names(encoder)
        (path, *_) = folder.save_model(graph.build_selectable(encoder), work)
        self._session = verify.open_session(path, threads)

    def close(self) -> None:
        """Free the graph's weights."""
        del self._session

    def vectors(self, texts: Sequence[Sequence[int]], forms: Mapping[str, str]) -> NDArray[np.float64]:
        """Unit vectors of texts.

        :param texts: token ids.
        :param forms: name -> form out of FORMS; fp32 for those left out.
        :return: float64 [len(texts), D].
        """
        chosen = np.array([FORMS.index(forms.get(name, "fp32")) for name in self.names])
        return verify.encode(self._session, texts, None, feed={"forms": chosen})

    def cosines(
        self, texts: Sequence[Sequence[int]], forms: Mapping[str, str], exact: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Cosines to exact vectors.

        :param texts: token ids.
        :param forms: as in :meth:`vectors`.
        :param exact: unit vectors of the texts.
        :return: float64 [len(texts)].
        """
        cosines: NDArray[np.float64] = (self.vectors(texts, forms) * exact).sum(axis=1)
        return cosines
