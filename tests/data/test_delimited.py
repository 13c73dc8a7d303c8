"""Cells of csv and tsv are text as written, and no line is lost without a word."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from untaught.core import Modality, UserError
from untaught.data import delimited
from untaught.data.sources import open_source


def rows(path: Path, content: str | bytes, modality: Modality, **told: Any) -> list[tuple[Any, Any]]:
    """(text or why it can't be read, class name) of every row."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = open_source(path, modality, **told)
    found = [(str(r["text"]) if isinstance(r["text"], Exception) else r["text"], r.get("label")) for r in source.parts["all"]]
    assert source.rows == len(found)
    return [(text, source.classes[label] if source.classes and label is not None else label) for text, label in found]


def test_cells_are_text_as_written(tmp_path: Path, tokens: Modality) -> None:
    cells = ["NA", "None", "nan", "null", "01", "007", "1e5", "True", "2020-01-01", "1.0", "-1", " x "]
    written = "text,label\n" + "".join(f"{cell},{cell}\n{cell},{cell}\n" for cell in cells)
    found = rows(tmp_path / "a.csv", written + ",NA\nlast,\n", tokens)
    assert found == [(cell, cell) for cell in cells for _ in range(2)] + [(None, "NA"), ("last", None)]


def test_the_ten_thousandth_row_is_read_as_the_first(tmp_path: Path, tokens: Modality) -> None:
    """Types that are guessed from a piece of the file turn "007" into 7 in the next piece."""
    found = rows(tmp_path / "a.csv", "text,label\n" + "1,0\n" * 12000 + "007,NA\n" * 3, tokens)
    assert found[:2] == [("1", "0")] * 2
    assert found[-3:] == [("007", "NA")] * 3


def test_classes_of_one_number_written_in_two_ways_stand_in_one_order(tmp_path: Path, tokens: Modality) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,01\nc,10\nd,001\ne,2\n")
    assert open_source(tmp_path / "a.csv", tokens, label="label").classes == ("001", "01", "1", "2", "10")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"said a\tx', "b\ty", '"said c\tx', "d\ty"], [('"said a', "x"), ("b", "y"), ('"said c', "x"), ("d", "y")]),  # lone, at a start
        (['"said a\tx', "b\ty", 'said c"\tx', "d\ty"], [('"said a', "x"), ("b", "y"), ('said c"', "x"), ("d", "y")]),  # closed lines later
        (['"a\tx', "b\ty"], [('"a', "x"), ("b", "y")]),  # never closed
        (['5" wide\tx', "b\ty"], [('5" wide', "x"), ("b", "y")]),
        (['"in ""marks"" here"\tx', '""\ty'], [('in "marks" here', "x"), (None, "y")]),
        (['"a\tb"\tx', "c\ty"], [("a\tb", "x"), ("c", "y")]),  # a separator in marks
        (['"two\nlines, ""so""\n\nand more"\tx', "c\ty"], [('two\nlines, "so"\n\nand more', "x"), ("c", "y")]),
        (['"back \\"slash\\"\tes"\tx', "c\ty"], [('back "slash"\tes', "x"), ("c", "y")]),  # MySQL's
        (['"a" b\tx', "c\ty"], [('"a" b', "x"), ("c", "y")]),
    ],
)
def test_quotation_marks(lines: list[str], expected: list[tuple[str, str]], tmp_path: Path, tokens: Modality) -> None:
    for separator in ("\t", ";"):
        content, wanted = ("\n".join(["text\tlabel", *lines]), expected)
        wanted = [(text and text.replace("\t", separator), label) for text, label in wanted]
        if separator == ";" and 'said c"' in content:
            continue  # only tabs tell so short a cell of several lines from rows
        assert rows(tmp_path / f"{ord(separator)}.tsv", content.replace("\t", separator), tokens, label="label") == wanted


def test_what_marks_do_is_said_and_can_be_told(tmp_path: Path, tokens: Modality) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a\nb, c",x\n"lone,y\n')
    what = open_source(path, tokens).what
    assert "quoted rows of several lines: 1" in what
    assert "rows with an unclosed quote, read as text: 1" in what
    assert rows(path, 'text,label\n"a,x\nb",y\n', tokens, columns={"quote": "none"}) == [('"a', "x"), ('b"', "y")]


