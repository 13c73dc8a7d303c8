"""Run folders: creation, locking, and run.yaml."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from untaught.core import Options, UserError
from untaught.storage.atomic import disk_fault, write_text
from untaught.storage.safe_load import check_kinds, read_yaml

OWN = ("metrics.jsonl", "plans.jsonl", "checkpoints", "encoder", "heads", "method", "evaluation.json", "report.html", "sample.npz")
DRAWN = ("views.png", "overview.png", "prototypes.png", "samples.png")


class Folder:
    """runs/NAME: run.yaml, metrics.jsonl, checkpoints/, encoder/. Held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None
        self._made: list[Path] = []  # created folders, innermost first

    def hold(self, fresh: bool) -> None:
        """Creates and locks the folder; the lock ends with the process. fresh: it must not contain a run or any file with the name of a
        run's file."""
        try:
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _open_lock(self.path / ".lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            raise UserError(f"{self.path} is in use by process {owner}; wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(f"{self.path} can't be written: {disk_fault(error, self.path)}; choose another --out") from error
        if fresh and self.begun:
            self.release()
            raise UserError(f"{self.path} already contains a run; continue it with --resume, or choose another --out")
        if fresh and (taken := [name for name in OWN + DRAWN if os.path.lexists(self.path / name)]):
            self.release()
            raise UserError(f"{self.path} contains {taken[0]}, which a run would overwrite; choose another --out")

    def release(self) -> None:
        """Releases the lock. If the run never began, removes everything that `hold` created."""
        if self._lock:
            if not self.begun:
                (self.path / ".lock").unlink(missing_ok=True)
                with suppress(OSError):  # not empty
                    for place in self._made:
                        place.rmdir()
            self._lock.close()
            self._lock = None

    @property
    def begun(self) -> bool:
        return (self.path / "run.yaml").exists()

    def write(self, run: Options) -> None:
        write_run(self.path / "run.yaml", run)

    def read(self) -> Options:
        return read_run(self.path / "run.yaml")


def _open_lock(path: Path) -> Any:
    """Opens the lock file; anything but a regular file with a single link is replaced first."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            path.unlink()
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def free_path(path: Path) -> Path:
    """The path, with a number appended if it exists."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def claim_path(path: Path) -> Path:
    """Creates an empty folder at `free_path(path)` -> its path. Of several processes each gets its own."""
    while True:
        with suppress(FileExistsError):
            free = free_path(path)
            free.mkdir()
            return free


RUN: dict[str, Any] = {  # types of the keys of run.yaml
    "data": str | list,  # one source or several
    **dict.fromkeys(("method", "modality"), str),
    "encoder": str | dict | None,  # a name, or one by role
    **dict.fromkeys(("label", "split"), str | None),
    **dict.fromkeys(("knobs", "layout", "resolved", "statistics"), dict),
    "columns": dict | None,
    **dict.fromkeys(("fingerprint", "contents"), str | None),  # of the data; contents: of the store, if there is one
}

RESOLVED: dict[str, Any] = {**dict.fromkeys(("method", "encoder", "loop"), dict), "views": list}


def read_run(path: Path, named: bool = False) -> Options:
    """run.yaml, validated for resuming, reproducing and reporting. named: given by the user, so that it may be a link. Raises UserError."""
    run = read_yaml(path, None if named else path.parent)
    missing = {"data", "method", "encoder", "knobs", "layout", "resolved"} - set(run if isinstance(run, dict) else ())
    if missing:
        raise UserError(f"{path} is not a run file: it has no {sorted(missing)[0]}")
    check_kinds(run, RUN, f"{path} is not a run file: its")
    check_kinds(run["resolved"], RESOLVED, f"{path} is not a run file: its resolved")
    check_kinds(run["resolved"].get("loop", {}), {"seed": int, "minutes": int | float | None}, f"{path} is not a run file: its loop's")
    if isinstance(run["data"], list) and not (run["data"] and all(isinstance(name, str) for name in run["data"])):
        raise UserError(f"{path} is not a run file: its data must be a name or a list of names")
    if not all(isinstance(key, str) for key in run["knobs"]):
        raise UserError(f"{path} is not a run file: its knobs must be named by text")
    if not all(isinstance(view, dict) for view in run["resolved"].get("views", ())):
        raise UserError(f"{path} is not a run file: its resolved views have the wrong type")
    return {"modality": "image", "columns": None, "label": None, "split": None, **run}


def write_run(path: Path, run: Options) -> None:
    write_text(path, yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True))


def data_of(run: Options, folder: Path) -> str | list[str]:
    """The data source of a run, for reading it again. Raises UserError if it was in memory or would have to be downloaded.

    The caller compares fingerprints: the data may have changed, and runs of older versions have relative paths.
    """
    for name in run["data"] if isinstance(run["data"], list) else [run["data"]]:
        if name.startswith("in memory: "):
            raise UserError(
                f"{folder} was trained on data passed from Python ({name}); pass it again from Python, or give data with --data"
            )
        if name.startswith("hf:") or "://" in name:
            raise UserError(f"{folder} was trained on {name}, which is downloaded only on request: --data {name}")
    return run["data"]


def own_data(folder: Path) -> tuple[str | list[str], dict[str, str] | None, str | None, str | None]:
    """The data of the run in a folder, its columns, label and split. Raises UserError as `data_of`."""
    run = read_run(folder / "run.yaml")
    return data_of(run, folder), run["columns"], run["label"], run["split"]


def name_of(run: Options) -> str:
    """The name of the run's data in scores."""
    data = run.get("data", "")
    return data if isinstance(data, str) else ", ".join(data)


def seed_of(run: Options) -> int:
    return run["resolved"].get("loop", {}).get("seed", 0)


def plain(value: Any) -> Any:
    """The value for YAML and JSON: tuples as lists, paths as text."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value if isinstance(value, int | float | bool | type(None)) else str(value)
