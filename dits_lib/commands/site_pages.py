"""The pages of the site, put together for Sphinx in a folder that is laid out as the repository.

A README becomes the index of its folder, and whatever a page links to is copied beside it; lists of
notebooks, tables, figures and benchmarks stand where a page links to such a folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from ..report.flowchart import flowchart_svg
from ..settings import read_yaml
from ..settings.files import write_file
from ..suite.results import is_of_changes, is_of_earlier_search

LONG_CELL = 25
"""Cells of more lines are folded, as are imports and parameters."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
FIGURE = re.compile(r'report\.figure\(\s*f?"([^"]*)"')
"""The name of a figure in the code that saves it, which may be a pattern."""
OTHERS = "results/notebooks"
"""The folder of the page that lists the notebooks of all profiles but the first."""


class Staging:
    """The folder that Sphinx reads: pages with their links, and the files that they link to."""

    def __init__(self, root: Path, folder: Path):
        """Nothing is written yet.

        Args:
            root: the repository.
            folder: where the pages go.
        """
        self.root, self.folder = root, folder

    def page(self, path: str, text: str) -> None:
        """Add a page of Markdown.

        Args:
            path: where the page would lie in the repository.
        """
        write_file(self.folder / as_index(path), self.ready(path, text))

    def copy(self, path: str) -> None:
        """Add the Markdown page at a path of the repository."""
        self.page(path, (self.root / path).read_text(encoding="utf-8"))

    def notebook(self, path: str, note: str) -> None:
        """Add a notebook as it ran, some of its cells folded.

        Args:
            note: Markdown that follows the title.
        """
        content = json.loads((self.root / path).read_text(encoding="utf-8"))
        cells = []
        for cell in content["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                cell["source"] = self.ready(path, source)
            elif folded(source, cell["metadata"].get("tags", [])):
                cell["metadata"]["tags"] = ["hide-input"]
            cells.append(cell)
            for text in self._saved(path, cell, source):
                name = f"saved-{len(cells)}"
                added = {"cell_type": "markdown", "id": name, "metadata": {}}
                cells.append({**added, "source": self.ready(path, text)})
        content["cells"] = cells
        first = content["cells"][0]
        title, _, rest = first["source"].partition("\n")
        first["source"] = f"{title}\n\n{self.ready(path, note)}\n{rest}"
        write_file(self.folder / path, json.dumps(content))

    def _saved(self, path: str, cell: dict, source: str) -> list[str]:
        """The figures that a cell saved and that its output, as kept, does not show."""
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            return []
        figures = (self.root / path).parents[1] / "figures"
        names = [re.sub(r"\{.*?\}", "*", name) for name in FIGURE.findall(source)]
        return [
            f"![{file.stem}](../figures/{file.name})\n\n*Figure `{file.stem}`, saved by this cell.*"
            for name in names
            for file in sorted(figures.glob(f"{name}.png"))
        ]

    def file(self, path: str) -> None:
        """Add a file that is no page, once."""
        target = self.folder / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / path, target)

    def ready(self, path: str, text: str) -> str:
        """A page's Markdown with links that hold in the site, and its flowcharts as pictures."""
        return LINK.sub(lambda match: self._linked(path, match), self._drawn(path, text))

    def _drawn(self, path: str, text: str) -> str:
        parts = re.split(r"^```mermaid\n(.*?)^```$", text, flags=re.M | re.S)
        for number in range(1, len(parts), 2):
            name = f"{Path(path).stem}-{number // 2}.svg"
            write_file(self.folder / Path(path).with_name(name), flowchart_svg(parts[number]))
            parts[number] = f"![The flowchart that the text explains]({name})"
        return "".join(parts)

    def _linked(self, path: str, match: re.Match) -> str:
        before, target, after = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        name, mark, anchor = target.partition("#")
        name = name or Path(path).name  # a link within the page
        here = os.path.normpath(Path(path).parent / name)
        if (self.root / here).is_dir():
            name = f"{name.rstrip('/')}/README.md"
        elif (self.root / here).is_file() and not name.endswith((".md", ".ipynb")):
            self.file(here)
        return f"{before}{as_index(name)}{mark}{anchor}{after}"


def as_index(path: str) -> str:
    """A README is the index of its folder."""
    return re.sub(r"(^|/)README\.md$", r"\1index.md", path)


def folded(source: str, tags: list[str]) -> bool:
    """Whether a reader of the site sees a cell's code only on a click."""
    return bool(
        {"parameters", "injected-parameters"} & set(tags)
        or source.startswith(("import ", "from "))
        or len(source.splitlines()) > LONG_CELL
    )


def profiles(root: Path) -> list[str]:
    """The profiles with results, micro first; those of changed parameters are left out."""
    found = [path.parent for path in (root / "results").glob("*/params.yaml")]
    names = sorted(folder.name for folder in found if not is_of_changes(folder))
    return sorted(names, key=lambda name: name != "micro")


def label(root: Path, profile: str) -> str:
    """A profile's name, and whether its results were made by an earlier search."""
    params = read_yaml(root / "results" / profile / "params.yaml")
    return f"{profile} (earlier search)" if is_of_earlier_search(params) else profile


def notebooks_of(root: Path, profile: str) -> dict[str, str]:
    """A profile's notebooks as they ran: the title of each by its name."""
    return {
        path.stem: "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        .partition("\n")[0]
        .removeprefix("# ")
        for path in sorted((root / "results" / profile / "notebooks").glob("*.ipynb"))
        if not path.name.startswith(".")
    }


