"""Files and folders that are written whole or not at all, and what a disk says when it can't."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from untaught.core import UserError
from untaught.data.store import sync

PARTIAL = ".partial."
KEPT = 86400  # seconds that what a killed process left may lie there


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, with its ending, for a file or a folder, which takes the place of `path` if nothing goes wrong.

    The name is nobody else's: of several who write to one `path` at the same time, each succeeds, and one of them is there in the end.
    Raises UserError where the disk can't take it; then, as after any other error, what lay at `path` is still there.
    """
    with all_whole(path) as (partial,):
        yield partial


@contextmanager
def all_whole(first: Path, *others: Path) -> Iterator[list[Path]]:
    """As `whole`, of several files of one folder that belong together: they take their places as one."""
    folder, paths = first.parent, (first, *others)
    partials = [path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}.{path.name}") for path in paths]
    try:
        for path in paths:
            _sweep(path)
        yield partials
        for partial in partials:
            for part in sorted(partial.rglob("*")) if partial.is_dir() else []:
                sync(part)
            sync(partial)
        with _alone_in(folder) if len(paths) > 1 or partials[0].is_dir() else nullcontext():  # one file is replaced in one go
            for partial, path in zip(partials, paths, strict=True):
                _put(partial, path)
        sync(folder)
    except UserError:
        raise
    except Exception as error:
        if fault := disk_fault(error, folder):
            raise UserError(f"{first} can't be written: {fault}") from error
        raise
    finally:
        for partial in partials:
            _remove(partial)


def _sweep(path: Path) -> None:
    """Removes what those left who were killed while they wrote to `path`. Who still writes has touched the file within a day."""
    for partial in path.parent.glob(f"{PARTIAL}*.{glob.escape(path.name)}"):
        with suppress(OSError):
            if len(partial.name) == len(PARTIAL) + 13 + len(path.name) and time.time() - partial.stat().st_mtime > KEPT:
                _remove(partial)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Inside, nobody else puts a folder, or files that belong together, into their places in this folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put(partial: Path, path: Path) -> None:
    """What a folder replaces is moved aside first, unless it is an empty folder; of a link, the link itself."""
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not partial.is_dir():
            raise
        aside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}.{path.name}")
        os.replace(path, aside)
        os.replace(partial, path)
        _remove(aside)


def make_room(path: Path) -> None:
    """Makes the folder that `path` is to lie in. Raises UserError, before hours of work, where nothing can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}; choose another --out") from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    with whole(path) as partial:
        partial.write_bytes(content)


def disk_fault(error: BaseException, folder: Path) -> str | None:
    """What the disk of `folder` had to say, in one line, or None where the error is of another kind.

    torch, pyarrow and safetensors each hide the system's error behind one of their own.
    """
    faults, said = (error, error.__context__), str(error)
    if any(getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for fault in faults) or "No space left" in said:
        return "no space left"
    if isinstance(error, RuntimeError) and _full(folder):  # torch's writer says nothing of the disk
        return "no space left"
    if isinstance(error, OSError):
        return (error.strerror or said or type(error).__name__).splitlines()[0]
    return said.splitlines()[0] if "(os error " in said else None  # as safetensors words it


def _full(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


def _remove(path: Path) -> None:
    """Of a link, the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
