"""What all command lines share: how they refuse an argument, what --version prints, how they end."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module

import pytest

from runtime import OutOfMemoryError, __version__
from runtime.cli import command
from runtime.errors import InputError

COMMANDS = ["runtime.embed", "runtime.serve.__main__", "runtime.bulk.__main__"]


@pytest.fixture
def parser() -> command.Parser:
    made = command.Parser("runtime.nothing", "Do nothing.", "examples: none", name="nothing")
    command.add_threads(made)
    command.add_max_length(made)
    command.add_field(made, "field with the text")
    return made


def run(parser: command.Parser, *arguments: str) -> int:
    return parser.run(lambda options: 0, arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--threads=-1"], "--threads -1: must be at least 1"),
        (["--threads", "many"], "--threads many: expected an integer"),
        (["--threads", "99999999999"], "--threads 99999999999: must be at most 2,147,483,647"),
        (["--max-length", "2"], "--max-length 2: must be at least 3"),
        (["--threads"], "--threads: expected one argument"),
        (["--thread", "1"], "unrecognized arguments: --thread 1: did you mean --threads?"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["what"], "unrecognized arguments: what"),
    ],
)
def test_a_refused_argument_is_one_line(
    parser: command.Parser, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parser, *arguments) == 2
    assert capsys.readouterr().err == f"nothing: {line} (--help shows the options)\n"


def test_an_option_with_two_names(parser: command.Parser) -> None:
    assert parser.parse_args(["--field", "body"]) == parser.parse_args(["--text-column", "body"])


def test_threads_are_bounded_and_that_is_said(
    parser: command.Parser, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = parser.parse_args(["--threads", "100000"]).threads
    assert 16 <= threads < 100_000
    assert (
        capsys.readouterr().err
        == f"nothing: --threads 100,000: more than {threads} do not help here: {threads} are used\n"
    )
    assert parser.parse_args(["--threads", "2"]).threads == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_a_version(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(module).main(["--version"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"jinabert-runtime {__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("bad input"), 2, "bad input"),
        (OutOfMemoryError("no room"), 1, "no room; kept"),
        (MemoryError(), 1, "not enough memory; kept"),
        (
            OSError(28, "No space left on device", "here"),
            1,
            "here: No space left on device (free some space, or choose another place); kept",
        ),
        (KeyboardInterrupt(), 130, "interrupted; kept"),
    ],
)
def test_an_expected_error_is_one_line_and_a_status(
    parser: command.Parser,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "discard", lambda stream: None)
    assert parser.run(raising(error), [], unfinished="; kept") == status
    assert capsys.readouterr().err == f"nothing: {line}\n"


def test_nobody_who_reads_is_no_error(
    parser: command.Parser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "discard", lambda stream: None)
    assert parser.run(raising(BrokenPipeError()), []) == 141
    assert capsys.readouterr().err == ""


def test_a_bug_keeps_its_traceback(parser: command.Parser) -> None:
    with pytest.raises(ZeroDivisionError):
        parser.run(raising(ZeroDivisionError()), [])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM; kept"), (signal.SIGINT, 130, "interrupted; kept")],
)
def test_a_signal_that_a_library_turns_into_an_error(
    parser: command.Parser,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(options: Namespace) -> int:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise RuntimeError("the library failed") from None
        return 0

    monkeypatch.setattr(command, "discard", lambda stream: None)
    before = signal.getsignal(number)
    assert parser.run(work, [], unfinished="; kept", sigterm_status=143) == status
    assert capsys.readouterr().err == f"nothing: {line}\n"
    assert signal.getsignal(number) == before


def raising(error: BaseException) -> Callable[[Namespace], int]:
    def work(options: Namespace) -> int:
        raise error

    return work
