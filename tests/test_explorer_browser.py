"""Notebooks in JupyterLab, in a browser: run twice, given a wrong key, and their explorers clicked.

They need Chromium and playwright, which nothing else here needs:

    apt-get install chromium && .venv/bin/pip install playwright
    .venv/bin/python -m pytest tests/test_explorer_browser.py

Set DITS_SCREENSHOTS to a folder to look at what was seen.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from dits_lib.settings import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are there too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CELLS = {
    "01_rollout": "explore-trees",
    "03_selection_ablation": "explore-selection",
    "08_deep_search": "explore-trees",
}
"""The cell of each notebook that shows an explorer."""
WHOLE = ("00_dits_in_one_page", "01_rollout")
"""Notebooks that are also run as a whole."""
COMPUTED = 600_000
"""Milliseconds in which the cells above it must have run."""


def copied(name, folder, whole=False):
    """A copy of a notebook with the parameters of the smoke profile, whole or up to its
    explorer."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    if not whole:
        ids = [cell["id"] for cell in notebook["cells"]]
        notebook["cells"] = notebook["cells"][: ids.index(CELLS[name]) + 1]
    before = json.dumps(notebook)
    text = before.replace('profile = \\"micro\\"', 'profile = \\"smoke\\"')
    assert text != before
    (folder / f"{'whole_' if whole else ''}{name}.ipynb").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks."""
    folder, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    for name in CELLS:
        copied(name, folder)
    for name in WHOLE:
        copied(name, folder, whole=True)
    for name, values in SETTINGS.items():
        path = own / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", *options],
        cwd=folder,
        env=os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(own), "IPYTHONDIR": str(own)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, deadline = f"http://127.0.0.1:{port}/lab", time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(address):
            break
        time.sleep(0.5)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    found = browser.new_page(viewport={"width": 1500, "height": 1050})
    yield found
    found.close()


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def open_notebook(page, lab, name):
    """Open a notebook and wait for its kernel."""
    page.goto(f"{lab}/tree/{name}.ipynb?reset")
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for(timeout=60_000)


@pytest.fixture
def opened(lab, page):
    """Opens a notebook, runs its cells, and gives (page, explorer)."""

    def opening(name):
        open_notebook(page, lab, name)
        run_all(page)
        explorer = page.locator(".dits-explorer")
        explorer.wait_for(timeout=COMPUTED)
        explorer.scroll_into_view_if_needed()
        return page, explorer

    return opening


PROMPTS = "Array.from(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt'), p => p.innerText)"


def finished(page, runs):
    """Wait until no cell waits and the last was run as the last of so many runs; gives what the
    cells show, without bars of progress, which tell seconds."""
    page.wait_for_function(
        f"runs => {{ const all = {PROMPTS}; return !all.some(p => p.includes('*')) && "
        "all.at(-1).includes(`[${runs * all.length}]`); }",
        arg=runs,
        timeout=COMPUTED,
    )
    shown = page.locator(".jp-CodeCell .jp-OutputArea-output").all_inner_texts()
    return [text for text in shown if "it/s" not in text and "s/it" not in text]


@pytest.mark.parametrize("name", WHOLE)
def test_a_notebook_runs_twice_and_shows_the_same(lab, page, name):
    open_notebook(page, lab, f"whole_{name}")
    run_all(page)
    first = finished(page, 1)
    seen(page, f"{name}_whole")
    assert len(first) > 5 and not any("Traceback" in text for text in first)
    run_all(page)
    assert finished(page, 2) == first


def test_a_mistyped_key_is_told_in_one_line(lab, page):
    open_notebook(page, lab, "whole_01_rollout")
    cell = page.locator(".jp-CodeCell", has_text='profile = "smoke"').locator(".cm-content")
    cell.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\nsearhc = {'repetitions': 4}")
    run_all(page)
    told = page.locator(".jp-CodeCell .jp-OutputArea-output", has_text="searhc")
    told.wait_for(timeout=60_000)
    seen(page, "01_mistyped")
    lines = told.inner_text().strip().splitlines()
    assert (
        len(lines) == 1
        and "search" in lines[0].replace("searhc", "")
        and "did you mean" in lines[0]
    )


def seen(page, name):
    """A picture of what is seen, for a reader who asked for it."""
    if folder := os.environ.get("DITS_SCREENSHOTS"):
        time.sleep(1)
        page.screenshot(path=Path(folder) / f"{name}.png")


def move(page, explorer, number, keys):
    """Press keys on the slider of this number."""
    explorer.get_by_role("slider").nth(number).focus()
    for key in keys:
        page.keyboard.press(key)


def test_a_reply_is_clicked_and_a_tree_replayed(opened):
    page, explorer = opened("01_rollout")
    lines, read = explorer.locator("select[size]"), explorer.locator(".dits-page")
    assert "of this question" in read.inner_text()
    seen(page, "01_first")
    before = lines.locator("option").count()
    lines.locator("option", has_text="+").first.click()
    explorer.get_by_text("The chosen reply of a pair").wait_for(timeout=10_000)
    seen(page, "01_clicked")
    page.keyboard.press("ArrowDown")
    explorer.get_by_text("through this reply").wait_for(timeout=10_000)
    move(page, explorer, 0, ["Home"])
    explorer.get_by_text("Repetition 1 of 3 plays from the start").wait_for(timeout=10_000)
    assert 1 < lines.locator("option").count() < before
    seen(page, "01_replayed")
    explorer.get_by_role("button", name="debate").click()
    explorer.get_by_text("solver").first.wait_for(timeout=10_000)
    seen(page, "01_debate")


def test_sliders_of_the_selection_redraw_what_is_kept(opened):
    page, explorer = opened("03_selection_ablation")
    kept = explorer.locator(".dits-page tr.dits-shown")
    before, picture = kept.all_inner_texts(), explorer.locator("img").get_attribute("src")
    seen(page, "03_first")
    move(page, explorer, 0, ["Home"])
    explorer.locator(f'img:not([src="{picture}"])').wait_for(timeout=10_000)
    assert kept.all_inner_texts() != before and kept.count() == len(before)
    move(page, explorer, 1, ["End"])
    explorer.get_by_text("H keeps").wait_for(timeout=10_000)
    page.wait_for_function(
        "count => document.querySelectorAll('.dits-page tr.dits-shown').length > count",
        arg=len(before),
    )
    seen(page, "03_moved")


def test_a_page_that_was_read_opens(opened):
    page, explorer = opened("08_deep_search")
    lines = explorer.locator("select[size]")
    lines.locator("option", has_text="open:").first.click()
    explorer.get_by_text("open answered").first.wait_for(timeout=10_000)
    seen(page, "08_clicked")
    lines.locator("option", has_text="+").first.click()
    read = explorer.locator(".dits-page")
    read.get_by_text("of influence I = ").first.wait_for(timeout=10_000)
    seen(page, "08_pair")
