"""What this process may really use: CPU cores and memory.

Affinity, cgroups (v1 and v2) and, on AWS Lambda, the function's memory size say so.
onnxruntime left alone counts the machine's cores, whatever a container was given.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1 << 20
MAX_DEFAULT_THREADS = 16  # more do not help a model of this size on one text; ask with threads=N
LAMBDA_CORE_MB = 1769  # memory size at which a function has one CPU core, says AWS
LAMBDA_BYTES = 24 * MEGABYTE  # what Lambda's own processes take of a function's memory
NO_LIMIT = 1 << 60  # cgroups v1 says 2**63 less a page


def default_threads(root: str = "/") -> int:
    """Threads to compute with: CPU cores in the affinity mask, at most the quota and MAX_DEFAULT_THREADS.

    A quota is rounded to the nearest integer, and is at least 1: rounding 1.5 down wastes a third of it,
    rounding 1.2 up gets the process stopped for part of each period. On Lambda the quota follows from the
    function's memory size.

    :param root: folder that stands for the root of the file system (tests pass another one).
    :return: number of threads, at least 1.
    """
    return min(cpu_cores(root), MAX_DEFAULT_THREADS)


def cpu_cores(root: str = "/") -> int:
    """CPU cores that this process may use: see default_threads, without its limit."""
    quota = _quota(root)
    return max(1, _affinity() if quota is None else min(_affinity(), int(quota + 0.5)))


def most_threads() -> int:
    """Count the threads that can help: the CPU cores of the affinity mask, or MAX_DEFAULT_THREADS if these are fewer.

    Threads beyond the cores cost little as long as they are few; thousands of them cost gigabytes and minutes.
    """
    return max(_affinity(), MAX_DEFAULT_THREADS)


def may_spin(root: str = "/") -> bool:
    """Whether threads that wait for work may spin: only where no quota counts the CPU time they burn.

    With 2 threads, queries of 14 tokens and 10 ms between them, under a quota of half a CPU core spinning
    takes 18 ms of CPU time a query instead of 5, and the 95th percentile is 70 ms instead of 7, since the
    process is stopped for most of each period; under 1.5 cores it is 15 ms instead of 4, and 8 instead of 6.
    Without a quota spinning saves the time in which a thread wakes up.

    :param root: folder that stands for the root of the file system.
    """
    return _quota(root) is None


def cpu_quota(root: str = "/") -> float | None:
    """CPU time that cgroups allow this process, the tightest of its ancestors' quotas.

    :param root: folder that stands for the root of the file system.
    :return: CPU cores (may be fractional), or None where nothing limits them.
    """
    quotas = []
    for version, folder in _cgroups(root, "cpu"):
        if version == 2:
            words = (_read(os.path.join(folder, "cpu.max")) or "").split()
        else:
            words = [_read(os.path.join(folder, f"cpu.cfs_{name}_us")) or "" for name in ("quota", "period")]
        quota = _ratio(*words) if len(words) == 2 else None
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def memory_limit(root: str = "/") -> int | None:
    """Find the memory that this process may use.

    It is the least of its cgroups' limits and, on Lambda, of the function's memory size less what Lambda itself needs.

    :param root: folder that stands for the root of the file system.
    :return: bytes, or None where nothing limits it.
    """
    limits = []
    for version, folder in _cgroups(root, "memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        word = (_read(os.path.join(folder, name)) or "").strip()
        if word.isdecimal():  # "max" is no limit
            limits.append(int(word))
    megabytes = _lambda_megabytes()
    if megabytes:
        limits.append(megabytes * MEGABYTE - LAMBDA_BYTES)
    return min((value for value in limits if 0 < value < NO_LIMIT), default=None)


def rss_bytes(root: str = "/") -> int:
    """Resident set size of this process in bytes; 0 where that cannot be told."""
    for line in (_read(os.path.join(root, "proc/self/status")) or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _quota(root: str) -> float | None:
    megabytes = _lambda_megabytes()
    quotas = [cpu_quota(root), megabytes / LAMBDA_CORE_MB if megabytes else None]
    return min((quota for quota in quotas if quota is not None), default=None)


def _lambda_megabytes() -> int | None:
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(size) if size.isdecimal() else None


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 1


def _cgroups(root: str, controller: str) -> Iterator[tuple[int, str]]:
    """Version (1 or 2) and folder of each cgroup of this process, from its own up to the mount."""
    for line in (_read(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            version, mounts = 2, ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (f"sys/fs/cgroup/{controllers}", f"sys/fs/cgroup/{controller}")
        else:
            continue
        # Inside a container the path may name the host's view: its ancestors down to the mount are tried all
        # the same.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield version, os.path.join(root, mount, *parts[:depth])


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
