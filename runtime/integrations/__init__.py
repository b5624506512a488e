"""Adapters to other libraries, one thin file each; importing one needs that library and nothing else does.

What they share is here: one loaded model for all adapters that name the same folder, and the line that names a
missing extra. A pickle or a copy of an adapter holds the path of its folder, see runtime/holder.py.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from runtime.bundled import model_folder
from runtime.chunking import find_spans
from runtime.embedder import Embedder
from runtime.prompts import document_prompt
from runtime.ranker import load_ranker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runtime.chunking import Chunk
    from runtime.reranker import Reranker

    Key = tuple[str | None, int | None]  # real path, threads

__all__ = ["late_chunks", "missing", "shared_embedder", "shared_ranker"]

KEPT = 2  # models that stay loaded when nobody holds them: Chroma makes a function anew for each query

_kept: deque[Embedder | Reranker] = deque(maxlen=KEPT)
_loaded: WeakValueDictionary[Key, Embedder | Reranker] = WeakValueDictionary()


def shared_embedder(model: str | os.PathLike[str] | None, threads: int | None) -> Embedder:
    """An Embedder that is loaded once a process, as long as somebody holds it or it is among the last KEPT.

    :param model: model folder; None for the bundled model.
    :param threads: as in Embedder.
    :return: the one that the same arguments gave before, if it is still there. Do not close it.
    :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
    :raises InputError: threads is not a positive number.
    """
    found = _shared(model, threads, Embedder)
    assert isinstance(found, Embedder)  # a cross-encoder's folder is refused by Embedder
    return found


def shared_ranker(model: str | os.PathLike[str] | None, threads: int | None) -> Embedder | Reranker:
    """What ranks documents, loaded once a process as shared_embedder is.

    :param model: model folder of an embedding model or a cross-encoder; None for the bundled model.
    :param threads: as in Embedder.
    :return: the one that the same arguments gave before, if it is still there. Do not close it.
    :raises ModelError: the folder or a file in it is missing, damaged or of another kind.
    :raises InputError: threads is not a positive number.
    """
    return _shared(model, threads, load_ranker)


def _shared(
    model: str | os.PathLike[str] | None, threads: int | None, load: Callable[..., Embedder | Reranker]
) -> Embedder | Reranker:
    key = (None if model is None else os.path.realpath(model_folder(model)), threads)
    found = _loaded.get(key)
    if found is None or (load is Embedder and not isinstance(found, Embedder)):
        # No lock: a fork could inherit it, and two threads at once only load it twice.
        found = _keep(key, load(model, threads=threads))
    return found


def _keep(key: Key, made: Embedder | Reranker) -> Embedder | Reranker:
    made._shared_by = _unpickled
    found = _loaded.setdefault(key, made)
    _kept.append(found)
    return found


def _unpickled(
    kind: type[Embedder | Reranker], model: str | None, threads: int | None
) -> Embedder | Reranker:
    """What a pickle or a copy of an adapter has as its model: the shared one, which loads at first use."""
    key = (None if model is None else os.path.realpath(model), threads)
    found = _loaded.get(key)
    return found if isinstance(found, kind) else _keep(key, kind.unloaded(model, threads))


def late_chunks(
    embedder: Embedder,
    text: str,
    parts: Iterable[str],
    starts: Iterable[int | None] = (),
    dimensions: int | None = None,
) -> list[Chunk | None]:
    """Vectors of the parts that a splitter cut out of a text, from one pass over the whole of it.

    :param embedder: the model.
    :param text: the text that was split.
    :param parts: pieces of it, word for word, in order.
    :param starts: where they start, as the splitter says; see chunking.find_spans.
    :param dimensions: as in Embedder.encode.
    :return: a chunk for each part, None for one without a token (empty, white space).
    :raises InputError: a part does not stand in the text.
    """
    parts, starts = list(parts), list(starts)
    full = [number for number, part in enumerate(parts) if embedder.count_tokens(part) > 2]
    if not full:
        return [None] * len(parts)
    told = [starts[number] for number in full] if len(starts) == len(parts) else ()
    spans = find_spans(text, [parts[number] for number in full], told)
    prompt = document_prompt(embedder.manifest).text
    chunks = embedder.encode_chunks(text, spans=spans, prompt=prompt, dimensions=dimensions)
    found: list[Chunk | None] = [None] * len(parts)
    for number, chunk in zip(full, chunks, strict=True):
        found[number] = chunk
    return found


def missing(library: str, extra: str, error: ImportError) -> ImportError:
    """What an adapter raises where its library cannot be imported.

    :param library: name of the distribution.
    :param extra: the extra of this package that installs it.
    :param error: what the import raised.
    :return: an error of one line with the command that helps.
    """
    return ImportError(f'{library} cannot be imported ({error}): pip install "jinabert-runtime[{extra}]"')
