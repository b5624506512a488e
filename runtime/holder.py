"""What Embedder and Reranker have in common: an open model folder, of which a pickle or a copy holds only the path.

A pickle is small, and what is made of it loads the folder at its first use, where that happens: in a worker of a pool,
of joblib or of Spark. The bundled model is the bundled one there; other folders need the same path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .bundled import model_folder
from .model import Model, load_model

if TYPE_CHECKING:
    from typing import Self


class ModelHolder:
    """Holds a model that is loaded at once, or after a pickle or a copy at its first use."""

    TASK = "embed"  # of manifest.TASKS
    _loaded: Model | None

    def __init__(self, model: str | os.PathLike[str] | None, threads: int | None, verify: bool) -> None:
        """Load the model.

        :param model: model folder; None for the bundled model.
        :param threads: as in Embedder.
        :param verify: as in Embedder.
        """
        self._remember(model, threads, verify)
        self._loaded = load_model(model, threads=threads, verify=verify, task=self.TASK)

    @classmethod
    def unloaded(
        cls, model: str | os.PathLike[str] | None, threads: int | None, verify: bool = False
    ) -> Self:
        """Make one that loads its model at first use.

        :param model: as in __init__.
        :param threads: as in __init__.
        :param verify: as in __init__.
        :return: it; errors of the folder come with its first use.
        """
        made = cls.__new__(cls)
        made._remember(model, threads, verify)
        return made

    def _remember(self, model: str | os.PathLike[str] | None, threads: int | None, verify: bool) -> None:
        self._folder = None if model is None else os.path.abspath(model_folder(model))
        self._threads, self._verify = threads, verify
        self._shared_by: Any = None  # what makes the same of class, folder and threads, where it is shared
        self._loaded = None

    @property
    def model(self) -> Model:
        """The loaded folder."""
        return self._model

    @property
    def _model(self) -> Model:
        model = self._loaded
        if model is None:  # two threads at once load it twice
            model = load_model(self._folder, threads=self._threads, verify=self._verify, task=self.TASK)
            self._loaded = model
        return model

    def close(self) -> None:
        """Free the model. Using it afterwards raises JinaBertError."""
        if self._loaded is not None:
            self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model, name = self._loaded, type(self).__name__
        if model is None:
            return f"{name}({self._folder!r}: loaded at first use)"
        about = model.manifest
        return f"{name}({model.folder!r}: {about.name}, {about.precision}, {model.session.threads} threads)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._shared_by is not None:
            return self._shared_by, (type(self), self._folder, self._threads)
        return super().__reduce_ex__(protocol)
