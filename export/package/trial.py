"""One embedding from a written package by an interpreter that has nothing else, and what it shows."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from export.errors import ExportError
from export.package.wheels import MACHINES

TEXT = "How is the weather today?"
LEAST_COSINE = 0.999  # to the vector computed here; int8 kernels of other processors round otherwise
SECONDS = 600  # an emulator takes its time

# No site-packages (-S), no environment, an empty folder as working directory.
CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from runtime.handlers import aws_lambda, google_cloud, handle
answer = handle({"input": sys.argv[2]})
outside = sorted(
    name for name, module in sys.modules.items()
    if getattr(module, "__file__", None) and name.partition(".")[0] in ("numpy", "onnxruntime", "runtime")
    and not module.__file__.startswith(sys.argv[1])
)
print(json.dumps({"vector": answer["data"][0]["embedding"], "outside": outside}))
"""


def interpreter_for(arch: str, python: str, given: str | None) -> list[str] | None:
    """Find a Python of a version and processor.

    :param given: the command of one, perhaps of an emulator: ``qemu-aarch64 -L ROOT ROOT/usr/bin/python3.11``.
    :return: its command, or None where there is none.
    :raises ExportError: the given one does not run, or is another version.
    """
    if given is not None:
        command = shlex.split(given)
        found = _about(command)
        if found != (python, MACHINES[arch]):
            shown = "does not run" if found is None else f"is Python {found[0]} on {found[1]}"
            raise ExportError(f"--interpreter {given} {shown}, not Python {python} on {arch}")
        return command
    if platform.machine() != MACHINES[arch]:
        return None
    return next(
        (command for command in _candidates(python) if _about(command) == (python, MACHINES[arch])), None
    )


def interpreter_for_version(python: str) -> list[str] | None:
    """Return the command of a Python of this version on this machine, whose bytecode is that of any processor."""
    for command in _candidates(python):
        found = _about(command)
        if found is not None and found[0] == python:
            return command
    return None


def _candidates(python: str) -> Iterator[list[str]]:
    yield [os.path.realpath(sys.executable)]  # not through a virtual environment
    name = f"python{python}"
    if path := shutil.which(name):
        yield [path]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for folder in sorted(pyenv.glob(f"{python}.*"), reverse=True):
        yield [str(folder / "bin" / name)]


def _about(command: Sequence[str]) -> tuple[str, str] | None:
    code = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"
    try:
        done = subprocess.run(
            [*command, "-I", "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return (words[0], words[1]) if done.returncode == 0 and len(words) == 2 else None


def embed_with(package: Path, prefix: str, command: Sequence[str]) -> list[float]:
    """Make one vector from a package alone.

    :param package: zip file or folder.
    :param prefix: folder inside it that Python will find; "" for itself.
    :param command: interpreter.
    :return: the vector of TEXT.
    :raises ExportError: no vector comes out, something was loaded from elsewhere, or something was written.
    """
    with tempfile.TemporaryDirectory(prefix="jinabert-package-") as name:
        work = Path(name).resolve()
        (work / "empty").mkdir()
        root = work / "root"
        if package.is_dir():
            shutil.copytree(package, root)
        else:
            with zipfile.ZipFile(package) as archive:
                archive.extractall(root)
        before = sorted(root.rglob("*"))
        try:
            done = subprocess.run(
                [*command, "-I", "-S", "-c", CODE, str(root / prefix) if prefix else str(root), TEXT],
                env={},
                cwd=work / "empty",
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"{package}: no vector after {SECONDS} s from the unpacked package") from None
        if done.returncode:
            reason = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
            raise ExportError(f"{package}: no vector from the unpacked package alone ({reason})")
        answer = json.loads(done.stdout)
        if answer["outside"]:
            raise ExportError(f"{package}: loads {', '.join(answer['outside'][:5])} from elsewhere")
        if sorted(root.rglob("*")) != before or any((work / "empty").iterdir()):
            raise ExportError(f"{package}: writes files when it runs, which a function may not")
        vector: list[float] = answer["vector"]
        return vector


def compare(vector: Sequence[float], model: Path) -> float:
    """Compare the package's vector with one that is computed here.

    :param vector: from the package.
    :param model: the model folder it was made of.
    :return: its cosine to the vector computed here.
    :raises ExportError: they differ.
    """
    from runtime import Embedder

    with Embedder(model, threads=1) as embedder:
        cosine = float(embedder.encode(TEXT) @ vector)
    if not cosine >= LEAST_COSINE:
        raise ExportError(f"the package gives another vector than this machine does: cosine {cosine:.6f}")
    return cosine
