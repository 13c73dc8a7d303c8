"""Sequence tagging: a document is a list of words with one tag each; the first token of each word carries its tag.

Words are joined by single spaces and tokenized like any other text, so that fine-tuning sees the same input as pretraining. A word
whose first token is truncated, or that has no token, has no position and is not predicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from untaught.core import Batch, Options, Record, UserError, View, reason
from untaught.data.target import TARGET

TAGS, AT, WORDS = (f"{TARGET}{name}" for name in ("tags", "at", "words"))  # (W,) int16; (W,) int32; (bytes,) uint8
LARGEST = 10_000  # tags


def words_of(value: Any) -> list[str]:
    """A list of words as it is, or text split at whitespace. Raises ValueError."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, np.ndarray | list | tuple) and len(value) and all(isinstance(word, str) for word in value):
        words = [" ".join(word.split()) or "\ufffd" for word in value]  # a blank word must remain a word
        return [word.replace(" ", "\u00a0") for word in words]
    raise ValueError(f"{type(value).__name__} is not a list of words; a list of strings or a text is required")


def tags_of(record: Record, count: int) -> list[str]:
    tags = record["tags"]
    if isinstance(tags, str):
        tags = tags.split()
    if not isinstance(tags, np.ndarray | list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("its tags are not a list of names such as O, B-person, I-person")
    if len(tags) != count:
        raise ValueError(f"has {count} words but {len(tags)} tags; one tag per word is required")
    return [str(tag) for tag in tags]


def learn(records: Iterable[Record], settings: Options) -> Options:
    """-> tags: their names, O first. Raises UserError if there are fewer than 2, or too many."""
    found: set[str] = set()
    faults: list[str] = []
    for record in records:
        try:
            for value in (record.get("tokens"), record.get("tags")):
                if value is None or isinstance(value, Exception):
                    raise ValueError("has no words or no tags" if value is None else reason(value))
            found.update(tags_of(record, len(words_of(record["tokens"]))))
        except ValueError as error:
            faults.append(f"{record.get('name', '?')} ({reason(error)})")
    if len(found) < 2:
        shown = f": {faults[0]}" if faults else f", all are {', '.join(found)}"
        raise UserError(f"the data have no tags to learn{shown}")
    if len(found) > LARGEST:
        raise UserError(f"the data have {len(found):,} different tags, more than {LARGEST:,}; check that the column is right")
    return {"tags": sorted(found, key=lambda tag: (tag != "O", tag[2:], tag[:2]))}


def aligned(text: str, words: list[str], offsets: list[tuple[int, int]]) -> np.ndarray:
    """The first token of each word (W,) int32, -1 if none. text: the words joined by spaces; offsets: of its tokens."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    at = np.full(len(words), -1, np.int32)
    for number, (start, end) in enumerate(offsets):
        while start < end and text[start] == " ":  # a token may include the space before a word
            start += 1
        if start < end and at[word := int(np.searchsorted(starts, start, "right")) - 1] < 0:
            at[word] = number
    return at


def columns(record: Record, settings: Options, words: list[str], at: np.ndarray) -> dict[str, np.ndarray]:
    """The target's columns, with tags if the record has them."""
    found = {AT: at, WORDS: np.frombuffer("\n".join(words).encode("utf-8", "replace"), np.uint8)}
    if "tags" in record:
        numbers = {tag: number for number, tag in enumerate(settings["tags"])}
        found[TAGS] = np.array([numbers[tag] for tag in tags_of(record, len(words))], np.int16)
    return found


def follow(batch: Batch, view: View) -> View:
    """target (B,W): the tag of each word, -1 if none.

    meta["words"] (B,W): position of the word's first token in the view, -1 if none (truncated, or dropped by the view);
    meta["spelled"] (B,bytes): the words, one per line; meta["count"] (B,): number of words.
    """
    assert view.meta is not None
    at, valid, source = batch[AT].long(), batch[f"{AT}_valid"], view.meta["source"]
    length = int(max(batch["ids"].shape[1], 1))
    places = source.new_full((len(at), length + 1), -1)  # document token -> position in the view
    inside = torch.arange(source.shape[1], device=source.device).expand_as(source)
    places.scatter_(1, torch.where(source < 0, length, source), torch.where(source < 0, -1, inside))
    words = torch.where(valid & (at >= 0), places[:, :length].gather(1, at.clamp(0, length - 1)), -1)
    spelled = torch.where(batch[f"{WORDS}_valid"], batch[WORDS], 10)
    meta = {**view.meta, "words": words, "spelled": spelled, "count": valid.sum(1)}
    if TAGS not in batch:
        return replace(view, meta=meta)
    return replace(view, meta=meta, target=torch.where(batch[f"{TAGS}_valid"], batch[TAGS].long(), -1))
