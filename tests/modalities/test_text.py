"""Text: tokenizers, documents to ids, and every view's promises."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Batch, Preprocessor, UserError, View
from untaught.modalities.text import TEXT, corrupt, decode, learn, plan
from untaught.modalities.text.render import captions
from untaught.modalities.tokenizer import LONGEST, texts_of, tokenizer_of
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.preprocessor import load, save_files
from untaught.pipeline.view_pipeline import Views

SENTENCES = ["The old man reads slowly.", "Tomorrow the extraordinarily long winter ends!", "Nobody knows why?", "It is raining again."]
PROSE = [" ".join(SENTENCES[(i + j) % 4] for j in range(1 + i % 4)) for i in range(12)]
STRANGE = "tabs\tand  two spaces\n\nünïcode, 漢字, 🙂; zero\u200bwidth \r\n end "


def prep_of(kind: str, records: list[str] = PROSE, **overrides: Any) -> Preprocessor:
    documents = [{"text": document} for document in records]
    settings, files = learn(documents, plan(documents, {"tokenizer": kind, "length": 64, **overrides}))
    return Preprocessor(TEXT, settings, files=files).fitted({})


@pytest.fixture(scope="module")
def prep() -> Preprocessor:
    return prep_of("bpe", vocabulary=330)


def batch_of(documents: list[str], prep: Preprocessor, width: int = 0, index: list[int] | None = None) -> Batch:
    rows = [torch.from_numpy(decode({"text": document}, prep)["ids"]) for document in documents]
    width = max(width, *map(len, rows))
    ids, valid = torch.zeros(len(rows), width, dtype=torch.int32), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], valid[i, : len(row)] = row, True
    return {"ids": ids, "ids_valid": valid, "index": torch.tensor(range(len(rows)) if index is None else index)}


def runs_of(prep: Preprocessor, rows: int, length: int) -> Batch:
    """One long stream of prose cut into runs, as data/runs.py gives them: nothing is padding."""
    stream = np.concatenate([decode({"text": PROSE[i % 12]}, prep)["ids"] for i in range(rows * length // 20 + 12)])
    places = np.arange(rows)[:, None] * length + np.arange(length + 1)
    return {"ids": torch.from_numpy(stream[places % len(stream)]), "index": torch.arange(rows)}


def view(name: str, batch: Batch, prep: Preprocessor, seed: int = 0, **options: Any) -> View:
    return TEXT.views[name](batch, CounterRNG(seed, 0, batch["index"], 0), {**prep.presets()[name], **options}, prep)


def rows_of(x: Tensor, valid: Tensor | None) -> list[list[int]]:
    return [row.tolist() if valid is None else row[valid[i]].tolist() for i, row in enumerate(x)]


# -------------------------------------------------------------------------------------------------- tokenizers


def test_bpe_loses_nothing_of_any_text(prep: Preprocessor) -> None:
    ids = decode({"text": STRANGE}, prep)["ids"]
    assert ids[-1] == prep.settings["special"]["sep"]
    assert tokenizer_of(prep).decode(ids.tolist()) == STRANGE
    assert texts_of(torch.from_numpy(ids)[None], None, prep) == [STRANGE]


def test_wordpiece_lowers_and_cuts_words() -> None:
    own = prep_of("wordpiece", vocabulary=60)
    tokens = [tokenizer_of(own).id_to_token(i) for i in decode({"text": "The Extraordinarily"}, own)["ids"]]
    assert tokens[0].startswith("t")
    assert any(token.startswith("##") for token in tokens)
    assert texts_of(torch.from_numpy(decode({"text": "The old man"}, own)["ids"])[None], None, own) == ["the old man"]


def test_wordpiece_keeps_the_case_where_that_is_wished() -> None:
    own = prep_of("wordpiece", lowercase=False)
    assert texts_of(torch.from_numpy(decode({"text": "The old man"}, own)["ids"])[None], None, own) == ["The old man"]


def test_characters_are_a_token_each() -> None:
    own = prep_of("characters")
    said = "The old man  is again!"
    ids = decode({"text": said}, own)["ids"]
    assert len(ids) == len(said) + 1
    assert tokenizer_of(own).decode(ids[:-1].tolist()) == said
    assert decode({"text": "q@"}, own)["ids"].tolist()[:2] == [own.settings["special"]["unk"]] * 2  # neither is in the prose
    assert own.settings["vocabulary"] == len(set("".join(PROSE))) + 5


def test_the_vocabulary_is_as_large_as_wished_at_most(prep: Preprocessor) -> None:
    assert prep.settings["vocabulary"] == 330
    assert sorted(prep.settings["special"].values()) == [0, 1, 2, 3, 4]


def test_without_a_size_the_corpus_decides_and_rare_words_stay_in_pieces() -> None:
    own = prep_of("bpe", ["often often seldom"] * 40)
    words = tokenizer_of(own).get_vocab()
    assert "often" in words or "Ġoften" in words
    assert not any("seldom" in word for word in words)
    assert any("seldom" in word for word in tokenizer_of(prep_of("bpe", ["often often seldom"] * 40, vocabulary=400)).get_vocab())


def test_the_same_documents_give_the_same_tokenizer(prep: Preprocessor) -> None:
    assert prep_of("bpe", vocabulary=330) == prep
    assert prep_of("bpe", vocabulary=331).settings["tokenizer"] != prep.settings["tokenizer"]


def test_settings_name_their_tokenizer_by_the_hash_of_its_file(prep: Preprocessor, tmp_path: Path) -> None:
    assert set(prep.files) == set(TEXT.files)
    content = prep.files["tokenizer.json"]
    assert hashlib.blake2b(content, digest_size=12).hexdigest() == prep.settings["tokenizer"]
    TEXT.check_files(prep.settings, prep.files)
    with pytest.raises(UserError, match="not the one the encoder was trained with"):
        TEXT.check_files(prep.settings, {**prep.files, "tokenizer.json": content + b" "})
    save_files(prep.files, tmp_path)
    assert load(TEXT, prep.settings, prep.statistics, tmp_path) == prep
    (tmp_path / "tokenizer.json").write_bytes(content + b" ")
    with pytest.raises(UserError, match="not the one the encoder was trained with"):
        load(TEXT, prep.settings, prep.statistics, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json can't be read: .*; copy the whole folder"):
        load(TEXT, prep.settings, prep.statistics, tmp_path)


def test_a_damaged_tokenizer_is_one_line() -> None:
    junk = b'{"version": "1.0"'
    with pytest.raises(UserError, match=r"tokenizer.json can't be read: [^\n]*$"):
        TEXT.check_files({"tokenizer": hashlib.blake2b(junk, digest_size=12).hexdigest()}, {"tokenizer.json": junk})


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_tokenizer_can_be_taken_from_a_folder_or_a_file(place: str, prep: Preprocessor, tmp_path: Path) -> None:
    save_files(prep.files, tmp_path)
    own = prep_of(str(tmp_path if place == "folder" else tmp_path / "tokenizer.json"))
    for key in ("tokenizer", "special", "vocabulary"):
        assert own.settings[key] == prep.settings[key]


def test_transformers_reads_the_tokenizer_that_is_kept(prep: Preprocessor, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_files(prep.files, tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    special, ids = prep.settings["special"], decode({"text": STRANGE}, prep)["ids"].tolist()
    assert theirs(STRANGE)["input_ids"] == [special["cls"], *ids]
    assert (theirs.mask_token_id, theirs.pad_token_id) == (special["mask"], special["pad"])


def test_a_tokenizer_without_padding_gets_a_number_for_it(tmp_path: Path) -> None:
    """As GPT-2's, whose only special token ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"the": 0, "end": 1, "<|endoftext|>": 2}, unk_token="the"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    own = prep_of(str(tmp_path))
    assert own.settings["special"] == {"pad": 2, "unk": None, "cls": None, "sep": 2, "mask": None}
    with pytest.raises(UserError, match="masked_tokens needs a mask token, which the tokenizer lacks"):
        view("masked_tokens", runs_of(own, 2, 20), own)
    with pytest.raises(UserError, match="infilled needs a mask token, which the tokenizer lacks"):
        view("infilled", runs_of(own, 2, 20), own)
    whole = view("whole", batch_of(["the end", "the end the"], own), own)
    assert rows_of(whole.x, whole.valid) == [[0, 1, 2], [0, 1, 0, 2]]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"tokenizer": "bpf"}, "tokenizer=bpf: must be bpe, wordpiece, characters"),
        ({"length": 3}, "length=3: must lie from 16 to 4,096"),
        ({"encoding": "utf-9"}, "encoding=utf-9: unknown to Python"),
    ],
)
def test_wishes_that_cannot_be_are_one_line(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan([{"text": b"some text"}], overrides)


def test_a_folder_that_holds_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"the tokenizer of .* can't be read"):
        prep_of(str(tmp_path))


