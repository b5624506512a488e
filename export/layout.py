"""A finished model folder for other programs: sentence-transformers, fastembed, transformers.js, optimum.

``python -m export.layout FOLDER`` adds them; ``python -m export ... --layout sentence-transformers`` does so at the end
of an export. The folder stays a model folder. onnx/model.onnx is our graph, which takes its weights from
onnx/model.onnx_data, the name that transformers.js expects; that file is a hard link to model.onnx.data, not a second
copy, where the file system has such links.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.declared import POOLING_FIELDS
from export.declared_modules import ACTIVATIONS
from export.errors import ExportError
from runtime.cli.command import Parser, add_force
from runtime.files import remove, replace, replacing
from runtime.manifest import MODEL, MODEL_DATA, VOCABULARY, Manifest, check_files, load_manifest
from runtime.modules import Module, load_arrays

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["LAYOUTS", "write_layout"]

LAYOUTS = ("sentence-transformers",)
GRAPH, WEIGHTS = "onnx/model.onnx", "onnx/model.onnx_data"
TOKENIZER = "tokenizer.json"
TYPES = "sentence_transformers.models."
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token
PROBES = (
    "How is the weather today?",
    "Ünïcödé, naïve café, 北京 and 한국어",
    "  two\tblanks\nand [MASK] or [SEP] ",
    "e=mc² ... (x_1+y)/2 #hash http://a.b/c?d=e",
    "",
)

EXAMPLES = """\
examples:
  python -m export.layout models/jina-small
  python -m export.layout models/jina-small --force

What each program cannot keep is in export/README.md.
exit status: 0 written, 2 refused, 130 interrupted.
"""


def write_layout(folder: Path, *, tokenizer: Path | None = None, force: bool = False) -> list[str]:
    """Add the files of other programs to a model folder.

    :param folder: a model folder.
    :param tokenizer: the checkpoint's tokenizer.json; needed where the folder's tokenizer is not WordPiece.
    :param force: replace such files where there are any.
    :return: names of the files written.
    :raises ExportError: other programs cannot do what the model does, a file is there already, or the disk refuses.
    :raises ModelError: it is no model folder, or damaged.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    if manifest.document.get("task") == "rerank":
        raise ExportError(
            f"{folder} is a cross-encoder, whose head is outside the graph: other programs would not find it; use "
            "runtime.Reranker"
        )
    if (kind := manifest.document["tokenizer"]["type"]) != "wordpiece":
        raise ExportError(
            f"{folder} has a tokenizer of type {kind}, and the layout of other programs is written for "
            "WordPiece alone: give those programs the checkpoint itself"
        )
    modules = load_arrays(os.fspath(folder), manifest.modules)
    made = _tokenizer(folder, manifest, tokenizer)
    documents: dict[str, Any] = {**_settings(manifest, made), **_modules(folder, manifest, modules)}
    names = [TOKENIZER, *documents, GRAPH]
    present = sorted({name for name in names if (folder / name).exists() and name not in manifest.files})
    if present and not force:
        raise ExportError(
            f"{folder} has {', '.join(present[:4])} already: pass --force to replace what is there"
        )
    try:
        if TOKENIZER not in manifest.files:
            with replacing(folder / TOKENIZER) as partial:
                made.save(partial)
        for name, content in documents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            with replacing(folder / name) as partial:
                if isinstance(content, bytes):
                    Path(partial).write_bytes(content)
                else:
                    Path(partial).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return [*names, *_graph(folder)]
    except OSError as error:
        raise ExportError(f"{folder}: cannot write there ({error.strerror or error})") from None


def _settings(manifest: Manifest, tokenizer: Tokenizer) -> dict[str, Any]:
    """Configuration of the model and of its tokenizer."""
    document, described = manifest.document, manifest.tokenizer
    wordpiece = described["type"] == "wordpiece"
    if wordpiece:
        special = {
            f"{name[1:-1].lower()}_token": name for name in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
        }
    else:
        ends = [described["prefix"][:1], described["suffix"][-1:]]
        ids = {"pad_token": [described["pad_id"]], "cls_token": ends[0], "sep_token": ends[1]}
        ids["unk_token"] = [] if described.get("unk_id") is None else [described["unk_id"]]
        special = {name: str(tokenizer.id_to_token(numbers[0])) for name, numbers in ids.items() if numbers}
    return {
        "config.json": {
            # What all these programs know without code of ours; the graph is not made from it.
            "model_type": "bert",
            "architectures": ["BertModel"],
            "hidden_size": document["hidden_size"],
            "num_hidden_layers": document["layers"],
            "num_attention_heads": document["heads"],
            "intermediate_size": document["intermediate"],
            "vocab_size": document["vocabulary"],
            "max_position_embeddings": document["max_tokens"],
            "pad_token_id": described.get("pad_id", 0),
            "transformers.js_config": {"dtype": "fp32", "use_external_data_format": {"model.onnx": True}},
        },
        "tokenizer_config.json": {
            **(
                {"tokenizer_class": "BertTokenizer", "do_lower_case": manifest.lower_case}
                if wordpiece
                else {"tokenizer_class": "PreTrainedTokenizerFast"}
            ),
            "model_max_length": manifest.max_tokens,
            **special,
        },
        "special_tokens_map.json": special,
        "sentence_bert_config.json": {"max_seq_length": manifest.max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": document.get("prompts") or {},
            "default_prompt_name": document.get("default_prompt_name"),
            "similarity_fn_name": document.get("similarity"),
        },
    }


