"""The same contents are the same data, other contents are other data, whatever holds them and in whatever process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from tiny import encoded, picture, write_pictures

from untaught.core import Modality, Preprocessor
from untaught.data import identity
from untaught.data.identity import content_hash
from untaught.data.sources import open_source
from untaught.data.store import pack

Make = Callable[[int], Any]  # a seed -> a value: other seeds, other contents, alike in every repr
SPARSE = 4000  # numbers, of which numpy and torch print the first and the last


def numbers(seed: int) -> np.ndarray:
    values = np.zeros(SPARSE)
    values[SPARSE // 2] = seed
    return values


def with_palette(seed: int) -> Image.Image:
    """The same numbers in other colours."""
    made = Image.new("P", (4, 4))
    made.putpalette([seed] * 768)
    return made


KINDS: dict[str, Make] = {
    "array": numbers,
    "tensor": lambda seed: torch.from_numpy(numbers(seed)),
    "bfloat16": lambda seed: torch.from_numpy(numbers(seed)).bfloat16(),
    "sparse": lambda seed: torch.from_numpy(numbers(seed)).to_sparse(),
    "objects": lambda seed: np.array([numbers(seed), "a", None], object),
    "list": lambda seed: [[numbers(seed)], (1, 2)],
    "mapping": lambda seed: {"b": numbers(seed), "a": 1},
    "picture": lambda seed: picture(seed, 99),
    "palette": lambda seed: with_palette(seed),
    "bytes": lambda seed: bytes(SPARSE) + bytes([seed]),
    "series": lambda seed: pandas.Series(numbers(seed)),
    "arrow": lambda seed: pyarrow.array(numbers(seed)),
    "decimal": lambda seed: Decimal(seed),
    "date": lambda seed: pandas.Timestamp(f"2020-01-0{seed + 1}"),
    "numpy date": lambda seed: np.datetime64(f"2020-01-0{seed + 1}"),
    "scalar": lambda seed: np.float32(seed),
    "set": lambda seed: {"a", "b", "c", str(seed)},
    "text": lambda seed: f"\ud800{seed}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_contents_count(kind: str) -> None:
    make = KINDS[kind]
    assert content_hash([make(1)]) == content_hash([make(1)])
    assert content_hash([make(1)]) != content_hash([make(2)])
    cells = [np.array(None, object) for _ in range(2)]  # as the cells of an object array
    for seed, cell in enumerate(cells):
        cell[()] = make(seed)
    assert content_hash([cells[0]]) != content_hash([cells[1]])


def test_no_two_sequences_are_alike() -> None:
    values = [
        ["ab", "c"], ["a", "bc"], [["a"], "bc"], [["a", "bc"]], [b"a", "bc"], [b"a\0bc"], [b"a", b"bc"], ["a\0", "bc"],
        [123456], [123457], [0.1], [0.1000001], [1 << 70], [1 << 71],
        [1], ["1"], [1.0], [True], [b"1"], [None], ["None"], [float("nan")], ["nan"], [""], [b""], [[]], [{}], [()  , None], [{"a": None}],
        [np.zeros(2)], [np.zeros((2, 1))], [np.zeros(2, np.float32)], [np.zeros(4, np.float32)], [np.zeros((0, 2))], [np.zeros((0, 3))],
    ]  # fmt: skip
    assert len({content_hash(value) for value in values}) == len(values)


def test_how_an_array_lies_in_memory_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).normal(size=(60, 7))
    wanted = content_hash([array])
    monkeypatch.setattr(identity, "PIECE", 100)  # pieces of one row
    for same in (
        array.astype(">f8"),
        np.asfortranarray(array),
        array[::-1][::-1],
        torch.from_numpy(array),
        torch.from_numpy(array.T.copy()).T,
    ):
        assert content_hash([same]) == content_hash([array])
    assert content_hash([array[::-1]]) != content_hash([array])
    monkeypatch.undo()
    assert content_hash([array]) == wanted
    assert content_hash([np.float64("nan"), pandas.NA, {"a": 1, "b": 2}]) == content_hash([float("nan"), None, {"b": 2, "a": 1}])


def test_another_process_says_the_same_and_an_unknown_object_is_new_every_time() -> None:
    program = "from untaught.data.identity import content_hash as h; print(h([{'a', 'b', 'c'}, {'x': 1}, 'é', 2.5]), h([lambda: 0]))"
    known, unknown = zip(
        *(
            subprocess.run(
                [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
            ).stdout.split()
            for seed in ("1", "2")
        ),
        strict=True,
    )
    assert known == (content_hash([{"a", "b", "c"}, {"x": 1}, "é", 2.5]),) * 2
    assert unknown[0] != unknown[1]


# ---------------------------------------------------------------------------------------------------------- of sources


def tensors(seed: int) -> list[torch.Tensor]:
    """Black images with something in the middle, which their repr leaves out."""
    values = torch.zeros(12, 1, 64, 64, dtype=torch.uint8)
    values[:, :, 20:40, 20:40] = torch.randint(1, 255, (12, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return list(values)


def test_frames_of_tensors_arrays_and_pictures(pictures: Modality) -> None:
    for make in (
        tensors,
        lambda seed: [tensor.numpy() for tensor in tensors(seed)],
        lambda seed: [tensor.numpy().tolist() for tensor in tensors(seed)],
        lambda seed: [picture(seed + i) for i in range(12)],
        lambda seed: [encoded(seed + i) for i in range(12)],
    ):
        prints = [open_source(pandas.DataFrame({"image": make(seed)}), pictures).fingerprint for seed in (1, 1, 2)]
        assert prints[0] == prints[1] != prints[2]


def test_a_frame_is_its_columns_that_are_read(tmp_path: Path, tokens: Modality) -> None:
    table = pyarrow.table({"text": ["1", "2"], "label": ["a", "b"], "tags": [["red", "round"], ["blue"]], "score": [1.0, None]})
    parquet.write_table(table, tmp_path / "x.parquet")
    read = [open_source(pandas.read_parquet(tmp_path / "x.parquet"), tokens, label="label").fingerprint for _ in range(2)]
    assert read[0] == read[1]
    frame = table.to_pandas()
    for other, same in (
        (table, True),
        (frame.assign(tags=[1, 2], more=["c", "d"]), True),
        (frame[["label", "text"]], True),
        (frame[::-1], False),
        (frame.assign(text=["1", "3"]), False),
        (frame.assign(label=["a", "c"]), False),
        (frame.rename(columns={"text": "body"}), False),
    ):
        assert (open_source(other, tokens, label="label").fingerprint == read[0]) == same


def test_data_sets_are_their_rows_not_the_way_they_were_made(tmp_path: Path, tokens: Modality) -> None:
    columns = {"text": ["1", "2", "3", "4"], "label": ["a", "b", "a", "b"]}
    data = datasets.Dataset.from_dict(columns)
    first = open_source(data, tokens).fingerprint
    counter = iter(range(9))
    mapped = data.map(lambda row: {"other": next(counter)})  # what cannot be pickled gets a random fingerprint
    data.save_to_disk(str(tmp_path / "saved"))
    for same in (
        datasets.Dataset.from_dict(columns),
        mapped,
        data.select([3, 2, 1, 0]).select([3, 2, 1, 0]),
        datasets.load_from_disk(str(tmp_path / "saved")),
    ):
        assert open_source(same, tokens).fingerprint == first
    for other in (data.select([1, 0, 2, 3]), data.select([0, 1]), datasets.DatasetDict({"train": data, "test": data})):
        assert open_source(other, tokens).fingerprint != first
    stream = data.to_iterable_dataset()
    assert open_source(stream, tokens).fingerprint != open_source(stream, tokens).fingerprint
    saved = open_source(tmp_path / "saved", tokens).fingerprint
    assert open_source(tmp_path / "saved", tokens).fingerprint == saved
    datasets.Dataset.from_dict({"text": ["1", "2", "3", "5"], "label": ["a", "b", "a", "b"]}).save_to_disk(str(tmp_path / "saved"))
    assert open_source(tmp_path / "saved", tokens).fingerprint != saved


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet of files", "frame", "frame of paths", "arrow", "datasets", "saved"])
def test_files_that_are_only_linked_to_are_stamped(kind: str, tmp_path: Path, pictures: Modality) -> None:
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    frame = pandas.DataFrame({"image": paths, "label": ["a", "b", "a"]})
    files = [{"bytes": None, "path": path} for path in paths]
    given: Any = tmp_path / f"x.{kind.split()[0]}"
    if kind == "csv":
        frame.to_csv(given, index=False)
    elif kind == "jsonl":
        frame.to_json(given, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(given)
    elif kind == "parquet of files":
        parquet.write_table(
            pyarrow.table({"image": pyarrow.array(files, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))}), given
        )
    elif kind.startswith("frame"):
        given = frame.assign(image=list(map(Path, paths))) if kind == "frame of paths" else frame
    elif kind == "arrow":
        given = pyarrow.table({"image": files})
    else:
        given = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        if kind == "saved":
            pyarrow.table({"image": files})
            given = datasets.Dataset.from_dict({"image": paths})
            given.save_to_disk(str(tmp_path / "saved"))
            given = tmp_path / "saved"
    before = open_source(given, pictures)
    assert open_source(given, pictures).fingerprint == before.fingerprint
    records = list(before.parts["all"])
    assert [record["image"] for record in records] == list(map(Path, paths))
    assert all(record["facts"][0] == path for record, path in zip(records, paths, strict=True))
    (tmp_path / "1.png").write_bytes(encoded(200))
    assert open_source(given, pictures).fingerprint != before.fingerprint


def test_arrays(pictures: Modality) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    labels = ["a", "b"] * 3
    first = open_source((pixels, labels), pictures).fingerprint
    for same in (
        (pixels.copy(), np.array(labels, object)),
        (torch.from_numpy(pixels), np.array(labels)),
        (np.asfortranarray(pixels), labels),
    ):
        assert open_source(same, pictures).fingerprint == first
    for other in (
        (pixels[::-1], labels),
        (pixels.astype(np.int16), labels),
        (pixels, labels[::-1]),
        pixels,
        (pixels.reshape(6, 4, 16), labels),
    ):
        assert open_source(other, pictures).fingerprint != first


def test_no_cache_of_datasets_is_touched(tmp_path: Path, tokens: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home")
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    given = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    assert [len(list(open_source(one, tokens).parts["all"])) for one in (tmp_path / "a.csv", tmp_path / "a.jsonl", given)] == [2, 1, 1]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "list", "pattern", "csv", "listing", "npy", "tar"])
def test_what_is_cached_of_a_file_knows_when_it_changed_whatever_its_size_and_time(kind: str, tmp_path: Path, tokens: Modality) -> None:
    """Programs that unpack archives or copy files set modification times back, also to those of another version."""
    root = tmp_path / "data"
    root.mkdir()
    texts = root / "a.txt"
    given: Any = {"folder": root, "list": [texts], "pattern": str(root / "*.txt"), "listing": root / "x.csv", "csv": root / "x.csv"}.get(
        kind, root / {"file": "a.txt"}.get(kind, f"x.{kind}")
    )

    def write(text: str) -> None:
        texts.write_text(text)
        if kind == "npy":
            np.save(given, np.array([text]))
        elif kind == "csv":
            given.write_text(f"text\n{text}\n")
        elif kind == "listing" and not given.exists():
            given.write_text("text\na.txt\n")
        elif kind == "tar":
            with tarfile.open(given, "w") as archive:
                archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO(b""))
                info = tarfile.TarInfo("b.txt")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))

    write("1 2 3")
    times = {path: path.stat().st_mtime_ns for path in root.iterdir()}
    before = open_source(given, tokens)
    assert open_source(given, tokens).version == before.version
    time.sleep(0.02)  # clocks of file systems tick every few milliseconds
    write("4 5 6")
    for path, stamp in times.items():
        os.utime(path, ns=(stamp, stamp))
    after = open_source(given, tokens)
    assert after.fingerprint == before.fingerprint, "a run compares what is read, not when it was copied"
    assert after.version != before.version


def test_a_store_is_not_that_of_another_file_of_the_same_size_and_time(tmp_path: Path, tokens: Modality) -> None:
    file, sums = tmp_path / "a.txt", []
    for text in ("1 2 3", "4 5 6", "4 5 6"):
        if sums:
            time.sleep(0.02)
        file.write_text(text)
        os.utime(file, ns=(10**9, 10**9))
        sums.append(pack(open_source(file, tokens), Preprocessor(tokens, {"ragged": ["ids"]})).columns["sum"].tolist())
    assert sums == [[6], [15], [15]]
