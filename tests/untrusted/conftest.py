"""A run to be tampered with, and a network that must not be asked."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from command import Cli
from harm import Harm

import untaught as ut
from untaught.data import table

TINY: dict[str, Any] = {"steps": 2, "size": 16, "batch_size": 8, "encoder__width": 4, "precision": "float32", "save_every": 1}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is tried again at once."""
    monkeypatch.setattr(table, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(scope="session")
def trained(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended, with everything in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
        return ut.pretrain("builtin:digits", out=tmp_path_factory.mktemp("untrusted") / "run", **TINY).path


@pytest.fixture(scope="session")
def with_heads(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose method can answer its pretext task later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
        return ut.pretrain("builtin:digits", "jigsaw", out=tmp_path_factory.mktemp("heads") / "run", **TINY).path


@pytest.fixture(scope="session")
def in_parts(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose one checkpoint is in parts, as fsdp writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
        run = ut.pretrain("builtin:digits", out=tmp_path_factory.mktemp("parts") / "run", strategy="fsdp", **TINY).path
    shutil.rmtree(run / "checkpoints" / "step-1")
    return run


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where something wanted to go; the list must stay empty."""
    asked: list[str] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(str(address))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))
    return asked


@pytest.fixture
def harm(tmp_path: Path) -> Harm:
    return Harm(tmp_path / "harm-was-done")
