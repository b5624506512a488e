"""Write what `tokenizers` makes of texts to tests/data: tokenizer_golden.json, tokenizer_examples.json and
tokenizer_kinds_golden.json.

    python -m tests.make_tokenizer_golden

With these the tests hold the runtime to `tokenizers` where it is not installed. Long lists of expected ids are kept as
checksums, one for each block of code points or batch of texts, which says where to look when one differs.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tests.hostile_texts import kind_texts
from tests.wordpiece import (
    FILES,
    SPECIAL,
    code_texts,
    random_texts,
    reference,
    vocabulary,
    without_surrogates,
)

if TYPE_CHECKING:
    from tests.wordpiece import Judge

DATA = Path(__file__).parent / "data"
CODES_IN_BLOCK = 4096
SEED, TEXTS_IN_BATCH, BATCHES = 2, 500, 40

EXAMPLES = [
    "",
    " ",
    "How is the weather today?",
    "Don't split U.S.A. at 3.14, e-mails or snake_case…",
    "unaffable antidisestablishmentarianism xyzzyq",
    "Déjà vu: naïve CAFÉ, Ångström, İstanbul, STRASSE, Straße, ﬁne, ÆON, Łódź",
    "e\u0301 e\u0323\u0301 \u0301alone a\u0301\u0301\u0301b",
    "ΟΔΥΣΣΕΥΣ ὈΔΥΣΣΕΎΣ και ς",
    "Привет, мир! ЙОГА",
    "日本語とカタカナ、中文也一样。豈 \U0002f800",
    "한국어 중\u302e",
    "مَرْحَبًا שָׁלוֹם नमस्ते ส วัสดี",
    "👩\u200d👩\u200d👧 🇫🇷 ☃️ 👍🏽",
    "[CLS] literal [SEP] and[MASK]inside [sep] [[PAD]] [UNK]",
    "".join(SPECIAL) * 2,
    "a\0b a\ufffdb a\x85b a\x0bb a\x1cb a\u00adb a\u200bb \ufeffbom",
    "tab\tnew\nline\r\ncarriage\rnbsp\u00a0ideographic\u3000line\u2028end",
    "lone \ud800 surrogate\udfffs",
    "\U0001d15e\u0301\U0001d165 \u302a\u302e\u0334 a\u1e94\u302e\u0334b",
    "x" * 100,
    "x" * 101,
    "é" * 100 + " " + "é" * 101,
    "$100 + 5% = ~£85 `code` ^caret |pipe| <tag> ±½ ² №",
    "\u202eright to left\u202c \u2066isolate\u2069",
]


def code_point_texts(code: int) -> tuple[str, str]:
    """Return the texts in which each code point is tried: alone and between letters."""
    return chr(code), f"a{chr(code)}b"


def all_codes() -> list[int]:
    """Return every code point, surrogates among them."""
    return list(range(0x110000))


def telling_codes() -> list[int]:
    """Return planes 0 and 1, and one in 61 of what is alike: ideographs, Hangul, private use, nothing."""
    alike = [
        (0x3400, 0xA000),
        (0xAC00, 0xD7A0),
        (0xD800, 0xF8F0),
        (0x12400, 0x16800),
        (0x17000, 0x1B000),
        (0x20000, 0x110000),
    ]
    some = [code for start, stop in alike for code in range(start, stop, 61)]
    return sorted(
        {code for code in range(0x20000) if not any(start <= code < stop for start, stop in alike)}
        | set(some)
    )


def blocks(codes: list[int]) -> Iterator[list[str]]:
    """Return the texts of each CODES_IN_BLOCK code points in turn."""
    for start in range(0, len(codes), CODES_IN_BLOCK):
        yield [text for code in codes[start : start + CODES_IN_BLOCK] for text in code_point_texts(code)]


def file_texts(name: str) -> list[str]:
    """Return the texts of a Unicode file, of long ones the beginning."""
    return [text[:2000] for text in FILES[name]()]


def batches() -> Iterator[list[str]]:
    """Return random texts, a batch at a time."""
    texts = random_texts(SEED)
    for _ in range(BATCHES):
        yield list(itertools.islice(texts, TEXTS_IN_BATCH))


def checksum(results: Iterable[object]) -> int:
    """Return CRC-32 of results as Python prints them: lists, tuples, int and str print alike everywhere."""
    return crc32("\n".join(map(ascii, results)).encode())


def first_difference(codes: list[int], expected: list[int], of_block: Callable[[list[str]], int]) -> str:
    """:return: The first block of code points whose results are not the stored ones, "" if there is none."""
    for number, (stored, texts) in enumerate(zip(expected, blocks(codes), strict=True)):
        if of_block(texts) != stored:
            return f"U+{codes[number * CODES_IN_BLOCK]:04X} and the {CODES_IN_BLOCK - 1} after it"
    return ""


def kind_batches() -> Iterator[list[str]]:
    """:return: Random texts for byte-pair and Unigram tokenizers, a batch at a time."""
    texts = kind_texts(SEED)
    for _ in range(BATCHES // 4):
        yield list(itertools.islice(texts, TEXTS_IN_BATCH))


def decoded(judge: Judge, ids: list[int]) -> list[str]:
    """:return: The text that ids give, without and with special tokens."""
    return [judge.decode(ids, skip_special_tokens=skip) for skip in (True, False)]


def write_kinds() -> None:
    """Write tokenizer_kinds_golden.json: the tiny tokenizers of tests/tokenizer_kinds.py."""
    from export.tokenization import convert_tokenizer
    from tests.stored_tokenizers import store
    from tests.tokenizer_kinds import TINY, load_pair, write_checkpoint

    golden: dict[str, Any] = {}
    for kind in TINY:
        with tempfile.TemporaryDirectory() as folder:
            judge = load_pair(Path(folder), kind).judge
            stored = store(convert_tokenizer(write_checkpoint(Path(folder), kind)), Path(folder))

        def encode(texts: list[str], judge: Any = judge) -> list[tuple[list[int], list[tuple[int, int]]]]:
            found = judge.encode_batch([without_surrogates(text) for text in texts])
            return [(one.ids, one.offsets) for one in found]

        golden[kind] = {
            "tokenizer": stored,
            "codes": [checksum(encode(block)) for block in blocks(telling_codes())],
            "random": [checksum(encode(batch)) for batch in kind_batches()],
            "code": checksum(encode(code_texts())),
            "examples": [
                {"text": text, "ids": ids, "offsets": offsets, "decoded": decoded(judge, ids)}
                for text, (ids, offsets) in zip(EXAMPLES, encode(EXAMPLES), strict=True)
            ],
        }
    (DATA / "tokenizer_kinds_golden.json").write_text(json.dumps(golden) + "\n", encoding="ascii")


def main() -> None:
    write_kinds()
    path = vocabulary()
    assert path is not None, "needs vocab.txt"
    golden: dict[str, Any] = {"vocabulary": crc32(path.read_bytes()), "words": {}}
    for lower_case in (True, False):
        judge = reference(path, lower_case=lower_case)
        normalize: Callable[[str], str] = judge._tokenizer.normalizer.normalize_str
        split: Callable[[str], list[tuple[str, Any]]] = judge._tokenizer.pre_tokenizer.pre_tokenize_str
        golden["words"]["uncased" if lower_case else "cased"] = [
            checksum([word for word, _ in split(normalize(without_surrogates(text)))] for text in block[1::2])
            for block in blocks(all_codes())
        ]
    judge = reference(path)

    def encode(texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        found = judge.encode_batch([without_surrogates(text) for text in texts])
        return [(one.ids, one.offsets) for one in found]

    golden["ids"] = [checksum(encode(block)) for block in blocks(telling_codes())]
    golden["random"] = [checksum(encode(batch)) for batch in batches()]
    golden["code"] = checksum(encode(code_texts()))
    golden["files"] = {name: checksum(encode(file_texts(name))) for name in FILES}
    (DATA / "tokenizer_golden.json").write_text(json.dumps(golden) + "\n", encoding="ascii")
    examples = [
        {"text": text, "ids": ids, "offsets": offsets, "decoded": decoded(judge, ids)}
        for text, (ids, offsets) in zip(EXAMPLES, encode(EXAMPLES), strict=True)
    ]
    lines = ",\n".join(json.dumps(example) for example in examples)
    (DATA / "tokenizer_examples.json").write_text(f"[\n{lines}\n]\n", encoding="ascii")


if __name__ == "__main__":
    main()
