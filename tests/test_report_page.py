"""The report page, opened in a headless Chromium."""

import json
import re
import time

import numpy as np
import pytest

from flossing_lab.report import write_report
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import LABELS
from tests.browser import chromium, opened, wait_until_drawn
from tests.test_report import CONDITIONS, SWEPT, TINY, sweep_of_400, write_comparison, write_run

SCRIPT = "<script>window.hacked = true</script>"
IMAGE = "<img src=x onerror=window.hacked=true>"


@pytest.fixture
def hostile(tmp_path):
    """A run whose directory, error text, version and array names are hostile."""
    run = write_run(tmp_path / IMAGE, status="failed", error=SCRIPT, device=IMAGE)
    chunk = {"epoch": [1], "accuracy": [0.5], "loss": [1.0], "measured_epoch": [1], "measured_exponents": [[0.0] * 4]}
    run.truncate_after(0, 100)
    run.write_metrics("training", 1, chunk | {"gradient_norm/<b>bold</b><a href='x'>": [1.0]})
    return write_report([tmp_path], tmp_path / "report.html")


def test_text_from_outside_stays_text(hostile):
    page = hostile.read_text("utf-8")
    assert SCRIPT not in page
    assert IMAGE not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;window.hacked" in page
    assert "&lt;img src=x" in page
    assert list(embedded(page)["details"][0]["gradients"]["lines"]) == ["<b>bold</b><a href='x'>"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def compared(comparison):
    """The page of three conditions with four seeds each."""
    return write_report([comparison], comparison / "report.html")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The page of 400 runs."""
    return write_report([sweep_of_400(tmp_path_factory)], tmp_path_factory.mktemp("page") / "report.html")


def embedded(page: str) -> dict:
    """The data in a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def figure(page, name):
    """The data that Plotly shows in a figure."""
    return page.evaluate("name => JSON.parse(JSON.stringify(document.getElementById(name).data))", name)


def choose(page, condition):
    option = page.locator("#run option", has_text=f"{LABELS[condition]}, seed 1 ")
    page.select_option("#run", option.get_attribute("value"))


def test_the_page_opens_without_errors_or_requests(browser, compared):
    with opened(browser, compared) as page:
        assert page.locator(".plot:not([hidden]) .main-svg").count() > 0
        assert page.locator("h1").inner_text() == "Temporal XOR at lags 2 and 4"
        medians = [trace["name"] for trace in figure(page, "accuracy") if trace.get("hoverinfo") != "skip"]
        assert medians == [LABELS[condition] for condition in CONDITIONS]


def test_the_slider_goes_through_the_snapshots(browser, compared, comparison):
    with opened(browser, compared) as page:
        choose(page, "before")
        page.focus("#step")
        for at, path in enumerate(RunDirectory(comparison / "before-1").snapshots.values()):
            if at:
                page.keyboard.press("ArrowRight")
            weights = np.load(path)["network.J"]
            (points,), (heat,) = figure(page, "eigenvalues"), figure(page, "weights")
            found = np.array(points["x"]) + 1j * np.array(points["y"])
            np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(np.linalg.eigvals(weights)), atol=1e-4)
            np.testing.assert_allclose(heat["z"], weights, atol=np.abs(weights).max() / 100)
            assert page.inner_text("#moment") == f"after {60 * at} training and 20 flossing epochs"


def test_the_button_plays_to_the_end_and_stops(browser, compared):
    with opened(browser, compared) as page:
        page.focus("#play")
        page.keyboard.press("Enter")
        assert page.inner_text("#play") == "Pause"
        page.wait_for_function("() => document.getElementById('play').textContent === 'Play'")
        assert page.inner_text("#moment").startswith("after 120 training")


def test_figures_that_no_run_has_are_left_out(browser, tmp_path):
    write_run(tmp_path / "run", TINY.with_values(condition="none"), detailed=False)
    with opened(browser, write_report([tmp_path], tmp_path / "report.html")) as page:
        assert page.locator("#spectra .main-svg").first.is_visible()
        assert (
            page.locator("#horizons").count() == page.locator("#weights").count() == page.locator("#play").count() == 0
        )


