"""`python -m runtime.serve`: embeddings over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from runtime.api.context import MAX_BODY_BYTES, MAX_REQUEST_TOKENS, MAX_TEXTS
from runtime.cli import command
from runtime.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .settings import ServerSettings

INSTALL = 'pip install "jinabert-runtime[serve]"'
EXTRA = ("msgspec", "prometheus_client", "starlette", "uvicorn", "zstandard")
KEEP_ALIVE_SECONDS = 65  # longer than the 60 of proxies, which so never meet a connection just closed
SWITCH_SECONDS = (
    0.0005  # that others wait for Python's lock, which a thread that makes tokens of a document holds
)
OPEN_FILES = 65_536  # connections that wait for a next request are files too; the usual limit is 1,024

EXAMPLES = """\
examples:
  python -m runtime.serve
  curl -s http://127.0.0.1:8080/v1/embeddings -H 'Content-Type: application/json' \\
      -d '{"input": ["one text", "another"]}'
  JINABERT_API_KEY=... python -m runtime.serve --host 0.0.0.0 --port 80 --model jina-small
  python -m runtime.serve --port 0            # a free port, which the first line on standard error names

paths: POST /v1/embeddings, GET /v1/models (OpenAI, Jina); POST /embed, /similarity, /tokenize, GET /info
(text-embeddings-inference, whose option names mean the same here); GET /health, GET /metrics (Prometheus),
GET /openapi.json, GET /docs, GET / (a page to try it).
Nothing of a request is logged. SIGTERM: no new connections, those that are being answered are answered, exit 0.
environment: JINABERT_API_KEY, a key that every request but those for health and pages has to bring as
Authorization: Bearer KEY.
exit status: 0 ended by SIGTERM, 1 the address is taken or the machine failed, 2 an argument or the model is
wrong, 130 Ctrl-C.
"""


def parser() -> command.Parser:
    """Make the parser of the command line."""
    options = command.Parser(
        "runtime.serve",
        "Serve embeddings over HTTP, as OpenAI's, Jina's and text-embeddings-inference's APIs do.",
        EXAMPLES,
    )
    add = options.add_argument
    add(
        "--host",
        "--hostname",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="where to listen (default: %(default)s)",
    )
    add(
        "--port",
        metavar="N",
        type=command.integer(0, 65_535),
        default=8080,
        help="0 for any that is free (default: %(default)s)",
    )
    command.add_model(options, "--model-id")
    command.add_threads(options)
    add(
        "--api-key",
        metavar="KEY",
        help="key that requests have to bring; other users of the machine see it in the list of processes",
    )
    add(
        "--api-key-file",
        metavar="FILE",
        help="keys that requests may bring, one a line, besides JINABERT_API_KEY",
    )
    add(
        "--cors-origin",
        "--cors-allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages of this origin call from a browser, such as https://example.com; * for any; may be repeated",
    )
    add(
        "--accept-token-ids",
        action="store_true",
        help="inputs may be token ids of this model, as /tokenize gives them; ids of another tokenizer get vectors "
        "that mean nothing",
    )
    limits = options.add_argument_group("limits")
    add = limits.add_argument
    command.add_max_length(limits)
    add(
        "--max-texts",
        "--max-client-batch-size",
        type=command.integer(1),
        metavar="N",
        default=MAX_TEXTS,
        help="most texts of a request (default: %(default)s)",
    )
    add(
        "--max-request-tokens",
        type=command.integer(3),
        metavar="N",
        default=MAX_REQUEST_TOKENS,
        help="most tokens of a request's texts together (default: %(default)s)",
    )
    add(
        "--max-body-bytes",
        "--payload-limit",
        type=command.integer(2),
        metavar="N",
        default=MAX_BODY_BYTES,
        help="most bytes of a request's body, decompressed (default: %(default)s)",
    )
    add(
        "--max-queue-tokens",
        type=command.integer(3),
        metavar="N",
        help="most tokens that wait or are computed, for short and for long texts each; requests beyond are answered"
        " with 429 (default: twice --max-request-tokens)",
    )
    add(
        "--max-requests",
        "--max-concurrent-requests",
        type=command.integer(1),
        metavar="N",
        default=1024,
        help="most requests that are answered at once; further ones are answered with 429 (default: %(default)s)",
    )
    add(
        "--memory-mb",
        type=command.integer(0),
        metavar="N",
        help="memory that may be used; texts that would not fit are answered with 413; 0 for no limit"
        " (default: the limit of the cgroup)",
    )
    add(
        "--read-seconds",
        type=command.integer(1),
        metavar="N",
        default=30,
        help="how long the head of a request may take to arrive, and then its body, before 408"
        " (default: %(default)s)",
    )
    add(
        "--drain-seconds",
        type=command.integer(0),
        metavar="N",
        default=30,
        help="after SIGTERM, how long requests that are being answered may take before the service shuts down"
        " (default: %(default)s)",
    )
    options.add_argument(
        "--log-requests",
        action="store_true",
        help="a line on standard error for each request: method, path, status, time; nothing of its content",
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: without the program's name; None for sys.argv.
    :return: exit status.
    """
    options = parser()

    def work(given: argparse.Namespace) -> int:
        missing = _missing()
        if missing:
            return options.fail(f"{missing} is not installed: {INSTALL}", 2)
        settings = _settings(given)
        try:
            return _serve(given, settings)
        except KeyboardInterrupt:  # whoever pressed Ctrl-C knows
            return 130
        except OSError as error:
            reason = error.strerror or error
            return options.fail(
                f"{given.host}:{given.port}: cannot listen there ({reason}): choose another --host or --port",
                1,
            )

    return options.run(work, arguments)


