"""Places where little is allowed: each gives the same vectors, or one line that says what is missing."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder
from tests.paths import ROOT
from tests.trust.processes import TIMEOUT, environment, run

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
TEXTS = ("hello world", "a, b")


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> bytes:
    """What the command line prints where nothing is hostile."""
    result = run("--model", tiny_folder, *TEXTS)
    assert result.returncode == 0
    return result.stdout


def unshared(command: str) -> list[str]:
    """What comes before a program to run it in namespaces of its own, after a shell command as root there."""
    found = shutil.which("unshare")
    if found is None or subprocess.run([found, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare is not allowed here")
    return [found, "-rmn", "sh", "-c", f'{command} && exec "$@"', "sh"]


@linux
def test_everything_read_only_no_network_no_temporary_folder(tiny_folder: Path, expected: bytes) -> None:
    """All mounts read-only, /tmp and /dev/shm empty, no network device up, no HOME."""
    temporary = tiny_folder.is_relative_to("/tmp") or ROOT.is_relative_to("/tmp")
    hidden = "mount -t tmpfs -o ro none /dev/shm" + (
        "" if temporary else " && mount -t tmpfs -o ro none /tmp"
    )
    before = unshared(
        f"{hidden} && awk '{{print $2}}' /proc/mounts | tac | while read place; do "
        'mount -o remount,bind,ro "$place" 2>/dev/null || true; done; ! touch "$PWD/written" 2>/dev/null'
    )
    env = {name: value for name, value in environment().items() if name not in ("HOME", "TMPDIR")}
    result = run("--model", tiny_folder, *TEXTS, before=before, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, b"")


@linux
def test_no_file_is_written(tiny_folder: Path, expected: bytes, tmp_path: Path) -> None:
    calls = traced("file,desc", tiny_folder, expected, tmp_path)
    opened = [call for call in calls if "O_WRONLY" in call or "O_RDWR" in call or "O_CREAT" in call]
    ours = [call for call in opened if '"/dev/' not in call and '"/proc/' not in call]
    assert ours == []


@linux
def test_no_socket_is_opened(tiny_folder: Path, expected: bytes, tmp_path: Path) -> None:
    """Telemetry included, and although nothing in the environment switches it off."""
    calls = traced("network", tiny_folder, expected, tmp_path)
    assert [call for call in calls if re.search(r"\b(socket|connect|sendto|sendmsg)\(", call)] == []


def test_the_trace_sees_a_socket(tmp_path: Path) -> None:
    code = "import socket; socket.socket().close()"
    run(code=code, before=strace("network", tmp_path))
    assert "socket(" in (tmp_path / "calls").read_text()


def strace(kinds: str, folder: Path) -> Sequence[str | Path]:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not allowed here")
    return [found, "-f", "-qq", "-e", f"trace={kinds}", "-o", folder / "calls"]


def traced(kinds: str, model: Path, expected: bytes, folder: Path) -> list[str]:
    """System calls of one run of the command line."""
    env = {name: value for name, value in environment().items() if name != "ORT_DISABLE_TELEMETRY"}
    result = run("--model", model, *TEXTS, before=strace(kinds, folder), env=env)
    assert (result.returncode, result.stdout) == (0, expected), result.stderr
    return (folder / "calls").read_text(errors="replace").splitlines()


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (["-I"], {}),
        (["-OO"], {}),
        (["-E", "-s"], {}),
        (["-X", "utf8=0"], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}),
        ([], {"LC_ALL": "C", "LANG": "xx_YY.nothing", "LANGUAGE": "xx"}),
        ([], {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"}),
        ([], {"COLUMNS": "1", "TERM": "", "NO_COLOR": "1"}),
        ([], {"OMP_NUM_THREADS": "nonsense", "OPENBLAS_NUM_THREADS": "1"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else " ".join(value.values()) or None,
)
def test_isolated_optimised_and_strange_environments(
    tiny_folder: Path, expected: bytes, tmp_path: Path, flags: list[str], changes: dict[str, str]
) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from runtime import embed; sys.exit(embed.main())"
    env = {"PATH": os.environ["PATH"]} | changes
    result = run("--model", tiny_folder, *TEXTS, code=code, flags=flags, env=env, folder=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, b"")
    assert list(tmp_path.iterdir()) == []


@linux
def test_texts_that_are_no_utf8_in_the_c_locale(tiny_folder: Path) -> None:
    """Arguments and pipes are bytes: what the locale cannot decode is U+FFFD in a text, and an error in a file."""
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    command = [sys.executable, "-m", "runtime.embed", "--model", os.fsencode(tiny_folder), b"h\xff\xc3\xa9"]
    result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=TIMEOUT, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    piped = run("--model", tiny_folder, data="héllo\n".encode(), env=env)
    assert (piped.returncode, piped.stderr) == (0, b"")
    wrong = run("--model", tiny_folder, data=b"ok\nh\xe9llo\n", env=env)
    assert wrong.returncode == 2
    assert b"line 2, byte 2" in wrong.stderr


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20,) * 2)
from runtime import embed
sys.exit(embed.main())
"""


