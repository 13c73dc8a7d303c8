"""Records to arrays: tokenized documents."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Batch, Options, Preprocessor, Record, UserError
from untaught.modalities.reading import readable
from untaught.modalities.text import tags
from untaught.modalities.tokenizer import KINDS, library, read, texts_of, tokenizer_of
from untaught.ranges import Within

LENGTHS = Within(16, 4096)  # tokens of a sample
HASHED = 1 << 18  # dimensions of the hashed bag of words


def plan(records: list[Record], overrides: Options) -> Options:
    """Sample length and tokenizer from the overrides. Raises UserError for impossible ones, and if no record is readable."""
    library()
    encoding = overrides.get("encoding", "utf-8")
    readable(records, "documents", lambda record: read(record["text"], encoding))
    length = overrides.get("length") or 128
    if length not in LENGTHS:
        raise UserError(f"length={length}: must lie {LENGTHS} tokens")
    kind = overrides.get("tokenizer") or "bpe"
    if kind not in KINDS and not Path(kind).exists():
        raise UserError(f"tokenizer={kind}: must be {', '.join(KINDS)}, or an existing folder or tokenizer.json")
    lowercase = overrides.get("lowercase", kind == "wordpiece")
    return {
        "tokenizer": kind,
        "vocabulary": overrides.get("vocabulary") or 0,
        "lowercase": lowercase,
        "length": length,
        "encoding": encoding,
        "ragged": ["ids"],
    }


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> ids (T,) int32: the full document, followed by a separator if the tokenizer has one."""
    settings = prep.settings
    text = read(record["text"], settings["encoding"])
    if not text.strip():
        raise ValueError("is empty")
    (encoded,) = tokenizer_of(prep).encode_batch_fast([text], add_special_tokens=False)  # faster, without offsets
    ids, sep = encoded.ids, settings["special"]["sep"]
    if sep is not None and record.get("ends", True):
        ids.append(sep)
    return {"ids": np.array(ids, np.int32)}


def decode_words(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """As `decode`, for a record of words with or without tags, plus the columns of tags.py."""
    words = tags.words_of(read(record["tokens"], prep.settings["encoding"]) if isinstance(record["tokens"], bytes) else record["tokens"])
    text = " ".join(words)
    arrays = decode({**record, "text": text}, prep)
    offsets = tokenizer_of(prep).encode(text, add_special_tokens=False).offsets
    return {**arrays, **tags.columns(record, prep.settings, words, tags.aligned(text, words, offsets))}


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """What views need: special tokens, vocabulary size, and the tokenizer's hash."""
    return {key: prep.settings[key] for key in ("special", "vocabulary", "tokenizer")}


def raw(batch: Batch, prep: Preprocessor) -> Any:
    """A sparse bag of words (B, 2^18): word counts of the decoded text, split as by scikit-learn's vectorizers."""
    texts = texts_of(batch["ids"], batch.get("ids_valid"), prep)
    return _vectorizer().transform(texts)


@cache
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=HASHED, alternate_sign=False, norm=None)  # type: ignore[arg-type]
