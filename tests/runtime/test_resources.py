"""Threads under affinity and cgroup quotas, on made-up file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import resources


def system(root: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return str(root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "rubbish\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ({"proc/self/cgroup": "no colons here\n\n"}, None),
    ],
)
def test_quota_is_the_tightest_of_the_groups(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    assert resources.cpu_quota(system(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("quota", "cores", "expected"),
    [
        ("20000", 8, 1),
        ("140000", 8, 1),
        ("150000", 8, 2),
        ("400000", 8, 4),
        ("400000", 2, 2),
        ("max", 6, 6),
        ("max", 192, 16),
    ],
)
def test_default_respects_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    root = system(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert resources.default_threads(root) == expected


@pytest.mark.parametrize(
    ("memory", "expected"), [("128", 1), ("1769", 1), ("2654", 2), ("10240", 6), ("", 8)]
)
def test_default_on_lambda_follows_the_memory_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert resources.default_threads(str(tmp_path)) == expected
    assert resources.may_spin(str(tmp_path)) == (memory == "")


def test_no_spinning_under_a_quota(tmp_path: Path) -> None:
    root = system(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert not resources.may_spin(root)
    assert resources.may_spin(system(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"}))


def test_default_here_is_a_number_of_cores() -> None:
    assert 1 <= resources.default_threads() <= (os.cpu_count() or 1)
