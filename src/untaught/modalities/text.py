"""Text: documents as tokens of a tokenizer that is trained on them, or comes with a checkpoint.

A document is stored whole, as the tokens of one long stream with a separator behind each. A view takes a sample either from that
stream (`rows=runs`: every token counts, documents follow each other, as RoBERTa's full sentences) or as a document cut to the
length (`rows=documents`). Tokenizers are `tokenizers`'; the layout names one by the hash of its file, which lies beside the encoder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Files, Modality, Options, Record, UserError, View
from untaught.ops.draws import Draws
from untaught.ops.masking import first

KINDS = ("bpe", "wordpiece", "characters")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # of the tokenizers that are trained here
TAUGHT = 64 << 20  # characters that a tokenizer is trained on, at most
LARGEST = 1 << 28  # bytes of one document
LENGTHS = (16, 4096)
HASHED = 1 << 18  # columns of the bag of words

# -------------------------------------------------------------------------------------------------- tokenizers

_KNOWN: dict[str, tuple[Any, Files]] = {}  # hash -> tokenizers.Tokenizer and its files: a layout is plain values and only names it


def tokenizer_of(layout: Options) -> Any:
    """The tokenizers.Tokenizer that a layout, or a text's statistics, names; it must have been adopted."""
    return _known(layout)[0]


def kept(layout: Options) -> Files:
    """The tokenizer's files."""
    return _known(layout)[1]


def _known(layout: Options) -> tuple[Any, Files]:
    found = _KNOWN.get(str(layout.get("tokenizer")))
    if found is None:
        raise UserError(f"the tokenizer {layout.get('tokenizer')} is not at hand; tokenizer.json belongs beside run.yaml or config.json")
    return found


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("tokenizers is not installed, which text needs; pip install 'untaught[transformers]'") from error
    return tokenizers


def plan(records: list[Record], wishes: Options) -> Options:
    """Decides the length of a sample and what tokenizer is wanted, from a sample of the documents."""
    _library()
    encoding = wishes.get("encoding", "utf-8")
    seen = []
    for record in records:
        try:
            seen.append(len(read(record["text"], encoding)))
        except UserError:  # of the wishes, not of the document
            raise
        except (ValueError, OSError):
            continue  # packing will count and name it
    if not seen:
        raise UserError(f"none of the first {len(records)} documents is readable text")
    length = wishes.get("length") or 128
    if not LENGTHS[0] <= length <= LENGTHS[1]:
        raise UserError(f"length={length}: must lie from {LENGTHS[0]} to {LENGTHS[1]} tokens")
    kind = wishes.get("tokenizer") or "bpe"
    if kind not in KINDS and not Path(kind).exists():
        raise UserError(f"tokenizer={kind}: is none of {', '.join(KINDS)}, and no folder or tokenizer.json is there")
    lowercase = wishes.get("lowercase", kind == "wordpiece")
    return {
        "tokenizer": kind,
        "vocabulary": wishes.get("vocabulary") or 0,
        "lowercase": lowercase,
        "length": length,
        "encoding": encoding,
        "ragged": ["ids"],
    }


def learn(records: Iterable[Record], layout: Options) -> tuple[Options, Files]:
    """Trains the tokenizer that the layout wishes for on the first 64 M characters, or takes an existing one -> whole layout, its file."""
    Tokenizer = _library().Tokenizer
    wanted = layout["tokenizer"]
    if wanted in KINDS:
        tokenizer, names = _trained(_texts(records, layout["encoding"]), layout), SPECIAL
    else:
        place = Path(wanted)
        try:
            file = place / "tokenizer.json" if place.is_dir() else place
            tokenizer = Tokenizer.from_file(str(file)) if file.exists() else _converted(place)
            names = _special_of(tokenizer, place if place.is_dir() else place.parent)
        except UserError:
            raise
        except Exception as error:  # tokenizers raises a bare Exception
            raise UserError(f"{place} holds no tokenizer that can be read: {str(error).splitlines()[0]}") from error
    content = tokenizer.to_str().encode()
    name = _hash(content)
    special = {role: tokenizer.token_to_id(token) if token else None for role, token in names.items()}
    if special["pad"] is None:  # GPT-2 has none: what is not valid is never read
        special["pad"] = next((number for number in special.values() if number is not None), 0)
    whole = {**layout, "tokenizer": name, "vocabulary": tokenizer.get_vocab_size(with_added_tokens=True), "special": special}
    files = {"tokenizer.json": content, "tokenizer_config.json": json.dumps(_config(names, layout["length"]), indent=1).encode()}
    adopt(whole, files)
    return whole, files


