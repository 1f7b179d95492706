"""Run the notebooks of a profile, in order, and write `results/<profile>`: `python -m dits_lib.reproduce --profile micro`.

A notebook whose source, parameters, library and outputs are as they were is not run again. What a notebook computes is
kept in `runs/<profile>` stage by stage, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path

import yaml

from .agents import readers_of
from .engines import ModelError, check_model_folder, load_tokenizer, model_files
from .params import DEEP_NOTEBOOK, OUTPUT, ROOT, Params, ParamsError, add_profile_options, profile_of
from .store import LIBRARY, StoreError, checksum, source_digest
from .tasks import DataError, read_questions
from .tasks.judge import JudgeError
from .tools import CacheError, PageError
from .web_task import check_web, site_digest

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "papermill", "rapidfuzz", "numpy", "scipy", "matplotlib", "seaborn")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line a mistake on stderr), 1 a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_profile_options(parser)
    parser.add_argument("--notebook", action="append", help="run just this one (may be repeated)")
    options = parser.parse_args(arguments)
    try:
        params = profile_of(options)
        names = choose_notebooks(options.notebook, params)
        check_inputs(params.model_copy(update={"notebooks": names}))
        folder = prepare(params)
        start = time.monotonic()
        compute_ahead(names, params, folder)
        ran = [name for name in names if run_notebook(name, params, folder)]
        finish(folder, params)
    except KNOWN as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or options.profile}: {error.strerror or error}; finished stages are kept, run again", file=sys.stderr)
        return 2
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2 if error.bad_input else 1
    print(f"{len(ran)} of {len(names)} notebooks run in {time.monotonic() - start:.0f} s; read {folder / 'README.md'}")
    return 0


class InputError(ValueError):
    """Input that cannot be used, in one line."""


class NotebookError(RuntimeError):
    """A notebook that failed. `bad_input` tells whether its own message says all (one line)."""

    def __init__(self, message: str, bad_input: bool):
        super().__init__(message)
        self.bad_input = bad_input


KNOWN = (ParamsError, DataError, StoreError, InputError, ModelError, JudgeError, PageError, CacheError)
"""Errors whose message says all, in one line."""


def compute_ahead(names: list[str], params: Params, folder: Path) -> None:
    """With vLLM, which takes a minute to start, compute what the notebooks ask for on one set of processes, so that they find it in
    the store. Notebooks that are up to date ask for nothing. What fails here fails again in its notebook, which tells it."""
    from .studies import run_ahead

    if params.model.engine != "vllm":
        return
    stale = [name for name in names if not is_current(_stamp(name, params), notebook_key(name, params), folder)]
    for part in params.parts():
        own = [name for name in stale if name in part.notebooks]
        if len(own) > 1:
            try:
                failed = run_ahead(part, own)
            except BrokenProcessPool:
                print("a process died (out of memory?); the notebooks go on with what it had finished", file=sys.stderr)
            else:
                print(f"{failed} jobs failed; their notebooks say why" if failed else "all stages are computed", flush=True)


def check_inputs(params: Params) -> None:
    """Look at the model and the data before anything expensive.

    Raises:
        InputError, DataError: in one line.
    """
    import torch

    if params.model.device == "cuda" and not torch.cuda.is_available():
        raise InputError("model.device is 'cuda', but torch sees no GPU; allowed here: cpu")
    try:
        check_models(params)
        for part in params.parts():
            check_questions(part)
        if params.searches_deep:
            check_web(params, OUTPUT / "runs" / params.profile)
    except (ModelError, PageError, CacheError, JudgeError) as error:
        raise InputError(str(error)) from None


def check_models(params: Params) -> None:
    """Look at every model of the parameters without loading its weights: configuration, tokenizer, chat template, whether the weights are
    whole, and whether it reads as many tokens as vLLM is to be started for.

    Raises:
        ModelError: naming the folder and what is wrong.
    """
    from transformers import AutoConfig

    for path in params.model_paths():
        check_model(path)
        most = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
        if params.model.engine == "vllm" and most is not None and params.model.max_length > most:
            raise ModelError(f"{path}: reads {most} tokens at most, but model.max_length is {params.model.max_length}; lower it")


def check_model(path: str) -> None:
    """One model of `check_models`, but for its length."""
    from safetensors import SafetensorError, safe_open

    check_model_folder(path)
    load_tokenizer(path)
    for file in sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except SafetensorError as error:
            raise ModelError(f"{file}: damaged or cut short ({error})") from None


def check_questions(params: Params) -> None:
    """Read the questions of every task and see whether each split holds as many as the notebooks ask for.

    Raises:
        DataError: naming the data, the split and both numbers, or the row that cannot be used.
    """
    for task in params.tasks:
        data = params.data.splits(task)
        if data is not None:
            have = {split: len(part.questions) for split, part in data.items()}
            where = {split: part.source for split, part in data.items()}
        elif params.world.questions is not None:
            own = read_questions(ROOT / params.world.questions, readers_of(task))
            have = Counter(question.meta["split"] for question in own)
            where = dict.fromkeys(params.questions_needed(), params.world.questions)
        else:
            continue
        for split, need in params.questions_needed().items():
            if have.get(split, 0) < need:
                raise DataError(f"{where[split]}: {have.get(split, 0)} questions of split '{split}', but the parameters ask for {need}")


def choose_notebooks(wanted: list[str] | None, params: Params) -> list[str]:
    """Names of the notebooks to run, in order: those asked for, else those of the parameters.

    Raises:
        InputError: for an unknown name.
    """
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for place, chosen in (("--notebook", wanted or []), ("notebooks:", params.notebooks)):
        for name in chosen:
            if name not in names:
                raise InputError(f"{place} {name}: no such notebook; allowed: {', '.join(names)}")
    served = {name for part in params.model_copy(update={"notebooks": wanted or params.notebooks}).parts() for name in part.notebooks}
    for name in wanted or []:
        if name not in served:
            raise InputError(f"--notebook {name}: tasks is {', '.join(params.tasks)}; {DEEP_NOTEBOOK} serves deep_search, the others exchange and debate")
    return [name for name in names if name in served]


def prepare(params: Params) -> Path:
    """Make the results folder.

    Raises:
        InputError: when it cannot be written.
    """
    folder = OUTPUT / "results" / params.profile
    try:
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        (OUTPUT / "runs" / params.profile).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); set DITS_OUTPUT to a folder that can") from None
    return folder


def run_notebook(name: str, params: Params, folder: Path) -> bool:
    """Run a notebook unless its outputs are up to date; tells whether it ran.

    Raises:
        NotebookError: with the notebook's own message.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that the notebook's cell leaves out
    key, stamp = notebook_key(name, params), _stamp(name, params)
    if is_current(stamp, key, folder):
        print(f"{name}: up to date")
        return False
    print(f"{name}: running", flush=True)
    executed = folder / "notebooks" / f"{name}.ipynb"
    temporary = executed.with_name(f".{name}.tmp.ipynb")
    os.environ["OMP_NUM_THREADS"] = "1"  # rounding, and so every result, is then the same on any number of cores
    try:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb", temporary, parameters=params.model_dump(), kernel_name="python3", cwd=ROOT,
            progress_bar=sys.stderr.isatty(), log_output=False,
        )
    except papermill.PapermillExecutionError as error:
        known = error.ename in {kind.__name__ for kind in KNOWN}
        text = str(error.evalue).strip() if known else f"notebooks/{name}.ipynb, cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise NotebookError(text, known) from None
    except DeadKernelError:
        raise NotebookError(f"notebooks/{name}.ipynb: its kernel died (out of memory?); finished stages are kept, run again", True) from None
    finally:
        if temporary.exists():
            clean(temporary)
            os.replace(temporary, executed)
    write_stamp(stamp, key, name, folder)
    return True


