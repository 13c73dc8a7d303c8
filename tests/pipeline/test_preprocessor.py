"""A preprocessor is learned once for the same data and settings, and again where a file that the settings name has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from untaught.core import Preprocessor
from untaught.data.sources import open_source, peek
from untaught.modalities.text import TEXT
from untaught.pipeline.preprocessor import plan

FOXES = [f"the quick brown fox number {i} went to town" for i in range(40)]
SHIPS = [f"a ship of {i} sails leaves the harbour" for i in range(40)]


def planned(documents: list[str], **overrides: object) -> Preprocessor:
    source = open_source(documents, TEXT)
    return plan(source, peek(source), TEXT, overrides)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


def test_the_same_data_need_a_tokenizer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(FOXES, vocabulary=300)
    monkeypatch.setattr("untaught.modalities.tokenizer._trained", lambda *_: pytest.fail("trained again"))
    again = planned(FOXES, vocabulary=300)
    assert (again.settings, again.files) == (first.settings, first.files)


@pytest.mark.parametrize("place", ["folder", "file"])
def test_another_tokenizer_under_the_same_path_is_another(tmp_path: Path, place: str) -> None:
    file = tmp_path / "tokenizer" / "tokenizer.json"
    file.parent.mkdir()
    wanted = str(file.parent if place == "folder" else file)
    one, other = (planned(documents, vocabulary=300).files["tokenizer.json"] for documents in (FOXES, SHIPS))
    assert one != other
    found = []
    for number, content in enumerate((one, other)):
        file.write_bytes(content)
        os.utime(file, ns=(number, number))
        found.append(planned(FOXES, tokenizer=wanted))
    assert found[0].files["tokenizer.json"] != found[1].files["tokenizer.json"]
    assert TEXT.check_files(found[1].settings, found[1].files) is None
