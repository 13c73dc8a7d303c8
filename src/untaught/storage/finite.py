"""Weights that are no numbers: found before anything is measured, written or trained with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from untaught.core import UserError


class NotFinite(UserError):
    """Weights that hold NaN or an infinite number."""


def check_finite_weights(weights: Mapping[str, Any], what: str) -> None:
    """Raises NotFinite, "`what` ...", where a tensor among the weights holds NaN or an infinite number."""
    for name, value in weights.items():
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta or not value.is_floating_point():
            continue
        if not (finite := value.isfinite()).all():
            bad = int((~finite).sum())
            raise NotFinite(
                f"{what} has weights that are not finite ({bad:,} of {value.numel():,} numbers of {name}); copy it again, or train it anew"
            )