# ---------------------------------------------------------------------------------------------- records to ids


def test_text_is_text_bytes_a_path_or_packed(prep: Preprocessor, tmp_path: Path) -> None:
    want = decode({"text": STRANGE}, prep)["ids"]
    raw = STRANGE.encode()
    (tmp_path / "a.txt").write_bytes(raw)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(raw))
    marked = [codecs.BOM_UTF8 + raw, STRANGE.encode("utf-16"), STRANGE.encode("utf-32")]
    for value in (raw, gzip.compress(raw), tmp_path / "a.txt", tmp_path / "a.txt.gz", *marked, gzip.compress(marked[1])):
        assert np.array_equal(decode({"text": value}, prep)["ids"], want)
    assert want.dtype == np.int32
    latin = replace(prep, settings={**prep.settings, "encoding": "latin-1"})
    assert np.array_equal(decode({"text": "é".encode("latin-1")}, latin)["ids"], decode({"text": "é"}, prep)["ids"])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"12345\xff", "is not valid utf-8 at byte 5; give encoding="),
        (b"", "is empty"),
        (" \n\t", "is empty"),
        (gzip.compress(b"some text" * 99, mtime=0)[:-20], "is truncated"),
        (3.5, "float is not text"),
        (b"some\0text", "has NUL characters"),
        ("some text".encode("utf-16-le"), "it looks like utf-16-le: give encoding=utf-16-le"),
        ("half \ud83d of it", "an unpaired surrogate at character 5"),
        (OSError("gone"), "gone"),
    ],
)
def test_what_is_no_text_says_why(value: Any, says: str, prep: Preprocessor) -> None:
    with pytest.raises((ValueError, OSError), match=says):
        decode({"text": value}, prep)


