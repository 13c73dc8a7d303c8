"""A folder of files, one record each, on disk or inside a .zip or .tar that is read in place."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import tarfile
import zipfile
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from untaught.core import Modality, Record, UserError
from untaught.data.addresses import Address
from untaught.data.beside import Pairs, missing, pair
from untaught.data.identity import file_facts, fingerprint
from untaught.data.labels import numbered
from untaught.data.parts import PARTS, TRAIN, Part, Source, sort_parts

LARGEST = 1 << 30  # bytes of one archive member: more is not one record, or a bomb
MEMBERS = 50_000_000  # in one archive
OF_A_YEAR = re.compile(r"(\w+?)[-_ ]?(?:19|20)\d\d")  # train2017, val_2017: not train1, which may be a class
OF_SYSTEMS = {  # what systems and tools leave beside files
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
UNPACKED, RATIO = 1 << 34, 200  # bytes that an archive may unpack to whatever its size, and times its size beyond


@dataclass(frozen=True, slots=True)
class Member:
    """A file by its path below the folder or archive."""

    name: str
    size: int
    stamp: int
    given: str | None = None  # its path as the user wrote it


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder or archive, and what was passed over, with the reason."""

    members: list[Member]
    skipped: list[tuple[str, str]]


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def is_record(path: Path, modality: Modality) -> bool:
    """Whether a file holds one record of the modality, by its ending."""
    return path.name.lower().endswith(tuple(modality.suffixes))


def open_folder(root: Path, modality: Modality, listing: Listing, told: str | None = None) -> Source | None:
    """Files of the modality among those listed under root, or None when there are none.

    told: of records with a target's file beside them, the ending or the folder by which that is known.
    """
    members, skipped = _select(listing.members, modality)
    return _open(members, skipped + listing.skipped, root, modality, f"under {root}", told=told) if members else None


def open_files(paths: Sequence[Path], modality: Modality, where: str, arranged: bool) -> Source:
    """Files by their paths, in this order; `arranged` in parts as the folder that holds them all would be, else in one."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    root = Path(os.path.commonpath([path.parent for path in whole]))
    members = [Member(path.relative_to(root).as_posix(), *file_facts(path)[1:], str(own)) for path, own in zip(whole, paths, strict=True)]
    return _open(members, [], root, modality, f"in {where}", arranged)


def unfold(found: Sequence[Address]) -> tuple[list[Address], list[tuple[str, str]]]:
    """Folders among addresses become the files below them; and what was passed over."""
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
    told: str | None = None,
) -> Source:
    field = _field(modality)
    members, pairs, skipped = _paired(members, modality, told, skipped)

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        def at(number: int) -> Record:
            member, label = chosen[number]
            path = root / member.name
            facts = (str(path.absolute()), member.size, member.stamp)
            record = {field: path, "label": label, "name": member.given or member.name, "facts": facts}
            return {**record, modality.paired.name: root / pairs.mate[member.name]} if pairs and modality.paired else record

        return Part(len(chosen), lambda: (at(i) for i in range(len(chosen))), at)

    return _arrange(members, skipped, root, modality, build, where, arranged, pairs)


def _paired(
    members: list[Member], modality: Modality, told: str | None, skipped: list[tuple[str, str]]
) -> tuple[list[Member], Pairs | None, list[tuple[str, str]]]:
    """The records' files, which file belongs to each, and what is passed over. Without targets in the fields their files are left out."""
    target = modality.paired
    if target is None:
        return members, None, skipped
    names = [member.name for member in members]
    pairs = pair(names, target, told, modality.noun)
    if target.name not in modality.fields:
        taken = set(pairs.mate.values())
        left = [(name, f"is the {target.name} of another file") for name in sorted(taken)]
        return [member for member in members if member.name not in taken], None, skipped + left
    if not pairs.mate:
        raise missing(names, target, told, modality.noun)
    return [member for member in members if member.name in pairs.mate], pairs, skipped + pairs.alone


def open_archive(path: Path, modality: Modality, told: str | None = None) -> Source:
    """The folder inside a .zip or .tar, never extracted: nothing is written, no link is followed."""
    try:
        listing = list_zip(path) if path.name.lower().endswith(".zip") else list_tar(path)
    except Exception as error:  # damaged in any of the ways of zipfile, tarfile, zlib and what they are built on
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as an archive ({said}); it may be cut short: fetch it again, or unpack it yourself"
        ) from error
    members, skipped = _select(listing.members, modality)
    skipped += listing.skipped
    if not members:
        raise nothing(modality, path, len(listing.members), skipped)
    read = read_zip if path.name.lower().endswith(".zip") else read_tar
    members, pairs, skipped = _paired(members, modality, told, skipped)

    def build(chosen: list[tuple[Member, int | None]]) -> Part:
        field = _field(modality)
        labels = {member.name: label for member, label in chosen}

        def records() -> Iterator[Record]:
            for name, content in read(path, labels):
                yield {field: content, "label": labels[name], "name": name}

        def pairs_of_records() -> Iterator[Record]:
            """A record as soon as both its files have come: neighbours at once; of an archive sorted by kind, all of one kind wait."""
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

        return Part(len(chosen), pairs_of_records if pairs else records)

    return _arrange(members, skipped, path, modality, build, f"under {path}", pairs=pairs)


def nothing(modality: Modality, root: Path, files: int, skipped: list[tuple[str, str]]) -> UserError:
    seen = f"{files:,} files, such as {skipped[0][0]}" if files and skipped else "it is empty"
    return UserError(f"no {modality.noun} in {root}: {seen}; files ending in {_endings(modality)} are read, or tables (parquet, csv, json)")


