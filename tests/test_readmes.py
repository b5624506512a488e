"""The READMEs as a new user finds them: every block works when pasted, in order; every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, maxsim
from tests.paths import ROOT
from tests.readme import paste_all

READMES = [
    ROOT / "README.md",
    *(
        file
        for part in ("runtime", "export", "tests", "models")
        for file in sorted((ROOT / part).rglob("README.md"))
    ),
]
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.slow
def test_the_first_readme_on_a_fresh_machine(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("runtime", "export", "models"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, checkout / name)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = paste_all(readme, checkout, str(tmp_path / "venv" / "bin" / "python"), PYTHONPATH="")
    assert '"embedding": [' in said[0]
    assert "Penguins" in said[1]
    assert "It rains." in said[2]


def test_adapters(tmp_path: Path) -> None:
    for library in (
        "langchain_core",
        "langchain_text_splitters",
        "llama_index.core",
        "chromadb",
        "qdrant_client",
    ):
        pytest.importorskip(library)
    readme = (ROOT / "runtime" / "integrations" / "README.md").read_text(encoding="utf-8")
    said = paste_all(readme, tmp_path)
    assert "two cores and four gigabytes" in said[1]
    assert "two cores and four gigabytes" in said[2]
    assert "given away" in said[3]
    assert "It rains." in said[5]
    # Qdrant's sums of weighted maxima are our scores of the same vectors.
    texts = (tmp_path / "report.txt").read_text(encoding="utf-8").split("\n\n")
    with Embedder() as embedder:
        stored = embedder.encode_multivector(texts, dimensions=128, dtype="float16")
        [query] = embedder.encode_multivector(
            ["What happens to the old machine?"], query=True, dimensions=128
        )
    scores = maxsim(query, [each.vectors for each in stored])
    found = re.findall(r"^(\d+) (0\.\d+) ", said[7], re.MULTILINE)
    assert [int(number) for number, _ in found] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([float(score) for _, score in found], np.sort(scores)[::-1], atol=1e-4)
    paste_all(readme, tmp_path)  # and once more


def test_functions(tmp_path: Path) -> None:
    pytest.importorskip("functions_framework")
    readme = (ROOT / "export" / "deploy" / "README.md").read_text(encoding="utf-8")
    paste_all(readme.replace("pip install --quiet functions-framework\n", ""), tmp_path)
    assert '"embedding":[' in (tmp_path / "answer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", READMES, ids=named)
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        other = file if not target else (file.parent / target).resolve()
        assert other.exists(), f"{named(file)}: {target}"
        if anchor and other.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{named(file)}: #{anchor}"


def test_the_first_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
