"""A map keeps groups together, and stands collapsed and tiny embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from untaught.evaluation import plane as module
from untaught.evaluation.knn import knn_accuracy
from untaught.evaluation.plane import plane


@pytest.fixture(autouse=True)
def with_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests do without."""
    monkeypatch.setattr(module, "FEW", 12)


def test_groups_stay_together() -> None:
    random = np.random.default_rng(0)
    group = np.arange(90) % 3
    places = plane(random.normal(size=(90, 20)) * 0.1 + random.normal(size=(3, 20))[group])
    assert places.shape == (90, 2)
    assert places.min() == 0.0
    assert places.max() == pytest.approx(1.0)
    shifted = places - places.mean(0)
    nearest = ((shifted[:, None] - shifted[None]) ** 2).sum(2) + 9 * np.eye(90)
    assert (group[nearest.argmin(1)] == group).all()
    assert knn_accuracy(np.c_[shifted, np.ones(90)], group, np.c_[shifted, np.ones(90)], group, k=(5,))[5] > 0.9


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (3, 1), (5, 2), (30, 1)])
def test_few_samples_or_features(shape: tuple[int, int]) -> None:
    places = plane(np.random.default_rng(0).normal(size=shape))
    assert places.shape == (shape[0], 2)
    assert np.isfinite(places).all()


def test_a_collapsed_embedding_is_one_point() -> None:
    assert (plane(np.full((50, 8), 3.0)) == 0.5).all()