def test_choosing_another_run_changes_its_figures(browser, compared, comparison):
    with opened(browser, compared) as page:
        choose(page, "none")
        assert page.inner_text("#squares-missing") == "This network is not flossed."
        assert page.locator("#squares").is_hidden()
        choose(page, "before_and_during")
        assert page.locator("#squares-missing").is_hidden()
        assert page.locator("#squares .main-svg").first.is_visible()
        spectrum = RunDirectory(comparison / "before_and_during-1").info["spectra"]["end"]
        np.testing.assert_allclose(figure(page, "spectra")[-1]["y"], spectrum, rtol=1e-3)


def test_hovering_tells_the_values(browser, compared):
    expected = {
        "accuracy": [rf"{LABELS[condition]} : 0\.\d+" for condition in CONDITIONS],
        "spectra": [r"at the start : .\d\.\d+", r"after training : .\d\.\d+"],
        "weights": [r"J from \d to \d: .\d\.\d{3}"],
    }
    with opened(browser, compared) as page:
        for name, patterns in expected.items():
            page.hover(f"#{name} .nsewdrag")
            page.wait_for_selector(f"#{name} .hoverlayer text")
            text = page.text_content(f"#{name} .hoverlayer")
            assert all(re.search(pattern, text) for pattern in patterns), text


@pytest.mark.parametrize(("scheme", "paper"), [("light", "#ffffff"), ("dark", "#17181a")])
def test_the_colours_follow_the_scheme(browser, compared, scheme, paper):
    with opened(browser, compared, color_scheme=scheme) as page:
        assert page.evaluate("document.getElementById('accuracy').layout.paper_bgcolor") == paper


def test_on_paper_the_figures_are_as_wide_as_their_column(browser, compared):
    with opened(browser, compared) as page:
        page.evaluate("""addEventListener("beforeprint", () => {
            const figures = [...document.querySelectorAll(".plot:not([hidden])")];
            window.widths = figures.map(each => [each.clientWidth, each.querySelector(".main-svg").clientWidth]);
        })""")
        page.pdf()
        widths = page.evaluate("window.widths")
        assert len(widths) > 5
        assert all(column == drawn < 400 for column, drawn in widths)


def test_hostile_names_do_nothing(browser, hostile):
    with opened(browser, hostile) as page:
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert page.locator(".troubles").inner_text().count(SCRIPT) == 1
        assert figure(page, "gradients")[0]["name"] == "&lt;b&gt;bold&lt;/b&gt;&lt;a href='x'&gt;"
        assert page.locator(".plot a").count() == 0


def test_no_script_runs_but_those_of_the_page(browser, compared):
    page = browser.new_page()
    page.goto(compared.as_uri())
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize("source", ["compared", "swept"])
def test_a_phone_needs_no_sideways_scrolling(browser, source, request):
    widest = "Math.max(...[...document.querySelectorAll('.main-svg')].map(each => each.clientWidth))"
    with opened(browser, request.getfixturevalue(source)) as page:
        assert page.evaluate(widest) > 390
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_function(f"() => {widest} <= 390")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.wait_for_selector(".scrolls + .hint")  # said where the table is wider than the screen
        if source == "compared":
            page.set_viewport_size({"width": 1600, "height": 844})
            page.wait_for_selector(".hint", state="hidden")


def test_a_sweep_is_light_and_opens(browser, swept):
    assert swept.stat().st_size < 12e6
    page = browser.new_page()
    start = time.monotonic()
    page.goto(swept.as_uri(), wait_until="load")
    page.wait_for_selector("#final .main-svg")
    print(f"400 runs: first figure after {time.monotonic() - start:.2f} s")
    wait_until_drawn(page)
    print(f"400 runs: all figures after {time.monotonic() - start:.2f} s")
    assert len(figure(page, "final")) == 3 * len(SWEPT)
    page.select_option("#curves-choice", label="delay 5")
    expected = embedded(swept.read_text("utf-8"))["curves"]["plots"][3]["lines"][0]["accuracy"]["low"]
    assert figure(page, "accuracy")[0]["y"] == expected
    page.close()
