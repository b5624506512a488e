"""CPU cores that long texts leave to short ones."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from runtime.serve import cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have cores of their own on Linux")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Where threads were moved last; nothing really is."""
    found: dict[int, list[int]] = {}
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: found.update({thread: sorted(cores)}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 2})
    return found


def test_a_core_is_left_as_long_as_short_texts_come(
    moved: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(cores.time, "monotonic", lambda: now)
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    own, stop = threading.get_native_id(), threading.Event()
    found = cores.Cores()
    with found.opening():
        helper = threading.Thread(target=stop.wait)
        helper.start()
    assert found.remaining() is None
    found.leave_one()
    assert moved == {own: [2, 3], helper.native_id: [2, 3]}
    assert found.remaining() == pytest.approx(cores.HOLD_SECONDS)
    now += 0.06
    found.leave_one()
    now += 0.06
    found.take_all()  # too soon
    assert moved[own] == [2, 3]
    now += 0.06
    assert found.remaining() == 0
    found.take_all()
    assert moved == {own: [1, 2, 3], helper.native_id: [1, 2, 3]}
    assert found.remaining() is None
    stop.set()
    helper.join()


@pytest.mark.parametrize("count", [1, 2])
def test_who_gives_way(moved: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    lowered: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda _, thread, __: lowered.append(thread))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    stop, found = threading.Event(), cores.Cores()
    with found.opening():
        helper = threading.Thread(target=stop.wait)
        helper.start()
    assert lowered == [helper.native_id if count > 1 else threading.get_native_id()]
    found.leave_one()
    assert (moved == {}) == (count == 1)
    stop.set()
    helper.join()
