"""Text files of many documents: lines and paragraphs, nothing lost, in bounded memory."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_modality

from untaught.core import Modality, Record, UserError
from untaught.data import texts
from untaught.data.parts import Source
from untaught.data.texts import in_parts, is_text, open_texts
from untaught.modalities.tokenizer import read

TEXTS = make_modality(
    name="text", noun="documents", fields={"text": ("text",)}, suffixes=frozenset({".txt"}), lines=True, decode=lambda r, prep: {}
)


def write(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def opened(*paths: Path, unit: str | None = None, modality: Modality = TEXTS) -> Source:
    return open_texts(paths, modality, "the folder", unit)


def records(*paths: Path, unit: str | None = None, part: str = "all") -> list[Record]:
    found = opened(*paths, unit=unit).parts[part]
    listed = list(found)
    assert found.rows == len(listed)
    return listed


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("last", [b"", b"\n"], ids=["open end", "closed end"])
def test_a_record_a_line(name: str, last: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, name, b"one\n two \r\nthr\xc3\xa9e" + last)
    assert [(r["text"], r["ends"], r["name"]) for r in records(path)] == [
        (b"one", True, f"{name} line 1"),
        (b" two ", True, f"{name} line 2"),
        (b"thr\xc3\xa9e", True, f"{name} line 3"),
    ]


def test_blank_lines_are_no_records_where_lines_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"\none\n\n  \ntwo\n\n")
    assert [r["text"] for r in records(path, unit="line")] == [b"one", b"two"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_paragraphs_joined_are_the_file_and_the_last_ends_it(name: str, tmp_path: Path) -> None:
    content = b"\n\nfirst,\nstill first\n\n\nsecond\r\n \r\nthird"
    found = records(write(tmp_path, name, content))
    assert [r["text"] for r in found] == [b"\n\nfirst,\nstill first\n\n\n", b"second\r\n \r\n", b"third"]
    assert [r["ends"] for r in found] == [False, False, True]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "word", "é漢🙂", "\n", "\n\n", "\r\n", " ", "x" * 30]), min_size=1, max_size=40).map("".join),
    st.integers(8, 40),
)
def test_nothing_is_lost_wherever_pieces_are_cut(tmp_path_factory: pytest.TempPathFactory, content: str, piece: int) -> None:
    root = tmp_path_factory.mktemp("texts")
    path = write(root, "a.txt", content.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(texts, "PIECE", piece)
        paragraphs = list(texts._paragraphs(path, None))
        lines = list(texts._lines(path, None))
    assert b"".join(part for part, *_ in paragraphs) == content.encode()
    assert [ends for _, ends, _ in paragraphs] == [False] * (len(paragraphs) - 1) + [True]
    joined, now = [], b""
    for part, ends, _ in lines:
        part.decode()  # no character is cut
        now += part
        if ends:
            joined.append(now)
            now = b""
    assert not now
    want = [line.rstrip(b"\r\n") for line in content.encode().split(b"\n") if line.strip()]
    assert [line.translate(None, b" \r") for line in joined] == [line.translate(None, b" \r") for line in want]
    for part, *_ in paragraphs:
        part.decode()


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("lead", range(4))  # so that a piece ends at every place in a character
def test_an_endless_line_is_cut_between_characters(name: str, unit: str, lead: int, tmp_path: Path) -> None:
    content = "x" * lead + "éไ漢🙂" * 20_000 + "\n"  # of 2, 3 (the first byte the least and another) and 4 bytes
    found = records(write(tmp_path, name, content.encode()), unit=unit)
    assert "".join(r["text"].decode() for r in found).rstrip("\n") == content.rstrip("\n")
    assert max(len(r["text"]) for r in found) <= texts.PIECE + 4
    assert [r["ends"] for r in found] == [False] * (len(found) - 1) + [True]
    assert len(found) == -(-len(content.encode()) // texts.PIECE)


@pytest.mark.parametrize("more", [b"", b"\n", b"\nnext\n"])
def test_a_line_as_long_as_a_piece_ends_its_document(more: bytes, tmp_path: Path) -> None:
    found = records(write(tmp_path, "a.txt", b"x" * texts.PIECE + more), unit="line")
    assert [(len(r["text"]), r["ends"]) for r in found] == [(texts.PIECE, True), *([(4, True)] if b"next" in more else [])]


@pytest.mark.parametrize(
    "line", [b"x" * (8 << 20), b"a word and another\n" * 500_000, b"a\n\n" * 2_500_000], ids=["endless", "lines", "paragraphs"]
)
def test_memory_is_bounded(line: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", line)
    cut = texts._paragraphs if b"\n\n" in line else texts._lines
    tracemalloc.start()
    try:
        for _, _ in zip(range(50_000), cut(path, None), strict=False):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_files_named_after_parts_are_parts(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, name.encode()) for name in ("wiki.test.raw", "wiki.train.raw", "wiki.valid.raw")]
    assert in_parts(paths)
    source = opened(*paths)
    assert list(source.parts) == ["train", "val", "test"]
    assert [[r["text"] for r in part] for part in source.parts.values()] == [[b"wiki.train.raw"], [b"wiki.valid.raw"], [b"wiki.test.raw"]]
    assert "(train 1, val 1, test 1)" in source.what


def test_files_of_which_some_are_named_after_parts_are_one(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, name.encode()) for name in ("a.txt", "train.txt")]
    assert not in_parts(paths)
    assert [r["text"] for r in records(*paths)] == [b"a.txt", b"train.txt"]
    assert not in_parts(paths[:1])


def test_the_fingerprint_tells_contents_and_units_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"one\n\ntwo")
    first = opened(path).fingerprint
    assert opened(path).fingerprint == first
    assert opened(path, unit="line").fingerprint != first
    write(tmp_path, "a.txt", b"one\n\ntwo!")
    assert opened(path).fingerprint != first


def test_what_text_is_called(tmp_path: Path) -> None:
    assert all(is_text(Path(name)) for name in ("a.txt", "B.TXT.GZ", "notes.md", "wiki.train.raw"))
    assert not any(is_text(Path(name)) for name in ("a.png", "a.gz", "a.csv"))


def test_a_unit_that_is_not_known_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text=page: the folder is plain text; text=line and text=paragraph"):
        opened(write(tmp_path, "a.txt", b"one"), unit="page")


def test_files_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no text"):
        opened(write(tmp_path, "a.txt", b""))


@pytest.mark.parametrize("damage", ["cut", "not gzip", "gone"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt.gz", b"some lines\n" * 5000)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30] if damage == "cut" else b"not packed at all")
    with pytest.raises(UserError, match=r"a\.txt\.gz can't be read as text"):
        records(path)


def test_a_file_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt.gz", bytes(range(256)) * 4000)
    content: Any = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt\.gz can't be read as text"):
        records(path, unit="line")


# ---------------------------------------------------------------------------------------------------------- encodings

LINES = ["héllo wörld", "", "the thírd \u2028 line", " \x0c", "fífth, with a \r in it", "the last 漢字"]  # of which two are blank
WANT = [("line 1", LINES[0]), ("line 3", LINES[2]), ("line 5", LINES[4]), ("line 6", LINES[5])]


def texts_of(path: Path, encoding: str | None = None, unit: str | None = "line") -> list[tuple[str, str]]:
    """(place, text or why there is none) as the modality of text reads the records."""
    found = []
    for record in open_texts([path], TEXTS, "the folder", unit, encoding).parts["all"]:
        try:
            found.append((record["name"].removeprefix(f"{path.name} "), read(record["text"], encoding or "utf-8")))
        except ValueError as error:
            found.append((record["name"].removeprefix(f"{path.name} "), f"FAULT {error}"))
    return found


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_lines_are_the_files_in_any_encoding_that_is_named(name: str, end: str, encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, end.join(LINES).encode(encoding))
    assert texts_of(path, encoding) == WANT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_tells_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "\n".join(LINES).encode(encoding))
    assert texts_of(path) == WANT
    assert texts_of(path, unit="paragraph") == texts_of(write(tmp_path, "a.txt", "\n".join(LINES).encode()), unit="paragraph")


def test_utf_16_without_a_mark_is_refused_line_by_line_until_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one line\nand\n".encode("utf-16-be"))
    assert [place for place, _ in texts_of(path)] == ["line 1", "line 2"]
    assert all("give encoding=utf-16-be" in said for _, said in texts_of(path))
    assert [read(r["text"], "utf-16-be") for r in records(path)] == ["one line", "and"]  # as it is, whoever names it later


def test_lines_of_ebcdic_end_as_they_do_there(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path, "a.txt", "one\ntwo\n".encode("cp037")), "cp037") == [("line 1", "one"), ("line 2", "two")]


def test_what_is_damaged_costs_its_line_alone(tmp_path: Path) -> None:
    lone = "a\ud800b".encode("utf-16-le", "surrogatepass")
    wide = b"\xff\xfe" + "one\n".encode("utf-16-le") + lone + "\nthree\n".encode("utf-16-le")
    assert texts_of(write(tmp_path, "a.txt", wide)) == [
        ("line 1", "one"),
        ("line 2", "FAULT is not valid utf-16-le; fix or remove it"),
        ("line 3", "three"),
    ]
    found = texts_of(write(tmp_path, "a.txt", b"one\nt\0wo\nth\xffree\nfour"))
    assert [text.split(";")[0] for _, text in found] == [
        "one",
        "FAULT has NUL characters, read as utf-8",
        "FAULT is not valid utf-8 at byte 2",
        "four",
    ]


def test_an_endless_line_keeps_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"\n" + b"x" * (texts.PIECE + 5) + b"\nlast")
    assert [r["name"] for r in records(path, unit="line")] == ["a.txt line 2", "a.txt line 2 piece 2", "a.txt line 3"]


def test_memory_is_bounded_where_another_encoding_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", ("a word and another\n" * 100_000).encode("utf-16"))
    tracemalloc.start()
    try:
        assert sum(1 for _ in texts._lines(path, None)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
