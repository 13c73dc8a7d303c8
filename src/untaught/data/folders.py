"""A folder of files, one record each, on disk or inside a .zip or .tar that is read in place."""

from __future__ import annotations

import gzip
import io
import math
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from untaught.core import Modality, Record, UserError
from untaught.data.identity import file_facts, fingerprint
from untaught.data.labels import numbered
from untaught.data.parts import PARTS, TRAIN, Part, Source, sort_parts

LARGEST = 1 << 30  # bytes of one archive member: more is not one record, or a bomb
MEMBERS = 50_000_000  # in one archive
UNPACKED, RATIO = 1 << 34, 200  # bytes that an archive may unpack to whatever its size, and times its size beyond


@dataclass(frozen=True, slots=True)
class Member:
    """A file by its path below the folder or archive."""

    name: str
    size: int
    stamp: int


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def open_folder(root: Path, modality: Modality) -> Source | None:
    """Files of the modality under root, or None when there are none."""
    members, skipped = _select(list_folder(root), modality)
    if not members:
        return None

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        field = _field(modality)

        def at(number: int) -> Record:
            member, label = chosen[number]
            path = root / member.name
            return {field: path, "label": label, "name": member.name, "facts": (str(path.absolute()), member.size, member.stamp)}

        return Part(len(chosen), lambda: (at(i) for i in range(len(chosen))), at)

    return _arrange(members, skipped, root, modality, build)


def open_archive(path: Path, modality: Modality) -> Source:
    """The folder inside a .zip or .tar, never extracted: nothing is written, no link is followed."""
    try:
        found, refused = list_zip(path) if path.name.lower().endswith(".zip") else list_tar(path)
    except Exception as error:  # damaged in any of the ways of zipfile, tarfile, zlib and what they are built on
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as an archive ({said}); it may be cut short: fetch it again, or unpack it yourself"
        ) from error
    members, skipped = _select(found, modality)
    if not members:
        raise nothing(modality, path, len(found), skipped + refused)
    read = read_zip if path.name.lower().endswith(".zip") else read_tar

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        field = _field(modality)
        labels = {member.name: label for member, label in chosen}

        def records() -> Iterator[Record]:
            for name, content in read(path, labels):
                yield {field: content, "label": labels[name], "name": name}

        return Part(len(chosen), records)

    return _arrange(members, skipped + refused, path, modality, build)


def nothing(modality: Modality, root: Path, files: int, skipped: list[tuple[str, str]]) -> UserError:
    seen = f"{files:,} files, such as {skipped[0][0]}" if files and skipped else "it is empty"
    return UserError(f"no {modality.noun} in {root}: {seen}; files ending in {_endings(modality)} are read, or tables (parquet, csv, json)")


def list_folder(root: Path) -> list[Member]:
    """Every file below root but hidden ones, sorted. Links to folders are followed once."""
    members: list[Member] = []
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise UserError(
                f"folder {folder} cannot be listed ({error.strerror}); give read permission, or choose another folder"
            ) from error
        for entry in entries:
            if hidden(entry.name):
                continue
            if entry.is_dir():
                waiting.append(Path(entry.path))
                continue
            try:
                facts = entry.stat()
                size, stamp = facts.st_size, facts.st_mtime_ns
            except OSError:  # a link to nowhere: reading it says so
                size = stamp = -1
            members.append(Member(Path(entry.path).relative_to(root).as_posix(), size, stamp))
    return sorted(members, key=lambda member: member.name)