@linux
@pytest.mark.parametrize("megabytes", [200, 300, 450, 700])
def test_little_address_space(embedded: Path, megabytes: int) -> None:
    """A vector, or one line."""
    code = LIMITED.format(megabytes=megabytes)
    env = environment(OPENBLAS_NUM_THREADS="1")
    result = run("--model", embedded, "--threads", "1", "hello", code=code, env=env)
    if result.returncode == 0:
        assert result.stdout.startswith(b'{"index": 0')
    else:
        assert result.returncode == 1, result.stderr
        assert result.stdout == b""
        assert len(result.stderr.splitlines()) == 1, result.stderr.decode()


@pytest.mark.parametrize("kind", ["jsonl", "json", "npy", "text"])
def test_killed_at_any_moment_the_output_is_complete_or_absent(
    tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    chance = random.Random(kind)
    target = tmp_path / "out"
    lines = b"hello world, a b c\n" * 6000
    command = ["--model", tiny_folder, "--threads", "1", "--format", kind, "--output", target]
    started = time.monotonic()
    assert run(*command, data=lines).returncode == 0
    whole, seconds = target.read_bytes(), time.monotonic() - started
    seen = set()
    for attempt in range(8):
        replaced = attempt % 2 == 0
        if not replaced:
            target.unlink(missing_ok=True)
        before = target.read_bytes() if target.exists() else None
        child = subprocess.Popen(
            [sys.executable, "-m", "runtime.embed", *map(str, command), "--force"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment(),
        )
        assert child.stdin is not None
        child.stdin.write(lines[: len(lines) // 2] if replaced else lines)
        child.stdin.close()
        try:
            child.wait(chance.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        status = child.wait(TIMEOUT)
        seen.add(status)
        after = target.read_bytes() if target.exists() else None
        if status == 0 or after != before:
            assert after is not None
            assert replaced or after == whole
    for path in tmp_path.iterdir():
        assert path == target or re.fullmatch(r"\.out\.\d+\.partial", path.name)
    # What killed runs left does not stand in the way.
    assert run(*command, "--force", data=lines).returncode == 0
    assert target.read_bytes() == whole


@linux
@pytest.mark.parametrize("kind", ["jsonl", "npy"])
def test_a_disk_that_fills_up(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    """Files may not grow beyond 64 KB: the same error as a full disk, after some has been written."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16,) * 2)\n"
        "from runtime import embed; sys.exit(embed.main())"
    )
    target = tmp_path / "out"
    target.write_bytes(b"what was there")
    arguments = ["--model", tiny_folder, "--format", kind, "--output", target, "--force"]
    result = run(*arguments, code=code, data=b"hello\n" * 3000)
    assert result.returncode == 1
    assert result.stderr == f"embed: {target}: cannot be written (File too large)\n".encode()
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


@linux
@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"]
)
def test_closed_and_full_streams(tiny_folder: Path, expected: bytes, closed: str) -> None:
    command = f'exec "{sys.executable}" -m runtime.embed --model "{tiny_folder}" --stats "hello world" "a, b" {closed}'
    result = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment(), capture_output=True, timeout=TIMEOUT, check=False
    )
    if ">&-" in re.sub(r"2>&-", "", closed) or closed == ">/dev/full":
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == (0 if "2>&-" in closed else 1)
    else:
        assert (result.returncode, result.stdout) == (0, expected)
    assert b"Traceback" not in result.stderr


def test_a_library_in_a_process_without_streams(tiny_folder: Path) -> None:
    """As under pythonw, or in a daemon."""
    code = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from runtime import Embedder\n"
        "Embedder(sys.argv[1]).encode(['hello'], show_progress=True)\n"
    )
    result = run(tiny_folder, code=code)
    assert (result.returncode, result.stderr) == (0, b"")


@linux
def test_few_file_descriptors(tiny_folder: Path, expected: bytes) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "from runtime import embed; sys.exit(embed.main())"
    )
    assert run("--model", tiny_folder, *TEXTS, code=code).stdout == expected


@linux
def test_no_further_thread_may_start(tiny_folder: Path) -> None:
    """A limit on threads gives vectors or one line; never a hang."""
    code = (
        "import resource, sys, numpy, onnxruntime; from runtime import embed\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); sys.exit(embed.main())"
    )
    before = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if before and (shutil.which("setpriv") is None or not os.access(sys.executable, os.X_OK)):
        pytest.skip("setpriv is not installed")
    result = run("--model", tiny_folder, "--threads", "4", *TEXTS, code=code, before=before)
    if before and (b"Permission denied" in result.stderr or b"ModuleNotFoundError" in result.stderr):
        pytest.skip("another user may not read the checkout or the packages here")
    assert result.returncode in (0, 1, 2)
    assert len(result.stderr.splitlines()) == (0 if result.returncode == 0 else 1), result.stderr.decode()


def test_an_output_folder_that_is_read_only(tiny: Embedder, tiny_folder: Path) -> None:
    if not Path("/proc/version").exists():
        pytest.skip("needs /proc")
    result = run("--model", tiny_folder, "--output", "/proc/out.jsonl", *TEXTS)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert b"/proc/out.jsonl" in result.stderr
    assert np.isfinite(tiny.encode("hello")).all()
