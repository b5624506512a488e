"""Prompts that a request asks for: `input_type` (Cohere, Jina) and `prompt_name` (text-embeddings-inference)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.prompts import Prompt, choose_prompt, document_prompt, query_prompt

from .errors import invalid, nearest, shown

if TYPE_CHECKING:
    from runtime.manifest import Manifest

    from .context import Context
    from .fields import Values

# What Cohere, Jina, NVIDIA and Voyage call the two sides of a search.
QUERIES = ("query", "search_query", "retrieval.query", "retrieval_query")
DOCUMENTS = ("document", "passage", "search_document", "retrieval.passage", "retrieval_document")


def prompt_of(values: Values, context: Context) -> Prompt:
    """The prompt that stands before each text of a request.

    :param values: a checked request. input_type joins its ignored fields where the model has no prompts.
    :param context: of the door.
    :return: the prompt; that of the model folder's default, or none, where the request names none.
    :raises ServiceError: 400, the model has no such prompt.
    """
    manifest = context.manifest
    name, kind = values["prompt_name"], values["input_type"]
    known = ", ".join(manifest.prompts)
    if name is not None:
        if not known:
            raise invalid(
                "prompt_name",
                f"prompt_name: this model has no prompts, so {shown(name)} is none; leave it out",
            )
        if name not in manifest.prompts:
            hint = nearest(str(name), manifest.prompts)
            raise invalid("prompt_name", f"prompt_name is {shown(name)}: must be one of {known}{hint}")
        return choose_prompt(manifest, name)
    if kind is None:
        return choose_prompt(manifest)
    if not known:
        values.ignored = (*values.ignored, "input_type")
        return choose_prompt(manifest)
    return _of_input_type(kind, manifest)


def _of_input_type(kind: str, manifest: Manifest) -> Prompt:
    if kind in manifest.prompts:
        return choose_prompt(manifest, kind)
    if kind in QUERIES:
        return query_prompt(manifest)
    if kind in DOCUMENTS:
        return document_prompt(manifest)
    allowed = dict.fromkeys([*manifest.prompts, *QUERIES, *DOCUMENTS])
    raise invalid(
        "input_type",
        f"input_type is {shown(kind)}: must be one of {', '.join(allowed)}{nearest(kind, allowed)}",
    )
