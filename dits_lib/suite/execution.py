"""Running a notebook: only if something changed, and so that equal runs give equal files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from ..engines import model_files
from ..report.index import read_index
from ..settings import OUTPUT, ROOT
from ..settings.files import FileError, make_folder, make_way, write_file
from .checks import KNOWN_ERRORS
from .deep_search import site_digest
from .kernels import kernel_manager, last_words
from .params import Params
from .progress import Watch
from .results import WHERE_JOBS_RUN, stamp_suffix
from .store import LIBRARY, StoreError, checksum, read_manifest, source_digest, sweep


class NotebookError(RuntimeError):
    """A notebook that failed. `bad_input` tells whether its own message says all (one line)."""

    def __init__(self, message: str, bad_input: bool):
        super().__init__(message)
        self.bad_input = bad_input


def run_notebook(name: str, params: Params, folder: Path, place: str = "") -> bool:
    """Run a notebook unless its outputs are up to date; tells whether it ran.

    Args:
        folder: of the results.
        place: told beside its name, such as "2 of 7".

    Raises:
        NotebookError: with the notebook's own message.
        FileError: when its outputs cannot be written.
    """
    key, stamp = notebook_key(name, params), stamp_of(name, params)
    sweep(stamp.parent)
    told = f"{name} ({place})" if place else name
    if is_current(stamp, key, folder):
        print(f"{told}: up to date")
        return False
    make_way_for(name, folder, stamp)
    print(f"{told}: running", flush=True)
    executed, _ = _own_files(name, folder)
    with Watch(name):
        text = _execute(name, params, executed)
    write_file(executed, clean(text))
    write_stamp(stamp, key, name, folder)
    return True


def _execute(name: str, params: Params, executed: Path) -> str:
    """The executed notebook's text, from memory: papermill itself writes into the very file that
    it is asked for, after every cell. A failed one is written, so that it can be looked at."""
    import papermill
    from papermill.iorw import NoIOHandler, papermill_io

    # It warns of parameters that the notebook's cell leaves out, and tells what it raises as well.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    # After Ctrl-C it tells of the cell that nobody waits for any more.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = "1"  # rounding is then the same on any number of cores
    # A backend that the caller's shell names would draw nothing into the notebook.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    source, kept = f"notebooks/{name}.ipynb", []

    class Memory(NoIOHandler):
        def write(self, text: str, path: str) -> None:
            kept.append(text)

    papermill_io.register("memory:", Memory())
    errors = tempfile.TemporaryFile()
    try:
        papermill.execute_notebook(
            ROOT / source,
            "memory:.ipynb",
            request_save_on_cell_execute=False,
            parameters=params.model_dump(),
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=False,  # `Watch` tells more than how many cells are done
            log_output=False,
            kernel_manager_class=kernel_manager(errors),
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C goes to the kernel too
            raise KeyboardInterrupt from None
        with suppress(FileError):  # why the notebook failed counts, and is told
            write_file(executed, clean(kept[-1]))
        known = error.ename in {kind.__name__ for kind in KNOWN_ERRORS}
        text = str(error.evalue).strip()
        if not known:
            text = f"{source}, cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise NotebookError(text, known) from None
    except RuntimeError as error:  # of nbclient or of jupyter_client, by the moment
        reason = "; ".join(filter(None, [str(error), last_words(errors)]))
        raise NotebookError(
            f"{source}: its kernel died (out of memory?) or did not start ({reason}); finished "
            "stages are kept, run again",
            True,
        ) from None
    finally:
        errors.close()
    return kept[-1]


def stamp_of(name: str, params: Params) -> Path:
    """The file that tells what a notebook's outputs were made from, one for each folder of
    results."""
    return OUTPUT / "runs" / params.profile / f"{name}{stamp_suffix(params)}.stamp.json"


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
    counted = params.model_dump(exclude=set(WHERE_JOBS_RUN))
    body = json.dumps([cells, counted, library, inputs])
    return hashlib.sha256(body.encode()).hexdigest()


def _own_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The executed notebook, and what it wrote of itself."""
    return folder / "notebooks" / f"{name}.ipynb", folder / "index" / f"{name}.json"


def make_way_for(name: str, folder: Path, stamp: Path) -> None:
    """See before a notebook runs that it can write: its folders are there or can be made, and no
    folder lies where a file belongs.

    Raises:
        FileError: for what is in the way, and must not be deleted unasked.
    """
    for part in ("tables", "figures", "index", "notebooks"):
        make_folder(folder / part)
    executed, index = _own_files(name, folder)
    try:
        known = read_index(index).files()
    except FileError:
        known = []  # it is written anew
    for path in (executed, index, stamp, *(folder / file for file in known)):
        make_way(path)


class Stamp(BaseModel):
    """What a notebook's outputs were made from.

    Attributes:
        key: `notebook_key`.
        files: {output, as a path below the results: checksum}.
        artifacts: folder names of the stages behind them, whose costs the README adds up.
    """

    key: str
    files: dict[str, str]
    artifacts: list[str]


def write_stamp(stamp: Path, key: str, name: str, folder: Path) -> None:
    """Note that a notebook was run with this key.

    Raises:
        FileError: when what it wrote is not there, or the stamp cannot be written.
    """
    executed, index = _own_files(name, folder)
    written = read_index(index)
    paths = [executed, index, *(folder / file for file in written.files())]
    files = {str(path.relative_to(folder)): checksum(path) for path in paths}
    found = Stamp(key=key, files=files, artifacts=written.artifacts)
    write_file(stamp, found.model_dump_json())


def is_current(stamp: Path, key: str, folder: Path) -> bool:
    """Whether the stamp has this key, every output is as it was written, and the stages behind them
    are there. What is damaged is made anew, so that no error is told here."""
    try:
        known = Stamp.model_validate_json(stamp.read_bytes())
        if known.key != key:
            return False
        for artifact in known.artifacts:
            read_manifest(stamp.parent / artifact)
        return all(checksum(folder / name) == digest for name, digest in known.files.items())
    except (OSError, ValueError, StoreError):
        return False


def clean(text: str) -> str:
    """The text of an executed notebook without times, progress bars and random ids, so that equal
    runs give equal files."""
    notebook = json.loads(text)
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
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


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
