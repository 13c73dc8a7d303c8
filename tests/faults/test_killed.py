"""kill -9, again and again, wherever it hurts: what comes out in the end is what would have come out."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

from command import Cli
from lives import Life, end_when

DEATHS = ["start"] * 2 + ["packing"] * 3 + ["training"] * 5 + ["checkpoint"] * 5 + ["scoring"] * 5


def moment(kind: str, life: Life, draws: random.Random) -> tuple[Callable[[], object], float]:
    """What is waited for, and how many seconds more."""
    if kind == "start":
        return lambda: True, draws.uniform(0, 0.3)
    # What is too short to be seen on a busy machine is not waited for to the end of the run: a little later will do.
    if kind == "packing":
        return lambda: life.packs() or life.steps() > 0, draws.uniform(0, 0.05)
    if kind == "checkpoint":
        late = life.steps() + 4
        return lambda: life.saves() or life.steps() > late, draws.uniform(0, 0.004)
    if kind == "scoring":
        before = life.encoder()
        return lambda: life.encoder() not in (0, before), draws.uniform(0, 0.5)
    lines = life.out / "metrics.jsonl"
    before, more = lines.read_bytes() if lines.exists() else b"", draws.randrange(100, 2000)
    return lambda: lines.exists() and (now := lines.read_bytes()) != before and len(now) > more, 0.0


def test_killed_twenty_times_it_ends_as_if_it_never_had_been(cli: Cli, photos: Path, tmp_path: Path, undisturbed: Life) -> None:
    life, draws, killed = Life(cli, photos, tmp_path), random.Random(20), []
    for kind in DEATHS:
        running = life.start()
        seen, after = moment(kind, life, draws)
        if end_when(running, seen, signal.SIGKILL, after) and running.code == -signal.SIGKILL:
            killed.append(kind)
        else:
            assert running.wait().code == 0, running.err  # it had come to its end first
    assert len(killed) >= 15, killed
    life.finish()
    assert life.weights() == undisturbed.weights()
    assert life.rows() == undisturbed.rows()
    assert json.loads((life.out / "evaluation.json").read_text()) == json.loads((undisturbed.out / "evaluation.json").read_text())
    assert [path for path in life.left_over() if path.is_dir()] == []  # a file whose writer was killed is removed a day later
    assert [name for name in life.files() if ".partial." not in name] == undisturbed.files()


def test_metrics_that_are_cut_back_survive_a_second_death(tmp_path: Path) -> None:
    """A resumed run that dies at once must still have the rows up to its checkpoint."""
    from untaught.training.metrics import Metrics

    path = tmp_path / "metrics.jsonl"
    rows = "".join(json.dumps({"step": step}) + "\n" for step in range(1, 6))
    path.write_text(rows + '{"step": 6, "lo')
    number = path.stat().st_ino
    Metrics(path, 3).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert path.stat().st_ino != number, "written over in place: between two writes it would be empty"
