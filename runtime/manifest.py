"""The model folder as a contract: manifest.json says what the model is and what each file holds.

Sizes and a checksum of every file are compared at each load (a few milliseconds), SHA-256 when asked.
Not here: what the model computes (export/) and the session that runs it (session.py).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import modules as declared_modules
from .arguments import as_int
from .errors import InputError, ModelError
from .pooling import MODES
from .tokenization.loading import KINDS, tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SCHEMA_VERSION = 3
MANIFEST, MODEL, MODEL_DATA, VOCABULARY = "manifest.json", "model.onnx", "model.onnx.data", "vocab.txt"
MAX_MANIFEST_BYTES = 4 << 20  # a real one has a few kilobytes
MAX_DIMENSION = 1 << 16  # far beyond any model, and room for the vectors can still be made

ARCHITECTURES = ("jinabert", "jinabert-qk-devlin-norm", "jinabert-qk-post-norm", "t5")  # of export/models

ROW_WORDS = 64  # 64-bit words that one sum of the checksum covers: a sector of a disk
PIECE_BYTES = 1 << 20  # read at a time: stays in the CPU's cache

TASKS = ("embed", "rerank")  # a vector a text; one number, the score, a pair of texts
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

EXPORT_AGAIN = "copy or export the model folder again"


class FileFacts(NamedTuple):
    """What manifest.json says about one file."""

    size: int  # bytes
    checksum: str  # 8 hex digits, see checksum()
    sha256: str  # 64 hex digits


class Manifest(NamedTuple):
    """A checked manifest.json."""

    name: str
    task: str  # of TASKS
    dimension: int  # D, length of a text's vector
    hidden_size: int  # length of a token's vector: of what the graph gives
    layers: int
    heads: int
    intermediate: int
    vocabulary: int  # rows of the embedding table
    max_tokens: int  # longest text as declared, special tokens included: the default max_length
    pooling: tuple[str, ...]  # of pooling.MODES, joined in this order
    include_prompt: bool  # False: the tokens of a prompt are left out of pooling
    modules: tuple[declared_modules.Module, ...]  # what follows pooling, without their arrays
    normalize: bool  # whether vectors have length 1 by default; encode(normalize=...) decides
    truncatable: bool  # a vector's first numbers alone are a vector; optional in manifest.json, else false
    prompts: Mapping[str, str]  # name -> what is put before a text
    default_prompt_name: str | None  # the prompt of texts that are given none
    similarity: str  # of SIMILARITIES: how vectors are to be compared
    tokenizer: Mapping[str, Any]  # its type and what that needs, see tokenization/loading.py
    lower_case: bool  # by the tokenizer
    precision: str  # "int8" or "fp32"
    scheme: str | None
    exact_products: (
        bool  # all products with weights are of integers, in any order the same; optional, else false
    )
    max_dense_tokens: int | None  # texts with more tokens run alone; None: the graph has no blocks
    files: Mapping[str, FileFacts]
    document: Mapping[str, Any]  # the whole of manifest.json


def load_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check manifest.json.

    :param folder: model folder.
    :return: its manifest; the files it names are not looked at yet (check_files).
    :raises ModelError: no such folder, no manifest, unreadable, not JSON, another schema, a wrong or missing
        field.
    """
    import json

    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        state = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise ModelError(
            f"model folder {folder!r} {state}: pass a folder made with "
            "`python -m export SOURCE --output DIR`, or no model at all for the bundled one"
        )
    path = os.path.join(folder, MANIFEST)
    if os.path.lexists(path):
        _check_place(folder, path)  # opening a pipe would wait for ever
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise ModelError(
            f"{folder!r} has no {MANIFEST}, so it is not a model folder: make one with "
            "`python -m export SOURCE --output DIR`"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): {EXPORT_AGAIN}") from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError(
            f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, which no manifest is: {EXPORT_AGAIN}"
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not JSON ({reason}): {EXPORT_AGAIN}") from None
    return _checked(path, document)


