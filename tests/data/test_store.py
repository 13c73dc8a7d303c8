"""A store holds what was decoded, exists whole or not at all, and is made once."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import encoded, picture, write_pictures

from untaught.core import Modality, Preprocessor, UserError
from untaught.data import checksum as checksum_module
from untaught.data import store as store_module
from untaught.data.column import Column, pad
from untaught.data.sources import open_source
from untaught.data.store import bytes_needed, pack

LAYOUT = {"side": 8}


def png_of_size(width: int, height: int) -> bytes:
    """A valid PNG header that promises far more pixels than follow."""
    chunks = b""
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 100)),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_columns_hold_what_was_decoded(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(150)])
    seen: list[tuple[int, int | None]] = []
    store = pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT), progress=lambda done, total: seen.append((done, total)))
    assert len(store) == 300
    assert store.columns["pixels"].shape == (300, 3, 8, 8)
    index = np.array([299, 0, 7])
    names = store.names(index)
    expected = [np.asarray(Image.open(root / name)).transpose(2, 0, 1) for name in names]
    assert np.array_equal(store.gather(index)["pixels"], expected)
    assert names[0].startswith("dog/")
    assert store.labels is not None
    assert store.labels[index].tolist() == [1, 0, 0]
    assert store.classes == ("cat", "dog")
    assert store.statistics["mean"] == pytest.approx(store.columns["pixels"].mean(), rel=1e-5)
    assert seen[-1] == (300, 300)
    assert store.bytes > 300 * 3 * 64
    assert abs(bytes_needed(300, [store.gather(index)]) / 3 - store.bytes) < 0.5 * store.bytes


def test_ragged_round_trip(tokens: Modality) -> None:
    import pandas

    texts = [" ".join(str(i) for i in range(length)) for length in (3, 0, 5, 1)]
    store = pack(open_source(pandas.DataFrame({"text": texts}), tokens), Preprocessor(tokens, {"ragged": ["ids"]}))
    batch = store.gather(np.array([2, 1, 3]))
    assert batch["ids"].tolist() == [[0, 1, 2, 3, 4], [0] * 5, [0] * 5]
    assert batch["ids_valid"].sum(1).tolist() == [5, 0, 1]
    assert batch["sum"].tolist() == [10, 0, 0]
    assert store.gather(np.array([1]))["ids"].shape == (1, 1)  # nothing but padding is still a rectangle
    fixed = pack(open_source(pandas.DataFrame({"text": texts}), tokens), Preprocessor(tokens, {}), limit_skipped=1)
    assert len(fixed) == 1  # without "ragged" all rows have the first one's shape
    assert fixed.skipped[0][1] == "its ids is int32 (0,), the others are int32 (3,)"


def test_unreadable_records_are_skipped_counted_and_named(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", [f"{i}.png" for i in range(9)])
    (root / "zero.png").write_bytes(b"")
    (root / "cut.jpg").write_bytes(encoded(1, "jpeg")[:-200])
    (root / "huge.png").write_bytes(png_of_size(60_000, 60_000))
    (root / "words.png").write_text("no image")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(root / "deep.png")
    (root / "notes.txt").write_text("no image")
    store = pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))
    assert len(store) == 10
    reasons = dict(store.skipped)
    assert set(reasons) == {"zero.png", "cut.jpg", "huge.png", "words.png", "gone.png", "notes.txt"}
    assert reasons["gone.png"] == "there is no such file"
    assert "60000" in reasons["huge.png"] or "3600000000" in reasons["huge.png"]
    assert store.manifest["skipped_count"] == {"unreadable": 5, "passed over": 1}
    deep = store.names(np.arange(10)).index("deep.png")
    assert store.columns["pixels"][deep, 0, 0, 0] == 40_000 >> 8
    with pytest.raises(UserError, match=r"5 of 15 images cannot be read, more than 10% \(cut.jpg: .*; gone.png: there is no such file"):
        pack(open_source(root, pictures), Preprocessor(pictures, {"side": 4}), limit_skipped=0.1)


def test_a_fault_in_decode_is_not_the_datas(tmp_path: Path, pictures: Modality, cache: Path) -> None:
    broken = replace(pictures, decode=lambda record, layout: record["image"].typo)
    with pytest.raises(AttributeError):
        pack(open_source(write_pictures(tmp_path / "photos", ["0.png"]), broken), Preprocessor(broken, LAYOUT))
    assert not list((cache / "stores").glob("*/"))


def test_one_record_and_none(tmp_path: Path, pictures: Modality, cache: Path) -> None:
    one = pack(open_source(write_pictures(tmp_path / "one", ["0.png"]), pictures), Preprocessor(pictures, LAYOUT))
    assert len(one) == 1
    assert one.parts(0)[0]["train"].tolist() == [0]
    bad = write_pictures(tmp_path / "bad", ["0.png", "1.png"])
    for path in bad.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="2 of 2 images cannot be read"):
        pack(open_source(bad, pictures), Preprocessor(pictures, LAYOUT))
    assert len(list((cache / "stores").glob("*/"))) == 1


# --------------------------------------------------------------------------------------------------- whole or not at all


def test_second_run_reuses(tmp_path: Path, pictures: Modality) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png"])
    first = pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))
    pixels = first.columns["pixels"].copy()
    again = pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT), progress=lambda *_: pytest.fail("packed again"))
    assert again.folder == first.folder
    assert pack(open_source(root, pictures), Preprocessor(pictures, {"side": 4})).folder != first.folder
    (first.folder / "pixels.npy").write_bytes(b"")  # damaged by hand: packed anew
    assert np.array_equal(pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT)).columns["pixels"], pixels)


def test_an_exception_leaves_nothing(tmp_path: Path, pictures: Modality, cache: Path) -> None:
    root = write_pictures(tmp_path / "photos", [f"{i}.png" for i in range(200)])

    def stop(done: int, total: int | None) -> None:
        assert list((cache / "stores").glob("*.unfinished"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT), progress=stop)
    assert not list((cache / "stores").glob("*/"))


PACK = """
import sys, time
sys.path.insert(0, {tests!r})
import tiny
from untaught.core import Preprocessor
from untaught.data.sources import open_source
from untaught.data.store import pack
images = tiny.make_modality(
    name="image", noun="images", fields={{"image": ("image",)}}, suffixes=frozenset({{".png"}}), decode=tiny.decode_picture
)
def slow(done, total):
    print("packed", done, flush=True)
    time.sleep({pause})
