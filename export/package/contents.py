"""What goes into a package: of the wheels all that importing and running can reach, of the rest the licences."""

import fnmatch
import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import runtime
from export.errors import ExportError
from runtime.manifest import MANIFEST, check_files, load_manifest

# Patterns of what Python never loads here. A module that is missing by mistake fails the trial.
LEFT_OUT = (
    # onnxruntime: the C library, a second copy of what onnxruntime_pybind11_state holds; tools that need more packages.
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/transformers/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/backend/*",
    "onnxruntime/datasets/*",
    "onnxruntime/Privacy.md",
    # numpy: what `import numpy` does not import, and the runtime does not use.
    "numpy/f2py/*",
    "numpy/testing/*",
    "numpy/typing/*",
    "numpy/random/*",
    "numpy/fft/*",
    "numpy/ma/*",
    "numpy/polynomial/*",
    "numpy/ctypeslib/*",
    "numpy/doc/*",
    "numpy/distutils/*",
    "numpy/core/*",
    "numpy/char/*",
    "numpy/rec/*",
    "numpy/strings/*",
    "numpy/_pyinstaller/*",
    "numpy/_core/include/*",
    "numpy/_core/lib/*",
    "numpy/_core/_simd.*",  # tests' own
    "numpy/_core/*_tests.*",
    "numpy/conftest.py",
    "numpy/matlib.py",
    "numpy/_configtool.py",
    # any of them
    "*/tests/*",
    "*.pyi",
    "*.pxd",
    "*.pyx",
    "*/py.typed",
    "*.h",
    "*.a",
    "*.md.txt",
    "*.dist-info/RECORD",
    "*.dist-info/WHEEL",
    "*.dist-info/entry_points.txt",
    "*.dist-info/top_level.txt",
    "*.dist-info/INSTALLER",
)
KEPT = ("*LICENSE*", "*COPYING*", "*NOTICE*", "*Notices*", "*.dist-info/METADATA")  # whatever the above says

MAIN = '''"""Where Google Cloud looks for its function. AWS Lambda's handler is runtime.handlers.aws_lambda."""

from runtime.handlers import aws_lambda, google_cloud, handle

__all__ = ["aws_lambda", "google_cloud", "handle"]
'''

# Compiled in one process and in one order, so that the bytes are the same each time. Unchecked: file times mean nothing
# in a zip, and comparing hashes would read every source file at a cold start.
COMPILE = """
import py_compile, sys
root, prefix = sys.argv[1:3]
for name in sys.stdin.read().splitlines():
    py_compile.compile(
        f"{root}/{name}", dfile=f"{prefix}/{name}", doraise=True, quiet=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
"""

# Parts of the runtime that need an extra, or are no code.
NOT_OF_A_FUNCTION = ("__pyinstaller/", "alias/", "models/", "serve/", "bulk/", "integrations/")

Contents = dict[str, bytes | Path]  # name with / -> content, or the file that holds it


def kept(name: str) -> bool:
    """Return whether a file of a wheel goes in."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in KEPT):
        return not fnmatch.fnmatchcase(name, "*.py")  # a module that is called so
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def of_wheels(wheels: Sequence[Path]) -> Contents:
    """Read what a package needs of its wheels.

    :param wheels: files.
    :return: what is kept of them.
    :raises ExportError: a file is no wheel.
    """
    contents: Contents = {}
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                contents |= {name: archive.read(name) for name in names if kept(name)}
        except (OSError, zipfile.BadZipFile) as error:
            raise ExportError(
                f"{wheel}: cannot be read as a wheel ({error}): delete it and try again"
            ) from None
    return contents


def of_project(model: Path) -> Contents:
    """Collect the runtime and a model.

    :param model: a model folder.
    :return: the runtime, the model where it is found as the bundled one, and the licence.
    :raises ModelError: no model folder, or a damaged one.
    """
    manifest = load_manifest(model)
    check_files(model, manifest, verify=True)
    package = Path(runtime.__file__).parent
    contents: Contents = {"main.py": MAIN.encode()}
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(NOT_OF_A_FUNCTION):
            contents[f"runtime/{name}"] = file
    # The folder's own name may be anything, such as "output".
    place = (
        f"runtime/models/{''.join(c if c.isalnum() or c in '-_.' else '-' for c in manifest.name).strip('.')}"
    )
    for name in (MANIFEST, *manifest.files):
        contents[f"{place}/{name}"] = model / name
    for parent in (package.parent, package):
        if (parent / "LICENSE").is_file():
            contents["LICENSE"] = parent / "LICENSE"
            break
    return contents


def build_note(
    wheels: Mapping[str, str], files: Sequence[Path], model: Path, arch: str, python: str
) -> bytes:
    """Return BUILD.json.

    What the package was made of.
    """
    manifest = load_manifest(model)
    note = {
        "name": "jinabert-runtime",
        "version": runtime.__version__,
        "arch": arch,
        "python": python,
        "packages": dict(sorted(wheels.items())),
        "wheels": {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(files)},
        "model": {"name": manifest.name, "sha256": {n: f.sha256 for n, f in sorted(manifest.files.items())}},
    }
    return (json.dumps(note, indent=1) + "\n").encode()


def compiled(contents: Contents, interpreter: Sequence[str], place: str) -> Contents:
    """Compile every module to bytecode.

    A function's folder cannot be written to, so that Python would compile all modules again at each cold start: 0.3 s
    of 0.5.

    :param contents: holds the modules.
    :param interpreter: command of the Python that will run them, or one of that version.
    :param place: absolute folder that they will be in, for tracebacks.
    :return: the .pyc files.
    :raises ExportError: a module does not compile.
    """
    modules = sorted(name for name in contents if name.endswith(".py"))
    with tempfile.TemporaryDirectory(prefix="jinabert-package-") as work:
        for name in modules:
            file = Path(work, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = contents[name]
            file.write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        done = subprocess.run(
            [*interpreter, "-s", "-S", "-B", "-c", COMPILE, work, place],
            input="\n".join(modules),
            env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ExportError(
                f"the modules do not compile: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
            )
        files = sorted(Path(work).rglob("*.pyc"))
        return {file.relative_to(work).as_posix(): file.read_bytes() for file in files}
