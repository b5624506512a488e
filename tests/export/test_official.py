"""The gates of official checkpoints: what is published passes, and each published figure that is missed is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export import gates as gates_of
from export import official, published
from export.errors import ExportError
from runtime.tokenization.wordpiece import WordPiece
from tests.paths import SHARED

HUB = "jinaai/jina-embeddings-v2-"
GOLDEN = SHARED / "data" / "tokenizers" / "golden"
NAMES = list(published.OFFICIAL)


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (f"{HUB}small-en", f"{HUB}small-en"),
        (f"{HUB}base-zh@main", f"{HUB}base-zh"),
        ("downloads/jina-embeddings-v2-small-en/", f"{HUB}small-en"),
        ("/cache/models--jinaai--jina-embeddings-v2-base-code/snapshots/0123abcd", f"{HUB}base-code"),
        ("jinaai/jina-embedding-b-en-v1", "jinaai/jina-embedding-b-en-v1"),
        ("someone/jina-embeddings-v2-small-en-finetuned", None),
        ("jina-bert", None),
        (None, None),
    ],
)
def test_official_names_are_recognised(candidate: str | None, name: str | None) -> None:
    assert official.official_name(candidate) == name
    assert official.official_name(None, candidate) == name


class Published:
    """A subject that gives what is published about a checkpoint, as ids that stand for texts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.texts: dict[tuple[int, ...], str] = {}
        self.known: dict[str, list[int]] = {}
        self.means: dict[str, np.ndarray] = {}
        self.corner: np.ndarray | None = None
        self.scores: dict[tuple[str, str], float] = {}
        pairs = []
        for gate in published.OFFICIAL[name].gates:
            match gate:
                case gates_of.Ids():
                    self.known[gate.text] = list(gate.expected)
                case gates_of.Digits():
                    vector = np.zeros(40)
                    vector[gate.first : gate.first + len(gate.values)] = gate.values
                    vector[20] = math.sqrt(1 - vector @ vector) if gate.unit else 3.0
                    self.means[gate.text] = vector * (7 if gate.unit else 1)
                case gates_of.Direction():
                    unit = 1 if abs(gate.start[0]) < 0.1 and not gate.end else gate.norm
                    vector = np.zeros(40)
                    vector[: len(gate.start)] = np.array(gate.start) / unit
                    vector[40 - len(gate.end) :] = np.array(gate.end) / unit
                    self.means[gate.text] = vector * gate.norm
                    free = 20 + len(pairs)
                    self.means[gate.text][free] = gate.norm * math.sqrt(1 - vector @ vector)
                case gates_of.PairCosine():
                    pairs.append(gate)
                case gates_of.HiddenStates():
                    self.corner = np.array(gate.values)
                case gates_of.Scores():
                    self.scores |= {
                        (gate.query, document): value
                        for document, value in zip(gate.documents, gate.values, strict=True)
                    }
        for gate in pairs:  # the second text turned so that the cosine is as published
            one, two = (self.means[text] / np.linalg.norm(self.means[text]) for text in gate.texts)
            rest, spare = 1 - two @ two + two[20] ** 2, two.copy()
            spare[20] = 0
            spare[20] = (gate.cosine - one @ spare) / one[20]
            spare[21] = math.sqrt(rest - spare[20] ** 2)
            self.means[gate.texts[1]] = spare * np.linalg.norm(self.means[gate.texts[1]])

    def score(self, query: str, document: str) -> float:
        return self.scores[query, document]

    def ids(self, text: str) -> list[int]:
        ids = self.known.get(text, [10_000 + len(self.texts)])
        self.texts[tuple(ids)] = text
        return ids

    def hidden(self, ids: Sequence[int], mask: Sequence[int]) -> np.ndarray:
        if tuple(ids) in self.texts:
            return np.repeat(self.means[self.texts[tuple(ids)]][None], len(ids), axis=0)
        states = np.zeros((len(ids), 40))
        assert self.corner is not None
        states[1:4, 1:4] = self.corner
        return states


def certain(name: str) -> official.Known:
    return official.Known(name, "its name", True)