def list_zip(path: Path) -> tuple[list[Member], list[tuple[str, str]]]:
    members: list[Member] = []
    refused: list[tuple[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir() or (any(map(hidden, PurePosixPath(info.filename).parts)) and not _leaves(info.filename)):
                continue
            link = (info.external_attr >> 16) & 0o170000 == 0o120000
            reason = _refusal(info.filename, info.file_size, link or bool(info.flag_bits & 1), "a link or encrypted")
            if reason:
                refused.append((info.filename, reason))
            else:
                members.append(Member(info.filename, info.file_size, info.CRC))
        _check_bomb(path, len(archive.infolist()), sum(info.file_size for info in archive.infolist()))
    return members, refused


def list_tar(path: Path) -> tuple[list[Member], list[tuple[str, str]]]:
    members: list[Member] = []
    refused: list[tuple[str, str]] = []
    count = 0
    with _open_tar(path) as archive:
        for count, info in enumerate(archive, 1):
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            if info.size < 0:
                raise tarfile.ReadError("a member of negative size")
            _check_bomb(path, count, info.offset_data + (0 if info.issparse() else info.size))
            if info.isdir() or (any(map(hidden, PurePosixPath(info.name).parts)) and not _leaves(info.name)):
                continue
            reason = _refusal(info.name, info.size, not info.isfile(), "a link or a device")
            if reason:
                refused.append((info.name, reason))
            else:
                members.append(Member(info.name, info.size, int(info.mtime) if math.isfinite(info.mtime) else 0))
        if end := _after_the_last(archive):
            refused.append((path.name, f"{end} after {count:,} members"))
    return members, refused


class _Tar(io.FileIO):
    """A tar, read in pieces that memory holds: tarfile takes the length of a name from the file itself."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(_bounded(size))


class _PackedTar(gzip.GzipFile):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(_bounded(size))


def _bounded(size: int | None) -> int:
    if size is None or not 0 <= size <= LARGEST:
        raise tarfile.ReadError("a header that promises more than memory holds")
    return size


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with _PackedTar(path) if packed else _Tar(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


def _after_the_last(archive: tarfile.TarFile) -> str | None:
    """What stands where tarfile saw no further member, if not the zeros that end a tar: it takes a damaged header for the end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if not block:
        return "has no end mark, it may be cut short"
    if block.strip(b"\0"):
        raise tarfile.ReadError("a damaged header")
    return None


def _check_bomb(path: Path, members: int, unpacked: int) -> None:
    if members > MEMBERS:
        raise ValueError(f"more than {MEMBERS:,} members")
    if unpacked > max(UNPACKED, RATIO * path.stat().st_size):
        raise ValueError(f"it unpacks to more than {RATIO} times its size")


def read_zip(path: Path, names: dict[str, int | None]) -> Iterator[tuple[str, bytes | Exception]]:
    """The wanted members' bytes, or why one cannot be had."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename not in names:
                continue
            try:
                content = archive.read(info)
            except Exception as error:  # damaged in any of zlib's, bz2's and lzma's ways
                content = ValueError(f"damaged in the archive: {error}")
            yield info.filename, content


def read_tar(path: Path, names: dict[str, int | None]) -> Iterator[tuple[str, bytes | Exception]]:
    with _open_tar(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]
            if info.name in names and info.isfile() and info.size <= LARGEST:
                member = archive.extractfile(info)
                yield info.name, member.read() if member else ValueError("not a file")


def _select(found: list[Member], modality: Modality) -> tuple[list[Member], list[tuple[str, str]]]:
    endings = _endings(modality)
    members, skipped = [], []
    for member in found:
        if PurePosixPath(member.name).name.lower().endswith(tuple(modality.suffixes)):
            members.append(member)
        else:
            skipped.append((member.name, f"its name ends in none of {endings}"))
    return members, skipped


def _arrange(members: list[Member], skipped: list[tuple[str, str]], root: Path, modality: Modality, build) -> Source:
    """Parts and classes from the folders that the files lie in."""
    folders = [PurePosixPath(member.name).parts[:-1] for member in members]
    while all(folders) and len({folder[0] for folder in folders}) == 1 and folders[0][0].lower() not in PARTS:
        folders = [folder[1:] for folder in folders]  # "photos/photos/train/...": a folder that holds all says nothing
    top = {folder[0].lower() if folder else "" for folder in folders}
    # "test" beside "cat" and "dog" is a class; beside "train" it is a part
    parted = any(PARTS.get(name) == TRAIN for name in top) or all(name in PARTS for name in top)

    parts: list[str] = []
    names: list[str | None] = []
    for folder in folders:
        own = PARTS.get(folder[0].lower()) if parted and folder else None
        below = folder[1:] if own else () if parted else folder  # folders beside train/ hold rows without a class
        parts.append(own or (TRAIN if parted else "all"))
        names.append("/".join(below) or None)
    numbers = numbered(names)
    labelled = 1 < len(numbers) <= max(2, len(members) // 2)  # a folder a file is no class

    chosen: dict[str, list[tuple[Member, int | None]]] = {}
    for member, part, name in zip(members, parts, names, strict=True):
        chosen.setdefault(part, []).append((member, numbers[name] if labelled and name is not None else None))
    what = (
        f"{len(members):,} {modality.noun} " + (f"in {len(numbers):,} class folders " if labelled else "without labels ") + f"under {root}"
    )
    if parted:
        what += " (" + ", ".join(f"{part} {len(rows):,}" for part, rows in sort_parts(chosen).items()) + ")"
    facts = [file_facts(root)[0], *((member.name, member.size, member.stamp) for member in members), sorted(modality.suffixes)]
    built = {part: build(rows) for part, rows in sort_parts(chosen).items()}
    return Source(what, built, tuple(numbers) if labelled else None, fingerprint(facts), skipped)


def _field(modality: Modality) -> str:
    if len(modality.fields) > 1:
        raise UserError(
            f"files alone do not say which is {' and which is '.join(modality.fields)}; give a table (csv, json, parquet) that lists them"
        )
    return next(iter(modality.fields))


def _endings(modality: Modality) -> str:
    return " ".join(sorted(modality.suffixes))


def hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _leaves(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def _refusal(name: str, size: int, special: bool, kind: str) -> str | None:
    if _leaves(name):
        return "its path leaves the archive"
    if special:
        return f"is {kind}"
    return f"is larger than {LARGEST >> 30} GiB" if size > LARGEST else None
