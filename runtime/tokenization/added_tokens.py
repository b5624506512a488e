"""Added and special tokens: texts that have an id of their own wherever they stand, as `tokenizers` finds them.

They are matched before the model sees the text, leftmost first and of several the longest: those that are not
`normalized` in the text as it is given, then the `normalized` ones, whose content is normalised too, in the normalised
parts that remain. Source of the rules: `AddedVocabulary` of `tokenizers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# \s of the library's expressions: White_Space of Unicode. str.isspace also has U+001C to U+001F.
WHITE_SPACE = (
    "\t\n\x0b\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029"
    "\u202f\u205f\u3000"
)
_MOST_FIRST_CHARACTERS = 3  # up to so many a search for each is faster than the expression


class AddedToken(NamedTuple):
    """A text with an id of its own."""

    id: int
    content: str
    single_word: bool = False  # only where no word character stands next to it
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    normalized: bool = False  # looked for in the normalised text, its content normalised too
    special: bool = False


class Part(NamedTuple):
    """A stretch of a text: a token or what lies between tokens."""

    id: int | None  # None: ordinary text
    start: int
    stop: int


class TokenMatcher:
    """Finds added tokens of one sort in texts.

    :param tokens: All of them `normalized` or none, in the order in which `tokenizers` holds them: special ones first,
        else as added. Of two with the same content the first counts.
    :param normalize: What the tokenizer does to a text, done to the content of each token.
    """

    def __init__(self, tokens: Iterable[AddedToken], normalize: Callable[[str], str] | None = None) -> None:
        import re

        self._tokens: dict[str, AddedToken] = {}
        for token in tokens:
            content = normalize(token.content) if normalize else token.content
            if content:
                self._tokens.setdefault(content, token)
        # Alternatives are tried in order, so the longest first.
        contents = sorted(self._tokens, key=len, reverse=True)
        self._matches = re.compile("|".join(map(re.escape, contents))).finditer
        self._first = sorted({content[0] for content in contents})

    def split(self, text: str) -> list[Part]:
        """Part a text into tokens and what lies between them.

        :param text: Any text without lone surrogates.
        :return: Parts in order, none of them empty; one for the whole text if no token is in it. A token that starts
            with white space may start within what the one before it has stripped, as in `tokenizers`.
        """
        if len(self._first) <= _MOST_FIRST_CHARACTERS and not any(one in text for one in self._first):
            return [Part(None, 0, len(text))] if text else []
        parts = []
        end = 0
        for match in self._matches(text):
            start, stop = match.span()
            token = self._tokens[match.group()]
            if token.single_word and (
                (start > 0 and _is_word(text[start - 1])) or (stop < len(text) and _is_word(text[stop]))
            ):
                continue
            if token.lstrip:
                while start > end and text[start - 1] in WHITE_SPACE:
                    start -= 1
                start = max(start, end)
            if token.rstrip:
                while stop < len(text) and text[stop] in WHITE_SPACE:
                    stop += 1
            if start >= stop:  # all of it stripped by the token before it
                continue
            if end < start:
                parts.append(Part(None, end, start))
            parts.append(Part(token.id, start, stop))
            end = stop
        if end < len(text):
            parts.append(Part(None, end, len(text)))
        return parts


class AddedTokens:
    """All added tokens of a tokenizer.

    `exact` finds those to look for in a text as it is given, `normalized` those to look for in what the normaliser
    makes of the parts between them; None where there are none.

    :param tokens: In the order of tokenizer.json.
    :param normalize: The tokenizer's normaliser, None where it has none.
    """

    def __init__(self, tokens: Sequence[AddedToken], normalize: Callable[[str], str] | None = None) -> None:
        self.tokens = tuple(tokens)
        ordered = sorted(tokens, key=lambda token: not token.special)  # stable
        exact = [token for token in ordered if not token.normalized]
        other = [token for token in ordered if token.normalized]
        self.exact = TokenMatcher(exact) if exact else None
        self.normalized = TokenMatcher(other, normalize) if other else None

    def __bool__(self) -> bool:
        return bool(self.tokens)


def read_added_tokens(entries: Any, size: int) -> list[AddedToken]:
    """Check the added tokens of a manifest.

    :param entries: A list of objects with "id", "content" and those flags that are true.
    :param size: Ids must be lower.
    :return: The tokens, in that order.
    :raises ModelError: An entry is not of that form; the message names it.
    """
    if not isinstance(entries, list):
        raise ModelError(f"tokenizer.added_tokens is {entries!r:.60}, not a list")
    return [_read(number, entry, size) for number, entry in enumerate(entries)]


def _read(number: int, entry: Any, size: int) -> AddedToken:
    where = f"tokenizer.added_tokens[{number}]"
    if not isinstance(entry, dict):
        raise ModelError(f"{where} is {entry!r:.60}, not an object")
    if unknown := set(entry) - set(AddedToken._fields):
        raise ModelError(f"{where} has the unknown field {min(unknown)!r}")
    content, token_id = entry.get("content"), entry.get("id")
    if not isinstance(content, str) or not content:
        raise ModelError(f"{where}.content is {content!r:.60}, not a text")
    if type(token_id) is not int or not 0 <= token_id < size:
        raise ModelError(f"{where}.id is {token_id!r:.60}, not an integer from 0 to {size - 1}")
    for flag in AddedToken._fields[2:]:
        if not isinstance(entry.get(flag, False), bool):
            raise ModelError(f"{where}.{flag} is {entry[flag]!r:.60}, not true or false")
    return AddedToken(**entry)


def write_added_tokens(tokens: Iterable[AddedToken]) -> list[Mapping[str, Any]]:
    """Give added tokens the form that a manifest holds.

    :param tokens: The tokens.
    :return: What `read_added_tokens` reads.
    """
    return [
        {name: value for name, value in token._asdict().items() if value is not False} for token in tokens
    ]


def _is_word(character: str) -> bool:
    from .character_classes import WORD, has_class

    return has_class(character, WORD)
