"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def bare_runs() -> Iterator[None]:
    """Runs end without an export and a page, which take longer than such a training, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untaught.api.finish", lambda run: None)
        yield
