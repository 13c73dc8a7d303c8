"""The signals that end a run: Ctrl-C, SIGHUP (its terminal was closed), SIGTERM (SLURM's before preemption and at a job's end) and
SIGUSR1 (sbatch --signal=USR1@60). One that the parent process had ignored, as nohup does, stays ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
OUTPUTS = (1, 2)


class Interrupted(BaseException):  # of no kind that is caught on the way
    """One of SIGNALS came; the exit code is 128 + number.

    `when` says when that was, what is kept and how to go on; None where that has been said.
    """

    def __init__(self, number: int, when: str | None = "; what had not ended is not kept") -> None:
        self.number, self.when = number, when
        super().__init__(f"by {signal.Signals(number).name}{when}")


def raise_interrupted() -> None:
    """From now on the signals raise Interrupted wherever the main thread is, so that everything closes and cleans up behind itself."""

    terminals = _terminals()

    def stop(number: int, frame: Any) -> None:
        _leave(terminals)
        if number != signal.SIGINT:  # who sends it twice is not to disturb the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(number)

    for number in _heard():
        signal.signal(number, stop)


def _heard() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _terminals() -> list[int]:
    return [output for output in OUTPUTS if os.isatty(output)]


def _leave(terminals: list[int]) -> None:
    """Of a terminal that is gone nothing more is asked: each word to it would be a fault, and end the run before it is saved."""
    for output in terminals:
        if not os.isatty(output):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


class Noted:
    """The number of the signal that came, 0 for none."""

    number = 0


@contextmanager
def noted() -> Iterator[Noted]:
    """Inside, the signals are only noted, so that a step can end and be saved; a second Ctrl-C raises at once."""
    came, terminals = Noted(), _terminals()

    def note(number: int, frame: Any) -> None:
        _leave(terminals)
        if came.number and number == signal.SIGINT:
            raise Interrupted(number)
        came.number = number

    try:
        before = {number: signal.signal(number, note) for number in _heard()}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
