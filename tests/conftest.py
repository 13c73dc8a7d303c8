"""The command line in processes of their own, forked from one that has done the imports: a start takes no time."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import command
import pytest


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> command.Cli:
    """Runs `untaught ARGUMENTS`, with a cache of the session's own."""
    return command.Cli(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def bare_runs() -> Iterator[None]:
    """Runs end without an export and a page, which take longer than such a training, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untaught.api.finish", lambda run: None)
        yield