def test_one_document_that_is_no_text_stops_no_tokenizer_and_all_of_them_say_why() -> None:
    documents = [{"text": "one ordinary text " * 50, "name": "a"}, {"text": "half \ud83d", "name": "b"}]
    settings, files = learn(documents, plan(documents, {}))
    assert tokenizer_of(Preprocessor(TEXT, settings, files=files)).encode("ordinary").tokens
    with pytest.raises(UserError, match=r"none of the first 1 documents can be read: b \(has an unpaired surrogate"):
        plan(documents[1:], {})


def test_only_what_ends_a_document_has_a_separator(prep: Preprocessor) -> None:
    part, end = (decode({"text": "a part", "ends": ends}, prep)["ids"].tolist() for ends in (False, True))
    assert end == [*part, prep.settings["special"]["sep"]]


def test_a_bag_of_words_counts_the_words_of_the_text(prep: Preprocessor) -> None:
    from sklearn.feature_extraction.text import CountVectorizer

    batch = batch_of(PROSE, prep)
    found = TEXT.raw(batch, prep)
    want: Any = CountVectorizer().fit_transform(PROSE)
    assert found.shape == (12, 1 << 18)
    assert (found @ found.T).toarray().tolist() == (want @ want.T).toarray().tolist()


# ------------------------------------------------------------------------------------------------------- views


