"""Handwritten digits, from nothing to a number: for those who see this library for the first time."""

from __future__ import annotations

from pathlib import Path

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import Asked
from untaught.core import Options
from untaught.evaluation.evaluate import evaluate

MINUTES = 0.5
TEMPERATURE = 0.5  # as the paper's for small images: with one label a class, classes far apart are worth more than fine neighbourhoods


def demo(out: Path | None) -> tuple[Trained, list[str]]:
    """Pretrains on digits and runs the battery -> the run, and what came of it in three sentences."""
    trained = pretrain(Asked("builtin:digits", "simclr", out=out, knobs={"minutes": MINUTES, "temperature": TEMPERATURE}))
    return trained, sentences(evaluate(trained.path))


def sentences(rows: list[Options]) -> list[str]:
    """What the linear probe with one label a class says, in words."""
    found = {row["features"]: row for row in rows if (row["probe"], row["labels"], row["metric"]) == ("linear", "1/class", "accuracy")}
    percent = {features: f"{100 * row['mean']:.0f}%" for features, row in found.items()}
    own = found["encoder"]
    return [
        f"For {60 * MINUTES:.0f} seconds a small network looked at handwritten digits, and nobody told it which digit is which.",
        f"Then it was shown one labelled example of each digit, and named {percent['encoder']} of digits that it had never seen "
        f"(mean of {own['draws']} choices of the examples, {100 * own['low']:.0f} to {100 * own['high']:.0f}% with 95% confidence).",
        f"From the same examples, raw pixels give {percent['raw']} and the same network untrained {percent['random_init']}: "
        "the difference is what it learned by itself.",
    ]