def test_a_pair_of_lone_marks_far_apart_swallows_nothing(tmp_path: Path, tokens: Modality) -> None:
    lines = [f"{i},x" for i in range(30)]
    lines[3], lines[20] = '"3,x', '20",x'
    assert len(rows(tmp_path / "a.csv", "\n".join(["text,label", *lines]), tokens)) == 30


def test_marks_are_looked_for_in_bounded_memory(tmp_path: Path, tokens: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "LONGEST", 50)
    found = rows(tmp_path / "a.csv", 'text,label\n"a,x\n' + "b,y\n" * 20 + 'c\nd",z\n', tokens)
    assert found[0] == ('"a', "x")
    assert len(found) == 23


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_the_separator_is_found(name: str, separator: str, tmp_path: Path, tokens: Modality) -> None:
    content = f"text{separator}label\n1 2{separator}x\n3{separator}y\n4{separator}x\n5{separator}y\n".encode()
    found = rows(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content, tokens)
    assert found == [("1 2", "x"), ("3", "y"), ("4", "x"), ("5", "y")]


def test_separators_in_odd_places(tmp_path: Path, tokens: Modality) -> None:
    expected = [("a, b", "x"), ("c", "y")]
    assert rows(tmp_path / "a.csv", "text;label\na, b;x\nc;y\n", tokens, label="label") == expected  # commas in the text
    assert rows(tmp_path / "a.csv", 'text, label\n"a, b", x\nc, y\n', tokens, label="label") == expected  # a blank behind each
    assert rows(tmp_path / "a.csv", "sep=;\ntext;label\na, b;x\nc;y\n", tokens, label="label") == expected  # Excel's
    assert rows(tmp_path / "a.csv", "text:label\na, b:x\nc:y\n", tokens, label="label", columns={"separator": ":"}) == expected
    assert rows(tmp_path / "a.csv", "text\na, b\n\nc\n", tokens) == [("a, b", None), ("c", None)]  # one column
    assert rows(tmp_path / "a.csv", "text,label,\na,x,\nb,y,,\n", tokens, label="label") == [("a", "x"), ("b", "y")]  # at line ends


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_are_found(ends: str, encoding: str, tmp_path: Path, tokens: Modality) -> None:
    content = ends.join(["text,label", "é\u2028\x0c,x", "b,ÿ", "c,x", "d,ÿ", ""]).encode(encoding)
    assert rows(tmp_path / "a.csv", content, tokens) == [("é\u2028\x0c", "x"), ("b", "ÿ"), ("c", "x"), ("d", "ÿ")]


def test_line_ends_within_cells_stay_as_they_are(tmp_path: Path, tokens: Modality) -> None:
    found = rows(tmp_path / "a.csv", b'text,label\r\na\rb,x\r\n"c\r\nd\re",y\r\n', tokens, label="label")
    assert found == [("a\rb", "x"), ("c\r\nd\re", "y")]


def test_another_encoding_is_asked_for(tmp_path: Path, tokens: Modality) -> None:
    content = "text,label\né,x\nb,y\n".encode("cp1252")
    with pytest.raises(UserError, match=r"a.csv is not UTF-8: 1 of 2 rows .* give its encoding, e.g. --columns encoding=cp1252"):
        rows(tmp_path / "a.csv", content, tokens)
    assert rows(tmp_path / "a.csv", content, tokens, label="label", columns={"encoding": "cp1252"}) == [("é", "x"), ("b", "y")]
    with pytest.raises(UserError, match=r"line 1 is not UTF-8"):
        rows(tmp_path / "a.csv", "tèxt,label\na,x\n".encode("cp1252"), tokens)
    found = rows(tmp_path / "a.csv", "text,label\né,x\n".encode() + b"\xe9,y\n", tokens, label="label")  # one damaged row of UTF-8
    assert found == [("é", "x"), ("line 3 is not UTF-8; fix it, or give its encoding, e.g. --columns encoding=cp1252", None)]


