"""The report in a real browser, at desktop and phone width."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest

from torchreid_spectral.report import figures
from torchreid_spectral.report.comparison import summarise
from torchreid_spectral.report.comparison_page import write_comparison

from .test_comparison import run
from .test_report import pictures, trained  # noqa: F401 (fixtures)

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
    pytest.mark.skipif(BROWSER is None, reason="takes Chromium: apt install chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="takes pip install '.[browser]'"),
]


@pytest.mark.parametrize("width", [1280, 390])
def test_clicks_through(trained, width):  # noqa: F811
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.goto((trained / "report.html").as_uri())
        for link in page.locator("nav a").all():
            link.click()
            section = page.locator(link.get_attribute("href"))
            assert section.locator("h2").is_visible()
            top = section.bounding_box()["y"]
            assert -1 <= top < 800
        folds = page.locator("details")
        for index in range(folds.count()):
            fold, opened = folds.nth(index), folds.nth(index).get_attribute("open")
            fold.locator("summary").click()
            assert (fold.get_attribute("open") is None) == (opened is not None)
        # nothing is wider than the window but what scrolls by itself
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        broken = "Array.from(document.images).filter(i => !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert errors == []
        browser.close()


def test_comparison_is_seen_whole_on_a_desktop(tmp_path):
    from playwright import sync_api as playwright

    names = ["baseline_demo", "spectral_demo"]
    summary = summarise({name: [run(1, 0.5, 0.6), run(2, 0.7, 0.8)] for name in names})
    (tmp_path / "report").mkdir()
    points = (np.random.default_rng(0).normal(size=(24, 2)), np.arange(24) % 12)
    figures.save(figures.scatter({t: points for t in "abc"}), tmp_path / "report", "embedding", "")
    page_path = write_comparison(summary, dict.fromkeys(names, [tmp_path]), tmp_path / "out")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(page_path.as_uri())
        parts = page.locator(".wide, .scroll").all()
        assert len(parts) == 2
        for part in parts:
            assert part.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        browser.close()
