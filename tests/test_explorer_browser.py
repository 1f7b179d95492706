"""The explorers in JupyterLab, clicked in a browser.

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
COMPUTED = 600_000
"""Milliseconds in which the cells above it must have run."""


def copied(name, folder):
    """A copy of a notebook that ends with its explorer, with the parameters of the smoke
    profile."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    ids = [cell["id"] for cell in notebook["cells"]]
    notebook["cells"] = notebook["cells"][: ids.index(CELLS[name]) + 1]
    text = json.dumps(notebook).replace('profile = \\"micro\\"', 'profile = \\"smoke\\"')
    assert "smoke" in text
    (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks."""
    folder, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    for name in CELLS:
        copied(name, folder)
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
def opened(lab, browser):
    """Opens a notebook, runs its cells, and gives (page, explorer)."""
    page = browser.new_page(viewport={"width": 1500, "height": 1050})

    def opening(name):
        page.goto(f"{lab}/tree/{name}.ipynb?reset")
        kernel = page.locator(".jp-Toolbar-kernelName", has_text="Python 3")
        kernel.wait_for(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        explorer = page.locator(".dits-explorer")
        explorer.wait_for(timeout=COMPUTED)
        explorer.scroll_into_view_if_needed()
        return page, explorer

    yield opening
    page.close()


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
