"""Which signals are heard, and what is done where the terminal has gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from untaught import signals as interrupt
from untaught.distributed.launch import _ignored_stay
from untaught.signals import SIGNALS, Interrupted, deferred_signals, raise_interrupted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_closed_terminal_is_a_signal_like_the_others() -> None:
    assert set(SIGNALS) == {signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_in_a_step_and_ends_everything_else(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise_interrupted()
    with deferred_signals() as received:
        signal.raise_signal(number)
        assert received.number == number
    with pytest.raises(Interrupted) as stop:
        signal.raise_signal(number)
    assert stop.value.number == number


@pytest.mark.parametrize("number", SIGNALS)
def test_what_the_parent_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise_interrupted()
    signal.raise_signal(number)
    with deferred_signals() as received:
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert received.number == 0
    signal.raise_signal(number)
    with _ignored_stay():  # what torch's launcher does
        signal.signal(number, lambda *_: pytest.fail("it was heard"))
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_other_handlers_are_set_by_a_launcher_as_ever() -> None:
    handler = lambda *_: None  # noqa: E731
    with _ignored_stay():
        signal.signal(signal.SIGUSR1, handler)
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_nothing_more_is_said_to_a_terminal_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    monkeypatch.setattr(interrupt, "OUTPUTS", (slave,))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with deferred_signals() as received:
        os.write(slave, b"there")
        signal.raise_signal(signal.SIGHUP)  # by kill: the terminal is there, and is spoken to
        assert os.isatty(slave)
        os.close(master)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(slave, b"gone")
        signal.raise_signal(signal.SIGHUP)
        os.write(slave, b"nowhere")
    assert received.number == signal.SIGHUP
    os.close(slave)
