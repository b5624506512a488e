"""Which steps of a pipeline are implemented: normaliser, pre-tokenizer, post-processor. Others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from export.errors import ExportError
from export.tokenization.fields import Fields

BYTE_LEVEL, CHARACTER, UNIGRAM = "byte-level-bpe", "character-bpe", "unigram"


class Template(TypedDict):
    """Special tokens around texts."""

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    second_type_id: int
    trim_offsets: bool


def kind(fields: Fields) -> tuple[str, dict[str, Any]]:
    """Tell which tokenizer of the runtime does what a pipeline says.

    :param fields: The tokenizer.
    :return: Its type in the manifest, and its options there.
    :raises ExportError: A step is not implemented, or not together with the others.
    """
    normalizers = _flat(fields.file, "normalizer", fields.document.get("normalizer"), "normalizers")
    splitters = _flat(fields.file, "pre_tokenizer", fields.document.get("pre_tokenizer"), "pretokenizers")
    names = [str(step.get("type")) for step in splitters]
    if fields.model_type == "BPE":
        lower_case = False
        for step in normalizers:
            _expect(fields.file, "normalizer", step, {"Lowercase": {}})
            lower_case = True
        if len(splitters) != 1:
            raise ExportError(
                f"{fields.file}: the pre_tokenizer is {' and '.join(names) or 'missing'}; only ByteLevel or "
                "Whitespace is implemented with BPE"
            )
        byte_level = {
            "add_prefix_space": (False, True),
            "use_regex": (True, True),
            "trim_offsets": (None, True),
        }
        _expect(fields.file, "pre_tokenizer", splitters[0], {"ByteLevel": byte_level, "Whitespace": {}})
        return BYTE_LEVEL if names == ["ByteLevel"] else CHARACTER, {"lower_case": lower_case}
    for step in normalizers:
        _expect(fields.file, "normalizer", step, {"Precompiled": {"precompiled_charsmap": (None, None)}})
    if len(normalizers) > 1:
        raise ExportError(
            f"{fields.file}: {len(normalizers)} normalizers; only one Precompiled is implemented"
        )
    if names != ["WhitespaceSplit", "Metaspace"]:
        raise ExportError(
            f"{fields.file}: the pre_tokenizer is {' and '.join(names) or 'missing'}; only WhitespaceSplit and "
            "Metaspace, as in the published T5, is implemented with Unigram"
        )
    _expect(fields.file, "pre_tokenizer", splitters[0], {"WhitespaceSplit": {}})
    metaspace = {
        "replacement": ("\u2581", "\u2581"),
        "prepend_scheme": ("always", "always"),
        "add_prefix_space": (True, True),
        "str_rep": ("\u2581", "\u2581"),
        "split": (True, True),
    }
    _expect(fields.file, "pre_tokenizer", splitters[1], {"Metaspace": metaspace})
    return UNIGRAM, {}


def template(fields: Fields, ids: dict[str, int]) -> Template:
    """Read which special tokens a post-processor adds.

    :param fields: The tokenizer.
    :param ids: Token -> id.
    :return: The special tokens, and whether white space is left out of offsets.
    :raises ExportError: The post-processor is not implemented.
    """
    found = Template(prefix=[], middle=[], suffix=[], second_type_id=1, trim_offsets=False)
    for step in _flat(fields.file, "post_processor", fields.document.get("post_processor"), "processors"):
        name = step.get("type")
        if name in ("ByteLevel", "RobertaProcessing") and step.get("trim_offsets", True):
            found["trim_offsets"] = True
            if step.get("add_prefix_space", True):
                raise ExportError(
                    f"{fields.file}: post_processor: add_prefix_space is true; only false is implemented"
                )
        if name in ("RobertaProcessing", "BertProcessing"):
            first, last = (_special(fields.file, step.get(field), ids) for field in ("cls", "sep"))
            found["prefix"], found["suffix"] = [first], [last]
            found["middle"] = [last, last] if name == "RobertaProcessing" else [last]
            found["second_type_id"] = 0 if name == "RobertaProcessing" else 1
        elif name == "TemplateProcessing":
            found.update({**_templates(fields.file, step), "trim_offsets": found["trim_offsets"]})
        elif name != "ByteLevel":
            raise ExportError(
                f"{fields.file}: the post_processor is {name}; only RobertaProcessing, BertProcessing, "
                "TemplateProcessing and ByteLevel are implemented"
            )
    return found


def decoder(fields: Fields) -> str | None:
    """Read how tokens become a text again.

    :param fields: The tokenizer.
    :return: A name in runtime.tokenization.decoding.DECODERS; None where it is not implemented, which no vector needs.
    """
    steps = _flat(fields.file, "decoder", fields.document.get("decoder"), "decoders")
    if not steps:
        return "blanks"
    if [step.get("type") for step in steps] == ["ByteLevel"]:
        return "byte-level"
    step = steps[0]
    if len(steps) == 1 and step.get("type") == "Metaspace" and step.get("replacement") == "\u2581":
        never = step.get("prepend_scheme") == "never" or step.get("add_prefix_space") is False
        return None if never else "metaspace"
    return None


def _flat(file: Path, field: str, step: Any, inner: str) -> list[dict[str, Any]]:
    """Write a step and a sequence of steps alike."""
    if step is None:
        return []
    if not isinstance(step, dict):
        raise ExportError(f"{file}: {field} is {step!r}, expected an object: fetch the file again")
    if step.get("type") != "Sequence":
        return [step]
    steps = step.get(inner)
    if not isinstance(steps, list):
        raise ExportError(f"{file}: {field}.{inner} is {steps!r}, expected a list: fetch the file again")
    return [one for part in steps for one in _flat(file, field, part, inner)]


def _expect(
    file: Path, field: str, step: dict[str, Any], allowed: dict[str, dict[str, tuple[Any, Any]]]
) -> None:
    """Refuse a step, or a setting of one, that is not implemented.

    :param file: For the message.
    :param field: The part of the pipeline.
    :param step: The step.
    :param allowed: Type -> setting -> the value that is implemented (None: any) and what a missing one means.
    """
    name = step.get("type")
    if name not in allowed:
        raise ExportError(f"{file}: the {field} is {name}; only {' or '.join(allowed)} is implemented here")
    for setting, value in step.items():
        if setting == "type":
            continue
        if setting not in allowed[name]:
            raise ExportError(f"{file}: {field} {name} has the setting {setting!r}, which is not implemented")
        expected, _ = allowed[name][setting]
        if expected is not None and value != expected:
            raise ExportError(
                f"{file}: {field} {name}: {setting} is {value!r}; only {expected!r} is implemented"
            )
    for setting, (expected, missing) in allowed[name].items():
        if expected is not None and setting not in step and missing != expected:
            raise ExportError(
                f"{file}: {field} {name}: {setting} is not set; only {expected!r} is implemented"
            )


def _special(file: Path, pair: Any, ids: dict[str, int]) -> int:
    if not isinstance(pair, list) or len(pair) != 2 or ids.get(pair[0]) != pair[1]:
        raise ExportError(f"{file}: post_processor: {pair!r} is not a token of the vocabulary with its id")
    return int(pair[1])


def _templates(file: Path, step: dict[str, Any]) -> Template:
    """Read a TemplateProcessing: special tokens before, between and after the texts."""
    try:
        special = {name: list(map(int, entry["ids"])) for name, entry in step["special_tokens"].items()}
        before, after = _runs(step["single"], special, "A")
        pair_before, middle, pair_after = _runs(step["pair"], special, "AB")
        types = [entry[kind]["type_id"] for entry in step["pair"] for kind in entry]
        at = [entry.get("Sequence", {}).get("id") for entry in step["pair"]].index("B")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ExportError(
            f"{file}: post_processor: TemplateProcessing is broken: fetch the file again"
        ) from None
    if (pair_before, pair_after) != (before, after):
        raise ExportError(
            f"{file}: post_processor: the special tokens around a pair are not those around a single text, which is "
            "not implemented"
        )
    second = types[at]
    if types != [0] * at + [second] * (len(types) - at) or second not in (0, 1):
        raise ExportError(f"{file}: post_processor: type ids of a pair are {types}, which is not implemented")
    return Template(prefix=before, middle=middle, suffix=after, second_type_id=second, trim_offsets=False)


def _runs(entries: list[dict[str, Any]], special: dict[str, list[int]], texts: str) -> list[list[int]]:
    """Give the ids before, between and after the texts of a template."""
    runs: list[list[int]] = [[]]
    for entry in entries:
        if "SpecialToken" in entry:
            runs[-1] += special[entry["SpecialToken"]["id"]]
        elif entry["Sequence"]["id"] == texts[len(runs) - 1 : len(runs)]:
            runs.append([])
        else:
            raise ValueError
    if len(runs) != len(texts) + 1:
        raise ValueError
    return runs
