"""Atomic writes of files and folders, and disk errors in one line."""

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
KEPT = 86400  # seconds after which partial files of killed processes are removed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: yields a unique hidden path next to `path`, with the same suffix, whose file or folder replaces `path` on success.

    Concurrent writers to one `path` all succeed, and one result remains. Raises UserError for disk errors; after any error, the previous
    content of `path` is unchanged.
    """
    with replacing_all(path) as (partial,):
        yield partial


@contextmanager
def replacing_all(first: Path, *others: Path) -> Iterator[list[Path]]:
    """Like `replacing`, for several files in one folder that are replaced together."""
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
        with _alone_in(folder) if len(paths) > 1 or partials[0].is_dir() else nullcontext():  # a single file is replaced atomically anyway
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
    """Removes partial files of killed writers to `path`: those not modified for a day."""
    for partial in path.parent.glob(f"{PARTIAL}*.{glob.escape(path.name)}"):
        with suppress(OSError):
            if len(partial.name) == len(PARTIAL) + 13 + len(path.name) and time.time() - partial.stat().st_mtime > KEPT:
                _remove(partial)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within it, no other process replaces folders or groups of files in this folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put(partial: Path, path: Path) -> None:
    """Replaces `path`. A non-empty folder is moved aside first; a link itself is replaced, not its target."""
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
    """Creates the parent folder of `path`. Raises UserError, before hours of work, if it is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}; choose another --out") from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def disk_fault(error: BaseException, folder: Path) -> str | None:
    """The disk error behind an exception, in one line; None for any other kind of error.

    torch, pyarrow and safetensors wrap the operating system's error in their own types.
    """
    faults, message = (error, error.__context__), str(error)
    if any(getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for fault in faults) or "No space left" in message:
        return "no space left"
    if isinstance(error, RuntimeError) and _full(folder):  # torch's writer does not mention the disk
        return "no space left"
    if isinstance(error, OSError):
        return (error.strerror or message or type(error).__name__).splitlines()[0]
    return message.splitlines()[0] if "(os error " in message else None  # safetensors' wording


def _full(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


def _remove(path: Path) -> None:
    """Removes a file, a folder, or a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
