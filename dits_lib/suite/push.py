"""An export, sent to the Hugging Face hub: its model to a model repository, its pairs to a data set
beside it, each linked from the card of the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.files import read_text, write_changed
from .checks import InputError
from .export import MODEL, PAIRS
from .hub import answers, is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KINDS = {MODEL: "model", PAIRS: "dataset"}
"""The kind of repository, as the hub calls it, that each folder of an export goes to."""
OF_THE_HUB = {".gitattributes"}
"""Files that the hub puts into a new repository."""
LINK = "- on the hub: "
"""How the line of a card begins that links the other one."""


class PushError(InputError):
    """An export that cannot be sent to the hub, in one line that names PUSH."""

    def __init__(self, push: str, reason: str):
        # Reasons of the hub come in several lines.
        super().__init__(" ".join(f"PUSH={push}: {reason}".split()))


@dataclass(frozen=True)
class Destination:
    """Where an export goes: to owner/name, a model, and owner/name-pairs, a data set."""

    push: str

    @property
    def places(self) -> dict[str, str]:
        """{folder of the export: name of the repository}."""
        return {MODEL: self.push, PAIRS: f"{self.push}-pairs"}


def check_push(push: str) -> Destination:
    """Look at what can be wrong before anything is computed or written, the quickest first.

    Args:
        push: owner/name, as the user gives it.

    Raises:
        PushError: for another form, and where nothing can be sent: offline, without a token, to a
            hub that does not answer, with a token that the hub does not know or that may not write.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    destination, api = _destination(push), HfApi()
    if is_offline():
        raise PushError(push, f"HF_HUB_OFFLINE is set; unset it, or {_WITHOUT}")
    if not answers():
        raise PushError(push, f"the hub cannot be reached at {api.endpoint}; {_WITHOUT}")
    try:
        who = api.whoami()
    except LocalTokenNotFoundError:
        raise PushError(push, f"no token of the hub; {_WRITE}") from None
    except Exception as error:  # of the connection, too, or what a proxy says in the hub's stead
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        told = f"the hub at {api.endpoint} does not say whose the token is ({_reason(error)})"
        raise PushError(push, f"{told}; {_WRITE if refused else _WITHOUT}") from None
    _check_rights(push, who)
    return destination


_WITHOUT = "leave PUSH out to export to the folder alone; with PUSH again, that is sent as it is"
_WRITE = "allowed: a token that may write, in HF_TOKEN or stored by `hf auth login`"