def _checked(path: str, document: object) -> Manifest:  # noqa: C901 - a check for each field, one after the other
    if not isinstance(document, dict):
        raise ModelError(f"{path}: holds {_shown(document)}, not an object: {EXPORT_AGAIN}")
    version = document.get("schema_version")
    if type(version) is not int or version < 1:
        raise ModelError(f"{path}: schema_version is {_shown(version)}, expected an integer: {EXPORT_AGAIN}")
    if version < SCHEMA_VERSION:
        raise ModelError(
            f"{path}: schema_version {version} is older than the {SCHEMA_VERSION} this release reads: "
            "export the model again"
        )
    if version > SCHEMA_VERSION:
        raise ModelError(
            f"{path}: schema_version {version} is newer than the {SCHEMA_VERSION} this release reads: "
            "install a newer release, or export the model again with this one"
        )

    def text(field: str, value: object, allowed: tuple[str, ...] = ()) -> str:
        if not isinstance(value, str) or not value or (allowed and value not in allowed):
            expected = " or ".join(map(repr, allowed)) or "a string"
            raise ModelError(f"{path}: {field} is {_shown(value)}, not {expected}: {EXPORT_AGAIN}")
        return value

    def number(field: str, value: object, least: int = 1, most: int = (1 << 53) - 1) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ModelError(
                f"{path}: {field} is {_shown(value)}, expected an integer from {least} to {most}: {EXPORT_AGAIN}"
            )
        return value

    def flag(field: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise ModelError(f"{path}: {field} is {_shown(value)}, not true or false: {EXPORT_AGAIN}")
        return value

    def table(field: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ModelError(f"{path}: {field} is {_shown(value)}, not an object: {EXPORT_AGAIN}")
        return value

    def digits(field: str, value: object, count: int) -> str:
        if not isinstance(value, str) or len(value) != count or not set(value) <= set("0123456789abcdef"):
            raise ModelError(f"{path}: {field} is {_shown(value)}, not {count} hex digits: {EXPORT_AGAIN}")
        return value

    files = {}
    for name, facts in table("files", document.get("files")).items():
        if not _plain(name):
            raise ModelError(
                f"{path}: files names {_shown(name)}, which is not a plain file name inside the folder: "
                "do not use this folder unless you know where it comes from"
            )
        table(f"files[{name!r}]", facts)
        files[name] = FileFacts(
            number(f"files[{name!r}].size", facts.get("size"), least=0),
            digits(f"files[{name!r}].checksum", facts.get("checksum"), 8),
            digits(f"files[{name!r}].sha256", facts.get("sha256"), 64),
        )
    tokenizer = table("tokenizer", document.get("tokenizer"))
    kind = text("tokenizer.type", tokenizer.get("type"), KINDS)
    for name in (MODEL, tokenizer_file(kind)):
        if name not in files:
            raise ModelError(f"{path}: files does not list {name}: {EXPORT_AGAIN}")
    text("architecture", document.get("architecture"), ARCHITECTURES)
    pooling = table("pooling", document.get("pooling"))
    modes = pooling.get("modes")
    if not isinstance(modes, list) or not modes or len(modes) > len(MODES):
        raise ModelError(
            f"{path}: pooling.modes is {_shown(modes)}, not a list of 1 to {len(MODES)} modes: {EXPORT_AGAIN}"
        )
    for mode in modes:
        text("pooling.modes", mode, MODES)
    hidden_size = number("hidden_size", document.get("hidden_size"), most=MAX_DIMENSION)
    dimension = number("dimension", document.get("dimension"), most=MAX_DIMENSION)
    try:
        modules = declared_modules.parse(
            document.get("modules"), len(modes) * hidden_size, largest=MAX_DIMENSION
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}: {EXPORT_AGAIN}") from None
    given = modules[-1].output_size if modules else len(modes) * hidden_size
    task = text("task", document.get("task", "embed"), TASKS)
    if task == "rerank" and dimension != 1:
        raise ModelError(f"{path}: dimension is {dimension}, not the 1 of task 'rerank': {EXPORT_AGAIN}")
    if given != dimension:
        raise ModelError(
            f"{path}: dimension is {dimension} where pooling and modules give {given} numbers: {EXPORT_AGAIN}"
        )
    if any(map(declared_modules.array_shapes, modules)) and declared_modules.MODULES_DATA not in files:
        raise ModelError(f"{path}: files does not list {declared_modules.MODULES_DATA}: {EXPORT_AGAIN}")
    prompts = table("prompts", document.get("prompts"))
    for name, prompt in prompts.items():
        if not isinstance(prompt, str):
            raise ModelError(
                f"{path}: prompts[{_shown(name)}] is {_shown(prompt)}, not a string: {EXPORT_AGAIN}"
            )
    default_prompt = document.get("default_prompt_name")
    if default_prompt is not None and (not isinstance(default_prompt, str) or default_prompt not in prompts):
        raise ModelError(
            f"{path}: default_prompt_name is {_shown(default_prompt)}, which prompts lacks: {EXPORT_AGAIN}"
        )
    scheme, max_dense_tokens = document.get("scheme"), document.get("max_dense_tokens")
    manifest = Manifest(
        name=text("name", document.get("name")),
        task=task,
        dimension=dimension,
        hidden_size=hidden_size,
        layers=number("layers", document.get("layers")),
        heads=number("heads", document.get("heads")),
        intermediate=number("intermediate", document.get("intermediate")),
        vocabulary=number("vocabulary", document.get("vocabulary")),
        max_tokens=number("max_tokens", document.get("max_tokens"), least=3),
        pooling=tuple(modes),
        include_prompt=flag("pooling.include_prompt", pooling.get("include_prompt")),
        modules=modules,
        normalize=flag("normalize", document.get("normalize")),
        truncatable=flag("truncatable", document.get("truncatable", False)),
        prompts=prompts,
        default_prompt_name=default_prompt,
        similarity=text("similarity", document.get("similarity"), SIMILARITIES),
        tokenizer=tokenizer,
        lower_case=flag(
            "tokenizer.lower_case", tokenizer.get("lower_case", False if kind == "unigram" else None)
        ),
        precision=text("precision", document.get("precision"), ("int8", "fp32")),
        scheme=None if scheme is None else text("scheme", scheme, ("per-token", "optimum")),
        exact_products=flag("exact_products", document.get("exact_products", False)),
        max_dense_tokens=None if max_dense_tokens is None else number("max_dense_tokens", max_dense_tokens),
        files=files,
        document=document,
    )
    # Last, since a field that cannot be used says more than that something has changed.
    if document.get("checksum") != content_checksum(document):
        raise ModelError(
            f"{path}: damaged or edited (its checksum is not that of its content): {EXPORT_AGAIN}"
        )
    return manifest


def check_dimensions(manifest: Manifest, dimensions: object) -> int:
    """Decide how many numbers a vector gets.

    :param manifest: of the model.
    :param dimensions: how many were asked for; None for all.
    :return: from 1 to the model's dimension.
    :raises InputError: no such number, or fewer of a model whose vectors cannot be cut.
    """
    if dimensions is None:
        return manifest.dimension
    number = as_int(dimensions) or 0
    if not 1 <= number <= manifest.dimension:
        raise InputError(f"dimensions={dimensions!r}: expected an integer from 1 to {manifest.dimension}")
    if number < manifest.dimension and not manifest.truncatable:
        raise InputError(
            f"dimensions={number}: {manifest.name} has {manifest.dimension}, and its vectors cannot be cut: leave "
            "it out, or make a model folder that can with `python -m export ... --rotate`"
        )
    return number


def content_checksum(document: Mapping[str, Any]) -> str:
    """Checksum of a manifest's content, kept in its field "checksum": a damaged max_tokens would cut texts.

    :param document: the manifest, with or without that field.
    :return: 8 hex digits: CRC-32 of its other fields as compact ASCII JSON with sorted keys.
    """
    import json
    from zlib import crc32

    fields = {key: value for key, value in document.items() if key != "checksum"}
    return f"{crc32(json.dumps(fields, sort_keys=True, separators=(',', ':')).encode()):08x}"


def check_files(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    verify: bool = False,
    *,
    but_content: str | None = None,
) -> None:
    """Compare the files of a model folder with its manifest.

    :param folder: model folder.
    :param manifest: what load_manifest returned for it.
    :param verify: compare SHA-256 as well, which also finds what was changed on purpose.
    :param but_content: name of a file of which only place and size are compared; None for none.
    :raises ModelError: naming the first file that is missing, no regular file, outside the folder, unreadable
        or different.
    """
    folder = os.fspath(folder)
    for name, facts in manifest.files.items():
        path = os.path.join(folder, name)
        _check_place(folder, path)
        _check_file(path, facts, name != but_content, verify)
    # onnxruntime would map this one unasked if model.onnx refers to it.
    data = os.path.join(folder, MODEL_DATA)
    if MODEL_DATA not in manifest.files and os.path.lexists(data):
        raise ModelError(f"{data}: not listed in {MANIFEST}: remove it, or {EXPORT_AGAIN}")


def check_content(folder: str, manifest: Manifest, name: str) -> None:
    """Compare one file's content with the manifest, what check_files leaves out with but_content.

    :param folder: model folder.
    :param manifest: what load_manifest returned for it.
    :param name: of a file of the manifest.
    :raises ModelError: it is damaged, or cannot be read any more.
    """
    _check_file(os.path.join(folder, name), manifest.files[name], True, False)


def _check_place(folder: str, path: str) -> None:
    real = os.path.realpath(path)
    if not real.startswith((os.path.join(os.path.realpath(folder), ""), *_blobs(folder))):
        raise ModelError(f"{path}: a link that leads outside the model folder: put the file itself there")
    if not os.path.isfile(path):
        state = "not a regular file" if os.path.lexists(path) else "missing"
        raise ModelError(f"{path}: {state}: {EXPORT_AGAIN}")


def _blobs(folder: str) -> list[str]:
    """Where a hub's cache keeps the files of a folder: STORE/blobs for STORE/snapshots/COMMIT and folders in it."""
    store, found, inside = os.path.realpath(folder).rpartition(os.sep + "snapshots" + os.sep)
    return [os.path.join(store, "blobs", "")] if found and inside else []


def _check_file(path: str, facts: FileFacts, content: bool, verify: bool) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != facts.size:
                raise ModelError(f"{path}: {size} bytes where {MANIFEST} says {facts.size}: {EXPORT_AGAIN}")
            if content and checksum(file) != facts.checksum:
                raise ModelError(f"{path}: damaged (its checksum is not that of {MANIFEST}): {EXPORT_AGAIN}")
            if verify:
                file.seek(0)
                if sha256(file) != facts.sha256:
                    raise ModelError(
                        f"{path}: changed (its SHA-256 is not that of {MANIFEST}): {EXPORT_AGAIN}"
                    )
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): {EXPORT_AGAIN}") from None


def checksum(file: Any) -> str:
    """Checksum of the rest of a file that finds truncation and flipped bits at the speed of memory.

    The bytes, filled up with zeros to a multiple of 512, are rows of 64 little-endian 64-bit words; each row is
    summed modulo 2**64, and the checksum is the CRC-32 of the sums' little-endian bytes. A damaged word, or rows
    in another order, go unnoticed with a chance of 2**-32. It is no defence against intent: that is what SHA-256
    is for.

    :param file: binary file with readinto, at its start.
    :return: 8 hex digits.
    """
    from zlib import crc32

    piece = bytearray(PIECE_BYTES)
    view = memoryview(piece)
    words = np.frombuffer(piece, dtype="<u8").reshape(-1, ROW_WORDS)
    row_bytes = ROW_WORDS * 8
    result = 0
    while True:
        filled = 0
        while filled < PIECE_BYTES:
            count = file.readinto(view[filled:])
            if not count:
                break
            filled += count
        rows = -(-filled // row_bytes)
        view[filled : rows * row_bytes] = bytes(rows * row_bytes - filled)
        sums = np.add.reduce(words[:rows], axis=1)
        if sys.byteorder == "big":
            sums = sums.byteswap()
        result = crc32(sums.tobytes(), result)
        if filled < PIECE_BYTES:
            return f"{result:08x}"


def sha256(file: Any) -> str:
    """SHA-256 of the rest of a file, 64 hex digits."""
    import hashlib

    digest = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def file_facts(path: str | os.PathLike[str]) -> FileFacts:
    """Size, checksum and SHA-256 of a file, as manifest.json lists them."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        fast = checksum(file)
        file.seek(0)
        return FileFacts(size, fast, sha256(file))


def _plain(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(c in "/\\:" or ord(c) < 32 for c in name)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
