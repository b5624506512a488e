"""The command line: what goes to standard output, to standard error and to files, and with which exit status."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, embed
from tests.paths import ROOT


class Run:
    """A finished run."""

    def __init__(self, status: int, out: bytes, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def vectors(self) -> np.ndarray:
        return np.array([row["embedding"] for row in self.rows], np.float32)


@pytest.fixture
def run(tiny_folder: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch):
    """Call main() with the tiny model."""

    def call(*arguments: str, stdin: bytes | None = None) -> Run:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = embed.main(["--model", str(tiny_folder), *arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        out, err = capfdbinary.readouterr()
        return Run(status, out, err.decode())

    return call


def process(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runtime.embed", "--model", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_arguments_become_json_lines_alone_on_standard_output(run, tiny: Embedder) -> None:
    result = run("hello world", "a b", "")
    assert (result.status, result.err) == (0, "")
    assert [row["index"] for row in result.rows] == [0, 1, 2]
    assert np.array_equal(result.vectors, tiny.encode(["hello world", "a b", ""]))


@pytest.mark.parametrize("way", ["file", "dash", "pipe"])
def test_lines_of_a_file_or_a_pipe(run, tiny: Embedder, tmp_path: Path, way: str) -> None:
    data = b"\xef\xbb\xbfhello\r\n\r\na b"
    (tmp_path / "in.txt").write_bytes(data)
    if way == "file":
        result = run("--input", str(tmp_path / "in.txt"))
    else:
        result = run(*(["--input", "-"] if way == "dash" else []), stdin=data)
    assert result.status == 0
    assert np.array_equal(result.vectors, tiny.encode(["hello", "", "a b"]))


def test_json_lines_by_field_or_by_name_of_the_file(run, tiny: Embedder, tmp_path: Path) -> None:
    data = b'{"text": "hello", "body": "a b"}\n{"text": "", "body": "c"}\n'
    (tmp_path / "in.jsonl").write_bytes(data)
    assert np.array_equal(run("--input", str(tmp_path / "in.jsonl")).vectors, tiny.encode(["hello", ""]))
    result = run("--field", "body", stdin=data)
    assert np.array_equal(result.vectors, tiny.encode(["a b", "c"]))


def test_windows_change_nothing(run, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.reading.WINDOW_TEXTS", 7)
    texts = [f"{'a ' * (number % 13)}hello" for number in range(50)]
    result = run("--stats", stdin="\n".join(texts).encode())
    assert [row["index"] for row in result.rows] == list(range(50))
    assert np.array_equal(result.vectors, tiny.encode(texts))
    assert "texts 50, tokens " in result.err


def test_json_and_text(run, tiny: Embedder) -> None:
    expected = tiny.encode(["hello", "a"])
    document = json.loads(run("hello", "a", "--format", "json").out)
    assert np.array_equal(np.array([row["embedding"] for row in document], np.float32), expected)
    text = run("hello", "a", "--format", "text").out.decode()
    assert np.array_equal(np.array([line.split() for line in text.splitlines()], np.float32), expected)


def test_npy_goes_to_a_file(run, tiny: Embedder, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    result = run("hello", "a", "--format", "npy", "--output", str(target))
    assert (result.status, result.out, result.err) == (0, b"", "")
    assert np.array_equal(np.load(target), tiny.encode(["hello", "a"]))
    assert run("x", "--format", "npy").status == 2
    assert run("--format", "npy", "--output", str(tmp_path / "none.npy"), stdin=b"").status == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 16)


def test_an_existing_output_needs_force(run, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    result = run("hello", "--output", str(target))
    assert result.status == 2
    assert "--force" in result.err
    assert target.read_text() == "old"
    assert run("hello", "--output", str(target), "--force").status == 0
    assert json.loads(target.read_text())["index"] == 0


def test_similarity_is_a_matrix_of_cosines(run, tiny: Embedder) -> None:
    texts = ["hello", "a b", "c"]
    expected = tiny.similarity(texts, texts)
    out = run("--similarity", *texts).out.decode()
    assert np.allclose(np.array([line.split() for line in out.splitlines()], np.float32), expected, atol=1e-6)
    row = run("--similarity", *texts, "--format", "jsonl", "--no-normalize").rows[1]
    assert np.allclose(row["similarity"], expected[1], atol=1e-6)


def test_options_reach_encode(run, tiny: Embedder) -> None:
    text = "a b c d e f g h"
    assert np.array_equal(run(text, "--max-length", "5").vectors[0], tiny.encode(text, max_length=5))
    assert np.array_equal(run(text, "--no-normalize").vectors[0], tiny.encode(text, normalize=False))
    assert np.array_equal(run(text, "--threads", "1", "--verify").vectors[0], tiny.encode(text))


def test_cut_texts_are_reported(run) -> None:
    long = "a " * 100
    result = run("a", long)
    assert result.status == 0
    assert "1 of 2 texts were cut to 32 tokens (70 tokens lost)" in result.err
    assert run("a", long, "--quiet").err == ""
    assert "truncated texts 1, cut tokens 70" in run("a", long, "--stats").err


def test_overflow_error_names_the_text(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.reading.WINDOW_TEXTS", 2)
    result = run("--overflow", "error", stdin=b"a\nb\nc\n" + b"d " * 50)
    assert result.status == 2
    assert "text 4 has 52 tokens, more than 32" in result.err
    assert len(result.err.splitlines()) == 1


def test_chunks_carry_span_and_text(run, tiny: Embedder) -> None:
    text = "hello world, a b c d e f g"
    rows = run("--chunks", "4", "--overlap", "1", "", text).rows
    expected = tiny.encode_chunks(text, 4, 1)
    assert len(rows) == len(expected) == 3
    for number, (row, chunk) in enumerate(zip(rows, expected, strict=True)):
        assert [row[name] for name in ("index", "chunk", "start", "end", "text")] == [1, number, *chunk[:3]]
        assert np.array_equal(np.array(row["embedding"], np.float32), chunk.vector)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "nowhere.txt"],
        ["--input", "."],
        ["text", "--input", "-"],
        ["text", "--field", "body"],
        ["text", "--force"],
        ["text", "--overlap", "3"],
        ["text", "--chunks", "4", "--format", "text"],
        ["text", "--chunks", "4", "--similarity"],
        ["text", "--chunks", "0"],
        ["text", "--chunks", "4", "--overlap", "4"],
        ["text", "--max-length", "2"],
        ["text", "--threads", "0"],
        ["text", "--model", "nowhere"],
        ["text", "--output", "no/such/folder/x"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_one_line_and_exit_2(run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, b"")
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("embed: ")


@pytest.mark.parametrize("arguments", [["--format", "xml", "a"], ["--threads", "x", "a"], ["--nonsense"]])
def test_what_argparse_refuses_exits_2(run, arguments: list[str]) -> None:
    assert run(*arguments).status == 2


def test_invalid_utf8_is_refused_or_replaced(run, tiny: Embedder) -> None:
    result = run(stdin=b"a\nb\xff\n")
    assert result.status == 2
    assert "line 2, byte 2" in result.err
    assert np.array_equal(
        run("--errors", "replace", stdin=b"a\nb\xff\n").vectors, tiny.encode(["a", "b\ufffd"])
    )


def test_no_output_file_is_left_by_a_failure(run, tmp_path: Path) -> None:
    assert run("--output", str(tmp_path / "out"), stdin=b"a\n\xff").status == 2
    assert list(tmp_path.iterdir()) == []


def test_progress_when_asked_for(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.progress.SECONDS_BETWEEN", 0)
    assert "2 of 2 texts" in run("a", "b", "--progress").err
    assert "3 texts" in run("--progress", stdin=b"a\nb\nc").err
    assert run("a", "b").err == ""


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, runtime.embed\n"
        "try: runtime.embed.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print({'numpy', 'onnxruntime'} & set(sys.modules) or 'light')\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "examples:" in out
    assert "--similarity" in out
    assert out.endswith("light\n")


def test_a_broken_pipe_is_quiet(tiny_folder: Path) -> None:
    child = process(tiny_folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    _, err = child.communicate(b"hello\n" * 3000, timeout=60)
    assert (child.returncode, err) == (141, b"")


def test_a_closed_standard_output_is_one_line(tiny_folder: Path) -> None:
    command = f'exec "{sys.executable}" -m runtime.embed --model "{tiny_folder}" hello >&-'
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "embed: standard output: cannot be written (it is closed)\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("to_file", [False, True])
def test_a_full_disk_is_one_line(tiny_folder: Path, to_file: bool) -> None:
    with open("/dev/full", "wb") as full:
        arguments = ["--output", "/dev/full"] if to_file else []
        child = process(tiny_folder, "hello", *arguments, stdout=subprocess.DEVNULL if to_file else full)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    where = "/dev/full" if to_file else "standard output"
    assert err.decode() == f"embed: {where}: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_being_killed_leaves_the_output_as_it_was(
    tiny_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "out.jsonl"
    child = process(tiny_folder, "--output", str(target), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    child.stdin.write(b"hello\n" * 5000)  # more than one window, and no end
    child.stdin.flush()
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.02)
    child.send_signal(number)
    child.stdin.close()
    assert child.stderr is not None
    err = child.stderr.read()
    assert child.wait(timeout=60) != 0
    child.stderr.close()
    assert not target.exists()
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
        assert err == b"embed: interrupted\n"


def test_works_isolated_optimised_and_in_the_c_locale(tiny_folder: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "from runtime import embed; sys.exit(embed.main(sys.argv[1:]))"
    )
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    outputs = {
        subprocess.run(
            [sys.executable, *flags, "-c", code, "--model", str(tiny_folder), "h\xe9llo", "hello"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            check=True,
        ).stdout
        for flags in ([], ["-I"], ["-OO"])
    }
    assert len(outputs) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
@pytest.mark.parametrize("megabytes", [2, 40, 400])
def test_too_little_memory_is_one_line(tiny_folder: Path, megabytes: int) -> None:
    # The limit is set once the libraries are loaded: what they do with too little to load in is not ours.
    code = (
        "import resource, sys, numpy, onnxruntime\n"
        "from runtime import Embedder, embed\n"
        "Embedder\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + ({megabytes} << 20),) * 2)\n"
        "sys.exit(embed.main(sys.argv[1:]))\n"
    )
    text = "a " * 20_000  # 1.6 GB for the tiny model's plain attention
    options = ["--model", str(tiny_folder), "--threads", "1", "--max-length", "30000"]
    command = [sys.executable, "-c", code, *options, text]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("embed: ")


@pytest.mark.parametrize("module", ["numpy", "onnxruntime"])
def test_a_missing_dependency_is_one_line(run, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\nfrom runtime import embed; sys.exit(embed.main(['a']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "pip install onnxruntime numpy" in result.stderr


PEAK = """
import resource, sys
from runtime import embed
status = embed.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def test_memory_does_not_grow_with_the_number_of_lines(tiny_folder: Path, tmp_path: Path) -> None:
    peaks = []
    for count in (5_000, 60_000):
        source = tmp_path / f"{count}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(count):
                file.write(json.dumps({"text": f"hello {number % 97} world " * 3}) + "\n")
        arguments = ["--model", str(tiny_folder), "--input", str(source), "--threads", "1"]
        arguments += ["--output", str(tmp_path / f"{count}.npy"), "--format", "npy"]
        command = [sys.executable, "-c", PEAK, *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(result.stderr.splitlines()[-1]))
        assert np.load(tmp_path / f"{count}.npy").shape == (count, 16)
    assert (
        peaks[1] - peaks[0] < 8 * 1024
    )  # kilobytes; the vectors alone would take another 3.5 MB, the texts 5 MB


