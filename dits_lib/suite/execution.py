"""Running a notebook: only if something changed, and so that equal runs give equal files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

from ..engines import model_files
from ..settings import OUTPUT, ROOT
from .checks import KNOWN_ERRORS
from .deep_search import site_digest
from .params import Params
from .store import LIBRARY, checksum, source_digest

_OUTPUTS = {"table": ("tables", ("csv", "md")), "figure": ("figures", ("png", "svg"))}


class NotebookError(RuntimeError):
    """A notebook that failed. `bad_input` tells whether its own message says all (one line)."""

    def __init__(self, message: str, bad_input: bool):
        super().__init__(message)
        self.bad_input = bad_input


def run_notebook(name: str, params: Params, folder: Path) -> bool:
    """Run a notebook unless its outputs are up to date; tells whether it ran.

    Args:
        folder: of the results.

    Raises:
        NotebookError: with the notebook's own message.
    """
    key, stamp = notebook_key(name, params), stamp_of(name, params)
    if is_current(stamp, key, folder):
        print(f"{name}: up to date")
        return False
    print(f"{name}: running", flush=True)
    executed = folder / "notebooks" / f"{name}.ipynb"
    temporary = executed.with_name(f".{name}.tmp.ipynb")
    try:
        _execute(name, params, temporary)
    finally:
        if temporary.exists():
            clean(temporary)
            os.replace(temporary, executed)
    write_stamp(stamp, key, name, folder)
    return True


def _execute(name: str, params: Params, out: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    # It warns of parameters that the notebook's cell leaves out.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"  # rounding is then the same on any number of cores
    source = f"notebooks/{name}.ipynb"
    try:
        papermill.execute_notebook(
            ROOT / source,
            out,
            parameters=params.model_dump(),
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=sys.stderr.isatty(),
            log_output=False,
        )
    except papermill.PapermillExecutionError as error:
        known = error.ename in {kind.__name__ for kind in KNOWN_ERRORS}
        text = str(error.evalue).strip()
        if not known:
            text = f"{source}, cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise NotebookError(text, known) from None
    except DeadKernelError:
        raise NotebookError(
            f"{source}: its kernel died (out of memory?); finished stages are kept, run again", True
        ) from None


def stamp_of(name: str, params: Params) -> Path:
    """The file that tells what a notebook's outputs were made from."""
    return OUTPUT / "runs" / params.profile / f"{name}.stamp.json"


def notebook_key(name: str, params: Params) -> str:
    """Hash of what a notebook's results follow from: its cells, the parameters, the library, the
    models, the data."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    library = [
        source_digest(path.read_text(encoding="utf-8")) for path in sorted(LIBRARY.rglob("*.py"))
    ]
    own = params.model_copy(update={"notebooks": [name]})
    inputs = [checksum(path) for model in own.model_paths() for path in model_files(model)]
    if params.world.questions:
        inputs.append(checksum(ROOT / params.world.questions))
    if own.reads_pages:
        inputs.append(site_digest(params))
    for task in params.serving(name).tasks:
        inputs += [part.digest for part in (params.data.splits(task) or {}).values()]
    body = json.dumps([cells, params.model_dump(exclude={"workers"}), library, inputs])
    return hashlib.sha256(body.encode()).hexdigest()


def _outputs(name: str, folder: Path) -> list[Path]:
    index = folder / "index" / f"{name}.json"
    entries = json.loads(index.read_text())["entries"] if index.exists() else []
    files = [
        folder / place / f"{entry['name']}.{suffix}"
        for entry in entries
        for place, suffixes in [_OUTPUTS[entry["kind"]]]
        for suffix in suffixes
    ]
    return [folder / "notebooks" / f"{name}.ipynb", index, *files]


def write_stamp(stamp: Path, key: str, name: str, folder: Path) -> None:
    files = {str(path.relative_to(folder)): checksum(path) for path in _outputs(name, folder)}
    stamp.write_text(json.dumps({"key": key, "files": files}), encoding="utf-8")


def is_current(stamp: Path, key: str, folder: Path) -> bool:
    """Whether the stamp has this key and every output is as it was written."""
    try:
        known = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    files = known["files"].items()
    return known["key"] == key and all(
        (folder / name).is_file() and checksum(folder / name) == digest for name, digest in files
    )


def clean(path: Path) -> None:
    """Drop times, progress bars and random ids from an executed notebook, so that equal runs give
    equal files."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("papermill", None)
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        cell["metadata"].pop("execution", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"  # papermill draws one at random
        outputs = cell.get("outputs", [])
        kept = [o for o in outputs if o.get("name") != "stderr" and not _is_progress(o)]
        if "outputs" in cell:
            cell["outputs"] = _joined(kept)
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _joined(outputs: list[dict]) -> list[dict]:
    """Prints that follow each other as one: into how many messages a kernel cuts them depends on
    the moment."""
    joined: list[dict] = []
    for output in outputs:
        last = joined[-1] if joined else {"output_type": None}
        printed = output["output_type"] == last["output_type"] == "stream"
        if printed and output["name"] == last["name"]:
            text = "".join(last["text"]) + "".join(output["text"])
            last["text"] = text.splitlines(keepends=True)
        else:
            joined.append(output)
    return joined


def _is_progress(output: dict) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})
