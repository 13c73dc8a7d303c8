"""The command line in processes of their own, forked from one that has done the imports: a start takes no time."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import command
import pytest

SLOWEST = (  # files and folders that take minutes, longest first: left to the end, they would keep one worker busy while the others wait
    "distributed/test_runs.py",
    "commands/test_resume.py",
    "faults/",
    "distributed/test_equal.py",
    "test_gpu_images.py",
    "config/test_plugins.py",
    "export/test_formats.py",
    "training/test_collapse.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed to workers in the order of collection (pytest-xdist >= 3.8; before, the file with the most tests first)."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0].removeprefix("tests/")
        return next((number for number, slow in enumerate(SLOWEST) if file.startswith(slow)), len(SLOWEST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def quick_maps() -> None:
    command.draw_maps_quickly()


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