def without_hashes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts whose hashes alone are published cannot be made up."""
    entry = published.OFFICIAL[name]
    kept = tuple(
        gate for gate in entry.gates if not isinstance(gate, gates_of.IdHash | gates_of.TokenizerHash)
    )
    monkeypatch.setitem(published.OFFICIAL, name, dataclasses.replace(entry, gates=kept))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_published_passes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hashes(name, monkeypatch)
    figures = official.check(certain(name), Published(name, tmp_path))
    gates = published.OFFICIAL[name].gates
    assert figures["name"] == name
    assert isinstance(figures["gates"], list)
    assert len(figures["gates"]) == len(gates) > 0
    assert all(gate["figure"] and gate["source"] and gate["passed"] for gate in figures["gates"])


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_that_is_missed_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_hashes(name, monkeypatch)
    for gate in published.OFFICIAL[name].gates:
        subject = Published(name, tmp_path)
        match gate:
            case gates_of.Ids():
                subject.known[gate.text] = subject.known[gate.text][:-1]
            case gates_of.Digits() | gates_of.Direction():
                subject.means[gate.text] = subject.means[gate.text] + 0.5
            case gates_of.PairCosine():
                subject.means[gate.texts[1]][21] *= -1
                subject.means[gate.texts[1]][20] += 4
            case gates_of.HiddenStates():
                assert subject.corner is not None
                subject.corner[0, 0] += 0.01
            case gates_of.Scores():
                subject.scores[gate.query, gate.documents[0]] += 0.01
        with pytest.raises(ExportError) as caught:
            official.check(certain(name), subject)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "published" in str(caught.value) or "publishes" in str(caught.value)


def test_not_a_number_is_a_miss(tmp_path: Path) -> None:
    name = f"{HUB}small-en"
    subject = Published(name, tmp_path)
    for text in subject.means:
        subject.means[text] = subject.means[text] * math.nan
    with pytest.raises(ExportError, match="nan away"):
        official.check(certain(name), subject)


def test_weights_are_known_by_their_vectors(tmp_path: Path) -> None:
    name = f"{HUB}base-code"
    subject = Published(name, tmp_path)
    shape = published.OFFICIAL[name].shape
    assert official.identify([None, "mine"], shape, subject) == official.Known(
        name, "the vector of 'hello world'", True
    )
    assert official.identify([], ("jinabert", *shape[1:]), Published(name, tmp_path)) is None
    other = Published(name, tmp_path)
    other.means["hello world"] = other.means["hello world"][::-1]
    assert official.identify([], shape, other) is None
    assert official.identify([name], shape, other) == certain(name)


def test_weights_are_known_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{HUB}base-de"
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    entry = dataclasses.replace(published.OFFICIAL[name], weights=("0" * 64, digest))
    monkeypatch.setitem(published.OFFICIAL, name, entry)
    subject = Published(name, tmp_path)
    subject.means["hello world"] = -subject.means["hello world"]  # read wrongly
    known = official.identify(["mine"], entry.shape, subject)
    assert known == official.Known(name, "the hash of model.safetensors", True)
    with pytest.raises(ExportError, match=r"base-de, known by the hash of model\.safetensors: the vector of"):
        official.check(known, subject)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert official.identify(["mine"], entry.shape, subject) is None


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_files_tell_what_a_checkpoint_was_made_from(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine-tuned checkpoint has them too: what it misses is said, and refuses nothing."""
    name = f"{HUB}base-code"
    (tmp_path / file).write_bytes(b"{}")
    entry = dataclasses.replace(published.OFFICIAL[name], files=(hashlib.sha256(b"{}").hexdigest(),))
    monkeypatch.setitem(published.OFFICIAL, name, entry)
    without_hashes(name, monkeypatch)
    subject = Published(name, tmp_path)
    subject.means["hello world"] = -subject.means["hello world"]
    known = official.identify(["mine"], entry.shape, subject)
    assert known == official.Known(name, f"the hash of {file}", False)
    missed = [gate["what"] for gate in official.check(known, subject)["gates"] if not gate["passed"]]
    assert missed == ["the vector of 'hello world'"]


