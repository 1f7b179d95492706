"""Files that are written whole or not at all: under a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


class FileError(RuntimeError):
    """A file that cannot be read or written, in one line that names it and what to do."""


FULL = "no space left on the device; free some and run again, finished stages are kept"


def is_full(error: BaseException) -> bool:
    """Whether an error tells of a full disk or quota; some libraries wrap the system's error in
    their own kind."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, and the folders above it. Whoever reads it meets the old content or the new
    one, never a part, also when this process is killed or the disk is full.

    A link is replaced by a file; so is an empty folder.

    Raises:
        FileError: when it cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        make_folder(path.parent)
        _remove_leftovers(path.parent)
        make_way(path)
        with _temporary(path) as (name, handle):
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())  # what a network's file system cannot keep is told here
            os.replace(name, path)
    except OSError as error:
        if is_full(error):
            raise FileError(f"{path}: {FULL}") from None
        reason = error.strerror or error
        raise FileError(f"{path}: cannot be written ({reason}); finished stages are kept") from None


def write_changed(path: Path, content: str) -> None:
    """Write a file unless it says this already.

    Raises:
        FileError: when it cannot be written.
    """
    with contextlib.suppress(OSError):
        if not path.is_symlink() and path.read_bytes() == content.encode("utf-8"):
            return
    write_file(path, content)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        FileError: when something else is there, or above it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FileError(
            f"{folder}: no folder, and none can be made there; move away what is there and run "
            "again"
        ) from None


def make_way(path: Path) -> None:
    """Make sure that a file can be put at a path: an empty folder there is removed.

    Raises:
        FileError: when there is a folder with something in it, which nobody may delete unasked.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError:
            raise FileError(
                f"{path}: a folder, where a file belongs; move it away and run again"
            ) from None


def read_text(path: Path, cure: str) -> str:
    """The text of a UTF-8 file.

    Args:
        cure: what to do when it cannot be read, as the end of the message.

    Raises:
        FileError: when it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}; {cure}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 (byte {error.start}); {cure}") from None


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[str, object]]:
    """A new file beside `path`, locked as long as it is open: a lock ends with its process, so that
    a free one tells that the file was left behind."""
    while True:
        # Of a long name only a part, since file systems bound the length of names.
        name = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
        handle = name.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle.fileno()).st_nlink:
            break
        handle.close()  # another process took it for a leftover before it was locked
    try:
        yield str(name), handle
    finally:
        with contextlib.suppress(OSError):  # the error that is on its way says it already
            handle.close()
        name.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer was killed."""
    for left in folder.glob(".*.????????.tmp"):
        with contextlib.suppress(OSError), left.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
