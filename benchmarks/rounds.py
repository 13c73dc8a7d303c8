"""Contestants take turns, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Times:
    """Seconds a unit of work, one entry a round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def take_turns(contestants: dict[str, Callable[[], int]], rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, Times]:
    """Each contestant does some work and returns how many units it did; once to warm up, then `rounds` times in turn.

    The default clock counts the processor's time and not the wall's: with one thread, other jobs on the machine then weigh less.
    """
    result = {name: Times() for name in contestants}
    for work in contestants.values():
        work()
    for _ in range(rounds):
        for name, work in contestants.items():
            began = clock()
            units = work()
            result[name].seconds.append((clock() - began) / units)
    return result


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown, padded so that it also reads in a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> str:
    """One line: processor, cores, features that matter, versions."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), platform.processor())
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    features = " ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags)
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "lightly", "kornia", "timm", "pillow"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return f"{model}, {text.count('processor')} cores, {features}; {', '.join(versions)}"
