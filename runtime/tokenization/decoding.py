"""How tokens become a text again, as the decoders of `tokenizers` do it."""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPACE_SIGN = "\u2581"
_CONTINUED = "##"
# What the library's clean-up puts together, in this order, in each token after its blank.
_CLOSE = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " do not": " don't",
    " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip


def byte_signs() -> list[str]:
    """Give the visible sign that stands for each byte in a byte-level vocabulary, as GPT-2 has it.

    :return: 256 characters: the printable ones of Latin-1 for themselves, the others from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@cache
def _sign_bytes() -> dict[str, int]:
    return {sign: byte for byte, sign in enumerate(byte_signs())}


def _byte_level(tokens: Sequence[str]) -> str:
    """Each sign is a byte; a token with another character, which only an added one can have, stands for itself."""
    known = _sign_bytes()
    parts = [
        bytes(map(known.__getitem__, token)) if known.keys() >= set(token) else token.encode()
        for token in tokens
    ]
    return b"".join(parts).decode("utf-8", "replace")


def _metaspace(tokens: Sequence[str]) -> str:
    """The sign is a blank, but in the first token nothing."""
    if not tokens:
        return ""
    return tokens[0].replace(_SPACE_SIGN, "") + "".join(tokens[1:]).replace(_SPACE_SIGN, " ")


def _wordpiece(tokens: Sequence[str]) -> str:
    """Blanks between words, none before punctuation."""
    parts: list[str] = []
    for number, token in enumerate(tokens):
        part = token
        if number:
            part = token[2:] if token.startswith(_CONTINUED) else f" {token}"
        for apart, joined in _CLOSE.items():
            part = part.replace(apart, joined)
        parts.append(part)
    return "".join(parts)


# By the name that a manifest has: of byte-level BPE, of T5's Unigram, of WordPiece, and of what has no decoder.
DECODERS: dict[str, Callable[[Sequence[str]], str]] = {
    "byte-level": _byte_level,
    "metaspace": _metaspace,
    "wordpiece": _wordpiece,
    "blanks": " ".join,
}
