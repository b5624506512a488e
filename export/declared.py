"""What a folder declares beside its weights: the files of sentence-transformers' ``save()``, read into one description.

Every module type of sentence-transformers 2 to 6 is decided: it works, or it is refused by name. What changes vectors
is never dropped; what is not known and cannot be judged ends in ``notes``, which the report shows.

==========================================  =======================================================================
works                                       Transformer (first), Pooling (its six modes and their concatenation),
                                            Dense, LayerNorm, Normalize, Dropout (nothing at inference)
refused by name                             all others: see ``_REFUSED``, and modules with code of their own
==========================================  =======================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from export.backbone_settings import read_backbone_settings, unknown_fields
from export.config import check_file, read_json
from export.errors import ExportError, listing
from export.layouts import checkpoint_root, refuse_adapter, weight_files
from export.models import load_config
from runtime.manifest import SIMILARITIES
from runtime.modules import Module, array_shapes
from runtime.pooling import MODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Declared", "read_declared"]

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Last part of a module's type -> what it does, for those that cannot be exported.
_REFUSED = {
    "Asym": "chooses between several models by the kind of text: export the folder of each by itself",
    "Router": "chooses between several models by the kind of text: export the folder of each by itself",
    "BoW": "counts words, without an encoder",
    "CLIPModel": "embeds images beside texts",
    "CNN": "is a convolution over token vectors",
    "LSTM": "is a recurrent network over token vectors",
    "StaticEmbedding": "is a table of token vectors, without an encoder",
    "WeightedLayerPooling": "mixes the token vectors of several layers",
    "WordEmbeddings": "is a table of word vectors, without an encoder",
    "WordWeights": "weighs tokens before they are pooled",
    "LogitScore": "belongs to a cross-encoder, which scores pairs and gives no vectors",
    "MLMTransformer": "belongs to a sparse encoder",
    "SparseAutoEncoder": "belongs to a sparse encoder",
    "SparseStaticEmbedding": "belongs to a sparse encoder",
    "SpladePooling": "belongs to a sparse encoder",
    "MultiVectorMask": "belongs to a model with a vector for each token",
    "TokenPooling": "belongs to a model with a vector for each token",
}
ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "ELU": "elu",
    "SELU": "selu",
    "LeakyReLU": "leaky_relu",
    "ReLU6": "relu6",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
}
POOLING_FIELDS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KINDS = {"SentenceTransformer", "sentence_transformers.SentenceTransformer"}


@dataclass(frozen=True)
class Declared:
    """What a folder declares. The defaults are those of a folder without sentence-transformers' files."""

    root: Path  # the folder of sentence-transformers' files
    backbone: Path  # the folder of config.json, weights and tokenizer
    max_tokens: int | None = None  # max_seq_length; None: the tokenizer's own limit
    lower_case: bool = False  # texts are lower-cased before the tokenizer
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[Module, ...] = ()
    normalize: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    notes: tuple[str, ...] = ()  # what the report has to say
    files: tuple[Path, ...] = ()  # what was read besides the backbone's own files

    def name_of(self, path: Path) -> str:
        """The name of a file within the folder."""
        return path.relative_to(self.root).as_posix()


def read_declared(folder: Path) -> Declared:
    """Read what a folder declares.

    :param folder: what the user gave: a checkpoint, or the folder of a model in a hub's cache.
    :return: the description, the arrays of its modules included.
    :raises ExportError: a file is broken, or declares what the runtime does not compute; the message names it.
    """
    return _Reader(checkpoint_root(folder)).read()