def adopt(layout: Options, files: Files) -> None:
    """Makes the tokenizer of a layout known by its hash. Raises UserError where the file is another one."""
    Tokenizer = _library().Tokenizer
    name, content = str(layout.get("tokenizer")), files["tokenizer.json"]
    if name in _KNOWN:
        return
    if _hash(content) != name:
        raise UserError("tokenizer.json is not the one that the encoder was trained with; copy the whole folder again")
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:
        raise UserError(f"tokenizer.json can't be read: {str(error).splitlines()[0]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _KNOWN[name] = tokenizer, files


def _hash(content: bytes) -> str:
    """The name of a tokenizer in layouts."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _trained(texts: Iterator[str], layout: Options) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    kind, special = layout["tokenizer"], list(SPECIAL.values())
    texts, count = _counted(texts)
    wanted = layout["vocabulary"] or 30_000
    common: Options = {"special_tokens": special, "show_progress": False}
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=wanted, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common
        )
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=wanted, min_frequency=2, **common)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk"]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=layout["vocabulary"] or 10_000, **common)
    if kind == "wordpiece":
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=layout["lowercase"])
    elif layout["lowercase"]:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.train_from_iterator(texts, trainer)
    if not count[0]:
        raise UserError("a tokenizer can't be trained: there is no readable text")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL['cls']} $A {SPECIAL['sep']}",
        pair=f"{SPECIAL['cls']} $A {SPECIAL['sep']} $B:1 {SPECIAL['sep']}:1",
        special_tokens=[(SPECIAL[role], tokenizer.token_to_id(SPECIAL[role])) for role in ("cls", "sep")],
    )
    return tokenizer


def _converted(place: Path) -> Any:
    """Of a checkpoint that has a slow tokenizer's files alone."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError("transformers is not installed; pip install untaught[transformers]") from error
    return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False, local_files_only=True).backend_tokenizer


def _special_of(tokenizer: Any, folder: Path) -> dict[str, str | None]:
    """Special tokens by role, as tokenizer_config.json or special_tokens_map.json names them, or by the names that are usual."""
    said: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists() and (folder / name).stat().st_size < 1 << 24:
            found = json.loads((folder / name).read_text("utf-8"))
            said |= found if isinstance(found, dict) else {}
    usual = {
        "pad": ("[PAD]", "<pad>"),
        "unk": ("[UNK]", "<unk>"),
        "cls": ("[CLS]", "<s>"),
        "sep": ("[SEP]", "</s>"),
        "mask": ("[MASK]", "<mask>"),
    }
    result: dict[str, str | None] = {}
    for role, names in usual.items():
        token = said.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        candidates = [token] if isinstance(token, str) else list(names)
        result[role] = next((name for name in candidates if tokenizer.token_to_id(name) is not None), None)
    if result["sep"] is None:
        token = said.get("eos_token", "<|endoftext|>")
        token = token.get("content") if isinstance(token, dict) else token
        result["sep"] = token if isinstance(token, str) and tokenizer.token_to_id(token) is not None else None
    return result


def _config(names: Mapping[str, str | None], length: int) -> Options:
    """tokenizer_config.json, by which transformers' AutoTokenizer knows what tokenizer.json is."""
    named = {f"{role}_token": token for role, token in names.items() if token}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, "clean_up_tokenization_spaces": False, **named}


def _texts(records: Iterable[Record], encoding: str) -> Iterator[str]:
    left = TAUGHT
    for record in records:
        try:
            text = read(record["text"], encoding)
        except (ValueError, OSError):
            continue
        yield text
        left -= len(text)
        if left <= 0:
            return


def _counted(texts: Iterator[str]) -> tuple[Iterator[str], list[int]]:
    count = [0]

    def counting() -> Iterator[str]:
        for text in texts:
            count[0] += len(text)
            yield text

    return counting(), count


# ---------------------------------------------------------------------------------------------- records to arrays


def read(value: Any, encoding: str = "utf-8") -> str:
    """Text, bytes, or a path, packed by gzip or not; raises ValueError or OSError, saying why."""
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes):
        if value.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(value)) as file:
                try:
                    value = file.read(LARGEST + 1)
                except EOFError as error:
                    raise ValueError("is cut short") from error
        if len(value) > LARGEST:
            raise ValueError(f"is longer than {LARGEST:,} bytes")
        try:
            value = value.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"is no {encoding} at byte {error.start:,}; give encoding=latin-1, or what it is") from error
        except LookupError as error:
            raise UserError(f"encoding={encoding}: is not known to Python; utf-8, latin-1 or cp1252 are") from error
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is no text; a string, or the path of a text file is")
    return value


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


