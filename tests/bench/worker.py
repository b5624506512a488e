"""The process of one peer: ``python -m tests.bench.worker PEER OPTIONS`` answers JSON lines with JSON lines.

{"do": "texts", "file": F}                      read a JSON list of texts, to be encoded from now on
{"do": "time", "what": W, "seconds": S, ...}    repeat W for at least S seconds: {"seconds": median of a run, "runs": n}
{"do": "vectors", "file": F}                    encode the texts once and save their vectors as npy
{"do": "memory"}                                {"rss": bytes now, "peak": bytes since the start or since "reset"}

What W may be: "encode" (the texts, or those of "file", all in one call, with "options") and "run" (the model alone on
"ids": [B][L], no text involved). "warm" runs before the clock starts, "most" ends it early.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any


def memory() -> dict[str, int]:
    """Return the RSS and its peak in bytes, and the part of it that maps files."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    names = {"rss": "VmRSS", "peak": "VmHWM", "files": "RssFile"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}


def reset_peak() -> None:
    """Make the RSS of now the peak."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def repeat(work: Callable[[], object], seconds: float, most: int) -> dict[str, Any]:
    """Return the median time of one call, and how many there were."""
    gc.collect()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < most):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "best": min(times), "runs": len(times)}


@cache
def read(file: str) -> list[str]:
    """Return the texts of a JSON list, the same object each time."""
    with open(file, encoding="utf-8") as stream:
        texts: list[str] = json.load(stream)
    return texts


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    import numpy as np

    from tests.bench.peers import PEERS
    from tests.bench.rankers import RANKERS

    try:
        start = time.perf_counter()
        peer = {**PEERS, **RANKERS}[sys.argv[1]](**json.loads(sys.argv[2]))
        answer({"seconds": time.perf_counter() - start, "about": peer.about})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    texts: list[str] = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request["do"]:
                case "texts":
                    texts = read(request["file"])
                    answer({"texts": len(texts)})
                case "time":
                    if "file" in request:
                        texts = read(request["file"])
                    if request["what"] == "encode":
                        work: Callable[[], object] = partial(peer.encode, texts, **request.get("options", {}))
                    else:
                        work = peer.prepare(np.array(request["ids"], np.int64))
                    for _ in range(request.get("warm", 0)):
                        work()
                    answer(repeat(work, request.get("seconds", 0.0), request.get("most", 1 << 30)))
                case "vectors":
                    np.save(request["file"], np.asarray(peer.encode(texts), np.float32))
                    answer({"vectors": len(texts)})
                case "memory":
                    answer(memory())
                    if request.get("reset"):
                        reset_peak()
                case other:
                    answer(peer.special(other, request))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


if __name__ == "__main__":
    main()
