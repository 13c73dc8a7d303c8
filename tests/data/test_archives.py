"""A .zip or .tar is read as the folder in it, without a file written or a link followed."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import encoded, write_pictures

from untaught.core import Modality, Preprocessor, Record, UserError
from untaught.data import decoding, folders
from untaught.data.sources import open_source
from untaught.data.store import pack

NAMES = [f"set/{part}/{name}/{i}.png" for part in ("train", "test") for name in ("cat", "dog") for i in range(2)]


def make_archive(path: Path, root: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in NAMES:
                archive.write(root / name, name)
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
            archive.add(root / "set", "./set")
    return path


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz", "photos.tgz"])
def test_same_as_the_folder(tmp_path: Path, pictures: Modality, name: str) -> None:
    root = write_pictures(tmp_path / "root", NAMES)
    folder = open_source(root, pictures)
    archive = open_source(make_archive(tmp_path / name, root), pictures)
    assert archive.classes == folder.classes == ("cat", "dog")
    for part in ("train", "test"):
        wanted = sorted((r["image"].read_bytes(), r["label"]) for r in folder.parts[part])
        for _ in range(2):  # as often as wanted
            assert sorted((r["image"], r["label"]) for r in archive.parts[part]) == wanted
    assert len(pack(archive, Preprocessor(pictures, {"side": 4}))) == 8


def test_traversal_links_and_bombs_are_refused(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LARGEST", 1000)
    good, large = encoded(1), b"0" * 2000
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        for name, content in (
            ("../out.png", good),
            ("/tmp/root.png", good),
            ("a/../../b.png", good),
            ("large.png", large),
            ("good.png", good),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"link{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (
            ("../out.png", good),
            ("/tmp/root.png", good),
            ("..\\out.png", good),
            ("large.png", large),
            ("good.png", good),
        ):
            archive.writestr(name, content)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    for name, refused in (("bad.tar", 7), ("bad.zip", 5)):
        source = open_source(tmp_path / name, pictures)
        assert [r["name"] for r in source.parts["all"]] == ["good.png"]
        assert len(source.skipped) == refused
        assert {reason for _, reason in source.skipped} >= {"its path leaves the archive", "is larger than 0 GiB"}


def test_damaged_members_are_skipped_and_damaged_archives_named(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "root", NAMES)
    path = make_archive(tmp_path / "photos.zip", root)
    content = bytearray(path.read_bytes())
    content[content.index(encoded(0)) + 40] ^= 255
    path.write_bytes(content)
    store = pack(open_source(path, pictures), Preprocessor(pictures, {"side": 4}))
    assert len(store) == 7
    assert store.skipped[0][0] == NAMES[0]
    assert "damaged in the archive" in store.skipped[0][1]
    for name in ("photos.zip", "photos.tar.gz", "photos.tar"):
        whole = make_archive(tmp_path / name, root).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="truncated"):
            open_source(tmp_path / f"cut_{name}", pictures)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(UserError, match="it is empty"):
        open_source(tmp_path / "empty.zip", pictures)


def tar_of(names: list[str], content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path, pictures: Modality) -> None:
    """tarfile would take it for the end, and all that comes after it would be lost without a word."""
    content = bytearray(tar_of([f"{i}.png" for i in range(9)]))
    content[4 * 1024 + 150] ^= 255  # in the checksum of the fifth
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match="a damaged header"):
        open_source(tmp_path / "a.tar", pictures)


@pytest.mark.parametrize("keep", [5 * 1024, 5 * 1024 + 512, 5 * 1024 + 100])
def test_a_tar_that_is_cut_between_members_says_so(tmp_path: Path, pictures: Modality, keep: int) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([f"{i}.png" for i in range(9)])[:keep])
    if keep % 1024:
        with pytest.raises(UserError, match=r"cannot be read as an archive .* truncated"):
            open_source(tmp_path / "a.tar", pictures)
    else:
        source = open_source(tmp_path / "a.tar", pictures)
        assert source.rows == 5
        assert source.skipped == [("a.tar", "has no end marker and may be truncated after 5 members")]


def test_sizes_that_lie(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size or a name of gigabytes in a header, and times that are no numbers."""
    header = tarfile.TarInfo("a.png")
    header.pax_headers = {"size": "-512", "mtime": "nan"}
    for name, headers in (("negative.tar", {"size": "-512"}), ("never.tar", {"mtime": "nan"}), ("far.tar", {"mtime": "inf"})):
        header.pax_headers = headers
        (tmp_path / name).write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="negative size"):
        open_source(tmp_path / "negative.tar", pictures)
    for name in ("never.tar", "far.tar"):
        assert open_source(tmp_path / name, pictures).fingerprint == open_source(tmp_path / name, pictures).fingerprint
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "name.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    (tmp_path / "name.tar.gz").write_bytes(gzip.compress((tmp_path / "name.tar").read_bytes()))
    for name in ("name.tar", "name.tar.gz"):
        with pytest.raises(UserError, match="a header with an impossible length"):
            open_source(tmp_path / name, pictures)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_what_unpacks_to_hundreds_of_times_its_size_is_refused(
    kind: str, tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "UNPACKED", 1 << 20)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(3):
                archive.writestr(f"{i}.png", bytes(1 << 20))
    else:
        path.write_bytes(gzip.compress(tar_of([f"{i}.png" for i in range(3)], bytes(1 << 20))))
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        open_source(path, pictures)
    monkeypatch.setattr(folders, "UNPACKED", 1 << 30)
    monkeypatch.setattr(folders, "MEMBERS", 2)
    with pytest.raises(UserError, match="more than 2 members"):
        open_source(path, pictures)


def test_an_archive_in_an_archive_is_not_opened(tmp_path: Path, pictures: Modality) -> None:
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", b"PK")
        archive.writestr("a.png", encoded(1))
    source = open_source(tmp_path / "outer.zip", pictures)
    assert (source.rows, source.skipped[0][0]) == (1, "inner.zip")


def test_heavy_members_do_not_pile_up_in_memory(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "HEAVY", 10_000)
    waiting: list[int] = []
    most = 0

    def slow(record: Record, layout: dict[str, Any]) -> dict[str, np.ndarray]:
        waiting.remove(len(record["image"]))
        return {"pixels": np.zeros(1)}

    def records() -> Iterator[Record]:
        nonlocal most
        for i in range(60):
            waiting.append(4_000)
            most = max(most, sum(waiting))
            yield {"image": bytes(4_000), "name": str(i)}

    assert len(list(decoding.decode(records(), Preprocessor(replace(pictures, decode=slow), {})))) == 60
    assert most <= 10_000 + 2 * 12_000
