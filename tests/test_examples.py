"""Our methods and views in loops that are not ours: each example runs, and its encoder ends above its random init."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

LIBRARIES = {"plain_torch": "torch", "lightning": "pytorch_lightning", "transformers_trainer": "accelerate"}
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("example", "library"), [("plain_torch", ""), ("lightning", "pytorch_lightning"), ("transformers_trainer", "accelerate")]
)
def test_it_ends_above_random_init(example: str, library: str) -> None:
    if library:
        pytest.importorskip(library)
    before, after = runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"]()
    assert after > before
