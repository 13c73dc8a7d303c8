"""`untaught ARGUMENTS` as a user runs it: a process of its own with pipes for its output."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    *("untaught.cli", "untaught.commands.preview", "untaught.inference.embed", "untaught.commands.finetune", "untaught.inference.predict"),
    *("untaught.evaluation.evaluate", "untaught.report.page", "untaught.export.formats", "lightning_fabric", "pydantic", "timm"),
    *(
        "sklearn.cluster",
        "sklearn.datasets",
        "sklearn.linear_model",
        "sklearn.manifold",
        "sklearn.model_selection",
        "torch.export",
        "typer",
    ),
]


def draw_maps_quickly() -> None:
    """Maps of embeddings become those of principal components: t-SNE takes longer than these trainings, and has tests of its own."""
    from untaught.evaluation import plane

    plane.FEW = sys.maxsize


@dataclass
class Running:
    process: BaseProcess
    files: tuple[Path, Path]

    def wait(self) -> Running:
        self.process.join(180)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after three minutes: {self.err}")
        return self

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def out(self) -> str:
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        return self.files[1].read_text()

    @property
    def error(self) -> str:
        """The one line that a faulty command must end with, its exit code checked."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 2, self.err
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


@dataclass
class AtRow:
    """The process sends itself a signal as soon as it has written so many rows of metrics: no earlier and no later."""

    rows: int
    number: signal.Signals

    def __call__(self) -> None:
        from untaught.training.metrics import Metrics

        write, counted = Metrics.write, itertools.count(1)

        def watched(metrics: Metrics, row: dict[str, Any]) -> None:
            write(metrics, row)
            if next(counted) == self.rows:
                os.kill(os.getpid(), self.number)

        setattr(Metrics, "write", watched)  # noqa: B010


class Cli:
    def __init__(self, place: Path) -> None:
        self.place, self.number = place, itertools.count()
        self.variables = {"UNTAUGHT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, *arguments: object, cwd: Any = None, first: Any = None, **variables: str) -> Running:
        """first: an AtRow, done in the process before the command."""
        number = next(self.number)
        files = self.place / f"{number}.out", self.place / f"{number}.err"
        for file in files:
            file.touch()
        job = ([str(a) for a in arguments], files, cwd or self.place, {**self.variables, **variables}, first)
        process = self.context.Process(target=_child, args=job)
        process.start()
        return Running(process, files)

    def __call__(self, *arguments: object, cwd: Path | None = None, **variables: str) -> Running:
        return self.start(*arguments, cwd=cwd, **variables).wait()


def _child(arguments: list[str], files: tuple[Path, Path], cwd: Path, variables: dict[str, str], first: AtRow | None) -> None:
    os.environ.update(variables)
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))  # this interpreter began long before
    os.chdir(cwd)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    import torch

    torch.set_num_threads(1)
    draw_maps_quickly()
    sys.argv = ["untaught", *arguments]
    from untaught.cli import main

    if first is not None:
        first()
    main()
