"""Low-label settings: draws of some labels per class, or of a share of all labels (for numbers and label sets, only a share)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from untaught.data.labels import rarest

SETTINGS = ("1/class", "2/class", "5/class", "10/class", "50/class", "1%", "10%")
DRAWS = 10
FEW = 10  # minimum size of a draw of numbers


def draw(setting: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Sorted rows (n,) for "K/class" or "P%" of labels (N,), stratified, at least one per class."""
    random = np.random.default_rng(seed)
    rows = []
    for members in _members(labels):
        count = int(setting.partition("/")[0]) if setting.endswith("/class") else round(float(setting[:-1]) / 100 * len(members))
        rows.append(random.permutation(members)[: max(1, count)])
    return np.sort(np.concatenate(rows))


def settings(labels: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yields (setting, reason to skip it or "") for the settings that apply to these labels (N,)."""
    shares_only = labels.dtype.kind == "f" or labels.ndim == 2
    sizes = np.array([len(members) for members in _members(labels)])
    for setting in SETTINGS:
        if shares_only:
            if setting.endswith("%"):
                wanted = float(setting[:-1]) / 100 * len(labels)
                yield setting, f"{wanted:.0f} labels are fewer than {FEW}" if wanted < FEW else ""
        elif setting.endswith("%"):
            wanted = float(setting[:-1]) / 100 * len(labels)
            yield setting, f"{wanted:.0f} labels are fewer than the {len(sizes)} classes" if wanted < len(sizes) else ""
        else:
            count = int(setting.partition("/")[0])
            yield setting, f"no class has more than {sizes.max()} training rows" if sizes.max() <= count else ""


def possible(labels: np.ndarray) -> list[str]:
    """The settings that these labels (N,) are enough for."""
    return [setting for setting, against in settings(labels) if not against]


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
