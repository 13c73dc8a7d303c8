"""A run folder: what it is called, what it holds, and run.yaml."""

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

OWN = ("metrics.jsonl", "plans.jsonl", "checkpoints", "encoder", "method", "evaluation.json", "report.html", "sample.npz", "views.png")


class Folder:
    """runs/NAME: run.yaml, metrics.jsonl, checkpoints/, encoder/. Held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None
        self._made: list[Path] = []  # folders, the innermost first

    def hold(self, fresh: bool) -> None:
        """Creates the folder and locks it; the lock goes when the process does. fresh: it may hold neither a run nor a file named as one of
        a run's."""
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
            raise UserError(f"{self.path} already holds a run; go on with it with --resume, or choose another --out")
        if fresh and (taken := [name for name in OWN if os.path.lexists(self.path / name)]):
            self.release()
            raise UserError(f"{self.path} holds no run, but {taken[0]}, which a run would replace; choose another --out")

    def release(self) -> None:
        """Lets others in; of a run that never began nothing is left, but the folders that were there before."""
        if self._lock:
            if not self.begun:
                (self.path / ".lock").unlink(missing_ok=True)
                with suppress(OSError):  # it holds something else
                    for place in self._made:
                        place.rmdir()
            self._lock.close()
            self._lock = None

    @property
    def begun(self) -> bool:
        return (self.path / "run.yaml").exists()

    def write(self, asked: Options) -> None:
        write_run(self.path / "run.yaml", asked)

    def read(self) -> Options:
        return read_run(self.path / "run.yaml")


def _open_lock(path: Path) -> Any:
    """The file, opened to be locked and written; what is no file of its own, as a link to another, makes room for one."""
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            path.unlink()
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def free_path(path: Path) -> Path:
    """The path, with a number where it is taken."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


RUN: dict[str, Any] = {  # what others read of run.yaml, and of what kind it must be
    "data": str | list,  # one name or several
    **dict.fromkeys(("method", "modality"), str),
    **dict.fromkeys(("encoder", "label", "split"), str | None),
    **dict.fromkeys(("knobs", "layout", "resolved", "statistics"), dict),
    "columns": dict | None,
    **dict.fromkeys(("fingerprint", "contents"), str | None),  # of the data; contents: of the store, if one was packed
}

RESOLVED: dict[str, Any] = {**dict.fromkeys(("method", "encoder", "loop"), dict), "views": list}


def read_run(path: Path, named: bool = False) -> Options:
    """run.yaml, whole enough to be gone on with, repeated and reported. named: by the user, so that it may be a link. Raises UserError."""
    run = read_yaml(path, None if named else path.parent)
    missing = {"data", "method", "encoder", "knobs", "layout", "resolved"} - set(run if isinstance(run, dict) else ())
    if missing:
        raise UserError(f"{path} is no run file: it has no {sorted(missing)[0]}")
    check_kinds(run, RUN, f"{path} is no run file: its")
    check_kinds(run["resolved"], RESOLVED, f"{path} is no run file: its resolved")
    check_kinds(run["resolved"].get("loop", {}), {"seed": int, "minutes": int | float | None}, f"{path} is no run file: its loop's")
    if isinstance(run["data"], list) and not (run["data"] and all(isinstance(name, str) for name in run["data"])):
        raise UserError(f"{path} is no run file: its data is a list, but not of names")
    if not all(isinstance(key, str) for key in run["knobs"]):
        raise UserError(f"{path} is no run file: its knobs have names that are no text")
    if not all(isinstance(view, dict) for view in run["resolved"].get("views", ())):
        raise UserError(f"{path} is no run file: its resolved views are of another kind than they must be")
    return {"modality": "image", "columns": None, "label": None, "split": None, **run}


def write_run(path: Path, run: Options) -> None:
    write_text(path, yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True))


def data_of(run: Options, folder: Path) -> str | list[str]:
    """The data that a run was trained on, to be read again; a UserError where it was in memory, or would be fetched unasked.

    Who reads it compares it with what the run says: it may have changed, and runs of older versions keep relative paths.
    """
    for name in run["data"] if isinstance(run["data"], list) else [run["data"]]:
        if name.startswith("in memory: "):
            raise UserError(f"{folder} had its data from Python ({name}); give it again from there, or name some with --data")
        if name.startswith("hf:") or "://" in name:
            raise UserError(f"{folder} was trained on {name}, which is fetched only when you name it: --data {name}")
    return run["data"]


def name_of(run: Options) -> str:
    """The run's data as scores name it."""
    data = run.get("data", "")
    return data if isinstance(data, str) else ", ".join(data)


def seed_of(run: Options) -> int:
    return run["resolved"].get("loop", {}).get("seed", 0)


def plain(value: Any) -> Any:
    """Tuples as lists, paths as text: what YAML and JSON can say."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value if isinstance(value, int | float | bool | type(None)) else str(value)
