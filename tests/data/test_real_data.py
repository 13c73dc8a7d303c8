"""The same on real files, which lie outside the repository: UNTAUGHT_DATA is their folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from untaught.core import Modality, Preprocessor
from untaught.data.sources import open_source
from untaught.data.store import pack

REAL = Path(os.environ.get("UNTAUGHT_DATA", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("UNTAUGHT_DATA"), reason="UNTAUGHT_DATA does not name the folder of the real data")


def test_caltech_tar(pictures: Modality) -> None:
    source = open_source(REAL / "caltech20/images.tar", pictures)
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 440, "test": 160}
    store = pack(source, Preprocessor(pictures, {"side": 32}))
    assert len(store) == 600
    assert len(store.classes) == 20
    assert not store.skipped


def test_cifar_folder(pictures: Modality) -> None:
    source = open_source(REAL / "cifar10_folder", pictures)
    assert source.rows == 2000
    assert source.classes is not None
    assert source.classes[0] == "airplane"
    assert set(pack(source, Preprocessor(pictures, {"side": 32})).parts(0)[0]) == {"train", "val"}


def test_cifar_parquet(tmp_path: Path, pictures: Modality) -> None:
    head = next(parquet.ParquetFile(REAL / "cifar10/train.parquet").iter_batches(500))
    parquet.write_table(pyarrow.Table.from_batches([head]), tmp_path / "train.parquet")
    store = pack(open_source(tmp_path / "train.parquet", pictures), Preprocessor(pictures, {"side": 32}))
    assert len(store) == 500
    assert store.classes[:2] == ("airplane", "automobile")
    assert store.labels is not None
    assert np.array_equal(store.labels, head["label"].to_numpy())


def test_pneumonia(pictures: Modality) -> None:
    source = open_source(REAL / "pneumonia_xray/pneumonia.npz", pictures)
    assert source.classes == ("normal", "pneumonia")
    store = pack(source, Preprocessor(pictures, {"side": 28}))
    parts, _ = store.parts(0)
    assert [len(parts["train"]), len(parts["val"])] == [3882, 524]
    assert store.labels is not None
    assert np.bincount(store.labels[parts["train"]]).tolist() == [388, 3494]
