"""Bytes of a text by their mark, by name, and what they look like where neither fits."""

from __future__ import annotations

import codecs

import pytest

from untaught.ops.encodings import decode, marked, wide

TEXT = "héllo wörld,\r\na sécond line 漢"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("named", ["utf-8", "latin-1", "utf-16"])
def test_a_mark_goes_before_the_name_and_is_no_character(encoding: str, named: str) -> None:
    content = MARKED[encoding] + TEXT.encode(encoding)
    assert marked(content) == (encoding, len(MARKED[encoding]))
    assert decode(content, named) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_without_a_mark_the_name_is_said(encoding: str) -> None:
    content = TEXT.encode(encoding)
    assert wide(content) == encoding
    assert decode(content, encoding) == TEXT
    for named in ("utf-8", "latin-1"):
        with pytest.raises(ValueError, match=f"it looks like {encoding}: give encoding={encoding}"):
            decode(content, named)


@pytest.mark.parametrize(
    "content", [TEXT.encode(), TEXT.encode("latin-1", "replace"), b"", b"a\0b", b"one\0two three four", bytes(range(256))]
)
def test_other_text_is_not_taken_for_it(content: bytes) -> None:
    assert wide(content) is None


def test_nul_characters_are_no_text() -> None:
    with pytest.raises(ValueError, match="has NUL characters, read as utf-8"):
        decode(b"one\0two three", "utf-8")


def test_what_is_cut_short_behind_a_mark_says_so() -> None:
    with pytest.raises(ValueError, match="is not valid utf-16-le at byte 6; it is damaged or truncated"):
        decode(codecs.BOM_UTF16_LE + b"a\0b\0c", "utf-8")
