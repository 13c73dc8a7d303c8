"""Demo on handwritten digits: pretraining and evaluation in a minute."""

from __future__ import annotations

from pathlib import Path

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import PretrainArguments
from untaught.core import Options
from untaught.evaluation.evaluate import evaluate

MINUTES = 0.5
TEMPERATURE = 0.5  # as in the paper for small images; one label per class needs well-separated classes


def demo(out: Path | None) -> tuple[Trained, list[str]]:
    """Pretrains on digits and evaluates -> the run, and the result in three sentences."""
    trained = pretrain(PretrainArguments("builtin:digits", "simclr", out=out, knobs={"minutes": MINUTES, "temperature": TEMPERATURE}))
    return trained, sentences(evaluate(trained.path))


def sentences(rows: list[Options]) -> list[str]:
    """The accuracy of the linear probe with one label per class, in words."""
    found = {row["features"]: row for row in rows if (row["probe"], row["labels"], row["metric"]) == ("linear", "1/class", "accuracy")}
    percent = {features: f"{100 * row['mean']:.0f}%" for features, row in found.items()}
    own = found["encoder"]
    return [
        f"A small network was pretrained on handwritten digits for {60 * MINUTES:.0f} seconds, without labels.",
        f"A linear classifier on its features, trained on one labelled example of each digit, recognises {percent['encoder']} of unseen "
        f"digits (mean of {own['draws']} draws of the examples, 95% interval {100 * own['low']:.0f} to {100 * own['high']:.0f}%).",
        f"With the same examples, raw pixels reach {percent['raw']} and the same network at random init {percent['random_init']}: "
        "the difference is what pretraining learned.",
    ]
