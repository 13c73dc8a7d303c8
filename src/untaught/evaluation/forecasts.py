"""Forecasts without an encoder: the last value, seasonal naive, and ridge regression on the window.

The regression is closed-form, on all values of a channel's window less the window's last value or mean: the linear models that Zeng et al.
2023 (https://arxiv.org/abs/2205.13504) found ahead of transformers are of this form, and Toner and Darlow 2024
(https://arxiv.org/abs/2403.14587) that their exact solution does as well. Penalty, level, and whether all channels share one regression
are chosen on the validation windows, as is the period of seasonal naive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from untaught.console import progress_bar
from untaught.data.windows import FUTURE, Windows
from untaught.ops.carry import carried
from untaught.ops.least_squares import LeastSquares

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)  # of standardised inputs, on the mean squared error
UNCHOSEN = 1e-2  # without a validation part
ROWS = 256  # windows at once
FEW = 512  # validation windows that the period is chosen by
PERIODS = 12  # candidates
Level = Literal["last", "mean"]


def chosen_penalty(train: LeastSquares, validation: LeastSquares | None) -> tuple[float, Tensor]:
    """The penalty with the least squared error on the validation rows, and its solution (D + 1, K) on the training rows."""
    if validation is None:
        return UNCHOSEN, train.solve(UNCHOSEN)
    best, least = (UNCHOSEN, train.solve(UNCHOSEN)), float("inf")
    for penalty in PENALTIES:
        solution = train.solve(penalty)
        if (error := validation.error(solution)) < least:
            best, least = (penalty, solution), error
    return best


def summed_errors(made: np.ndarray, truth: np.ndarray, std: np.ndarray | list[float]) -> np.ndarray:
    """Forecasts and truth (N,H,C), NaN where missing -> (N,3): the sums of squared and absolute standardised errors, and their number."""
    known = np.isfinite(truth)
    error = np.where(known, (made - truth) / np.asarray(std), 0.0).astype(np.float64)
    return np.stack([(error**2).sum((1, 2)), np.abs(error).sum((1, 2)), known.sum((1, 2))], 1)


def classical(
    windows: Windows,
    train: np.ndarray,
    validation: np.ndarray | None,
    test: np.ndarray,
    std: np.ndarray,
    period: int,
    tell: Callable[[str], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names, and `summed_errors` (M,3) of the test windows. std (C,): by which errors are standardised; period: of seasonal naive,
    0 to choose it; tell: said what was chosen."""
    scale = torch.from_numpy(std).float()
    with progress_bar("forecasts without an encoder") as bar:
        bar.add_task("", total=None, note="")
        make, chosen = window_ridge(windows, train, validation, scale)
        tell(f"baseline  ridge on the window: {chosen}")
        yield "window_ridge", measured(windows, test, std, make)
        period = period or best_period(windows, train, validation, std)
        tell(f"baseline  seasonal naive: period {period}")
        yield "seasonal_naive", measured(windows, test, std, lambda past: seasonal_naive(past, period, windows.horizon))
        yield "last_value", measured(windows, test, std, lambda past: seasonal_naive(past, 1, windows.horizon))


NAMES = {"window_ridge": "ridge on the window", "seasonal_naive": "seasonal naive", "last_value": "the last value"}
NAMES |= {"random_init": "the same network without pretraining"}


def baselines_win(rows: list[dict[str, Any]]) -> str:
    """Where a forecast without pretraining has a lower mean squared error than all with it, in one line; "" if nowhere."""
    found = []
    for metric, data in dict.fromkeys((row["metric"], row.get("data")) for row in rows if row["metric"].startswith("mse@")):
        same = [row for row in rows if (row["metric"], row.get("data")) == (metric, data)]
        own = min((row["mean"] for row in same if row["features"] == "encoder"), default=None)
        others = {row["features"]: row["mean"] for row in sorted(same, key=lambda row: -row["mean"]) if row["features"] in NAMES}
        better = sorted((mean, NAMES[name]) for name, mean in others.items() if mean < (own or 0.0))
        if own is not None and better:
            found.append(f"{', '.join(f'{name} {mean:#.3g}' for mean, name in better)} against {own:#.3g} at horizon {metric[4:]}")
    return f"forecasts without pretraining have a lower MSE: {'; '.join(found)}" if found else ""


