"""Where the bundled model is: the one that Embedder(None) loads."""

from __future__ import annotations

import os

from .errors import ModelError
from .manifest import MANIFEST

_unpacked: dict[str, str] = {}  # package in an archive -> model folder


def bundled_model(package: str | None = None) -> str:
    """Find the model folder in `models/` inside this package (a wheel) or beside it (a checkout).

    :param package: folder of the package; None for the one this file is in.
    :return: path of the only model folder found there.
    :raises ModelError: none, or several in the same place.
    """
    package = package or os.path.dirname(os.path.abspath(__file__))
    places = [os.path.join(package, "models"), os.path.join(os.path.dirname(package), "models")]
    for place in places:
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        folders = [os.path.join(place, name) for name in names if not name.startswith(".")]
        folders = [folder for folder in folders if os.path.isfile(os.path.join(folder, MANIFEST))]
        if len(folders) > 1:
            listed = ", ".join(os.path.basename(folder) for folder in folders)
            raise ModelError(f"{place} holds several models ({listed}): name one with model= or --model")
        if folders:
            return folders[0]
    if not os.path.isdir(package) and (unpacked := _from_archive(package)):
        return unpacked
    raise ModelError(
        f"no bundled model in {places[0]} or {places[1]}: pass model= or --model with a folder made by "
        "`python -m export SOURCE --output DIR`"
    )


def _from_archive(package: str) -> str | None:
    """Unpack the model of a zipapp into a folder that lasts as long as this process: a graph is opened as a file.

    :param package: a path that goes through the archive, as `__file__` does there.
    :return: the model folder; None where this is no archive, or there is no model in it.
    """
    if package in _unpacked:
        return _unpacked[package]
    archive = package
    while not os.path.isfile(archive):
        archive, previous = os.path.dirname(archive), archive
        if archive == previous:
            return None
    import atexit
    import shutil
    import tempfile
    import zipfile

    if not zipfile.is_zipfile(archive):
        return None
    place = f"{os.path.relpath(package, archive).replace(os.sep, '/')}/models/"
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.startswith(place)]
        if not any(name.endswith(f"/{MANIFEST}") for name in names):
            return None
        folder, owner = tempfile.mkdtemp(prefix="jinabert-model-"), os.getpid()

        def remove() -> None:
            if os.getpid() == owner:  # a fork's end is not this process's
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
        file.extractall(folder, names)
    _unpacked[package] = bundled_model(os.path.join(folder, *place.split("/")[:-2]))
    return _unpacked[package]


def model_folder(model: str | bytes | os.PathLike[str] | None) -> str:
    """Return the path of a model folder as a str.

    :param model: folder; None for the bundled model.
    :return: its path, which need not exist.
    :raises TypeError: model is no path.
    :raises ModelError: model is None, and there is no bundled model.
    """
    if model is None:
        return bundled_model()
    try:
        return os.fsdecode(model)
    except TypeError:
        raise TypeError(
            f"model={str(model)[:40]} is {type(model).__name__}: expected the path of a model folder, or None for the "
            "bundled model"
        ) from None
