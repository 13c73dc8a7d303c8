"""Whole runs in several processes, begun, stopped, broken and gone on with in the ways that users have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import Cli, Running
from processes import free_port, variables
from safetensors.torch import load_file

import untaught as ut
from untaught.core import UserError
from untaught.distributed.launch import _reason, launch
from untaught.evaluation.evaluator import read_rows
from untaught.training import checkpoint

TINY = (
    "encoder.width=8",
    "size=16",
    "batch_size=64",
    "precision=float32",
    "log_every=1",
    "evaluate_every=0",
    "optimizer=sgd",
    "momentum=0",
    "lr=0.001",
)
DIGITS = ("pretrain", "builtin:digits", *TINY)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> torch.Tensor:
    return torch.cat([value.float().flatten() for _, value in sorted(load_file(run / "encoder" / "model.safetensors").items())])


def wait_for(found: Callable[[], object], process: Any) -> None:
    until = time.monotonic() + 400
    while not found():
        assert process.is_alive() if hasattr(process, "is_alive") else process.poll() is None, "ended before"
        assert time.monotonic() < until, "nothing to see"
        time.sleep(0.02)


def pair(cli: Cli, *arguments: object) -> tuple[Running, Running]:
    """The command in two processes, as torchrun starts it; without waiting."""
    port = free_port()
    return cli.start(*arguments, **variables(0, 2, port)), cli.start(*arguments, **variables(1, 2, port))


def ended(running: tuple[Running, Running]) -> str:
    """What the first said; both ended well, and the second said nothing."""
    first, second = (one.wait() for one in running)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.err == ""
    return first.err


@pytest.fixture(scope="module")
def alone(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 steps of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = cli(*DIGITS, "steps=8", "--out", out)
    assert done.code == 0, done.err
    return out


def same_run(run: Path, other: Path) -> None:
    losses, expected = ([row["loss"] for row in rows_of(place) if "loss" in row] for place in (run, other))
    assert losses == pytest.approx(expected, rel=1e-3)
    assert (weights_of(run) - weights_of(other)).norm() < 1e-3 * weights_of(other).norm()


def same_scores(run: Path, other: Path) -> None:
    """The baselines' to the digit; the encoder's to a few of 359 test images, since its weights differ by rounding."""
    scores, expected = (
        {(row["features"], row["probe"]): row["mean"] for row in read_rows(place / "evaluation.json")} for place in (run, other)
    )
    assert {features for features, _ in expected} == {"encoder", "random_init", "raw"}
    assert {name: score for name, score in scores.items() if name[0] != "encoder"} == {
        name: score for name, score in expected.items() if name[0] != "encoder"
    }
    assert scores == pytest.approx(expected, abs=0.02)


def test_the_command_starts_processes_and_its_run_is_that_of_one(cli: Cli, tmp_path: Path, alone: Path) -> None:
    done = cli(*DIGITS, "steps=8", "--devices", 2, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    same_run(tmp_path / "run", alone)
    same_scores(tmp_path / "run", alone)
    assert done.err.count("trained   8 steps") == 1  # one says it
    assert "2 processes with 1 threads each" in done.err
    for file in ("evaluation.json", "report.html", "views.png", "sample.npz", "encoder/model.pt2"):
        assert (tmp_path / "run" / file).exists()


def test_weights_that_are_shared_out_come_together_in_the_encoder(cli: Cli, tmp_path: Path, alone: Path) -> None:
    said = ended(pair(cli, *DIGITS, "steps=8", "--strategy", "fsdp", "evaluate_every=4", "--out", tmp_path / "run"))
    same_run(tmp_path / "run", alone)
    assert "knn20" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "health    " in said
    assert ut.load(tmp_path / "run").embed("builtin:digits").shape == (1797, 64)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("before", [2, 1])
def test_a_run_goes_on_in_another_number_of_processes(cli: Cli, tmp_path: Path, alone: Path, before: int, strategy: str) -> None:
    def run(processes: int, *arguments: object) -> str:
        if processes == 2:
            return ended(pair(cli, "pretrain", *arguments))
        done = cli("pretrain", *arguments)
        assert done.code == 0, done.err
        return done.err

    out = tmp_path / "run"
    run(before, *DIGITS[1:], "steps=8", "save_every=4", "--devices", before, "--strategy", strategy, "--out", out)
    shutil.rmtree(out / "checkpoints" / "step-8")  # as if it had been stopped after 4 steps
    said = run(3 - before, "--out", out, "--resume", "--devices", 3 - before)
    assert ("2 processes" in said) == (before == 1)
    assert ("resuming  with devices=1 (was devices=2)" in said) == (before == 2)
    assert "resuming  from step 4 of 8" in said
    assert "damaged" not in said
    same_run(out, alone)


def test_a_damaged_part_of_a_checkpoint_is_noticed(cli: Cli, tmp_path: Path) -> None:
    done = cli(*DIGITS, "steps=4", "save_every=2", "strategy=fsdp", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    (part,) = (tmp_path / "run" / "checkpoints" / "step-4").glob("*.safetensors")
    os.truncate(part, 100)
    done = cli("pretrain", "--out", tmp_path / "run", "--resume")
    assert done.code == 0, done.err
    assert "step-4 is damaged: its checksum is wrong; falling back to the one before" in done.err
    assert "resuming  from step 2 of 4" in done.err


def saved_and_said(out: Path, said: str) -> None:
    (last,) = [line for line in said.splitlines() if line.startswith("stopped")]
    step = int(last.split("at step ")[1].split(",")[0])
    assert last.endswith(f"resume with: untaught pretrain --out {out} --resume")
    assert (out / "checkpoints" / f"step-{step}").is_dir()
    assert rows_of(out)[-1]["step"] == step
    assert "Traceback" not in said


def test_sigterm_to_the_command_stops_all(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = cli.start(*DIGITS, "steps=5000", "--devices", 2, "--out", out)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(rows_of(out)) > 1, running.process)
    running.process.terminate()
    assert running.wait().code == 143, running.err
    saved_and_said(out, running.err)


def test_sigterm_to_one_process_stops_all_at_one_step(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first, second = pair(cli, *DIGITS, "steps=5000", "--out", out)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(rows_of(out)) > 1, second.process)
    second.process.terminate()
    assert (first.wait().code, second.wait().code) == (143, 143), first.err + second.err
    saved_and_said(out, first.err)


@pytest.mark.parametrize("when", ["training", "a checkpoint is written"])
def test_a_process_that_is_killed_ends_the_others(cli: Cli, tmp_path: Path, when: str) -> None:
    out, strategy = tmp_path / "run", ["--strategy", "fsdp", "save_every=1"] if when != "training" else []
    first, second = pair(cli, *DIGITS, "steps=5000", *strategy, "--out", out)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(rows_of(out)) > 1, second.process)
    if strategy:
        wait_for(lambda: list(out.glob("checkpoints/.partial.*/part-*")), second.process)
    second.process.kill()
    assert first.wait().code == 1
    (last,) = [line for line in first.err.splitlines() if line.startswith("error: ")]
    assert "another process of this run exited; resume from the last checkpoint with --resume" in last
    assert "Traceback" not in first.err
    if strategy:
        assert not list(out.glob("checkpoints/.partial.*"))
        assert checkpoint.load(out / "checkpoints", pytest.fail) is not None


def test_torchrun_starts_a_broken_run_anew_and_it_goes_on(cli: Cli, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    asked = [*DIGITS, "steps=8", "save_every=2", "--out", str(out)]
    with open(tmp_path / "said", "w") as said:
        environment = os.environ | cli.variables
        process = subprocess.Popen([*torchrun, "-m", "untaught.cli", *asked], env=environment, stdout=said, stderr=said)
    try:
        wait_for(lambda: list(out.glob("checkpoints/step-*")), process)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert process.wait(400) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
    assert "resuming  from step" in (tmp_path / "said").read_text()
    assert [row["step"] for row in rows_of(out)] == list(range(1, 9))
    same_run(out, alone)


def test_slurm_is_recognised(cli: Cli, tmp_path: Path, alone: Path) -> None:
    port = str(free_port())
    running = []
    for rank in range(2):
        numbers = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "PROCID": rank, "LOCALID": rank, "NODEID": 0, "JOB_ID": 1}
        given = {f"SLURM_{key}": str(value) for key, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        running.append(cli.start(*DIGITS, "steps=8", "--out", tmp_path / "run", **given))
    assert "2 processes" in ended((running[0], running[1]))
    same_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--devices", "0"], "devices=0: must be a whole number from 1 to 65,536"),
        (["--nodes", "2"], "nodes=2: start the command on every machine with torchrun --nnodes 2 or srun"),
        (["--strategy", "horovod"], "strategy=horovod: must be one of ddp, fsdp"),
        (["--devices", "2", "lr=1e6", "warmup=0", "steps=30"], "training diverged at step"),
    ],
)
def test_a_fault_is_said_once(cli: Cli, tmp_path: Path, asked: list[str], said: str) -> None:
    assert said in cli(*DIGITS, "steps=3", *asked, "--out", tmp_path / "run").error


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("batch_size=63", "batch_size=63 can't be split over 2 processes; choose a multiple of 2"),
        ("strategy=fsdp optimizer=lars", "optimizer=lars is not tested with strategy=fsdp; use one of muon, adamw, sgd"),
        ("devices=4", "devices=4: torchrun started 2; omit devices, or start 4"),
    ],
)
def test_a_fault_of_all_is_said_by_the_first(cli: Cli, tmp_path: Path, asked: str, said: str) -> None:
    first, second = pair(cli, *DIGITS, "steps=3", *asked.split(), "--out", tmp_path / "run")
    assert first.wait().error == said
    assert (second.wait().code, second.err) == (2, "")


def test_a_fault_of_one_is_that_of_all(cli: Cli, tmp_path: Path) -> None:
    """As on two machines of which one lacks the data."""
    np.save(tmp_path / "x.npy", np.zeros((8, 8, 8), np.uint8))
    port = free_port()
    running = [
        cli.start("pretrain", tmp_path / name, "--out", tmp_path / "run", **variables(rank, 2, port))
        for rank, name in enumerate(("x.npy", "none.npy"))
    ]
    first, second = (one.wait() for one in running)
    assert "none.npy" in first.error
    assert (second.code, second.err) == (2, "")


# -------------------------------------------------------------------------------------------------------- from Python


@pytest.fixture
def cache(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("cache")
def test_python_starts_processes_and_gets_the_run(tmp_path: Path, alone: Path) -> None:
    knobs: dict[str, Any] = {key.replace(".", "__"): value for key, value in (one.split("=") for one in TINY)}
    run = ut.pretrain("builtin:digits", out=tmp_path / "run", devices=2, steps=8, **knobs)
    same_run(run.path, alone)
    with pytest.raises(UserError, match="already contains a run"):
        ut.pretrain("builtin:digits", out=tmp_path / "run", devices=2, steps=8, **knobs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": np.zeros((8, 8, 8), np.uint8)}, "a Python object as data can't be sent to other processes; save it as .npz"),
        ({"data": "builtin:digits", "encoder": torch.nn.Flatten()}, "a Python object as encoder can't be sent"),
    ],
)
def test_what_lives_in_memory_cannot_be_sent(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"devices=2: {said}"):
        ut.pretrain(**given, out=tmp_path / "run", devices=2, steps=1)
    assert not (tmp_path / "run").exists()


def test_a_reported_fault_is_the_reason_however_the_processes_then_ended() -> None:
    said = {"message": "the folder is in use", "extraInfo": {"py_callstack": "", "timestamp": "5"}}
    reported = SimpleNamespace(exitcode=-signal.SIGABRT, message=said, timestamp=5)  # some threads of torch abort while it exits
    ended = SimpleNamespace(exitcode=-signal.SIGTERM, message="Signal 15 (SIGTERM) received by PID 1", timestamp=4)
    assert str(_reason({0: ended, 1: reported}, 2)) == "the folder is in use"
    assert "process 0 of 2 was killed (SIGTERM)" in str(_reason({0: ended}, 2))


@pytest.mark.parametrize(("processes", "each"), [(2, "4"), (3, "2"), (16, "1")])
def test_processes_share_the_threads_unless_their_number_is_given(processes: int, each: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch", lambda *_: lambda *command: seen.append(os.environ["OMP_NUM_THREADS"])
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch(["-c", ""], processes)
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launch(["-c", ""], processes)
    assert seen == [each, "3"]