class _Reader:
    """Collects notes while it reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self.files: list[Path] = []

    def read(self) -> Declared:
        refuse_adapter(self.root)
        if not (self.root / MODULES).exists():
            if poolings := sorted(path.parent.name for path in self.root.glob("*_Pooling/config.json")):
                self.notes.append(
                    f"{listing(poolings)} is not used: without {MODULES} nothing refers to it; pooling is mean"
                )
            settings: dict[str, Any] = {**self._backbone(self.root), **self._prompts()}
            settings |= {"notes": tuple(self.notes), "files": tuple(self.files)}
            return Declared(self.root, self.root, **settings)
        backbone, pooling, *others = self._entries()
        refuse_adapter(backbone[1])
        settings = {**self._backbone(backbone[1]), **self._prompts()}
        hidden_size = load_config(backbone[1]).hidden_size
        modes, include_prompt = self._pooling(pooling[1], hidden_size)
        modules = list[Module]()
        size = len(modes) * hidden_size
        for kind, path in others:
            modules.append(self._module(kind, path, size))
            size = modules[-1].output_size
        normalize = bool(modules) and modules[-1].type == "normalize"
        while modules and modules[-1].type == "normalize":
            modules.pop()
        return Declared(
            self.root,
            backbone[1],
            **settings,
            pooling=modes,
            include_prompt=include_prompt,
            modules=tuple(modules),
            normalize=normalize,
            notes=tuple(self.notes),
            files=tuple(self.files),
        )

    def _entries(self) -> list[tuple[str, Path]]:
        """Type and folder of each module but Dropout: Transformer, Pooling, and those that work on its vectors."""
        path = self.root / MODULES
        entries = _read_any_json(path)
        self.files.append(path)
        if not isinstance(entries, list) or not entries:
            raise ExportError(f"{path} is not a list of modules: fetch it again")
        modules = []
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise ExportError(f"{path}: entry {number} has no type: fetch it again")
            place = entry.get("path", "")
            if (
                not isinstance(place, str)
                or PurePosixPath(place).is_absolute()
                or ".." in PurePosixPath(place).parts
            ):
                raise ExportError(
                    f"{path}: entry {number} has the path {place!r}, which is not one inside the folder"
                )
            package, _, kind = entry["type"].rpartition(".")
            if package.partition(".")[0] != "sentence_transformers":
                raise ExportError(
                    f"{path}: {entry['type']} is code of the checkpoint's own, and none of it is run: export a folder "
                    "with sentence-transformers' own modules"
                )
            if kind not in {"Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}:
                reason = _REFUSED.get(kind, "is not known here")
                raise ExportError(f"{path}: the module {kind} cannot be exported: it {reason}")
            self._unknown(path, entry, {"idx", "name", "path", "type"}, f"entry {number}: ")
            if kind != "Dropout":
                modules.append((kind, self.root / place))
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
            raise ExportError(
                f"{path}: the modules are {', '.join(kinds)}; one Transformer, one Pooling and then any others work"
            )
        return modules

    def _backbone(self, backbone: Path) -> dict[str, Any]:
        """What stands beside the encoder's weights."""
        settings, files, notes = read_backbone_settings(backbone)
        self.files += files
        self.notes += notes
        return settings

    def _pooling(self, folder: Path, hidden_size: int) -> tuple[tuple[str, ...], bool]:
        """Modes and include_prompt of the Pooling module."""
        path = folder / "config.json"
        check_file(path)
        if not path.exists():
            self.notes.append(
                f"{self._name(path)} is missing: pooling is mean, the default of sentence-transformers"
            )
            return ("mean",), True
        fields = self._json(path)
        stated = fields.get("pooling_mode")
        if stated is None:
            flags = {
                name: value for name, value in fields.items() if name.startswith("pooling_mode_") and value
            }
            if others := sorted(flags.keys() - POOLING_FIELDS.keys()):
                raise ExportError(
                    f"{path}: {listing(others)} is not implemented; {', '.join(POOLING_FIELDS)} are"
                )
            modes = tuple(mode for name, mode in POOLING_FIELDS.items() if name in flags)
            if not modes:
                modes = ("mean",)
                if fields.keys() & POOLING_FIELDS.keys():
                    self.notes.append(
                        f"{self._name(path)} has every mode off: pooling is mean, as in sentence-transformers"
                    )
        else:
            modes = (
                (stated,) if isinstance(stated, str) else tuple(stated) if isinstance(stated, list) else ()
            )
            if not modes or any(mode not in MODES for mode in modes):
                raise ExportError(f"{path}: pooling_mode is {stated!r}; {', '.join(MODES)} are implemented")
        include_prompt = fields.get("include_prompt", True)
        if not isinstance(include_prompt, bool):
            raise ExportError(f"{path}: include_prompt is {include_prompt!r}, expected true or false")
        width = fields.get("embedding_dimension", fields.get("word_embedding_dimension"))
        if width not in (None, hidden_size):
            raise ExportError(
                f"{path}: it pools vectors of {width!r} numbers, and the encoder gives {hidden_size}: the two are of "
                "different models"
            )
        known = {"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
        self._unknown(path, fields, known | POOLING_FIELDS.keys())
        return modes, include_prompt

    def _module(self, kind: str, folder: Path, size: int) -> Module:
        path = folder / "config.json"
        fields = self._json(path) if kind != "Normalize" or path.exists() else {}
        for name in ("module_input_name", "module_output_name"):
            if fields.get(name) not in (None, "sentence_embedding"):
                raise ExportError(
                    f"{path}: {name} is {fields[name]!r}; only 'sentence_embedding' works: this is a module of a model "
                    "with a vector for each token, or of several outputs"
                )
        names = {"module_input_name", "module_output_name"}
        if kind == "Normalize":
            self._unknown(path, fields, names)
            return Module("normalize", size, size)
        if kind == "LayerNorm":
            if fields.get("dimension") != size:
                raise ExportError(
                    f"{path}: dimension is {fields.get('dimension')!r} where {size} numbers come in"
                )
            self._unknown(path, fields, names | {"dimension"})
            return self._with_arrays(Module("layer_norm", size, size), folder, "norm")
        if fields.get("in_features") != size:
            raise ExportError(
                f"{path}: in_features is {fields.get('in_features')!r} where {size} numbers come in"
            )
        out = fields.get("out_features")
        if isinstance(out, bool) or not isinstance(out, int) or not 1 <= out <= 1 << 16:
            raise ExportError(f"{path}: out_features is {out!r}, expected an integer from 1 to 65,536")
        bias, residual = fields.get("bias", True), fields.get("use_residual", False)
        if not isinstance(bias, bool) or not isinstance(residual, bool):
            raise ExportError(
                f"{path}: bias is {bias!r} and use_residual {residual!r}, expected true or false"
            )
        self._unknown(
            path,
            fields,
            names | {"in_features", "out_features", "bias", "use_residual", "activation_function"},
        )
        stated = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
        package, _, name = str(stated).rpartition(".")
        if not package.startswith("torch.nn") or name not in ACTIVATIONS:
            raise ExportError(
                f"{path}: activation_function is {stated!r}, which is not implemented; {', '.join(ACTIVATIONS)} of "
                "torch.nn are"
            )
        if "activation_function" not in fields:
            self.notes.append(
                f"{self._name(path)} names no activation: it is Tanh, as sentence-transformers' default"
            )
        dense = Module("dense", size, out, bias=bias, use_residual=residual, activation=ACTIVATIONS[name])
        return self._with_arrays(dense, folder, "linear")

    def _with_arrays(self, module: Module, folder: Path, layer: str) -> Module:
        """Read the arrays of a module from the weights in its folder."""
        import torch

        from export.checkpoint import read_state

        state = read_state(folder)
        self.files += weight_files(folder)
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, shape in array_shapes(module).items():
            key = "residual.weight" if name == "residual" else f"{layer}.{name}"
            tensor = state.pop(key, None)
            if tensor is None:
                raise ExportError(f"{folder} lacks {key}, which its config.json promises: fetch it again")
            if tuple(tensor.shape) != shape or not tensor.is_floating_point():
                raise ExportError(
                    f"{folder}: {key} is {tensor.dtype} {list(tensor.shape)}, expected numbers of shape {list(shape)}"
                )
            array = tensor.to(torch.float32).numpy()
            if not np.isfinite(array).all():
                raise ExportError(
                    f"{folder}: {key} holds values that are not finite: the checkpoint is damaged"
                )
            arrays[name] = array
        if state:
            raise ExportError(
                f"{folder} holds {listing(sorted(state))}, which its config.json does not explain"
            )
        return module._replace(arrays=arrays)

    def _prompts(self) -> dict[str, Any]:
        """What stands in config_sentence_transformers.json."""
        path = self.root / SETTINGS
        if not path.exists():
            return {}
        fields = self._json(path)
        prompts = fields.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(
            isinstance(text, str | None) for text in prompts.values()
        ):
            raise ExportError(f"{path}: prompts is {prompts!r}, expected names and texts")
        prompts = {name: text or "" for name, text in prompts.items()}
        default = fields.get("default_prompt_name")
        if default is not None and default not in prompts:
            raise ExportError(
                f"{path}: default_prompt_name is {default!r}, and prompts has {listing(list(prompts)) or 'none'}: "
                "correct one of them"
            )
        similarity = fields.get("similarity_fn_name") or "cosine"
        similarity = {"dot_score": "dot", "dot_product": "dot"}.get(similarity, similarity)
        if similarity not in SIMILARITIES:
            raise ExportError(
                f"{path}: similarity_fn_name is {similarity!r}; {', '.join(SIMILARITIES)} are known"
            )
        kind = fields.get("model_type")
        if kind is not None and kind not in _KINDS:
            raise ExportError(
                f"{path}: model_type is {kind!r}; only a SentenceTransformer gives one vector a text"
            )
        self._unknown(
            path,
            fields,
            {"__version__", "prompts", "default_prompt_name", "similarity_fn_name", "model_type"},
        )
        return {"prompts": prompts, "default_prompt_name": default, "similarity": similarity}

    def _json(self, path: Path) -> dict[str, Any]:
        fields = read_json(path)
        self.files.append(path)
        return fields

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _unknown(self, path: Path, fields: dict[str, Any], known: set[str], where: str = "") -> None:
        """Note the fields that are not known."""
        if unknown := unknown_fields(fields, known):
            self.notes.append(f"{self._name(path)}: {where}not used: {unknown}")


def _read_any_json(path: Path) -> Any:
    """JSON of any kind; read_json is for objects."""
    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not valid JSON ({error}): fetch it again") from None
