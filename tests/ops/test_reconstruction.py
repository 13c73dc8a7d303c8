"""Reconstruction where values are missing: what is left of each token, in plain loops, and as without `valid` where nothing is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from untaught.ops.reconstruction import masked_reconstruction

ROWS, TOKENS, VALUES = 2, 5, 4


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """restored and target (2,5,4), mask (2,5)."""
    generator = torch.Generator().manual_seed(0)
    restored, target = (3 * torch.randn(ROWS, TOKENS, VALUES, generator=generator) + 1 for _ in range(2))
    return restored, target, torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])


@pytest.mark.parametrize("normalise", [True, False])
def test_only_the_values_that_are_there_count(normalise: bool) -> None:
    restored, target, mask = drawn()
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[0, 1, 2:], valid[1, 2, 0], valid[1, 3] = False, False, False  # two of four, three of four, none
    errors = []
    for row in range(ROWS):
        for token in range(TOKENS):
            there = valid[row, token].numpy()
            if not mask[row, token] or not there.any():
                continue
            wanted = target[row, token].double().numpy()[there]
            if normalise:
                wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
            errors.append(np.square(restored[row, token].double().numpy()[there] - wanted).mean())
    assert len(errors) == 6
    found = masked_reconstruction(restored, torch.where(valid, target, torch.nan), mask, normalise, valid)
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_where_nothing_is_missing_it_is_the_loss_without_valid(normalise: bool) -> None:
    restored, target, mask = drawn()
    plain = masked_reconstruction(restored, target, mask, normalise)
    assert masked_reconstruction(restored, target, mask, normalise, torch.ones_like(target, dtype=torch.bool)).item() == pytest.approx(
        plain.item(), rel=1e-5
    )
