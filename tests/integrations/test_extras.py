"""What the adapters share: a missing library named in one line, one model for all of them."""

from __future__ import annotations

import gc
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, InputError, ModelError
from runtime.integrations import KEPT, late_chunks, shared_embedder
from tests.tiny import make_model


@pytest.mark.parametrize(
    ("adapter", "module", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("chroma", "chromadb", "chroma"),
    ],
)
def test_a_missing_library_is_one_line_with_the_command(
    run_python: Callable[..., subprocess.CompletedProcess[str]], adapter: str, module: str, extra: str
) -> None:
    result = run_python(
        f"import sys; sys.modules[{module!r}] = None\n"
        "try:\n"
        f"    import runtime.integrations.{adapter}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert result.stdout.endswith(f': pip install "jinabert-runtime[{extra}]"\n')


def test_sentence_transformers_surface_needs_no_extra(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    result = run_python(
        "import sys, runtime.integrations.sentence_transformers\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    loaded = set(result.stdout.split())
    assert {"numpy", "runtime"} <= loaded
    assert not loaded & {
        "torch",
        "sentence_transformers",
        "langchain_core",
        "llama_index",
        "haystack",
        "chromadb",
    }


def test_adapters_of_one_folder_share_one_model(tiny_folder: Path) -> None:
    first = shared_embedder(tiny_folder, 1)
    assert shared_embedder(str(tiny_folder), 1) is first
    assert shared_embedder(tiny_folder / ".." / tiny_folder.name, 1) is first
    assert shared_embedder(tiny_folder, 2) is not first


def test_the_last_models_stay_loaded_and_older_ones_go_with_their_users(tmp_path: Path) -> None:
    folders = [make_model(tmp_path / str(number)) for number in range(KEPT + 1)]
    held = shared_embedder(folders[0], 1)
    gone = [weakref.ref(shared_embedder(folder, 1)) for folder in folders]
    assert shared_embedder(folders[0], 1) is held
    assert gone[-1]() is shared_embedder(folders[-1], 1)
    del held
    gc.collect()
    assert gone[0]() is None
    assert shared_embedder(folders[0], 1).encode("hello").shape == (16,)


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        shared_embedder(tmp_path / "none", 1)


def test_late_chunks_are_the_texts_own_and_white_space_has_none(tiny: Embedder) -> None:
    text = "hello world, \n\n a b c"
    found = late_chunks(tiny, text, ["hello world,", " \n\n ", "a b c"])
    assert found[1] is None
    expected = tiny.encode_chunks(text, spans=[(0, 12), (16, 21)])
    for chunk, own in zip((found[0], found[2]), expected, strict=True):
        assert chunk is not None
        assert chunk.text == own.text
        assert np.array_equal(chunk.vector, own.vector)
    assert late_chunks(tiny, " ", [" "]) == [None]
    with pytest.raises(InputError, match="does not stand in the text"):
        late_chunks(tiny, text, ["hello", "World"])


@pytest.mark.parametrize(
    ("adapter", "library", "variable", "question"),
    [
        (
            "haystack",
            "haystack",
            "HAYSTACK_TELEMETRY_ENABLED",
            "haystack.telemetry._telemetry.telemetry is not None",
        ),
        ("chroma", "chromadb", "ANONYMIZED_TELEMETRY", "chromadb.config.Settings().anonymized_telemetry"),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_telemetry_is_off_unless_asked_for(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    adapter: str,
    library: str,
    variable: str,
    question: str,
    asked: bool,
) -> None:
    pytest.importorskip(library)
    result = run_python(
        f"import os; os.environ.pop({variable!r}, None); os.environ['HOME'] = {str(tmp_path)!r}\n"
        + (f"os.environ[{variable!r}] = 'True'\n" if asked else "")
        + f"import runtime.integrations.{adapter}, {library}\n"
        + ("import chromadb.config\n" if library == "chromadb" else "import haystack.telemetry\n")
        + f"print({question})"
    )
    assert result.stdout == f"{asked}\n", result.stderr
