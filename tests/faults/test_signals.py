"""What a scheduler sends before it kills: whatever is going on ends in one line, and nothing is half done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from command import AtRow, Cli, Running
from lives import Life, end_when

TWO = (signal.SIGTERM, signal.SIGUSR1)


def last_line(running: Running, number: signal.Signals) -> str:
    assert running.code == 128 + number, running.err
    assert "Traceback" not in running.err
    lines = running.err.splitlines()
    assert sum(line.startswith("stopped") for line in lines) == 1, running.err
    return lines[-1]


@pytest.mark.parametrize("number", TWO)
def test_while_packing_nothing_is_kept(number: signal.Signals, cli: Cli, photos: Path, tmp_path: Path) -> None:
    life = Life(cli, photos, tmp_path)
    running = life.start()
    assert end_when(running, life.packs, number)
    assert last_line(running, number) == f"stopped   by {number.name} before training started; nothing was saved"
    assert life.left_over() == []
    assert not life.out.exists()


def test_while_the_end_is_scored_it_says_how_to_go_on(cli: Cli, photos: Path, tmp_path: Path, undisturbed: Life) -> None:
    life = Life(cli, photos, tmp_path)
    running = life.start()
    assert end_when(running, life.encoder, signal.SIGTERM)
    said = last_line(running, signal.SIGTERM)
    assert said == f"stopped   by SIGTERM at step 40, saved; resume with: untaught pretrain --out {life.out} --resume"
    life.finish()
    assert (life.weights(), life.rows(), life.files()) == (undisturbed.weights(), undisturbed.rows(), undisturbed.files())


def test_sent_twice_it_is_one_signal(cli: Cli, photos: Path, tmp_path: Path, undisturbed: Life) -> None:
    life = Life(cli, photos, tmp_path)
    running = life.start()
    metrics = life.out / "metrics.jsonl"

    def seen() -> bool:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 3:
            assert running.process.pid
            os.kill(running.process.pid, signal.SIGTERM)
            return True
        return False

    assert end_when(running, seen, signal.SIGTERM)
    assert "saved; resume with" in last_line(running, signal.SIGTERM)
    life.finish()
    assert (life.weights(), life.rows()) == (undisturbed.weights(), undisturbed.rows())


def test_a_score_that_is_due_at_the_step_of_a_signal_is_not_lost(cli: Cli, photos: Path, tmp_path: Path, undisturbed: Life) -> None:
    """Steps 8, 16 ... are scored: the signal comes when the row of step 7 is written, and is acted on at the end of step 8."""
    life = Life(cli, photos, tmp_path)
    said = last_line(life.start(AtRow(7, signal.SIGTERM)).wait(), signal.SIGTERM)
    assert "at step 8, saved" in said
    life.finish()
    assert [row["step"] for row in life.rows() if "knn20" in row] == [8, 16, 24, 32]
    assert life.rows() == undisturbed.rows()


def test_while_evaluating_the_scores_stay_as_they_were(cli: Cli, undisturbed: Life) -> None:
    before = (undisturbed.out / "evaluation.json").read_bytes()
    running = cli.start("evaluate", undisturbed.out, UNTAUGHT_CACHE=str(undisturbed.cache))
    assert end_when(running, lambda: "labels    2 classes" in running.err, signal.SIGTERM)
    assert last_line(running, signal.SIGTERM) == "stopped   by SIGTERM; unfinished work was not saved"
    assert (undisturbed.out / "evaluation.json").read_bytes() == before
