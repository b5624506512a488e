"""What only our own runtime can be asked, in the worker's process: parts of an encode, and encodes from threads."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from runtime import Embedder, batching, pooling, tokenized

__all__ = ["MEASURES"]


def _texts(request: dict[str, Any]) -> list[str]:
    with open(request["file"], encoding="utf-8") as file:
        texts: list[str] = json.load(file)
    return texts


def parts(embedder: Embedder, request: dict[str, Any]) -> dict[str, Any]:
    """Encode with a clock around each step.

    :param request: "file" of texts, "rounds", "batch_tokens" (optional), "fresh" (the tokenizer's cache is emptied
        before each round, as for texts never met).
    :return: "seconds" of the whole encode and of each part, medians; the parts and "rest" add up to the whole of
        one round. Where batches run in parallel, a second of one of n threads counts as 1 / n.
    """
    texts = _texts(request)
    spent: dict[str, float] = {}
    weight = 1.0
    session, tokenizer = embedder.model.session, embedder.tokenizer

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + weight * (time.perf_counter() - start)

        return call

    def switched(after: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal weight
            result = function(*arguments)
            weight = after
            return result

        return call

    places: list[tuple[Any, str, str]] = [
        (session, "run", "session"),
        (tokenized, "tokenize", "tokenize"),
        (batching, "plan", "plan"),
        (batching, "pad", "pad"),
        (pooling, "mean_pool", "pool"),
        (pooling, "normalize", "pool"),
        (pooling, "check_finite", "pool"),
    ]
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in places]
    rounds: list[dict[str, float]] = []
    options = {"batch_tokens": request["batch_tokens"]} if "batch_tokens" in request else {}
    try:
        for owner, attribute, name in places:
            setattr(owner, attribute, clocked(name, getattr(owner, attribute)))
        for attribute, after in (
            ("open_single_thread_session", 1 / embedder.threads),
            ("close_single_thread_session", 1.0),
        ):
            before.append((session, attribute, getattr(session, attribute)))
            setattr(
                session, attribute, switched(after, clocked("second session", getattr(session, attribute)))
            )
        for _ in range(request.get("rounds", 3)):
            if request.get("fresh"):
                tokenizer._chunk_ids.__self__.clear()
            spent.clear()
            start = time.perf_counter()
            embedder.encode(texts, **options)
            whole = time.perf_counter() - start
            rounds.append({**spent, "rest": whole - sum(spent.values()), "whole": whole})
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
    medians = {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
    return {"seconds": medians["whole"], "parts": medians, "rounds": rounds}


def callers(embedder: Embedder, request: dict[str, Any]) -> dict[str, Any]:
    """Encode the texts from several threads at once, each its share.

    :param request: "file" of texts, "callers" threads, "each" texts in one call.
    :return: "seconds" until all are done.
    """
    texts, count, each = _texts(request), request["callers"], request["each"]
    calls = [texts[start : start + each] for start in range(0, len(texts), each)]

    def work(number: int) -> None:
        for call in calls[number::count]:
            embedder.encode(call)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - start}


MEASURES: dict[str, Callable[[Embedder, dict[str, Any]], dict[str, Any]]] = {
    "parts": parts,
    "callers": callers,
}
