"""Console output: short lines and one progress bar, which is hidden in a pipe."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Console(Console):
    """Stops printing when its output is closed, so that a long run continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # discards what is buffered


console = _Console(stderr=True, soft_wrap=True, emoji=False)


_hushed: tuple[set[str], bool] | None = None  # warnings that were shown, and whether `say` prints


@contextmanager
def hushed(warned: set[str], saying: bool = False) -> Iterator[None]:
    """For a command that trains many runs: within it `say` prints nothing (as ever if `saying`), and `warn` what is not yet in `warned`,
    where it is added. Progress bars are shown."""
    global _hushed
    before, _hushed = _hushed, (warned, saying)
    try:
        yield
    finally:
        _hushed = before


def say(text: str) -> None:
    if _hushed is None or _hushed[1]:
        _print(shown(text))


def warn(text: str) -> None:
    warned = _hushed[0] if _hushed else set()
    if text not in warned:
        _print(f"warning: {shown(text)}", "yellow")
    warned.add(text)


def _print(line: str, style: str | None = None) -> None:
    try:
        console.print(line, style=style, highlight=False, markup=False)
    except BrokenPipeError:  # rich before 13.9
        console.on_broken_pipe()


def shown(text: str) -> str:
    """The text in one line with unprintable characters escaped: names of files and classes may contain any."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


# Control characters and bidirectional marks, but not joiners, which scripts need.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, kept: str = "") -> str:
    """The text for a table or a page: control characters are escaped as in Python, except those in `kept`."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in kept else found[0].encode("unicode_escape").decode(), text)


def progress_bar(what: str) -> Progress:
    """A progress bar on a terminal; nothing in a pipe or in other threads than the main one, since a terminal shows one bar."""
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
