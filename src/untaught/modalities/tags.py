"""Tags of words: a document comes as a list of words with a tag each, and becomes tokens of which each word's first carries its tag.

Words are joined by single blanks and tokenized as any text of the modality is, so that fine-tuning reads what pretraining has read. A
word whose first token lies behind the cut of a long document, or that has no token, can't be predicted: it has no place.
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
    """Words as they are, or text cut at blanks. Raises ValueError."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, np.ndarray | list | tuple) and len(value) and all(isinstance(word, str) for word in value):
        words = [" ".join(word.split()) or "\ufffd" for word in value]  # a word of blanks alone would be none
        return [word.replace(" ", "\u00a0") for word in words]
    raise ValueError(f"{type(value).__name__} holds no words; a list of strings, or text, is needed")


def tags_of(record: Record, count: int) -> list[str]:
    tags = record["tags"]
    if isinstance(tags, str):
        tags = tags.split()
    if not isinstance(tags, np.ndarray | list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("its tags are no list of names, as O, B-person, I-person")
    if len(tags) != count:
        raise ValueError(f"has {count} words and {len(tags)} tags; one a word is needed")
    return [str(tag) for tag in tags]


def learn(records: Iterable[Record], layout: Options) -> Options:
    """-> tags: their names, O first."""
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
        raise UserError(f"the data have {len(found):,} different tags; at most {LARGEST:,} can be learned: is it the right column?")
    return {"tags": sorted(found, key=lambda tag: (tag != "O", tag[2:], tag[:2]))}


def aligned(text: str, words: list[str], offsets: list[tuple[int, int]]) -> np.ndarray:
    """The first token of each word (W,) int32, -1 without one. offsets: of the tokens in the text, which is the words joined by a blank."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    at = np.full(len(words), -1, np.int32)
    for number, (start, end) in enumerate(offsets):
        while start < end and text[start] == " ":  # of a token that begins with the blank before a word
            start += 1
        if start < end and at[word := int(np.searchsorted(starts, start, "right")) - 1] < 0:
            at[word] = number
    return at


def columns(record: Record, layout: Options, words: list[str], at: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a target, with tags where the record has some."""
    found = {AT: at, WORDS: np.frombuffer("\n".join(words).encode("utf-8", "replace"), np.uint8)}
    if "tags" in record:
        numbers = {tag: number for number, tag in enumerate(layout["tags"])}
        found[TAGS] = np.array([numbers[tag] for tag in tags_of(record, len(words))], np.int16)
    return found


def follow(batch: Batch, view: View) -> View:
    """target (B,W) the tag of each word, -1 where it has none.

    meta["words"] (B,W): the place of its first token in the view, -1 where there is none (cut off, or dropped by the view);
    meta["spelled"] (B,bytes): the words, a line each; meta["count"] (B,): how many they are.
    """
    assert view.meta is not None
    at, valid, source = batch[AT].long(), batch[f"{AT}_valid"], view.meta["source"]
    length = int(max(batch["ids"].shape[1], 1))
    places = source.new_full((len(at), length + 1), -1)  # of each token of the document, where it is in the view
    inside = torch.arange(source.shape[1], device=source.device).expand_as(source)
    places.scatter_(1, torch.where(source < 0, length, source), torch.where(source < 0, -1, inside))
    words = torch.where(valid & (at >= 0), places[:, :length].gather(1, at.clamp(0, length - 1)), -1)
    spelled = torch.where(batch[f"{WORDS}_valid"], batch[WORDS], 10)
    meta = {**view.meta, "words": words, "spelled": spelled, "count": valid.sum(1)}
    if TAGS not in batch:
        return replace(view, meta=meta)
    return replace(view, meta=meta, target=torch.where(batch[f"{TAGS}_valid"], batch[TAGS].long(), -1))
