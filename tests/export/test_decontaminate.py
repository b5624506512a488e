"""No evaluation text reaches training: copies, contained texts and near copies are found, others are kept."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from export.distill.decontaminate import (
    NEAR_WORDS,
    REASONS,
    SIMILARITY,
    EvaluationIndex,
    build,
    clean,
    evaluation_texts,
    words,
)
from export.errors import ExportError
from tests.paths import SHARED

ABSTRACT = (
    "The pressure distribution over a slender wing in a supersonic stream was measured at nine angles of attack, "
    "and the results are compared with the linear theory for wings of small aspect ratio."
)
EVALUATION = [
    "A man is playing a large flute.",
    "A woman in a red coat walks her two small dogs along the beach.",
    "measure the depth of water",
    "a large dog",
    ABSTRACT,
]


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    return build(EVALUATION)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("A man is playing a large flute.", "exact", id="copy"),
        pytest.param("  a MAN is\tplaying — a “large” ﬂute!", "exact", id="other-case-space-and-forms"),
        pytest.param("A large dog", "exact", id="copy-of-a-short-one"),
        pytest.param(f"Abstract. {ABSTRACT} Figures follow.", "ngram", id="longer-than-the-document"),
        pytest.param(ABSTRACT[40:140], "ngram", id="part-of-the-document"),
        pytest.param("sound: measure the depth of water, with a line", "contains", id="short-one-inside"),
        pytest.param("A man is playing a large flutes", "near", id="inflected"),
        pytest.param("A woman in a red coat walks two small dogs along this beach", "near", id="edited"),
        pytest.param("In a red coat a woman walks along the beach, her two small dogs", "near", id="moved"),
    ],
)
def test_a_copy_is_found(index: EvaluationIndex, text: str, reason: str) -> None:
    assert index.match(text) == reason
    assert reason in REASONS


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n…!",
        "flute",
        "A man is playing a trumpet.",
        "There is a large dog in the yard.",  # 3 words of an evaluation text are not a copy
        "A woman in a blue hat drives her old car along the coast.",
        "The pressure distribution over a slender wing, seen from above.",  # 7 words in a row
        "ein Mann spielt Flöte",
        "人工知能は言葉を読む",
    ],
)
def test_other_texts_stay(index: EvaluationIndex, text: str) -> None:
    assert index.match(text) is None


def test_texts_are_compared_as_words() -> None:
    assert words("Don't – “stop” ２ x_y\u2028ﬁn.") == ["don", "t", "stop", "2", "x", "y", "fin"]


def test_near_is_the_jaccard_similarity_of_word_trigrams() -> None:
    """The prefix filter is exact: it finds the same as comparing with every evaluation text."""
    chance = random.Random(7)
    vocabulary = ["".join(chance.choices("aeilnrst", k=chance.randint(1, 6))) for _ in range(60)]

    def trigrams(text: str) -> set[str]:
        return {f" {word} "[start : start + 3] for word in text.split() for start in range(len(word))}

    def slow(text: str) -> bool:
        own = trigrams(text)
        return any(len(own & other) >= SIMILARITY * len(own | other) for other in map(trigrams, evaluation))

    evaluation = [" ".join(chance.choices(vocabulary, k=chance.randint(1, 7))) for _ in range(120)]
    index = build(evaluation)
    found = Counter()
    for _ in range(3000):
        text = chance.choice(evaluation).split()
        for _ in range(chance.randint(1, 2)):
            text[chance.randrange(len(text))] = chance.choice([*vocabulary, "xq", "zzyx"])
        chance.shuffle(text)
        reason = index.match(" ".join(text))
        if reason in (None, "near"):  # the other reasons come first
            assert (reason == "near") == slow(" ".join(text)), text
            found[reason] += 1
    assert min(found["near"], found[None]) > 100


def test_long_texts_are_left_to_runs_of_words(index: EvaluationIndex) -> None:
    assert index.match("A man is playing a large flutes") == "near"
    assert index.match(" ".join(["A man is playing a large flutes"] * NEAR_WORDS)) is None


def test_a_stream_is_filtered_and_counted(index: EvaluationIndex) -> None:
    counts: Counter[str] = Counter()
    texts = ["keep  this", "a large dog", "sound: measure the depth of water", "A LARGE DOG", "and this"]
    assert list(clean(iter(texts), index, counts)) == ["keep  this", "and this"]
    assert counts == {"texts": 5, "kept": 2, "exact": 2, "contains": 1}


def test_nothing_matches_an_empty_index() -> None:
    index = build([])
    assert index.texts == 0
    assert index.match("A man is playing a large flute.") is None


def test_evaluation_texts_reads_pairs_documents_and_queries(tmp_path: Path) -> None:
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "b_train.tsv").write_text(
        "5.0\tone a\tone\u2028b\n3\ttwo a\ttwo b\tNEUTRAL\n", encoding="utf-8"
    )
    (tmp_path / "retrieval" / "r").mkdir(parents=True)
    rows = [{"_id": "1", "title": "Title", "text": "body"}, {"_id": "2", "title": "", "text": "alone"}]
    (tmp_path / "retrieval" / "r" / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "retrieval" / "r" / "queries.jsonl").write_text('{"_id": "q", "text": "why?"}\n')
    expected = ["one a", "one\u2028b", "two a", "two b", "Title body", "alone", "why?"]
    assert list(evaluation_texts(tmp_path)) == expected
    assert build(evaluation_texts(tmp_path)).texts == len(expected)


@pytest.mark.parametrize(
    ("pairs", "corpus", "message"),
    [
        (None, None, "name the folder that holds both"),
        ("4.0\tone sentence\n", "", "sts.tsv line 1 is not score, sentence, sentence"),
        ("4.0\ta\tb\n", '{"title": "no text"}\n', 'corpus.jsonl line 1 is not a JSON object with a "text"'),
        ("4.0\ta\tb\n", "[]\n", 'corpus.jsonl line 1 is not a JSON object with a "text"'),
        ("4.0\ta\tb\n", None, "cannot read .*corpus.jsonl"),
    ],
)
def test_a_folder_of_another_form_is_refused(
    tmp_path: Path, pairs: str | None, corpus: str | None, message: str
) -> None:
    if pairs is not None:
        (tmp_path / "sts").mkdir()
        (tmp_path / "sts" / "sts.tsv").write_text(pairs)
        (tmp_path / "retrieval" / "r").mkdir(parents=True)
    if corpus is not None:
        (tmp_path / "retrieval" / "r" / "corpus.jsonl").write_text(corpus)
    with pytest.raises(ExportError, match=message):
        list(evaluation_texts(tmp_path))


@pytest.mark.skipif(not (SHARED / "data" / "sts").is_dir(), reason="needs ../shared/data")
def test_every_evaluation_text_of_the_real_sets_is_found() -> None:
    texts = [text for text in evaluation_texts(SHARED / "data") if words(text)]
    index = build(texts)
    assert {index.match(text) for text in texts[::7]} == {"exact"}
