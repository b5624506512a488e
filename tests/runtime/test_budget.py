"""Limits of memory on made-up file systems, and what a text is taken to need."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import Embedder, resources
from runtime.api import budget
from tests.runtime.test_resources import system

MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}, 268435456),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "100\n",
                "sys/fs/cgroup/a/b/memory.max": "200\n",
            },
            100,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/x\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "300\n",
            },
            300,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "rubbish\n"}, None),
    ],
)
def test_limit_is_the_least_of_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    assert resources.memory_limit(system(tmp_path, files)) == expected


def test_limit_on_lambda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    assert resources.memory_limit(str(tmp_path)) == 512 * MEGABYTE - resources.LAMBDA_BYTES
    root = system(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n"})
    assert resources.memory_limit(root) == 1000


def test_rss_here_is_a_sensible_number(tmp_path: Path) -> None:
    assert 5 * MEGABYTE < resources.rss_bytes() < 1 << 40
    assert resources.rss_bytes(str(tmp_path)) == 0


def test_longer_texts_need_no_less() -> None:
    with Embedder(threads=1) as embedder:
        manifest = embedder.manifest
    needs = [budget.run_bytes(tokens, manifest) for tokens in range(1, 9000, 50)]
    assert needs == sorted(needs)
    for free in (0, MEGABYTE, 50 * MEGABYTE, 100 * MEGABYTE, 1 << 40):
        longest = budget.longest_text(free, 8192, manifest)
        assert budget.run_bytes(longest, manifest) <= free
        assert longest == 8192 or budget.run_bytes(longest + 1, manifest) > free
        assert budget.batch_tokens(free, manifest) >= budget.batch_tokens(free, manifest, 2) >= 1
        assert longest >= budget.longest_text(free, 8192, manifest, 2)


def test_threads_leave_room_for_long_texts() -> None:
    with Embedder(threads=1) as embedder:
        manifest = embedder.manifest._replace(max_dense_tokens=1024)
    loaded = resources.rss_bytes() + budget.model_bytes(manifest) + budget.LIBRARY_BYTES + budget.SPARE_BYTES
    one, three = (budget.run_bytes(8192, manifest, threads) for threads in (1, 3))
    counts = [
        budget.threads_for(loaded + free, 16, 8192, manifest)
        for free in (0, one + 8 * MEGABYTE, three + 8 * MEGABYTE, 10_000 * MEGABYTE)
    ]
    assert counts == sorted(counts)
    assert counts[:2] == [1, 1]
    assert 1 < counts[2] < counts[3] == 16