def _missing() -> str | None:
    from importlib.util import find_spec

    return next((name for name in EXTRA if find_spec(name) is None), None)


def _settings(options: argparse.Namespace) -> ServerSettings:
    from runtime.api import cors
    from runtime.resources import MEGABYTE, memory_limit

    from .settings import KEY_VARIABLE, ServerSettings, read_keys

    if options.max_queue_tokens is None:
        options.max_queue_tokens = 2 * options.max_request_tokens
    if options.max_queue_tokens < options.max_request_tokens:
        raise InputError(
            f"--max-queue-tokens {options.max_queue_tokens}: less than --max-request-tokens "
            f"({options.max_request_tokens}), so such a request could never be answered; raise the one or "
            "lower the other"
        )
    for origin in options.cors_origin:
        problem = cors.problem(origin)
        if problem:
            raise InputError(f"--cors-origin {origin}: {problem}")
    limit = memory_limit() if options.memory_mb is None else options.memory_mb * MEGABYTE or None
    return ServerSettings(
        model=options.model,
        threads=options.threads,
        verify=options.verify,
        max_length=options.max_length,
        max_texts=options.max_texts,
        max_request_tokens=options.max_request_tokens,
        max_body_bytes=options.max_body_bytes,
        max_queue_tokens=options.max_queue_tokens,
        max_requests=options.max_requests,
        read_seconds=options.read_seconds,
        memory=limit,
        keys=read_keys(os.environ.get(KEY_VARIABLE), options.api_key_file, options.api_key),
        log_requests=options.log_requests,
        accept_token_ids=options.accept_token_ids,
        cors_origins=tuple(options.cors_origin),
    )


def _serve(options: argparse.Namespace, settings: ServerSettings) -> int:
    with _bind(options.host, options.port) as listener:  # first: whether the address is free is known at once
        import uvicorn

        from .application import create
        from .connection import connection_class
        from .engine import Engine
        from .metrics import Metrics

        metrics = Metrics()
        engine = Engine(settings, metrics)
        _raise_open_files()
        # Parser and loop are named: uvicorn would take what happens to be installed, and httptools refuses the upgrade
        # to HTTP/2 that Java's HttpClient offers, where h11 goes on with HTTP/1.1 as it should.
        config = uvicorn.Config(
            create(engine, metrics),
            http=connection_class(settings),
            loop="asyncio",
            access_log=False,
            log_config=None,
            log_level="error",  # not a warning for each request that offers an upgrade
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=options.drain_seconds,
        )
        server = uvicorn.Server(config)

        def end(*_: object) -> None:
            server.should_exit = True

        # While it serves, uvicorn has a handler of its own, which drains. Afterwards it raises the signal again for
        # this one, so that the exit status is 0; before, this one has the service end as soon as it has started.
        signal.signal(signal.SIGTERM, end)
        sys.stderr.write(f"serving {engine.manifest.name} on {_address(listener)}\n")
        if not settings.keys and not _is_loopback(listener):
            sys.stderr.write(
                "anyone who reaches this address can use it: set JINABERT_API_KEY to ask for a key\n"
            )
        sys.stderr.flush()
        sys.setswitchinterval(SWITCH_SECONDS)
        server.run(sockets=[listener])
        return 0


def _bind(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet: nobody can connect before the model is loaded."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _raise_open_files() -> None:
    """Ask for as many open files as many connections need, where the system limits them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(listener: socket.socket) -> bool:
    import ipaddress

    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


if __name__ == "__main__":
    sys.exit(main())