def test_whole_is_the_document_between_class_token_and_separator(prep: Preprocessor) -> None:
    special, batch = prep.settings["special"], batch_of(PROSE, prep, width=150)
    found = view("whole", batch, prep, length=30)
    for document, row in zip(PROSE, rows_of(found.x, found.valid), strict=True):
        ids = decode({"text": document}, prep)["ids"].tolist()
        assert row == ([special["cls"], *ids] if len(ids) < 30 else [special["cls"], *ids[:28], special["sep"]])
    assert found.x.dtype == torch.int64
    assert (found.x[~found.valid] == special["pad"]).all()  # type: ignore[index]


def test_a_document_of_nothing_is_a_token_of_padding(prep: Preprocessor) -> None:
    empty: Batch = {
        "ids": torch.zeros(1, 4, dtype=torch.int32),
        "ids_valid": torch.zeros(1, 4, dtype=torch.bool),
        "index": torch.zeros(1).long(),
    }
    assert rows_of(*astuple(view("whole", empty, prep))) == [[prep.settings["special"]["cls"]]]
    bare = replace(prep, settings={**prep.settings, "special": {**prep.settings["special"], "cls": None}}).fitted({})
    assert rows_of(*astuple(view("whole", empty, bare))) == [[prep.settings["special"]["pad"]]]


def astuple(found: View) -> tuple[Tensor, Tensor | None]:
    return found.x, found.valid


@pytest.mark.parametrize("name", list(TEXT.views))
def test_a_sample_has_the_same_view_in_any_batch(name: str, prep: Preprocessor) -> None:
    """Whatever it lies beside, and however far it is padded."""
    own = corrupt.VIEWS[name]
    options: Any = ({"delete": 0.3} if "delete" in own else {}) | ({"scale": (0.3, 0.8)} if "scale" in own else {})
    every = view(name, batch_of(PROSE, prep), prep, **options)
    for i, width in ((0, 0), (7, 0), (5, 90)):
        alone = view(name, batch_of([PROSE[i]], prep, width, index=[i]), prep, **options)
        own, mine = rows_of(alone.x, alone.valid)[0], rows_of(every.x, every.valid)[i]
        last = min(len(own), len(mine)) if name == "next_tokens" else None  # the last one is asked nothing, and there or not
        assert own[:last] == mine[:last]
        if alone.target is not None:
            first, second = (v.target_valid if v.target_valid is not None else v.valid for v in (alone, every))
            assert rows_of(alone.target, first)[0] == rows_of(every.target, second)[i]  # type: ignore[arg-type]
        if alone.mask is not None:
            assert alone.mask[0].nonzero().flatten().tolist() == every.mask[i].nonzero().flatten().tolist()  # type: ignore[index]


@pytest.mark.parametrize("name", ["masked_tokens", "deleted", "infilled"])
def test_other_seeds_give_other_views(name: str, prep: Preprocessor) -> None:
    batch = batch_of(PROSE, prep)
    first, again, other = (view(name, batch, prep, seed=seed).x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).any(1).all()


def test_a_sample_is_damaged_anew_every_epoch_or_in_so_many_versions(prep: Preprocessor) -> None:
    batch = runs_of(prep, 20, 64)
    preset = {**prep.presets()["masked_tokens"], "length": 64}
    for versions, kinds in ((0, 6), (1, 1), (3, 3)):
        views = Views(("masked_tokens",), prep, [{**preset, "versions": versions}], seed=0)
        found = [views(batch, epoch)[0].x for epoch in range(6)]
        assert len({x.numpy().tobytes() for x in found}) == kinds
        assert versions == 0 or torch.equal(found[0], found[versions])


