"""Folders with one record per file, on disk or inside a .zip or .tar, which is read in place."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import tarfile
import zipfile
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from untaught.core import Modality, Record, UserError
from untaught.data.addresses import Address
from untaught.data.beside import Pairs, missing, pair
from untaught.data.identity import change_time, file_facts, fingerprint
from untaught.data.labels import numbered
from untaught.data.parts import PARTS, TRAIN, Part, Source, sort_parts

LARGEST = 1 << 30  # maximum bytes of an archive member: a larger one is not one record, or is a bomb
MEMBERS = 50_000_000  # maximum members of an archive
OF_A_YEAR = re.compile(r"(\w+?)[-_ ]?(?:19|20)\d\d")  # train2017, val_2017; but not train1, which may be a class
OF_SYSTEMS = {  # files and folders created by operating systems and tools
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
UNPACKED, RATIO = 1 << 34, 200  # an archive may unpack to this many bytes, or to this multiple of its size


@dataclass(frozen=True, slots=True)
class Member:
    """A file, with its path relative to the folder or archive."""

    name: str
    size: int
    stamp: int
    given: str | None = None  # its path as the user wrote it
    changed: int = 0  # its `change_time`


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder or archive, and skipped ones as (name, reason)."""

    members: list[Member]
    skipped: list[tuple[str, str]]


Beside = dict[str, dict[str, Member]]  # field -> a record's file -> the file that holds the field


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def is_record(path: Path, modality: Modality) -> bool:
    """Whether a file holds one record of the modality, by its suffix."""
    return path.name.lower().endswith(tuple(modality.suffixes))


def open_folder(root: Path, modality: Modality, listing: Listing, marker: str | None = None) -> Source | None:
    """The modality's files among those listed under root, or None if there are none.

    marker: for records with target files, the targets' suffix or folder.
    """
    members, beside, skipped = _select(listing.members, modality)
    return _open(members, skipped + listing.skipped, root, modality, f"under {root}", marker=marker, beside=beside) if members else None


def open_files(paths: Sequence[Path], modality: Modality, where: str, arranged: bool) -> Source:
    """Files by path, in this order. arranged: split into splits and classes by their folders."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    root = Path(os.path.commonpath([path.parent for path in whole]))
    members = [
        Member(path.relative_to(root).as_posix(), *file_facts(path)[1:], str(own), change_time(path))
        for path, own in zip(whole, paths, strict=True)
    ]
    return _open(members, [], root, modality, f"in {where}", arranged)


def unfold(found: Sequence[Address]) -> tuple[list[Address], list[tuple[str, str]]]:
    """Replaces folders by their files -> files, and skipped ones as (name, reason)."""
    files: list[Address] = []
    skipped: list[tuple[str, str]] = []
    for address in found:
        if isinstance(address, Path) and address.is_dir():
            listing = list_folder(address)
            files += (address / member.name for member in listing.members)
            skipped += listing.skipped
        else:
            files.append(address)
    return files, skipped


def _open(
    members: list[Member],
    skipped: list[tuple[str, str]],
    root: Path,
    modality: Modality,
    where: str,
    arranged: bool = True,
    marker: str | None = None,
    beside: Beside | None = None,
) -> Source:
    field = _field(modality)
    listed = {member.name: member for member in members}
    members, pairs, skipped = _paired(members, modality, marker, skipped)
    beside = beside or {field: {} for field in modality.beside}

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        def at(number: int) -> Record:
            member, label = chosen[number]
            path = root / member.name
            facts = (str(path.absolute()), member.size, member.stamp)
            record = {field: path, "label": label, "name": member.given or member.name, "facts": facts}
            record |= {other: root / mates[member.name].name if member.name in mates else None for other, mates in beside.items()}
            return {**record, modality.paired.name: root / pairs.mate[member.name]} if pairs and modality.paired else record

        return Part(len(chosen), lambda: (at(i) for i in range(len(chosen))), at)

    return _arrange(members, skipped, root, modality, build, where, arranged, pairs, beside, listed)


def _paired(
    members: list[Member], modality: Modality, marker: str | None, skipped: list[tuple[str, str]]
) -> tuple[list[Member], Pairs | None, list[tuple[str, str]]]:
    """The records' files, their target files, and skipped ones. If the target is not a field, target files are skipped."""
    target = modality.paired
    if target is None:
        return members, None, skipped
    names = [member.name for member in members]
    pairs = pair(names, target, marker, modality.noun)
    if target.name not in modality.fields:
        taken = set(pairs.mate.values())
        left = [(name, f"is the {target.name} of another file") for name in sorted(taken)]
        return [member for member in members if member.name not in taken], None, skipped + left
    if not pairs.mate:
        raise missing(names, target, marker, modality.noun)
    return [member for member in members if member.name in pairs.mate], pairs, skipped + pairs.alone


