"""Self-supervised learning: pretrain an encoder on unlabelled data and evaluate it against honest baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from untaught import losses, methods
    from untaught.api import (
        Comparison,
        Model,
        Run,
        anomaly,
        compare,
        embed,
        evaluate,
        finetune,
        load,
        predict,
        pretrain,
        pretrain_seeds,
        preview,
        runs,
        views,
        wrap,
    )
    from untaught.core import Encoder, Facts, Features, Method, Modality, UserError, View

_API = (
    *("Comparison", "Model", "Run", "anomaly", "compare", "embed", "evaluate", "finetune", "load", "predict", "pretrain"),
    *("pretrain_seeds", "preview", "runs", "views", "wrap"),
)
_PLACES = {
    **dict.fromkeys(_API, "untaught.api"),
    **dict.fromkeys(("Encoder", "Facts", "Features", "Method", "Modality", "UserError", "View"), "untaught.core"),
}
_MODULES = ("losses", "methods")
__all__ = [
    "Comparison",
    "Encoder",
    "Facts",
    "Features",
    "Method",
    "Modality",
    "Model",
    "Run",
    "UserError",
    "View",
    "anomaly",
    "compare",
    "embed",
    "evaluate",
    "finetune",
    "load",
    "losses",
    "methods",
    "predict",
    "pretrain",
    "pretrain_seeds",
    "preview",
    "runs",
    "views",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: `import untaught` alone does not import torch."""
    if name not in _PLACES and name not in _MODULES:
        raise AttributeError(f"module 'untaught' has no attribute {name!r}")
    import importlib

    from untaught.surroundings import settle

    settle()
    return importlib.import_module(f"untaught.{name}") if name in _MODULES else getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
