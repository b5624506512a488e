"""What only Linux has is taken away: fork, affinity, priorities, cgroups, malloc_trim, locks and limits of files.

A stand-in for macOS and Windows, which the tests do not run on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

ELSEWHERE = """
import builtins, ctypes, os, signal, sys, sysconfig
sysconfig.get_config_vars()
import numpy, onnxruntime  # they look at the platform when they are imported

for name in (
    "fork", "forkpty", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sysconf", "nice", "getpriority",
    "setpriority", "getuid", "geteuid", "getpgid", "killpg", "getloadavg", "posix_fadvise", "statvfs", "mkfifo",
    "copy_file_range", "sendfile", "memfd_create", "pread", "pwrite", "fchmod", "fchown", "chown",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGCHLD", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)

def loaded(library, real=ctypes.CDLL.__init__):
    raise TypeError("argument of type 'NoneType' is not a container or iterable")  # of None, on Windows

ctypes.CDLL.__init__ = lambda self, name, *rest, own=ctypes.CDLL.__init__, **more: (
    loaded(name) if name is None else own(self, name, *rest, **more)
)
real = builtins.open

def elsewhere(path, *rest, **more):
    if isinstance(path, str) and path.startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", path)
    return real(path, *rest, **more)

builtins.open = elsewhere
sys.platform = "darwin"
folder, output = sys.argv[1:]
"""
LIBRARY = """
import copy, threading
from runtime import Embedder
from runtime.resources import cpu_quota, default_threads, memory_limit

assert default_threads() >= 1 and cpu_quota() is None
memory_limit()
embedder = Embedder(folder)
assert embedder.encode(["a text"] * 400, batch_size=8).shape[0] == 400  # many batches: memory is given back
assert copy.deepcopy(embedder).encode("a text").tolist() == embedder.encode("a text").tolist()
assert embedder.rerank("text", ["a text", "another"])
"""
COMMANDS = """
import threading
from runtime import embed, rerank

assert embed.main(["--model", folder, "--format", "npy", "--output", output + "/a.npy", "a text", "another"]) == 0
assert numpy.load(output + "/a.npy").shape[0] == 2
assert rerank.main(["--model", folder, "text", "a text", "another"]) == 0
"""
BULK = """
from runtime.bulk import __main__ as bulk

with open(output + "/in.jsonl", "w") as file:
    file.write('{"id": "a", "text": "a text"}\\n' * 20)
arguments = [output + "/in.jsonl", "--output", output + "/out", "--model", folder]
assert bulk.main(arguments) == 0
"""
SERVE = """
import threading
from runtime.serve import __main__ as serve
from runtime.serve.cores import Cores

serve._raise_open_files()
cores = Cores()
with cores.opening():
    pass
cores.leave_one()
cores.take_all()
assert cores.remaining() is not None
"""


@pytest.mark.parametrize(
    "code", [LIBRARY, COMMANDS, BULK, SERVE], ids=["library", "commands", "bulk", "serve"]
)
def test_it_runs_without_what_only_linux_has(tiny_folder: Path, tmp_path: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE + code, str(tiny_folder), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_a_command_line_runs_in_a_thread_too(tiny_folder: Path, tmp_path: Path) -> None:
    """Handlers of signals can only be set in the main thread."""
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "a text"}\n', encoding="utf-8")
    code = (
        "import sys, threading\nfrom runtime.bulk.__main__ import main\nfound = []\n"
        "thread = threading.Thread(target=lambda: found.append(main(sys.argv[1:])))\n"
        "thread.start()\nthread.join()\nassert found == [0], found\n"
    )
    arguments = ["in.jsonl", "--output", "out", "--model", str(tiny_folder)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
