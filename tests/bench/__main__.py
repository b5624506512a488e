"""``python -m tests.bench NAME``: how fast, next to whom, and next to what the CPU allows."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.shapes import SHAPES
from tests.paths import SHARED

if TYPE_CHECKING:
    from tests.bench.report import Result
    from tests.bench.settings import Settings

# Name -> module, function, what it measures
BENCHMARKS = {
    "throughput": (
        "throughput",
        "throughput",
        "many texts, few texts, one query; the products alone beside them",
    ),
    "cold-start": ("cold_start", "cold_start", "a process that makes one vector; its phases; its memory"),
    "long": ("long", "long", "time and peak memory from 128 to 100,000 tokens, and what comes back"),
    "dimensions": ("dimensions", "dimensions", "vectors cut to fewer dimensions: float32, int8 and binary"),
    "documents": (
        "documents",
        "documents",
        "retrieval of whole stories and meetings by length, next to passages",
    ),
    "passkey": ("passkey", "passkey", "retrieval from long documents: truncated at 512 tokens and whole"),
    "quality": ("quality", "quality", "similarity of sentences and retrieval, next to peers; the targets"),
    "rag": ("rag", "rag", "retrieval end to end: chunks, late chunks and whole documents in a vector store"),
    "rerank": ("rerank", "rerank", "reranking by token vectors, beside BM25 and hybrid search; its costs"),
    "rerankers": (
        "rerankers",
        "rerankers",
        "cross-encoders beside fastembed's and sentence-transformers'; long documents by token vectors",
    ),
    "overhead": ("overhead", "overhead", "encode outside the session, several threads, a large corpus"),
    "bulk": ("bulk", "bulk", "bulk jobs: processes times threads, beside a plain encode"),
    "bulk-peer": (
        "bulk_scale",
        "bulk_peer",
        "bulk jobs beside datasets.map with fastembed and Ray Data with sentence-transformers",
    ),
    "bulk-scale": ("bulk_scale", "bulk_scale", "bulk jobs: a minute of work, many files, many rows"),
    "memory": ("memory", "memory_sizes", "small functions: peak by length, the longest text by memory size"),
    "serve": ("serve", "serve", "the HTTP service: beside encode; queries beside a document of 8192 tokens"),
}

# These judge the bundled model as it is; the others compare exports of one checkpoint, which need not be its own.
OF_THE_BUNDLED = {
    "dimensions",
    "documents",
    "quality",
    "rag",
    "rerank",
    "rerankers",
    "serve",
    "bulk",
    "bulk-scale",
    "memory",
}

EXAMPLES = """\
examples:
  python -m tests.bench throughput --case stsb --rounds 3
  python -m tests.bench throughput --shape base --rounds 3
  python -m tests.bench quality --systems int8,minilm --sets stsb_test,cranfield
  python -m tests.bench data && python -m tests.bench documents
  python -m tests.bench all --output ~/figures

Peers live in virtual environments that are made when first needed, under ~/.cache/jinabert-bench, as do the
exports they run. Let the machine do nothing else: what other processes disturb is measured again and marked.
python -m tests.bench.tokenizer measures the tokenizer.
"""


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Benchmarks against peers and against the limit, on the same weights, texts and threads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    names = "\n".join(f"{name}: {what}" for name, (_, _, what) in BENCHMARKS.items())
    options.add_argument(
        "name",
        metavar="NAME",
        choices=[*BENCHMARKS, "all", "data"],
        help=f"one of\n{names}\nall: each of them\ndata: fetches text",
    )
    options.add_argument(
        "--output", metavar="DIR", type=Path, help="JSON and plots (default: the cache folder)"
    )
    options.add_argument("--rounds", metavar="N", type=int, default=5, help="turns of each peer (default: 5)")
    options.add_argument(
        "--threads", metavar="N", type=int, help="of every peer (default: as the runtime chooses)"
    )
    options.add_argument(
        "--model",
        metavar="DIR",
        type=Path,
        help="model folder (default: the bundled one where it is judged alone, an export of the checkpoint elsewhere)",
    )
    options.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        default=SHARED / "model" / "jinabert-small-distilled",
        help="what the model was exported from (default: ../shared/model/jinabert-small-distilled)",
    )
    options.add_argument(
        "--shape",
        choices=SHAPES,
        help="a checkpoint with seeded weights of that shape, made on the spot, instead of --checkpoint",
    )
    for names, what in ((("--peer", "--systems"), "peers"), (("--case", "--sets"), "cases")):
        options.add_argument(
            *names,
            metavar="NAME",
            dest=what,
            type=lambda text: text.split(","),
            action="extend",
            default=[],
            help=f"only these {what}: separated by commas, or repeated",
        )
    options.add_argument(
        "--teacher",
        metavar="DIR",
        type=Path,
        help="of quality: an unpacked all-mpnet-base-v2, to stand beside",
    )
    options.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: the exit code: 0, 1 if a target was missed, or 2 if something is missing.
    """
    options = parser().parse_args(argv)
    if options.name == "data":
        from tests.bench import sources

        try:
            sources.fetch()
        except sources.SourceError as error:
            sys.stderr.write(f"python -m tests.bench data: {error}\n")
            return 2
        return 0
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from runtime.bundled import bundled_model
    from runtime.errors import ModelError
    from runtime.resources import default_threads
    from tests.bench import environments, report
    from tests.bench.artifacts import Artifacts, CheckpointError
    from tests.bench.harness import machine
    from tests.bench.settings import Settings, SettingsError
    from tests.bench.shapes import seeded_checkpoint

    if options.shape:
        options.checkpoint = seeded_checkpoint(options.shape)
    folder = options.output or environments.CACHE / "results"
    names = list(BENCHMARKS) if options.name == "all" else [options.name]
    passed = True
    threads = options.threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="jinabert-bench-") as work:
        about = machine(threads)
        for name in names:
            module, function, _ = BENCHMARKS[name]
            measure: Callable[[Settings], Result] = getattr(import_module(f"tests.bench.{module}"), function)
            start = time.perf_counter()
            try:
                own = name in OF_THE_BUNDLED and not options.shape
                model = options.model or (Path(bundled_model()) if own else None)
                settings = Settings(
                    artifacts=Artifacts(options.checkpoint, model),
                    threads=threads,
                    rounds=options.rounds,
                    folder=Path(work),
                    quick=options.quick,
                    only=frozenset(options.peers),
                    cases=frozenset(options.cases),
                    teacher=options.teacher,
                )
                result = measure(settings)
            except (SettingsError, CheckpointError, ModelError) as error:
                sys.stderr.write(f"python -m tests.bench {name}: {error}\n")
                return 2
            passed = passed and result.passed
            result.data |= {"machine": about, "seconds": time.perf_counter() - start, "quick": options.quick}
            report.show(result)
            print("wrote", *report.write(result, folder), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
