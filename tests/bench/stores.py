"""Vector stores that benchmarks put vectors in and ask: Qdrant in this process, PostgreSQL with pgvector where there
is one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Found", "postgres", "qdrant"]


class Found(NamedTuple):
    """What a store answered."""

    numbers: NDArray[
        np.int64
    ]  # [queries, limit] numbers of the vectors, nearest first; -1 where there are too few
    scores: NDArray[np.float64]  # [queries, limit] their cosines
    seconds: float  # for a query


def qdrant(vectors: NDArray[np.float32], queries: NDArray[np.float32], limit: int) -> Found:
    """Ask Qdrant in its local mode, which searches exactly.

    :param vectors: [n, D] to store.
    :param queries: [q, D].
    :param limit: vectors wanted for each.
    :return: the answer.
    """
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("vectors", vectors_config=parameters)
    client.upload_collection("vectors", vectors=vectors, ids=range(len(vectors)))
    start = time.perf_counter()
    answers = [client.query_points("vectors", query=query, limit=limit).points for query in queries]
    seconds = (time.perf_counter() - start) / max(1, len(queries))
    client.close()
    return _found([[(int(point.id), point.score) for point in answer] for answer in answers], limit, seconds)


def postgres(address: str, vectors: NDArray[np.float32], queries: NDArray[np.float32], limit: int) -> Found:
    """Ask PostgreSQL with pgvector, without an index: it searches exactly too. The table is a temporary one.

    :param address: of the server, as libpq takes it: "postgresql://user@host/database".
    :param vectors: [n, D] to store.
    :param queries: [q, D].
    :param limit: vectors wanted for each.
    :return: the answer.
    """
    import psycopg
    from pgvector.psycopg import register_vector

    with psycopg.connect(address) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(f"CREATE TEMPORARY TABLE vectors (number int, vector vector({vectors.shape[1]}))")
        with connection.cursor().copy("COPY vectors FROM STDIN WITH (FORMAT binary)") as copy:
            copy.set_types(["int4", "vector"])
            for row in enumerate(vectors):
                copy.write_row(row)
        nearest = "SELECT number, 1 - (vector <=> %s) FROM vectors ORDER BY vector <=> %s, number LIMIT %s"
        start = time.perf_counter()
        answers = [connection.execute(nearest, (query, query, limit)).fetchall() for query in queries]
        seconds = (time.perf_counter() - start) / max(1, len(queries))
    return _found(answers, limit, seconds)


def _found(answers: list[list[tuple[int, float]]], limit: int, seconds: float) -> Found:
    numbers = np.full((len(answers), limit), -1, np.int64)
    scores = np.full((len(answers), limit), -np.inf)
    for row, answer in enumerate(answers):
        for place, (number, score) in enumerate(answer):
            numbers[row, place], scores[row, place] = number, score
    return Found(numbers, scores, seconds)