def test_prompts_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import make_model

    folder = make_model(
        tmp_path / "prompted", prompts={"query": "q ", "none": ""}, default_prompt_name="query"
    )

    def run(*arguments: str) -> tuple[str, str]:
        assert embed.main(["--model", str(folder), "--threads", "1", *arguments]) == 0
        output = capfd.readouterr()
        return output.out, output.err

    by_default, said = run("a", "--stats")
    assert "prompt 'q ' (query)" in said
    assert run("a", "--prompt-name", "query")[0] == by_default
    assert run("a", "--prompt", "q ")[0] == by_default
    assert run("q a", "--prompt", "")[0].split("embedding")[1] == by_default.split("embedding")[1]
    plain, said = run("a", "--prompt-name", "none", "--stats")
    assert plain != by_default
    assert "prompt" not in said
    assert "q" not in run("a b", "--chunks", "9", "--prompt-name", "query")[0].split('"text"')[1]
    assert embed.main(["--model", str(folder), "a", "--prompt-name", "other"]) == 2
    assert "prompt_name='other'" in capfd.readouterr().err


def test_the_folder_says_whether_vectors_have_length_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny import make_model

    folder = make_model(tmp_path / "raw", normalize=False)
    lengths = []
    for options in ([], ["--normalize"], ["--no-normalize"]):
        assert embed.main(["--model", str(folder), "--threads", "1", "--format", "text", "a", *options]) == 0
        lengths.append(float(np.linalg.norm([float(one) for one in capfd.readouterr().out.split()])))
    assert lengths[0] == lengths[2] != pytest.approx(1)
    assert lengths[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "data", "arguments", "expected"),
    [
        ("in.json", b'[{"text": "hello"}, {"text": "a"}]', [], ["hello", "a"]),
        ("in.txt", b'[{"text": "hello"},\n {"text": "a"}]', [], ["hello", "a"]),
        ("in.csv", b"id,text\n1,hello\n\n2,a\n", [], ["hello", "a"]),
        ("in.tsv", b"id\tbody\n1\thello\n", ["--field", "body"], ["hello"]),
        ("in.json", b'{"doc": {"body": "hello"}}\n', ["--field", "doc.body"], ["hello"]),
        ("in.txt", "\ufeffhello\r\nwörld\r\n".encode("utf-16-le"), [], ["hello", "wörld"]),
        ("in.csv", "text\ncaf\xe9\n".encode("cp1252"), ["--encoding", "cp1252"], ["café"]),
        ("in.txt", gzip.compress(b"hello\na\n", mtime=0), [], ["hello", "a"]),
        ("in.jsonl.gz", gzip.compress(b'{"text": "hello"}\n\n', mtime=0), [], ["hello"]),
        ("in.tsv", b'id\ttext\n1\t"a\n', ["--quoting", "none"], ['"a']),
        ("in.json", b'{"text": "hello"}', ["--input-format", "text"], ['{"text": "hello"}']),
    ],
)
def test_inputs_are_what_their_first_bytes_say(
    run, tiny: Embedder, tmp_path: Path, name: str, data: bytes, arguments: list[str], expected: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    result = run("--input", str(tmp_path / name), *arguments)
    assert result.status == 0, result.err
    assert np.array_equal(result.vectors, tiny.encode(expected))


def test_what_an_input_was_taken_for_and_what_was_skipped_is_said(run, tmp_path: Path) -> None:
    result = run(stdin=b'{"text": "a"}\n\n{"text": "b"}\n')
    assert len(result.rows) == 2
    assert (
        "embed: standard input: read as JSON lines, field 'text'; --input-format text reads its lines"
        in result.err
    )
    assert "embed: standard input: 1 blank line was skipped" in result.err
    assert run("--quiet", stdin=b'{"text": "a"}\n\n').err == ""
    result = run(stdin=b"")
    assert (result.status, result.out) == (0, b"")
    assert "embed: standard input: it is empty: no texts, no vectors" in result.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is a folder: name a file, or embed all of it with python -m runtime.bulk"),
        ("none.txt", "there is no such file (a text goes without --input)"),
        ("in.csv", "no field 'text' (it has: id, body): name another with --field"),
        ("in.xlsx", "a zip archive or an Office document: unpack it, or save the sheet as CSV"),
        ("in.gz", "gzip data is cut off or damaged"),
    ],
)
def test_an_input_that_cannot_be_read_names_the_remedy(run, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,body\n1,a\n")
    (tmp_path / "in.xlsx").write_bytes(b"PK\x03\x04\0\0")
    (tmp_path / "in.gz").write_bytes(gzip.compress(os.urandom(500).hex().encode())[:300])
    result = run("--input", str(tmp_path / name))
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
