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

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from export.backbone_settings import read_backbone_settings
from export.config import check_file
from export.declared_modules import read_module
from export.errors import ExportError, listing
from export.layouts import checkpoint_root, refuse_adapter
from export.models import load_config
from export.reader import Reader, read_any_json
from runtime.manifest import SIMILARITIES
from runtime.modules import Module
from runtime.pooling import MODES

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


class _Reader(Reader):
    """Reads what the folder declares."""

    def read(self) -> Declared:
        refuse_adapter(self.root)
        if not (self.root / MODULES).exists():
            if poolings := sorted(path.parent.name for path in self.root.glob("*_Pooling/config.json")):
                self.notes.append(
                    f"{listing(poolings)} is not used: without {MODULES} nothing refers to it; pooling is mean"
                )
            settings: dict[str, Any] = {**self._backbone(self.root), **self._prompts()}
            if (cut := settings.pop("truncate_dim", None)) is not None:
                self.notes.append(
                    f"truncate_dim {cut} is not used: without {MODULES} nothing says what it is cut from"
                )
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
            modules.append(read_module(self, kind, path, size))
            size = modules[-1].output_size
        cut = settings.pop("truncate_dim", None)
        if cut is not None and cut < size:  # after all modules: what is cut is not normalised again
            self.notes.append(
                f"truncate_dim: the first {cut} of {size} numbers, as sentence-transformers cuts them"
            )
            modules.append(Module("dense", size, cut, arrays={"weight": np.eye(cut, size, dtype=np.float32)}))
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
        entries = read_any_json(path)
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
            self.note_unknown(path, entry, {"idx", "name", "path", "type"}, f"entry {number}: ")
            if kind != "Dropout":
                modules.append((kind, self.root / place))
        names = [entry.get("name") for entry in entries]
        if twice := sorted({str(name) for name in names if name is not None and names.count(name) > 1}):
            raise ExportError(
                f"{path}: several modules have the name {listing(twice)}, and sentence-transformers keeps the last "
                "of them: give each a name of its own"
            )
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
                f"{self.name(path)} is missing: pooling is mean, the default of sentence-transformers"
            )
            return ("mean",), True
        fields = self.json(path)
        stated = fields.get("pooling_mode")
        if stated is None:
            flags = {name: value for name, value in fields.items() if name.startswith("pooling_mode_")}
            if strange := [name for name, value in flags.items() if value not in (True, False, None)]:
                raise ExportError(f"{path}: {strange[0]} is {flags[strange[0]]!r}, expected true or false")
            flags = {name: value for name, value in flags.items() if value}
            if others := sorted(flags.keys() - POOLING_FIELDS.keys()):
                raise ExportError(
                    f"{path}: {listing(others)} is not implemented; {', '.join(POOLING_FIELDS)} are"
                )
            modes = tuple(mode for name, mode in POOLING_FIELDS.items() if name in flags)
            if not modes:
                modes = ("mean",)
                if fields.keys() & POOLING_FIELDS.keys():
                    self.notes.append(
                        f"{self.name(path)} has every mode off: pooling is mean, as in sentence-transformers"
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
        self.note_unknown(path, fields, known | POOLING_FIELDS.keys())
        return modes, include_prompt

    def _prompts(self) -> dict[str, Any]:
        """What stands in config_sentence_transformers.json."""
        path = self.root / SETTINGS
        if not path.exists():
            return {}
        fields = self.json(path)
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
        cut = fields.get("truncate_dim")
        if cut is not None and (isinstance(cut, bool) or not isinstance(cut, int) or cut < 1):
            raise ExportError(
                f"{path}: truncate_dim is {cut!r}, expected a number of dimensions of at least 1"
            )
        kind = fields.get("model_type")
        if kind is not None and kind not in _KINDS:
            raise ExportError(
                f"{path}: model_type is {kind!r}; only a SentenceTransformer gives one vector a text"
            )
        self.note_unknown(
            path,
            fields,
            {
                "__version__",
                "prompts",
                "default_prompt_name",
                "similarity_fn_name",
                "model_type",
                "truncate_dim",
            },
        )
        return {
            "prompts": prompts,
            "default_prompt_name": default,
            "similarity": similarity,
            "truncate_dim": cut,
        }
