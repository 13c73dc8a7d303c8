"""What a command prints when nobody reads it to the end, and what it says of itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import untaught
from untaught import cli
from untaught import console as log

COMMANDS = (["--help"], ["--version"], ["methods"], ["methods", "simclr"], ["methods", "--json"], ["encoders"], ["encoders", "bert"])


@contextmanager
def closed_pipe() -> Iterator[Any]:
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1 << 16)
    yield stream
    stream.close()  # whatever is left in it goes nowhere, or this would fail


def end_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["untaught", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_closed_pipe_is_no_failure(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert end_of(words, monkeypatch) == 0
    assert capfd.readouterr().err == ""


def test_a_run_goes_on_when_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_pipe() as stream:
        console = log._Console(file=stream, soft_wrap=True)
        monkeypatch.setattr(log, "console", console)
        log.say("line")
        log.warn("another")
        assert console.quiet


def test_the_version_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert end_of(["--version"], monkeypatch) == 0
    assert capfd.readouterr().out == f"untaught {untaught.__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["encoders", "brt"], "unknown encoder brt; did you mean bert"),
        (["encoders", "timm/resnet19"], "timm has no model resnet19; similar: resnet18"),
        (["embed", "run", ""], "the argument after run is empty; give a value"),
        (["pretrain", "data", "--encoder="], "--encoder is empty; give a value"),
        (["evaluate", "run", "--against", " "], "the argument after --against is empty"),
        (["preview", ""], "the argument after preview is empty"),
        (["pretrain", "builtin:digits", "--columns", "image="], "--columns image is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_name_is_one_line(words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert end_of(words, monkeypatch) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if not line.startswith("modality"))
    assert line.startswith(f"error: {says}")
