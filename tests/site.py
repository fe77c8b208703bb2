"""The built documentation as its readers meet it, in a headless Chromium; `make docs` runs this after the build."""

import functools
import http.server
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.browser import chromium

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = sorted(path.name for path in SITE.glob("*.html") if path.name not in ("search.html", "genindex.html"))

WORDS = """padding, padded, packed, variable length, dropout, embedding, batch, mini-batch, scheduler, checkpoint,
resume, Lightning, Hugging Face, TensorBoard, GPU, float32, memory, Dale, excitatory, sparse, mask, time
constant, noise, spiking, reservoir, delay, neurogym, vanishing gradients, exploding gradients, chaos, edge of
chaos, initialisation, orthogonal, GRU, LSTM, long-term dependencies, copy task, condition number, Kaplan-
Yorke, covariant, custom task, cluster, Julia, trainRNNflossing"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture(scope="module")
def home():
    """The address of the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Reader(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found["id"]} if found.get("id") else set()
        self.links += [found[name] for name in ("href", "src") if found.get(name)]


def test_no_link_inside_the_site_is_broken():
    assert len(PAGES) > 20
    read = {name: Reader((SITE / name).read_text("utf-8")) for name in PAGES}
    broken = []
    for name, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target, anchor = unquote(parts.path) or name, unquote(parts.fragment)
            if not (SITE / target).exists() or (anchor and target in read and anchor not in read[target].anchors):
                broken.append(f"{name}: {link}")
    assert not broken


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_open_without_a_network_and_fit_their_window(browser, home, width):
    page, problems = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(home) else None)
    wide = []
    for name in PAGES:
        page.goto(f"{home}/{name}")
        boxes = page.eval_on_selector_all("math", "all => all.map(one => one.getBoundingClientRect().width)")
        assert all(box > 0 for box in boxes), f"{name}: a formula is not drawn"
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"):
            wide.append(name)
    assert not problems and not wide
    page.close()


def test_no_formula_is_left_as_tex():
    for name in PAGES:
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", (SITE / name).read_text("utf-8"), flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", "", text)
        assert not re.search(r"\\(frac|lambda|mathrm|sum|left)\b", text), name


def test_every_card_of_the_first_page_leads_somewhere(browser, home):
    page = browser.new_page()
    page.goto(home)
    assert page.locator(".sd-card").count() >= 8
    for number in range(page.locator(".sd-card").count()):
        page.goto(home)
        page.locator(".sd-card").nth(number).click()
        page.wait_for_url(re.compile(r"\.html$"))
        assert (SITE / page.url.rpartition("/")[2]).exists()
        assert page.locator("h1").count() == 1
    page.close()


def test_search_finds_the_words_that_people_use(browser, home):
    page, missing = browser.new_page(), []
    for word in re.split(r",\s*", WORDS):
        page.goto(f"{home}/search.html?q={quote(word)}")
        try:
            page.wait_for_selector("#search-results ul.search li", timeout=5000)
        except Exception:
            missing.append(word)
    assert not missing
    page.close()
