"""Detection of NaN and infinite weights before they are evaluated, saved or trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from untaught.core import UserError


class NotFinite(UserError):
    """Weights contain NaN or infinity."""


def check_finite_weights(weights: Mapping[str, Any], what: str) -> None:
    """Raises NotFinite, "`what` has weights ...", if a tensor contains NaN or infinity."""
    for name, value in weights.items():
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta or not value.is_floating_point():
            continue
        if not (finite := value.isfinite()).all():
            bad = int((~finite).sum())
            raise NotFinite(
                f"{what} has weights that are not finite ({bad:,} of {value.numel():,} values of {name}); copy the files again, or retrain"
            )
