"""A loaded model folder: token ids in, vectors out. The only place that pads, runs, pools, normalises and checks.

Which texts share a batch is for the callers (batching.py); so are texts themselves (tokenization/, embedder.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import batching, modules, pooling
from .bundled import model_folder
from .errors import ModelError
from .manifest import MODEL_DATA, Manifest, check_content, check_files, load_manifest
from .resources import default_threads, most_threads
from .session import Session
from .tokenization.loading import load_tokenizer, tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .tokenization.tokenizer import Tokenizer

    # (model, ids [T], token vectors [T, hidden_size], vector [D]) -> some numbers
    Reduce = Callable[
        ["Model", NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]
    ]

SHRINK_BATCHES = 8  # memory is given back at the end of this many batches or more: then that costs little
PARALLEL_TOKENS = 8192  # from here on a call is worth opening a second session for, see batching.run_parallel
PARALLEL_BATCHES = 2  # for each thread, at least: so that all of them end at about the same time


class Model:
    """A model folder that is open: its manifest, its tokenizer and an onnxruntime session.

    Safe from several threads, and in a child process after a fork.
    """

    def __init__(
        self,
        folder: str,
        manifest: Manifest,
        tokenizer: Tokenizer,
        session: Session,
        loaded_modules: Sequence[modules.Module] = (),
    ) -> None:
        """Put together what load_model has opened.

        :param folder: model folder.
        :param manifest: its manifest.
        :param tokenizer: makes the ids that the session takes.
        :param session: runs the graph.
        :param loaded_modules: what follows pooling, with their arrays.
        """
        self.folder = folder
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.session = session
        self.modules = loaded_modules
        self.dimension = manifest.dimension
        self._arrays: dict[str, NDArray[Any] | None] = {}

    def with_own_session(self) -> Model:
        """Open the folder a second time, for threads that shall not share this one's.

        :raises ModelError: the graph cannot be loaded any more.
        :raises OutOfMemoryError: onnxruntime could not allocate.
        """
        session = Session(self.folder, self.manifest, self.session.threads)
        return Model(self.folder, self.manifest, self.tokenizer, session, self.modules)

    def run(
        self, texts: Sequence[ArrayLike], *, shrink: bool = False, batch_parallel: bool = False
    ) -> NDArray[np.float32]:
        """Compute the token vectors of texts, padded to the longest.

        :param texts: B times token ids, special tokens included; at least one text.
        :param shrink: see Session.run.
        :param batch_parallel: see Session.run.
        :return: [B, L, hidden_size] float32; rows of padding hold anything.
        :raises JinaBertError: see Session.run.
        """
        ids, mask = batching.pad(texts, self.tokenizer.pad_id)
        return self.session.run(ids, mask, shrink=shrink, batch_parallel=batch_parallel)

    def for_each_batch(
        self,
        lengths: Sequence[int],
        work: Callable[[list[int], bool, bool], None],
        *,
        batch_tokens: int = batching.BATCH_TOKENS,
        batch_size: int | None = None,
    ) -> None:
        """Put texts into batches, longest texts first, and have each computed; where there are many, several at once.

        :param lengths: tokens of each text.
        :param work: called with the numbers of a batch's texts, the longest first, and with what Session.run calls
            shrink and batch_parallel; from several threads.
        :param batch_tokens: budget of a batch, see batching.plan.
        :param batch_size: most texts in a batch; None for no limit.
        :raises Exception: what work raised.
        """
        threads, max_dense_tokens = self.session.threads, self.manifest.max_dense_tokens
        several = threads > 1 and sum(lengths) >= PARALLEL_TOKENS
        if several:
            batch_tokens = min(batch_tokens, batching.PARALLEL_BATCH_TOKENS)
        plan = batching.plan(
            lengths, batch_tokens=batch_tokens, batch_size=batch_size, max_dense_tokens=max_dense_tokens
        )

        def run(number: int, batch_parallel: bool = False) -> None:
            work(plan[number], number == len(plan) - 1 >= SHRINK_BATCHES - 1, batch_parallel)

        # Blockwise texts take all threads, and the last batch gives memory back when the others are done with it.
        first = sum(max_dense_tokens is not None and lengths[batch[0]] > max_dense_tokens for batch in plan)
        end = max(first, len(plan) - 1)
        several = several and end - first >= PARALLEL_BATCHES * threads
        for number in range(first if several else len(plan)):
            run(number)
        if several:
            self.session.open_single_thread_session()
            try:
                batching.run_parallel(
                    lambda number: run(first + number, batch_parallel=True), end - first, threads
                )
            finally:
                self.session.close_single_thread_session()
            run(end)

    def embed_batch(
        self,
        texts: Sequence[NDArray[np.int32] | list[int]],
        *,
        normalize: bool | Sequence[bool] = True,
        skip: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        shrink: bool = False,
        batch_parallel: bool = False,
    ) -> NDArray[np.float32]:
        """Compute one vector a text, bit-identical whatever else is in the batch.

        :param texts: B times token ids, special tokens included; at least one text. Texts with more than the
            manifest's max_dense_tokens come alone.
        :param normalize: give vectors of Euclidean length 1; for all, or B times.
        :param skip: B times how many tokens at a text's start pooling leaves out, see prompts.skipped_tokens.
        :param numbers: what error messages call the texts; None for 0 to B - 1.
        :param shrink: see Session.run.
        :param batch_parallel: see Session.run.
        :return: [B, D] float32.
        :raises OutputError: a vector is not finite; the message names the text.
        :raises JinaBertError: see Session.run.
        """
        hidden = self.run(texts, shrink=shrink, batch_parallel=batch_parallel)
        return self.pool(
            hidden, [len(text) for text in texts], normalize=normalize, skip=skip, numbers=numbers
        )

    def reduce_batch(
        self,
        texts: Sequence[NDArray[np.int32]],
        reduce: Sequence[Reduce | None],
        *,
        normalize: bool | Sequence[bool] = True,
        skip: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        shrink: bool = False,
        batch_parallel: bool = False,
    ) -> list[NDArray[np.float32]]:
        """Compute what each text is wanted for: its vector, or what a function makes of its token vectors.

        :param texts: see embed_batch.
        :param reduce: B times such a function; None for the vector.
        :param normalize: see embed_batch.
        :param skip: see embed_batch.
        :param numbers: see embed_batch.
        :param shrink: see Session.run.
        :param batch_parallel: see Session.run.
        :return: B results.
        :raises OutputError: a vector is not finite; the message names the text.
        :raises JinaBertError: see Session.run.
        """
        hidden = self.run(texts, shrink=shrink, batch_parallel=batch_parallel)
        lengths = [len(text) for text in texts]
        vectors = self.pool(hidden, lengths, normalize=normalize, skip=skip, numbers=numbers)
        return [
            vectors[row] if own is None else own(self, texts[row], hidden[row, : lengths[row]], vectors[row])
            for row, own in enumerate(reduce)
        ]

    def pool(
        self,
        hidden: NDArray[np.float32],
        lengths: Sequence[int],
        *,
        normalize: bool | Sequence[bool] = True,
        skip: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Make one vector a text of its token vectors.

        :param hidden: [B, L, hidden_size], what run gave.
        :param lengths: B times the tokens of a text.
        :param normalize: see embed_batch.
        :param skip: see embed_batch.
        :param numbers: see embed_batch.
        :return: [B, D] float32.
        :raises OutputError: a vector is not finite; the message names the text.
        """
        pooled = pooling.pool(
            hidden, np.array(lengths, np.int64), self.manifest.pooling, skip or [0] * len(lengths)
        )
        vectors = pooling.normalize(modules.apply(self.modules, pooled), normalize)
        pooling.check_finite(vectors, "texts", range(len(lengths)) if numbers is None else numbers)
        return vectors

    def embed_ranges(
        self,
        ids: Sequence[int],
        ranges: Sequence[tuple[int, int]],
        *,
        max_length: int,
        normalize: bool = True,
    ) -> NDArray[np.float32]:
        """Compute one vector a range of a text's tokens, each with the whole text as its context.

        :param ids: token ids of one text of any length, special tokens included.
        :param ranges: n pairs (first, end) of indices into ids, first < end; they may overlap.
        :param max_length: most tokens of one run; a longer text goes through overlapping windows, see
            batching.windows.
        :param normalize: give vectors of Euclidean length 1.
        :return: [n, D] float32.
        :raises OutputError: a vector is not finite; the message names the range.
        :raises JinaBertError: see Session.run.
        """
        before, after = len(self.tokenizer.prefix), len(self.tokenizer.suffix)
        own_end = len(ids) - after
        pools = [pooling.Pooling(self.manifest.pooling) for _ in ranges]
        for start, first, end in batching.windows(len(ids), max_length, before, after):
            stop = min(start + max_length - before - after, own_end)
            (hidden,) = self.run([[*ids[:before], *ids[start:stop], *ids[own_end:]]])
            shift = before - start  # token n of the text is row n + shift of the window
            with np.errstate(over="ignore", invalid="ignore"):  # found by check_finite
                for pool, (left, right) in zip(pools, ranges, strict=True):
                    left, right = max(left, first), min(right, end)
                    if left < right:
                        pool.add(hidden[left + shift : right + shift], left)
        pooled = np.array([pool.vector() for pool in pools])
        vectors = pooling.normalize(modules.apply(self.modules, pooled), normalize)
        pooling.check_finite(vectors, "chunks", range(len(ranges)))
        return vectors

    def embed_tokens(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Compute the vector of each token of one text.

        :param ids: T token ids, special tokens included.
        :return: [T, hidden_size] float32, not normalised.
        :raises OutputError: a vector is not finite; the message names the token.
        :raises JinaBertError: see Session.run.
        """
        vectors: NDArray[np.float32] = self.run([ids])[0]
        pooling.check_finite(vectors, "token", range(len(ids)))
        return vectors

    def array(self, name: str) -> NDArray[Any] | None:
        """Read an array that the model folder may have, once.

        :param name: of its file in numpy's format.
        :return: the array, read-only; None if the manifest lists no such file.
        :raises ModelError: the file holds no array.
        """
        if name not in self._arrays:
            path = os.path.join(self.folder, name)
            array = None
            if name in self.manifest.files:
                try:
                    array = np.load(path, allow_pickle=False)
                except (OSError, ValueError, EOFError) as error:
                    raise ModelError(f"{path}: holds no array ({error}): export the model again") from None
                array.flags.writeable = False
            self._arrays[name] = array
        return self._arrays[name]

    def warmup(self, tokens: int) -> None:
        """Run once, so that the first real text finds memory allocated and pages read.

        :param tokens: length of the run.
        """
        self.session.pack()
        self.run([[self.tokenizer.pad_id] * tokens])

    def close(self) -> None:
        """Free the graph. Using the model afterwards raises JinaBertError."""
        self.session.close()


def load_model(
    folder: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    verify: bool = False,
    task: str | None = "embed",
) -> Model:
    """Load a model folder: check its files, read the vocabulary, open the graph.

    :param folder: model folder made by `python -m export`; None for the bundled model.
    :param threads: threads that one run computes with, at most those that can help (with a warning); None for as many
        CPU cores as this process may use.
    :param verify: compare the SHA-256 of each file too, not only its size and checksum.
    :param task: of manifest.TASKS: what the model is wanted for; None for any.
    :raises ModelError: the folder or a file in it is missing, damaged or of another kind, or is for another task.
    :raises OutOfMemoryError: onnxruntime could not allocate.
    :raises TypeError: folder is no path.
    """
    folder = model_folder(folder)
    manifest = load_manifest(folder)
    if task is not None and manifest.task != task:
        raise ModelError(
            f"{folder}: a cross-encoder, which scores pairs of texts and gives no vectors: use Reranker({folder!r})"
            if task == "embed"
            else f"{folder}: an embedding model, not a cross-encoder: use Embedder({folder!r}).rerank"
        )
    # The weights are compared while onnxruntime opens the graph: neither holds the interpreter's lock. What is to be
    # verified is verified before anything reads it.
    beside = MODEL_DATA if MODEL_DATA in manifest.files and not verify else None
    check_files(folder, manifest, verify, but_content=beside)
    if threads is None:
        threads = default_threads()
    elif threads > (most := most_threads()):
        import warnings

        warnings.warn(f"threads={threads}: more than {most} do not help here: {most} are used", stacklevel=3)
        threads = most
    parts: list[Any] = [None, None]

    def load(part: int) -> None:
        parts[part] = (
            Session(folder, manifest, threads, pack=False) if part else _read(folder, manifest, beside)
        )

    batching.run_parallel(load, 2, min(threads, 2))  # of two errors the first part's: why onnxruntime failed
    (tokenizer, arrays), session = parts
    return Model(folder, manifest, tokenizer, session, arrays)


def _read(
    folder: str, manifest: Manifest, unchecked: str | None
) -> tuple[Tokenizer, tuple[modules.Module, ...]]:
    """Read everything but the graph.

    :param unchecked: a file whose content is to be compared first; None for none.
    """
    if unchecked is not None:
        check_content(folder, manifest, unchecked)
    tokenizer = load_tokenizer(folder, manifest.tokenizer, manifest.vocabulary)
    if len(tokenizer) > manifest.vocabulary:
        file = tokenizer_file(manifest.tokenizer["type"])
        raise ModelError(
            f"{os.path.join(folder, file)}: {len(tokenizer):,} tokens where the model has {manifest.vocabulary:,}: "
            f"it belongs to another model; put the right {file} there"
        )
    return tokenizer, modules.load_arrays(folder, manifest.modules)
