"""Tagged sentences in CoNLL's format: a word a line, its columns parted by tabs or blanks, a blank line between sentences; also in .gz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from untaught.core import UserError
from untaught.data.addresses import Address, address_name
from untaught.data.lines import UNDECODED, encoding_of, open_lines

ENDINGS = (".conll", ".conll.gz", ".iob", ".iob.gz", ".iob2", ".iob2.gz", ".bio", ".bio.gz")
DOCUMENT = "-DOCSTART-"  # a line of CoNLL-2003 that is no sentence
COLUMNS = ("tokens", "tags")  # the first column, and the last one


class Conll:
    """One file: how many sentences it has (`rows`), read as `tokens` and `tags`. Lines that begin with "# " are comments."""

    def __init__(self, address: Address, encoding: str | None = None) -> None:
        self.address, self.name = address, address_name(address)
        self.encoding = encoding_of(address, encoding)
        self.rows, widths = 0, set[int]()
        for sentence in self._sentences():
            self.rows += 1
            widths |= {len(line) for line in sentence}
        if widths == {1}:
            raise UserError(f"{self.name} has one column: words without tags; give a word and its tag on each line, parted by a tab")
        self.columns = max(widths, default=0)

    @property
    def said(self) -> str:
        return f"tags from column {self.columns} of {self.columns}"

    def read(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A sentence a row; of one that can't be read every value is the reason."""
        for sentence in self._sentences():
            if fault := next((line for line in sentence if len(line) < 2), None):
                reason: Any = ValueError(f"the line {fault[0]!r} has a word and no tag")
                yield dict.fromkeys(columns, reason)
            elif damaged := next((word for word, *_ in sentence if not word.isascii() and UNDECODED.search(word)), None):
                yield dict.fromkeys(columns, ValueError(f"the word {damaged!r} is not UTF-8; mend it, or name its encoding"))
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
    """By tabs where there is one (a word may hold blanks then), else by blanks."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
