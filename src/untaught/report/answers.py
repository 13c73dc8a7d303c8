"""Sheets of what a method makes of data: overview, nearest images of prototypes, generated samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from untaught.core import Method, View
from untaught.evaluation.pretext import Answers
from untaught.pipeline.view_pipeline import Views
from untaught.report.contact_sheet import in_columns

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 8  # samples in overview.png
PROTOTYPES, NEAREST = 12, 8  # rows and columns of prototypes.png
CANDIDATES = 5000  # samples among which the nearest of each prototype are found
SIDE = 8  # rows and columns of samples.png
NAMES: tuple[str, ...] = ("overview", "prototypes", "samples")


class Sheets:
    """Collects the answers of batches, in bounded memory."""

    def __init__(self) -> None:
        self.first: dict[str, np.ndarray] = {}
        self.assigned: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # prototype, score, image
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, answers: Answers) -> None:
        columns, images = answers
        self.first = self.first or {name: pixels[:SHOWN] for name, pixels in images.items()}
        if "prototype" in columns and sum(len(part[0]) for part in self.assigned) < CANDIDATES:
            self.assigned.append((columns["prototype"], columns["prototype_score"], images["sample"]))
        for name, values in columns.items():
            if values.dtype.kind == "f" and name != "prototype_score":
                finite = values[np.isfinite(values)]
                self.sums[name] = self.sums.get(name, 0.0) + float(finite.sum())
                self.counts[name] = self.counts.get(name, 0) + len(finite)

    def means(self) -> dict[str, float]:
        """The mean of each measure over the samples that have one; an infinite PSNR does not count."""
        return {name: total / self.counts[name] for name, total in self.sums.items() if self.counts[name]}

    def drawn(self, method: Method | None, views: Views | None, seed: int) -> dict[str, Image.Image]:
        """The sheets that the method has, by name. It is in eval mode, on its device."""
        sheets = {"overview": in_columns(list(self.first.values()), list(self.first))}
        if self.assigned:
            sheets["prototypes"] = in_columns(nearest(*map(np.concatenate, zip(*self.assigned, strict=True))))
        if method is not None and views is not None and method.generates:
            images = views.prep.modality.render(View(method.sample(SIDE * SIDE, seed)), views.options[0], views.prep)
            sheets["samples"] = in_columns(list(images.reshape(SIDE, SIDE, *images.shape[1:])))
        return sheets


def nearest(prototype: np.ndarray, score: np.ndarray, image: np.ndarray) -> list[np.ndarray]:
    """Prototypes (N,) of samples, their scores (N,) and images (N,H,W,3) -> columns of images: a row per prototype, the one with most
    samples first, of the samples with the highest scores; white where it has fewer."""
    found, counts = np.unique(prototype, return_counts=True)
    rows = np.full((min(PROTOTYPES, len(found)), NEAREST, *image.shape[1:]), 255, np.uint8)
    for row, number in zip(rows, found[np.argsort(-counts, kind="stable")], strict=False):
        own = np.flatnonzero(prototype == number)
        best = own[np.argsort(-score[own], kind="stable")][:NEAREST]
        row[: len(best)] = image[best]
    return list(rows.swapaxes(0, 1))
