"""Forecasting: the loss and scores by loops, the scale of the head, missing values, the closed form, and what a table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from untaught.core import Options, Preprocessor, UserError, View
from untaught.data.windows import FUTURE
from untaught.downstream.forecast import Forecast, thinned
from untaught.encoders.conv_series import ConvSeries
from untaught.encoders.patch_series import PatchSeries
from untaught.evaluation.forecasts import summed_errors
from untaught.modalities.series import SERIES
from untaught.modalities.series.future import follow
from untaught.pipeline.view_pipeline import used_view

CONTEXT, HORIZON, CHANNELS = 12, 5, 3
FACTS: Options = {"mean": [0.0, 10.0, -3.0], "std": [1.0, 4.0, 0.5], "apart": False}
NAN = float("nan")


def settings(apart: bool = False, missing: bool = False) -> Preprocessor:
    own = {"channels": 1 if apart else CHANNELS, "length": CONTEXT, "missing": missing, "ragged": ["values"]}
    own |= {"apart": True, "standardise": "sample"} if apart else {"standardise": "channel"}
    return Preprocessor(SERIES, own, {"mean": FACTS["mean"][: own["channels"]], "std": FACTS["std"][: own["channels"]]})


def batch(count: int = 4, seed: int = 0, gaps: bool = False) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, CONTEXT + HORIZON, CHANNELS)) * FACTS["std"] + FACTS["mean"]
    if gaps:
        values[random.random(values.shape) < 0.2] = NAN
    x = torch.from_numpy(values).float()
    valid = torch.ones(count, CONTEXT, dtype=torch.bool)
    return {"values": x[:, :CONTEXT], "values_valid": valid, FUTURE: x[:, CONTEXT:], "index": torch.arange(count)}


def seen(given: dict[str, torch.Tensor], apart: bool = False, missing: bool = False) -> View:
    return follow(given, used_view(settings(apart, missing), "whole")(given, 0)[0])


def task(apart: bool = False, missing: bool = False, steps: bool = False, **knobs: Any) -> Forecast:
    torch.manual_seed(0)
    channels = (1 if apart else CHANNELS) * (2 if missing else 1)
    encoder: Any = ConvSeries(channels=channels, width=8, hidden=4, depth=1) if steps else None
    encoder = encoder or PatchSeries(channels=channels, length=CONTEXT, width=8, depth=1, heads=2, patch=4)
    return Forecast(encoder, {**FACTS, "apart": apart}, **{"horizon": HORIZON, "context": CONTEXT, **knobs}).eval()


@pytest.mark.parametrize("apart", [False, True])
def test_the_loss_by_loops_over_known_values(apart: bool) -> None:
    made, given = task(apart, missing=True), batch(gaps=True)
    view = seen(given, apart, missing=True)
    forecast = made.predict(view)["forecast"]
    errors = []
    for i in range(4):
        for h in range(HORIZON):
            for c in range(CHANNELS):
                truth = given[FUTURE][i, h, c].item()
                if not np.isnan(truth):
                    errors.append((forecast[i, h, c] - truth) / FACTS["std"][c])
    assert 0 < len(errors) < 4 * HORIZON * CHANNELS
    expected = float(np.mean(np.square(errors)))
    assert made([view], 0.0)["squared_error"].item() == pytest.approx(expected, rel=1e-4)
    truth = given[FUTURE].numpy()
    assert made.judge({"forecast": forecast}, truth) == pytest.approx(expected, rel=1e-4)
    assert made.scores(made.outcome({"forecast": forecast}, truth))["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)


def test_the_forecast_moves_with_the_level_and_scale_of_its_context() -> None:
    """Reversible normalisation: an encoder of normalised contexts forecasts a * x + b where it forecasts x."""
    made, given = task(apart=True), batch()
    plain = made.predict(seen(given, apart=True))["forecast"]
    moved = {**given, "values": given["values"] * 5 - 7}
    np.testing.assert_allclose(made.predict(seen(moved, apart=True))["forecast"], plain * 5 - 7, rtol=1e-3, atol=1e-3)


def test_channels_apart_do_not_see_each_other_and_may_be_any_number() -> None:
    made, given = task(apart=True), batch()
    changed = {**given, "values": given["values"].clone()}
    changed["values"][:, :, 1] += torch.randn(4, CONTEXT)
    one, other = made.predict(seen(given, apart=True))["forecast"], made.predict(seen(changed, apart=True))["forecast"]
    assert np.array_equal(one[:, :, [0, 2]], other[:, :, [0, 2]])
    assert np.abs(one[:, :, 1] - other[:, :, 1]).min() > 0
    few = {"values": given["values"][:, :, :2], "values_valid": given["values_valid"], "index": given["index"]}
    np.testing.assert_allclose(made.predict(seen(few, apart=True))["forecast"], one[:, :, :2], rtol=1e-5, atol=1e-5)


def test_a_channel_without_a_context_is_forecast_at_its_mean() -> None:
    made, given = task(missing=True), batch()
    given["values"][0, :, 1] = NAN
    forecast = made.predict(seen(given, missing=True))["forecast"]
    assert np.isfinite(forecast).all()
    assert (forecast[0, :, 1] == FACTS["mean"][1]).all()


@pytest.mark.parametrize(("apart", "steps"), [(False, False), (True, False), (False, True)])
def test_the_closed_form_is_a_minimum_of_the_loss(apart: bool, steps: bool) -> None:
    """By gradient: at the solution with almost no penalty, no weight of the head wants to move."""
    made = task(apart, steps=steps)
    views = [seen(batch(200, seed), apart) for seed in range(2)]
    before = sum(made([view], 0.0)["squared_error"].item() for view in views)
    assert made.solve(lambda rows: [views[row] for row in rows], np.array([0, 1]), np.array([0, 1]))
    loss = sum((made([view], 0.0)["squared_error"] for view in views), torch.zeros(()))
    assert loss.item() < before
    if apart:  # with joint channels the weights of a window's channels are averaged
        loss.backward()
        assert made.network.head.weight.grad is not None  # type: ignore[union-attr]
        assert made.network.head.weight.grad.abs().max() < 0.02  # type: ignore[union-attr]


@pytest.mark.parametrize(("read", "inputs"), [("auto", 24), ("all", 24), ("last", 8), ("pooled", 8)])
def test_what_the_head_reads_of_patches(read: str, inputs: int) -> None:
    assert task(read=read).network.head.in_features == inputs


def test_an_encoder_with_a_token_per_step_is_read_at_the_last() -> None:
    made = task(steps=True)
    assert made.facts["read"] == "last"
    view = seen(batch())
    tokens = made.network.encoder.features(view, want=("tokens",)).tokens
    assert tokens is not None
    assert torch.equal(made.network.read(made.network.encoder, view)[:, 0], tokens[:, -1])


def test_intervals_are_over_blocks_of_windows() -> None:
    random = np.random.default_rng(0)
    truth, forecast = random.normal(size=(2, 23, HORIZON, CHANNELS))
    made = task()
    outcome = made.outcome({"forecast": forecast}, truth)
    assert outcome.shape == (5, 3)
    np.testing.assert_allclose(outcome.sum(0), summed_errors(forecast, truth, FACTS["std"]).sum(0))
    assert outcome[0, 2] == 5 * HORIZON * CHANNELS


def test_a_table_has_the_times_that_follow() -> None:
    made = task()
    clock = np.array([[86400.0 * 365, 3600.0, 1.0], [7.0, 0.5, 0.0]])
    found = made.table({"forecast": np.zeros((2, HORIZON, CHANNELS)), "clock": clock, "row": np.arange(2), "name": np.array(["a", "b"])})
    frame = found.to_pandas()
    assert frame["time"][:1].tolist() == ["1971-01-01 01:00:00"]
    assert frame[frame.name == "b"].groupby("step").time.first().tolist() == ["7.5", "8", "8.5", "9", "9.5"]
    assert frame.channel.unique().tolist() == ["0", "1", "2"]
    without = made.table({"forecast": np.zeros((1, HORIZON, CHANNELS)), "row": np.zeros(1), "name": np.array(["a"])})
    assert "time" not in without.column_names


def test_thinned_rows_are_even() -> None:
    assert thinned(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert thinned(np.arange(3), 4).tolist() == [0, 1, 2]


@pytest.mark.parametrize("facts", [{"mean": []}, {"std": [1.0, 0.0, 1.0]}, {"apart": None}, {"std": [1.0, NAN, 1.0]}, {"mean": "no"}])
def test_wrong_facts_are_refused(facts: Options) -> None:
    with pytest.raises(UserError, match=r"its config\.json has no"):
        Forecast(task().network.encoder, {**FACTS, **facts}, horizon=HORIZON, context=CONTEXT)


def test_a_horizon_of_0_is_refused() -> None:
    with pytest.raises(UserError, match="horizon=0"):
        task(horizon=0)
