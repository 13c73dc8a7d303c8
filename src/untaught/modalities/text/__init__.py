"""Text: documents as tokens of a tokenizer that is trained on them or taken from a checkpoint.

All tokens of a document are stored, in one long stream with a separator after each document. A sample is either a fixed-length chunk of
that stream (`rows=runs`: across document boundaries, as RoBERTa's full sentences) or a document truncated to the length
(`rows=documents`). Tokenizers are from `tokenizers`; settings identify one by the hash of its file, which is saved with the encoder.
"""

from __future__ import annotations

from typing import Annotated

from untaught.core import Modality, Options, Preprocessor, UserError
from untaught.data.labels import NUMBER
from untaught.data.target import Target
from untaught.modalities.text import tags
from untaught.modalities.text.corrupt import check, deleted, infilled, masked_tokens, next_tokens, presets, runs, traced, whole
from untaught.modalities.text.documents import LENGTHS, decode, decode_words, fit, plan, raw
from untaught.modalities.text.render import captions, render
from untaught.modalities.tokenizer import FILES, check_files, learn
from untaught.ranges import Within

VOCABULARIES = Within(16, 1 << 20)  # vocabulary size of a trained tokenizer


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    """bert for two views that differ by dropout; modernbert, several times as fast, for methods with one view."""
    return "bart" if "decoder" in needs else "gpt" if "causal" in needs else "modernbert" if "bidirectional" in needs else "bert"


def encoder_arguments(settings: Options) -> Options:
    return {"vocabulary": settings["vocabulary"], "length": settings["length"], "special": settings["special"]}


def export(prep: Preprocessor) -> Options:
    settings, statistics = prep.settings, prep.statistics
    if other := [key for key in fit({}, prep) if statistics.get(key) != settings[key]]:
        raise UserError(
            f"{other[0]} is {str(statistics.get(other[0]))[:40]} in the statistics but {str(settings[other[0]])[:40]} in the settings"
        )
    return {"tokenizer": "tokenizer.json", "length": settings["length"]}


def expects(encoder: str) -> Options:
    """A checkpoint's tokenizer."""
    family, _, place = encoder.partition("/")
    return {"tokenizer": place} if family == "transformers" and place else {}


FIELD = ("text", "sentence", "body", "content", "document", "review", "question", "title")
TAGGED = Target(
    name="tags",
    noun="tagged documents",
    fields={"tokens": ("words", *FIELD), "tags": ("ner_tags", "ner", "labels", "iob", "pos_tags", "pos")},
    decode=decode_words,
    follow=tags.follow,
    ragged=(tags.TAGS, tags.AT, tags.WORDS),
    learn=tags.learn,
)
TEXT = Modality(
    name="text",
    noun="documents",
    fields={"text": (*FIELD, "tokens", "words")},
    suffixes=frozenset([".txt", ".text", ".md", ".rst", ".txt.gz"]),
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        **dict.fromkeys(("whole", "light"), traced),
        **dict.fromkeys(("global", "global2"), whole),
        "masked_tokens": masked_tokens,
        "next_tokens": next_tokens,
        "deleted": deleted,
        "infilled": infilled,
    },
    raw=raw,
    render=render,
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    likely=lambda records: not all(NUMBER.fullmatch(str(record["text"]).strip()) for record in records),
    kind=lambda settings: settings["tokenizer"],
    method="mlm",
    batch=64,
    lines=True,
    knobs={
        "length": Annotated[int, LENGTHS],
        "tokenizer": str,
        "vocabulary": Annotated[int, VOCABULARIES],
        "lowercase": bool,
        "encoding": str,
    },
    runs=runs,
    learn=learn,
    files=FILES,
    check_files=check_files,
    expects=expects,
    captions=captions,
    targets={"tags": TAGGED},
)
