"""Prompts: what a model wants put before a text, by the names that its folder declares.

As in sentence-transformers: the prompt is joined to the text as it is, before tokenization. Where the folder says
"include_prompt": false, its tokens are read by the model but left out of pooling, and [CLS] with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import InputError

if TYPE_CHECKING:
    from .manifest import Manifest
    from .tokenization.tokenizer import Tokenizer

DOCUMENT_NAMES = ("document", "passage", "corpus")


class Prompt(NamedTuple):
    """A prompt that was chosen."""

    name: str | None  # None: given as a text, or none
    text: str  # "" for none


NO_PROMPT = Prompt(None, "")


def choose_prompt(manifest: Manifest, name: str | None = None, text: str | None = None) -> Prompt:
    """Choose the prompt of a call.

    :param manifest: of the model.
    :param name: one of the manifest's prompts; None for its default prompt, if there is one.
    :param text: the prompt itself; "" for none, not even the default.
    :raises InputError: there is no prompt of that name, or both are given.
    """
    if text is not None:
        if name is not None:
            raise InputError(f"prompt_name={name!r} and prompt={text[:40]!r}: give one of them")
        if not isinstance(text, str):
            raise InputError(f"prompt={text!r}: expected a string")
        return Prompt(None, text)
    if name is None:
        name = manifest.default_prompt_name
        if name is None:
            return NO_PROMPT
    if name not in manifest.prompts:
        known = ", ".join(map(repr, manifest.prompts)) or "none"
        raise InputError(
            f"prompt_name={name!r}: the model folder declares {known}; pass prompt= for one of your own"
        )
    return Prompt(name, manifest.prompts[name])


def query_prompt(manifest: Manifest) -> Prompt:
    """Choose the prompt for search queries: "query", or none at all, not even the default."""
    return choose_prompt(manifest, "query") if "query" in manifest.prompts else NO_PROMPT


def document_prompt(manifest: Manifest) -> Prompt:
    """Choose the prompt for what is searched.

    It is the first of "document", "passage" and "corpus" that is not empty, or none at all, not even the default.
    """
    name = next((name for name in DOCUMENT_NAMES if manifest.prompts.get(name)), None)
    return NO_PROMPT if name is None else choose_prompt(manifest, name)


def skipped_tokens(manifest: Manifest, tokenizer: Tokenizer, prompt: Prompt) -> int:
    """Count the tokens at the start of a text that pooling leaves out.

    :param manifest: of the model.
    :param tokenizer: of the model.
    :param prompt: what stands before the text.
    :return: 0 unless the folder says "include_prompt": false; else the tokens of the prompt, [CLS] included.
    """
    if manifest.include_prompt or not prompt.text:
        return 0
    return len(tokenizer.encode(prompt.text)) - len(tokenizer.suffix)
