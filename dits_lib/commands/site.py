"""Write `site/`: one static web site of the README, the docs, the results and their notebooks.

    python -m dits_lib.commands.site [--out FOLDER]

Everything is taken as it lies in the repository, and no notebook runs. The pages are put together
in a temporary folder (`site_pages.py`), and Sphinx makes the site of them (docs/site/conf.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ..settings import ROOT
from ..settings.files import FileError
from .running import command
from .site_pages import stage

CONFIG = ROOT / "docs" / "site"
TOOLS = ("sphinx", "myst_nb", "furo", "latex2mathml")
"""What requirements-site.txt brings, by the names of its modules."""
MARK = ".dits-site"
"""The file by which a folder is known as a site that this command wrote."""


def missing_tools() -> list[str]:
    """The modules that the site needs and that are not installed."""
    return [name for name in TOOLS if find_spec(name) is None]


def build(source: Path, out: Path) -> list[str]:
    """Let Sphinx make a site.

    Args:
        source: the pages.
        out: where the site goes.

    Returns:
        The lines of its warnings.

    Raises:
        FileError: when it could not.
    """
    with tempfile.TemporaryDirectory() as kept:
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-c", CONFIG, "-d", kept, source, out],
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
    told = [line for line in done.stderr.replace(f"{source}/", "").splitlines() if line.strip()]
    if done.returncode:
        raise FileError("\n".join(["Sphinx failed:", *told]))
    return told


def put(new: Path, out: Path) -> None:
    """Replace a site by a new one.

    Raises:
        FileError: when something else is there, which nobody may delete unasked.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file()):
        raise FileError(f"{out}: no site that this command wrote; move it away and run again")
    (new / MARK).touch()
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(new, out)


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Write the site; status 1 when Sphinx warned, of a broken link for instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="default: site/")
    out = parser.parse_args(arguments).out
    if missing := missing_tools():
        raise FileError(f"{', '.join(missing)} not installed; make setup SITE=1 installs all")
    with tempfile.TemporaryDirectory() as folder:
        source, new = Path(folder, "source"), Path(folder, "site")
        stage(ROOT, source)
        warnings = build(source, new)
        put(new, out)
    for line in warnings:
        print(line, file=sys.stderr)
    print(f"open {out / 'index.html'}")
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
