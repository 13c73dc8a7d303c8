"""Self-supervised learning: pretrain an encoder on data nobody labelled, and know what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from untaught.api import Model, Run, evaluate, load, pretrain, preview
    from untaught.core import Encoder, Facts, Features, Method, Modality, UserError, View

_PLACES = {
    **dict.fromkeys(("Model", "Run", "evaluate", "load", "preview", "pretrain"), "untaught.api"),
    **dict.fromkeys(("Encoder", "Facts", "Features", "Method", "Modality", "UserError", "View"), "untaught.core"),
}
__all__ = [
    "Encoder",
    "Facts",
    "Features",
    "Method",
    "Modality",
    "Model",
    "Run",
    "UserError",
    "View",
    "evaluate",
    "load",
    "pretrain",
    "preview",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: `import untaught` alone takes no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'untaught' has no attribute {name!r}")
    import importlib

    from untaught.surroundings import settle

    settle()
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