def open_archive(path: Path, modality: Modality, marker: str | None = None) -> Source:
    """The folder inside a .zip or .tar, never extracted: nothing is written, no link is followed. Raises UserError."""
    try:
        listing = list_zip(path) if path.name.lower().endswith(".zip") else list_tar(path)
    except Exception as error:  # zipfile, tarfile and zlib fail on damaged archives in many ways
        note = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as an archive ({note}); it may be truncated: download it again, or unpack it yourself"
        ) from error
    members, beside, skipped = _select(listing.members, modality)
    skipped += listing.skipped
    if not members:
        raise nothing(modality, path, len(listing.members), skipped)
    read = read_zip if path.name.lower().endswith(".zip") else read_tar
    listed = {member.name: member for member in members}
    members, pairs, skipped = _paired(members, modality, marker, skipped)

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        field = _field(modality)
        labels = {member.name: label for member, label in chosen}

        def records() -> Iterator[Record]:
            for name, content in read(path, labels):
                yield {field: content, "label": labels[name], "name": name}

        def pairs_of_records() -> Iterator[Record]:
            """Yields a record once both its files are read: adjacent files immediately; in an archive sorted by kind, one kind waits."""
            assert pairs is not None
            assert modality.paired is not None
            of = {pairs.mate[name]: name for name in labels}
            waiting: dict[str, tuple[str, bytes | Exception]] = {}
            for name, content in read(path, {*labels, *of}):
                own, other = of.get(name, name), waiting.pop(of.get(name) or pairs.mate[name], None)
                if other is None:
                    waiting[name] = name, content
                    continue
                image, mask = (other[1], content) if name in of else (content, other[1])
                yield {field: image, modality.paired.name: mask, "label": labels[own], "name": own}

        def joined_records() -> Iterator[Record]:
            """Yields a record once all its files are read; a field without a file is None."""
            of: dict[str, list[tuple[str, str]]] = {name: [(name, field)] for name in labels}
            for other, mates in beside.items():
                for name in labels & mates.keys():
                    of.setdefault(mates[name].name, []).append((name, other))
            count = Counter(name for owners in of.values() for name, _ in owners)
            waiting: dict[str, Record] = {}
            for file, content in read(path, of):
                for name, own in of[file]:
                    waiting.setdefault(name, {})[own] = content
                    if len(waiting[name]) == count[name]:
                        yield {field: None, **dict.fromkeys(beside), **waiting.pop(name), "label": labels[name], "name": name}

        return Part(len(chosen), pairs_of_records if pairs else joined_records if beside else records)

    return _arrange(members, skipped, path, modality, build, f"under {path}", pairs=pairs, beside=beside, listed=listed)


def nothing(modality: Modality, root: Path, files: int, skipped: list[tuple[str, str]]) -> UserError:
    found = f"{files:,} files, e.g. {skipped[0][0]}" if files and skipped else "it is empty"
    allowed = f"files ending in {_endings(modality)}, or tables" if modality.suffixes else "tables"
    return UserError(f"no {modality.noun} in {root}: {found}; allowed: {allowed} (parquet, csv, json)")


