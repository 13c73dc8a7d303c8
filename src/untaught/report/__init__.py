"""One self-contained page of a run."""

from untaught.report.page import write

__all__ = ["write"]
