"""The whole command line, and a package, on 64-bit Arm under emulation: a Raspberry Pi's or Graviton's path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.package.__main__ import main
from export.package.wheels import fetch
from runtime import Embedder
from tests.trust import emulation

TEXTS = ["How is the weather today?", "What is the current weather like today?", ""]
REASON = emulation.missing("arm-dot")
pytestmark = [pytest.mark.emulated, pytest.mark.skipif(bool(REASON), reason=str(REASON))]

# What is known of a Graviton 2's first processor. QEMU 7.2 shows its host's /proc/cpuinfo, at which onnxruntime 1.28 to
# 1.32 crash when imported; with this one in its place they run.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


def test_the_command_line(tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    printed = emulation.run(
        "arm-dot",
        *(
            "-m",
            "runtime.embed",
            "--threads",
            "1",
            "--quiet",
            "--input",
            texts,
            "--output",
            output,
            "--format",
            "npy",
        ),
    )
    assert printed == ""
    with Embedder(threads=1) as embedder:
        cosines = (np.load(output) * embedder.encode(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999
    assert sorted(file.name for file in tmp_path.iterdir()) == ["texts.txt", "vectors.npy"]


def test_the_command_line_on_an_older_raspberry_pi() -> None:
    printed = emulation.run("arm", "-m", "runtime.embed", "--threads", "1", "--format", "json", TEXTS[0])
    with Embedder(threads=1) as embedder:
        vector = embedder.encode(TEXTS[0])
    assert np.dot(json.loads(printed)[0]["embedding"], vector) > 0.999


def test_a_package_for_arm_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, wheels = tmp_path / "root", tmp_path / "wheels"
    shutil.copytree(emulation.ARM_ROOT, root, symlinks=True, copy_function=_link)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO, encoding="ascii")
    (python,) = (root / "usr" / "bin").glob("python3.[0-9]*")
    version = python.name.removeprefix("python")
    wheels.mkdir()
    fetch("arm64", version, {}, wheels)
    interpreter = f"qemu-aarch64 -cpu neoverse-n1 -L {root} {python}"
    arguments = [
        "--arch",
        "arm64",
        "--python",
        version,
        "--wheels",
        str(wheels),
        "--interpreter",
        interpreter,
    ]
    assert main(["--target", "lambda", *arguments, "--output", str(tmp_path / "function")]) == 0
    assert "tried: a vector from the package alone, cosine to this machine's" in capsys.readouterr().out


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another file system
        shutil.copy2(source, target)
