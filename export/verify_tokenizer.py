"""Is the model folder's tokenizer the checkpoint's? Ids compared on real texts and on some thousand hostile ones.

One difference refuses the export: a vector of other tokens is a vector of another text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import ExportError
from export.own_tokenizer import own_tokenizer

if TYPE_CHECKING:
    import tokenizers

    from runtime.tokenization.tokenizer import Tokenizer

__all__ = ["hostile_texts", "verify_tokenizer"]

HOSTILE_TEXTS = 4000
_SHOWN = 12  # ids around the first difference

# Characters that tokenizers disagree about, in groups from which texts are drawn.
_GROUPS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    "\x00\x01\x07\x08\x1b\x7f\x80\x9f\xad\ufffd\ufffe\uffff\ufeff\u200b\u200c\u200d\u200e\u2060\u180e",
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœšžłđıİŒŠŽŁĐſẞﬁﬂŉǅ",
    "\u0300\u0301\u0303\u0308\u0323\u0327\u0328\u0338\u0345\u05b0\u064b\u093c\u0e38\u3099\u20d0\u0483",
    "αβγδεζηθΣσςΩάέήίόύώΆΈабвгдежзийклмнопАБВГДЕЁё",
    "中文字漢字日本語東京\u3400\u9fff\uf900\U00020000\U0002a6d6",
    "ひらがなカタカナ゛゜ｶﾞー々〆한국어각힣각",
    "العربيةאבגדหสไทยहिन्दीதமிழ்ქართული",
    "“”‘’–—…«»¿¡·•†‡§¶©®™°±×÷€£¥₹№℃½⅓①Ⅷ²₃",
    "😀👍🏽👨\u200d👩\u200d👧❤\ufe0f🇩🇪🏴\U000e0067\U000e007f",
    "\ue000\U0001d400\U0001d7d8\U00010400\U0001f100\U000e0100\U0010fffd",
)


def hostile_texts(words: Sequence[str], count: int = HOSTILE_TEXTS) -> Iterator[str]:
    """Draw texts that tokenizers disagree about; the same for the same words.

    :param words: tokens of the tokenizer itself, added ones among them, to be put between other characters.
    :param count: how many texts.
    :return: the texts, some of each kind: characters of one or several scripts, words of the vocabulary with anything
        beside them, very long words.
    """
    chance = random.Random(20_241_127)
    separators = [
        "",
        "",
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\u00a0",
        "\u3000",
        ".",
        "-",
        "_",
        "#",
        "a",
        "1",
        "é",
        "\u0301",
    ]
    yield from (
        "",
        " ",
        "\n",
        "[CLS]",
        "[SEP] [MASK]",
        "a" * 100,
        "a" * 101,
        "é" * 120,
        "##ing",
        "[UNK]x",
        "\u0301",
    )
    for number in range(count - 11):
        if words and number % 3 == 0:
            parts: list[str] = []
            for _ in range(chance.randint(1, 5)):
                word = chance.choice(words)
                change = chance.randrange(6)
                word = word.upper() if change == 0 else word.title() if change == 1 else word
                word = word.removeprefix("##") if change < 4 else word
                parts += [chance.choice(separators), word]
            yield "".join([*parts, chance.choice(separators)])
        elif number % 3 == 1:
            group = chance.choice(_GROUPS)
            yield "".join(chance.choices(group, k=chance.randint(1, 24)))
        else:
            groups = chance.sample(_GROUPS, chance.randint(2, 6))
            yield "".join(chance.choice(chance.choice(groups)) for _ in range(chance.randint(2, 40)))


def verify_tokenizer(
    folder: Path, tokenizer: Tokenizer, texts: Sequence[str], choice: str | None = None
) -> dict[str, object]:
    """Compare the ids that the runtime will give with those of the checkpoint's own tokenizer.

    :param folder: the checkpoint folder.
    :param tokenizer: the runtime's tokenizer, made from the same files.
    :param texts: the verification texts.
    :param choice: see own_tokenizer.
    :return: how many texts of each kind were compared, and their tokens.
    :raises ExportError: one text has other ids; the message has the text, both lists, and what stands there.
    """
    own = own_tokenizer(folder, choice)
    added = [str(token.content) for token in own.get_added_tokens_decoder().values()]
    chance = random.Random(5)
    vocabulary = sorted(own.get_vocab(with_added_tokens=False))
    # Added tokens often, since their flags are what most readers get wrong.
    words = added * max(1, 200 // max(len(added), 1)) + chance.sample(vocabulary, min(len(vocabulary), 400))
    hostile = list(hostile_texts(words))
    tokens = 0
    for text in [*texts, *hostile]:
        expected, found = own.encode(text).ids, tokenizer.encode(text)
        if expected != found:
            raise ExportError(_difference(folder, own, text, expected, found, added))
        tokens += len(found)
    return {"texts": len(texts), "hostile": len(hostile), "tokens": tokens}


def _difference(
    folder: Path,
    own: tokenizers.Tokenizer,
    text: str,
    expected: list[int],
    found: list[int],
    added: list[str],
) -> str:
    """The line that says how a text differs. A long one is cut down around the place."""
    place = next(
        (at for at, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]),
        min(len(expected), len(found)),
    )
    first = max(place - _SHOWN // 2, 0)

    def shown(ids: list[int]) -> str:
        part = ids[first : first + _SHOWN]
        return f"{'… ' if first else ''}{part}{' …' if len(ids) > first + _SHOWN else ''}"

    def token(ids: list[int]) -> str:
        return repr(own.id_to_token(ids[place])) if place < len(ids) else "the end"

    offsets = own.encode(text).offsets
    start = offsets[min(place, len(offsets) - 1)][0] if offsets else 0
    around = text if len(text) <= 80 else text[max(start - 30, 0) : start + 50]
    reasons = []
    if inside := [one for one in added if one in text or one.lower() in text.lower()]:
        reasons.append(f"the text holds the added token {inside[-1]!r}")
    if expected[:1] != found[:1] or expected[-1:] != found[-1:]:
        reasons.append("special tokens stand at other ends")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"the tokenizer of {folder} is not the one that the model folder would have: for {around!r} its own ids are "
        f"{shown(expected)}, ours {shown(found)}: token {place} is {token(expected)} there and {token(found)} "
        f"here{why}; such a tokenizer is not implemented"
    )
