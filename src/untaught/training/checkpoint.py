"""Checkpoints: atomic and checksummed; the last two are kept."""

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
from untaught.storage.atomic import replacing
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import checked_file, inside

KEEP = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Atomically writes folder/step-N: state.pt and a manifest with its checksum."""
    with written(folder, step) as partial, open(partial / "state.pt", "wb") as file:
        torch.save(state, file)
    return folder / f"step-{step}"


@contextmanager
def written(folder: Path, step: int, place: dict[str, Any] | None = None) -> Iterator[Path]:
    """A folder whose files atomically become folder/step-N, with their checksums; then all but the last two checkpoints are deleted.

    place: stored in the manifest, for a sharded checkpoint.
    """
    with faults(folder, step):
        inside(folder, folder.parent)  # a link is not followed
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"step-{step}") as partial:
            partial.mkdir()
            yield partial
            files = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
            (partial / "manifest.json").write_text(json.dumps({"step": step, "files": files, "place": place}))
    recent = [known for known in steps(folder) if known <= step][-KEEP:]
    for other in set(steps(folder)) - set(recent):  # later ones are damaged: the run fell back to an earlier one
        shutil.rmtree(folder / f"step-{other}", ignore_errors=True)


@contextmanager
def faults(folder: Path, step: int) -> Iterator[None]:
    """Turns a failure to write a checkpoint into a UserError that names the last good one."""
    try:
        yield
    except (OSError, RuntimeError, UserError) as error:
        if lost(error):  # not a disk error
            raise
        last = newest(folder)
        good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise UserError(f"the checkpoint of step {step} could not be written: {str(error).splitlines()[0]}; {good}") from error


def load(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest intact checkpoint, with a warning for each damaged one; None if there is no checkpoint.

    For a sharded checkpoint: its "place", and under "parts" the folder. Raises UserError if none is intact.
    """
    inside(folder, folder.parent)
    for partial in folder.glob(".partial.*"):  # left by a killed process
        shutil.rmtree(partial, ignore_errors=True)
    known = steps(folder)
    for step in reversed(known):
        place = folder / f"step-{step}"
        try:
            manifest = read_json(place / "manifest.json", place)
            files: dict[str, str] = manifest["files"]
            parts = {path.name for path in place.glob("part-*")}
            if not parts <= files.keys() or any(Path(name).name != name for name in files):
                reason = "its files do not match its manifest"
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
        except Exception:  # correct checksums, but not written by us
            reason = "it holds more than weights and numbers"
        warn(f"checkpoint {place} is damaged: {reason}" + ("; falling back to the one before" if step != known[0] else ""))
    if known:
        raise UserError(f"no intact checkpoint in {folder}; start again with another --out")
    return None


def discard(folder: Path, step: int) -> None:
    """Removes the checkpoint of a step whose terms were not finite: resuming from it would fail again."""
    shutil.rmtree(folder / f"step-{step}", ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if re.fullmatch(r"step-(0|[1-9]\d{0,17})", p.name, re.ASCII))


def newest(folder: Path) -> Path | None:
    found = steps(folder)
    return folder / f"step-{found[-1]}" if found else None


def _load_state(path: Path) -> dict[str, Any]:
    """Loads a file written by torch.save. Its members must be stored uncompressed, so that none expands beyond the file's size."""
    with ZipFile(path) as archive:
        if any(part.compress_type != ZIP_STORED for part in archive.infolist()):
            raise ValueError("its members are compressed")
    return torch.load(path, map_location="cpu", weights_only=True)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
