"""Small functions: peak memory by length of text next to budget.py's estimate, the longest text of each memory
size, and what one thread takes for a text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from runtime.api import budget
from runtime.manifest import load_manifest
from runtime.resources import LAMBDA_BYTES, MEGABYTE
from tests import cgroups
from tests.bench.environments import python_of
from tests.bench.harness import environment
from tests.bench.report import Result, Table, figure
from tests.bench.settings import Settings

__all__ = ["memory_sizes"]

LENGTHS = (16, 64, 128, 256, 512, 768, 1024, 1025, 1536, 2048, 3072, 4096, 6144, 8192)
SIZES_MB = (128, 160, 192, 224, 256, 320, 512)


# A process as a function has it: the handler, one text. The peak is that of the request alone.
CODE = """
import json, statistics, sys, time
from runtime.handlers import handle, service
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
tokens, times = int(sys.argv[1]), int(sys.argv[2])
loaded, seconds = field("VmRSS:"), []
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
for _ in range(times):
    start = time.perf_counter()
    answer = handle({"input": "word " * (tokens - 2), "encoding_format": "base64"})
    seconds.append(time.perf_counter() - start)
print(json.dumps({
    "loaded": loaded, "peak": field("VmHWM:"), "seconds": statistics.median(seconds), "longest": service.longest(4096),
    "tokens": answer.get("usage", {}).get("total_tokens"),
}))
"""


def memory_sizes(settings: Settings) -> Result:
    """Return tables of memory and of one thread's latency."""
    result = Result("memory")
    python = python_of("plain")
    manifest = load_manifest(settings.artifacts.model)
    lengths = LENGTHS[:4] if settings.quick else LENGTHS

    def run(
        tokens: int, times: int = 1, enter: Callable[[], None] | None = None, **variables: str
    ) -> dict[str, Any] | int:
        """Return what CODE prints, or the exit code."""
        done = subprocess.run(
            [python, "-c", CODE, str(tokens), str(times)],
            env=environment(1)
            | {"JINABERT_THREADS": "1", "JINABERT_MODEL": str(settings.artifacts.model)}
            | variables,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=enter,
        )
        if done.returncode == 0:
            document: dict[str, Any] = json.loads(done.stdout)
            return document
        if not cgroups.killed(done.returncode) and "MemoryError" not in done.stderr:
            sys.stderr.write(done.stderr)
        return done.returncode

    table = Table(
        "Memory of a process that embeds one text, one thread, in MB",
        ["tokens", "loaded", "peak", "peak less loaded", "estimate of that", "median time"],
        rows := [],
    )
    peaks = []
    for tokens in lengths:
        times = 1 if settings.quick or tokens > 2048 else 5
        found = run(tokens, times, JINABERT_MEMORY_MB="0")
        assert not isinstance(found, int)
        more, estimate = (
            found["peak"] - found["loaded"],
            budget.run_bytes(tokens, manifest) + budget.SPARE_BYTES,
        )
        peaks.append({"tokens": tokens, **found, "estimate": estimate})
        megabytes = [f"{value / MEGABYTE:.0f}" for value in (found["loaded"], found["peak"], more, estimate)]
        rows.append([f"{tokens:,}", *megabytes, figure(found["seconds"] * 1000, "ms")])
    result.tables.append(table)
    result.data["peaks"] = peaks

    reason = cgroups.missing("memory")
    head = [
        "memory size",
        "longest text on Lambda",
        "longest text in a cgroup",
        "longest that survives there",
    ]
    result.tables.append(Table("The longest text by memory size, in tokens", head, rows := []))
    for size in SIZES_MB[4:5] if settings.quick else SIZES_MB:
        on_lambda = run(3, AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(size))
        row = [f"{size} MB", "-" if isinstance(on_lambda, int) else f"{on_lambda['longest']:,}"]
        if reason is None:
            with cgroups.group("memory", size * MEGABYTE) as group:
                enter = cgroups.enter(group)
                inside = run(3, enter=enter)
                survives = 0
                for tokens in lengths:
                    if isinstance(run(tokens, enter=enter, JINABERT_MEMORY_MB="0"), int):
                        break
                    survives = tokens
            row += ["-" if isinstance(inside, int) else f"{inside['longest']:,}", f"{survives:,}"]
        else:
            row += ["", ""]
        rows.append(row)
    result.notes.append(
        "Longest text: a longer one is answered with 413. On Lambda: AWS_LAMBDA_FUNCTION_MEMORY_SIZE, of which "
        f"{LAMBDA_BYTES >> 20} MB are taken to be Lambda's own."
    )
    result.notes.append(
        reason
        or "Longest that survives: without the handler's limit, of the lengths in the first table, all shorter too."
    )
    return result
