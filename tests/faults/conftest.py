"""Images, a run of them that nothing ever disturbed, and a disk that is too small."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import Cli
from lives import Life, write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("faults") / "photos", 400)


@pytest.fixture(scope="session")
def undisturbed(cli: Cli, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Life:
    life = Life(cli, photos, tmp_path_factory.mktemp("undisturbed"))
    life.finish()
    return life


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many KB; asked again, it is made larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(kilobytes: int) -> Path:
        again = ["-o", f"remount,size={kilobytes}k"] if place.is_mount() else ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"]
        mounted = subprocess.run(["mount", *again, str(place)], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
        return place

    yield sized
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)