def _modules(folder: Path, manifest: Manifest, modules: Sequence[Module]) -> dict[str, Any]:
    """modules.json and a folder for each module."""
    found: dict[str, Any] = {}
    entries = [{"idx": 0, "name": "0", "path": "", "type": TYPES + "Transformer"}]

    def add(kind: str, config: Mapping[str, Any] | None = None, weights: bytes | None = None) -> None:
        number = len(entries)
        path = f"{number}_{kind}"
        entries.append({"idx": number, "name": str(number), "path": path, "type": TYPES + kind})
        if config is not None:
            found[f"{path}/config.json"] = config
        if weights is not None:
            found[f"{path}/model.safetensors"] = weights

    add(
        "Pooling",
        {"word_embedding_dimension": manifest.document["hidden_size"]}
        | {field: mode in manifest.pooling for field, mode in POOLING_FIELDS.items()}
        | {"include_prompt": manifest.include_prompt},
    )
    for module in modules:
        if module.type == "normalize":
            add("Normalize")
        elif module.type == "layer_norm":
            add(
                "LayerNorm",
                {"dimension": module.size},
                _weights(module, {"weight": "norm.weight", "bias": "norm.bias"}),
            )
        else:
            config = {
                "in_features": module.size,
                "out_features": module.output_size,
                "bias": module.bias,
                "activation_function": _activation(module.activation),
            }
            if module.use_residual:
                config["use_residual"] = True
            names = {"weight": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"}
            add("Dense", config, _weights(module, names))
    if manifest.normalize and (not modules or modules[-1].type != "normalize"):
        add("Normalize")
    return {"modules.json": entries, **found}


def _activation(name: str) -> str:
    """The class in torch."""
    kind = next(kind for kind, ours in ACTIVATIONS.items() if ours == name)
    return f"torch.nn.modules.{'linear' if kind == 'Identity' else 'activation'}.{kind}"


def _weights(module: Module, names: Mapping[str, str]) -> bytes:
    from safetensors.numpy import save

    return save({names[name]: array.astype("float32") for name, array in module.arrays.items()})


def _tokenizer(folder: Path, manifest: Manifest, given: Path | None) -> Tokenizer:
    """Make the tokenizer of `tokenizers`, and see that it gives the same ids as ours."""
    import tokenizers

    from runtime.model import load_model

    settings = manifest.tokenizer
    if given is None and (folder / TOKENIZER).is_file() and settings["type"] != "wordpiece":
        given = folder / TOKENIZER  # of an earlier run
    if given is not None:
        try:
            made = tokenizers.Tokenizer.from_file(str(given))
        except Exception as error:  # the library raises its own bare Exception
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{given} cannot be read as a tokenizer.json ({reason})") from None
        made.no_truncation()
        made.no_padding()
    elif settings["type"] == "wordpiece":
        made = _wordpiece(folder, manifest)
    else:
        raise ExportError(
            f"{folder} has a {settings['type']} tokenizer: pass --tokenizer with the tokenizer.json of the checkpoint "
            "that it was exported from"
        )
    ours = load_model(folder).tokenizer
    added = [str(token["content"]) for token in settings.get("added_tokens") or []]
    for text in (*PROBES, *(f"one {token}two {token} three" for token in added)):
        if (found := made.encode(text).ids) != (expected := list(ours.encode(text))):
            raise ExportError(
                f"{folder}: tokenizer.json would give {found} for {text!r}, and this model's tokenizer gives {expected}"
            )
    return made


def _wordpiece(folder: Path, manifest: Manifest) -> Tokenizer:
    from tokenizers import AddedToken, BertWordPieceTokenizer

    tokens = (folder / VOCABULARY).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    made = BertWordPieceTokenizer(
        {token: number for number, token in enumerate(tokens)}, lowercase=manifest.lower_case
    )
    for token in manifest.tokenizer.get("added_tokens") or []:
        flags = {name: bool(token.get(name)) for name in FLAGS}  # the manifest lists those that are true
        made.add_tokens([AddedToken(token["content"], **flags)])
    return made


def _graph(folder: Path) -> list[str]:
    """Write onnx/model.onnx with its weights in onnx/model.onnx_data."""
    import onnx

    (folder / "onnx").mkdir(exist_ok=True)
    if not (folder / MODEL_DATA).is_file():
        _link(folder / MODEL, folder / GRAPH)
        return []
    model = onnx.load(folder / MODEL, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = Path(WEIGHTS).name
    with replacing(folder / GRAPH) as partial:
        Path(partial).write_bytes(model.SerializeToString(deterministic=True))
    _link(folder / MODEL_DATA, folder / WEIGHTS)
    return [WEIGHTS]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy of it where the file system has no hard links."""
    partial = os.fspath(target.with_name(f".{target.name}.{os.getpid()}.partial"))
    try:
        # Of the file itself: a program that loads the copy's folder would not follow a link out of it.
        os.link(os.path.realpath(source), partial)
    except OSError:
        shutil.copyfile(source, partial)
    try:
        replace(partial, target)
    except BaseException:
        remove(partial)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None: of the process.
    :return: exit status.
    """
    options = Parser("export.layout", "Add the files of other programs to a model folder.", EXAMPLES)
    options.add_argument("folder", metavar="FOLDER", type=Path, help="model folder made by python -m export")
    options.add_argument(
        "--tokenizer",
        metavar="FILE",
        type=Path,
        help="tokenizer.json of the checkpoint, where the model's tokenizer is not WordPiece",
    )
    add_force(options, "replace such files where there are any")
    return options.run(_main, argv, machine_status=2, sigterm_status=130)


def _main(arguments: argparse.Namespace) -> int:
    written = write_layout(arguments.folder, tokenizer=arguments.tokenizer, force=arguments.force)
    sys.stdout.write("".join(f"{arguments.folder / name}\n" for name in sorted(set(written))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