def test_the_tokenizers_hash_tells_what_a_checkpoint_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{HUB}base-de"
    entry = published.OFFICIAL[name]
    digest = hashlib.sha256(str([1, 2, 3]).encode()).hexdigest()
    gates = (*entry.gates, gates_of.IdHash("x", "a text", digest))
    gates = tuple(gate for gate in gates if not isinstance(gate, gates_of.IdHash) or gate.digest == digest)
    monkeypatch.setitem(published.OFFICIAL, name, dataclasses.replace(entry, gates=gates))
    subject = Published(name, tmp_path)
    subject.means["hello world"] = -subject.means["hello world"]
    assert official.identify(["mine"], entry.shape, subject) is None
    subject.known["a text"] = [1, 2, 3]
    known = official.identify(["mine"], entry.shape, subject)
    assert known == official.Known(name, "its shape and the hash of its tokenizer", False)


def test_published_hashes_of_files() -> None:
    for name, entry in published.OFFICIAL.items():
        digests = (*entry.files, *entry.weights)
        assert len(set(digests)) == len(digests)
        assert all(len(digest) == 64 and int(digest, 16) for digest in digests), name


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/data/tokenizers")
def test_hashes_of_base_codes_files_are_mobiuss() -> None:
    golden = json.loads((GOLDEN / "base-code_files.json").read_text(encoding="utf-8"))
    digests = {digest for _, digest in golden["files"].values()}
    assert {*published.OFFICIAL[f"{HUB}base-code"].files} <= digests


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/data/tokenizers")
def test_hashes_are_llama_cpps() -> None:
    golden = json.loads((GOLDEN / "llamacpp_check.json").read_text(encoding="utf-8"))
    assert golden["text"] == published.LLAMA_TEXT
    for names, digest in golden["hash"].items():
        for name in names.split(" = "):
            gates = published.OFFICIAL[name].gates if name in published.OFFICIAL else ()
            hashes = [gate.digest for gate in gates if isinstance(gate, gates_of.IdHash)]
            assert hashes in ([], [digest]), name
            assert hashes or "gpt2" in name, name


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/data/tokenizers")
def test_the_hash_gate_passes_with_the_vocabulary_of_base_en() -> None:
    tokenizer = WordPiece.from_file(SHARED / "data" / "vocab.txt", lower_case=True)

    class Subject(Published):
        def ids(self, text: str) -> list[int]:
            return tokenizer.encode(text)

    name = f"{HUB}base-en"
    gate = next(gate for gate in published.OFFICIAL[name].gates if isinstance(gate, gates_of.IdHash))
    assert gate.run(Subject(name, GOLDEN)).passed


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/data/tokenizers")
def test_full_vectors_pass_where_their_ends_are_compared(tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "base-code_vectors.json").read_text(encoding="utf-8"))
    name = f"{HUB}base-code"
    subject = Published(name, tmp_path)
    for text, vector in zip(golden["texts"], golden["vectors"], strict=True):
        subject.means[text] = np.array(vector)
    gates = published.OFFICIAL[name].gates
    compared = [gate for gate in gates if isinstance(gate, gates_of.Direction | gates_of.PairCosine)]
    assert len(compared) == 3
    for gate in compared:
        outcome = gate.run(subject)
        assert outcome.passed
        assert "1.0000" in outcome.figure or "e-0" in outcome.figure


@pytest.mark.parametrize("as_lists", [False, True])
def test_hash_of_a_tokenizer_file(tmp_path: Path, as_lists: bool) -> None:
    merges = [["a", "b"]] if as_lists else ["a b"]
    model = {"vocab": {"ab": 2, "a": 0, "b": 1}, "merges": merges}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ('["a","b","ab"]', '["a b"]')]
    subject = Published(f"{HUB}base-en", tmp_path)
    assert gates_of.TokenizerHash("x", *hashes).run(subject).passed
    assert not gates_of.TokenizerHash("x", *hashes[::-1]).run(subject).passed
    (tmp_path / "tokenizer.json").unlink()
    assert gates_of.TokenizerHash("x", *hashes).run(subject) is None
