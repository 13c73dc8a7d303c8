"""What probes learn from: some labels per class, or a share of all (for numbers and label sets, only a share); all with some wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.labels import rarest

SETTINGS = ("1/class", "2/class", "5/class", "10/class", "50/class", "1%", "10%")
DRAWS = 10
FEW = 10  # minimum size of a draw of numbers


@dataclass(frozen=True)
class Plan:
    """What probes learn from, beside all labels: these amounts of them (None: SETTINGS), and all with a share `noise` of wrong ones."""

    amounts: tuple[str, ...] | None = None
    noise: float = 0.0


USUAL = Plan()


def amounts_of(text: str) -> tuple[str, ...]:
    """ "1%,25%,10/class" -> its parts. Raises UserError for anything that is neither a share nor a number a class."""
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        number, kind = (
            (part[:-1], "%") if part.endswith("%") else (part.removesuffix("/class"), "/class" if part.endswith("/class") else "")
        )
        try:
            allowed = 0 < float(number) < 100 if kind == "%" else kind != "" and int(number) > 0
        except ValueError:
            allowed = False
        if not allowed:
            raise UserError(f"labels={text}: {part or 'nothing'} must be a share as 1% or a number a class as 10/class; separate by commas")
    return parts


def draw(setting: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Sorted rows (n,) for "K/class" or "P%" of labels (N,), stratified, at least one per class."""
    random = np.random.default_rng(seed)
    rows = []
    for members in _members(labels):
        count = int(setting.partition("/")[0]) if setting.endswith("/class") else round(float(setting[:-1]) / 100 * len(members))
        rows.append(random.permutation(members)[: max(1, count)])
    return np.sort(np.concatenate(rows))


def settings(labels: np.ndarray, plan: Plan = USUAL) -> Iterator[tuple[str, str]]:
    """Yields (setting, reason to skip it or "") for the settings that apply to these labels (N,)."""
    shares_only = labels.dtype.kind == "f" or labels.ndim == 2
    sizes = np.array([len(members) for members in _members(labels)])
    for setting in SETTINGS if plan.amounts is None else plan.amounts:
        if shares_only:
            if setting.endswith("%"):
                wanted = float(setting[:-1]) / 100 * len(labels)
                yield setting, f"{wanted:.0f} labels are fewer than {FEW}" if wanted < FEW else ""
            elif plan.amounts is not None:
                yield setting, "there is not one class a sample; give a share as 1%"
        elif setting.endswith("%"):
            wanted = float(setting[:-1]) / 100 * len(labels)
            yield setting, f"{wanted:.0f} labels are fewer than the {len(sizes)} classes" if wanted < len(sizes) else ""
        else:
            count = int(setting.partition("/")[0])
            yield setting, f"no class has more than {sizes.max()} training rows" if sizes.max() <= count else ""


def possible(labels: np.ndarray, plan: Plan = USUAL) -> list[str]:
    """The settings that these labels (N,) are enough for."""
    return [setting for setting, against in settings(labels, plan) if not against]


def noisy(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Class labels (N,) of which a share is replaced by another of the classes, each equally likely."""
    random = np.random.default_rng(seed)
    classes, numbers = np.unique(labels, return_inverse=True)
    wrong = random.random(len(labels)) < share
    moved = (numbers + random.integers(1, max(len(classes), 2), len(labels))) % len(classes)
    return classes[np.where(wrong, moved, numbers)]


def noise_name(share: float) -> str:
    """The setting, as in evaluation.json."""
    return f"all, {share:.0%} wrong"


def guesses(probe: Any, setting: str, labels: np.ndarray) -> np.ndarray:
    """Predictions (DRAWS, M) of a probe fitted on each draw of labels (N,); its penalty is chosen on the first."""
    found, penalty = [], None
    for seed in range(DRAWS):
        drawn = draw(setting, labels, seed)
        guess, penalty = probe.predict(drawn, labels[drawn], seed, penalty)
        found.append(guess)
    return np.stack(found)


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each class; for numbers, all rows."""
    if labels.dtype.kind == "f":
        return [np.arange(len(labels))]
    labels = rarest(labels) if labels.ndim == 2 else labels
    return [np.flatnonzero(labels == name) for name in np.unique(labels)]