def test_masked_tokens_are_15_percent_of_which_80_10_10(prep: Preprocessor) -> None:
    batch = runs_of(prep, 400, 64)
    found = view("masked_tokens", batch, prep, length=64)
    assert found.mask is not None
    assert found.target is not None
    assert found.meta is not None
    special = prep.settings["special"]
    assert found.valid is None
    assert found.x.shape == (400, 64)
    assert torch.equal(found.target[:, 1:], batch["ids"][:, :63].long())
    assert (found.target[:, 0] == special["cls"]).all()
    ordinary = (found.target != special["cls"]) & (found.target != special["sep"])
    assert not (found.mask & ~ordinary).any()
    assert torch.equal(found.mask.sum(1), (ordinary.sum(1) * 0.15).round().long())
    assert torch.equal(found.x[~found.mask], found.target[~found.mask])

    x, target = found.x[found.mask], found.target[found.mask]
    masked, same = (x == special["mask"]).float().mean(), (x == target).float().mean()
    assert abs(masked - 0.8) < 0.025  # 3,600 tokens: four standard errors
    assert abs(same - 0.1) < 0.02
    others = x[(x != special["mask"]) & (x != target)]
    assert abs(len(others) / len(x) - 0.1) < 0.02
    assert others.min() > 4  # no special token
    assert others.max() < prep.settings["vocabulary"]
    assert len(others.unique()) > 0.5 * min(len(others), prep.settings["vocabulary"])
    count = found.mask.sum(1)
    for places, row, many in zip(found.meta["places"].tolist(), found.mask, count.tolist(), strict=True):
        assert places[:many] == row.nonzero().flatten().tolist()
    # Every place is hidden as often as any other.
    share = (found.mask.sum(0) / ordinary.sum(0).clamp(min=1))[1:]
    assert (share - 0.15).abs().max() < 0.09


def test_masks_and_random_tokens_have_the_shares_that_are_asked(prep: Preprocessor) -> None:
    found = view("masked_tokens", runs_of(prep, 50, 64), prep, rate=0.4, mask=1.0, random=0.0)
    assert found.mask is not None
    assert (found.x[found.mask] == prep.settings["special"]["mask"]).all()
    assert 0.37 < found.mask.float().mean() < 0.41


def test_a_short_document_has_one_hidden_token_at_least(prep: Preprocessor) -> None:
    found = view("masked_tokens", batch_of(["a", "It", *PROSE], prep), prep)
    assert found.mask is not None
    assert found.mask.sum(1).min() == 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "characters"])
def test_whole_words_are_never_cut(kind: str) -> None:
    own = prep_of(kind, vocabulary=300 if kind == "bpe" else 60)
    tokenizer = tokenizer_of(own)
    batch = batch_of([*PROSE, " ".join(PROSE)], own)
    found = view("masked_tokens", batch, own, words=True, length=400)
    assert found.mask is not None
    assert found.target is not None
    several = 0
    for ids, hidden in zip(found.target.tolist(), found.mask.tolist(), strict=True):
        tokens = [tokenizer.id_to_token(i) for i in ids]
        for t in range(1, len(tokens)):
            if ids[t - 1] in (0, 2, 3) or ids[t] in (0, 2, 3):
                continue
            if {"bpe": tokens[t][0] != "Ġ", "wordpiece": tokens[t].startswith("##"), "characters": tokens[t].isalnum()}[kind]:
                assert hidden[t] == hidden[t - 1], tokens[t - 2 : t + 1]
                several += hidden[t]
    assert several > 10
    assert 0.15 <= found.mask[-1].sum() / (len(found.mask[-1]) - 2) < 0.25