def texts_of(ids: Tensor, valid: Tensor | None, layout: Options) -> list[str]:
    """ids (B,T), valid (B,T) -> the text of each row, without special tokens."""
    rows = [
        row.tolist() if kept is None else row[kept].tolist()
        for row, kept in zip(ids, valid if valid is not None else [None] * len(ids), strict=True)
    ]
    return tokenizer_of(layout).decode_batch(rows, skip_special_tokens=True)


# ------------------------------------------------------------------------------------------------ arrays to views

VIEWS: dict[str, Options] = {
    "whole": {"rows": "documents"},
    "global": {"rows": "documents", "delete": 0.0},  # SimCSE: two views of a text differ by the network's dropout
    "global2": {"rows": "documents", "delete": 0.0},
    "light": {"rows": "documents", "delete": 0.0},
    "masked_tokens": {"rows": "runs", "rate": 0.15, "mask": 0.8, "random": 0.1, "words": False},  # BERT, appendix A.1
    "next_tokens": {"rows": "runs"},
    "deleted": {"rows": "documents", "rate": 0.6},  # TSDAE, section 3
    "infilled": {"rows": "runs", "rate": 0.3, "span": 3.0, "permute": 1.0},  # BART, section 2.2
}


def presets(layout: Options) -> dict[str, Options]:
    length = layout.get("length")
    if type(length) is not int or not LENGTHS[0] <= length <= LENGTHS[1] or not isinstance(layout.get("special"), dict):
        raise UserError(f"a layout of text has a length from {LENGTHS[0]} to {LENGTHS[1]} and special tokens; {layout} came")
    return {name: {"length": length, **options} for name, options in VIEWS.items()}


def check(options: Options) -> str | None:
    for name in ("rate", "mask", "random", "delete", "permute"):
        if not 0 <= options.get(name, 0) <= 1:
            return f"{name}={options[name]}: must lie from 0 to 1"
    if options.get("mask", 0) + options.get("random", 0) > 1:
        return f"mask={options['mask']}: mask and random are shares of the hidden tokens, together at most 1"
    if not 1 <= options.get("span", 1) <= 100:
        return f"span={options['span']}: must lie from 1 to 100 tokens"
    if not LENGTHS[0] <= options["length"] <= LENGTHS[1]:
        return f"length={options['length']}: must lie from {LENGTHS[0]} to {LENGTHS[1]}"
    if options["rows"] not in ("documents", "runs"):
        return f"rows={options['rows']}: must be documents or runs"
    return None


def runs(views: list[Options]) -> tuple[str, int] | None:
    """Samples are runs of the token stream, one token longer than the longest view, where every view takes them so."""
    if all(options["rows"] == "runs" for options in views):
        return "ids", max(options["length"] for options in views) + 1
    return None


def whole(batch: Batch, draws: Draws, options: Options, statistics: Options) -> View:
    """The document cut to the length, between the class token and the separator where the tokenizer has them."""
    x, valid = _framed(batch, options, statistics)
    if options.get("delete"):
        x, valid = _drop(x, valid, _ordinary(x, valid, statistics) & (draws.uniform(x.shape[1]) < options["delete"]), statistics)
    return View(x, valid)


def masked_tokens(batch: Batch, draws: Draws, options: Options, statistics: Options) -> View:
    """BERT's damage: `rate` of the tokens are to be said again; of these `mask` are masked, `random` are others, the rest as they were.

    target (B,T) every token; hidden (B,T) those to be said; where["places"] (B,K) they, and others behind them where they are fewer.
    """
    special = statistics["special"]
    if special.get("mask") is None:
        raise UserError("the tokenizer has no mask token, which masked_tokens needs; choose another tokenizer or checkpoint")
    x, valid = _framed(batch, options, statistics)
    free = _ordinary(x, valid, statistics)
    count = (free.sum(1) * options["rate"]).round().long().clamp(min=1).minimum(free.sum(1))
    unit = draws.uniform(x.shape[1])
    if options["words"]:
        begins = _starts(statistics, x.device)[x] | ~F.pad(free, (1, -1))  # and whatever is behind a special token
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
    return View(torch.where(hidden, shown, x), valid, hidden, target=x, where={"places": places})


def next_tokens(batch: Batch, draws: Draws, options: Options, statistics: Options) -> View:
    """Tokens as they come, target (B,T): the one behind each."""
    ids, length = batch["ids"].long(), options["length"]
    valid = batch.get("ids_valid")
    ids, valid = ids[:, : length + 1], None if valid is None else valid[:, : length + 1]
    x, target = ids[:, :-1], ids[:, 1:]
    if valid is None:
        return View(x, target=target)
    return View(x, valid[:, :-1], target=target, target_valid=valid[:, 1:])


