"""Advice follows what was measured, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from untaught.report.advice import advise
from untaught.report.run_summary import RunSummary


def facts(
    loss: list[float] | None = None, epoch: int = 500, shares: tuple[float, float, float] = (0.01, 0.1, 0.89), **own: Any
) -> RunSummary:
    """A finished run that asks for nothing, but for what is given."""
    losses = loss or [5.0, *[1.0] * 40]
    names = ("share_data", "share_views", "share_compute")
    rows = [
        {"step": i, "epoch": epoch, "seconds": i + 1.0, "loss": value, **dict(zip(names, shares, strict=True))}
        for i, value in enumerate(losses)
    ]
    scores = [score("encoder", 0.9), score("raw", 0.5), score("random_init", 0.6), score("encoder", 0.95, "finetune")]
    return RunSummary(Path("runs/x"), **({"rows": rows, "scores": scores, "ended": True} | own))


def score(features: str, mean: float, probe: str = "linear") -> dict[str, Any]:
    return {"features": features, "probe": probe, "labels": "all", "metric": "accuracy", "mean": mean}


def collapsing() -> list[dict[str, Any]]:
    return [{"step": 9, "health": {"verdict": "collapsing", "because": "rank 1.0", "try": "lr=1e-4"}}]


def knn(*values: float) -> list[dict[str, Any]]:
    return [{"step": 50 + i, "epoch": 500, "knn20": value} for i, value in enumerate(values)]


def transcribed(blank_share: float, wer: float) -> list[dict[str, Any]]:
    rates = {"wer": wer, "blank_share": blank_share}
    return [*facts().scores, *(score("encoder", mean, "finetune") | {"metric": name} for name, mean in rates.items())]


CASES = {  # what differs -> what the advice says
    "slow data": (facts(shares=(0.4, 0.1, 0.5)), "40% of the time was spent waiting for data"),
    "costly views": (facts(shares=(0.0, 0.6, 0.4)), "60% of the time was spent on views"),
    "short": (facts(epoch=4), "it trained for 5 epochs"),
    "falling": (facts(loss=[5 - 0.1 * i for i in range(41)]), "the loss was still falling, from 2.15 to 1.35"),
    "rising": (facts(rows=[*facts().rows, *knn(0.6, 0.65)]), "kNN was still rising, from 60.0% to 65.0%"),
    "below raw": (facts(scores=[score("encoder", 0.5), score("raw", 0.7), score("encoder", 0.9, "finetune")]), "raw features 70.0%"),
    "all blank": (facts(scores=transcribed(0.97, 1.0)), "97% of frames are blank and WER is 100% (finetune)"),
    "beaten": (
        facts(scores=[score("encoder", 0.5), score("against:timm/x", 0.8), score("encoder", 0.9, "finetune")]),
        "timm/x reaches 80.0%",
    ),
    "no scores": (facts(scores=[]), "the encoder has not been evaluated yet"),
    "not fine-tuned": (facts(scores=[score("encoder", 0.9), score("raw", 0.5)]), "only frozen features were evaluated"),
    "below EASE": (
        facts(scores=[*facts().scores, score("encoder", 0.4, "next_item"), score("ease", 0.6, "next_item")]),
        "next_item: the encoder's 40.0% is not clearly above EASE 60.0%",
    ),
    "collapse": (facts(rows=collapsing()), "collapsing at step 9: rank 1.0"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_cause_one_piece_of_advice(case: str) -> None:
    given, because = CASES[case]
    (advice,) = advise(given)
    assert because in advice.because


def test_a_good_run_asks_for_nothing() -> None:
    assert advise(facts()) == []
    assert advise(facts(rows=[*facts().rows, *knn(0.6, 0.65, 0.649)])) == []


def test_a_crashed_run_is_not_told_to_evaluate() -> None:
    assert advise(facts(ended=False, scores=[])) == []


def test_a_share_is_of_the_seconds_since_the_row_before() -> None:
    first = {"step": 1, "seconds": 10.0, "share_data": 0.9, "share_views": 0.1}
    rows = [first, {"step": 2, "seconds": 12.0, "share_compute": 1.0, "share_data": 0.0}]
    assert facts(rows=rows).shares() == pytest.approx({"data": 9.0, "views": 1.0, "compute": 2.0})
