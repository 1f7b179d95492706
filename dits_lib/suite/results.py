"""Which folder a run's results go to: that of the profile only for the profile's own parameters."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..settings import OUTPUT
from ..settings.messages import shown
from ..tasks.public import PUBLIC
from .params import CHANGED, Params, load_params, profile_names

WHERE_JOBS_RUN = ("workers", "executor", "ray")
UNCOUNTED = (*WHERE_JOBS_RUN, "notebooks")
"""Keys that decide no number."""


def own_parameters(profile: str) -> Params | None:
    """What `params/<profile>.yaml` says, or another profile with `--dataset`, whose name is
    `<profile>-<data set>`; None for a name that stands for neither.

    Raises:
        ParamsError: when that file cannot be used.
    """
    names = profile_names()
    if profile in names:
        return load_params(profile)
    for dataset in PUBLIC:
        name = profile.removesuffix(f"-{dataset}")
        if name != profile and name in names:
            return load_params(name, dataset=dataset)
    return None


def changed_keys(params: Params) -> dict[str, tuple[object, object]]:
    """{key: (value, that of the profile)} where they differ; a profile without a file of its own
    has nothing to differ from.

    Raises:
        ParamsError: as `own_parameters`.
    """
    own = own_parameters(params.profile)
    if own is None:
        return {}
    here, there = (_flat(p.model_dump(exclude=set(UNCOUNTED))) for p in (params, own))
    return {
        key: (here.get(key), there.get(key))
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    }


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """{key with dots: value}."""
    found: dict[str, object] = {}
    for key, value in values.items():
        inside = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found


def results_name(params: Params) -> str:
    """The profile, or `<profile>-changed-<8 hex digits>` that follow from what was changed, so that
    nothing is written over the results of the profile.

    Raises:
        ParamsError: as `own_parameters`.
    """
    changes = changed_keys(params)
    if not changes:
        return params.profile
    body = json.dumps({key: value for key, (value, _) in changes.items()}, sort_keys=True)
    return f"{params.profile}-changed-{hashlib.sha256(body.encode()).hexdigest()[:8]}"


def stamp_suffix(params: Params) -> str:
    """What the name of a results folder adds to that of its profile; empty for the profile's own
    parameters."""
    return results_name(params).removeprefix(params.profile)


def results_folder(params: Params) -> Path:
    """Where `reproduce` writes, by `results_name`."""
    return OUTPUT / "results" / results_name(params)


def is_of_changes(folder: Path) -> bool:
    """Whether a folder of results is one of changed parameters, by its name."""
    return CHANGED.search(folder.name) is not None


def told_changes(params: Params) -> str:
    """For the top of a README: what differs from the profile; empty if nothing does."""
    changes = changed_keys(params)
    if not changes:
        return ""
    rows = "".join(
        f"\n> - `{key}`: {shown(value)} instead of {shown(own)}"
        for key, (value, own) in changes.items()
    )
    return (
        f"> **Changed parameters.** These are not the results of the profile `{params.profile}`: "
        f"they were made with other values of\n>{rows}\n"
    )


def is_of_earlier_search(params: dict) -> bool:
    """Whether results with these parameters (their `params.yaml`) come from a version whose search
    had other settings than this one's."""
    return set(params["search"]) != set(Params.model_fields["search"].annotation.model_fields)


def world_of(params: dict, task: str) -> list[str]:
    """Names of a task's base model and data set, by the parameters of results as they stand in
    their file; those of the made-up worlds go without saying."""
    web, model = params.get("web") or {}, params.get("model") or {}
    path = (task == "deep_search" and web.get("model")) or model.get("path") or ""
    names = Path(path).name, (params.get("data") or {}).get(task) or ""
    return [name for name in names if name not in ("", "micro", "micro-web")]
