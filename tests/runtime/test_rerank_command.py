"""`python -m runtime.rerank` as a user sees it: results, order, one-line errors."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from runtime import Embedder, rerank

PASSAGES = ["a b c", "hello world", "world, hello a", "hello world"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = rerank.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_passages_from_arguments_a_file_and_a_pipe_give_the_same(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny: Embedder,
    tiny_folder: Path,
) -> None:
    model = ("--model", str(tiny_folder))
    file = tmp_path / "passages.txt"
    file.write_text("\n".join(PASSAGES) + "\n", encoding="utf-8")
    rows = tmp_path / "passages.jsonl"
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in PASSAGES), encoding="utf-8")
    code, expected, _ = run(capsys, "hello", *PASSAGES, *model)
    assert code == 0
    found = [json.loads(line) for line in expected.splitlines()]
    ranked = tiny.rerank("hello", PASSAGES)
    assert [(each["index"], each["score"]) for each in found] == [(each.index, each.score) for each in ranked]
    assert all(each["text"] == PASSAGES[each["index"]] for each in found)
    assert run(capsys, "hello", "--input", str(file), *model)[1] == expected
    assert run(capsys, "hello", "--input", str(rows), "--field", "body", *model)[1] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert run(capsys, "hello", *model)[1] == expected
    monkeypatch.setattr(
        "runtime.cli.reading.WINDOW_TEXTS", 1
    )  # the best of several windows are the best of all
    assert run(capsys, "hello", "--input", str(file), *model)[1] == expected
    top = run(capsys, "hello", "--input", str(file), "--top", "2", *model)[1]
    assert top == "".join(expected.splitlines(keepends=True)[:2])


def test_formats(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    _, lines, _ = run(capsys, "hello", *PASSAGES, *model)
    _, array, _ = run(capsys, "hello", *PASSAGES, "--format", "json", *model)
    assert json.loads(array) == [json.loads(line) for line in lines.splitlines()]
    _, text, _ = run(capsys, "hello", *PASSAGES, "--format", "text", "--top", "1", *model)
    score, number, span = text.rstrip("\n").split("\t")
    assert float(score) == pytest.approx(json.loads(lines.splitlines()[0])["score"], abs=1e-4)
    assert span == PASSAGES[int(number)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["", "a"], "QUERY is empty"),
        (["q", "a", "--input", "x"], "TEXT and --input together"),
        (["q", "a", "--top", "0"], "--top 0: must be at least 1"),
        (["q", "--input", "nowhere.txt"], "there is no such file"),
        (["q", "a", "--model", "nowhere"], "'nowhere' does not exist"),
        (["q " * 40, "a"], "the query has 42 tokens"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, arguments: list[str], reason: str
) -> None:
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(tiny_folder)]
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
