"""Transcripts of recordings: what is said in each, as text."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from untaught.core import Preprocessor, Record
from untaught.data.labels import class_name
from untaught.data.target import TARGET, Target
from untaught.modalities.audio.decode import LONGEST, decode

TEXT = f"{TARGET}text"  # (bytes,) uint8, UTF-8; empty if there is none


def text_of(value: Any) -> str:
    """A transcript in Unicode's composed form, with single spaces; "" for a missing one."""
    return " ".join(unicodedata.normalize("NFC", class_name(value) or "").split())


def decode_with_transcript(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """As `decode`, plus the transcript of a labelled record."""
    if isinstance(fault := record.get("transcript"), Exception):
        raise fault
    arrays = decode(record, prep)
    if "transcript" in record:
        arrays[TEXT] = np.frombuffer(text_of(record["transcript"]).encode("utf-8", "replace"), np.uint8)
    return arrays


def transcripts(fields: dict[str, tuple[str, ...]]) -> Target:
    """fields: of a recording."""
    return Target(
        name="transcript",
        noun="transcripts",
        fields=fields | {"transcript": ("transcription", "text", "sentence", "normalized_text", "utterance", "words")},
        decode=decode_with_transcript,
        follow=lambda batch, view: view,  # the task numbers the text in its own units
        ragged=(TEXT,),
        settings={"segment": LONGEST},  # a piece of a recording would have the transcript of all of it
        training={"scale": (1.0, 1.0), "longest": LONGEST},  # for the same reason, nothing is cut off
    )
