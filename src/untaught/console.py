"""What a run says: one progress bar, short lines. Quiet in a pipe."""

from __future__ import annotations

import os
import re
import threading

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Console(Console):
    """Falls silent where nobody reads it any more: a run of hours goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # what is buffered goes nowhere


console = _Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    _print(shown(text))


def warn(text: str) -> None:
    _print(f"warning: {shown(text)}", "yellow")


def _print(line: str, style: str | None = None) -> None:
    try:
        console.print(line, style=style, highlight=False, markup=False)
    except BrokenPipeError:  # of rich before 13.9
        console.on_broken_pipe()


def shown(text: str) -> str:
    """The text in one line without a character that a terminal would obey: names of files and classes may hold any."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


# Controls, and marks that turn the direction of what is read behind them; joiners, which scripts need, are none.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, kept: str = "") -> str:
    """The text for a table or a page: controls are written as they are in Python, but for those that are `kept`."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in kept else found[0].encode("unicode_escape").decode(), text)


def progress_bar(what: str) -> Progress:
    """A bar on a terminal; nothing in a pipe, nor from other threads than the main one: a terminal holds one bar."""
    return Progress(
        TextColumn(what),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal or threading.current_thread() is not threading.main_thread(),
        transient=True,
    )


def size_text(count: float) -> str:
    """123 MB."""
    from rich.filesize import decimal

    return decimal(int(count))
