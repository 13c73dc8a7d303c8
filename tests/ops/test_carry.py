"""Gaps filled by the value before."""

from __future__ import annotations

import torch

from untaught.ops.carry import carried


def test_gaps_get_the_last_value_and_nothing_from_later() -> None:
    nan = float("nan")
    x = torch.tensor([[[nan, 1.0, nan], [2.0, nan, nan], [nan, nan, nan], [3.0, 4.0, nan]]])
    assert carried(x)[0].T.tolist() == [[2.0, 2.0, 2.0, 3.0], [1.0, 1.0, 1.0, 4.0], [0.0] * 4]