def list_folder(root: Path) -> Listing:
    """Every file below root but hidden ones, sorted. A folder is read once: by its own path before any link to it."""
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
            skipped.append((folder.relative_to(root).as_posix(), "is a link to a folder that is read already"))
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
                members.append(Member(name, facts.st_size, facts.st_mtime_ns))
            except FileNotFoundError:  # a link to nowhere: reading it says so
                members.append(Member(name, -1, -1))
            except OSError as error:
                skipped.append((name, f"is a link onto itself, or out of reach ({error.strerror})"))
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


def read_zip(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes | Exception]]:
    """The wanted members' bytes, or why one cannot be had."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if (name := _slashes(info.filename)) not in names:
                continue
            try:
                content = archive.read(info)
            except Exception as error:  # damaged in any of zlib's, bz2's and lzma's ways
                content = ValueError(f"damaged in the archive: {error}")
            yield name, content


def read_tar(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes | Exception]]:
    with _open_tar(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]
            if (name := _slashes(info.name)) in names and info.isfile() and info.size <= LARGEST:
                member = archive.extractfile(info)
                yield name, member.read() if member else ValueError("not a file")


def _select(found: list[Member], modality: Modality) -> tuple[list[Member], list[tuple[str, str]]]:
    endings = _endings(modality)
    members, skipped = [], []
    for member in found:
        if PurePosixPath(member.name).name.lower().endswith(tuple(modality.suffixes)):
            members.append(member)
        else:
            skipped.append((member.name, f"its name ends in none of {endings}"))
    return members, skipped


def _arrange(
    members: list[Member],
    skipped: list[tuple[str, str]],
    root: Path,
    modality: Modality,
    build,
    where: str,
    arranged: bool = True,
    pairs: Pairs | None = None,
) -> Source:
    """Parts (where `arranged`) and classes from the folders that the files lie in."""
    folders = [PurePosixPath(member.name).parts[:-1] for member in members]
    while all(folders) and len({folder[0] for folder in folders}) == 1 and _part_of_folder(folders[0][0]) is None:
        folders = [folder[1:] for folder in folders]  # "photos/photos/train/...": a folder that holds all says nothing
    parted = _parted(folders)

    parts: list[str] = []
    names: list[str | None] = []
    for folder in folders:
        own = _part_of_folder(folder[0]) if parted and folder else None
        below = folder[1:] if own else () if parted else folder  # folders beside train/ hold rows without a class
        parts.append((own or (TRAIN if parted else "all")) if arranged else "all")
        names.append("/".join(below) or None)
    numbers = numbered(names)
    labelled = 1 < len(numbers) <= max(2, len(members) // 2)  # a folder a file is no class

    chosen: dict[str, list[tuple[Member, int | None]]] = {}
    for member, part, name in zip(members, parts, names, strict=True):
        chosen.setdefault(part, []).append((member, numbers[name] if labelled and name is not None else None))
    what = f"{len(members):,} {modality.noun} " + (f"in {len(numbers):,} class folders " if labelled else "without labels ") + where
    what += f", {pairs.said}" if pairs else ""
    if parted and arranged:
        what += " (" + ", ".join(f"{part} {len(rows):,}" for part, rows in sort_parts(chosen).items()) + ")"
        if beside := sorted({folder[0] for folder in folders if folder and _part_of_folder(folder[0]) is None}):
            what += f"; training rows without a class: those in {', '.join(beside[:3])}{' ...' if len(beside) > 3 else ''}"
    paired = [sorted(pairs.mate.items())] if pairs else []
    facts = [file_facts(root)[0], *paired, *((member.name, member.size, member.stamp) for member in members), sorted(modality.suffixes)]
    built = {part: build(rows) for part, rows in sort_parts(chosen).items()}
    return Source(what, built, tuple(numbers) if labelled else None, fingerprint([*facts, *([] if arranged else ["listed"])]), skipped)


def _part_of_folder(name: str) -> str | None:
    """train, TRAIN, train2017 ... -> "train"."""
    name = name.lower()
    year = OF_A_YEAR.fullmatch(name)
    return PARTS.get(year[1] if year else name)


def _parted(folders: list[tuple[str, ...]]) -> bool:
    """Whether folders named as parts are such: "test" beside "cat" and "dog" is a class, beside "train" a part, as "train" alone is.

    "train" beside other folders, and no test, is a part where it has folders of its own, else a class (a train among buses).
    """
    found = {_part_of_folder(folder[0]) if folder else None for folder in folders}
    if TRAIN not in found or found - {TRAIN, None}:
        return TRAIN in found or None not in found
    beside = any(folder and _part_of_folder(folder[0]) is None for folder in folders)
    return not beside or all(len(folder) > 1 for folder in folders if folder and _part_of_folder(folder[0]) == TRAIN)


def _field(modality: Modality) -> str:
    if len(modality.fields) > 1 and modality.paired is None:
        raise UserError(
            f"files alone do not say which is {' and which is '.join(modality.fields)}; give a table (csv, json, parquet) that lists them"
        )
    return next(iter(modality.fields))


def _endings(modality: Modality) -> str:
    return " ".join(sorted(modality.suffixes))


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data by its name."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def _slashes(name: str) -> str:
    """A member's path as folders and a file: archives made on Windows may part them by backslashes."""
    return name.replace("\\", "/")


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _refusal(name: str, size: int, special: bool, kind: str) -> str | None:
    if _leaves(name):
        return "its path leaves the archive"
    if special:
        return f"is {kind}"
    return f"is larger than {LARGEST >> 30} GiB" if size > LARGEST else None
