"""The Ray engine: the same shards on a pool of Ray actors, each with a model of its own.

Ray Data's `map_batches` hands the shards to the actors. It decides how many are under way (backpressure), starts actors
again that die with their machine, and repeats what they had (retries). Only the plan and what is done pass through Ray:
actors read their rows and write their files themselves, so that input and output must be reachable from each machine,
by a shared folder or a URI. A shard done twice is the same bytes twice.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
from typing import TYPE_CHECKING, Any

from runtime.errors import InputError, JinaBertError, ModelError

from .job import JobError
from .processes import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from .job import Job, Shard
    from .processes import Settings
    from .shards import Done

OBJECT_STORE_BYTES = 128 << 20  # of a local Ray: no texts or vectors pass through it


class ShardEmbedder:
    """What map_batches makes an actor of: a model, loaded once, that does shards."""

    def __init__(self, job: Job, threads: int) -> None:
        """Load the model.

        :param job: all that the shards have in common.
        :param threads: to compute with.
        :raises ModelError: the model of this machine is another one than where the job was started.
        """
        from runtime import Embedder

        self._job = job
        self._embedder = Embedder(job.model, threads=threads)
        found = self._embedder.manifest.document["checksum"]
        if found != job.model_checksum:
            raise ModelError(
                f"{self._embedder!r}: its checksum is {found}, that of the job's model {job.model_checksum}"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do some shards.

        :param batch: column "shard" with pickled Shards.
        :return: column "outcome" with a pickled Done each, or a str that says what went wrong.
        """
        from .shards import embed_shard

        outcomes: list[bytes] = []
        for data in batch["shard"]:
            shard: Shard = pickle.loads(data)
            outcome: Done | str
            try:
                outcome = embed_shard(self._job, shard, self._embedder)
            except (JinaBertError, MemoryError) as error:  # the same the next time: not for Ray to repeat
                outcome = explain(error, shard)
            outcomes.append(pickle.dumps(outcome))
        return {"outcome": outcomes}


def run(
    job: Job, shards: Sequence[Shard], settings: Settings, progress: Callable[[int, int], None]
) -> Generator[Done]:
    """Do shards on a Ray cluster, or on a local Ray that ends with the job.

    :param shards: those to be done.
    :param settings: `processes` actors of `threads` processors each; 0 for as many as the cluster has room for.
    :param progress: called with rows and tokens as they are done.
    :return: what is done, in the order in which it is.
    :raises InputError: the cluster cannot be reached.
    :raises JobError: a shard failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        _start(ray, settings)
    try:
        yield from _results(ray, job, shards, settings, progress)
    except ray.exceptions.RayError as error:
        raise JobError(f"Ray: {_last_line(error)}") from None
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, settings: Settings) -> None:
    address = settings.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address:
        options["address"] = address
    else:
        if settings.processes:
            options["num_cpus"] = settings.processes * settings.threads
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray-address {address!r}: {_last_line(error)}") from None
    finally:
        for number, handler in handlers.items():  # Ray's own end the process without a word
            signal.signal(number, handler)


def _results(
    ray: Any, job: Job, shards: Sequence[Shard], settings: Settings, progress: Callable[[int, int], None]
) -> Generator[Done]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is one already
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    size = settings.processes or max(1, int(ray.cluster_resources().get("CPU", 1)) // settings.threads)
    rows = {shard.number: shard.rows for shard in shards}
    items = [{"shard": pickle.dumps(shard)} for shard in shards]
    # A block for each shard: what Ray schedules, and repeats, is then one shard.
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardEmbedder,
        fn_constructor_args=(job, settings.threads),
        batch_size=1,
        num_cpus=settings.threads,
        compute=ray.data.ActorPoolStrategy(size=min(size, len(items))),
    )
    for row in results.iter_rows():
        outcome = pickle.loads(row["outcome"])
        if isinstance(outcome, str):
            raise JobError(outcome)
        progress(rows[outcome.number], outcome.tokens)
        yield outcome


def _last_line(error: BaseException) -> str:
    """Ray puts the traceback of the other machine before what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