def _stamp(name: str, params: Params) -> Path:
    return OUTPUT / "runs" / params.profile / f"{name}.stamp.json"


def notebook_key(name: str, params: Params) -> str:
    """Hash of what a notebook's results follow from: its cells, the parameters, the library, the model."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    library = [source_digest(path.read_text(encoding="utf-8")) for path in sorted(LIBRARY.rglob("*.py"))]
    own = params.model_copy(update={"notebooks": [name]})
    inputs = [checksum(path) for model in own.model_paths() for path in model_files(model)]
    inputs += [checksum(ROOT / params.world.questions)] if params.world.questions else []
    inputs += [site_digest(params)] if own.searches_deep else []
    inputs += [part.digest for half in own.parts() for task in half.tasks for part in (params.data.splits(task) or {}).values()]
    body = json.dumps([cells, params.model_dump(exclude={"workers"}), library, inputs])
    return hashlib.sha256(body.encode()).hexdigest()


def _outputs(name: str, folder: Path) -> list[Path]:
    index = folder / "index" / f"{name}.json"
    entries = json.loads(index.read_text())["entries"] if index.exists() else []
    kinds = {"table": ("tables", ("csv", "md")), "figure": ("figures", ("png", "svg"))}
    files = [folder / kinds[e["kind"]][0] / f"{e['name']}.{s}" for e in entries for s in kinds[e["kind"]][1]]
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
    return known["key"] == key and all((folder / f).is_file() and checksum(folder / f) == digest for f, digest in files)


def clean(path: Path) -> None:
    """Drop times, progress bars and random ids from an executed notebook, so that equal runs give equal files."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("papermill", None)
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        cell["metadata"].pop("execution", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"  # papermill draws one at random
        kept = [o for o in cell.get("outputs", []) if o.get("name") != "stderr" and not _is_progress(o)]
        if "outputs" in cell:
            cell["outputs"] = _joined(kept)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _joined(outputs: list[dict]) -> list[dict]:
    """Prints that follow each other as one: into how many messages a kernel cuts them depends on the moment."""
    joined: list[dict] = []
    for output in outputs:
        if joined and output["output_type"] == joined[-1]["output_type"] == "stream" and output["name"] == joined[-1]["name"]:
            joined[-1]["text"] = ("".join(joined[-1]["text"]) + "".join(output["text"])).splitlines(keepends=True)
        else:
            joined.append(output)
    return joined


def _is_progress(output: dict) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def finish(folder: Path, params: Params) -> None:
    """Write parameters, versions and the README, where they differ from what is there."""
    from .report.render import render_readme

    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    write_changed(folder / "versions.json", json.dumps(versions, indent=1) + "\n")
    write_changed(folder / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))
    readme, costs = render_readme(folder, OUTPUT / "runs" / params.profile)
    for name, text in costs.items():
        write_changed(folder / "tables" / name, text)
    write_changed(folder / "README.md", readme)


def write_changed(path: Path, text: str) -> None:
    """Write a file unless it says this already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
