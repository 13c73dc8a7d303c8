"""Checkpoints: whole or not at all, the last two, and what is said of damaged ones."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from untaught.core import UserError
from untaught.training import checkpoint


def state(step: int) -> dict[str, Any]:
    return {"method": {"weight": torch.full((1000,), float(step))}, "place": {"step": step, "total": None}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three were saved."""
    for step in (5, 10, 15):
        checkpoint.save(tmp_path / "checkpoints", step, state(step))
    return tmp_path / "checkpoints"


@pytest.fixture
def said() -> list[str]:
    return []


def test_the_newest_is_loaded_as_it_was_saved(folder: Path, said: list[str]) -> None:
    loaded = checkpoint.load(folder, said.append)
    assert loaded is not None
    assert torch.equal(loaded["method"]["weight"], state(15)["method"]["weight"])
    assert loaded["place"] == {"step": 15, "total": None}
    assert said == []


def test_the_last_two_are_kept_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["step-10", "step-15"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (8, 9, 10):
        checkpoint.save(tmp_path, step, state(step))
    assert checkpoint.steps(tmp_path) == [9, 10]


def test_no_checkpoint_is_none(tmp_path: Path, said: list[str]) -> None:
    assert checkpoint.load(tmp_path / "none", said.append) is None


def flip_a_bit(place: Path) -> None:
    raw = bytearray((place / "state.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (place / "state.pt").write_bytes(raw)


def cut_short(place: Path) -> None:
    os.truncate(place / "state.pt", 100)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit flipped": flip_a_bit,
    "cut short": cut_short,
    "empty": lambda place: (place / "state.pt").write_bytes(b""),
    "no state": lambda place: (place / "state.pt").unlink(),
    "no manifest": lambda place: (place / "manifest.json").unlink(),
    "half a manifest": lambda place: (place / "manifest.json").write_text('{"step": 15, "sha'),
    "a manifest of another kind": lambda place: (place / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(folder: Path, said: list[str], damage: str) -> None:
    DAMAGES[damage](folder / "step-15")
    loaded = checkpoint.load(folder, said.append)
    assert loaded is not None
    assert loaded["place"]["step"] == 10
    (line,) = said
    assert str(folder / "step-15") in line
    assert line.endswith("falling back to the one before")
    assert "\n" not in line


def test_all_damaged_stops_with_one_line(folder: Path, said: list[str]) -> None:
    for step in (10, 15):
        flip_a_bit(folder / f"step-{step}")
    with pytest.raises(UserError, match=r"no intact checkpoint in"):
        checkpoint.load(folder, said.append)
    assert ["step-15" in said[0], "step-10" in said[1]] == [True, True]
    assert "falling back" not in said[1]


def test_a_damaged_one_is_replaced_when_the_run_comes_to_its_step_again(folder: Path, said: list[str]) -> None:
    flip_a_bit(folder / "step-15")
    checkpoint.save(folder, 15, state(15))
    loaded = checkpoint.load(folder, said.append)
    assert loaded is not None
    assert (loaded["place"]["step"], said) == (15, [])


def test_a_run_that_fell_back_keeps_its_last_two_and_not_the_damaged_one(folder: Path) -> None:
    flip_a_bit(folder / "step-15")
    checkpoint.save(folder, 12, state(12))
    assert checkpoint.steps(folder) == [10, 12]


@pytest.mark.parametrize("fault", [RuntimeError("the pickler failed\nat length"), OSError(errno.EIO, "Input/output error")])
def test_a_fault_while_writing_leaves_no_checkpoint_and_names_the_last_good_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def half(state: Any, file: Any) -> None:
        file.write(b"half")
        raise fault

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError) as stop:
        checkpoint.save(folder, 20, state(20))
    assert "the checkpoint of step 20 could not be written" in str(stop.value)
    assert str(folder / "step-15") in str(stop.value)
    assert "\n" not in str(stop.value)
    assert sorted(path.name for path in folder.iterdir()) == ["step-10", "step-15"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(small_disk: Path, said: list[str]) -> None:
    checkpoint.save(small_disk / "checkpoints", 1, state(1))
    big = {"method": {"weight": torch.zeros(100_000)}, "place": {"step": 2}}
    with pytest.raises(UserError, match=r"step 2 could not be written: .* no space left; the last good checkpoint is .*step-1$"):
        checkpoint.save(small_disk / "checkpoints", 2, big)
    loaded = checkpoint.load(small_disk / "checkpoints", said.append)
    assert loaded is not None
    assert (loaded["place"]["step"], said) == (1, [])


def test_no_space_is_said_as_such_whatever_torch_makes_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, file: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:  # as torch's writer does: its destructor fails over the half that was written
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left; the last good checkpoint is .*step-15$"):
        checkpoint.save(folder, 20, state(20))
