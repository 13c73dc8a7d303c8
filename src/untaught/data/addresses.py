"""Files by local path or by any fsspec address (s3://, gs://, https://, memory:// ...): expanding patterns, and opening."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from untaught.core import UserError
from untaught.data.identity import file_facts

Address = Path | str  # a local file, or an fsspec address
BLOCK = 4 << 20  # bytes per request to a remote file
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def lasting(name: str) -> str:
    """A name valid in any working directory: local paths become absolute; links are resolved only before a "..".

    builtin:NAME, hf:NAME and addresses are unchanged.
    """
    plain = name.removeprefix("file://")
    if is_remote(plain) or plain.startswith(("builtin:", "hf:", "in memory: ")):
        return name
    parts = Path(plain).expanduser().absolute().parts
    last = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    return os.path.join(os.path.realpath(os.path.join(*parts[:last])), *parts[last:]) if last else os.path.join(*parts)


def data_names(data: Any) -> str | list[str] | None:
    """The name or names of data, valid in any working directory; None for data in memory."""
    if isinstance(data, str | os.PathLike):
        return lasting(os.fspath(data))
    many = isinstance(data, list | tuple) and len(data) > 0 and all(isinstance(name, str | os.PathLike) for name in data)
    return [lasting(os.fspath(name)) for name in data] if many else None


def is_remote(name: str) -> bool:
    return "://" in name


def is_pattern(name: str) -> bool:
    return bool(re.search(r"[*?\[{]", name))


def expand(name: str) -> list[Address]:
    """The files of a folder's address, a pattern (*, [ab]) or braces ({000..099}, {a,b}), in order. Raises UserError if there are none."""
    found: list[Address] = [address for one in _braces(name) for address in (_remote(one) if is_remote(one) else _local(one))]
    if not found:
        raise UserError(f"{name} matches no file; give a pattern such as photos/*.png or shard-{{000..099}}.tar, or a folder")
    return found


def open_address(address: Address) -> Any:
    """A seekable binary file."""
    if isinstance(address, Path):
        return address.open("rb")
    system, path = _system(address)
    return system.open(path, "rb", block_size=BLOCK)


def address_facts(address: Address) -> tuple[object, ...]:
    """Metadata that identifies a file's version."""
    if isinstance(address, Path):
        return file_facts(address)
    system, path = _system(address)
    return address, system.ukey(path)


def address_name(address: Address) -> str:
    return address.name if isinstance(address, Path) else address.partition("?")[0].rsplit("/", 1)[-1]  # ?signature=... of a link


def file_size(address: Address) -> int:
    if isinstance(address, Path):
        return address.stat().st_size
    system, path = _system(address)
    return int(system.size(path) or 0)


def _system(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise UserError(f"{address} cannot be opened ({error}); install the fsspec package for {address.partition('://')[0]}://") from error


def _local(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        if not path.exists():
            raise UserError(f"{path}: file not found; check the name")
        return [path]
    return [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]


def _remote(name: str) -> list[str]:
    system, path = _system(name)
    try:
        if re.search(r"[*\[]", path):
            found = system.glob(path)
        elif system.isdir(path):
            found = system.find(path)
        else:
            return [name]
    except Exception as error:  # each storage backend raises its own
        raise UserError(f"{name} cannot be listed ({error}); check the address, the network and your permissions") from error
    return [system.unstrip_protocol(one) for one in sorted(found)]


def _braces(name: str) -> Iterator[str]:
    """ "a-{00..02}.tar" -> a-00.tar a-01.tar a-02.tar; {x,y} -> both."""
    pieces = re.split(r"\{([^{}]*)\}", name)
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    yield from ("".join(chosen) for chosen in product(*choices))


def _choices(inside: str) -> list[str]:
    numbers = NUMBERS.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    return [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
