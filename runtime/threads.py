"""How many threads to compute with: the processors that this process may really use.

onnxruntime left alone counts the machine's cores, whatever a container was given.
"""

from __future__ import annotations

import os

MAX_DEFAULT_THREADS = 16  # more do not help a model of this size on one text; ask with threads=N
LAMBDA_PROCESSOR_MB = 1769  # memory size at which a function has one processor, says AWS


def default_threads(root: str = "/") -> int:
    """Processors in this process's affinity mask, at most its cgroup quota and MAX_DEFAULT_THREADS.

    A quota is rounded to the nearest whole number, and is at least 1: rounding 1.5 down wastes a third of it,
    rounding 1.2 up gets the process stopped for part of each period. On Lambda the quota follows from the
    function's memory size.

    :param root: folder that stands for the root of the file system (tests pass another one).
    :return: number of threads, at least 1.
    """
    count = _affinity()
    quota = _quota(root)
    if quota is not None:
        count = min(count, max(1, int(quota + 0.5)))
    return max(1, min(count, MAX_DEFAULT_THREADS))


def spins(root: str = "/") -> bool:
    """Whether threads that wait for work may spin: only where no quota counts the processor time they burn.

    With 2 threads, queries of 14 tokens and 10 ms between them, under a quota of half a processor spinning
    takes 18 ms of processor time a query instead of 5, and the 95th percentile is 70 ms instead of 7, since the
    process is stopped for most of each period; under 1.5 processors it is 15 ms instead of 4, and 8 instead of 6.
    Without a quota spinning saves the time in which a thread wakes up.

    :param root: folder that stands for the root of the file system.
    """
    return _quota(root) is None


def _quota(root: str) -> float | None:
    quotas = [quota for quota in (cgroup_quota(root), lambda_quota()) if quota is not None]
    return min(quotas, default=None)


def lambda_quota() -> float | None:
    """Processors' worth of time that AWS Lambda gives a function of this memory size; None elsewhere."""
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(size) / LAMBDA_PROCESSOR_MB if size.isdecimal() and int(size) else None


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 1


def cgroup_quota(root: str = "/") -> float | None:
    """Processors' worth of time that cgroups v1 or v2 allow this process, the tightest of its ancestors'
    quotas.

    :param root: folder that stands for the root of the file system.
    :return: processors (may be fractional), or None where nothing limits them.
    """
    groups = _read(os.path.join(root, "proc/self/cgroup"))
    if groups is None:
        return None
    quotas = []
    for line in groups.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mounts, quota_of = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, quota_of = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"], _quota_v1
        else:
            continue
        # Inside a container the path may name the host's view: its ancestors down to the mount are tried all
        # the same.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                quota = quota_of(os.path.join(root, mount, *parts[:depth]))
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: str) -> float | None:
    words = (_read(os.path.join(folder, "cpu.max")) or "").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: str) -> float | None:
    quota, period = (_read(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _ratio(quota, period) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    try:
        value = int(quota) / int(period)  # "max" and -1 mean no limit
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None
