"""Tokenizers: trained on a corpus or taken from a checkpoint, identified by the hash of their file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untaught.core import Files, Options, Preprocessor, Record, UserError
from untaught.ops.encodings import decode

KINDS = ("bpe", "wordpiece", "characters")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # of tokenizers trained here
VOCABULARIES = (  # files of a checkpoint that contain a vocabulary
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("vocab.bpe", "bpe.codes", "spm.model", "encoder.json"),
)
FILES = ("tokenizer.json", "tokenizer_config.json")  # files of the preprocessor
FEWEST = 2  # minimum number of tokens that are not special
TAUGHT = 64 << 20  # maximum characters that a tokenizer is trained on
RAREST = 50  # minimum token count if no vocabulary size is given: a network hardly learns rarer tokens
PIECE = 1 << 14  # characters per training piece: merging is quadratic in the longest word, which may be the whole text
LONGEST = 64  # maximum characters of a bpe token: runs of one character would otherwise merge without limit
LARGEST = 1 << 28  # maximum bytes of a document


def tokenizer_of(prep: Preprocessor) -> Any:
    """The preprocessor's tokenizers.Tokenizer."""
    return _tokenizer(prep.files["tokenizer.json"])


@lru_cache(8)
def _tokenizer(content: bytes) -> Any:
    try:
        tokenizer = library().Tokenizer.from_str(content.decode())
    except UserError:
        raise
    except Exception as error:  # tokenizers raises a bare Exception
        raise UserError(f"tokenizer.json can't be read: {str(error).splitlines()[0]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("text needs tokenizers, which is not installed; pip install 'untaught[transformers]'") from error
    return tokenizers


def learn(records: Iterable[Record], settings: Options) -> tuple[Options, Files]:
    """Trains the tokenizer named in the settings on the first 64 M characters, or loads an existing one -> settings, its files."""
    Tokenizer = library().Tokenizer
    wanted = settings["tokenizer"]
    if wanted in KINDS:
        tokenizer, names = _trained(_texts(records, settings["encoding"]), settings), SPECIAL
    else:
        place = Path(wanted)
        try:
            file = place / "tokenizer.json" if place.is_dir() else place
            if place.is_dir() and not any((place / name).exists() for name in VOCABULARIES):
                raise UserError(f"{place} has no tokenizer files (e.g. tokenizer.json); copy the whole checkpoint")
            tokenizer = Tokenizer.from_file(str(file)) if file.exists() else _converted(place)
            names = _special_of(tokenizer, place if place.is_dir() else place.parent)
        except UserError:
            raise
        except Exception as error:  # tokenizers raises a bare Exception
            raise UserError(f"the tokenizer of {place} can't be read: {str(error).splitlines()[0]}") from error
    content = tokenizer.to_str().encode()
    name = _hash(content)
    special = {role: tokenizer.token_to_id(token) if token else None for role, token in names.items()}
    if special["pad"] is None:  # GPT-2 has none; any id will do, as padding is masked
        special["pad"] = next((number for number in special.values() if number is not None), 0)
    known = tokenizer.get_vocab(with_added_tokens=True)
    if len(known.keys() - {token for token in names.values() if token}) < FEWEST:
        raise UserError(f"the tokenizer of {wanted} has only {len(known)} tokens, including special ones; give the checkpoint's tokenizer")
    vocabulary = max(len(known), max(known.values()) + 1)  # ids may have gaps
    settings = {**settings, "tokenizer": name, "vocabulary": vocabulary, "special": special}
    files = {"tokenizer.json": content, "tokenizer_config.json": json.dumps(_config(names, settings["length"]), indent=1).encode()}
    return settings, files


def check_files(settings: Options, files: Files) -> None:
    """Raises UserError if tokenizer.json can't be read or does not match the hash in the settings."""
    if _hash(files["tokenizer.json"]) != str(settings.get("tokenizer")):
        raise UserError("tokenizer.json is not the one the encoder was trained with; copy the whole folder again")
    _tokenizer(files["tokenizer.json"])


def _hash(content: bytes) -> str:
    """A tokenizer's identifier in settings."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _trained(texts: Iterator[str], settings: Options) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    kind, special = settings["tokenizer"], list(SPECIAL.values())
    texts, count = _counted(texts)
    common: Options = {"special_tokens": special, "show_progress": False}
    size: Options = {"vocab_size": settings["vocabulary"] or 30_000, "min_frequency": 2 if settings["vocabulary"] else RAREST}
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
        trainer = trainers.WordLevelTrainer(vocab_size=settings["vocabulary"] or 10_000, **common)
    if kind == "wordpiece":
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings["lowercase"])
    elif settings["lowercase"]:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.train_from_iterator(texts, trainer)
    if not count[0]:
        raise UserError("the tokenizer can't be trained: no readable text")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL['cls']} $A {SPECIAL['sep']}",
        pair=f"{SPECIAL['cls']} $A {SPECIAL['sep']} $B:1 {SPECIAL['sep']}:1",
        special_tokens=[(SPECIAL[role], tokenizer.token_to_id(SPECIAL[role])) for role in ("cls", "sep")],
    )
    return tokenizer


def _converted(place: Path) -> Any:
    """The fast tokenizer of a checkpoint that has only a slow tokenizer's files."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError("transformers is not installed; pip install untaught[transformers]") from error
    return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False, local_files_only=True).backend_tokenizer