def batches(windows: Windows, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Contexts (B,T,C), gaps filled by the value before, and futures (B,H,C), NaN where missing."""
    for start in range(0, len(rows), ROWS):
        batch = windows.gather(rows[start : start + ROWS])
        yield carried(torch.from_numpy(batch[windows.field]).float()), torch.from_numpy(batch[FUTURE]).float()


def measured(windows: Windows, rows: np.ndarray, std: np.ndarray, make: Callable[[Tensor], Tensor]) -> np.ndarray:
    return np.concatenate([summed_errors(make(past).numpy(), future.numpy(), std) for past, future in batches(windows, rows)])


# ------------------------------------------------------------------------------------------------------- seasonal naive


def seasonal_naive(past: Tensor, period: int, horizon: int) -> Tensor:
    """past (B,T,C) -> (B,horizon,C): the values one period before, the last period repeated; with period 1 the last value."""
    period = min(period, past.shape[1])
    return past[:, -period:].repeat(1, -(-horizon // period), 1)[:, :horizon]


def best_period(windows: Windows, train: np.ndarray, validation: np.ndarray | None, std: np.ndarray) -> int:
    """Of the lags where the autocorrelation of the training windows peaks, the one whose naive forecast is best on validation windows."""
    chosen = train if validation is None else validation
    few = chosen[:: -(-len(chosen) // FEW)]
    total: Tensor | None = None
    for past, _ in batches(windows, train[:: -(-len(train) // FEW)]):
        wave = torch.fft.rfft(past - past.mean(1, keepdim=True), n=2 * past.shape[1], dim=1)
        power = (wave.abs() ** 2 / torch.from_numpy(std).float() ** 2).sum((0, 2))
        total = power if total is None else total + power
    assert total is not None
    line = torch.fft.irfft(total)[: windows.context]
    inner = [lag for lag in range(2, windows.context - 1) if line[lag] >= line[lag - 1] and line[lag] > line[lag + 1]]
    candidates = sorted(inner, key=lambda lag: -float(line[lag]))[:PERIODS] or [1]
    errors = {lag: measured(windows, few, std, lambda past, lag=lag: seasonal_naive(past, lag, windows.horizon)) for lag in candidates}
    return min(errors, key=lambda lag: errors[lag][:, 0].sum())


# -------------------------------------------------------------------------------------------------- ridge on the window


def window_ridge(
    windows: Windows, train: np.ndarray, validation: np.ndarray | None, scale: Tensor
) -> tuple[Callable[[Tensor], Tensor], str]:
    """A function past (B,T,C) -> (B,H,C), and what was chosen."""
    levels: tuple[Level, ...] = ("last", "mean")
    best: tuple[float, str, Level, list[Tensor]] | None = None
    for level in levels:
        own = _sums(windows, train, scale, level)
        held_out = _sums(windows, validation, scale, level) if validation is not None else None
        shared, joint = own[0], None if held_out is None else held_out[0]
        for number, each in enumerate(own[1:], 1):
            shared = shared + each
            joint = None if held_out is None or joint is None else joint + held_out[number]
        one = chosen_penalty(shared, joint)
        each_own = [chosen_penalty(sums, None if held_out is None else held_out[number]) for number, sums in enumerate(own)]
        tried = {"one for all channels": ([one[1]] * len(own), f"{one[0]:g}")}
        if len(own) > 1:
            tried["one per channel"] = ([found for _, found in each_own], ", ".join(f"{penalty:g}" for penalty, _ in each_own[:8]))
        for name, (solutions, penalty) in tried.items():
            error = 0.0 if held_out is None else sum(sums.error(w) * sums.weight for sums, w in zip(held_out, solutions, strict=True))
            if best is None or error < best[0]:
                best = error, f"{name}, less the {level} of the window, penalty {penalty}", level, solutions
    assert best is not None
    weights = torch.stack(best[3]).float()  # (C,T+1,H)
    return lambda past: _applied(past, weights, best[2]), best[1]


def _applied(past: Tensor, weights: Tensor, level: Level) -> Tensor:
    base = _base(past, level)
    return torch.einsum("btc,cth->bhc", past - base, weights[:, :-1]) + weights[:, -1].T + base


def _base(past: Tensor, level: Level) -> Tensor:
    return past[:, -1:] if level == "last" else past.mean(1, keepdim=True)


def _sums(windows: Windows, rows: np.ndarray, scale: Tensor, level: Level) -> list[LeastSquares]:
    """A regression's sums for every channel, each in units of its scale. Windows of whose future half is missing are left out."""
    sums = [LeastSquares(windows.context, windows.horizon) for _ in range(len(scale))]
    for past, future in batches(windows, rows):
        base = _base(past, level)
        known = (future.isfinite().float().mean(1) >= 0.5).float()  # (B,C)
        filled = carried(torch.cat([past, future], 1))[:, -windows.horizon :]
        x, y = (past - base), (filled - base)
        for channel, own in enumerate(sums):
            weight = known[:, channel] / scale[channel] ** 2  # the intercept is in the data's unit, as are both sides
            own.add(x[:, :, channel], y[:, :, channel], weight)
    return sums
