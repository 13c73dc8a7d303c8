"""A run that was killed, stopped or moved goes on to the very weights of the run that never was."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import AtRow, Cli, Running
from shards import write_shards

import untaught as ut
from untaught.core import UserError
from untaught.training import checkpoint
from untaught.training import trainer as fit_module

pytestmark = pytest.mark.usefixtures("bare_runs")

SIMCLR: dict[str, Any] = {"encoder.width": 8, "batch_size": 64, "precision": "float32", "log_every": 1, "save_every": 4}
MAE: dict[str, Any] = {
    "encoder.embed_dim": 24,
    "encoder.depth": 1,
    "encoder.num_heads": 2,
    "batch_size": 64,
    "log_every": 1,
    "save_every": 3,
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "steps": ("simclr", {**SIMCLR, "steps": 24}),
    "epochs": ("simclr", {**SIMCLR, "epochs": 2, "batch_size": 96}),
    "mae": ("mae", {**MAE, "steps": 24}),
    "byol": ("byol", {**SIMCLR, "steps": 24}),
    "dino": ("dino", {**SIMCLR, "steps": 24, "prototypes": 64, "accumulate": 2}),
    "deepcluster": ("deepcluster", {**SIMCLR, "steps": 24, "prototypes": 20}),  # enters an epoch twice
    "stream": ("simclr", {**SIMCLR, "steps": 24, "stream": "true"}),
    "shards": ("simclr", {**SIMCLR, "steps": 24, "stream": "true"}),
}
DATA = {"shards": "$SHARDS"}  # of all others builtin:digits


def weights_of(run: Path) -> str:
    return hashlib.sha256((run / "encoder" / "model.safetensors").read_bytes()).hexdigest()


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def same_machine(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache and the threads of the processes that are killed: sums in another order are other sums."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
        patch.setenv("SHARDS", str(write_shards(tmp_path_factory.mktemp("shards"))))
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of this name, trained in one go, once."""
    place = tmp_path_factory.mktemp("whole")

    def run(name: str) -> Path:
        if not (place / name).exists():
            train(name, place / name)
        return place / name

    return run


def data_of(name: str) -> str:
    return os.path.expandvars(DATA.get(name, "builtin:digits"))


def train(name: str, out: Path, resume: bool = False, **knobs: Any) -> ut.Run:
    method, own = RUNS[name]
    dotted = {key.replace(".", "__"): value for key, value in {"size": 16, **own, **knobs}.items()}
    return ut.pretrain(data_of(name), method, out=out, resume=resume, **dotted)


def begin(cli: Cli, name: str, out: Path, first: AtRow | None = None) -> Running:
    method, own = RUNS[name]
    knobs = [f"{key}={value}" for key, value in {"size": 16, **own}.items()]
    return cli.start("pretrain", data_of(name), "--method", method, "--out", out, *knobs, first=first)


def killed(cli: Cli, name: str, out: Path, rows: int) -> list[int]:
    """The run of this name is killed when so many rows of its metrics are written -> the steps that have a checkpoint."""
    assert begin(cli, name, out, AtRow(rows, signal.SIGKILL)).wait().code == -signal.SIGKILL
    assert not (out / "encoder").exists()
    return checkpoint.steps(out / "checkpoints")


@pytest.mark.parametrize("name", RUNS)
def test_kill_9_then_resume_gives_the_same_weights(name: str, cli: Cli, tmp_path: Path, never_killed: Callable[[str], Path]) -> None:
    """Killed between two checkpoints: there is one to go on from, and there are rows behind it."""
    out = tmp_path / "run"
    saved = killed(cli, name, out, rows=8)
    assert saved
    assert rows_of(out)[-1]["step"] > saved[-1]
    train(name, out, resume=True)
    assert weights_of(out) == weights_of(never_killed(name))
    said = [{key: row.get(key) for key in ("step", "loss", "lr", "samples", "knn20")} for row in rows_of(out)]
    assert said == [{key: row.get(key) for key in said[0]} for row in rows_of(never_killed(name))]


