"""Machines as containers make them: no home, no name of the user, a home that is read-only, a working directory that is gone."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from untaught import cli, surroundings


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An environment of one's own, without what the tests' has."""
    monkeypatch.setattr(os, "environ", {})
    return os.environ


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_the_cache_is_a_temporary_folder_and_libraries_use_it(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"untaught-{os.getuid()}"
    assert surroundings.cache_folder() == own / ".cache" / "untaught"
    assert own.stat().st_mode & 0o777 == 0o700
    surroundings.settle()
    assert (env["HOME"], env["USER"]) == (str(own), str(os.getuid()))
    for mode in (0o777, 0o720, 0o702):  # as if someone else had made it first
        own.chmod(mode)
        assert surroundings.cache_folder() != own / ".cache" / "untaught"


def test_a_cache_that_is_named_needs_no_home(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    env["UNTAUGHT_CACHE"] = str(tmp_path)
    assert surroundings.cache_folder() == tmp_path


@pytest.mark.parametrize("writable", [True, False])
def test_what_libraries_keep_at_home_moves_where_that_is_read_only(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(os, "access", lambda path, mode: writable)  # root may write anywhere
    env |= {"UNTAUGHT_CACHE": str(tmp_path / "cache"), "TRITON_CACHE_DIR": "mine"}
    before = dict(env)
    surroundings.settle()
    if writable:
        assert env == before
    else:
        assert env["HF_HOME"] == str(tmp_path / "cache" / "huggingface")
        assert env["TRITON_CACHE_DIR"] == "mine"
        assert {name for name in env if name.endswith("CACHE_DIR")} >= {"TORCHINDUCTOR_CACHE_DIR"}


def test_a_models_cache_in_a_read_only_home_is_still_read(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    surroundings.settle()
    assert "HF_HOME" not in env


def test_a_working_directory_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    monkeypatch.setattr(sys, "argv", ["untaught", "doctor"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capfd.readouterr().err == "error: the working directory no longer exists; change to another one\n"
