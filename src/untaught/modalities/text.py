"""Text: documents as tokens of a tokenizer that is trained on them, or comes with a checkpoint.

A document is stored whole, as the tokens of one long stream with a separator behind each. A view takes a sample either from that
stream (`rows=runs`: every token counts, documents follow each other, as RoBERTa's full sentences) or as a document cut to the
length (`rows=documents`). Tokenizers are `tokenizers`'; the layout names one by the hash of its file, which lies beside the encoder.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Modality, Options, Record, UserError, View
from untaught.data.target import Target
from untaught.modalities import tags
from untaught.modalities.reading import readable
from untaught.modalities.tokenizer import KINDS, adopt, kept, learn, library, read, starts, stops, texts_of, tokenizer_of
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import first
from untaught.ranges import Within, outside

LENGTHS = Within(16, 4096)  # tokens of a sample
VOCABULARIES = Within(16, 1 << 20)  # tokens that a tokenizer may learn
HASHED = 1 << 18  # columns of the bag of words

# ---------------------------------------------------------------------------------------------- records to arrays


def plan(records: list[Record], overrides: Options) -> Options:
    """Decides the length of a sample and what tokenizer is wanted, from a sample of the documents."""
    library()
    encoding = overrides.get("encoding", "utf-8")
    readable(records, "documents", lambda record: read(record["text"], encoding))
    length = overrides.get("length") or 128
    if length not in LENGTHS:
        raise UserError(f"length={length}: must lie {LENGTHS} tokens")
    kind = overrides.get("tokenizer") or "bpe"
    if kind not in KINDS and not Path(kind).exists():
        raise UserError(f"tokenizer={kind}: is none of {', '.join(KINDS)}, and no folder or tokenizer.json is there")
    lowercase = overrides.get("lowercase", kind == "wordpiece")
    return {
        "tokenizer": kind,
        "vocabulary": overrides.get("vocabulary") or 0,
        "lowercase": lowercase,
        "length": length,
        "encoding": encoding,
        "ragged": ["ids"],
    }


def decode(record: Record, layout: Options) -> dict[str, np.ndarray]:
    """-> ids (T,) int32: the whole document, a separator behind it."""
    text = read(record["text"], layout["encoding"])
    if not text.strip():
        raise ValueError("is empty")
    (encoded,) = tokenizer_of(layout).encode_batch_fast([text], add_special_tokens=False)  # without offsets, which nobody asks for
    ids, sep = encoded.ids, layout["special"]["sep"]
    if sep is not None and record.get("ends", True):
        ids.append(sep)
    return {"ids": np.array(ids, np.int32)}


def decode_words(record: Record, layout: Options) -> dict[str, np.ndarray]:
    """As `decode`, of a record of words with or without tags, and the columns of tags.py."""
    words = tags.words_of(read(record["tokens"], layout["encoding"]) if isinstance(record["tokens"], bytes) else record["tokens"])
    text = " ".join(words)
    arrays = decode({**record, "text": text}, layout)
    offsets = tokenizer_of(layout).encode(text, add_special_tokens=False).offsets
    return {**arrays, **tags.columns(record, layout, words, tags.aligned(text, words, offsets))}


def fit(batch: Batch, layout: Options) -> Options:
    """What views must know: special tokens, the vocabulary, and the tokenizer's name."""
    return {key: layout[key] for key in ("special", "vocabulary", "tokenizer")}


def raw(batch: Batch, layout: Options) -> Any:
    """A bag of words (B, 2^18), sparse: counts of the words of the text that the tokens say, as scikit-learn's vectorizers cut them."""
    texts = texts_of(batch["ids"], batch.get("ids_valid"), layout)
    return _vectorizer().transform(texts)


@cache
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=HASHED, alternate_sign=False, norm=None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ arrays to views

VIEWS: dict[str, Options] = {
    "whole": {"rows": "documents"},
    "global": {"rows": "documents", "scale": (1.0, 1.0), "delete": 0.0},  # SimCSE: two views of a text differ by the network's dropout
    "global2": {"rows": "documents", "scale": (1.0, 1.0), "delete": 0.0},
    "light": {"rows": "documents", "delete": 0.0},
    "masked_tokens": {"rows": "runs", "rate": 0.15, "mask": 0.8, "random": 0.1, "words": False, "versions": 0},  # BERT, appendix A.1
    "next_tokens": {"rows": "runs"},
    "deleted": {"rows": "documents", "rate": 0.6},  # TSDAE, section 3
    "infilled": {"rows": "runs", "rate": 0.3, "span": 3.0, "permute": 1.0},  # BART, section 2.2
}


