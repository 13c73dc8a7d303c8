"""Signals that end a run: Ctrl-C, SIGHUP (closed terminal), SIGTERM (SLURM, before preemption and at the end of a job) and SIGUSR1
(sbatch --signal=USR1@60). Signals ignored by the parent process (nohup) stay ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
OUTPUTS = (1, 2)


class Interrupted(BaseException):  # so that `except Exception` does not catch it
    """One of SIGNALS was received; the exit code is 128 + number.

    when: text on the time, what was saved and how to continue; None if already printed.
    """

    def __init__(self, number: int, when: str | None = "; unfinished work was not saved") -> None:
        self.number, self.when = number, when
        super().__init__(f"by {signal.Signals(number).name}{when}")


def raise_interrupted() -> None:
    """Makes the signals raise Interrupted in the main thread, so that everything is closed and cleaned up."""

    terminals = _terminals()

    def stop(number: int, frame: Any) -> None:
        _leave(terminals)
        if number != signal.SIGINT:  # a second one must not interrupt the cleanup
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(number)

    for number in _handled():
        signal.signal(number, stop)


def _handled() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _terminals() -> list[int]:
    return [output for output in OUTPUTS if os.isatty(output)]


def _leave(terminals: list[int]) -> None:
    """Redirects closed terminals to /dev/null: writing to them would raise an error and end the run before it is saved."""
    for output in terminals:
        if not os.isatty(output):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, output)
            os.close(null)


class Received:
    """The number of the received signal, 0 for none."""

    number = 0


@contextmanager
def deferred_signals() -> Iterator[Received]:
    """Within it, signals are only recorded, so that a step can finish and be saved; a second Ctrl-C raises at once."""
    received, terminals = Received(), _terminals()

    def note(number: int, frame: Any) -> None:
        _leave(terminals)
        if received.number and number == signal.SIGINT:
            raise Interrupted(number)
        received.number = number

    try:
        before = {number: signal.signal(number, note) for number in _handled()}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
