"""The signals that end a run: Ctrl-C, SIGTERM (SLURM's before preemption and at a job's end) and SIGUSR1 (sbatch --signal=USR1@60)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):  # of no kind that is caught on the way
    """One of SIGNALS came; the exit code is 128 + number.

    `when` says when that was, what is kept and how to go on; None where that has been said.
    """

    def __init__(self, number: int, when: str | None = "; what had not ended is not kept") -> None:
        self.number, self.when = number, when
        super().__init__(f"by {signal.Signals(number).name}{when}")


def raise_interrupted() -> None:
    """From now on the signals raise Interrupted wherever the main thread is, so that everything closes and cleans up behind itself."""

    def stop(number: int, frame: Any) -> None:
        if number != signal.SIGINT:  # who sends it twice is not to disturb the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and its like
            signal.signal(number, stop)


class Noted:
    """The number of the signal that came, 0 for none."""

    number = 0


@contextmanager
def noted() -> Iterator[Noted]:
    """Inside, the signals are only noted, so that a step can end and be saved; a second Ctrl-C raises at once."""
    came = Noted()

    def note(number: int, frame: Any) -> None:
        if came.number and number == signal.SIGINT:
            raise Interrupted(number)
        came.number = number

    try:
        before = {number: signal.signal(number, note) for number in SIGNALS}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
