"""What to try next, based on the run's measurements: each piece of advice states its reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from untaught.downstream.transcribe import collapsed
from untaught.evaluation.boosting import trees_win
from untaught.evaluation.forecasts import baselines_win
from untaught.evaluation.metrics import LEADING, shown
from untaught.report.run_summary import RunSummary

FEW_EPOCHS = 100  # published recipes train for hundreds
WAITING = 0.1  # share of the time that may be waited for data
FALLING = 0.02  # share of the whole fall of the loss that the last fifth of a run may still make
RANKING = "next_item"  # has baselines of its own
TIE = 0.01  # of accuracy or R2: no gain to speak of
RECOMMENDERS = {"popularity": "popularity", "recent_popularity": "recent popularity", "item_knn": "item-kNN", "ease": "EASE"}
BASELINES = {"raw": "raw features", "random_init": "the same encoder at random init", **RECOMMENDERS}


class Advice(NamedTuple):
    do: str
    because: str


def advise(summary: RunSummary) -> list[Advice]:
    """The most urgent first; empty if no measurement calls for advice."""
    return [
        *_trees(summary),
        *_health(summary),
        *_transcripts(summary),
        *_baselines(summary),
        *_length(summary),
        *_speed(summary),
        *_labels(summary),
    ]


def _health(summary: RunSummary) -> list[Advice]:
    step, last = summary.health[-1] if summary.health else (0, {})
    if last.get("verdict") != "collapsing":
        return []
    return [Advice(str(last.get("try") or "try a lower lr, or another method"), f"collapsing at step {step}: {last.get('because', '')}")]


def _trees(summary: RunSummary) -> list[Advice]:
    """Before anything else: that a classical model is better."""
    found = trees_win(summary.scores)
    do = "use gradient boosting on the raw rows, or give it the encoder's vectors as further columns (encoder+raw)"
    simple = baselines_win(summary.scores)
    advice = [Advice("forecast with the best of them, or pretrain on more series", simple)] if simple else []
    return [*([Advice(do, found)] if found else []), *advice]


def _transcripts(summary: RunSummary) -> list[Advice]:
    """Of fine-tunings that transcribe: all blank is the collapse of CTC."""
    found = []
    for rates in [row for row in summary.scores if row["features"] == "encoder" and row["metric"] == "wer"]:
        same = ("features", "probe", "labels", "data")
        blanks = next((r for r in summary.scores if r["metric"] == "blank_share" and all(r.get(k) == rates.get(k) for k in same)), None)
        if blanks is not None and (verdict := collapsed(blanks["mean"], rates["mean"])):
            found.append(Advice(verdict[1], f"{verdict[0]} ({rates['probe']})"))
    return found


def _baselines(summary: RunSummary) -> list[Advice]:
    """By the linear probe where it was measured, else by kNN; and by the next item."""
    probes = [probe for probe in LEADING if summary.score("encoder", probe)]
    return [advice for probe in dict.fromkeys([*probes[:1], *(p for p in probes if p == RANKING)]) for advice in _beaten(summary, probe)]


def _beaten(summary: RunSummary, probe: str) -> list[Advice]:
    own = summary.score("encoder", probe)
    assert own is not None
    text = lambda value: shown(own["metric"], value)  # noqa: E731
    on = f"{probe}{f' on {summary.elsewhere(own)}' if summary.elsewhere(own) else ''}"
    found = []
    for features, name in BASELINES.items():
        other = summary.baseline(own, features)
        if other is not None and own["mean"] < other["mean"] + TIE:
            found.append(f"{name} {text(other['mean'])}")
    advice = []
    if found:
        because = f"{on}: the encoder's {text(own['mean'])} is not clearly above {' and '.join(found)}"
        advice.append(Advice("try another method, or other views", because))
    names = {row["features"] for row in summary.scores if row["features"].startswith("against:")}
    others = {name.removeprefix("against:"): row["mean"] for name in names if (row := summary.baseline(own, name))}
    best = max(others, key=others.__getitem__, default="")
    if best and others[best] > own["mean"] + TIE:
        because = f"{on}: {best} reaches {text(others[best])} off the shelf, this encoder {text(own['mean'])}"
        advice.append(Advice(f"use {best} as it is, or start from it (--encoder {best} encoder.weights=pretrained)", because))
    return advice


def _length(summary: RunSummary) -> list[Advice]:
    if not summary.ended:
        return []
    found, epochs = [], summary.last.get("epoch", FEW_EPOCHS) + 1
    if epochs < FEW_EPOCHS:
        found.append(f"it trained for {epochs} epoch{'s' if epochs > 1 else ''}; published recipes train for hundreds")
    loss = [value for _, value in summary.series("loss")]
    if len(loss) >= 10:
        fifth = len(loss) // 5
        before, end = float(np.mean(loss[-2 * fifth : -fifth])), float(np.mean(loss[-fifth:]))
        if before - end > FALLING * (max(loss) - min(loss)):
            found.append(f"the loss was still falling, from {before:.4g} to {end:.4g} over the last two fifths")
    for name, metric in (("knn20", "accuracy"), ("knn20_r2", "r2")):
        scores = [value for _, value in summary.series(name)[-2:]]
        if len(scores) == 2 and scores[1] > scores[0] + TIE:
            found.append(f"kNN was still rising, from {shown(metric, scores[0])} to {shown(metric, scores[1])}")
    return [Advice("train longer: the same command with a larger minutes= and another --out", "; ".join(found))] if found else []


def _speed(summary: RunSummary) -> list[Advice]:
    shares = summary.shares()
    total = sum(shares.values())
    if total and shares["data"] > WAITING * total:
        do = "put the data or UNTAUGHT_CACHE on a faster disk; if the run streams its data, pack it instead (stream=false)"
        return [Advice(do, f"{shares['data'] / total:.0%} of the time was spent waiting for data")]
    if total and shares["views"] > total / 2:
        return [Advice("a larger encoder would cost little more", f"{shares['views'] / total:.0%} of the time was spent on views")]
    return []


def _labels(summary: RunSummary) -> list[Advice]:
    if not summary.ended:
        return []
    if not summary.scores:
        return [Advice(f"untaught evaluate {summary.path} --data LABELLED", "the encoder has not been evaluated yet")]
    if not any(row["probe"] == "finetune" for row in summary.scores):
        encoder = summary.run.get("encoder")
        place = summary.path / "encoder" / next(iter(encoder)) if isinstance(encoder, dict) and encoder else summary.path
        return [Advice(f"untaught finetune {place} --data LABELLED", "only frozen features were evaluated")]
    return []
