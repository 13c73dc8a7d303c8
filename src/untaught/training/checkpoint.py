"""Checkpoints: atomic, checksummed, the last two kept."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch

from untaught.core import UserError
from untaught.distributed.launch import lost
from untaught.storage.atomic import whole
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import checked_file, inside

KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes folder/step-N whole or not at all: state.pt and its checksum."""
    with written(folder, step) as partial, open(partial / "state.pt", "wb") as file:
        torch.save(state, file)
    return folder / f"step-{step}"


@contextmanager
def written(folder: Path, step: int, place: dict[str, Any] | None = None) -> Iterator[Path]:
    """A folder for files that become folder/step-N, with their checksums, whole or not at all; all but the last two then go.

    place: kept in the manifest, of a checkpoint that several processes write in parts.
    """
    with faults(folder, step):
        inside(folder, folder.parent)  # or a link would be written through
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / f"step-{step}") as partial:
            partial.mkdir()
            yield partial
            files = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
            (partial / "manifest.json").write_text(json.dumps({"step": step, "files": files, "place": place}))
    kept = [known for known in steps(folder) if known <= step][-KEPT:]
    for other in set(steps(folder)) - set(kept):  # later ones are damaged: the run fell back behind them
        shutil.rmtree(folder / f"step-{other}", ignore_errors=True)


@contextmanager
def faults(folder: Path, step: int) -> Iterator[None]:
    """Of a checkpoint that can't be written, a UserError names the last good one."""
    try:
        yield
    except (OSError, RuntimeError, UserError) as error:
        if lost(error):  # no fault of the disk
            raise
        last = newest(folder)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise UserError(f"the checkpoint of step {step} could not be written: {str(error).splitlines()[0]}; {kept}") from error


def load(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest checkpoint whose checksums are right, saying which ones were passed over; None where there is none.

    Of one that several processes wrote in parts: its "place", and under "parts" the folder. Raises UserError where none is whole.
    """
    inside(folder, folder.parent)
    for partial in folder.glob(".partial.*"):  # of a process that was killed
        shutil.rmtree(partial, ignore_errors=True)
    known = steps(folder)
    for step in reversed(known):
        place = folder / f"step-{step}"
        try:
            manifest = read_json(place / "manifest.json", place)
            files: dict[str, str] = manifest["files"]
            parts = {path.name for path in place.glob("part-*")}
            if not parts <= files.keys() or any(Path(name).name != name for name in files):
                reason = "its files are not those of its manifest"
            elif not all(_checksum(checked_file(place / name, place)) == checksum for name, checksum in files.items()):
                reason = "its checksum is wrong"
            elif "state.pt" in files:
                return _load_state(place / "state.pt")
            else:
                return {"place": manifest["place"], "parts": place}
        except UserError as error:
            reason = str(error).removeprefix(f"{place}/")
        except OSError as error:
            reason = f"{Path(error.filename or place).name} can't be read ({error.strerror})"
        except (KeyError, TypeError, AttributeError):
            reason = "its manifest can't be read"
        except Exception:  # its checksum is right, and yet it is none of ours
            reason = "it holds more than weights and numbers"
        warn(f"checkpoint {place} is damaged: {reason}" + ("; falling back to the one before" if step != known[0] else ""))
    if known:
        raise UserError(f"no checkpoint in {folder} is whole; start again with another --out")
    return None


def forsake(folder: Path, step: int) -> None:
    """Removes the checkpoint of a step whose own terms were not finite: to go on from it would end there again."""
    shutil.rmtree(folder / f"step-{step}", ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if re.fullmatch(r"step-(0|[1-9]\d{0,17})", p.name, re.ASCII))


def newest(folder: Path) -> Path | None:
    found = steps(folder)
    return folder / f"step-{found[-1]}" if found else None


def _load_state(path: Path) -> dict[str, Any]:
    """Of a file as torch.save writes it, whose parts are stored as they are: none unpacks to more than the file is large."""
    with ZipFile(path) as archive:
        if any(part.compress_type != ZIP_STORED for part in archive.infolist()):
            raise ValueError("its parts are packed")
    return torch.load(path, map_location="cpu", weights_only=True)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
