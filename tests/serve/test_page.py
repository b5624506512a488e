"""The page at / in a real browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Embedder, Reranker
from tests.serve.browser import Page, browser, executable
from tests.serve.server import Server, running
from tests.tiny import make_cross_encoder

pytestmark = pytest.mark.skipif(executable() is None, reason="no chromium: apt-get install chromium")

TEXTS = ["Penguins live in the Antarctic.", "Eggs <b>&amp; ice</b> with accents: é", "A bread needs an oven."]
CONTRAST = """(() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => parts(color).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("h1, p, label, summary, button, textarea, th, td, caption, mark")];
  return texts.filter(element => element.textContent.trim() && element.offsetParent).map(element => {
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(back(element))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName, element.textContent];
  }).sort((a, b) => a[0] - b[0])[0];
})()"""
ROWS = (
    """[...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent))"""
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(chromium: Page) -> Page:
    chromium.renew()
    return chromium


def compare(page: Page, texts: list[str]) -> list[Any]:
    """Type texts, press Ctrl+Enter, and read the table."""
    page.write("#texts", "\n".join(texts))
    page.press("Enter", code=13, modifiers=2)
    page.wait(
        f"document.querySelectorAll('tbody tr').length === {len(texts)} && !document.querySelector('button').disabled"
    )
    rows: list[Any] = page.value(ROWS)
    return rows


def test_typed_texts_become_a_matrix_with_token_counts(
    served: Server, page: Page, embedder: Embedder
) -> None:
    page.open(f"{served.url}/")
    rows = compare(page, TEXTS)
    assert [row[0] for row in rows] == [f"{number}  {text}" for number, text in enumerate(TEXTS, 1)]
    assert [int(row[1]) for row in rows] == embedder.count_tokens(TEXTS)
    found = np.array([[float(cell) for cell in row[2:]] for row in rows])
    np.testing.assert_allclose(found, embedder.similarity(TEXTS, TEXTS), atol=0.0051)
    assert f"{len(TEXTS)} texts, {sum(embedder.count_tokens(TEXTS))} tokens" in page.value(
        "document.querySelector('[role=status]').textContent"
    )
    shades = page.value(
        "[...document.querySelectorAll('tbody tr')].map(r => r.cells[2].style.backgroundColor)"
    )
    assert shades[0] != shades[1] != shades[2]
    assert len(compare(page, TEXTS[:1])) == 1
    assert page.complaints == []
    assert all(url.startswith((served.url, "data:")) for url in page.requests)


def rank(page: Page, query: str, texts: list[str]) -> list[Any]:
    """Type texts and a query, press Enter in the query, and read the table."""
    page.write("#texts", "\n".join(texts))
    page.write("#query", query)
    page.press("Enter", code=13)
    page.wait("document.querySelector('.ranking') && !document.querySelector('#rank').disabled")
    rows: list[Any] = page.value(ROWS)
    return rows


def test_texts_are_ranked_against_a_query_and_the_best_part_is_marked(
    served: Server, page: Page, embedder: Embedder
) -> None:
    long = "\U0001f427 Penguins <i>swim</i> well. " + "It rained all day and nobody went out. " * 4
    long += "The loaf stays in the oven for forty minutes. " + "The bank raised its rate again. " * 4
    texts = [*TEXTS, *(f"Number {number} is a number." for number in range(8)), long.strip()]
    page.open(f"{served.url}/")
    rows = rank(page, "How long does the loaf stay in the oven?", texts)
    wanted = embedder.rerank("How long does the loaf stay in the oven?", texts, spans=True)
    assert [text for _, text in rows] == [texts[each.index] for each in wanted]
    np.testing.assert_allclose([float(score) for score, _ in rows], [e.score for e in wanted], atol=0.0051)
    marks = page.value(
        "[...document.querySelectorAll('tbody tr')].map(r => r.querySelector('mark').textContent)"
    )
    assert marks == [texts[each.index][each.start : each.end] for each in wanted]
    of_long = marks[[text for _, text in rows].index(texts[-1])]
    assert "forty minutes" in of_long
    assert len(of_long) < len(texts[-1]) / 2
    # The other view, and back by the button; what is shown is of the last.
    assert len(compare(page, TEXTS)) == len(TEXTS)
    assert not page.value("document.querySelector('.ranking')")
    page.value("document.querySelector('#rank').click()")
    page.wait("document.querySelector('.ranking') && !document.querySelector('#rank').disabled")
    assert page.complaints == []
    page.write("#query", "  ")
    page.press("Enter", code=13)
    page.wait("document.querySelector('#state').textContent === 'Type a query.'")
    assert page.value("document.querySelector('#frame').hidden && !document.querySelector('table')")


def test_with_a_cross_encoder_the_page_ranks_only(tmp_path: Path, page: Page) -> None:
    folder = make_cross_encoder(tmp_path / "cross")
    texts = ["abc", "hello world", "hello"]
    with running(tmp_path / "log", ["--model", str(folder), "--threads", "1"]) as server:
        page.open(f"{server.url}/")
        page.wait("document.querySelector('#title').textContent === 'Ranking of texts'")
        assert page.value("!document.querySelector('#compare').offsetParent")
        rows = rank(page, "hello", texts)
        assert not page.value("document.querySelector('mark')")
        # Ctrl+Enter in the texts ranks, too.
        page.value("document.querySelector('#texts').focus()")
        page.press("Enter", code=13, modifiers=2)
        page.wait("document.querySelector('.ranking') && !document.querySelector('#rank').disabled")
        assert page.value(ROWS) == rows
        assert page.complaints == []
    with Reranker(folder, threads=1) as reranker:
        assert [text for _, text in rows] == [texts[each.index] for each in reranker.rerank("hello", texts)]


def test_the_policy_allows_nothing_but_the_pages_own_code(served: Server, page: Page) -> None:
    httpx = pytest.importorskip("httpx")
    policy = httpx.get(f"{served.url}/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.open(f"{served.url}/")
    page.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt = 1\">');"
        "document.body.appendChild(document.createElement('script')).textContent = 'window.hurt = 1'"
    )
    page.wait("true")
    assert page.value("window.hurt === undefined")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_can_be_read(served: Server, page: Page, theme: str) -> None:
    page.theme(theme)
    page.open(f"{served.url}/")
    for fill in (lambda: compare(page, TEXTS), lambda: rank(page, "What is ice?", TEXTS)):
        fill()
        contrast, *where = page.value(CONTRAST)
        assert contrast >= 4.5, where
    light = page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (theme == "light")


def test_fields_have_names_and_a_narrow_window_is_enough(served: Server, page: Page) -> None:
    page.open(f"{served.url}/")
    assert page.value("document.documentElement.lang") == "en"
    assert page.value(
        "[...document.querySelectorAll('textarea, input')].every(field => field.labels.length === 1)"
    )
    assert page.value("document.querySelector('[role=status]') !== null")
    compare(page, TEXTS)
    assert page.value("[...document.querySelectorAll('th')].every(cell => cell.scope)")
    rank(page, "What is ice?", [*TEXTS, "word" * 100])
    assert page.value("[...document.querySelectorAll('th')].every(cell => cell.scope)")
    page.picture(360, 640)
    assert page.value("document.documentElement.scrollWidth") <= 360


def test_what_goes_wrong_is_said(tiny_folder: Path, tmp_path: Path, page: Page) -> None:
    options = ["--model", str(tiny_folder), "--threads", "1"]
    with running(tmp_path / "log", options, environment={"JINABERT_API_KEY": "the-key"}) as server:
        page.open(f"{server.url}/")

        def said(words: str) -> None:
            page.wait(f"document.querySelector('#state').textContent.includes({json.dumps(words)})")
            assert page.value("document.querySelector('#state').className") == "error"

        page.value("document.querySelector('button').click()")
        said("no API key given")
        assert page.value("document.querySelector('#frame').hidden")
        page.value("document.querySelector('summary').click()")
        page.write("#key", "the-key")
        page.write("#texts", "  \n")
        page.value("document.querySelector('button').click()")
        said("Type at least one text.")
        assert len(compare(page, ["hello", "world"])) == 2
        page.write("#key", "another-key")
        page.value("document.querySelector('#rank').click()")
        said("this API key is not known")
        assert page.value("document.querySelector('#frame').hidden && !document.querySelector('table')")
        page.write("#key", "the-key")
        assert len(compare(page, ["hello", "world"])) == 2
        # An error takes the old matrix with it.
        page.write("#key", "another-key")
        page.value("document.querySelector('button').click()")
        said("this API key is not known")
        assert page.value("document.querySelector('#frame').hidden && !document.querySelector('table')")


def test_a_long_text_shows_progress_and_can_be_canceled(served: Server, page: Page) -> None:
    """The second text is behind a document of another client."""
    httpx = pytest.importorskip("httpx")
    document = "word " * 2000
    other = {"input": [document] * 12, "late_chunking": True}  # one go of half a minute
    ahead = threading.Thread(
        target=lambda: httpx.post(f"{served.url}/v1/embeddings", json=other, timeout=300)
    )
    ahead.start()
    page.open(f"{served.url}/")
    page.write("#texts", f"hello\n{document}")
    page.value("document.querySelector('#compare').click()")
    state = "document.querySelector('#state').textContent"
    page.wait(f"{state}.includes('Computing: 3 of 2,005 tokens')")
    page.wait(f"{state}.includes('tokens wait for the service in all')")
    assert page.value(
        "!document.querySelector('#progress').hidden && !document.querySelector('#cancel').hidden"
    )
    page.value("document.querySelector('#cancel').click()")
    page.wait(f"{state} === 'Canceled.'")
    assert page.value(
        "document.querySelector('#cancel').hidden && !document.querySelector('#compare').disabled"
    )
    page.value("document.querySelector('#rank').click()")
    page.wait(f"{state}.includes('Computing: 0 of 2,005 tokens')")
    page.value("document.querySelector('#cancel').click()")
    page.wait(f"{state} === 'Canceled.'")
    assert page.value("document.querySelector('#frame').hidden && !document.querySelector('#rank').disabled")
    ahead.join()
    assert page.complaints == []


def test_numbers_that_round_to_zero_have_no_sign(served: Server, page: Page) -> None:
    page.open(f"{served.url}/")
    assert (
        page.value("[-0.001, -0.004999, 0.001, 0, -0.006].map(twoDigits).join()")
        == "0.00,0.00,0.00,0.00,-0.01"
    )


def test_the_documentation_is_a_page_without_any_other_host(served: Server, page: Page) -> None:
    page.open(f"{served.url}/docs")
    page.wait("document.querySelectorAll('details').length > 10")
    text = page.value("document.body.textContent")
    for word in ("/v1/embeddings", "late_chunking", "EmbeddingRequest", "429", "Retry-After"):
        assert word in text
    page.value("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.complaints == []
    assert all(url.startswith((served.url, "data:")) for url in page.requests)
    page.picture(360, 640)
    assert page.value("document.documentElement.scrollWidth") <= 360
