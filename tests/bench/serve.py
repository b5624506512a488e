"""The HTTP service: texts through it and straight through encode, and how long a query takes beside a long document."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench import corpora
from tests.bench.harness import Block, Spent, Timing, Worker, block, prioritise
from tests.bench.report import Chart, Result, Table, figure
from tests.bench.settings import Settings
from tests.serve.server import Server, running

__all__ = ["serve"]

CONNECTIONS = 4  # clients at once
REQUEST_TEXTS = 64
LONG_TOKENS = 8192
PAUSE = 0.05  # seconds between the queries of a single client
SECONDS = 6.0  # of queries in a round
TIMEOUT = 120
LOADS = {"a query every 50 ms": (1, PAUSE), "4 clients without a pause": (CONNECTIONS, 0.0)}


def serve(settings: Settings) -> Result:
    """Measure both.

    :param settings: see there; cases are "throughput" and "latency".
    :return: a table for each.
    """
    result = Result("serve")
    wanted = settings.cases or {"throughput", "latency"}
    options = ["--model", str(settings.artifacts.model), "--threads", str(settings.threads)]
    with running(settings.folder / "serve.log", options, preexec=prioritise) as server:
        if "throughput" in wanted:
            _throughput(result, server, settings)
        if "latency" in wanted:
            _latency(result, server, settings)
    return result


def _throughput(result: Result, server: Server, settings: Settings) -> None:
    texts = corpora.stsb()[:: 40 if settings.quick else 1]
    file = corpora.save(texts, settings.folder / "serve.json")
    bodies = [
        json.dumps({"input": texts[start : start + REQUEST_TEXTS], "encoding_format": "base64"}).encode()
        for start in range(0, len(texts), REQUEST_TEXTS)
    ]
    direct, through = Timing(), Timing()
    ratios = []
    given = {"model": str(settings.artifacts.model), "threads": settings.threads}
    with Worker("encode", sys.executable, "ours", given) as worker:
        request = {"do": "time", "what": "encode", "file": file, "seconds": 0.0}
        for number in range(settings.rounds):
            jobs: list[tuple[Timing, Callable[[], Block]]] = [
                (direct, lambda: block(worker, request)),
                (through, lambda: _requests(server, bodies)),
            ]
            for timing, measure in jobs[:: 1 if number % 2 else -1]:
                timing.blocks.append(measure())
            ratios.append(through.blocks[-1].seconds / direct.blocks[-1].seconds)
            print(f"throughput: {ratios[-1]:.3f} times encode", file=sys.stderr, flush=True)
    ratio = statistics.median(ratios)
    rows = [
        ["encode", figure(direct.median, "s"), "1"],
        [
            f"HTTP, {CONNECTIONS} connections, {REQUEST_TEXTS} texts a request",
            figure(through.median, "s"),
            f"{ratio:.2f}",
        ],
    ]
    result.tables.append(Table(f"{len(texts):,} texts of STS-B test", ["", "time", "times encode"], rows))
    result.data["throughput"] = {
        "ratios": ratios,
        "ratio": ratio,
        "encode": direct.document(),
        "http": through.document(),
    }


def _requests(server: Server, bodies: Sequence[bytes]) -> Block:
    """All requests from several connections, as fast as they are answered."""
    jobs, lock = iter(bodies), threading.Lock()

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        while True:
            with lock:
                body = next(jobs, None)
            if body is None:
                break
            _ask(connection, body)
        connection.close()

    spent, start = Spent([server.process.pid, os.getpid()]), time.perf_counter()
    _together(client, CONNECTIONS)
    return Block(time.perf_counter() - start, spent.others())


def _latency(result: Result, server: Server, settings: Settings) -> None:
    from runtime import WordPiece

    tokenizer = WordPiece.from_file(settings.artifacts.model / "vocab.txt")
    document = corpora.running(tokenizer, LONG_TOKENS)
    queries = [json.dumps({"input": text, "encoding_format": "base64"}).encode() for text in corpora.stsb()]
    long = json.dumps({"input": document, "encoding_format": "base64"}).encode()
    seconds = 0.5 if settings.quick else SECONDS
    times: dict[tuple[str, bool], list[float]] = {}
    documents = 0
    for number in range(settings.rounds):
        for load, (clients, pause) in LOADS.items():
            for beside in (False, True) if number % 2 else (True, False):
                found, finished = _queries(server, queries, clients, pause, seconds, long if beside else None)
                times.setdefault((load, beside), []).extend(found)
                documents += finished
                share = f"{_percentile(found, 50):.1f} / {_percentile(found, 99):.1f} ms"
                print(f"{load}{', beside a document' * beside}: {share}", file=sys.stderr, flush=True)
    rows = []
    for load in LOADS:
        for beside in (False, True):
            found, alone = times[load, beside], times[load, False]
            row = [f"{load}{f', beside {LONG_TOKENS:,} tokens' * beside}", f"{len(found):,}"]
            for percent in (50, 99):
                value = _percentile(found, percent)
                row += [figure(value, "ms"), f"{value / _percentile(alone, percent):.2f}"]
            rows.append(row)
    head = ["load of single queries", "queries", "p50", "times alone", "p99", "times alone"]
    result.tables.append(
        Table("Short queries over HTTP, with a long document in flight all the time", head, rows)
    )
    series: dict[str, list[float | None]] = {
        name: [_percentile(times[load, beside], percent) for load in LOADS for beside in (False, True)]
        for name, percent in (("p50", 50), ("p99", 99))
    }
    labels = [f"{load}{' + document' * beside}" for load in LOADS for beside in (False, True)]
    result.charts.append(Chart("Short queries", "ms", series, labels, bars=True))
    result.data["latency"] = {
        "documents": documents,
        "ms": [
            {"load": load, "beside": beside, "p50": _percentile(found, 50), "p99": _percentile(found, 99)}
            for (load, beside), found in times.items()
        ],
    }


def _queries(
    server: Server,
    queries: Sequence[bytes],
    clients: int,
    pause: float,
    seconds: float,
    document: bytes | None,
) -> tuple[list[float], int]:
    """Single queries for a while.

    :param document: kept in flight by one more client; None for none.
    :return: milliseconds of each query, and documents answered.
    """
    times: list[float] = []
    documents = 0
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        nonlocal documents
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        turn = number
        while time.perf_counter() < end:
            if number == clients:
                assert document is not None
                _ask(connection, document)
                documents += 1
                continue
            start = time.perf_counter()
            _ask(connection, queries[turn % len(queries)])
            times.append((time.perf_counter() - start) * 1000)
            turn += clients
            time.sleep(pause)
        connection.close()

    _together(client, clients + (document is not None))
    return times, documents


def _ask(connection: http.client.HTTPConnection, body: bytes) -> dict[str, Any]:
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {answer}")
    return answer


def _together(client: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