def test_a_line_of_too_many_cells_is_named_and_one_of_too_few_has_empty_ones(tmp_path: Path, tokens: Modality) -> None:
    found = rows(tmp_path / "a.csv", "text,label\na,x\nb, c,y\nd\ne,y\n", tokens, label="label")
    assert found[0::2] == [("a", "x"), ("d", None)]
    assert found[3] == ("e", "y")
    assert found[1][0].startswith("line 3 has 3 cells, the first line 2")


def test_headers(tmp_path: Path, tokens: Modality, pictures: Modality) -> None:
    assert rows(tmp_path / "a.csv", "\ufeff Text ,LABEL\na,x\nb,y\n", tokens, label="label") == [("a", "x"), ("b", "y")]
    assert rows(tmp_path / "a.csv", ",text,label\n0,a,x\n1,b,y\n", tokens, label="label") == [("a", "x"), ("b", "y")]  # pandas' index
    named = {"text": "full text body", "separator": "comma"}  # three words are a name still, beside a number too
    assert rows(tmp_path / "a.csv", "full text body,label,2024\na,x,1\n", tokens, columns=named, label="label") == [("a", "x")]
    unnamed = {"text": "column1", "separator": "comma"}  # four are a text
    assert rows(tmp_path / "a.csv", "full text body here,1\na,2\n", tokens, columns=unnamed, label="column2") == [
        ("full text body here", "1"),
        ("a", "2"),
    ]
    told = {"header": "no", "text": "column1"}
    assert rows(tmp_path / "a.csv", "text,x\nb,y\n", tokens, columns=told, label="column2") == [("text", "x"), ("b", "y")]
    (tmp_path / "a.csv").write_text("p/0.png,cat\np/1.png,dog\n")
    source = open_source(tmp_path / "a.csv", pictures, label="column2")
    assert [r["image"] for r in source.parts["all"]] == [tmp_path / "p/0.png", tmp_path / "p/1.png"]
    assert "a.csv: no header" in source.what
    with pytest.raises(UserError, match="column label occurs twice in"):
        rows(tmp_path / "a.csv", "text,label,label\na,x,y\n", tokens)
    assert rows(tmp_path / "a.csv", "text,label,z,z\na,x,1,2\nb,y,1,2\n", tokens, label="label") == [("a", "x"), ("b", "y")]


def test_what_is_told_is_checked(tmp_path: Path, tokens: Modality, pictures: Modality) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    for name, told, said in [
        ("a.csv", {"separator": "ab"}, "separator=ab: allowed are comma, tab"),
        ("a.csv", {"quote": "no"}, "quote=no: allowed are double, none"),
        ("a.csv", {"header": "maybe"}, "header=maybe: allowed are yes, no"),
        ("a.csv", {"encoding": "klingon"}, "encoding=klingon: allowed are utf-8"),
        ("a.csv", {"encoding": "rot13"}, "encoding=rot13: allowed"),
        ("a.jsonl", {"separator": "tab"}, "separator=tab: a.jsonl is not a csv file"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(tmp_path / name, tokens, columns=told)
    with pytest.raises(UserError, match=r"--columns separator needs a table .* has no columns"):
        open_source("builtin:digits", pictures, columns={"separator": "tab"})
    before = open_source(tmp_path / "a.csv", tokens).fingerprint
    assert open_source(tmp_path / "a.csv", tokens, columns={"separator": "comma"}).fingerprint != before


def test_measured_labels_of_a_csv_are_numbers(tmp_path: Path, tokens: Modality) -> None:
    assert rows(tmp_path / "a.csv", "text,label\na,0.5\nb,\nc,2\nd,1e-3\n", tokens, label="label") == [
        ("a", 0.5),
        ("b", None),
        ("c", 2.0),
        ("d", 0.001),
    ]
    assert [label for _, label in rows(tmp_path / "a.csv", "text,label\na,0.5\nb,NA\nc,2\n", tokens, label="label")] == [0.5, None, 2.0]
    assert "labels that are not numbers are missing: NA (1)" in open_source(tmp_path / "a.csv", tokens, label="label").what
    assert [label for _, label in rows(tmp_path / "a.csv", "text,label\na,0.5\nb,low\n", tokens, label="label")] == ["0.5", "low"]
