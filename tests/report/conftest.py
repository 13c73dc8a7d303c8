from __future__ import annotations

from pathlib import Path

import pytest
from runs import whole_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole_run(tmp_path / "<b>run & co")
