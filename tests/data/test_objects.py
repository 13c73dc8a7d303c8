"""JSON: values keep their types, rows may have other keys, and a line that is broken is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from untaught.core import Modality, UserError
from untaught.data.sources import open_source


def rows(path: Path, content: str, modality: Modality, **told: Any) -> list[tuple[Any, Any]]:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    source = open_source(path, modality, **told)
    found = [(str(r["text"]) if isinstance(r["text"], Exception) else r["text"], r.get("label")) for r in source.parts["all"]]
    assert source.rows == len(found)
    return [(text, source.classes[label] if source.classes and label is not None else label) for text, label in found]


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


ROWS = [{"text": "a", "label": "x"}, {"label": "y", "text": "b"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(*ROWS)),
        ("a.jsonl.gz", "\n" + lines(ROWS[0]) + "\r\n \n" + lines(ROWS[1]) + "\n\n"),
        ("a.json", lines(*ROWS)),
        ("a.json", json.dumps(ROWS)),
        ("a.json.gz", json.dumps(ROWS, indent=2)),
        ("a.jsonl", json.dumps(ROWS, indent=2)),
        ("a.json", json.dumps({"text": ["a", "b"], "label": ["x", "y"]})),
        ("a.json", json.dumps({"version": 2, "data": ROWS}, indent=1)),
        ("a.jsonl", json.dumps({"version": 2, "data": ROWS}, indent=1)),
        ("a.json", json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}})),  # pandas
        ("a.json", json.dumps({"0": ROWS[0], "1": ROWS[1]})),
        ("a.json", "\ufeff" + json.dumps(ROWS)),
    ],
)
def test_forms(name: str, content: str, tmp_path: Path, tokens: Modality) -> None:
    assert rows(tmp_path / name, content, tokens, label="label") == [("a", "x"), ("b", "y")]


def test_labels_of_several_types_and_keys_that_are_missing(tmp_path: Path, tokens: Modality) -> None:
    values = [
        {"text": "a"},
        {"text": "b", "label": 0},
        {"label": "cat", "text": "c", "tags": [1]},
        {"label": True},
        {"text": "01", "label": "01"},
    ]
    assert rows(tmp_path / "a.jsonl", lines(*values), tokens, label="label") == [
        ("a", None),
        ("b", "0"),
        ("c", "cat"),
        (None, "1"),
        ("01", "01"),
    ]
    assert rows(tmp_path / "a.jsonl", lines(*({"text": "a", "label": f"2020-01-0{i}"} for i in (1, 2))), tokens, label="label") == [
        ("a", "2020-01-01"),
        ("a", "2020-01-02"),
    ]


def test_a_broken_line_is_named(tmp_path: Path, tokens: Modality) -> None:
    found = rows(tmp_path / "a.jsonl", "{not\n\n" + lines(ROWS[0]) + '"b"\n' + lines(ROWS[1]), tokens, label="label")
    assert found[1::2] == [("a", "x"), ("b", "y")]
    assert found[0][0].startswith("line 1 is not JSON: Expecting property name")
    assert found[2][0] == "line 4 has type str, not object"
    for name, content, said in [
        ("a.jsonl", "{not\n{not\n", r"a.jsonl cannot be read as json \(line 1 is not JSON"),
        ("a.json", '["a", "b"]', r"entry 1 has type str, not object"),
        ("a.json", '{"text": ["a", "b"], "label": ["x"]}', "holds neither rows nor columns"),
        ("a.json", "[" * 100_000, "cannot be read as json"),
        ("a.jsonl", "[" * 100_000, "cannot be read as json"),
        ("a.jsonl", lines({"text": "a", "label": {"x": 1}}), "column label of a.jsonl holds dict values"),
    ]:
        with pytest.raises(UserError, match=said) as raised:
            rows(tmp_path / name, content, tokens)
        assert "\n" not in str(raised.value)


def test_bytes_that_are_no_utf8(tmp_path: Path, tokens: Modality) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[0]).encode() + b'{"text": "\xe9"}\n')
    texts = [record["text"] for record in open_source(tmp_path / "a.jsonl", tokens).parts["all"]]
    assert texts[0] == "a"
    assert "line 2 is not UTF-8" in str(texts[1])
    told = open_source(tmp_path / "a.jsonl", tokens, columns={"encoding": "latin-1"})
    assert [record["text"] for record in told.parts["all"]] == ["a", "é"]
