"""The documentation site: built strictly, opened in a browser without a network."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.browser import IS_HERE, browser

ROOT = Path(__file__).parents[1]
PAGES = (
    "index",
    "getting-started",
    "compare",
    "faq",
    "changelog",
    "tutorial",
    "methods/crd",
    "reference/distillers",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; `mkdocs build` is strict and fails for a broken link or an unknown name."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, env=environment)
    return folder


def test_every_method_has_a_page_with_its_formula(site):
    from distillers.losses import wiring

    for name in wiring.losses():
        assert "<h1" in (site / "methods" / f"{name}.html").read_text()
    assert "<math" in (site / "methods/kd.html").read_text()


@pytest.mark.skipif(not IS_HERE, reason="needs Chromium and its driver")
def test_pages_open_search_finds_and_code_can_be_copied(site, tmp_path):
    with browser(tmp_path) as window:
        window.resize(1200, 900)
        for page in PAGES:
            window.open(site / f"{page}.html")
            assert window.console() == []
            assert [url for url in window.requested() if url.startswith("http")] == []
        window.open(site / "index.html")
        copied = (
            'return document.querySelectorAll("pre + button, .md-code__nav, .md-clipboard").length'
        )
        assert wait(lambda: window.run(copied)) >= 3
        window.run('document.querySelector("[data-md-component=search-query]").focus()')
        window.press("CRD")
        links = 'return [...document.querySelectorAll(".md-search-result__link")].map(a => a.href)'
        assert "methods/crd.html" in wait(lambda: window.run(links))[0]
        assert window.console() == []


def wait(ask):
    """The first answer that is not empty, for at most 20 seconds."""
    for _ in range(100):
        if answer := ask():
            return answer
        time.sleep(0.2)
    raise AssertionError("no answer")
