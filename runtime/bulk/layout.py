"""How many processes, with how many threads each.

A process for each two CPU cores, with two threads that share the weights, measures best (`python -m tests.bench bulk`).
Where memory has no room for all, fewer processes have more threads, and fewer long texts are computed at once.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from runtime.api import budget
from runtime.errors import InputError
from runtime.resources import MAX_DEFAULT_THREADS, cpu_cores, memory_limit

if TYPE_CHECKING:
    from runtime.manifest import Manifest

PROCESS_BYTES = 160 << 20  # Python, numpy, pyarrow, onnxruntime and a unit of rows
THREADS = 2  # of a process, see above
MOST_EACH = 4  # processes for each CPU core; more only take memory


class Layout(NamedTuple):
    """How a job runs; nothing of it changes the output."""

    processes: int
    threads: int  # of each
    long_texts: int  # that each computes at once


def choose(
    processes: int | None, threads: int | None, manifest: Manifest, max_length: int, root: str = "/"
) -> Layout:
    """Processes and threads where they are not given: together as many as CPU cores, as far as memory allows.

    :param processes: as given; None to choose.
    :param threads: of each, as given; None to choose.
    :param manifest: of the model.
    :param max_length: tokens of the longest text.
    :param root: folder that stands for the root of the file system (tests pass another one).
    :raises InputError: more than can help.
    """
    cores = cpu_cores(root)
    for name, value in (("processes", processes), ("threads", threads)):
        if value is not None and not 1 <= value <= max(16, MOST_EACH * cores):
            raise InputError(
                f"--{name} {value}: must be 1 to {max(16, MOST_EACH * cores)}: there are {cores} CPU cores"
            )
    if threads is None:
        share = processes or max(1, cores // THREADS)
        threads = max(1, min(cores // share, MAX_DEFAULT_THREADS))
    free = _memory(root)
    short = budget.run_bytes(min(max_length, manifest.max_dense_tokens or max_length), manifest)
    base, long = PROCESS_BYTES + budget.model_bytes(manifest), budget.run_bytes(max_length, manifest)
    if processes is None:
        processes = max(1, cores // threads)
        if free is not None:  # the parent is one more, without a model
            fit = max(1, (free - PROCESS_BYTES) // (base + (threads - 1) * short + long))
            if fit < processes:
                processes, threads = fit, max(threads, min(cores // fit, MAX_DEFAULT_THREADS))
    several = threads
    if free is not None and long > short:
        room = (free - PROCESS_BYTES) // processes - base - threads * short
        several = max(1, min(threads, room // (long - short)))
    return Layout(processes, threads, several)


def _memory(root: str) -> int | None:
    limits = [memory_limit(root)]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not to be told here
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit is not None), default=None)
