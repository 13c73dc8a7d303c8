"""Opening files of untrusted folders: only regular files inside the folder, up to a size limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from untaught.core import UserError

WEIGHTS = 1 << 40  # bytes of a weights file, which is memory-mapped or read in blocks
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def open_file(path: Path, largest: int, within: Path | None) -> BinaryIO:
    """Opens a regular file of at most `largest` bytes for reading; links must stay `within` a folder.

    within: None for a file named by the user, which may link anywhere. Raises UserError.
    """
    try:
        real = Path(os.path.realpath(path)) if within is None else inside(path, within)
        _check_regular(path, os.stat(real))  # before opening: opening a pipe or a device may block or have side effects
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        file = open(handle, "rb")  # noqa: SIM115
        status = os.fstat(handle)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    try:
        _check_regular(path, status)
        if status.st_size > largest:
            raise UserError(f"{path} can't be read: it has {status.st_size:,} bytes, at most {largest:,} are allowed")
    except UserError:
        file.close()
        raise
    return file


def read_file(path: Path, largest: int, within: Path | None) -> bytes:
    """The content of a file, opened by `open_file`. Raises UserError."""
    with open_file(path, largest, within) as file:
        try:
            content = file.read(largest + 1)  # files in /proc have size 0
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    if len(content) > largest:
        raise UserError(f"{path} can't be read: it has more than {largest:,} bytes")
    return content


def checked_file(path: Path, within: Path, largest: int = WEIGHTS) -> Path:
    """The real path of a file that a library will open itself, after the checks of `open_file`."""
    open_file(path, largest, within).close()
    return inside(path, within)


def checked_folder(folder: Path, within: Path | None = None) -> Path:
    """The real path of a folder whose files a library will choose itself, after checking all of them. Raises UserError."""
    real = inside(folder, within or folder)
    for place, folders, names in os.walk(real):
        for name in folders:
            inside(Path(place, name), within or folder)
        for name in names:
            checked_file(Path(place, name), within or folder)
    return real


def inside(path: Path, folder: Path) -> Path:
    """The real path. Raises UserError if it is outside the folder, which may itself be a link."""
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real != root and root not in real.parents:
        raise UserError(f"{path} is a link that leads outside {folder}; replace it with a copy of its target (cp -rL)")
    return real


def _check_regular(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path} can't be read: it is {KINDS.get(stat.S_IFMT(facts.st_mode), 'something else')}, a file is needed")
