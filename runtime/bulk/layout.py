"""How many processes, with how many threads each.

A process with one thread for each processor, since that measures best: on 2 processors `python -m tests.bench bulk`
found 0.94 of the rate of a plain encode with 2 processes, and 0.75 with one process of 2 threads, which wait for each
other at the end of each window of rows. More processors were not to be had: measure there, and set --processes and
--threads. What speaks for threads is memory, so they take over where processes no longer fit into it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from runtime.api import budget
from runtime.resources import MAX_DEFAULT_THREADS, cpu_quota, memory_limit

from .processes import Settings

if TYPE_CHECKING:
    from runtime.manifest import Manifest

DEFAULT_THREADS = 1  # of each process, see above
PROCESS_BYTES = 160 << 20  # Python, numpy, pyarrow, onnxruntime and a window of rows


def choose(
    processes: int | None, threads: int | None, manifest: Manifest, max_length: int, root: str = "/"
) -> Settings:
    """Processes and threads where they are not given: together as many as processors, as far as memory allows.

    :param processes: as given; None to choose.
    :param threads: of each, as given; None to choose.
    :param manifest: of the model.
    :param max_length: tokens of the longest text.
    :param root: folder that stands for the root of the file system (tests pass another one).
    """
    processors = _processors(root)
    if threads is None:
        threads = (
            DEFAULT_THREADS
            if processes is None
            else max(1, min(processors // processes, MAX_DEFAULT_THREADS))
        )
    if processes is None:
        processes = max(1, processors // threads)
        free = _memory(root)
        if free is not None:
            each = (
                PROCESS_BYTES + budget.model_bytes(manifest) + budget.run_bytes(max_length, manifest, threads)
            )
            fit = max(1, free // each - 1)  # the parent is one more, though without a model
            if fit < processes:
                processes, threads = fit, max(threads, min(processors // fit, MAX_DEFAULT_THREADS))
    return Settings(processes, threads)


def _processors(root: str) -> int:
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        count = os.cpu_count() or 1
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota + 0.5)))


def _memory(root: str) -> int | None:
    limits = [memory_limit(root)]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not to be told here
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit is not None), default=None)
