"""Shards by every kind of name: what is read as what, the same batches at any number of processes, resuming, and what breaks off."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet
from tiny import encoded, threads_end, write_pictures

from untaught.core import Modality, Preprocessor, UserError
from untaught.data.parts import Source
from untaught.data.sources import open_source
from untaught.data.store import pack
from untaught.data.stream import Stream

LAYOUT = {"side": 8}
COUNTS = (13, 21, 8, 17, 11)  # rows of each shard
ROWS = sum(COUNTS)


def write_tar(file: Any, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def samples(first: int, count: int) -> list[tuple[str, bytes]]:
    return [m for i in range(first, first + count) for m in ((f"{i:04}.png", encoded(i)), (f"{i:04}.cls", str(i % 3).encode()))]


def write_tars(root: Path) -> Path:
    """Shards of sizes COUNTS; the i-th sample of all holds image(i)."""
    root.mkdir()
    for shard, count in enumerate(COUNTS):
        with open(root / f"shard-{shard:03}.tar", "wb") as file:
            write_tar(file, samples(sum(COUNTS[:shard]), count))
    return root


def write_parquets(root: Path) -> Path:
    """The same rows, four in a row group."""
    root.mkdir()
    for shard in range(len(COUNTS)):
        numbers = range(sum(COUNTS[:shard]), sum(COUNTS[: shard + 1]))
        images = [{"bytes": encoded(i), "path": f"{i:04}.png"} for i in numbers]
        table = pyarrow.table({"image": images, "label": [i % 3 for i in numbers]})
        parquet.write_table(table, root / f"shard-{shard:03}.parquet", row_group_size=4, data_page_size=64, compression="none")
    return root


@pytest.fixture(params=["webdataset", "parquet"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return (write_tars if request.param == "webdataset" else write_parquets)(tmp_path / "shards")


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tars where fsspec finds them. Files in memory have one position for all readers, unlike any real store: here each has its own."""
    opened = MemoryFileSystem._open

    def own(self: Any, path: str, mode: str = "rb", **how: Any) -> Any:
        file = opened(self, path, mode, **how)
        return io.BytesIO(file.getvalue()) if mode == "rb" else file

    monkeypatch.setattr(MemoryFileSystem, "_open", own)
    for path in write_tars(tmp_path / "copied").iterdir():
        fsspec.filesystem("memory").pipe_file(f"/bucket/photos/{path.name}", path.read_bytes())
    yield "memory://bucket/photos"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def stream_of(source: Source, pictures: Modality, **options: Any) -> Stream:
    return Stream(source.parts["all"], Preprocessor(pictures, LAYOUT), **{"batch_size": 8, "seed": 3, "buffer": 16, **options})


def indices(batches: Any, count: int | None = None) -> list[list[int]]:
    """The numbers of the first batches, or of all."""
    result = []
    for batch in batches:
        result.append(batch["index"].tolist())
        if len(result) == count:
            break
    return result


def shown(batches: Any, count: int) -> list[list[int]]:
    """Which image each row of the first batches shows."""
    return [batch["pixels"][:, 0, 0, 0].tolist() for batch, _ in zip(batches, range(count), strict=False)]


# ------------------------------------------------------------------------------------------------------------ opening


def test_every_way_to_name_shards(root: Path, pictures: Modality) -> None:
    ending = next(root.iterdir()).suffix
    names: list[Any] = [
        root,
        f"{root}/*{ending}",
        f"{root}/shard-{{000..004}}{ending}",
        f"file://{root}/shard-{{000,001,002,003,004}}{ending}",
        sorted(root.iterdir()),
        [f"{root}/shard-00{{0..2}}{ending}", f"{root}/shard-00[34]{ending}"],
    ]
    for name in names:
        source = open_source(name, pictures)
        assert source.rows == ROWS
        assert [(r["label"], r["image"]) for r in source.parts["all"]] == [(i % 3, encoded(i)) for i in range(ROWS)]
        assert source.fingerprint == open_source(root, pictures).fingerprint
        kind = "webdataset shards" if ending == ".tar" else "parquet files"
        assert f"{ROWS} images in 5 {kind} under" in source.what
    assert len(pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))) == ROWS