def stage(root: Path, folder: Path) -> None:
    """Put all pages of the site together, with the files that they link to.

    Args:
        root: the repository.
        folder: where they go.
    """
    staging = Staging(root, folder)
    for name in ("guide", "architecture", "deviations", "log"):
        staging.copy(f"docs/{name}.md")
    benchmarks = sorted(path.stem for path in (root / "benchmarks").glob("*.md"))
    for name in benchmarks:
        staging.copy(f"benchmarks/{name}.md")
    staging.page("benchmarks/README.md", f"# Benchmarks\n\n{toctree(benchmarks, hidden=False)}")
    staging.copy("results/README.md")
    staging.copy("results/regimes/README.md")
    first, *others = names = profiles(root)
    for name in names:
        stage_profile(staging, name, name == first)
    staging.page(f"{OTHERS}/README.md", others_page(root, others))
    front = (root / "README.md").read_text(encoding="utf-8")
    staging.page("README.md", f"{front}\n{navigation(root, names)}")


def stage_profile(staging: Staging, profile: str, first: bool) -> None:
    """Add a profile's page, its notebooks, and lists of its notebooks, tables and figures.

    Args:
        first: whether its notebooks stand in the navigation of the front page.
    """
    place = f"results/{profile}"
    staging.copy(f"{place}/README.md")
    note = f"*As it ran with profile `{profile}`; what came of it: [results](../README.md).*"
    for name in notebooks_of(staging.root, profile):
        staging.notebook(f"{place}/notebooks/{name}.ipynb", note)
    staging.page(f"{place}/notebooks/README.md", notebooks_page(staging.root, profile, first))
    for kind, suffixes in (("tables", ("csv",)), ("figures", ("png", "svg"))):
        if (staging.root / place / kind).is_dir():
            page = files_page(staging.root / place, kind, suffixes)
            staging.page(f"{place}/{kind}/README.md", page)


def notebooks_page(root: Path, profile: str, first: bool) -> str:
    """A list of a profile's notebooks; unless it is the first, its place in the navigation."""
    notebooks = notebooks_of(root, profile)
    return "\n".join(
        ["---\norphan: true\n---"] * first
        + [f"# Notebooks of profile `{profile}`, as they ran", ""]
        + ["What came of them: [results](../README.md). Imports, parameters and long cells are"]
        + ["folded.", ""]
        + [f"- [{title}]({name}.ipynb)" for name, title in notebooks.items()]
        + ["", "" if first else toctree(short(notebooks))]
    )


def others_page(root: Path, names: list[str]) -> str:
    """A list of the notebooks of all profiles but the first."""
    text = ["# Notebooks of the other profiles, as they ran", ""]
    for profile in names:
        text += [f"- [{label(root, profile)}](../{profile}/notebooks/README.md)"]
        text += [
            f"  - [{title}](../{profile}/notebooks/{name}.ipynb)"
            for name, title in notebooks_of(root, profile).items()
        ]
    pages = [f"{name} <../{name}/notebooks/index>" for name in names]
    return "\n".join([*text, "", toctree(pages)])


def files_page(folder: Path, kind: str, suffixes: tuple[str, ...]) -> str:
    """A list of a profile's tables or figures, with what each shows.

    Args:
        folder: the profile's results.
        kind: `tables` or `figures`, a folder in it.
        suffixes: of the files to link.
    """
    captions = {
        entry["name"]: entry["caption"].replace("|", "\\|")
        for index in sorted((folder / "index").glob("*.json"))
        for entry in json.loads(index.read_text(encoding="utf-8"))["entries"]
        if "caption" in entry
    }
    text = ["---", "orphan: true", "---", f"# {kind.capitalize()} of profile `{folder.name}`", ""]
    text += ["Read them among the [results](../README.md); here are the files.", ""]
    text += ["| name | what it shows | files |", "|---|---|---|"]
    for name in sorted({path.stem for path in (folder / kind).glob(f"*.{suffixes[0]}")}):
        files = [f"{name}.{suffix}" for suffix in suffixes]
        links = [
            f"[{file.rsplit('.', 1)[1]}]({file})"
            for file in files
            if (folder / kind / file).is_file()
        ]
        text.append(f"| {name} | {captions.get(name, '')} | {', '.join(links)} |")
    return "\n".join(text)


def navigation(root: Path, names: list[str]) -> str:
    """The sections of the site, for the front page."""
    notebooks = notebooks_of(root, names[0])
    sections = {
        "Start": ["Front page <self>", "What differs from the paper <docs/deviations>"],
        "Results": ["The paper's claims <results/index>"]
        + ["Where selection pays <results/regimes/index>"]
        + [f"{label(root, name)} <results/{name}/index>" for name in names],
        "Notebooks as run": short(notebooks, f"results/{names[0]}/notebooks/")
        + [f"Other profiles <{OTHERS}/index>"],
        "Guide": ["Your own model and data <docs/guide>", "Architecture <docs/architecture>"]
        + ["Log <docs/log>", "Benchmarks <benchmarks/index>"],
    }
    return "\n".join(toctree(pages, caption) for caption, pages in sections.items())


def short(notebooks: dict[str, str], place: str = "") -> list[str]:
    """Notebooks for a `toctree`, by their titles up to the colon."""
    return [f"{title.partition(':')[0]} <{place}{name}>" for name, title in notebooks.items()]


def toctree(pages: list[str], caption: str = "", hidden: bool = True) -> str:
    """A list of pages for Sphinx; a hidden one stands in the navigation alone."""
    options = [f":caption: {caption}"] * bool(caption) + [":hidden:"] * hidden + [":maxdepth: 1"]
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])
