"""Python on a processor that this machine is not, under QEMU: what int8 kernels do there.

x86-64 without VNNI multiplies u8 by s8 in saturating 16 bits; Arm rounds its float32 otherwise. Both are seen here
without the hardware. Needs Debian's qemu-user; Arm also an unpacked Debian Python and wheels, fetched once into
$EMULATION_HOME (`python -m tests.trust.emulation` does that, as root on Debian, and .ci/run calls it).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

HOME = Path(os.environ.get("EMULATION_HOME") or Path.home() / ".cache" / "jinabert-emulation")
ARM_ROOT, ARM_SITE, ARM_READY = HOME / "arm64-root", HOME / "arm64-site", HOME / "arm64-ready"

# What Arm runs: onnxruntime 1.28 and 1.32 crash at import under QEMU 7.2, 1.23.2 does not.
ARM_WHEELS = ("onnxruntime==1.23.2", "numpy==2.3.5")
ARM_LIBRARIES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libcrypt1",
)

# name -> QEMU program and its -cpu
PROCESSORS = {
    "sse4": ("qemu-x86_64", "Westmere"),
    "avx2": ("qemu-x86_64", "Haswell-noTSX"),
    "arm": ("qemu-aarch64", "cortex-a72"),  # Arm without dot product: Raspberry Pi 4, Graviton 1
    "arm-dot": ("qemu-aarch64", "neoverse-n1"),  # Graviton 2
    "arm-max": ("qemu-aarch64", "max"),  # all that QEMU knows, int8 matrix products and SVE among it
}


def missing(processor: str) -> str | None:
    """Why a processor cannot be emulated here.

    :param processor: of PROCESSORS.
    :return: a reason to skip, or None.
    """
    program, _ = PROCESSORS[processor]
    if shutil.which(program) is None:
        return f"{program} is not installed (Debian: qemu-user)"
    if program == "qemu-aarch64" and not ARM_READY.exists():
        return "no Python for Arm: `python -m tests.trust.emulation` fetches it"
    return None


def run(processor: str, *arguments: str | Path, timeout: float = 900) -> str:
    """Run `python ARGUMENTS` with the checkout, numpy and onnxruntime importable.

    :param processor: of PROCESSORS.
    :param arguments: script and its arguments.
    :param timeout: seconds until the run counts as hung.
    :return: standard output.
    :raises AssertionError: it failed; the message holds the end of its standard error.
    """
    program, cpu = PROCESSORS[processor]
    if program == "qemu-x86_64":
        python = [os.path.realpath(sys.executable)]
        site = str(_site())
    else:
        (python3,) = (ARM_ROOT / "usr/bin").glob("python3.[0-9]*")
        python, site = ["-L", str(ARM_ROOT), str(python3)], str(ARM_SITE)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{site}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",  # its threads spin, which an emulator pays for
        "ORT_DISABLE_TELEMETRY": "1",
    }
    environment.pop("PYTHONHOME", None)
    # Kernels chosen for the host may be illegal instructions there.
    environment.pop("OPENBLAS_CORETYPE", None)
    done = subprocess.run(
        [program, "-cpu", cpu, *python, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{processor}: exit {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def _site() -> Path:
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.parent


def install() -> None:
    """Fetch what is missing. Installing QEMU and adding the architecture need root and Debian; without them the
    tests that need it skip by name."""
    if not (os.geteuid() == 0 and shutil.which("apt-get")):
        print("emulation: nothing installed: needs root and apt-get")
        return
    if shutil.which("qemu-aarch64") is None:
        _call("apt-get", "update", "-qq")
        _call("apt-get", "install", "-y", "-qq", "qemu-user")
    if ARM_READY.exists():
        return
    _call("dpkg", "--add-architecture", "arm64")
    _call("apt-get", "update", "-qq")
    depends = subprocess.run(
        ["apt-cache", "depends", "python3-minimal"], capture_output=True, text=True, check=True
    ).stdout
    version = next(
        word.removeprefix("python").removesuffix("-minimal")
        for word in depends.split()
        if word.startswith("python3.") and word.endswith("-minimal")
    )
    for folder in (HOME / "debs", ARM_ROOT, HOME / "wheels", ARM_SITE):
        folder.mkdir(parents=True, exist_ok=True)
    packages = [f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"]
    # apt drops its rights to a user who cannot write here unless told otherwise.
    _call(
        *("apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq"),
        *(f"{package}:arm64" for package in (*packages, *ARM_LIBRARIES)),
        folder=HOME / "debs",
    )
    for package in sorted((HOME / "debs").glob("*.deb")):
        _call("dpkg", "-x", package, ARM_ROOT)
    platforms = (f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 17))
    _call(
        *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"),
        *(f"--python-version={version}", "--implementation=cp", *platforms, "-d", HOME / "wheels"),
        *ARM_WHEELS,
    )
    for wheel in sorted((HOME / "wheels").glob("*.whl")):
        _call(sys.executable, "-m", "zipfile", "-e", wheel, ARM_SITE)
    ARM_READY.touch()


def _call(*command: str | Path, folder: Path | None = None) -> None:
    subprocess.run([str(word) for word in command], cwd=folder, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    install()
