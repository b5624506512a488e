"""Worker processes, and how their runs are timed: by turns, medians, nothing counted while others computed.

A worker (worker.py) holds one peer in a process of its own. The harness asks each worker for one block of runs a
round, so that a slow minute of the machine hits all of them, and compares medians. A block during which other
processes used more than DISTURBED of the machine is measured again, MOST_REPEATS times at most; what stays disturbed is
counted and shown. Workers have the highest priority where that is allowed.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.paths import ROOT

__all__ = [
    "Block",
    "Finished",
    "Spent",
    "Timing",
    "Worker",
    "WorkerError",
    "block",
    "environment",
    "finish",
    "interleave",
    "machine",
    "others",
    "prioritise",
]

TICK = os.sysconf("SC_CLK_TCK")
DISTURBED = 0.1  # of the time of all CPU cores, used by others
MOST_REPEATS = 4
MOST_REPEATED_SECONDS = 5.0  # a longer block is not measured again
PATIENCE = 0.3  # seconds between two tries


class WorkerError(Exception):
    """A worker could not do what it was asked; the message is one line."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment of every process that is measured: the same threads, no telemetry, no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "RAYON_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def prioritise() -> None:
    """Give this process the highest priority, if it may; it is the first of a new session."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        # Where Linux groups processes by session, priorities count within a session alone, and groups have their own.
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write("-20")


class Worker:
    """A peer in a process of its own, which answers one JSON line to each JSON line."""

    def __init__(self, name: str, python: str, peer: str, options: Mapping[str, Any]) -> None:
        """Start it; the peer is loaded when this returns.

        :param name: for messages and tables.
        :param python: interpreter, of the peer's own virtual environment where it has one.
        :param peer: key of peers.PEERS.
        :param options: keyword arguments of the peer; `threads` among them.
        :raises WorkerError: the peer cannot be loaded.
        """
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", "tests.bench.worker", peer, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(int(options.get("threads", 1))),
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=prioritise,
        )
        self.pid = self._process.pid
        try:
            self.loaded = self._answer()
        except WorkerError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask the worker.

        :return: The worker's answer.
        :raises WorkerError: it failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.stderr.read().strip().splitlines()
            code = self._process.wait()
            raise WorkerError(f"{self.name}: ended with {code}: {errors[-1] if errors else 'no message'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Spent:
    """Processor time of the whole machine between two moments, and how much of it was not ours."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._start = time.perf_counter()
        self._busy, self._own = _busy(), sum(map(_used, pids))

    def others(self) -> float:
        """Return the share of the time of all CPU cores that others than `pids` used since the start."""
        seconds = time.perf_counter() - self._start
        others = (_busy() - self._busy) - (sum(map(_used, self._pids)) - self._own)
        # One tick a CPU core is how finely the kernel counts.
        cores = os.cpu_count() or 1
        return max(0.0, others - cores) / TICK / max(seconds, 1e-9) / cores


def others(seconds: float = 0.2) -> float:
    """Return the share of the time of all CPU cores that others use, measured now."""
    spent = Spent([os.getpid()])
    time.sleep(seconds)
    return spent.others()


def _busy() -> int:
    """Ticks in which the CPU cores did something, or were taken away by the hypervisor."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(None, 9)[1:9]
    )
    return user + nice + system + irq + softirq + steal


def _used(pid: int) -> int:
    """Ticks of a process, ended children included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


@dataclass
class Finished:
    """A process that has ended."""

    seconds: float  # from before it was made until after its end
    started: float  # time.time() before it was made
    cpu_seconds: float
    peak_bytes: int
    output: str
    others: float  # share of the machine that other processes used meanwhile


def finish(command: Sequence[str], threads: int) -> Finished:
    """Run a program to its end.

    :param command: its arguments; they write little.
    :param threads: what the environment says.
    :return: what it took.
    :raises WorkerError: it failed.
    """
    spent = Spent([os.getpid()])
    started, start = time.time(), time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(threads),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=prioritise,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    errors = process.stderr.read().strip()
    process.stdout.close()
    process.stderr.close()
    if process.returncode:
        raise WorkerError(f"{command[0]} ended with {process.returncode}: {errors[-2000:]}")
    return Finished(
        seconds, started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output, spent.others()
    )


@dataclass
class Block:
    """One worker's part of a round."""

    seconds: float  # of one run: the median of the block
    others: float  # share of the machine that other processes used meanwhile


@dataclass
class Timing:
    """All blocks of one worker on one case."""

    blocks: list[Block] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds; of the blocks that were not disturbed, if there are any."""
        calm = [block.seconds for block in self.blocks if block.others <= DISTURBED]
        return statistics.median(calm or [block.seconds for block in self.blocks])

    @property
    def disturbed(self) -> int:
        """Blocks that stayed disturbed."""
        return sum(block.others > DISTURBED for block in self.blocks)

    def document(self) -> dict[str, Any]:
        """Return the result as a document for JSON."""
        return {
            "median_s": self.median,
            "best_s": min(block.seconds for block in self.blocks),
            "blocks_s": [block.seconds for block in self.blocks],
            "disturbed": self.disturbed,
        }


def interleave(
    jobs: Mapping[str, tuple[Worker, dict[str, Any]]], *, rounds: int, slow_seconds: float = 5.0
) -> dict[str, Timing]:
    """Let the workers take turns.

    :param jobs: name -> worker and what to ask it; its answer holds `seconds` of one run.
    :param rounds: turns of each; one whose run takes more than slow_seconds has three at most.
    :param slow_seconds: see there.
    :return: name -> timing.
    """
    timings = {name: Timing() for name in jobs}
    for round_number in range(rounds):
        order = list(jobs)
        # Neighbours change, so that what a peer leaves in the caches does not always meet the same one.
        order = order[round_number % len(order) :] + order[: round_number % len(order)]
        for name in order:
            worker, request = jobs[name]
            timing = timings[name]
            if len(timing.blocks) >= 3 and timing.median > slow_seconds:
                continue
            timing.blocks.append(found := block(worker, request))
            note = f", {found.others:.0%} used by others" if found.others > DISTURBED else ""
            print(f"{name}: {found.seconds * 1000:,.2f} ms{note}", file=sys.stderr, flush=True)
    return timings


def block(worker: Worker, request: dict[str, Any]) -> Block:
    """Ask a worker for one block of runs, again while others disturb it.

    :param worker: who.
    :param request: see interleave.
    :return: the least disturbed of the tries.
    """
    best: Block | None = None
    for attempt in range(MOST_REPEATS):
        if attempt:
            time.sleep(PATIENCE)
        start, spent = time.perf_counter(), Spent([worker.pid, os.getpid()])
        answer = worker.ask(**request)
        found = Block(answer["seconds"], spent.others())
        if best is None or found.others < best.others:
            best = found
        if best.others <= DISTURBED or time.perf_counter() - start > MOST_REPEATED_SECONDS:
            break
    assert best is not None
    return best


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures were measured on."""
    flags = set(next(_cpu_lines("flags"), "").split())
    known = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    return {
        "processor": next(_cpu_lines("model name"), "unknown"),
        "instructions": " ".join(flag for flag in known if flag in flags) or "unknown",
        "L2 a core": cache.read_text(encoding="ascii").strip() if cache.exists() else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "onnxruntime": version("onnxruntime"),
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
    }


def _cpu_lines(key: str) -> Iterator[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            yield value.strip()