def _destination(push: str) -> Destination:
    """Raises PushError for anything but owner/name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    destination = Destination(push)
    try:
        for place in destination.places.values():
            validate_repo_id(place)
    except HFValidationError:
        well_formed = False
    else:
        well_formed = push.count("/") == 1
    if not well_formed:
        raise PushError(
            push,
            "no name of a repository; allowed: owner/name, of letters, digits, '-', '_' and '.' "
            "(no '--' or '..', neither '-' nor '.' at an end), the name of 90 characters at most",
        )
    return destination


def _check_rights(push: str, who: dict) -> None:
    """Raises PushError for a token that can only read, and for an owner whose repositories it
    cannot write. What a fine-grained token may do is left to the hub."""
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise PushError(push, f"the token may only read; {_WRITE}")
    owners = [who.get("name"), *(group.get("name") for group in who.get("orgs") or [])]
    owners = [name for name in owners if name]
    owner = push.split("/")[0]
    if role == "write" and owner.casefold() not in map(str.casefold, owners):
        told = f"the token is not of {owner}, nor of a member; allowed owners"
        raise PushError(push, f"{told}: {', '.join(owners)}")


def send(folder: Path, destination: Destination, trained: bool) -> list[str]:
    """Send an export. What is on the hub already is not sent again; repositories that are not there
    yet are made, private.

    Args:
        folder: as `export` writes it; its cards get a line that links the other repository.
        trained: whether pairs of the export trained its model; then they are named as its data.

    Returns:
        The addresses of model and data set.

    Raises:
        PushError: when something is not sent (the folder stays as it is), or a repository holds
            files that the export has not.
    """
    from huggingface_hub import HfApi

    api, push, places = HfApi(), destination.push, destination.places
    links = {}
    for part, place in places.items():
        links[part], there = _told(push, folder, place, partial(_made, api, place, KINDS[part]))
        _check_alone(push, folder, part, place, there)
    link_cards(folder, destination, links, trained)
    for part, place in places.items():
        upload = partial(
            api.upload_folder,
            folder_path=folder / part,
            repo_id=place,
            repo_type=KINDS[part],
            commit_message="Export of the DITS suite",
        )
        _told(push, folder, place, upload)
    return list(links.values())


def _made(api: HfApi, place: str, kind: str) -> tuple[str, list[str]]:
    """Make a repository, private, unless it is there: its address, and the files that it holds."""
    link = api.create_repo(place, repo_type=kind, private=True, exist_ok=True)
    return str(link), api.list_repo_files(place, repo_type=kind)


def _told(push: str, folder: Path, place: str, call: Callable[[], object]):
    """What a call gives; any error of the hub, or on the way to it, as one line. Uploads go through
    several libraries, and each has errors of its own.

    Raises:
        PushError: for any error.
    """
    try:
        return call()
    except Exception as error:
        reason = _reason(error)
    # Here the error is gone; so is a bar of progress that the hub's library left open with it, and
    # that would write its end behind the line.
    gc.collect()
    raise PushError(push, f"{place} is not complete on the hub ({reason}); {_again(folder)}")


def _again(folder: Path) -> str:
    return f"{folder} holds the export; the same command sends it, without making it anew"


def _reason(error: Exception) -> str:
    """What an error tells, and the one behind it where a library only says which file it was."""
    from huggingface_hub.errors import HfHubHTTPError

    told = str(error) or type(error).__name__
    behind = None if isinstance(error, HfHubHTTPError) else error.__cause__
    return f"{told.rstrip('.')}: {_reason(behind)}" if isinstance(behind, Exception) else told


def _check_alone(push: str, folder: Path, part: str, place: str, there: list[str]) -> None:
    """Raises PushError where a repository holds files that the export has not: an adapter beside
    merged weights would be loaded as neither, and nobody may delete what is another's unasked."""
    ours = {
        file.relative_to(folder / part).as_posix()
        for file in (folder / part).rglob("*")
        if file.is_file()
    }
    others = sorted(set(there) - ours - OF_THE_HUB)
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        told = f"{place} holds other files on the hub ({listed}); name another repository, or"
        raise PushError(push, f"{told} delete them there; {_again(folder)}")


def link_cards(
    folder: Path, destination: Destination, links: dict[str, str], trained: bool
) -> None:
    """Let the card of each part link the other; a link from before is replaced.

    Args:
        links: {folder of the export: address of its repository}.

    Raises:
        FileError: when a card cannot be read or written.
    """
    places = destination.places
    _link(folder / MODEL, f"its pairs are [{places[PAIRS]}]({links[PAIRS]})")
    _link(folder / PAIRS, f"their model is [{places[MODEL]}]({links[MODEL]})")
    if trained:
        _name_data(folder / MODEL / "README.md", places[PAIRS])


def _link(folder: Path, told: str) -> None:
    card = folder / "README.md"
    lines = read_text(card, "put the card back, or export to a new folder").splitlines()
    kept = [line for line in lines if not line.startswith(LINK)]
    write_changed(card, "\n".join([*kept, f"{LINK}{told}", ""]))


def _name_data(card: Path, place: str) -> None:
    """Name the data that a model was trained on where the hub looks for it."""
    from huggingface_hub import metadata_load, metadata_save

    head = metadata_load(card) or {}
    if head.get("datasets") != [place]:
        metadata_save(card, head | {"datasets": [place]})
