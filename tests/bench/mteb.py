"""A model folder under MTEB, for anyone with a network: ``python -m tests.bench.mteb MODEL --tasks STSBenchmark``.

Needs ``pip install "mteb>=2"`` (torch comes with it), which fetches the data of a task when that is first run. In a
program: ``mteb.evaluate(MTEBModel("models/NAME"), mteb.get_tasks(tasks=["STSBenchmark"]))``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime import Embedder
from runtime.errors import JinaBertError

if TYPE_CHECKING:
    import torch
    from mteb.models.model_meta import ModelMeta

__all__ = ["MTEBModel", "main"]

INSTALL = 'MTEB is not installed: pip install "mteb>=2"'


class MTEBModel:
    """What mteb 2 calls an encoder (mteb.models.EncoderProtocol): it hands over batches of texts and wants vectors."""

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,
        *,
        device: str | None = None,
        threads: int | None = None,
        **_: Any,
    ) -> None:
        """Load a model folder.

        :param model_name: the model folder; None for the bundled model.
        :param revision: not used: a folder has one.
        :param device: not used: it runs on the CPU.
        :param threads: as in Embedder.
        :raises ModelError: the folder cannot be loaded.
        """
        self._embedder = Embedder(model_name, threads=threads)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_: Any,
    ) -> NDArray[np.float32]:
        """The model has no prompts: queries, documents and sentences are encoded alike.

        :param inputs: batches; ``text`` of each is a list of texts. A document's title is in its text already.
        :param task_metadata: not used, like the rest; batches are made by the runtime, not of `batch_size`.
        :param hf_split: not used.
        :param hf_subset: not used.
        :param prompt_type: not used.
        :return: [n, D] float32 of length 1, in the order given.
        """
        # All at once: the runtime sorts by length, which a batch of 32 leaves no room for.
        return self._embedder.encode([text for batch in inputs for text in batch["text"]])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines of all pairs, [n, m]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines of the pairs that stand beside each other, [n]."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Under which name and revision results are kept: the model's, and the checksum of its manifest."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        manifest = self._embedder.manifest
        return ModelMeta.create_empty(
            {
                "name": f"jinabert-runtime/{manifest.name}-{manifest.precision}",
                "revision": str(manifest.document["checksum"]),
                "max_tokens": manifest.max_tokens,
                "embed_dim": manifest.dimension,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["ONNX"],
                "use_instructions": False,
            }
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: the exit code: 0; 1 if a task failed, for want of its data for example; 2 if asked for what there is not.
    """
    options = _parser().parse_args(argv)
    try:
        import mteb
    except ImportError:
        return _fail(INSTALL, 2)
    try:
        model = MTEBModel(options.model, threads=options.threads)
        tasks = [*mteb.get_tasks(tasks=options.tasks, languages=["eng"])] if options.tasks else []
        for name in options.benchmark:
            tasks += mteb.get_benchmark(name).tasks
    except (JinaBertError, KeyError, ValueError) as error:
        return _fail(str(error.args[0]) if error.args else str(error), 2)
    if not tasks:
        return _fail("no task: name some with --tasks, or a set of them with --benchmark", 2)
    cache = mteb.ResultCache(options.output) if options.output else mteb.ResultCache()
    code = 0
    width = max(len(task.metadata.name) for task in tasks)
    for task in tasks:
        try:
            (result,) = mteb.evaluate(model, task, cache=cache, co2_tracker=False).task_results
        except Exception as error:  # a data set that cannot be fetched or read raises anything
            reason = " ".join(str(error).split())
            code = _fail(f"{task.metadata.name}: {type(error).__name__}: {reason}", 1)
            continue
        print(f"{task.metadata.name:{width}}  {100 * result.get_score():6.2f}", flush=True)
    print(f"results: {cache.cache_path}")
    return code


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m tests.bench.mteb",
        description="Run MTEB tasks on a model folder and print each task's main score x 100.",
        epilog="example: python -m tests.bench.mteb models/NAME --tasks STSBenchmark SICK-R --output results\n"
        '         python -m tests.bench.mteb --benchmark "MTEB(eng, v2)"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "model", metavar="MODEL", nargs="?", help="model folder (default: the bundled model)"
    )
    options.add_argument(
        "--tasks", metavar="T", nargs="+", default=[], help="names of tasks, as mteb lists them"
    )
    options.add_argument(
        "--benchmark", metavar="B", action="append", default=[], help="all tasks of a benchmark; repeatable"
    )
    options.add_argument("--output", metavar="DIR", type=Path, help="for results (default: mteb's own cache)")
    options.add_argument("--threads", metavar="N", type=int, help="default: as the runtime chooses")
    return options


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"python -m tests.bench.mteb: {message}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