def deleted(batch: Batch, draws: Draws, options: Options, statistics: Options) -> View:
    """The document with `rate` of its tokens deleted; target the whole one."""
    target, target_valid = _framed(batch, options, statistics)
    gone = _ordinary(target, target_valid, statistics) & (draws.uniform(target.shape[1]) < options["rate"])
    x, valid = _drop(target, target_valid, gone, statistics)
    return View(x, valid, target=target, target_valid=target_valid)


def infilled(batch: Batch, draws: Draws, options: Options, statistics: Options) -> View:
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


def _permuted(x: Tensor, valid: Tensor, draws: Draws, chance: float, statistics: Options) -> Tensor:
    """Sentences, which end in a full stop, in random order within their document; special tokens stay where they are."""
    free = _ordinary(x, valid, statistics)
    stop = _stops(statistics, x.device)[x] & free
    number = stop.cumsum(1) - stop.long()  # of the sentence that a token is in
    rank = draws.uniform(x.shape[1]).gather(1, number)  # of a sentence, by its number
    key = torch.where(draws.chance(chance).unsqueeze(1), rank, 0.0) + (~free).cumsum(1).double()  # documents stay in order
    moved = torch.where(free, key, torch.inf).argsort(dim=1, stable=True)  # stable: a sentence keeps its order
    return x.scatter(1, first(free, x.shape[1]), x.gather(1, moved))


def _spans(draws: Draws, width: int, rate: float, mean: float) -> tuple[Tensor, Tensor]:
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


def _starts(statistics: Options, device: Any) -> Tensor:
    """(V,) bool: the tokens that begin a word."""
    return _marks(str(statistics["tokenizer"]))[0].to(device)


def _stops(statistics: Options, device: Any) -> Tensor:
    """(V,) bool: the tokens that end a sentence."""
    return _marks(str(statistics["tokenizer"]))[1].to(device)


@cache
def _marks(name: str) -> tuple[Tensor, Tensor]:
    tokenizer = tokenizer_of({"tokenizer": name})
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    tokens = [tokenizer.id_to_token(i) or "" for i in range(size)]
    marked = any(token.startswith("##") for token in tokens)
    spaced = tuple(mark for mark in ("Ġ", "Ċ", "▁") if any(token.startswith(mark) for token in tokens))

    def begins(token: str) -> bool:
        if marked:
            return not token.startswith("##")
        return token.startswith(spaced) if spaced else not token.isalnum()  # of characters: a word is a space and what follows

    starts = [begins(token) for token in tokens]
    stops = [token.strip("Ġ▁ ") in (".", "!", "?", "Ċ", "\n") for token in tokens]
    return torch.tensor(starts), torch.tensor(stops)


# ------------------------------------------------------------------------------------------ what others must know


def picture(view: View, options: Options, statistics: Options) -> np.ndarray:
    """A view as it is read -> (B,H,W,3) uint8: its text on paper, special tokens and padding left out, masks as boxes."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    wide, high, line = 320, 128, 16
    pages = []
    for text in captions(view, statistics):
        page = Image.new("RGB", (wide, high), "white")
        pen = ImageDraw.Draw(page)
        x = y = 4
        for word in text.split():
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
    return "bart" if "decoder" in needs else "gpt" if "causal" in needs else "bert"


def encoder_input(layout: Options) -> Options:
    return {"vocabulary": layout["vocabulary"], "length": layout["length"], "special": layout["special"]}


def preprocessing(layout: Options, statistics: Options) -> Options:
    return {"tokenizer": "tokenizer.json", "length": layout["length"]}


def expects(encoder: str) -> Options:
    """A checkpoint brings its tokenizer along."""
    family, _, place = encoder.partition("/")
    return {"tokenizer": place} if family == "transformers" and place else {}


TEXT = Modality(
    name="text",
    noun="documents",
    fields={"text": ("text", "sentence", "body", "content", "document", "review", "question", "title")},
    suffixes=frozenset([".txt", ".text", ".md", ".rst", ".txt.gz"]),
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        **dict.fromkeys(("whole", "global", "global2", "light"), whole),
        "masked_tokens": masked_tokens,
        "next_tokens": next_tokens,
        "deleted": deleted,
        "infilled": infilled,
    },
    raw=raw,
    picture=picture,
    encoder_for=encoder_for,
    input=encoder_input,
    preprocessing=preprocessing,
    method="mlm",
    batch=64,
    knobs={"length": int, "tokenizer": str, "vocabulary": int, "lowercase": bool, "encoding": str},
    runs=runs,
    learn=learn,
    adopt=adopt,
    kept=kept,
    files=("tokenizer.json", "tokenizer_config.json"),
    expects=expects,
    captions=captions,
)
