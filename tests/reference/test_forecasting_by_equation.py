"""`forecasting` against plain loops: its view, its loss, and what a forecast may see."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from untaught.core import Facts, Preprocessor, UserError, View
from untaught.encoders.patch_series import patch_causal
from untaught.methods import Forecasting
from untaught.modalities.series import SERIES
from untaught.modalities.series.views import FLAT
from untaught.ops.reconstruction import next_tokens_error
from untaught.pipeline.view_pipeline import Views

PATCH, FIRST = 4, 6
SETTINGS = {"channels": 2, "length": 24, "missing": False, "standardise": "channel", "ragged": ["values"]}


def prepared(missing: bool = False) -> Preprocessor:
    return Preprocessor(SERIES, {**SETTINGS, "missing": missing}, {"mean": [0.0, 5.0], "std": [1.0, 2.0]})


def batch(gaps: bool = False) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 24, 2)) * [1, 2] + [0, 5]
    values[1, :FIRST, 0] = 0.7  # a flat beginning
    if gaps:
        values[random.random(values.shape) < 0.2] = np.nan
    length = torch.tensor([24, 24, 18])
    valid = torch.arange(24) < length.unsqueeze(1)
    x = torch.where(valid.unsqueeze(2), torch.from_numpy(values).float(), 0.0)
    return {"values": x, "values_valid": valid, "index": torch.arange(3)}


def seen(given: dict[str, torch.Tensor], missing: bool = False) -> View:
    options = {**prepared(missing).presets()["continued"], "scale": (1.0, 1.0), "patch": PATCH, "first": FIRST}
    return Views(("continued",), prepared(missing), [options], seed=0)(given, 0)[0]


def method(channels: int = 2, ahead: int = 3, view: View | None = None) -> Forecasting:
    torch.manual_seed(0)
    encoder = patch_causal(channels=channels, length=24, width=16, depth=2, heads=2, patch=PATCH)
    return Forecasting(encoder, Facts(3, {"continued": view or seen(batch())}), ahead=ahead)


@pytest.mark.parametrize("gaps", [False, True])
def test_a_crop_is_normalised_by_its_first_steps(gaps: bool) -> None:
    given, found = batch(gaps), seen(batch(gaps), missing=gaps)
    for i in range(3):
        for c, (mean, std) in enumerate([(0.0, 1.0), (5.0, 2.0)]):
            line = [(given["values"][i, t, c].item() - mean) / std for t in range(24)]
            known = [t for t in range(24) if given["values_valid"][i, t] and not math.isnan(line[t])]
            first = [line[t] for t in known if t < FIRST]
            level = sum(first) / len(first)
            spread = max(math.sqrt(sum((value - level) ** 2 for value in first) / len(first)), FLAT)
            for t in range(24):
                expected = (line[t] - level) / spread if t in known else 0.0
                assert found.x[i, t, c].item() == pytest.approx(expected, abs=1e-4)
                assert found.target is not None
                assert found.target[i, t // PATCH, (t % PATCH) * 2 + c].item() == pytest.approx(expected, abs=1e-4)
                assert found.target_valid is not None
                assert bool(found.target_valid[i, t // PATCH, (t % PATCH) * 2 + c]) == (t in known)


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_loss_by_loops_over_what_follows(ahead: int) -> None:
    view = seen(batch(gaps=True), missing=True)
    made = method(channels=4, ahead=ahead, view=view)
    predicted = made.forecast(view)
    assert view.target is not None
    assert view.target_valid is not None
    assert predicted.shape == (3, 6, ahead, 8)
    errors = [
        (predicted[i, n, k - 1, p] - view.target[i, n + k, p]).item() ** 2
        for i in range(3)
        for n in range(6)
        for k in range(1, ahead + 1)
        for p in range(8)
        if n + k < 6 and view.target_valid[i, n + k, p]
    ]
    assert made([view], 0.0)["squared_error"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_a_forecast_sees_nothing_of_what_it_forecasts() -> None:
    view = seen(batch())
    made = method().double()
    x = view.x.double().requires_grad_()
    predicted = made.forecast(replace(view, x=x))
    for token in range(6):
        (gradient,) = torch.autograd.grad(predicted[0, token].square().sum(), x, retain_graph=True)
        steps = gradient[0].abs().sum(1) > 0
        assert steps[: PATCH * (token + 1)].all()
        assert not steps[PATCH * (token + 1) :].any()


def test_an_answer_is_the_forecast_of_the_token_before() -> None:
    view = seen(batch(gaps=True), missing=True)
    assert view.target is not None
    assert view.target_valid is not None
    made = method(channels=4, view=view)
    answer, predicted = made.solve([view]), made.forecast(view)
    assert torch.equal(answer[:, 0], view.target[:, 0])
    for token in range(1, 6):
        torch.testing.assert_close(answer[:, token], predicted[:, token - 1, 0])
    errors = SERIES.pretexts["continued"].measure(view, answer, {"patch": PATCH}, prepared(True))["rmse"]
    for i, error in enumerate(errors):
        first = [(batch(gaps=True)["values"][i, :FIRST, c] - (0, 5)[c]) / (1, 2)[c] for c in (0, 1)]
        scale = [max(line[line.isfinite()].std(unbiased=False).item(), FLAT) for line in first]
        squares = [
            ((answer - view.target)[i, n, p].item() * scale[p % 2]) ** 2
            for n in range(1, 6)
            for p in range(8)
            if view.target_valid[i, n, p]
        ]
        assert error == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-5)


def test_nothing_after_the_first_steps_changes_the_scale() -> None:
    given = batch()
    changed = {**given, "values": given["values"].clone()}
    changed["values"][:, FIRST:] *= 100
    assert torch.equal(seen(given).x[:, :FIRST], seen(changed).x[:, :FIRST])


def test_the_error_is_zero_for_what_follows() -> None:
    target = torch.randn(2, 5, 3)
    right = torch.zeros(2, 5, 2, 3)
    for k in (1, 2):
        right[:, : 5 - k, k - 1] = target[:, k:]
    assert next_tokens_error(right, target, torch.arange(5).view(1, 5, 1).expand(2, 5, 3) < 9).item() == 0
    assert next_tokens_error(right + 2, target).item() > 0


def test_a_single_patch_is_refused() -> None:
    encoder: Any = patch_causal(channels=2, length=24, width=16, depth=1, heads=2, patch=24)
    view = seen(batch())
    assert view.target is not None
    with pytest.raises(UserError, match="predicts the next patch, but a view is a single one"):
        Forecasting(encoder, Facts(3, {"continued": replace(view, target=view.target[:, :1])}))