def test_a_word_behind_a_separator_is_one_of_its_own() -> None:
    own = prep_of("bpe", vocabulary=300)
    ids = np.concatenate([decode({"text": "aaa"}, own)["ids"], decode({"text": "bbb"}, own)["ids"]])
    batch: Batch = {"ids": torch.from_numpy(ids).expand(300, -1), "index": torch.arange(300)}
    found = view("masked_tokens", batch, own, words=True)
    assert found.mask is not None
    first, second = found.mask[:, 1:4], found.mask[:, 5:8]
    assert (first.any(1) == first.all(1)).all()
    assert (first.all(1) ^ second.all(1)).all()  # one of the two words is enough
    assert 0.35 < first.all(1).float().mean() < 0.65


def test_next_tokens_are_those_behind_each(prep: Preprocessor) -> None:
    batch = runs_of(prep, 6, 40)
    found = view("next_tokens", batch, prep, length=40)
    assert found.target is not None
    assert found.valid is None
    assert torch.equal(found.x, batch["ids"][:, :40].long())
    assert torch.equal(found.target, batch["ids"][:, 1:].long())
    padded = view("next_tokens", batch_of(PROSE, prep), prep, length=30)
    assert padded.target is not None
    assert padded.x.shape[1] <= 30
    for document, x, target in zip(PROSE, rows_of(padded.x, padded.valid), rows_of(padded.target, padded.target_valid), strict=True):
        ids = decode({"text": document}, prep)["ids"].tolist()
        assert target == ids[1:31]
        assert x[: len(target)] == ids[:-1][:30]


def test_deleted_keeps_the_order_and_the_frame(prep: Preprocessor) -> None:
    batch = batch_of([" ".join(PROSE[i : i + 2]) for i in range(10)] * 10, prep)
    found = view("deleted", batch, prep)
    assert found.target is not None
    special, gone, all_of_them = prep.settings["special"], 0, 0
    for x, target in zip(rows_of(found.x, found.valid), rows_of(found.target, found.target_valid), strict=True):
        left = iter(target)
        assert all(token in left for token in x)  # a subsequence
        assert (x[0], x[-1]) == (special["cls"], special["sep"])
        gone, all_of_them = gone + len(target) - len(x), all_of_them + len(target) - 2
    assert abs(gone / all_of_them - 0.6) < 0.03
    assert (found.x[~found.valid] == special["pad"]).all()  # type: ignore[index]


def test_crops_are_pieces_of_the_document_from_anywhere(prep: Preprocessor) -> None:
    special, n = prep.settings["special"], 100
    ids = torch.cat([torch.arange(10, 10 + n), torch.tensor([special["sep"]])]).expand(500, -1)
    batch = {"ids": ids, "ids_valid": torch.ones(500, n + 1, dtype=torch.bool), "index": torch.arange(500)}
    pieces = []
    for row in rows_of(*astuple(view("global", batch, prep, scale=(0.2, 0.6)))):
        assert (row[0], row[-1]) == (special["cls"], special["sep"])
        assert row[1:-1] == list(range(row[1], row[1] + len(row) - 2))  # no gap, no other order
        pieces.append((row[1] - 10, len(row) - 2))
    starts, sizes = np.array(pieces).T
    assert (sizes.min(), sizes.max()) == (21, 60)  # of 500 draws; 20 is the lowest share itself
    assert abs((starts / (n - sizes)).mean() - 0.5) < 4 * 0.29 / 500**0.5  # of 500 uniform draws: four standard errors
    short = rows_of(*astuple(view("global", batch, prep, scale=(0.2, 0.6), length=16)))
    assert {len(row) for row in short} == {16}
    assert max(row[-2] for row in short) == 10 + n - 1  # the end of the document is reached as well
    (a_word,) = rows_of(*astuple(view("global", batch_of(["a"], prep), prep, scale=(0.05, 0.5))))
    assert a_word == rows_of(*astuple(view("whole", batch_of(["a"], prep), prep)))[0]


