"""A virtual environment for each kind of peer and for the service's clients, made once, outside the repository.

The interpreter is the one that runs the benchmark, and onnxruntime has the version that is installed there, so that
peers differ in what they are and not in what they were given.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["CACHE", "ENVIRONMENTS", "NODE_PACKAGES", "node_modules", "python_of"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jinabert-bench"

# Environment -> what pip installs; {onnxruntime} is the version at hand. "here" is this interpreter itself.
ENVIRONMENTS = {
    "plain": ["numpy", "onnxruntime=={onnxruntime}", "tokenizers"],
    "fastembed": ["fastembed==0.9.1", "onnxruntime=={onnxruntime}"],
    "fastembed-datasets": ["datasets>=4", "fastembed==0.9.1", "onnxruntime=={onnxruntime}"],
    "openvino": ["nncf==3.4.0", "numpy", "openvino==2026.4.1", "tokenizers"],
    # Compiled for this processor, which takes half an hour on one core; a wheel in PIP_FIND_LINKS saves it.
    "llama.cpp": ["gguf==0.19.0", "llama-cpp-python==0.3.36", "numpy", "safetensors"],
    # Clients of the service, which need libraries of other versions.
    "clients": ["langchain-openai==1.7.4", "litellm==1.110.2"],
    "rerank-clients": [
        "cohere==5.21.1",
        "langchain-cohere==0.6.0",
        "langchain-community==0.4.2",
        "litellm==1.110.2",
        "llama-index-postprocessor-jinaai-rerank==0.6.0",
    ],
}


# What npm installs; onnxruntime-node and onnxruntime-web come with it, and no script of theirs is run.
NODE_PACKAGES = ("@huggingface/transformers@4.3.2",)


def node_modules() -> Path:
    """Find the folder with packages for Node, and make it where it is missing.

    :return: a folder that holds node_modules.
    :raises OSError: npm failed.
    """
    folder = CACHE / "node"
    made_of = folder / "made_of.txt"
    wanted = "\n".join(NODE_PACKAGES)
    if made_of.exists() and made_of.read_text(encoding="utf-8") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    npm = [
        "npm",
        "install",
        "--prefix",
        str(folder),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        *NODE_PACKAGES,
    ]
    result = subprocess.run(npm, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise OSError(f"npm cannot install {', '.join(NODE_PACKAGES)}: {last}")
    made_of.write_text(wanted, encoding="utf-8")
    return folder


def python_of(environment: str, *, make: bool = True) -> str:
    """Find the interpreter of an environment, and make the environment where it is missing.

    :param environment: a key of ENVIRONMENTS, or "here".
    :param make: False raises instead of making it.
    :return: path of the interpreter.
    :raises OSError: it is missing and is not to be made, or pip failed.
    """
    if environment == "here":
        return sys.executable
    packages = [name.format(onnxruntime=version("onnxruntime")) for name in ENVIRONMENTS[environment]]
    folder = CACHE / "venvs" / environment
    python, made_of = folder / "bin" / "python", folder / "made_of.txt"
    wanted = "\n".join([sys.version, *packages])
    if python.exists() and made_of.exists() and made_of.read_text(encoding="utf-8") == wanted:
        return str(python)
    if not make:
        raise FileNotFoundError(f"{folder}: no such environment")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder}: {', '.join(packages)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    result = subprocess.run(pip, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip cannot install {', '.join(packages)}: {last}")
    made_of.write_text(wanted, encoding="utf-8")  # last: an environment without it is made again
    return str(python)
