"""What every command line shares: its parser, the types and options of its arguments, and how it ends.

Exit status: 0 all went well, 1 an output or the machine failed, 2 an argument, an input or the model is wrong,
130 Ctrl-C, 141 nobody reads standard output any more (as of any filter before `head`), 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from runtime import __version__, files
from runtime.errors import JinaBertError

from .reading import FORMATS, QUOTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

LARGEST = (1 << 31) - 1
SIGTERM_STATUS = 143
BROKEN_PIPE_STATUS = 141  # 128 + SIGPIPE, what a shell shows of a filter that this signal ended


class Terminated(BaseException):
    """SIGTERM came."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; it ends a command too, see run."""

    def __init__(self, module: str, description: str, epilog: str, name: str | None = None) -> None:
        """Make a parser with --help and --version.

        :param module: what `python -m` runs.
        :param description: one sentence.
        :param epilog: examples and what is good to know, printed as it is.
        :param name: how lines on standard error begin; None for `python -m module`.
        """
        command = os.path.basename(sys.argv[0])  # a console script, or a path of python -m
        super().__init__(
            prog=command if command.startswith("jinabert-") else f"python -m {module}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.name = name or self.prog
        version = f"jinabert-runtime {__version__}"
        self.add_argument("--version", action="version", version=version, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        """End with one line that names what is wrong; exit status 2."""
        message = message.removeprefix("argument ").replace(": =", " ", 1)  # see _refusal
        self.exit(self.fail(f"{message}{self._nearest(message)} (--help shows the options)", 2))

    def _nearest(self, message: str) -> str:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        if not unknown.startswith("--"):
            return ""
        import difflib

        near = difflib.get_close_matches(unknown, self._option_string_actions, 1)
        return f": did you mean {near[0]}?" if near else ""

    def say(self, message: object) -> None:
        """Write a line on standard error, see say."""
        say(self.name, message)

    def fail(self, message: object, status: int) -> int:
        """Say why the command ends.

        :param message: one line.
        :param status: exit status.
        :return: the exit status.
        """
        self.say(message)
        return status

    def run(
        self,
        work: Callable[[argparse.Namespace], int],
        arguments: Sequence[str] | None = None,
        *,
        unfinished: str = "",
        machine_status: int = 1,
        sigterm_status: int | None = None,
    ) -> int:
        """Parse the arguments and do the work; every error that can be expected is one line and an exit status.

        :param work: takes the parsed arguments, returns an exit status.
        :param arguments: without the program's name; None for sys.argv.
        :param unfinished: what to add when the work is cut off: what becomes of what is done.
        :param machine_status: exit status of an OSError.
        :param sigterm_status: have SIGTERM end the work as Ctrl-C does, with this exit status; None: at once.
        :return: exit status.
        """
        ended_by: type[BaseException] | None = None

        def end(number: int, _: object) -> NoReturn:
            nonlocal ended_by
            ended_by = Terminated if number == signal.SIGTERM else KeyboardInterrupt
            raise ended_by

        try:
            options = self.parse_args(arguments)
            with _handled(end if sigterm_status is not None else None):
                try:
                    return work(options)
                except Exception:
                    if ended_by:  # while a library's code ran, which made an error of its own of it
                        raise ended_by from None
                    raise
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
        except BrokenPipeError:
            discard(1)
            return BROKEN_PIPE_STATUS
        except MemoryError as error:
            return self.fail(f"{str(error) or 'not enough memory'}{unfinished}", 1)
        except JinaBertError as error:
            return self.fail(error, 2)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            return self.fail(f"{name}{files.explain(error)}{unfinished}", machine_status)
        except KeyboardInterrupt:
            discard(1)
            return self.fail(f"interrupted{unfinished}", 130)
        except Terminated:
            discard(1)
            what = "stopped by SIGTERM" if sigterm_status == SIGTERM_STATUS else "interrupted"
            return self.fail(f"{what}{unfinished}", sigterm_status or SIGTERM_STATUS)


@contextlib.contextmanager
def _handled(end: Callable[[int, object], NoReturn] | None) -> Iterator[None]:
    """Have SIGINT and SIGTERM call a function, in the main thread: others can have no handlers."""
    import threading

    if end is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(name: str, message: object) -> None:
    """Write a line on standard error; where that is closed or full, nobody hears it and nothing fails.

    :param name: of the command.
    :param message: line breaks in it become blanks.
    """
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{name}: {' '.join(str(message).split())}\n")
            sys.stderr.flush()
        except OSError:
            discard(2)


def discard(stream: int) -> None:
    """Send what is still written to a stream nowhere: the interpreter flushes its streams at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def integer(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """Make an argument type.

    :param least: smallest value allowed.
    :param most: largest.
    :return: what takes an argument's text and gives an integer, or refuses it.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _refusal(text, "expected an integer") from None
        if value < least:
            raise _refusal(text, f"must be at least {least:,}")
        if value > most:
            raise _refusal(text, f"must be at most {most:,}")
        return value

    return parse


def _refusal(text: str, reason: str) -> argparse.ArgumentTypeError:
    # argparse puts "argument --name: " before it; Parser.error makes "--name TEXT: reason" of both.
    return argparse.ArgumentTypeError(f"={text}: {reason}")


class _Threads(argparse.Action):
    """Stores the threads to compute with, as many as can help."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: Any, value: Any, _: str | None = None
    ) -> None:
        from runtime.resources import most_threads

        most = most_threads()
        if value > most and isinstance(parser, Parser):
            parser.say(f"--threads {value:,}: more than {most} do not help here: {most} are used")
        setattr(options, self.dest, min(value, most))


# Options that several commands have: one name, one type, one help text.


def add_model(group: Any, *aliases: str) -> None:
    """Add --model, which may have other names too, and --verify."""
    text = "model folder made by python -m export (default: the bundled model)"
    group.add_argument("--model", *aliases, metavar="DIR", help=text)
    group.add_argument(
        "--verify", action="store_true", help="compare the SHA-256 of the model's files before using it"
    )


THREADS_HELP = "threads to compute with (default: the CPU cores this process may use)"


def add_threads(group: Any, text: str = THREADS_HELP) -> None:
    """Add --threads, bounded by what can help."""
    group.add_argument("--threads", type=integer(1), action=_Threads, metavar="N", help=text)


def add_max_length(group: Any, text: str = "most tokens of a text (default: the model's)") -> None:
    """Add --max-length."""
    group.add_argument("--max-length", type=integer(3), metavar="N", help=text)


def add_overflow(group: Any, text: str = "what to do with a longer text (default: %(default)s)") -> None:
    """Add --overflow."""
    group.add_argument("--overflow", choices=("truncate", "error"), default="truncate", help=text)


def add_dimensions(group: Any) -> None:
    """Add --dimensions.

    :param group: of arguments.
    """
    group.add_argument(
        "--dimensions",
        type=integer(1),
        metavar="N",
        help="keep the first N numbers of a vector, of a model exported with --rotate (default: all)",
    )


def add_no_normalize(group: Any) -> None:
    """Add --no-normalize."""
    group.add_argument(
        "--no-normalize", action="store_true", help="leave vectors at their length instead of making it 1"
    )


def add_normalize(group: Any) -> None:
    """Add --normalize and --no-normalize; without either the model folder decides."""
    either = group.add_mutually_exclusive_group()
    text = "whether to give vectors of length 1 (default: what the model folder says)"
    either.add_argument("--normalize", action="store_true", default=None, help=text)
    either.add_argument("--no-normalize", action="store_false", dest="normalize", help=argparse.SUPPRESS)


def add_prompt(group: Any) -> None:
    """Add --prompt-name and --prompt."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="put this prompt of the model folder before each text (default: the folder's default prompt, if any)",
    )
    either.add_argument("--prompt", metavar="TEXT", help="put TEXT before each text; '' for none")


def add_field(group: Any, text: str, default: str | None = None) -> None:
    """Add --field, which is also called --text-column."""
    group.add_argument("--field", "--text-column", metavar="NAME", default=default, help=text)


def add_reading(group: Any) -> None:
    """Add the options that say how an input is read, see sources.ReadOptions."""
    add = group.add_argument
    add(
        "--input-format",
        choices=FORMATS,
        help="what the input is (default: by its first bytes, CSV by its name)",
    )
    add("--encoding", metavar="NAME", help="such as cp1252 (default: UTF-8, or UTF-16 by its mark)")
    add(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        help="text that cannot be decoded: strict refuses its row, replace reads U+FFFD (default: %(default)s)",
    )
    add("--delimiter", metavar="C", help="of CSV (default: the one by which there is a column --field)")
    add(
        "--quoting",
        choices=QUOTINGS,
        default="auto",
        help="of CSV. auto: a quoted field may go on over lines that do not look like rows; multiline: over any; none:"
        " quotes are characters like any other (default: %(default)s)",
    )


def add_force(group: Any, text: str) -> None:
    """Add --force."""
    group.add_argument("--force", action="store_true", help=text)


def add_progress(group: Any) -> None:
    """Add --progress and --no-progress."""
    group.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="draw progress (default: on a terminal)"
    )
