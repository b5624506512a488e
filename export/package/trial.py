"""One embedding, or the scores of a cross-encoder, from a written package by an interpreter that has nothing else."""

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

import numpy as np

from export.errors import ExportError
from export.package.wheels import MACHINES

TEXT = "How is the weather today?"
DOCUMENTS = ["It rains, and the wind is cold.", "The bank closes at four."]
# To what is computed here; int8 kernels of other processors round otherwise.
LEAST_COSINE = 0.999
MOST_DIFFERENCE = 0.05  # of scores from 0 to 1
SECONDS = 600  # an emulator takes its time

# No site-packages (-S), no environment, an empty folder as working directory.
CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from runtime.handlers import aws_lambda, google_cloud, handle
answer = handle(json.loads(sys.argv[2]))
if "data" in answer:
    found = answer["data"][0]["embedding"]
else:
    found = [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: one["index"])]
outside = sorted(
    name for name, module in sys.modules.items()
    if getattr(module, "__file__", None) and name.partition(".")[0] in ("numpy", "onnxruntime", "runtime")
    and not module.__file__.startswith(sys.argv[1])
)
print(json.dumps({"found": found, "outside": outside}))
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


def run_with(package: Path, prefix: str, command: Sequence[str], task: str) -> list[float]:
    """Ask a package alone.

    :param package: zip file or folder.
    :param prefix: folder inside it that Python will find; "" for itself.
    :param command: interpreter.
    :param task: of the model: "embed" or "rerank".
    :return: the vector of TEXT, or for "rerank" the scores of DOCUMENTS, from 0 to 1.
    :raises ExportError: nothing comes out, something was loaded from elsewhere, or something was written.
    """
    request = {"query": TEXT, "documents": DOCUMENTS} if task == "rerank" else {"input": TEXT}
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
                [
                    *command,
                    "-I",
                    "-S",
                    "-c",
                    CODE,
                    str(root / prefix) if prefix else str(root),
                    json.dumps(request),
                ],
                env={},
                cwd=work / "empty",
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"{package}: no answer after {SECONDS} s from the unpacked package") from None
        if done.returncode:
            reason = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
            raise ExportError(f"{package}: no answer from the unpacked package alone ({reason})")
        answer = json.loads(done.stdout)
        if answer["outside"]:
            raise ExportError(f"{package}: loads {', '.join(answer['outside'][:5])} from elsewhere")
        if sorted(root.rglob("*")) != before or any((work / "empty").iterdir()):
            raise ExportError(f"{package}: writes files when it runs, which a function may not")
        found: list[float] = answer["found"]
        return found


def compare(found: Sequence[float], model: Path, task: str) -> str:
    """Compare what a package gave with what is computed here.

    :param found: by `run_with`.
    :param model: the model folder it was made of.
    :param task: of the model.
    :return: how near they are.
    :raises ExportError: they differ.
    """
    from runtime import Embedder, Reranker

    given = np.asarray(found, np.float64)
    if task == "rerank":
        with Reranker(model, threads=1) as reranker:
            logits = reranker.score([(TEXT, document) for document in DOCUMENTS]).astype(np.float64)
        expected = 1 / (1 + np.exp(-logits))
        difference = float(np.abs(given - expected).max())
        if not difference <= MOST_DIFFERENCE:
            raise ExportError(f"the package gives other scores than this machine does: {difference:.6f} away")
        return f"scores from the package alone, {difference:.6f} away from this machine's"
    with Embedder(model, threads=1) as embedder:
        vector = embedder.encode(TEXT)
    cosine = float(vector @ given / (np.linalg.norm(vector) * np.linalg.norm(given)))
    if not cosine >= LEAST_COSINE:
        raise ExportError(f"the package gives another vector than this machine does: cosine {cosine:.6f}")
    return f"a vector from the package alone, cosine to this machine's {cosine:.6f}"