def test_one_tar_is_a_folder_and_several_are_shards(tmp_path: Path, pictures: Modality) -> None:
    root = write_tars(tmp_path / "shards")
    alone = open_source(root / "shard-000.tar", pictures)
    assert "without labels under" in alone.what
    assert len(alone.skipped) == COUNTS[0]  # the .cls
    assert "in 1 webdataset shard under" in open_source(f"{root}/shard-000*", pictures).what
    (tmp_path / "alone").mkdir()
    shutil.copy(root / "shard-000.tar", tmp_path / "alone")
    assert "without labels under" in open_source(tmp_path / "alone", pictures).what
    write_pictures(root, ["a.png", "b.png"])
    assert "2 images without labels" in open_source(root, pictures).what


def test_tables_beside_shards_are_about_them(tmp_path: Path, pictures: Modality) -> None:
    root = write_tars(tmp_path / "shards")
    parquet.write_table(pyarrow.table({"url": ["a"]}), root / "shard-000.parquet")
    source = open_source(root, pictures)
    assert source.rows == ROWS
    assert [name for name, _ in source.skipped] == ["shard-000.parquet"]


def test_one_tar_beside_tables_is_no_shard(tmp_path: Path, pictures: Modality) -> None:
    root = write_parquets(tmp_path / "shards")
    with open(root / "more.tar", "wb") as file:
        write_tar(file, samples(0, 3))
    source = open_source(root, pictures)
    assert source.rows == ROWS
    assert [name for name, _ in source.skipped] == ["more.tar"]


def test_parts_by_the_names_of_shards(tmp_path: Path, pictures: Modality) -> None:
    for name in ("set-train-000.tar", "set-train-001.tar", "set-val-000.tar"):
        with open(tmp_path / name, "wb") as file:
            write_tar(file, samples(0, 3))
    source = open_source(f"{tmp_path}/set-*.tar", pictures)
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 6, "val": 3}


