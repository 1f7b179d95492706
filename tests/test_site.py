"""The site: its links and pictures, and how a browser shows it."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from importlib.util import find_spec
from shutil import which
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from dits_lib.commands.site import MARK, missing_tools, put
from dits_lib.commands.site_pages import Staging, folded, profiles, short
from dits_lib.report.flowchart import arrows_of, flowchart_svg, ranks
from dits_lib.settings import ROOT
from dits_lib.settings.files import FileError

needs_sphinx = pytest.mark.skipif(
    bool(missing_tools()), reason="Sphinx is not installed; make test SITE=1 installs it"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of this checkout, made once; the command has to succeed without a warning."""
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "dits_lib.commands.site", "--out", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_pages_are_staged_with_links_that_hold_in_the_site(tmp_path):
    root, staged = tmp_path / "root", tmp_path / "staged"
    for name in ("docs/a.md", "docs/data.csv", "results/one/README.md", "results/one/tables/t.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    staging = Staging(root, staged)
    text = (
        "[a](a.md#b) [in](#c) [one](../results/one/README.md#d) [tables](../results/one/tables) "
        "[data](data.csv) [out](https://example.org/README.md)"
    )
    staging.page("docs/README.md", text)
    assert (staged / "docs" / "index.md").read_text() == (
        "[a](a.md#b) [in](index.md#c) [one](../results/one/index.md#d) "
        "[tables](../results/one/tables/index.md) [data](data.csv) "
        "[out](https://example.org/README.md)"
    )
    assert (staged / "docs" / "data.csv").read_text() == "x"


def test_a_figure_that_a_notebook_saved_is_shown_where_its_output_is_not_kept(tmp_path):
    root, staged = tmp_path / "root", tmp_path / "staged"
    for kind in ("notebooks", "figures"):
        (root / "results" / "one" / kind).mkdir(parents=True)
    for name in ("01_a", "01_tree_x", "01_tree_y", "02_other"):
        (root / "results" / "one" / "figures" / f"{name}.png").write_text(name)
    image = [{"output_type": "display_data", "data": {"image/png": ""}}]
    code = ('report.figure("01_a", f, "A")', 'report.figure(\n    f"01_tree_{task}", f, "B")')
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# 01 One: more\nText."}] + [
        {"cell_type": "code", "metadata": {}, "source": text, "outputs": outputs}
        for text in code
        for outputs in ([], image)
    ]
    path = "results/one/notebooks/01_one.ipynb"
    (root / path).write_text(json.dumps({"cells": cells}))
    Staging(root, staged).notebook(path, "As it ran: [results](../README.md).")
    sources = [cell["source"] for cell in json.loads((staged / path).read_text())["cells"]]
    assert sources[0] == "# 01 One: more\n\nAs it ran: [results](../index.md).\nText."
    shown = [re.findall(r"figures/(\w+)\.png", source) for source in sources]
    assert shown == [[], [], ["01_a"], [], [], ["01_tree_x"], ["01_tree_y"], []]
    assert (staged / "results" / "one" / "figures" / "01_tree_y.png").read_text() == "01_tree_y"


def test_what_a_reader_of_notebooks_does_not_need_is_folded():
    assert folded("import os\nos.getcwd()", []) and folded("x = 1", ["parameters"])
    assert folded("x = 1\n" * 26, []) and not folded("x = 1\n" * 25, [])
    titles = {"03_selection": "03 Selection: which half?"}
    assert short(titles, "there/") == ["03 Selection <there/03_selection>"]
    assert profiles(ROOT)[0] == "micro"


def test_a_folder_that_is_no_site_stays(tmp_path):
    new, out = tmp_path / "new", tmp_path / "out"
    for folder in (new, out):
        folder.mkdir()
    (new / MARK).write_text("new")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FileError, match="no site that this command wrote"):
        put(new, out)
    (out / "mine.txt").rename(out / MARK)
    put(new, out)
    assert (out / MARK).read_text() == "new"


