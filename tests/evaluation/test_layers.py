"""A weighted sum of layers: averaged over valid tokens, learned on some rows, judged on others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from untaught.core import Encoder, Features, View
from untaught.evaluation.layers import Averaged, Inner, InnerAndPooled, Mixed, best_inner, choose


class Layers(Encoder):
    """x (B,L,N,D) is its own layers."""

    width = 2

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(layers=list(view.x.unbind(1)), valid=view.valid)


X = torch.arange(24.0).view(1, 3, 4, 2)  # three layers of four tokens
VALID = torch.tensor([[True, True, False, True]])
MEANS = torch.tensor([[8 * layer + (0 + 2 + 6) / 3 + side for side in (0, 1)] for layer in range(3)])  # of tokens 0, 1 and 3


def test_layers_are_averaged_over_valid_tokens() -> None:
    torch.testing.assert_close(Averaged(Layers())(View(X, VALID)), MEANS.view(1, 6))
    torch.testing.assert_close(Averaged(Layers())(View(X)), X.mean(2).view(1, 6))


def test_padding_counts_for_nothing() -> None:
    other = torch.where(VALID[:, None, :, None], X, torch.tensor(1e3))
    assert torch.equal(Averaged(Layers())(View(other, VALID)), Averaged(Layers())(View(X, VALID)))


def test_a_mixture_is_the_weighted_sum_of_scaled_layers() -> None:
    mixed = Mixed(Layers(), torch.tensor([0.5, 0.3, 0.2]), torch.tensor([2.0, 1.0, 4.0]))
    torch.testing.assert_close(mixed(View(X, VALID)), (0.25 * MEANS[0] + 0.3 * MEANS[1] + 0.05 * MEANS[2])[None])


def test_a_layer_that_knows_the_classes_outweighs_a_last_one_that_does_not() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    knows, guesses = 4 * np.eye(3)[labels] + random.normal(size=(200, 3)), 10 * random.normal(size=(200, 3))
    weights, scales = choose(np.stack([knows, guesses], 1), labels, 0)
    assert weights[0] > 0.6
    np.testing.assert_allclose(scales, [knows.std(ddof=1), guesses.std(ddof=1)], rtol=1e-5)


def test_a_layer_that_only_learns_its_rows_by_heart_is_not_chosen() -> None:
    """Wide noise tells 80 rows apart without error, and other rows not at all; the last layer tells most of all rows."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 100)
    seen = np.where(random.random(100) < 0.85, labels, 1 - labels)
    last = np.zeros((100, 300))
    last[:, 0] = 20 * seen
    weights, _ = choose(np.stack([random.normal(size=(100, 300)), last], 1), labels, 0)
    assert weights.tolist() == [0.0, 1.0]


class Maps(Encoder):
    """x (B,C,H,W): itself and its half as maps, and the first channel's mean as pooled vector."""

    width, offers = 1, frozenset({"maps"})

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=view.x[:, :1].mean((2, 3)), maps=[view.x, view.x[:, :2, ::2, ::2] / 2])


def test_inner_layers_are_maps_averaged_over_places_and_the_pooled_vectors_come_last() -> None:
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    means = [x.mean((2, 3)), x[:, :2, ::2, ::2].mean((2, 3)) / 2]
    every = InnerAndPooled(Maps())
    torch.testing.assert_close(every(View(x)), torch.cat([*means, x[:, :1].mean((2, 3))], 1))
    assert every.widths == [3, 2, 1]
    for number, want in enumerate(means):
        torch.testing.assert_close(Inner(Maps(), number)(View(x)), want)


@pytest.mark.parametrize("probe", ["LinearProbe", "RidgeProbe"])
def test_no_row_both_fits_and_judges_a_layer(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    class Probe:
        def __init__(self, fitting: np.ndarray, judging: np.ndarray) -> None:
            used.append((fitting[:, 0].tolist(), judging[:, 0].tolist()))
            self.count = len(judging)

        def predict(self, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, None]:
            assert labels.tolist() == [used[-1][0][row] % 3 for row in rows]
            return np.zeros(self.count), None

    monkeypatch.setattr(f"untaught.evaluation.layers.{probe}", Probe)
    rows = np.arange(50.0)[:, None]
    best_inner([rows, rows], (np.arange(50) % 3).astype(float if probe == "RidgeProbe" else int), 0)
    assert len(used) == 2
    for fitting, judging in used:
        assert sorted(fitting + judging) == list(range(50)), "every row once"
        assert len(judging) == 10


def test_the_best_layer_is_judged_on_rows_that_it_was_not_fitted_on() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 150)
    wide = random.normal(size=(150, 400)).astype(np.float32)  # tells the rows that it is fitted on apart without error
    seen = np.where(random.random(150) < 0.9, labels, 1 - labels)
    some = (seen[:, None] + 0.1 * random.normal(size=(150, 2))).astype(np.float32)
    assert best_inner([wide, some, wide], labels, 0) == 1
    assert best_inner([wide, some, some], labels, 0) == 2, "of equals the last: the pooled vectors need no choice"
    assert best_inner([wide, some, wide], seen + 0.5 * random.normal(size=150), 0) == 1, "numbers, by ridge regression"
