"""Tagged sentences: CoNLL files and lists of words, with their tags."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from untaught.core import Preprocessor, UserError
from untaught.data.sources import open_source
from untaught.downstream.tag import Tag
from untaught.modalities.text import TEXT

READING = Tag.reading(Preprocessor(TEXT, {})).modality
SENTENCES = [(["Ann", "sees", "New York"], ["B-person", "O", "B-place"]), (["It", "rains"], ["O", "O"])]


def records(data: Any, **how: Any) -> dict[str, list[tuple[list[str], list[str]]]]:
    parts = open_source(data, READING, **how).parts
    return {name: [(list(record["tokens"]), list(record["tags"])) for record in part] for name, part in parts.items()}


def written(sentences: Any, middle: str = "") -> str:
    return "\n\n".join("\n".join(f"{word}\t{middle}{tag}" for word, tag in zip(*each, strict=True)) for each in sentences)


def test_a_word_a_line_and_a_blank_line_between_sentences(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("\n\n" + written(SENTENCES) + "\n\n\n")
    with gzip.open(tmp_path / "dev.conll.gz", "wt") as file:
        file.write("-DOCSTART-\tO\n\n# a comment\n" + written(SENTENCES[:1], "NN\t").replace("\n", "\r\n"))
    assert records(tmp_path) == {"train": SENTENCES, "val": SENTENCES[:1]}
    assert "tags from column 2 of 2; dev.conll.gz: tags from column 3 of 3" in open_source(tmp_path, READING).what


def test_a_sentence_with_a_word_without_a_tag_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Ann B-person\nsees\n\nIt O\n")
    first, second = (record for part in open_source(tmp_path / "a.conll", READING).parts.values() for record in part)
    assert str(first["tokens"]) == "the line 'sees' has a word but no tag"
    assert list(second["tags"]) == ["O"]
    (tmp_path / "b.conll").write_text("Ann\nsees\n")
    with pytest.raises(UserError, match=r"b\.conll has one column, words without tags"):
        open_source(tmp_path / "b.conll", READING)


def test_lists_of_words_and_tags(tmp_path: Path) -> None:
    lines = [json.dumps({"tokens": words, "ner_tags": tags}) for words, tags in SENTENCES]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert records(tmp_path / "a.jsonl") == {"all": SENTENCES}
    (tmp_path / "b.jsonl").write_text("\n".join(lines).replace("ner_tags", "truth"))
    assert records(tmp_path / "b.jsonl", columns={"tags": "truth"}) == {"all": SENTENCES}
    with pytest.raises(UserError, match="is recognised as the tags; its columns are tokens, truth: give --columns tags=NAME"):
        records(tmp_path / "b.jsonl")


def test_words_are_text_to_pretrain_on(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(written(SENTENCES))
    from untaught.modalities.tokenizer import read

    (part,) = open_source(tmp_path / "a.conll", TEXT).parts.values()
    assert [read(record["text"]) for record in part] == ["Ann sees New York", "It rains"]


def test_numbers_of_tags_have_the_names_of_their_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-person", "B-place"]
    kinds = {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names))}
    rows = {"tokens": [words for words, _ in SENTENCES], "ner_tags": [[names.index(tag) for tag in tags] for _, tags in SENTENCES]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    data.to_parquet(tmp_path / "a.parquet")
    assert records(data) == records(tmp_path / "a.parquet") == {"all": SENTENCES}
