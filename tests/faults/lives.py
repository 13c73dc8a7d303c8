"""Runs that are watched from outside and ended at a chosen moment."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from command import AtRow, Cli, Running
from PIL import Image

KNOBS = ("steps=40", "size=16", "batch_size=16", "encoder.width=4", "precision=float32", "log_every=1", "save_every=2", "evaluate_every=8")


def write_photos(folder: Path, count: int) -> Path:
    """Images of two classes."""
    for i in range(count):
        place = folder / ("cat", "dog")[i % 2] / f"{i:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 200, (12, 12, 3), dtype=np.uint8) + np.uint8(50 * (i % 2))
        Image.fromarray(pixels).save(place)
    return folder


class Life:
    """One run folder with a cache of its own, worked on by one process after another."""

    def __init__(self, cli: Cli, photos: Path, place: Path) -> None:
        self.cli, self.photos, self.out, self.cache = cli, photos, place / "run", place / "cache"
        place.mkdir(parents=True, exist_ok=True)

    def start(self, first: AtRow | None = None) -> Running:
        """first: see Cli.start."""
        return self.cli.start("pretrain", self.photos, *KNOBS, "--out", self.out, "--resume", first=first, UNTAUGHT_CACHE=str(self.cache))

    def finish(self) -> None:
        running = self.start().wait()
        assert running.code == 0, running.err

    # ------------------------------------------------------------------------------------------------- what is there

    def packs(self) -> bool:
        return any(self.cache.glob("stores/*.unfinished"))

    def saves(self) -> bool:
        return any(self.out.glob("checkpoints/.partial.*"))

    def steps(self) -> int:
        """Lines of the metrics, one a step."""
        lines = self.out / "metrics.jsonl"
        return lines.read_bytes().count(b"\n") if lines.exists() else 0

    def encoder(self) -> int:
        """Another number for another encoder folder; 0 where there is none."""
        try:
            return (self.out / "encoder").stat().st_ino
        except FileNotFoundError:  # asked for without looking first: it may go between the two
            return 0

    def rows(self) -> list[dict[str, Any]]:
        """Of the metrics, without what depends on the clock."""
        said = ("step", "epoch", "samples", "loss", "lr", "knn20", "knn200")
        read = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        return [{key: row[key] for key in said if key in row} for row in read]

    def weights(self) -> str:
        return hashlib.sha256((self.out / "encoder" / "model.safetensors").read_bytes()).hexdigest()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*"))

    def left_over(self) -> list[Path]:
        return [path for path in (*self.out.rglob("*"), *self.cache.rglob("*")) if "partial" in path.name or "unfinished" in path.name]


def end_when(running: Running, seen: Callable[[], object], number: signal.Signals, after: float = 0.0) -> bool:
    """Sends the signal as soon as `seen` says so, and `after` seconds; False where the process ended before."""
    until = time.monotonic() + 120
    while not seen():
        if not running.process.is_alive():
            return False
        assert time.monotonic() < until, f"two minutes and nothing to see: {running.err}"
        time.sleep(0.0005)
    time.sleep(after)
    pid = running.process.pid
    if pid is None or not running.process.is_alive():
        return False
    os.kill(pid, number)
    running.wait()
    return True
