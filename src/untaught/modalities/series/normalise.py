"""Values of series, standardised, and as a view."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """Mean and standard deviation of each channel over its observed values."""
    values = batch["values"][batch["values_valid"]].double()  # (M,C)
    observed = values.isfinite()
    values, count = values.nan_to_num(0.0), observed.sum(0).clamp(min=1)
    mean = values.sum(0) / count
    std = (((values - mean) * observed).square().sum(0) / count).sqrt()
    return {"mean": mean.tolist(), "std": torch.where(std > 1e-8, std, 1.0).tolist()}


def normalised(batch: Batch, options: Options, statistics: Options) -> tuple[Tensor, Tensor]:
    """-> (B,T,C) float32, 0 where unobserved, and a mask of observed values (B,T,C)."""
    values = batch["values"].float()
    observed = values.isfinite() & batch["values_valid"].unsqueeze(2)
    values = torch.where(observed, values, 0.0)
    if options["standardise"] == "channel":
        mean, std = (torch.tensor(statistics[key], device=values.device, dtype=torch.float32) for key in ("mean", "std"))
        values = (values - mean) / std
    elif options["standardise"] == "sample":
        count = observed.sum(1, keepdim=True).clamp(min=1)
        values = values - values.sum(1, keepdim=True) / count
        values = values / ((values * observed).square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)
    return torch.where(observed, values, 0.0), observed


def finished(x: Tensor, observed: Tensor, valid: Tensor, options: Options) -> View:
    """Zeros unobserved values; if the settings allow missing values, adds an indicator channel per channel."""
    x = torch.where(observed, x, 0.0)
    if options["missing"]:
        x = torch.cat([x, (~observed & valid.unsqueeze(2)).float()], 2)
    return View(x, valid)
