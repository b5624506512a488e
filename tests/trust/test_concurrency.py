"""Threads, processes, forks and interrupts: the same vectors, an end, and nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Embedder
from tests.paths import ROOT
from tests.trust.processes import TIMEOUT, environment, run
from tests.trust.texts import short_texts

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def texts(embedder: Embedder) -> list[str]:
    return short_texts(embedder.tokenizer, 24)


@pytest.fixture(scope="module")
def expected(embedder: Embedder, texts: list[str]) -> NDArray[np.float32]:
    return embedder.encode(texts)


def test_eight_threads_on_one_embedder(
    embedder: Embedder, texts: list[str], expected: NDArray[np.float32]
) -> None:
    """Every method, at once, in other batches each time."""
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            start.wait()
            for turn in range(3):
                order = np.random.default_rng(100 * number + turn).permutation(len(texts))
                vectors = embedder.encode([texts[i] for i in order], batch_tokens=50 * (number + 1))
                assert (vectors == expected[order]).all()
                one = int(order[0])
                tokens = embedder.encode_tokens(texts[one])
                assert len(tokens.ids) == embedder.count_tokens(texts[one])
                assert embedder.encode_chunks(texts[one], 4)[-1].end <= len(texts[one])
                assert (embedder.encode(texts[one]) == expected[one]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_closing_while_threads_encode(embedded: Path, texts: list[str]) -> None:
    """Each encode gives vectors or says that the Embedder is closed."""
    from runtime import JinaBertError

    embedder = Embedder(embedded, threads=2)
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                assert np.isfinite(embedder.encode(texts[:4])).all()
        except JinaBertError as error:
            if "closed" not in str(error):
                wrong.append(error)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    embedder.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def encode_all(arguments: tuple[str, list[str]]) -> NDArray[np.float32]:
    """In a spawned process."""
    folder, texts = arguments
    with Embedder(folder, threads=1) as embedder:
        return embedder.encode(texts)


def test_four_spawned_processes(embedded: Path, texts: list[str], expected: NDArray[np.float32]) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        results = pool.map(encode_all, [(str(embedded), texts)] * 4, chunksize=1)
    assert all((result == expected).all() for result in results)


FORKS = """
import os, sys, threading
from runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
texts = sys.argv[2:]
before = embedder.encode(texts)
stop = threading.Event()
def work():
    while not stop.is_set():
        embedder.encode(texts)
worker = threading.Thread(target=work)
worker.start()
for generation in range(3):
    child = os.fork()
    if child == 0:
        right = (embedder.encode(texts) == before).all()
        grandchild = os.fork()
        if grandchild == 0:
            sys.exit(0 if (embedder.encode(texts) == before).all() else 3)
        sys.exit(0 if right and os.waitpid(grandchild, 0)[1] == 0 else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
worker.join()
assert (embedder.encode(texts) == before).all()
print("done")
"""


@fork
def test_forks_and_forks_of_forks_while_a_thread_encodes(embedded: Path, texts: list[str]) -> None:
    env = environment(PYTHONWARNINGS="ignore::DeprecationWarning")
    result = run(embedded, *texts[:6], code=FORKS, env=env)
    assert (result.returncode, result.stdout) == (0, b"done\n"), result.stderr.decode()


POOL = """
import multiprocessing, sys
from runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
def first(text):
    return float(embedder.encode(text)[0])
texts = sys.argv[2:]
expected = [first(text) for text in texts]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(first, texts) == expected
print("done")
"""


@fork
def test_a_pool_of_forked_workers(embedded: Path, texts: list[str]) -> None:
    """As gunicorn --preload does it."""
    env = environment(PYTHONWARNINGS="ignore::DeprecationWarning")
    result = run(embedded, *texts[:6], code=POOL, env=env)
    assert (result.returncode, result.stdout) == (0, b"done\n"), result.stderr.decode()


INTERRUPTED = """
import sys
from runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
texts = ["some words to encode, again and again"] * 20000
before = embedder.encode(texts[:3])
print("ready", flush=True)
try:
    embedder.encode(texts)
except KeyboardInterrupt:
    assert (embedder.encode(texts[:3]) == before).all()
    print("interrupted, and works on", flush=True)
"""


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_an_interrupt_ends_encode_and_leaves_the_embedder_whole(embedded: Path) -> None:
    with start("-c", INTERRUPTED, embedded) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=TIMEOUT)
    assert (out, err, child.returncode) == (b"interrupted, and works on\n", b"", 0)


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_an_interrupted_command_line_ends_and_nothing_is_left(
    tiny_folder: Path, tmp_path: Path, wait: float
) -> None:
    """At any moment: while modules are imported, the model is loaded, or texts are encoded."""
    target = tmp_path / "out"
    arguments = ["--model", tiny_folder, "--output", target, "--input", "-"]
    with start("-m", "runtime.embed", *arguments) as child:
        assert child.stdin is not None
        child.stdin.write(b"hello\n" * 5000)
        child.stdin.flush()
        time.sleep(wait)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        out, err = child.communicate(timeout=TIMEOUT)
    assert child.returncode != 0
    assert out == b""
    # Before main() runs, Python itself reports it; from then on it is one line.
    assert err == b"embed: interrupted\n" or child.returncode in (1, -signal.SIGINT), err.decode()
    assert not target.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