def test_killed_while_the_checkpoint_is_written_it_goes_on_from_the_one_before(
    cli: Cli, tmp_path: Path, never_killed: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert killed(cli, "steps", out, rows=12) == [4, 8]
    newest = out / "checkpoints" / "step-8"
    os.truncate(newest / "state.pt", 100)
    (out / "checkpoints" / ".partial-step-99").mkdir()
    train("steps", out, resume=True)
    assert f"warning: checkpoint {newest} is damaged: its checksum is wrong" in capsys.readouterr().err
    assert weights_of(out) == weights_of(never_killed("steps"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_says_how_to_go_on_and_loses_no_step(
    number: signal.Signals, code: int, cli: Cli, tmp_path: Path, never_killed: Callable[[str], Path]
) -> None:
    out = tmp_path / "run"
    running = begin(cli, "steps", out, AtRow(6, number))
    assert running.wait().code == code, running.err
    assert "Traceback" not in running.err
    last = running.err.splitlines()[-1]
    assert last.endswith(f"resume with: untaught pretrain --out {out} --resume")
    stopped = int(last.split("at step ")[1].split(",")[0])
    assert rows_of(out)[-1]["step"] == stopped
    assert (out / "checkpoints" / f"step-{stopped}").is_dir()
    ut.pretrain(out=out, resume=True)
    assert weights_of(out) == weights_of(never_killed("steps"))


# --------------------------------------------------------------------------------------- what a resume may change


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps."""
    out = tmp_path_factory.mktemp("finished") / "done"
    train("steps", out, steps=4, save_every=2)
    return out


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to do with as one likes."""
    return shutil.copytree(finished, tmp_path / "done")


def test_resuming_a_finished_run_does_no_harm(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, rows, scores = weights_of(done), rows_of(done), (done / "evaluation.json").read_text()
    capsys.readouterr()
    ut.pretrain(out=done, resume=True)
    assert (weights_of(done), rows_of(done), (done / "evaluation.json").read_text()) == (weights, rows, scores)
    assert "after step 4 of 4; training is complete" in capsys.readouterr().err


def test_a_finished_run_can_be_made_longer_and_stays_so(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ut.pretrain(out=done, resume=True, steps=6)
    assert "resuming  with steps=6 (was steps=4)" in capsys.readouterr().err
    assert [row["step"] for row in rows_of(done) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    ut.pretrain(out=done, resume=True)
    assert "of 6; training is complete" in capsys.readouterr().err


def test_the_kind_of_length_may_change(done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()  # every look at the clock is a second later, so that a step takes as long on any machine
    monkeypatch.setattr(fit_module, "time", types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    before = rows_of(done)[-1]["seconds"]
    ut.pretrain(out=done, resume=True, epochs=1)
    assert "resuming  with epochs=1 (was steps=4)" in capsys.readouterr().err
    assert rows_of(done)[-1]["step"] == 1438 // 64
    seconds = rows_of(done)[-1]["seconds"]
    step = (seconds - before) / (22 - 4)
    ut.pretrain(out=done, resume=True, minutes=(seconds + 11 * step) / 60)
    assert rows_of(done)[-1]["step"] == pytest.approx(22 + 11, abs=2)


def test_minutes_may_come_before_any_time_is_known(tmp_path: Path) -> None:
    train("steps", tmp_path / "run", steps=4, save_every=2, log_every=20)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-4")  # as if killed there: no row of metrics has said a time yet
    ut.pretrain(out=tmp_path / "run", resume=True, minutes=0.02)
    assert rows_of(tmp_path / "run")[-1]["step"] > 2


def test_another_learning_rate_is_said_and_used(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ut.pretrain(out=done, resume=True, steps=6, lr=0.5, schedule="constant")
    said = capsys.readouterr().err
    assert "resuming  with lr=0.5 (was the default)" in said
    assert rows_of(done)[-1]["lr"] == 0.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"temperature": 0.1}, "temperature=0.1: the run in .* has temperature=its default"),
        ({"batch_size": 32}, "batch_size=32: the run in .* has batch_size=64"),
        ({"method": "mae"}, "--method mae: the run in .* has simclr"),
        ({"encoder": "vit_mini"}, "--encoder vit_mini: the run in .* has conv_small"),
        ({"label": "kind"}, "--label kind: the run in .* has none"),
    ],
)
def test_a_resume_with_another_sample_order_or_network_stops(done: Path, changed: dict[str, Any], said: str) -> None:
    before = weights_of(done)
    with pytest.raises(UserError, match=said):
        ut.pretrain(out=done, resume=True, **changed)
    assert weights_of(done) == before


def test_a_resume_with_other_data_stops(done: Path) -> None:
    with pytest.raises(UserError, match="the data has changed since the run started"):
        ut.pretrain("builtin:photos", out=done, resume=True)


def test_a_folder_with_a_run_is_not_begun_anew(done: Path) -> None:
    before = weights_of(done)
    with pytest.raises(UserError, match=r"already contains a run; continue it with --resume, or choose another --out"):
        train("steps", done)
    assert weights_of(done) == before


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--resume requires --out, the run to resume"):
        ut.pretrain("builtin:digits", resume=True)
    with pytest.raises(UserError, match="has no run to resume; give data to start one"):
        ut.pretrain(out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_that_never_began_leaves_the_folders_that_were_there_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "mine", tmp_path / "runs" / "new"):
        with pytest.raises(UserError, match="larger than the training part"):
            ut.pretrain("builtin:digits", steps=1, batch_size=1024 * 64, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_of_arrays_goes_on_with_the_same_arrays_and_no_other(tmp_path: Path) -> None:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    knobs: dict[str, Any] = {"out": tmp_path / "run", "size": 16, "batch_size": 16, "encoder__width": 8}
    ut.pretrain(pixels, steps=2, **knobs)
    with pytest.raises(UserError, match=r"the data of the run was a Python object .* pass it again from Python"):
        ut.pretrain(out=tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="the data has changed"):
        ut.pretrain(pixels + 1, out=tmp_path / "run", resume=True)
    ut.pretrain(pixels, resume=True, **{**knobs, "steps": 4})
    assert rows_of(tmp_path / "run")[-1]["step"] == 4


def test_a_run_whose_store_is_held_on_the_device_is_the_same_run(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("untaught.data.loader.room", lambda device: 1 << 30)
    capsys.readouterr()
    train("steps", tmp_path / "held", steps=4, save_every=2)
    assert " kB, cached on cpu" in capsys.readouterr().err
    assert weights_of(tmp_path / "held") == weights_of(done)


def test_from_repeats_a_run_to_equal_weights(cli: Cli, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    finished = cli("pretrain", "--from", done / "run.yaml", "--out", out)
    assert finished.code == 0, finished.err
    assert weights_of(out) == weights_of(done)
    first, second = (yaml.safe_load((place / "run.yaml").read_text()) for place in (done, out))
    assert first == second


def test_knobs_beside_from_take_the_place_of_the_runs(cli: Cli, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    finished = cli("pretrain", "--from", done / "run.yaml", "--out", out, "steps=2", "temperature=0.3")
    assert finished.code == 0, finished.err
    first, second = (yaml.safe_load((place / "run.yaml").read_text())["knobs"] for place in (done, out))
    assert second == first | {"steps": "2", "temperature": "0.3"}