def _special_of(tokenizer: Any, folder: Path) -> dict[str, str | None]:
    """Special tokens by role, as named in tokenizer_config.json or special_tokens_map.json, or else by their usual names."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists() and (folder / name).stat().st_size < 1 << 24:
            found = json.loads((folder / name).read_text("utf-8"))
            config |= found if isinstance(found, dict) else {}
    usual = {
        "pad": ("[PAD]", "<pad>"),
        "unk": ("[UNK]", "<unk>"),
        "cls": ("[CLS]", "<s>"),
        "sep": ("[SEP]", "</s>"),
        "mask": ("[MASK]", "<mask>"),
    }
    result: dict[str, str | None] = {}
    for role, names in usual.items():
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        candidates = [token] if isinstance(token, str) else list(names)
        result[role] = next((name for name in candidates if tokenizer.token_to_id(name) is not None), None)
    if result["sep"] is None:
        token = config.get("eos_token", "<|endoftext|>")
        token = token.get("content") if isinstance(token, dict) else token
        result["sep"] = token if isinstance(token, str) and tokenizer.token_to_id(token) is not None else None
    return result


def _config(names: Mapping[str, str | None], length: int) -> Options:
    """tokenizer_config.json, from which transformers' AutoTokenizer loads tokenizer.json."""
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
    """A text, bytes (with or without a byte order mark, or gzipped), words, or a path -> text. Raises ValueError or OSError with the
    reason."""
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes):
        if value.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(value)) as file:
                try:
                    value = file.read(LARGEST + 1)
                except EOFError as error:
                    raise ValueError("is truncated") from error
        if len(value) > LARGEST:
            raise ValueError(f"is longer than {LARGEST:,} bytes")
        try:
            value = decode(value, encoding)
        except LookupError as error:
            raise UserError(f"encoding={encoding}: unknown to Python; choose e.g. utf-8, latin-1 or cp1252") from error
    if isinstance(value, Exception):
        raise value
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1:  # words, e.g. of a tagged corpus
        words = [str(word) for word in value if isinstance(word, str)]
        value = " ".join(words) if len(words) == len(value) else value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not text; give a string or the path of a text file")
    try:
        value.encode()  # only to raise the error
    except UnicodeEncodeError as error:
        raise ValueError(f"has an unpaired surrogate at character {error.start:,}, which is not valid Unicode; fix it") from error
    return value


def texts_of(ids: Tensor, valid: Tensor | None, prep: Preprocessor) -> list[str]:
    """ids (B,T), valid (B,T) -> the text of each row, without special tokens."""
    rows = [
        row.tolist() if mask is None else row[mask].tolist()
        for row, mask in zip(ids, valid if valid is not None else [None] * len(ids), strict=True)
    ]
    return tokenizer_of(prep).decode_batch(rows, skip_special_tokens=True)


def starts(prep: Preprocessor, device: Any) -> Tensor:
    """(V,) bool: tokens that begin a word."""
    return _marks(prep.files["tokenizer.json"])[0].to(device)


def stops(prep: Preprocessor, device: Any) -> Tensor:
    """(V,) bool: tokens that end a sentence."""
    return _marks(prep.files["tokenizer.json"])[1].to(device)


@lru_cache(8)
def _marks(content: bytes) -> tuple[Tensor, Tensor]:
    tokenizer = _tokenizer(content)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    tokens = [tokenizer.id_to_token(i) or "" for i in range(size)]
    marked = any(token.startswith("##") for token in tokens)
    spaced = tuple(mark for mark in ("Ġ", "Ċ", "▁") if any(token.startswith(mark) for token in tokens))

    def begins(token: str) -> bool:
        if marked:
            return not token.startswith("##")
        return token.startswith(spaced) if spaced else not token.isalnum()  # character tokens: a word starts at its space

    starts = [begins(token) for token in tokens]
    stops = [token.strip("Ġ▁ ") in (".", "!", "?", "Ċ", "\n") for token in tokens]
    return torch.tensor(starts), torch.tensor(stops)
