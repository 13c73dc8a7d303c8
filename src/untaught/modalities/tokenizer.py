"""Tokenizers of text: trained on a corpus, or taken from a checkpoint, and known by the hash of their file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untaught.core import Files, Options, Record, UserError
from untaught.ops.encodings import decode

KINDS = ("bpe", "wordpiece", "characters")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # of the tokenizers that are trained here
FILES = (  # of a checkpoint, any of which holds a vocabulary
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("vocab.bpe", "bpe.codes", "spm.model", "encoder.json"),
)
FEWEST = 2  # ordinary tokens of a tokenizer
TAUGHT = 64 << 20  # characters that a tokenizer is trained on, at most
RAREST = 50  # times that a token occurs at least where no vocabulary is asked for: a network hardly learns what it sees less often
PIECE = 1 << 14  # characters of a text at once: merging takes the square of the longest word, which may be all of it
LONGEST = 64  # characters of a token of bpe: of a line of one character, merging makes ever longer ones
LARGEST = 1 << 28  # bytes of one document

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


def library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("tokenizers is not installed, which text needs; pip install 'untaught[transformers]'") from error
    return tokenizers


def learn(records: Iterable[Record], layout: Options) -> tuple[Options, Files]:
    """Trains the tokenizer that the layout wishes for on the first 64 M characters, or takes an existing one -> whole layout, its file."""
    Tokenizer = library().Tokenizer
    wanted = layout["tokenizer"]
    if wanted in KINDS:
        tokenizer, names = _trained(_texts(records, layout["encoding"]), layout), SPECIAL
    else:
        place = Path(wanted)
        try:
            file = place / "tokenizer.json" if place.is_dir() else place
            if place.is_dir() and not any((place / name).exists() for name in FILES):
                raise UserError(
                    f"{place} has no tokenizer's files (tokenizer.json), by which text becomes tokens; copy the whole checkpoint"
                )
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
    known = tokenizer.get_vocab(with_added_tokens=True)
    if len(known.keys() - {token for token in names.values() if token}) < FEWEST:
        raise UserError(f"the tokenizer of {wanted} knows {len(known)} tokens, special ones with the rest; give the one of the checkpoint")
    vocabulary = max(len(known), max(known.values()) + 1)  # there may be gaps
    whole = {**layout, "tokenizer": name, "vocabulary": vocabulary, "special": special}
    files = {"tokenizer.json": content, "tokenizer_config.json": json.dumps(_config(names, layout["length"]), indent=1).encode()}
    adopt(whole, files)
    return whole, files


def adopt(layout: Options, files: Files) -> None:
    """Makes the tokenizer of a layout known by its hash. Raises UserError where the file is another one."""
    Tokenizer = library().Tokenizer
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
    common: Options = {"special_tokens": special, "show_progress": False}
    size: Options = {"vocab_size": layout["vocabulary"] or 30_000, "min_frequency": 2 if layout["vocabulary"] else RAREST}
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=LONGEST, **size, **common)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**size, **common)
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
        yield from (text[i : i + PIECE] for i in range(0, len(text), PIECE))
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


def read(value: Any, encoding: str = "utf-8") -> str:
    """Text, bytes (with a byte order mark or not), or a path, packed by gzip or not; raises ValueError or OSError, saying why."""
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
            value = decode(value, encoding)
        except LookupError as error:
            raise UserError(f"encoding={encoding}: is not known to Python; utf-8, latin-1 or cp1252 are") from error
    if isinstance(value, Exception):
        raise value
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1:  # words, as of a corpus with tags
        words = [str(word) for word in value if isinstance(word, str)]
        value = " ".join(words) if len(words) == len(value) else value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is no text; a string, or the path of a text file is")
    try:
        value.encode()  # for its error alone
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half of a surrogate pair at character {error.start:,}, which is no Unicode; mend it") from error
    return value


def texts_of(ids: Tensor, valid: Tensor | None, layout: Options) -> list[str]:
    """ids (B,T), valid (B,T) -> the text of each row, without special tokens."""
    rows = [
        row.tolist() if kept is None else row[kept].tolist()
        for row, kept in zip(ids, valid if valid is not None else [None] * len(ids), strict=True)
    ]
    return tokenizer_of(layout).decode_batch(rows, skip_special_tokens=True)


def starts(statistics: Options, device: Any) -> Tensor:
    """(V,) bool: the tokens that begin a word."""
    return _marks(str(statistics["tokenizer"]))[0].to(device)


def stops(statistics: Options, device: Any) -> Tensor:
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
