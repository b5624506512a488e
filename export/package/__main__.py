"""``python -m export.package``: parses and prints."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from export.errors import ExportError
from export.package import archive, contents, trial, wheels
from runtime import files
from runtime.bundled import bundled_model
from runtime.cli.command import Parser, add_force
from runtime.manifest import load_manifest

EXAMPLES = """\
examples:
  python -m export.package --target lambda --arch arm64 --output function.zip
  python -m export.package --target lambda --arch x86_64 --layer --output layer.zip
  python -m export.package --target lambda --arch x86_64 --output build      (a folder, for a container image)

The result is tried: an interpreter of that version and processor makes one vector from it, with no other package
and an empty environment. For another processor name an emulated one, such as
--interpreter "qemu-aarch64 -L ROOT ROOT/usr/bin/python3.12".
export/deploy/ holds the templates that deploy it.
exit status: 0 written, 2 refused, 130 interrupted.
"""
PREFIXES = {False: "", True: "python"}  # a layer's folder that Lambda puts on sys.path
PLACES = {False: "/var/task", True: "/opt/python"}  # where Lambda unpacks them
UNZIPPED_LIMIT = 250_000_000  # of a function and its layers together


def parser() -> Parser:
    """Make the parser of the command line."""
    options = Parser(
        "export.package",
        "Make a deployment package: runtime, model, numpy and onnxruntime for another platform.",
        EXAMPLES,
    )
    options.add_argument(
        "--target", choices=("lambda",), required=True, help="AWS Lambda, or its container image"
    )
    options.add_argument("--arch", choices=tuple(wheels.MACHINES), required=True, help="processor")
    options.add_argument(
        "--output", metavar="DIR|ZIP", type=Path, required=True, help="a zip if it ends in .zip"
    )
    options.add_argument("--python", metavar="X.Y", default="3.12", help="version of Python (default: 3.12)")
    options.add_argument("--layer", action="store_true", help="a Lambda layer: everything below python/")
    options.add_argument(
        "--model", metavar="DIR", type=Path, help="model folder (default: the bundled model)"
    )
    options.add_argument("--numpy", metavar="V", help="version (default: the newest)")
    options.add_argument("--onnxruntime", metavar="V", help="version (default: the newest)")
    options.add_argument(
        "--wheels", metavar="DIR", type=Path, help="take the wheels from here, without a network"
    )
    options.add_argument(
        "--interpreter", metavar="COMMAND", help="Python of that version and processor (default: looked for)"
    )
    add_force(options, "replace an existing package")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: exit status.
    """
    return parser().run(_package, argv, unfinished="; nothing was written", machine_status=2)


def _package(arguments: argparse.Namespace) -> int:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for line in build(arguments):
        sys.stdout.write(f"{line}\n")
    return 0


def build(arguments: argparse.Namespace) -> list[str]:
    """Make a package.

    :param arguments: of parser().
    :return: lines that say what was made.
    :raises ExportError: it cannot be made; then nothing is written.
    :raises JinaBertError: the model folder is no good.
    """
    output, layer = arguments.output, arguments.layer
    if not re.fullmatch(r"3\.\d{1,2}", arguments.python) or int(arguments.python[2:]) < 11:
        raise ExportError(f"--python {arguments.python}: must be a version such as 3.12, 3.11 or newer")
    if arguments.wheels is not None and not arguments.wheels.is_dir():
        raise ExportError(f"--wheels {arguments.wheels}: no such folder")
    archive.check_target(output, force=arguments.force)
    model = arguments.model or Path(bundled_model())
    interpreter = trial.interpreter_for(arguments.arch, arguments.python, arguments.interpreter)
    versions = {
        name: value
        for name in wheels.PACKAGES
        if (value := getattr(arguments, name.replace("-", "_"))) is not None
    }
    project, task = contents.of_project(model), load_manifest(model).task
    with tempfile.TemporaryDirectory(prefix="jinabert-package-") as work:
        found = wheels.fetch(
            arguments.arch,
            arguments.python,
            versions,
            Path(work),
            local=arguments.wheels and arguments.wheels.resolve(),
        )
        packages = {wheel.name.split("-")[0]: wheels.version_of(wheel) for wheel in found}
        whole = contents.of_wheels(found) | project
        whole[archive.MARK] = contents.build_note(packages, found, model, arguments.arch, arguments.python)
    compiler = interpreter or trial.interpreter_for_version(arguments.python)
    if compiler:
        whole |= contents.compiled(whole, compiler, PLACES[layer])
    prefix = PREFIXES[layer]
    whole = {f"{prefix}/{name}" if prefix else name: content for name, content in whole.items()}
    tried = f"NOT TRIED: there is no Python {arguments.python} for {arguments.arch} here (--interpreter names one)"
    size = sum(_size(content) for content in whole.values())
    if size > UNZIPPED_LIMIT:
        raise ExportError(
            f"{size / 1e6:.0f} MB unzipped, more than the {UNZIPPED_LIMIT / 1e6:.0f} MB of Lambda"
        )
    with tempfile.TemporaryDirectory(prefix=".package-", dir=_existing(output)) as work:
        made = Path(work) / f"package{output.suffix if output.suffix == '.zip' else ''}"
        archive.write(made, whole)
        if interpreter:
            answer = trial.run_with(made, prefix, interpreter, task)
            tried = f"tried: {trial.compare(answer, model, task)}"
        files.replace(made, output)
    lines = [
        f"{output}: {'layer' if layer else 'function'} for Python {arguments.python} on {arguments.arch}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
        f"{size / 1e6:.1f} MB unzipped, {len(whole)} files"
        + (f", {output.stat().st_size / 1e6:.1f} MB zipped" if output.suffix == ".zip" else ""),
        tried,
    ]
    if not compiler:
        lines.append(
            f"no bytecode in it, for want of a Python {arguments.python}: each cold start compiles, some 0.3 s longer"
        )
    return lines


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _existing(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


if __name__ == "__main__":
    raise SystemExit(main())