def presets(layout: Options) -> dict[str, Options]:
    length = layout.get("length")
    if type(length) is not int or length not in LENGTHS or not isinstance(layout.get("special"), dict):
        raise UserError(f"a layout of text has a length {LENGTHS} and special tokens; {layout} came")
    size = layout.get("vocabulary")
    tokens = [token for token in layout["special"].values() if token is not None]
    if type(size) is not int or not all(type(token) is int and 0 <= token < size for token in tokens):
        raise UserError(f"a layout of text has a vocabulary, and special tokens that are numbers in it; {layout} came")
    return {name: {"length": length, **options} for name, options in VIEWS.items()}


RANGES = {
    **dict.fromkeys(("rate", "mask", "random", "delete", "permute"), Within(0, 1)),
    "scale": Within(1e-4, 1),  # shares of the document, the least and the most
    "span": Within(1, 100),  # tokens
    "length": LENGTHS,
    "versions": Within(0, 10_000),  # 0: a new one every epoch
}


def check(options: Options) -> str | None:
    """What is wrong with a view's options, or None."""
    if fault := outside(options, RANGES):
        return fault
    if options.get("mask", 0) + options.get("random", 0) > 1:
        return f"mask={options['mask']}: mask and random are shares of the hidden tokens, together at most 1"
    if options["rows"] not in ("documents", "runs"):
        return f"rows={options['rows']}: must be documents or runs"
    return None


def runs(views: list[Options]) -> tuple[str, int] | None:
    """Samples are runs of the token stream, one token longer than the longest view, where every view takes them so."""
    if all(options["rows"] == "runs" for options in views):
        return "ids", max(options["length"] for options in views) + 1
    return None


