"""What a run was trained on asks it no question later, wherever its data lie by then and whatever has come and gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from untaught.config.registry import modality_named
from untaught.core import UserError
from untaught.pipeline.dataset import Dataset, open_dataset
from untaught.pipeline.seen_rows import STREAMED, SeenRows, keep_rows
from untaught.storage.run_dir import write_run

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(60) % 2


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


def opened(rows: Any, labels: np.ndarray | None = LABELS, **how: Any) -> Dataset:
    """Material of some of the images, not divided yet but as a seed of 3 has it."""
    data = PIXELS[rows] if labels is None else (PIXELS[rows], labels[rows])
    dataset = open_dataset(data, modality_named("image"), columns=None, label=None, split=None)
    dataset.open(False, 3, **how)
    return dataset


def run_of(folder: Path, dataset: Dataset, contents: str | None = None, keeps: bool = True) -> SeenRows:
    assert dataset.store is not None
    folder.mkdir()
    if keeps:
        keep_rows(folder, dataset.store, dataset.parts)
    asked = {"data": "photos", "method": "simclr", "encoder": None, "knobs": {}, "layout": {}, "resolved": {"loop": {"seed": 3}}}
    said = {"fingerprint": dataset.source.fingerprint, "contents": contents or dataset.store.contents}
    write_run(folder / "run.yaml", {**asked, **(said if keeps or contents else {"fingerprint": "older"})})
    return SeenRows.of(folder)


def pictures_of(dataset: Dataset, part: str) -> set[bytes]:
    assert dataset.store is not None
    pixels = max(dataset.store.columns.values(), key=lambda column: column.nbytes)
    return {row.tobytes() for row in pixels[dataset.parts[part]]}


def divided(known: SeenRows, rows: Any, own: bool, labels: np.ndarray | None = LABELS) -> Dataset:
    return opened(rows, labels, divide=lambda store: (known.own if own else known.other)(store, "another", "images"))


def test_unchanged_data_are_split_as_they_were_whatever_they_are_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = opened(range(40))
    known = run_of(tmp_path / "run", before)
    for own in (True, False):
        again = divided(known, range(40), own)
        assert all(np.array_equal(again.parts[part], before.parts[part]) for part in ("train", "val"))
    assert "warning" not in capsys.readouterr().err


def test_rows_that_came_later_are_not_held_out_of_a_runs_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = opened(range(40))
    known = run_of(tmp_path / "run", before)
    fewer = range(2, 60)  # two are gone, twenty are new, all have other numbers
    after = divided(known, fewer, own=True)
    assert pictures_of(after, "val") <= pictures_of(before, "val")
    assert pictures_of(after, "train") <= pictures_of(before, "train")
    assert sum(map(len, after.parts.values())) == 38
    assert "20 images are new and 2 images are gone or changed" in capsys.readouterr().err.replace("\n", " ")


def test_of_named_data_what_was_trained_on_asks_nothing_and_new_rows_do(tmp_path: Path) -> None:
    before = opened(range(40))
    known = run_of(tmp_path / "run", before)
    after = divided(known, range(60), own=False)
    assert not pictures_of(after, "val") & pictures_of(before, "train")
    assert pictures_of(before, "val") < pictures_of(after, "val")
    assert len(after.parts["val"]) == 8 + 4  # 20% of 40 and of 20
    assert sorted(np.concatenate([*after.parts.values()])) == [*range(60)]


def test_other_data_are_split_by_the_runs_seed(tmp_path: Path) -> None:
    known = run_of(tmp_path / "run", opened(range(30)))
    plain, after = opened(range(30, 60)), divided(known, range(30, 60), own=False)
    assert all(np.array_equal(after.parts[part], plain.parts[part]) for part in ("train", "val"))


def test_data_of_which_all_was_trained_on_are_measured_on_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = run_of(tmp_path / "run", opened(range(40), labels=None))
    after = divided(known, range(40), own=False)
    assert len(after.parts["val"]) == 8
    assert "was trained on all 8 images of val" in capsys.readouterr().err


def test_a_test_part_of_its_own_loses_what_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = run_of(tmp_path / "run", opened(range(40), labels=None))
    parts = {"train_images": PIXELS[40:50], "train_labels": LABELS[:10], "test_images": PIXELS[35:45], "test_labels": LABELS[:10]}
    dataset = open_dataset(parts, modality_named("image"), columns=None, label=None, split=None)
    dataset.open(False, 3, known.divider(dataset, own=False))
    assert pictures_of(dataset, "test") == pictures_of(opened(range(40, 45), labels=None), "train")
    said = capsys.readouterr().err
    assert "skipping 5 of 10 images of test" in said
    assert "5 of 5 images in test are also in the training split" in said  # of these data, by content


@pytest.mark.parametrize(
    ("contents", "keeps", "said"), [(None, True, "none of its 20 images"), (STREAMED, False, "streamed runs do not record")]
)
def test_other_data_in_the_place_of_the_runs_own_are_refused(tmp_path: Path, contents: str | None, keeps: bool, said: str) -> None:
    known = run_of(tmp_path / "run", opened(range(40)), contents, keeps)
    with pytest.raises(UserError, match=said):
        divided(known, range(40, 60), own=True)


def test_data_that_look_the_same_are_compared_by_content(tmp_path: Path) -> None:
    """Files of the same size and time have the same fingerprint; and another version may decode all of them differently."""
    dataset = opened(range(40))
    known = run_of(tmp_path / "run", dataset)
    fingerprint = known.fingerprint
    assert fingerprint is not None
    assert known.same(dataset.store, fingerprint)
    assert known.same(dataset.store, "moved")
    assert not known.same(opened([*range(39), 50]).store, fingerprint), "one of them is another"
    assert known.same(opened(range(40, 60)).store, fingerprint), "none is what it was"
    assert not known.same(opened(range(40, 60)).store, "other")


def test_a_run_of_an_older_version_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    dataset = opened(range(40))
    known = run_of(tmp_path / "run", dataset, keeps=False)
    assert dataset.store is not None
    assert known.own(dataset.store, "older", "images")[0].keys() == {"train", "val"}
    with pytest.raises(UserError, match="runs of older versions do not record"):
        known.own(dataset.store, "another", "images")


def test_a_streamed_run_was_trained_on_what_is_held_out_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = run_of(tmp_path / "run", opened(range(40)), STREAMED, keeps=False)
    divided(known, range(40), own=False)
    assert "was streamed and trained on all data" in capsys.readouterr().err


def test_rows_that_are_damaged_end_in_one_line(tmp_path: Path) -> None:
    run_of(tmp_path / "run", opened(range(40)))
    (tmp_path / "run" / "rows.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"rows.safetensors can't be read"):
        SeenRows.of(tmp_path / "run")


def test_the_samples_that_another_run_was_trained_on_are_counted(tmp_path: Path) -> None:
    dataset = opened(range(40))
    known = run_of(tmp_path / "run", dataset)
    assert dataset.store is not None
    assert known.seen(dataset.store, np.concatenate([dataset.parts["val"], dataset.parts["train"][:5]])) == 5
    assert known.same(SimpleNamespace(contents="x"), "y") is False  # type: ignore[arg-type]
    assert known.same(dataset.store, "y")
