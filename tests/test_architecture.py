"""What may import what: runtime/ is onnxruntime, numpy and the standard library, and importing it costs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_FILES = sorted((ROOT / "runtime").rglob("*.py"))
RUNTIME_TESTS = sorted((ROOT / "tests" / "runtime").rglob("*.py"))
ALLOWED = {"numpy", "onnxruntime", "runtime"} | set(sys.stdlib_module_names)
# Parts with an extra of their own may import what the extra installs; nothing else of runtime/ imports them.
EXTRAS = {
    "__pyinstaller": {"PyInstaller"},  # its hooks are run by PyInstaller
    "bulk": {"pyarrow", "tqdm", "ray", "pyspark"},
    "integrations": {"langchain_core", "langchain_text_splitters", "llama_index", "haystack", "chromadb"},
    "serve": {"h11", "msgspec", "prometheus_client", "starlette", "uvicorn", "zstandard"},
}
PUBLIC = [
    "Chunk",
    "Embedder",
    "EncodeStats",
    "InputError",
    "JinaBertError",
    "Manifest",
    "ModelError",
    "Multivector",
    "OutOfMemoryError",
    "OutputError",
    "Ranked",
    "Reranker",
    "TextTooLongError",
    "Tokens",
    "WordPiece",
    "__version__",
    "maxsim",
]


# runtime/ from the ground up: a file or folder may import what is in a line above its own, and its own folder.
LAYERS = [
    "errors",
    "arguments files pooling prompts resources texts tokenization",
    "modules multivector",
    "manifest",
    "batching bundled session",
    "model",
    "holder",
    "chunking cli reranker similarity tokenized",
    "embedder",
    "api ranker",
    "__pyinstaller alias bulk embed handlers integrations rerank serve",  # the doors: none knows of another
]


def imported(file: Path) -> Iterator[str]:
    """Top-level names of the absolute imports anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def modules_of(package: str) -> dict[str, Path]:
    """Files of a package by the name under which they are imported."""
    files = (ROOT / package).rglob("*.py")
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


def dependencies(name: str, modules: dict[str, Path]) -> Iterator[str]:
    """Which of the modules a module imports, inside functions too but not for types alone."""
    tree = ast.parse(modules[name].read_text(encoding="utf-8"))
    branches = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    for_types = {
        inner
        for branch in branches
        if isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for inner in ast.walk(branch)
    }
    package = name.split(".") if modules[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found = f"{origin}.{alias.name}"
                yield from (
                    one
                    for one in (found, origin)
                    if one in modules and not (one == origin and found in modules)
                )


def layer_of(name: str) -> tuple[int, str]:
    """Number of a module's line in LAYERS, and the name there."""
    room = name.split(".")[1]
    return next(number for number, line in enumerate(LAYERS) if room in line.split()), room


def run_fresh(code: str) -> str:
    """What a new interpreter prints that knows of this repository and of site-packages."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("file", RUNTIME_FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_runtime_imports_only_onnxruntime_numpy_and_the_standard_library(file: Path) -> None:
    part = file.relative_to(ROOT / "runtime").parts[0]
    assert set(imported(file)) <= ALLOWED | EXTRAS.get(part, set())


@pytest.mark.parametrize("file", RUNTIME_FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_core_imports_no_part_that_needs_an_extra(file: Path) -> None:
    if file.relative_to(ROOT / "runtime").parts[0] in EXTRAS:
        return
    text = file.read_text(encoding="utf-8")  # a name within a message is no import
    ways = ("import runtime.{}", "from runtime.{}", "from .{}", '"runtime.{}', "'runtime.{}")
    assert not [part for part in EXTRAS if any(way.format(part) in text for way in ways)]


@pytest.mark.parametrize("file", RUNTIME_TESTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_runtime_tests_need_nothing_of_the_export(file: Path) -> None:
    assert not set(imported(file)) & {
        "export",
        "torch",
        "transformers",
        "optimum",
        "safetensors",
        "huggingface_hub",
    }


@pytest.mark.parametrize("package", ["runtime", "export"])
def test_no_file_imports_itself_by_way_of_others(package: str) -> None:
    modules = modules_of(package)
    waiting = {name: set(dependencies(name, modules)) - {name} for name in modules}
    while ready := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert not waiting


@pytest.mark.parametrize("name", [name for name in modules_of("runtime") if name != "runtime"])
def test_runtime_imports_go_downwards(name: str) -> None:
    layer, room = layer_of(name)
    for imported_name in set(dependencies(name, modules_of("runtime"))) - {"runtime"}:
        below, other = layer_of(imported_name)
        assert below < layer or other == room, f"{name} imports {imported_name}"


def test_there_are_runtime_files_to_check() -> None:
    assert len(RUNTIME_FILES) > 5


def test_import_runtime_loads_neither_numpy_nor_onnxruntime() -> None:
    code = "import sys, runtime; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    modules = set(ast.literal_eval(run_fresh(code)))
    assert not modules & {"numpy", "onnxruntime", "export", "torch"}


def test_using_the_runtime_loads_nothing_of_the_export() -> None:
    code = (
        "import sys, runtime, runtime.embed; runtime.Embedder; "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    modules = set(ast.literal_eval(run_fresh(code)))
    assert not modules & {"export", "torch", "transformers", "onnx", "tokenizers", "optimum", "safetensors"}


def test_import_export_alone_needs_no_extra() -> None:
    code = "import sys, export, export.__main__; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    modules = set(ast.literal_eval(run_fresh(code)))
    assert not modules & {"torch", "transformers", "onnx", "optimum", "onnxruntime"}


def test_public_names_are_these_and_all_of_them_resolve() -> None:
    import runtime

    assert sorted(runtime.__all__) == PUBLIC
    assert all(getattr(runtime, name) is not None for name in runtime.__all__)
    assert set(PUBLIC) <= set(dir(runtime))


def test_an_unknown_name_is_an_attribute_error() -> None:
    import runtime

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = runtime.no_such_name


def test_versions_agree() -> None:
    import tomllib

    import export
    import runtime

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert runtime.__version__ == export.__version__ == project["version"]
