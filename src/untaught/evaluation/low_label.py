"""How good an encoder is when labels are few: draws of some labels a class, or of a share of all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SETTINGS = ("1/class", "2/class", "5/class", "10/class", "50/class", "1%", "10%")
DRAWS = 10


def draw(setting: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Rows (n,), sorted, of "K/class" or of "P%" of labels (N,), in proportion to the classes, at least one of each."""
    random = np.random.default_rng(seed)
    rows = []
    for members in _members(labels):
        count = int(setting.partition("/")[0]) if setting.endswith("/class") else round(float(setting[:-1]) / 100 * len(members))
        rows.append(random.permutation(members)[: max(1, count)])
    return np.sort(np.concatenate(rows))


def settings(labels: np.ndarray) -> Iterator[tuple[str, str]]:
    """(setting, what stands against it or "") of each that is a draw worth its name with these labels (N,)."""
    sizes = np.array([len(members) for members in _members(labels)])
    for setting in SETTINGS:
        if setting.endswith("%"):
            wanted = float(setting[:-1]) / 100 * len(labels)
            yield setting, f"{wanted:.0f} labels are fewer than the {len(sizes)} classes" if wanted < len(sizes) else ""
        else:
            count = int(setting.partition("/")[0])
            yield setting, f"no class has more than {sizes.max()} training rows" if sizes.max() <= count else ""


def _members(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == name) for name in np.unique(labels)]