def spans_of(x: list[int], target: list[int], mask: int) -> list[int]:
    """The lengths of what masks stand for, of text without repetitions: the tokens between those that are left."""
    lengths, at, waiting = [], 0, 0
    for token in [*x, None]:
        if token == mask:
            waiting += 1
            continue
        here = target.index(token, at) if token is not None else len(target)
        if waiting:
            lengths.append((here - at) / waiting)
            lengths += [lengths[-1]] * (waiting - 1)
        else:
            assert here == at
        at, waiting = here + 1, 0
    return lengths


def distinct(prep: Preprocessor, rows: int, length: int) -> Batch:
    """Runs of ordinary tokens that are all different."""
    order = torch.stack([torch.randperm(prep.settings["vocabulary"] - 5, generator=torch.Generator().manual_seed(i)) for i in range(rows)])
    return {"ids": order[:, : length + 1].int() + 5, "index": torch.arange(rows)}


@pytest.mark.parametrize(("rate", "span"), [(0.3, 3.0), (0.15, 3.0), (0.5, 2.0)])
def test_infilled_hides_the_share_in_spans_of_the_length(rate: float, span: float, prep: Preprocessor) -> None:
    batch = distinct(prep, 200, 128)
    found = view("infilled", batch, prep, length=128, rate=rate, span=span, permute=0.0)
    assert found.target is not None
    mask, lengths = prep.settings["special"]["mask"], []
    assert torch.equal(found.target[:, 1:], batch["ids"][:, :127].long())
    for x, target in zip(rows_of(found.x, found.valid), rows_of(found.target, found.target_valid), strict=True):
        lengths += spans_of(x, target, mask)
    assert abs(sum(lengths) / (200 * 127) - rate) < 0.02
    assert abs(sum(lengths) / len(lengths) - span) < 0.12
    assert found.x.shape == found.target.shape


def test_lengths_of_spans_are_poissons() -> None:
    unit = (torch.arange(100_000) + 0.5) / 100_000
    share = corrupt._poisson(unit, 3.0).bincount(minlength=21) / 100_000
    for length in range(12):
        assert abs(share[length].item() - 3.0**length * math.exp(-3) / math.factorial(length)) < 1e-4


def test_infilled_without_a_rate_changes_nothing(prep: Preprocessor) -> None:
    found = view("infilled", batch_of(PROSE, prep), prep, rate=0.0, permute=0.0)
    assert found.target is not None
    assert rows_of(found.x, found.valid) == rows_of(found.target, found.target_valid)


def test_no_span_crosses_a_special_token(prep: Preprocessor) -> None:
    batch, special = distinct(prep, 200, 64), prep.settings["special"]
    sep, mask = special["sep"], special["mask"]
    batch["ids"][:, 5::6] = sep
    found = view("infilled", batch, prep, length=64, rate=0.8, permute=0.0)
    assert found.target is not None
    for x, target in zip(rows_of(found.x, found.valid), rows_of(found.target, found.target_valid), strict=True):
        assert x[0] == target[0] == special["cls"]
        if len(x) == 64:  # full: inserted masks may have pushed out the end
            continue
        assert x.count(sep) == target.count(sep)
        for shown, own in zip(parts_at(x, sep), parts_at(target, sep), strict=True):
            left = iter(own)
            assert all(token in left for token in shown if token != mask)
            assert len(own) == len([t for t in shown if t in own]) or mask in shown


