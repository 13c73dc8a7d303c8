"""Demos on data that are at hand offline: pretraining and evaluation in a minute or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from untaught.commands.pretrain import Trained, pretrain
from untaught.commands.request import PretrainArguments
from untaught.core import Options, UserError
from untaught.evaluation.evaluate import evaluate

LEVEL = 0.02  # accuracy above raw data, below which the raw data count as good
OURS = ("encoder", "random_init", "raw")
TEMPERATURE = 0.5  # as in SimCLR's paper for small images; one label per class needs well-separated classes


@dataclass(frozen=True)
class Demo:
    data: str
    seconds: int
    what: str
    classes: str  # one of them
    unseen: str
    raw: str
    knobs: Options
    method: str = "simclr"


DEMOS = {
    "image": Demo("builtin:digits", 30, "handwritten digits", "digit", "unseen digits", "raw pixels reach", {"temperature": TEMPERATURE}),
    "audio": Demo(
        "builtin:tones",
        60,
        "notes, chords and sweeps of twelve pitches",
        "pitch",
        "the pitches of unseen sounds",
        "the statistics of cepstral coefficients reach",
        {"temperature": TEMPERATURE} | {f"global.{option}": 0.0 for option in ("shift", "zoom")},  # which would change the pitch
    ),
    "events": Demo(
        "builtin:visits",
        45,
        "the visits of 1,200 synthetic visitors of a shop (computed, not recorded)",
        "kind of visitor",
        "the kinds of other visitors",
        "counts of the products seen reach",
        {},
        "clm",
    ),
    "series": Demo(
        "builtin:waves",
        45,
        "900 computed waves of six shapes, at any speed and phase, in noise",
        "shape",
        "the shapes of unseen waves",
        "the values themselves reach",
        {"temperature": TEMPERATURE},
    ),
    "tables": Demo(
        "builtin:cancer",
        20,
        "569 rows of measurements of cell nuclei",
        "diagnosis",
        "unseen rows",
        "the standardised columns reach",
        {"views": "whole,global", "global.level": 0.6},  # SCARF
    ),
}


def demo(modality: str, out: Path | None) -> tuple[Trained, list[str]]:
    """Pretrains and evaluates -> the run, and the result in three sentences. Raises UserError for a modality without a demo."""
    if modality not in DEMOS:
        raise UserError(f"there is no demo of {modality}; allowed: {', '.join(DEMOS)}")
    own = DEMOS[modality]
    knobs = {"minutes": own.seconds / 60, **own.knobs}
    trained = pretrain(PretrainArguments(own.data, own.method, out=out, knobs=knobs))
    rows = evaluate(trained.path)
    return trained, sentences(rows, own) + next_item(rows)


def sentences(rows: list[Options], own: Demo = DEMOS["image"]) -> list[str]:
    """The accuracy of the linear probe with one label per class, in words."""
    found = {row["features"]: row for row in rows if (row["probe"], row["labels"], row["metric"]) == ("linear", "1/class", "accuracy")}
    percent = {features: f"{100 * row['mean']:.0f}%" for features, row in found.items()}
    classical = "".join(f"; {name}, a classical method, reaches {percent[name]}" for name in found if name not in OURS)
    encoder = found["encoder"]
    level = encoder["mean"] - found["raw"]["mean"] < LEVEL
    meaning = "here the raw data are as good: start with them" if level else "the difference is what pretraining learned"
    return [
        f"A small network was pretrained on {own.what} for {own.seconds} seconds, without labels.",
        f"A linear classifier on its features, trained on one labelled example of each {own.classes}, recognises {percent['encoder']} of "
        f"{own.unseen} (mean of {encoder['draws']} draws of the examples, 95% interval {100 * encoder['low']:.0f} to "
        f"{100 * encoder['high']:.0f}%).",
        f"With the same examples, {own.raw} {percent['raw']} and the same network at random init {percent['random_init']}: {meaning}"
        f"{classical}.",
    ]


def next_item(rows: list[Options]) -> list[str]:
    """The share of users whose next item is among the first ten, beside the classical recommenders, in words; [] if it was not measured."""
    found = {row["features"]: f"{100 * row['mean']:.0f}%" for row in rows if (row["probe"], row["metric"]) == ("next_item", "hr@10")}
    if not found:
        return []
    return [
        f"Of all products that a visitor has not seen, the next one is among the first ten for {found['encoder']} of the visitors; by EASE "
        f"{found['ease']}, item-kNN {found['item_knn']}, popularity {found['popularity']}, the same network at random init "
        f"{found['random_init']}."
    ]
