"""Functions in control groups of little memory: they answer, or refuse with 413; they are not killed."""

from __future__ import annotations

import pytest

from tests import cgroups
from tests.paths import ROOT
from tests.serverless.runtime_api import Function

pytest.importorskip("awslambdaric")
MEGABYTE = 1 << 20

needs_groups = pytest.mark.skipif(bool(cgroups.missing("memory")), reason=str(cgroups.missing("memory")))


def answers(megabytes: int, *lengths: int, **more: object) -> list[dict[str, object]]:
    """Of a function of this memory size, in a group of that size, to one text of each number of tokens."""
    with cgroups.group("memory", megabytes * MEGABYTE) as group:
        enter = cgroups.enter(group)
        with Function(
            ROOT, memory=megabytes, preexec=enter, environment={"JINABERT_THREADS": "1"}
        ) as function:
            return [function.invoke({"input": "word " * (tokens - 2), **more}) for tokens in lengths]


@needs_groups
def test_256_megabytes_for_512_tokens() -> None:
    one, two, again = answers(256, 512, 3, 512)
    for answer, tokens in ((one, 512), (two, 3), (again, 512)):
        assert answer.get("usage") == {"prompt_tokens": tokens, "total_tokens": tokens, "truncated_texts": 0}


@needs_groups
def test_512_megabytes_for_8192_tokens() -> None:
    (answer,) = answers(512, 8192)
    assert answer.get("usage") == {"prompt_tokens": 8192, "total_tokens": 8192, "truncated_texts": 0}


@needs_groups
def test_what_does_not_fit_is_refused_and_the_next_text_answered() -> None:
    long, short = answers(144, 8192, 100)
    assert long["error"]["status"] == 413
    assert "8,192 tokens" in long["error"]["message"]
    assert short["usage"]["total_tokens"] == 100


@needs_groups
@pytest.mark.parametrize("megabytes", [128, 160, 192, 224])
def test_no_length_gets_the_function_killed(megabytes: int) -> None:
    lengths = [300, 512, 700, 1000, 1024, 1025, 1500, 3000]
    for answer in answers(megabytes, *lengths, encoding_format="base64"):
        assert "usage" in answer or answer["error"]["status"] == 413


def test_too_little_for_the_model_is_said_at_start() -> None:
    with (
        Function(ROOT, environment={"JINABERT_MEMORY_MB": "40"}) as function,
        pytest.raises(Exception, match="40 MB are too little"),
    ):
        function.invoke({"input": "x"})