def parts_at(ids: list[int], sep: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == sep:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def test_permuted_sentences_are_the_same_sentences_within_their_document(prep: Preprocessor) -> None:
    stop = decode({"text": "."}, prep)["ids"][0]
    documents = [" ".join(SENTENCES[:3]), " ".join(SENTENCES[1:]), SENTENCES[0]]
    stream = np.concatenate([decode({"text": document}, prep)["ids"] for document in documents])
    batch: Batch = {"ids": torch.from_numpy(stream).expand(60, -1), "index": torch.arange(60)}
    found = view("infilled", batch, prep, length=400, rate=0.0)
    assert found.target is not None
    stops = {int(stop), *(int(decode({"text": end}, prep)["ids"][0]) for end in "!?")}
    sep, orders = prep.settings["special"]["sep"], set()
    for x, target in zip(found.x.tolist(), found.target.tolist(), strict=True):
        orders.add(tuple(x))
        assert sorted(x) == sorted(target)
        for shown, own in zip(parts_at(x[1:], sep), parts_at(target[1:], sep), strict=True):
            assert sorted(sentences(shown, stops)) == sorted(sentences(own, stops))
    assert len(orders) > 15  # of 36
    assert (found.target == found.target[0]).all()


def sentences(ids: list[int], stops: set[int]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for token in ids:
        found[-1].append(token)
        if token in stops:
            found.append([])
    return [sentence for sentence in found if sentence]


def test_sentences_are_permuted_in_the_share_of_samples_that_is_asked(prep: Preprocessor) -> None:
    batch = batch_of([" ".join(SENTENCES)] * 400, prep, index=list(range(400)))
    found = view("infilled", batch, prep, length=200, rate=0.0, permute=0.5)
    moved = (found.x != found.target).any(1).float().mean()
    assert abs(moved - 0.5 * 23 / 24) < 0.1  # one of 24 orders is the old one


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 1.5}, "rate=1.5"),
        ({"mask": 0.8, "random": 0.3}, "together at most 1"),
        ({"span": 0.5}, "span=0.5"),
        ({"length": 4}, "length=4"),
        ({"rows": "lines"}, "rows=lines"),
        ({"delete": -0.1}, "delete=-0.1"),
        ({"versions": -1}, "versions=-1"),
        ({"scale": (0.5, 0.2)}, "scale=0.5,0.2"),
        ({"scale": (0.0, 0.2)}, "scale=0,0.2"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], says: str, prep: Preprocessor) -> None:
    assert says in str(TEXT.check({**prep.presets()["infilled"], **options}))
    assert [name for name, preset in prep.presets().items() if TEXT.check(preset)] == []


def test_samples_are_runs_where_every_view_takes_them_so(prep: Preprocessor) -> None:
    presets = prep.presets()
    assert TEXT.runs([presets["masked_tokens"]]) == ("ids", 65)
    assert TEXT.runs([presets["masked_tokens"], {**presets["next_tokens"], "length": 80}]) == ("ids", 81)
    assert TEXT.runs([presets["masked_tokens"], presets["global"]]) is None


def test_a_picture_and_a_caption_show_the_text_and_what_is_hidden(prep: Preprocessor) -> None:
    batch = batch_of(PROSE[:2], prep)
    assert captions(view("whole", batch, prep), prep) == PROSE[:2]
    shown = view("masked_tokens", batch, prep, mask=1.0, random=0.0)
    assert [caption.count("■") for caption in captions(shown, prep)] == shown.mask.sum(1).tolist()  # type: ignore[union-attr]
    pictures = TEXT.render(shown, {}, prep)
    assert pictures.shape == (2, 128, 320, 3)
    assert pictures.dtype == np.uint8
    assert (pictures != 255).any((1, 2, 3)).all()


def test_a_line_without_an_end_or_a_blank_makes_no_endless_tokens_and_can_be_drawn() -> None:
    endless = "x" * 1_000_000
    own = prep_of("bpe", [endless])
    assert 10 < max(map(len, tokenizer_of(own).get_vocab())) <= LONGEST
    batch = batch_of([endless[:400]], own)
    (page,) = TEXT.render(view("whole", batch, own), {}, own)
    assert (page[64:80] != 255).any()  # on the fifth line, too


def test_settings_and_statistics_are_plain_values(prep: Preprocessor) -> None:
    for values in (prep.settings, prep.statistics):
        assert json.loads(json.dumps(values)) == values


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"text needs tokenizers, which is not installed; pip install 'untaught\[transformers\]'"):
        plan([{"text": "a"}], {})
