"""Tagged sentences in CoNLL format, also gzipped: one word per line, columns separated by tabs or spaces, blank lines between sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from untaught.core import UserError
from untaught.data.addresses import Address, address_name
from untaught.data.lines import UNDECODED, encoding_of, open_lines

ENDINGS = (".conll", ".conll.gz", ".iob", ".iob.gz", ".iob2", ".iob2.gz", ".bio", ".bio.gz")
DOCUMENT = "-DOCSTART-"  # document separator of CoNLL-2003
COLUMNS = ("tokens", "tags")  # the first and the last column


class Conll:
    """One file, read as `tokens` and `tags`; `rows`: number of sentences. Lines that begin with "# " are comments."""

    def __init__(self, address: Address, encoding: str | None = None) -> None:
        self.address, self.name = address, address_name(address)
        self.encoding = encoding_of(address, encoding)
        self.rows, widths = 0, set[int]()
        for sentence in self._sentences():
            self.rows += 1
            widths |= {len(line) for line in sentence}
        if widths == {1}:
            raise UserError(f"{self.name} has one column, words without tags; each line must have a word and its tag, separated by a tab")
        self.columns = max(widths, default=0)

    @property
    def note(self) -> str:
        return f"tags from column {self.columns} of {self.columns}"

    def read(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """One sentence per row; for an unreadable one, every value is the reason (an exception)."""
        for sentence in self._sentences():
            if fault := next((line for line in sentence if len(line) < 2), None):
                reason: Any = ValueError(f"the line {fault[0]!r} has a word but no tag")
                yield dict.fromkeys(columns, reason)
            elif damaged := next((word for word, *_ in sentence if not word.isascii() and UNDECODED.search(word)), None):
                yield dict.fromkeys(columns, ValueError(f"the word {damaged!r} is not UTF-8; fix it, or give the encoding"))
            else:
                yield {column: [line[0 if column == COLUMNS[0] else -1] for line in sentence] for column in columns}

    def _sentences(self) -> Iterator[list[list[str]]]:
        sentence: list[list[str]] = []
        with open_lines(self.address, self.encoding) as lines:
            for line in lines:
                line = line.rstrip("\r\n")
                if not line.strip():
                    if sentence:
                        yield sentence
                    sentence = []
                elif not line.startswith(("# ", DOCUMENT)):
                    sentence.append(_cells(line))
        if sentence:
            yield sentence


def _cells(line: str) -> list[str]:
    """Splits at tabs if there are any (words may then contain spaces), else at whitespace."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
