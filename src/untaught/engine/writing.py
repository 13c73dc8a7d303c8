"""Files and folders that are written whole or not at all, and what a disk says when it can't."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from untaught.core import UserError
from untaught.data.store import sync


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, with its ending, for a file or a folder, which takes the place of `path` if nothing goes wrong.

    Raises UserError where the disk can't take it; then, as after any other error, what lay at `path` is still there.
    """
    partial = path.with_name(f".partial.{path.name}")
    _remove(partial)  # of a process that was killed
    try:
        yield partial
        for part in sorted(partial.rglob("*")) if partial.is_dir() else []:
            sync(part)
        sync(partial)
        if partial.is_dir():
            _remove(path)
        os.replace(partial, path)  # of a link, the link itself
        sync(path.parent)
    except UserError:
        raise
    except Exception as error:
        if fault := disk_fault(error, path.parent):
            raise UserError(f"{path} can't be written: {fault}") from error
        raise
    finally:
        _remove(partial)


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
