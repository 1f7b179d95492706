"""What a notebook was given: the assignments of its parameters cell and of papermill's, and no
other variable of the kernel."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from ..settings import ParamsError
from ..settings.messages import cut

HEADER = "# The parameters of this notebook: names of params/micro.yaml, one plain value each."
"""The first line of the parameters cell, by which it is known."""

INJECTED = "# Parameters"
"""The first line of the cell that papermill puts below it."""


def given_parameters(variables: dict, notebook: str) -> dict:
    """{name: value} that stand in force: papermill's over those of the parameters cell, if its cell
    ran after that one.

    Args:
        variables: the notebook's `globals()`. IPython keeps the sources of the cells that ran in
            `In`; a script made of the notebook is read from its file.

    Raises:
        ParamsError: when no such cell ran, or one holds anything but plain values.
    """
    ran = [source for source in variables.get("In", []) if isinstance(source, str)]
    sources = _in_force(ran) or _in_force(_script_cells(variables.get("__file__")))
    if not sources:
        raise ParamsError(
            f"{notebook}: its parameters cell was not run; run the cell that begins with "
            f"'{HEADER.split(':')[0]}'"
        )
    given: dict = {}
    for source in sources:
        injected = _first_line(source) == INJECTED
        cell = "papermill's parameters" if injected else "the parameters cell"
        given |= assignments(source, f"{notebook}, {cell}")
    return given


def _in_force(ran: list[str]) -> list[str]:
    """The last parameters cell that ran, and the last of papermill's that ran after it."""
    numbers = [n for n, source in enumerate(ran) if _first_line(source) == HEADER]
    if not numbers:
        return []
    later = [source for source in ran[numbers[-1] :] if _first_line(source) == INJECTED]
    return [ran[numbers[-1]], *later[-1:]]


def _first_line(source: str) -> str:
    return source.strip().split("\n", 1)[0].strip()


def _script_cells(file: object) -> list[str]:
    """The parameters cells of a script that nbconvert made: what follows the header, up to the next
    import, where the next cell begins."""
    if not isinstance(file, str) or not Path(file).is_file():
        return []
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    below = itertools.dropwhile(lambda line: line.strip() != HEADER, lines)
    cells: list[list[str]] = []
    for line in itertools.takewhile(lambda line: not line.startswith(("import ", "from ")), below):
        if line.strip() in (HEADER, INJECTED):
            cells.append([])
        cells[-1].append(line)
    return ["\n".join(cell) for cell in cells]


def assignments(source: str, where: str) -> dict:
    """{name: value} of a cell of plain assignments, such as `search = {"repetitions": 4}`.

    Raises:
        ParamsError: for anything else, a name or a key that stands twice, or Python that cannot be
            read; with its line.
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ParamsError(f"{where}, line {line}: not valid Python ({cut(str(error))})") from None
    given: dict = {}
    for statement in statements:
        place = f"{where}, line {statement.lineno}"
        if not isinstance(statement, ast.Assign) or not _names_one(statement):
            text = cut(ast.unparse(statement))
            raise ParamsError(f"{place}: {text}: only assignments of plain values, name = value")
        name = statement.targets[0].id
        if name in given:
            raise ParamsError(f"{place}: {name} is assigned twice; keep one")
        given[name] = _value(statement.value, f"{place}: {name}")
    return given


def _names_one(statement: ast.Assign) -> bool:
    return len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)


def _value(node: ast.expr, place: str) -> object:
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "float":
            # papermill writes float("nan") for what YAML calls .nan
            raise ParamsError(f"{place}: {cut(ast.unparse(part))} is no finite number")
        keys = [ast.dump(key) for key in part.keys if key] if isinstance(part, ast.Dict) else []
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            again = ast.unparse(part.keys[keys.index(twice)])
            raise ParamsError(f"{place}: {cut(again)} stands there twice; keep one")
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        text = cut(ast.unparse(node))
        raise ParamsError(
            f"{place} = {text}: must be a plain value: number, text, True, False, None, list or "
            "dict of these"
        ) from None