print(len(pack(open_source({root!r}, images), Preprocessor(images, {{"side": 8}}), progress=slow)), flush=True)
"""


def run_pack(root: Path, pause: float) -> subprocess.Popen[str]:
    code = PACK.format(tests=str(Path(__file__).parent), root=str(root), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_kill_in_the_middle_leaves_nothing_that_counts(tmp_path: Path, pictures: Modality, cache: Path) -> None:
    root = write_pictures(tmp_path / "photos", [f"{i}.png" for i in range(200)])
    process = run_pack(root, 60)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("packed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((cache / "stores").glob("*.unfinished"))) == 1
    assert len(pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))) == 200
    assert not list((cache / "stores").glob("*.unfinished"))


def test_two_processes_pack_once(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "photos", [f"{i}.png" for i in range(200)])
    outputs = [process.communicate(timeout=180)[0] for process in [run_pack(root, 0.2) for _ in range(2)]]
    assert [output.split()[-1] for output in outputs] == ["200", "200"]
    assert sorted("packed" in output for output in outputs) == [False, True]


def test_full_disk(tmp_path: Path, pictures: Modality, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png", "1.png"])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Column, "append", full)
        with pytest.raises(UserError, match=r"no space left in .*UNTAUGHT_CACHE"):
            pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))
    assert not list((cache / "stores").glob("*/"))
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"packing needs about .* GB in .*, which has 0.0 GB left"):
        pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))


def test_cache_that_cannot_be_written(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pictures(tmp_path / "photos", ["0.png"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"is not writable .*UNTAUGHT_CACHE"):
        pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT), cache=tmp_path / "file")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(UserError, match="Read-only file system"):
        pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))


# --------------------------------------------------------------------------------------------------------------- parts


def packed(labels: np.ndarray | None, pictures: Modality):
    pixels = np.zeros((len(labels) if labels is not None else 10, 4, 4), np.uint8)
    return pack(open_source(pixels if labels is None else (pixels, labels), pictures), Preprocessor(pictures, LAYOUT))


def test_stratified_split(pictures: Modality) -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    store = packed(labels, pictures)
    parts, how = store.parts(5)
    assert how.startswith("80/20 stratified by label, seed 5")
    assert np.bincount(labels[parts["val"]], minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted([*parts["train"], *parts["val"]]) == list(range(63))
    assert np.array_equal(store.parts(5)[0]["val"], parts["val"])
    assert not np.array_equal(store.parts(6)[0]["val"], parts["val"])


def test_other_splits(tmp_path: Path, pictures: Modality) -> None:
    assert len(packed(None, pictures).parts(0)[0]["train"]) == 10
    measured = packed(np.linspace(0, 1, 20), pictures)
    assert measured.labels is not None
    assert measured.labels.dtype == np.float64
    assert len(measured.parts(0)[0]["val"]) == 4
    own = write_pictures(tmp_path / "own", ["train/0.png", "train/1.png", "test/2.png"])
    parts, how = pack(open_source(own, pictures), Preprocessor(pictures, LAYOUT)).parts(0)
    assert {name: rows.tolist() for name, rows in parts.items()} == {"train": [0, 1], "test": [2]}
    assert how == "the data's own split: train 2, test 1"
    only = write_pictures(tmp_path / "only", [f"train/{name}/{i}.png" for name in "ab" for i in range(5)])
    assert set(pack(open_source(only, pictures), Preprocessor(pictures, LAYOUT)).parts(0)[0]) == {"train", "val"}


def test_statistics_are_of_training_rows_alone(pictures: Modality) -> None:
    import pandas

    frame = pandas.DataFrame({"image": [picture(0)] * 6 + [picture(255)] * 4, "split": ["train"] * 6 + ["test"] * 4})
    store = pack(open_source(frame, pictures, split="split"), Preprocessor(pictures, LAYOUT))
    assert store.statistics["mean"] == pytest.approx(7 / 3)  # image(0) is 0, 0, 7; of all ten it would be 36
    frame["split"] = "test"
    assert pack(open_source(frame, pictures, split="split"), Preprocessor(pictures, LAYOUT)).statistics["mean"] == pytest.approx(
        7 / 3 + 0.4 * 255 / 3
    )


def test_raw_labels_of_a_stream_are_numbered_when_all_were_seen(pictures: Modality) -> None:
    import datasets

    rows = [{"image": encoded(i), "label": f"kind {i % 3}"} for i in range(6)]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    store = pack(open_source(stream, pictures), Preprocessor(pictures, LAYOUT))
    assert store.classes == ("kind 0", "kind 1", "kind 2")
    assert store.labels is not None
    assert store.labels.tolist() == [0, 1, 2] * 2


FOUR = ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


@pytest.mark.parametrize("large", [False, True])
def test_a_flipped_byte_anywhere_is_noticed_said_and_packed_anew(
    tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:  # of which files that nobody touched are not read again
        monkeypatch.setattr(checksum_module, "ALWAYS", 0)
    source = open_source(write_pictures(tmp_path / "x", FOUR), pictures)
    store = pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path)
    right = {path.name: path.read_bytes() for path in store.folder.iterdir() if path.name != "verified.json"}
    assert len(right) == 9
    for name, content in right.items():
        for place in (0, len(content) // 2, len(content) - 1):
            with (store.folder / name).open("r+b") as file:
                file.seek(place)
                file.write(bytes([content[place] ^ 1]))
            said: list[str] = []
            pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path, warn=said.append)
            assert len(said) == 1, (name, place)
            assert "is damaged" in said[0]
            assert "repacking it" in said[0]
            assert (store.folder / name).read_bytes() == content
    said = []
    pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path, warn=said.append)
    assert said == []


def test_a_large_store_is_read_once_until_it_is_touched(tmp_path: Path, pictures: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    own = checksum_module.checksum
    monkeypatch.setattr(checksum_module, "checksum", lambda path: read.append(path.name) or own(path))
    monkeypatch.setattr(checksum_module, "ALWAYS", 0)
    source = open_source(write_pictures(tmp_path / "x", FOUR), pictures)
    folder = pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path).folder
    pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path)
    assert read == []
    touched = (folder / "row.hash.npy").stat()
    os.utime(folder / "row.hash.npy", ns=(touched.st_atime_ns, touched.st_mtime_ns))  # its times set back, as if nothing had been
    pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path)
    assert read == ["row.hash.npy"]
    old = time.time() - checksum_module.AGAIN - 1
    os.utime(folder / "verified.json", (old, old))
    pack(source, Preprocessor(pictures, LAYOUT), cache=tmp_path)
    assert len(read) == 9


def test_contents_are_the_same_under_any_path_and_others_with_another_label(tmp_path: Path, pictures: Modality) -> None:
    names = {"x": FOUR, "y": FOUR, "z": ["a/0.png", "a/1.png", "c/0.png", "c/1.png"], "short": FOUR[:3]}
    stores = {
        name: pack(open_source(write_pictures(tmp_path / name, files), pictures), Preprocessor(pictures, LAYOUT))
        for name, files in names.items()
    }
    assert stores["x"].folder != stores["y"].folder
    assert stores["x"].contents == stores["y"].contents
    assert len({store.contents for store in stores.values()}) == 3
    assert np.array_equal(stores["x"].hashes, stores["z"].hashes)
    assert len(set(stores["x"].hashes.tolist())) == 4


def test_contents_tell_splits_apart(tmp_path: Path, pictures: Modality) -> None:
    stores = [
        pack(open_source(write_pictures(tmp_path / third, files), pictures), Preprocessor(pictures, LAYOUT))
        for third in ("train", "test")
        if (files := ["train/a/0.png", "train/b/1.png", f"{third}/b/2.png", "test/b/3.png"])
    ]
    one, other = stores
    assert np.array_equal(one.hashes, other.hashes)
    assert one.labels is not None
    assert other.labels is not None
    assert one.labels.tolist() == other.labels.tolist() == [0, 1, 1, 1]
    assert [len(store.parts(0)[0]["train"]) for store in stores] == [3, 2]
    assert one.contents != other.contents


def test_rows_keep_their_number_among_all_records_and_what_repeats_is_found(tmp_path: Path, pictures: Modality) -> None:
    files = ["train/a/0.png", "train/a/1.png", "train/b/2.png", "train/b/3.png", "test/a/4.png", "test/a/5.png"]
    root = write_pictures(tmp_path / "x", files)
    (root / "train/a/1.png").write_bytes(b"no image")
    (root / "test/a/5.png").write_bytes(encoded(2))  # as train/b/2.png
    store = pack(open_source(root, pictures), Preprocessor(pictures, LAYOUT))
    assert store.numbers.tolist() == [0, 2, 3, 4, 5]
    assert store.left_out == 1
    rows, _ = store.parts(0)
    repeated, first = store.repeated(rows["test"], rows["train"])
    assert [Path(name).name for name in store.names(np.concatenate([repeated, first]))] == ["5.png", "2.png"]
    assert [len(found) for found in store.repeated(rows["test"], rows["train"][:0])] == [0, 0]


def test_padding_takes_the_memory_of_its_result_alone() -> None:
    values = np.arange(3_000_000, dtype=np.int16)
    starts, lengths = np.arange(10) * 200_000, np.array([1_000_000, 0, *range(100_000, 900_000, 100_000)])
    tracemalloc.start()
    try:
        rows, valid = pad(values, starts, lengths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * (rows.nbytes + valid.nbytes)  # an index of every value alone would be nearly 3 times as much
    for row, own, start, length in zip(rows, valid, starts, lengths, strict=True):
        assert np.array_equal(row[:length], values[start : start + length])
        assert not row[length:].any()
        assert np.array_equal(own, np.arange(1_000_000) < length)
