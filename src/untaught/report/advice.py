"""What to try next, from what was measured: each piece of advice names its reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from untaught.report.facts import Facts

FEW_EPOCHS = 100  # published recipes train for hundreds
WAITING = 0.1  # share of the time that may be waited for data
FALLING = 0.02  # share of the whole fall of the loss that the last fifth of a run may still make
TIE = 0.01  # of accuracy: no gain to speak of


class Advice(NamedTuple):
    do: str
    because: str


def advise(facts: Facts) -> list[Advice]:
    """The most urgent first; empty where nothing that was measured asks for anything."""
    return [*_health(facts), *_baselines(facts), *_length(facts), *_speed(facts), *_labels(facts)]


def _health(facts: Facts) -> list[Advice]:
    step, last = facts.health[-1] if facts.health else (0, {})
    if last.get("verdict") != "collapsing":
        return []
    return [Advice(str(last.get("try") or "try a lower lr, or another method"), f"collapsing at step {step}: {last.get('because', '')}")]


def _baselines(facts: Facts) -> list[Advice]:
    """By the linear probe where it was measured, else by kNN."""
    probe = next((probe for probe in ("linear", "knn20") if facts.score("encoder", probe)), "")
    own = facts.score("encoder", probe)
    if own is None:
        return []
    on = f"{probe}{f' on {facts.elsewhere(own)}' if facts.elsewhere(own) else ''}"
    found = []
    for features, name in (("raw", "raw features"), ("random_init", "the same encoder untrained")):
        other = facts.beside(own, features)
        if other is not None and own["mean"] < other["mean"] + TIE:
            found.append(f"{name} {other['mean']:.1%}")
    advice = []
    if found:
        because = f"{on}: the encoder's {own['mean']:.1%} is hardly above {' and '.join(found)}"
        advice.append(Advice("try another method, or other views", because))
    names = {row["features"] for row in facts.scores if row["features"].startswith("against:")}
    others = {name.removeprefix("against:"): row["mean"] for name in names if (row := facts.beside(own, name))}
    best = max(others, key=others.__getitem__, default="")
    if best and others[best] > own["mean"] + TIE:
        because = f"{on}: {best} gives {others[best]:.1%} off the shelf, this encoder {own['mean']:.1%}"
        advice.append(Advice(f"use {best} itself, or start from it (--encoder {best} encoder.weights=pretrained)", because))
    return advice


def _length(facts: Facts) -> list[Advice]:
    if not facts.ended:
        return []
    found, epochs = [], facts.last.get("epoch", FEW_EPOCHS) + 1
    if epochs < FEW_EPOCHS:
        found.append(f"the data was seen {epochs} time{'s' if epochs > 1 else ''}; published recipes see theirs hundreds of times")
    loss = [value for _, value in facts.series("loss")]
    if len(loss) >= 10:
        fifth = len(loss) // 5
        before, end = float(np.mean(loss[-2 * fifth : -fifth])), float(np.mean(loss[-fifth:]))
        if before - end > FALLING * (max(loss) - min(loss)):
            found.append(f"the loss was still falling, from {before:.4g} to {end:.4g} over the last two fifths")
    scores = facts.series("knn20")
    if len(scores) >= 2 and scores[-1][1] > scores[-2][1] + TIE:
        found.append(f"kNN was still rising, from {scores[-2][1]:.1%} to {scores[-1][1]:.1%}")
    return [Advice("train longer: the same command with a larger minutes= and another --out", "; ".join(found))] if found else []


def _speed(facts: Facts) -> list[Advice]:
    shares = facts.shares()
    whole = sum(shares.values())
    if whole and shares["data"] > WAITING * whole:
        do = "put the data, or UNTAUGHT_CACHE, on a faster disk; if it streams, let it be packed (stream=false)"
        return [Advice(do, f"{shares['data'] / whole:.0%} of the time was waited for data")]
    if whole and shares["views"] > whole / 2:
        return [Advice("a larger encoder would cost little more", f"{shares['views'] / whole:.0%} of the time went into views")]
    return []


def _labels(facts: Facts) -> list[Advice]:
    if not facts.ended:
        return []
    if not facts.scores:
        return [Advice(f"untaught evaluate {facts.path} --data LABELLED", "nothing says yet what the encoder is worth")]
    if not any(row["probe"] == "finetune" for row in facts.scores):
        return [Advice(f"untaught finetune {facts.path} --data LABELLED", "only frozen features were scored")]
    return []