def list_folder(root: Path) -> Listing:
    """All files below root except hidden ones, sorted. A folder is read once, by its own path rather than a link to it."""
    members: list[Member] = []
    skipped: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [root], deque[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            identity = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise UserError(
                    f"folder {folder} cannot be listed ({error.strerror}); give read permission, or choose another folder"
                ) from error
            skipped.append((folder.relative_to(root).as_posix(), f"cannot be listed ({error.strerror})"))
            continue
        if (identity.st_dev, identity.st_ino) in seen:
            skipped.append((folder.relative_to(root).as_posix(), "is a link to a folder that was already read"))
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for entry in entries:
            if hidden(entry.name):
                continue
            path = Path(entry.path)
            name = path.relative_to(root).as_posix()
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                    continue
                facts = entry.stat()
                members.append(Member(name, facts.st_size, facts.st_mtime_ns, changed=facts.st_ctime_ns))
            except FileNotFoundError:  # a broken link: reported when it is read
                members.append(Member(name, -1, -1))
            except OSError as error:
                skipped.append((name, f"is a link to itself, or inaccessible ({error.strerror})"))
    return Listing(sorted(members, key=lambda member: member.name), skipped)


def list_zip(path: Path) -> Listing:
    members: list[Member] = []
    refused: list[tuple[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _slashes(info.filename)
            if name.endswith("/") or (any(map(hidden, PurePosixPath(name).parts)) and not _leaves(name)):
                continue
            link = (info.external_attr >> 16) & 0o170000 == 0o120000
            reason = _refusal(name, info.file_size, link or bool(info.flag_bits & 1), "a link or encrypted")
            if reason:
                refused.append((name, reason))
            else:
                members.append(Member(name, info.file_size, info.CRC))
        _check_bomb(path, len(archive.infolist()), sum(info.file_size for info in archive.infolist()))
    return Listing(members, refused)


def list_tar(path: Path) -> Listing:
    members: list[Member] = []
    refused: list[tuple[str, str]] = []
    count = 0
    with _open_tar(path) as archive:
        for count, info in enumerate(archive, 1):
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            if info.size < 0:
                raise tarfile.ReadError("a member of negative size")
            _check_bomb(path, count, info.offset_data + (0 if info.issparse() else info.size))
            name = _slashes(info.name)
            if info.isdir() or (any(map(hidden, PurePosixPath(name).parts)) and not _leaves(name)):
                continue
            reason = _refusal(name, info.size, not info.isfile(), "a link or a device")
            if reason:
                refused.append((name, reason))
            else:
                members.append(Member(name, info.size, int(info.mtime) if math.isfinite(info.mtime) else 0))
        if end := _after_the_last(archive):
            refused.append((path.name, f"{end} after {count:,} members"))
    return Listing(members, refused)


class _Tar(io.FileIO):
    """A tar with bounded reads: tarfile trusts the lengths in its headers."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(_bounded(size))


class _PackedTar(gzip.GzipFile):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(_bounded(size))


def _bounded(size: int | None) -> int:
    if size is None or not 0 <= size <= LARGEST:
        raise tarfile.ReadError("a header with an impossible length")
    return size


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with _PackedTar(path) if packed else _Tar(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


def _after_the_last(archive: tarfile.TarFile) -> str | None:
    """Checks for the zeros that end a tar where tarfile stopped: it takes a damaged header for the end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if not block:
        return "has no end marker and may be truncated"
    if block.strip(b"\0"):
        raise tarfile.ReadError("a damaged header")
    return None


def _check_bomb(path: Path, members: int, unpacked: int) -> None:
    if members > MEMBERS:
        raise ValueError(f"more than {MEMBERS:,} members")
    if unpacked > max(UNPACKED, RATIO * path.stat().st_size):
        raise ValueError(f"it unpacks to more than {RATIO} times its size")


def read_zip(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes | Exception]]:
    """The named members' bytes, or the exception for an unreadable one."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if (name := _slashes(info.filename)) not in names:
                continue
            try:
                content = archive.read(info)
            except Exception as error:  # zlib, bz2 and lzma fail in many ways
                content = ValueError(f"damaged in the archive: {error}")
            yield name, content


def read_tar(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes | Exception]]:
    with _open_tar(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]
            if (name := _slashes(info.name)) in names and info.isfile() and info.size <= LARGEST:
                member = archive.extractfile(info)
                yield name, member.read() if member else ValueError("not a file")


def _select(found: list[Member], modality: Modality) -> tuple[list[Member], Beside, list[tuple[str, str]]]:
    """The records' files, the files of their other fields (same folder and stem), and skipped ones."""
    endings = _endings(modality)
    others = {field: {stem: member for member in found if (stem := _stem(member.name, ends))} for field, ends in modality.beside.items()}
    members, skipped = [], []
    beside: Beside = {field: {} for field in others}
    taken: set[str] = set()
    for member in found:
        if not (stem := _stem(member.name, tuple(modality.suffixes))):
            continue
        members.append(member)
        for field, known in others.items():
            if stem in known:
                beside[field][member.name] = known[stem]
                taken.add(known[stem].name)
    records = {member.name for member in members}
    for member in found:
        if member.name in records or member.name in taken:
            continue
        field = next((field for field, known in others.items() if member in known.values()), None)
        reason = f"its suffix is not one of {endings}" if field is None else f"is a {field} without a file of that name ({endings})"
        skipped.append((member.name, reason))
    return members, beside, skipped


def _stem(name: str, endings: tuple[str, ...]) -> str:
    """A file's path without its suffix, which must be one of these; "" otherwise."""
    ending = next((ending for ending in endings if PurePosixPath(name).name.lower().endswith(ending)), "")
    return name[: -len(ending)] if ending else ""


def _arrange(
    members: list[Member],
    skipped: list[tuple[str, str]],
    root: Path,
    modality: Modality,
    build,
    where: str,
    arranged: bool = True,
    pairs: Pairs | None = None,
    beside: Beside | None = None,
    listed: dict[str, Member] | None = None,
) -> Source:
    """Splits (if `arranged`) and classes from the files' folders. listed: all files by name, with those that `pairs` names."""
    folders = [PurePosixPath(member.name).parts[:-1] for member in members]
    while all(folders) and len({folder[0] for folder in folders}) == 1 and _part_of_folder(folders[0][0]) is None:
        folders = [folder[1:] for folder in folders]  # "photos/photos/train/...": drop folders common to all files
    parted = _parted(folders)

    parts: list[str] = []
    names: list[str | None] = []
    for folder in folders:
        own = _part_of_folder(folder[0]) if parted and folder else None
        below = folder[1:] if own else () if parted else folder  # folders next to train/ hold unlabelled rows
        parts.append((own or (TRAIN if parted else "all")) if arranged else "all")
        names.append("/".join(below) or None)
    numbers = numbered(names)
    labelled = 1 < len(numbers) <= max(2, len(members) // 2)  # one folder per file is not a class

    chosen: dict[str, list[tuple[Member, int | None]]] = {}
    for member, part, name in zip(members, parts, names, strict=True):
        chosen.setdefault(part, []).append((member, numbers[name] if labelled and name is not None else None))
    what = f"{len(members):,} {modality.noun} " + (f"in {len(numbers):,} class folders " if labelled else "without labels ") + where
    what += f", {pairs.note}" if pairs else ""
    for field, mates in (beside or {}).items():
        what += f", {len(mates):,} with a {field}"
    if parted and arranged:
        what += " (" + ", ".join(f"{part} {len(rows):,}" for part, rows in sort_parts(chosen).items()) + ")"
        if unparted := sorted({folder[0] for folder in folders if folder and _part_of_folder(folder[0]) is None}):
            what += f"; unlabelled training rows: {', '.join(unparted[:3])}{' ...' if len(unparted) > 3 else ''}"
    linked = [{name: (listed or {})[mate] for name, mate in pairs.mate.items()}] if pairs else []
    linked += (beside or {}).values()
    paired = [sorted((name, mate.name, mate.size, mate.stamp) for name, mate in mates.items()) for mates in linked]
    facts = [file_facts(root)[0], *paired, *((member.name, member.size, member.stamp) for member in members), sorted(modality.suffixes)]
    built = {part: build(rows) for part, rows in sort_parts(chosen).items()}
    source = Source(what, built, tuple(numbers) if labelled else None, fingerprint([*facts, *([] if arranged else ["listed"])]), skipped)
    source.changed = max(file.changed for file in (*members, *(mate for mates in linked for mate in mates.values())))
    return source


def _part_of_folder(name: str) -> str | None:
    """train, TRAIN, train2017 ... -> "train"."""
    name = name.lower()
    year = OF_A_YEAR.fullmatch(name)
    return PARTS.get(year[1] if year else name)


def _parted(folders: list[tuple[str, ...]]) -> bool:
    """Whether folders named like splits are splits: "test" next to "cat" is a class, next to "train" a split, as is "train" alone.

    "train" next to other folders, without a test, is a split if it has subfolders, else a class (trains among buses).
    """
    found = {_part_of_folder(folder[0]) if folder else None for folder in folders}
    if TRAIN not in found or found - {TRAIN, None}:
        return TRAIN in found or None not in found
    beside = any(folder and _part_of_folder(folder[0]) is None for folder in folders)
    return not beside or all(len(folder) > 1 for folder in folders if folder and _part_of_folder(folder[0]) == TRAIN)


def _field(modality: Modality) -> str:
    if len(modality.fields) > 1 and modality.paired is None and not modality.beside:
        raise UserError(
            f"files alone do not determine the {' and the '.join(modality.fields)}; give a table (csv, json, parquet) that lists them"
        )
    return next(iter(modality.fields))


def _endings(modality: Modality) -> str:
    return " ".join(sorted(modality.suffixes))


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden or a system file, by its name."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def _slashes(name: str) -> str:
    """A member's path with slashes: archives made on Windows may use backslashes."""
    return name.replace("\\", "/")


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _refusal(name: str, size: int, special: bool, kind: str) -> str | None:
    if _leaves(name):
        return "its path leaves the archive"
    if special:
        return f"is {kind}"
    return f"is larger than {LARGEST >> 30} GiB" if size > LARGEST else None