def whole(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """The document cut to the length, between the class token and the separator where the tokenizer has them.

    `scale`: instead, a piece of the document from anywhere, this share of it (Contriever's random crops, section 3.1). `delete`: share of
    tokens dropped.
    """
    if tuple(options.get("scale", (1.0, 1.0))) != (1.0, 1.0):
        batch = _cropped(batch, draws, options, statistics)
    x, valid = _framed(batch, options, statistics)
    if options.get("delete"):
        x, valid = _drop(x, valid, _gone(x, valid, draws, options, statistics), statistics)
    return View(x, valid)


def _gone(x: Tensor, valid: Tensor | None, draws: CounterRNG, options: Options, statistics: Options) -> Tensor:
    return _ordinary(x, valid, statistics) & (draws.uniform(x.shape[1]) < options["delete"])


def traced(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """As `whole`, and meta["source"] (B,T): the place of each token in the document, -1 of special tokens and padding."""
    x, valid = _framed(batch, options, statistics)
    source = torch.arange(x.shape[1], device=x.device) - int(statistics["special"].get("cls") is not None)
    source = torch.where(_ordinary(x, valid, statistics), source, -1)
    if options.get("delete"):
        gone = _gone(x, valid, draws, options, statistics)
        source = source.gather(1, first(~gone if valid is None else valid & ~gone, x.shape[1]))
        x, valid = _drop(x, valid, gone, statistics)
        source = torch.where(valid, source, -1)
    return View(x, valid, meta={"source": source})


def masked_tokens(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """BERT's damage: `rate` of the tokens are to be said again; of these `mask` are masked, `random` are others, the rest as they were.

    A sample is damaged anew in every epoch, or in `versions` ways by turns: 1 is static masking, BERT's own data had 10.

    target (B,T) every token; mask (B,T) those to be said; meta["places"] (B,K) they, and others behind them where they are fewer.
    """
    special = statistics["special"]
    if special.get("mask") is None:
        raise UserError("the tokenizer has no mask token, which masked_tokens needs; choose another tokenizer or checkpoint")
    x, valid = _framed(batch, options, statistics)
    free = _ordinary(x, valid, statistics)
    count = (free.sum(1) * options["rate"]).round().long().clamp(min=1).minimum(free.sum(1))
    unit = draws.uniform(x.shape[1])
    if options["words"]:
        begins = starts(statistics, x.device)[x] | ~F.pad(free, (1, -1))  # and whatever is behind a special token
        unit = unit.gather(1, (begins & free).cumsum(1).clamp(max=x.shape[1] - 1))
    unit = torch.where(free, unit, 2.0)
    if options["words"]:  # whole words: the last one is not cut
        limit = unit.sort(1).values.gather(1, (count - 1).clamp(min=0).unsqueeze(1))
        hidden = (unit <= limit) & free
        most = min(round(1.5 * options["rate"] * x.shape[1]) + 8, x.shape[1])
    else:
        rank = unit.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        hidden = (rank < count.unsqueeze(1)) & free
        most = max(1, round(options["rate"] * x.shape[1]))
    fate = draws.uniform(x.shape[1])
    ordinary = _first_ordinary(statistics)
    other = ordinary + (draws.uniform(x.shape[1]) * (statistics["vocabulary"] - ordinary)).long()
    shown = torch.where(fate < options["mask"], special["mask"], torch.where(fate < options["mask"] + options["random"], other, x))
    places = first(hidden, most)
    return View(torch.where(hidden, shown, x), valid, hidden, target=x, meta={"places": places})


def next_tokens(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """Tokens as they come, target (B,T): the one behind each."""
    ids, length = batch["ids"].long(), options["length"]
    valid = batch.get("ids_valid")
    ids, valid = ids[:, : length + 1], None if valid is None else valid[:, : length + 1]
    x, target = ids[:, :-1], ids[:, 1:]
    if valid is None:
        return View(x, target=target)
    return View(x, valid[:, :-1], target=target, target_valid=valid[:, 1:])


def deleted(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """The document with `rate` of its tokens deleted; target the whole one."""
    target, target_valid = _framed(batch, options, statistics)
    gone = _ordinary(target, target_valid, statistics) & (draws.uniform(target.shape[1]) < options["rate"])
    x, valid = _drop(target, target_valid, gone, statistics)
    return View(x, valid, target=target, target_valid=target_valid)


def infilled(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """BART's damage: sentences in another order, then spans of Poisson(`span`) tokens, `rate` of all, each one mask; target the text.

    A span of no tokens puts a mask between two; none crosses a special token. x is as long as the target: what is left is padding.
    """
    special = statistics["special"]
    if special.get("mask") is None:
        raise UserError("the tokenizer has no mask token, which infilled needs; choose another tokenizer or checkpoint")
    target, target_valid = _framed(batch, options, statistics)
    x, valid = target, torch.ones_like(target, dtype=torch.bool) if target_valid is None else target_valid
    if options["permute"]:
        x = _permuted(x, valid, draws, options["permute"], statistics)
    free, width = _ordinary(x, valid, statistics), x.shape[1]
    at, spans = _spans(draws, width, options["rate"], options["span"])
    places = torch.arange(width, device=x.device)
    reach = torch.full((len(x), width + 1), -1, device=x.device).scatter_(1, at, spans)[:, :width]  # -1: none begins here
    starts = free & (reach >= 0)
    barred = torch.where(free, width, places).flip(1).cummin(1).values.flip(1)  # the next place that no span may cover
    end = torch.where(starts, (places + reach).minimum(barred), 0).cummax(1).values
    inside = places < end
    masks = starts & (reach > 0)
    inserted = starts & (reach == 0)
    # Each kept token is one, a span's first place one mask, an inserted mask one more before its token.
    size = (valid & (~inside | masks)).long() + inserted.long()
    at = size.cumsum(1) - size
    out = torch.full((len(x), 2 * width), special["pad"], dtype=x.dtype, device=x.device)
    dump = 2 * width - 1
    out.scatter_(1, torch.where(inserted | masks, at, dump), special["mask"])
    keep = valid & ~inside
    out.scatter_(1, torch.where(keep, at + inserted.long(), dump), x)
    total = size.sum(1, keepdim=True).clamp(max=width)
    out = out[:, :width]
    valid = torch.arange(width, device=x.device) < total
    return View(torch.where(valid, out, special["pad"]), valid, target=target, target_valid=target_valid)


def _cropped(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> Batch:
    """A piece of each document (B,T), as long as `scale` says and the length allows, its separator behind it."""
    special = statistics["special"]
    cls, sep = special.get("cls"), special.get("sep")
    ids = batch["ids"].long()
    valid = batch.get("ids_valid")
    total = ids.new_full((len(ids),), ids.shape[1]) if valid is None else valid.sum(1)
    if sep is not None:  # a document that packing cut in pieces ends without one
        total = total - (ids.gather(1, (total - 1).clamp(min=0).unsqueeze(1)).squeeze(1) == sep).long()
    room = options["length"] - (cls is not None) - (sep is not None)
    count = (total * draws.uniform(low=options["scale"][0], high=options["scale"][1])).ceil().long().clamp(min=1, max=room).minimum(total)
    start = (draws.uniform() * (total - count + 1)).long()
    places = torch.arange(min(room, ids.shape[1]) + (sep is not None), device=ids.device)
    piece = ids.gather(1, (start.unsqueeze(1) + places).clamp(max=ids.shape[1] - 1))
    end = count.unsqueeze(1)
    if sep is not None:
        piece = torch.where(places == end, sep, piece)
        end = end + 1
    return {**batch, "ids": piece, "ids_valid": places < end}


def _framed(batch: Batch, options: Options, statistics: Options) -> tuple[Tensor, Tensor | None]:
    """ids -> x (B,L), valid (B,L) or None where all are: cut to the length, behind a class token where there is one."""
    special, length = statistics["special"], options["length"]
    ids, valid = batch["ids"].long(), batch.get("ids_valid")
    cls, sep = special.get("cls"), special.get("sep")
    room = length - (cls is not None)
    if valid is not None:
        longer = valid.sum(1) > room
        ids, valid = ids[:, :room], valid[:, :room]
        ids = torch.where(valid, ids, special["pad"])
        if sep is not None and ids.shape[1] == room:
            ids[:, -1] = torch.where(longer, sep, ids[:, -1])
        if cls is None:  # of nothing at all one token of padding is read
            valid = valid.clone()
            valid[:, 0] = True
    else:
        ids = ids[:, :room]
    if cls is not None:
        ids = torch.cat([ids.new_full((len(ids), 1), cls), ids], 1)
        valid = None if valid is None else torch.cat([valid.new_ones(len(ids), 1), valid], 1)
    return ids, valid


def _ordinary(x: Tensor, valid: Tensor | None, statistics: Options) -> Tensor:
    """(B,T) bool: what is no special token and no padding."""
    result = torch.ones_like(x, dtype=torch.bool) if valid is None else valid.clone()
    for role in ("cls", "sep", "pad"):
        if (number := statistics["special"].get(role)) is not None:
            result &= x != number
    return result


def _first_ordinary(statistics: Options) -> int:
    """The tokenizers that are trained here, and most others, number their special tokens from 0."""
    numbers = sorted(number for number in statistics["special"].values() if number is not None)
    first_free = 0
    for number in numbers:
        first_free += number == first_free
    return first_free


def _drop(x: Tensor, valid: Tensor | None, gone: Tensor, statistics: Options) -> tuple[Tensor, Tensor]:
    """The tokens that are not gone, moved together -> x (B,T), valid (B,T)."""
    kept = ~gone if valid is None else valid & ~gone
    order = first(kept, x.shape[1])
    count = kept.sum(1, keepdim=True)
    still = torch.arange(x.shape[1], device=x.device) < count
    return torch.where(still, x.gather(1, order), statistics["special"]["pad"]), still


def _permuted(x: Tensor, valid: Tensor, draws: CounterRNG, chance: float, statistics: Options) -> Tensor:
    """Sentences, which end in a full stop, in random order within their document; special tokens stay where they are."""
    free = _ordinary(x, valid, statistics)
    stop = stops(statistics, x.device)[x] & free
    number = stop.cumsum(1) - stop.long()  # of the sentence that a token is in
    rank = draws.uniform(x.shape[1]).gather(1, number)  # of a sentence, by its number
    key = torch.where(draws.chance(chance).unsqueeze(1), rank, 0.0) + (~free).cumsum(1).double()  # documents stay in order
    moved = torch.where(free, key, torch.inf).argsort(dim=1, stable=True)  # stable: a sentence keeps its order
    return x.scatter(1, first(free, x.shape[1]), x.gather(1, moved))


def _spans(draws: CounterRNG, width: int, rate: float, mean: float) -> tuple[Tensor, Tensor]:
    """Spans that do not overlap -> at (B,N) where each begins, `width` where that is beyond the end, and its length (B,N), Poisson.

    Gaps between them are geometric, so that a place begins a span by an even chance, by which they cover `rate` of all places.
    """
    none = float(np.exp(-mean))  # spans of no tokens, which cover nothing and are followed by the token they stand before
    chance = min(rate / (mean * (1 - rate) + rate * (1 - none)), 1.0)
    unit, lengths = draws.uniform(width), _poisson(draws.uniform(width), mean)
    if chance == 0:
        return torch.full_like(lengths, width), lengths
    gaps = ((1 - unit).double().log() / np.log1p(-min(chance, 1 - 1e-12))).floor().clamp(max=width).long()
    taken = lengths.clamp(min=1)
    return ((gaps + taken).cumsum(1) - taken).clamp(max=width), lengths


def _poisson(unit: Tensor, mean: float) -> Tensor:
    """unit (...) uniform -> (...) int64, Poisson of this mean, at most 20."""
    counts = torch.arange(20, device=unit.device, dtype=torch.float64)
    log = counts * np.log(mean) - mean - torch.lgamma(counts + 1)
    return torch.searchsorted(log.exp().cumsum(0).float(), unit.contiguous()).clamp(max=20)


# ------------------------------------------------------------------------------------------ what others must know


def render(view: View, options: Options, statistics: Options) -> np.ndarray:
    """A view as it is read -> (B,H,W,3) uint8: its text on paper, special tokens and padding left out, masks as boxes."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    wide, high, line = 320, 128, 16
    pages = []
    for text in captions(view, statistics):
        page = Image.new("RGB", (wide, high), "white")
        pen = ImageDraw.Draw(page)
        x = y = 4
        words = (word[i : i + 40] for word in text[:1000].split() for i in range(0, len(word), 40))  # a page full; one without blanks, too
        for word in words:
            length = int(pen.textlength(word + " ", font=font))
            if x + length > wide - 4 and x > 4:
                x, y = 4, y + line
            if y + line > high:
                break
            hidden = "■" in word
            pen.text((x, y), word.replace("■", "__"), fill="firebrick" if hidden else "black", font=font)
            x += length
        pages.append(np.asarray(page))
    return np.stack(pages)


def captions(view: View, statistics: Options) -> list[str]:
    """The text of each sample of a view, a black square for every masked token."""
    tokenizer, special = tokenizer_of(statistics), statistics["special"]
    result = []
    for i, ids in enumerate(view.x.cpu()):
        if view.valid is not None:
            ids = ids[view.valid[i].cpu()]
        parts: list[str] = []
        run: list[int] = []
        for number in [*ids.tolist(), special.get("mask")]:
            if number == special.get("mask"):
                parts += [tokenizer.decode(run, skip_special_tokens=True)] if run else []
                parts.append("■")
                run = []
            else:
                run.append(number)
        result.append(" ".join(part.strip() for part in parts[:-1]).strip())
    return result


def encoder_for(layout: Options, needs: frozenset[str]) -> str:
    """Two views of a document differ by dropout, which bert has; what is learned from one goes several times as fast on modernbert."""
    return "bart" if "decoder" in needs else "gpt" if "causal" in needs else "modernbert" if "bidirectional" in needs else "bert"


def encoder_input(layout: Options) -> Options:
    return {"vocabulary": layout["vocabulary"], "length": layout["length"], "special": layout["special"]}


def preprocessing(layout: Options, statistics: Options) -> Options:
    if other := [key for key in fit({}, layout) if statistics.get(key) != layout[key]]:
        raise UserError(
            f"{other[0]} is {str(statistics.get(other[0]))[:40]} in the statistics and {str(layout[other[0]])[:40]} in the layout"
        )
    return {"tokenizer": "tokenizer.json", "length": layout["length"]}


def expects(encoder: str) -> Options:
    """A checkpoint brings its tokenizer along."""
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
    input=encoder_input,
    preprocessing=preprocessing,
    method="mlm",
    batch=64,
    knobs={
        "length": Annotated[int, LENGTHS],
        "tokenizer": str,
        "vocabulary": Annotated[int, VOCABULARIES],
        "lowercase": bool,
        "encoding": str,
    },
    runs=runs,
    learn=learn,
    adopt=adopt,
    kept=kept,
    files=("tokenizer.json", "tokenizer_config.json"),
    expects=expects,
    captions=captions,
    targets={"tags": TAGGED},
)