def test_a_flowchart_is_drawn_with_every_box_and_arrow():
    text = "flowchart BT\n  b --> a\n  c --> b\n  c --> d\n  e --> a\n"
    arrows = arrows_of(text)
    assert ranks(arrows) == {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1}
    svg = flowchart_svg(text)
    assert svg.count("<text") == 5 and svg.count("marker-end") == len(arrows) == 4
    places = re.findall(r'<rect x="(\d+)" y="(\d+)"', svg)
    assert len(set(places)) == 5
    for wrong in (
        "flowchart TD\na --> b",
        "flowchart BT\na --- b",
        "flowchart BT\na --> b\nb --> a",
    ):
        with pytest.raises(ValueError, match="flowchart|circle"):
            flowchart_svg(wrong)


class Page(HTMLParser):
    """Where a page may be entered, where it leads, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loads.append(found["href"])


def broken(folder):
    """The links of a site that lead nowhere, and what a page loads that is not there."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for target in page.links + page.loads:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "data"):
                if target in page.loads and parts.scheme != "data":
                    yield path, target
                continue
            place, anchor = urldefrag(target.split("?")[0])
            end = (path.parent / unquote(place)).resolve() if place else path
            if not end.is_file() or (anchor and end in pages and anchor not in pages[end].ids):
                yield path, target


@pytest.mark.slow
@needs_sphinx
def test_every_link_and_picture_of_the_site_is_there(site):
    """Nothing is loaded from elsewhere, either: the site works without a network."""
    assert not list(broken(site))
    for name in ("index", "results/micro/index", "docs/guide", "results/regimes/index"):
        assert (site / f"{name}.html").is_file()
    ran = {path.relative_to(ROOT).with_suffix(".html") for path in ROOT.glob("results/*/*/*.ipynb")}
    ran = {path for path in ran if "-changed-" not in str(path) and path.name[0] != "."}
    assert all((site / path).is_file() for path in ran)


@pytest.mark.slow
@needs_sphinx
def test_pages_keep_no_markup_that_was_to_be_read(site):
    """Tables, equations and pictures within folds became HTML."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", path.read_text(), flags=re.S)
        assert not re.search(r"\|---|\]\(|\$\$|```|^#+ ", text, flags=re.M), path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps no log."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(site):
    """Where the site is served."""
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def browser():
    """A headless browser of this machine."""
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed; make test SITE=1 installs it")
    program = next(filter(None, map(which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "getuid") and os.getuid() == 0  # as in a container: no sandbox there
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if root else []
        )
        yield started
        started.close()


@pytest.mark.slow
@needs_sphinx
def test_a_browser_shows_the_site(address, browser):
    tab, told = browser.new_page(viewport={"width": 1400, "height": 900}), []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("requestfailed", lambda request: told.append(request.url))

    tab.goto(f"{address}/index.html")
    assert tab.title() == "DITS"
    assert shown(tab.locator("article img").first)
    tab.locator(".sidebar-tree a", has_text="micro").first.click()

    assert tab.title() == "Results of profile micro - DITS"
    assert shown(tab.locator("article img").first)
    fold = tab.locator("article details", has=tab.locator("table")).first
    assert not fold.locator("table").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("table").first.is_visible()
    tab.get_by_role("link", name="00_dits_in_one_page").first.click()

    assert tab.title() == "00 DITS in one page (micro) - DITS"
    assert tab.locator("math").first.is_visible()
    assert shown(tab.locator("article img").first)
    assert tab.locator(".dataframe").first.is_visible()
    code = tab.locator("details.hide").first
    assert not code.locator("pre").first.is_visible()
    code.locator("summary").click()
    assert code.locator("pre").first.is_visible()
    assert not told


def shown(image):
    """Whether a picture was read and has a place on the page."""
    image.scroll_into_view_if_needed()
    image.evaluate("image => image.decode()")
    return image.is_visible() and image.evaluate("image => image.naturalWidth") > 50