def test_parts_by_the_folders_of_shards(tmp_path: Path, pictures: Modality) -> None:
    for number, name in enumerate(("train/000.tar", "train/001.tar", "val/000.tar")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        with open(tmp_path / "set" / name, "wb") as file:
            write_tar(file, samples(number, 1 + number))
    source = open_source(tmp_path / "set", pictures)
    assert {name: [r["image"] for r in part] for name, part in source.parts.items()} == {
        "train": [encoded(0), encoded(1), encoded(2)],
        "val": [encoded(2), encoded(3), encoded(4)],
    }


def test_endings_are_columns(tmp_path: Path, pictures: Modality, tokens: Modality) -> None:
    members = []
    for i in range(6):
        about = json.dumps({"label": "ab"[i % 2], "width": 8}).encode()
        picture = (f"deep/{i}.JPG", encoded(i, "jpeg")) if i % 2 else (f"deep/{i}.png", encoded(i))
        members += [picture, (f"deep/{i}.left.png", encoded(i + 100)), (f"deep/{i}.json", about), (f"deep/{i}.txt", b" 1 2 ")]
    with open(tmp_path / "a.tar", "wb") as file:
        write_tar(file, [("deep/._0.png", b"hidden"), *members, ("deep/6.json", b"{"), ("deep/6.png", encoded(6))])
    source = open_source([tmp_path / "a.tar"], pictures)
    assert "image from column png, label from column label" in source.what  # png and jpg are one
    assert [r["label"] for r in source.parts["all"]][:6] == ["a", "b"] * 3
    assert [r["name"] for r in source.parts["all"]][:2] == ["a.tar/deep/0.png", "a.tar/deep/1.jpg"]
    assert len(pack(source, Preprocessor(pictures, LAYOUT))) == 7
    left = open_source([tmp_path / "a.tar"], pictures, columns={"image": "left.png"}, label="width")
    assert [(r["image"], r["label"]) for r in left.parts["all"]][:1] == [(encoded(100), 8)]
    texts = open_source([tmp_path / "a.tar"], tokens, columns={"text": "txt"})
    assert [r["text"] for r in texts.parts["all"]] == ["1 2"] * 6 + [None]
    with pytest.raises(UserError, match=r"no column jpeg in a\.tar; its columns are png, left\.png, json, txt, label, width"):
        open_source([tmp_path / "a.tar"], pictures, columns={"image": "jpeg"})


def test_samples_of_one_key_are_never_merged(tmp_path: Path, pictures: Modality) -> None:
    """Neighbours of one key, and such that others lie between; indexed and read from a row on."""
    members = [
        member
        for key, i in (("a", 0), ("a", 1), ("b", 2), ("a", 3))
        for member in ((f"{key}.png", encoded(i)), (f"{key}.cls", str(i).encode()))
    ]
    with open(tmp_path / "0.tar", "wb") as file:
        write_tar(file, members)
    source = open_source([tmp_path / "0.tar"], pictures)
    assert source.rows == 4
    assert [(r["image"], r["label"]) for r in source.parts["all"]] == [(encoded(i), i) for i in range(4)]
    for start in range(4):
        assert [r["label"] for r in source.parts["all"].shards[0].read(start)] == list(range(start, 4))


def test_texts_of_any_encoding_in_shards(tmp_path: Path, tokens: Modality) -> None:
    texts = ["1 2".encode("utf-8-sig"), "3 4".encode("utf-16"), "5 é".encode("latin-1"), "7 8".encode("utf-16-le")]
    with open(tmp_path / "0.tar", "wb") as file:
        write_tar(file, [(f"{i}.txt", text) for i, text in enumerate(texts)])
    source = open_source([tmp_path / "0.tar"], tokens, columns={"text": "txt"})
    assert [r["text"] for r in source.parts["all"]] == ["1 2", "3 4", *texts[2:]]  # what only its reader can name stays bytes


def test_from_afar(remote: str, pictures: Modality) -> None:
    for name in (remote, f"{remote}/*.tar", f"{remote}/shard-{{000..004}}.tar"):
        source = open_source(name, pictures)
        assert source.rows is None
        assert "a stream of images in 5 webdataset shards under memory://" in source.what
        assert sorted(r["image"] for r in source.parts["all"]) == sorted(encoded(i) for i in range(ROWS))


def test_parquet_from_afar_has_its_rows_known(tmp_path: Path, pictures: Modality) -> None:
    fs = fsspec.filesystem("memory")
    for path in write_parquets(tmp_path / "copied").iterdir():
        fs.pipe_file(f"/tables/{path.name}", path.read_bytes())
    source = open_source("memory://tables", pictures)
    assert source.rows == ROWS
    local = stream_of(open_source(tmp_path / "copied", pictures), pictures)
    assert indices(stream_of(source, pictures).batches(0)) == indices(local.batches(0))
    fs.rm("/tables", recursive=True)


def test_addresses_that_lead_nowhere(tmp_path: Path, remote: str, pictures: Modality) -> None:
    write_tars(tmp_path / "shards")
    for name, said in [
        (f"{tmp_path}/none-*.tar", "matches no file; give a pattern such as photos"),
        (f"{tmp_path}/shards/shard-{{000..009}}.tar", r"shard-005\.tar: file not found"),
        ([str(tmp_path / "gone.tar")], ": file not found"),
        ("nothing://bucket/a.tar", r"nothing://bucket/a\.tar cannot be opened .*; install the fsspec package for nothing://"),
        ("memory://bucket/gone.tar", "cannot be read as webdataset"),
        (f"{remote}/*.png", "matches no file"),
        (f"{tmp_path}/shards/shard-00?.ta[r]", None),
    ]:
        if said is None:
            assert open_source(name, pictures).rows == ROWS
            continue
        with pytest.raises(UserError, match=said) as raised:
            open_source(name, pictures)
        assert "\n" not in str(raised.value)


# ----------------------------------------------------------------------------------------------------------- streaming


def test_every_row_once_an_epoch_but_what_fills_no_batch(root: Path, pictures: Modality) -> None:
    source = open_source(root, pictures)
    for epoch in range(2):
        stream = stream_of(source, pictures)
        batches = list(stream.batches(epoch))
        seen = [i for batch in indices(batches) for i in batch]
        assert len(seen) == len(set(seen)) == ROWS // 8 * 8
        assert len(batches) == stream.steps_per_epoch
        assert [i for batch in shown(batches, 99) for i in batch] == seen  # a number is its record's, whatever shard it is in
        assert stream.names(batches[-1]["index"])[0].endswith(f"{int(batches[-1]['index'][0]):04}.png")
    assert indices(stream_of(source, pictures).batches(0)) != indices(stream_of(source, pictures).batches(1))
    in_order = stream_of(source, pictures, shuffle=False, drop_last=False)
    assert [i for batch in indices(in_order.batches(0)) for i in batch] == list(range(ROWS))


@pytest.mark.parametrize("place", ["near", "afar"])
def test_the_same_batches_at_any_number_of_processes(place: str, tmp_path: Path, remote: str, pictures: Modality) -> None:
    source = open_source(tmp_path / "copied" if place == "near" else remote, pictures)
    whole = shown(stream_of(source, pictures, batch_size=24).batches(0), 20)
    for world in (2, 3, 4, 8, 12):
        shares = [shown(stream_of(source, pictures, batch_size=24, rank=r, world=world).batches(0), 20) for r in range(world)]
        for step, batch in enumerate(whole):
            for rank, share in enumerate(shares):
                assert share[step] == batch[rank::world]


def test_each_process_opens_its_own_shards_alone(root: Path, pictures: Modality) -> None:
    part = open_source(root, pictures).parts["all"]
    read: list[int] = []
    for shard in part.shards:
        enter = shard.read
        shard.read = lambda start, enter=enter: (read.append(1) or record for record in enter(start))
    counts = []
    for world in (1, 2, 4, 8):
        read.clear()
        list(Stream(part, Preprocessor(pictures, LAYOUT), 8, 0, buffer=8, rank=world - 1, world=world).batches(0))
        counts.append(len(read))
    assert counts == [64, 32, 16, 8]


@pytest.mark.parametrize("place", ["near", "afar"])
def test_a_resume_is_exact(place: str, root: Path, remote: str, pictures: Modality) -> None:
    source = open_source(root if place == "near" else remote, pictures)
    whole = shown(stream_of(source, pictures).batches(0), 20)
    for step in range(0, len(whole), 3):
        fresh = open_source(root if place == "near" else remote, pictures)
        assert shown(stream_of(fresh, pictures).batches(0, step), 20 - step) == whole[step:]


def test_a_resume_opens_no_shard_that_it_has_passed_and_decodes_nothing_twice(
    root: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    decoded: list[str] = []
    watched = replace(pictures, decode=lambda record, layout: decoded.append(record["name"]) or pictures.decode(record, layout))
    part = open_source(root, pictures).parts["all"]
    opened: list[tuple[str, int]] = []
    for shard in part.shards:
        enter = shard.read
        shard.read = lambda start, name=shard.name, enter=enter: opened.append((name, start)) or enter(start)
    stream = Stream(part, Preprocessor(watched, LAYOUT), 7, 0, buffer=7)  # seven lanes of ten rows
    list(stream.batches(0, 9))
    assert len(decoded) == 7
    assert len(opened) == 7
    assert sum(start > 0 for _, start in opened) >= 5  # in the middle, at once


def test_what_was_read_from_afar_is_counted_for_the_next_time(remote: str, pictures: Modality, cache: Path) -> None:
    first = open_source(remote, pictures)
    whole = shown(stream_of(first, pictures).batches(0), 30)
    assert len(list((cache / "shards").iterdir())) == 5
    again = open_source(remote, pictures)
    assert again.rows is None  # whatever is in the cache
    part = again.parts["all"]
    assert [shard.count() for shard in part.shards] == list(COUNTS)
    read: list[int] = []
    for shard in part.shards:
        enter = shard.read
        shard.read = lambda start, enter=enter: (read.append(1) or record for record in enter(start))
    stream = Stream(part, Preprocessor(pictures, LAYOUT), 8, 3, buffer=16)
    assert shown(stream.batches(0, 25), 5) == whole[25:]
    assert len(read) < 150  # of 240: the windows behind its place and their decoding ahead


def test_from_afar_without_end(remote: str, pictures: Modality) -> None:
    stream = stream_of(open_source(remote, pictures), pictures)
    assert stream.steps_per_epoch is None
    numbers = [i for batch in indices(stream.batches(0), 40) for i in batch]
    assert len(set(numbers)) == 320  # never the same views of a sample again
    assert {i for batch in shown(stream.batches(0), 40) for i in batch} == set(range(ROWS))
    once = stream_of(open_source(remote, pictures), pictures, shuffle=False, drop_last=False)
    assert [i for batch in shown(once.batches(0), 99) for i in batch] == list(range(ROWS))


def test_shards_come_in_an_order_of_the_epochs_own(root: Path, pictures: Modality) -> None:
    stream = stream_of(open_source(root, pictures), pictures, batch_size=11)  # one lane
    orders = [[shard for shard, _, _ in stream._pieces(epoch, 0)] for epoch in range(4)]
    assert all(sorted(order) == list(range(len(COUNTS))) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert [shard for shard, _, _ in stream._pieces(2, 0)] == orders[2]


def test_how_it_is_read_is_said(root: Path, remote: str, pictures: Modality) -> None:
    near, far = open_source(root, pictures), open_source(remote, pictures)
    assert stream_of(near, pictures).how == "5 shards in 8 lanes, shuffle window of 16 records; resuming is immediate"
    assert "each process reads 2 of the lanes; " in stream_of(near, pictures, world=4).how
    assert "every process reads everything and takes its share; " in stream_of(near, pictures, batch_size=24, world=3).how
    assert "5 shards in 4 lanes" in stream_of(far, pictures).how
    assert "resuming rereads the shards not yet counted, without decoding" in stream_of(far, pictures).how


def test_the_window_is_bounded_by_bytes(root: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    from untaught.data import stream as module

    source = open_source(root, pictures)
    monkeypatch.setattr(module, "HELD", 20_000)
    held = stream_of(source, pictures, buffer=4096).window * 8
    assert 1 <= held * len(encoded(0)) <= 20_000


# ---------------------------------------------------------------------------------------------------------- breaking off


class Told(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def test_a_cut_tar(tmp_path: Path, pictures: Modality) -> None:
    root = write_tars(tmp_path / "shards")
    whole = (root / "shard-001.tar").read_bytes()
    (root / "shard-001.tar").write_bytes(whole[: 10 * 2048 + 520])
    (root / "shard-003.tar").write_bytes(b"not a tar" * 100)
    source = open_source(root, pictures)
    left_out = dict(source.skipped)
    assert "is truncated after 10 samples (unexpected end of data)" in left_out["shard-001.tar"]
    assert "cannot be read as webdataset" in left_out["shard-003.tar"]
    assert source.rows == ROWS - 11 - 17
    stream = stream_of(source, pictures)
    seen = [i for batch in shown(stream.batches(0), 99) for i in batch]
    assert len(seen) == len(set(seen)) == 40
    assert set(seen) <= {*range(23), *range(34, 42), *range(59, 70)}
    assert len(pack(source, Preprocessor(pictures, LAYOUT))) == 42


def test_a_damaged_header_is_no_end(tmp_path: Path, pictures: Modality) -> None:
    root = write_tars(tmp_path / "shards")
    content = bytearray((root / "shard-000.tar").read_bytes())
    content[5 * 2048 : 5 * 2048 + 100] = b"\xff" * 100
    (root / "shard-000.tar").write_bytes(content)
    (name, reason), *_ = open_source(root, pictures).skipped
    assert name == "shard-000.tar"
    assert "is truncated after 4 samples (a damaged header at byte 10,240)" in reason


def test_a_cut_parquet(tmp_path: Path, pictures: Modality) -> None:
    root = write_parquets(tmp_path / "shards")
    whole = (root / "shard-001.parquet").read_bytes()
    (root / "shard-001.parquet").write_bytes(whole[: len(whole) // 2])
    source = open_source(root, pictures)
    assert [name for name, _ in source.skipped] == ["shard-001.parquet"]
    assert len(indices(stream_of(source, pictures).batches(0))) == (ROWS - 21) // 8


def test_a_parquet_damaged_in_the_middle_costs_its_rest_and_no_step(tmp_path: Path, pictures: Modality) -> None:
    root = write_parquets(tmp_path / "shards")
    path = root / "shard-001.parquet"
    start = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start - 50 : start + 1500] = bytes(1550)
    path.write_bytes(content)
    told = Told()
    stream = stream_of(open_source(root, pictures), pictures, warn=told)
    for _ in range(2):  # named once
        batches = list(stream.batches(0))
        assert [len(batch["index"]) for batch in batches] == [8] * (ROWS // 8)
        assert [i for batch in shown(batches, 99) for i in batch] == [i for batch in indices(batches) for i in batch]
    assert len(told) == 1
    assert told[0].startswith("shard-001.parquet is damaged or unreachable after ")
    assert told[0].endswith("download it again; continuing without the rest of it")
    once = stream_of(open_source(root, pictures), pictures, shuffle=False, drop_last=False)
    seen = [i for batch in indices(once.batches(0)) for i in batch]
    assert seen == sorted(set(seen))
    assert ROWS - 21 <= len(seen) < ROWS
    with pytest.raises(UserError, match="is damaged"):
        pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))


class Flaky(MemoryFileSystem):
    """Memory that fails: files whose name is in `bad` when read behind a byte, as often as it says."""

    protocol = "flaky"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    bad: dict[str, list[int]] = {}  # name -> [byte, times]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        return FlakyFile(file, self.bad.get(path.rpartition("/")[2], [1 << 60, 0]))


class FlakyFile(io.RawIOBase):
    def __init__(self, file: Any, fault: list[int]) -> None:
        self.file, self.fault = file, fault

    def read(self, size: int = -1) -> bytes:
        if self.file.tell() + max(size, 0) > self.fault[0] and self.fault[1] > 0:
            self.fault[1] -= 1
            raise ConnectionError("the line is dead")
        return self.file.read(size)

    def seek(self, *where: int) -> int:
        return self.file.seek(*where)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@pytest.fixture
def flaky(remote: str) -> Iterator[str]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    yield remote.replace("memory://", "flaky://")
    Flaky.bad.clear()


def test_a_line_that_comes_back_costs_nothing(flaky: str, pictures: Modality) -> None:
    whole = shown(stream_of(open_source(flaky, pictures), pictures).batches(0), 20)
    Flaky.bad |= {"shard-001.tar": [9000, 2], "shard-004.tar": [0, 1]}
    told = Told()
    stream = stream_of(open_source(flaky, pictures), pictures, warn=told)
    assert shown(stream.batches(0), 20) == whole
    assert Flaky.bad["shard-001.tar"][1] == 0
    assert not told


def test_a_line_that_stays_dead_costs_the_rest_of_the_shard(flaky: str, pictures: Modality, cache: Path) -> None:
    source = open_source(flaky, pictures)
    Flaky.bad |= {"shard-001.tar": [20000, 1 << 30], "shard-003.tar": [0, 1 << 30]}
    told = Told()
    stream = stream_of(source, pictures, warn=told)
    seen = {i for batch in shown(stream.batches(0), 40) for i in batch}
    assert sorted(text.split()[0] for text in told) == ["shard-001.tar", "shard-003.tar"]
    assert "after 9 rows (the line is dead)" in "".join(told)
    assert seen == {*range(22), *range(34, 42), *range(59, 70)}
    Flaky.bad |= {path: [0, 1 << 30] for path in (f"shard-00{i}.tar" for i in range(5))}
    with pytest.raises(
        UserError, match=r"none of the 5 shards can be read any more \(shard-000\.tar, .*\); check that they are accessible"
    ):
        list(stream.batches(0))


def test_threads_end_with_the_stream(root: Path, pictures: Modality) -> None:
    before = threading.active_count()
    batches: Any = stream_of(open_source(root, pictures), pictures).batches(0)
    next(batches)
    batches.close()
    assert threads_end(before)


def test_indexing_and_reading_agree(tmp_path: Path, pictures: Modality) -> None:
    """Long names (GNU and pax), folders and links between the samples."""
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            for i in range(5):
                folder = tarfile.TarInfo(f"{i}")
                folder.type = tarfile.DIRTYPE
                archive.addfile(folder)
                info = tarfile.TarInfo(f"{i}/" + "x" * 150 + f"é{i}.png")
                info.size = len(encoded(i))
                archive.addfile(info, io.BytesIO(encoded(i)))
                link = tarfile.TarInfo(f"{i}/link.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(link)
        (shard,) = open_source([path], pictures).parts["all"].shards
        for start in range(5):
            assert [r["image"] for r in shard.read(start)] == [encoded(i) for i in range(start, 5)]
