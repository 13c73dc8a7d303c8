"""Tagging: first sub-words, views that cut and drop, entities against seqeval and by hand, and the loss by loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from untaught.core import Options, Preprocessor, UserError, View
from untaught.downstream.tag import Tag, entities
from untaught.modalities.text import TEXT
from untaught.modalities.text import tags as module
from untaught.modalities.text.corrupt import VIEWS
from untaught.modalities.tokenizer import learn, tokenizer_of
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.dataset import batch_of

TAGS = ["O", "B-person", "I-person", "B-place", "I-place"]
WORDS = ["Ann", "Bernadette", "sees", "New", "Yorkshire", "today", "."]
TRUTH = ["B-person", "I-person", "O", "B-place", "I-place", "O", "O"]


@pytest.fixture(scope="module", params=["bpe", "wordpiece", "characters"])
def prep(request: Any) -> Preprocessor:
    """As a run on tagged documents has it."""
    kind = {"tokenizer": request.param, "vocabulary": 300, "lowercase": request.param == "wordpiece"}
    wanted = {**kind, "length": 64, "encoding": "utf-8", "ragged": ["ids"]}
    settings, files = learn([{"text": "Ann sees Bern and York today . It rains in new shires ."}] * 4, wanted)
    return Tag.reading(Preprocessor(TEXT, {**settings, "tags": TAGS}, files=files)).fitted({})


def seen(records: list[Options], prep: Preprocessor, **options: Any) -> tuple[View, View]:
    batch, _ = batch_of(records, prep)
    view = TEXT.views["light"](batch, CounterRNG(0, 0, batch["index"], 0), {**VIEWS["light"], "length": 64, **options}, prep)
    return view, module.follow(batch, view)


RECORDS = [{"tokens": WORDS, "tags": TRUTH, "name": "a"}, {"tokens": WORDS[2:4], "tags": TRUTH[2:4], "name": "b"}]


def test_the_first_token_of_a_word_carries_its_tag(prep: Preprocessor) -> None:
    tokenizer, (view, found) = tokenizer_of(prep), seen(RECORDS, prep)
    assert found.target is not None
    assert found.meta is not None
    assert [[TAGS[n] for n in row if n >= 0] for row in found.target.tolist()] == [TRUTH, TRUTH[2:4]]
    for row, words in enumerate((WORDS, WORDS[2:4])):
        places = found.meta["words"][row, : len(words)].tolist()
        assert places == sorted(set(places))
        for place, word in zip(places, words, strict=True):
            token = tokenizer.decode([int(view.x[row, place])]).strip().lower()
            assert (token and word.lower().startswith(token.replace("##", ""))) or token in ("[unk]", "")
        assert found.meta["count"][row] == len(words)


def test_a_view_that_drops_and_cuts_takes_the_words_along(prep: Preprocessor) -> None:
    view, found = seen(RECORDS, prep, delete=0.4)
    whole, kept = seen(RECORDS, prep)
    assert found.meta is not None
    assert kept.meta is not None
    lost = 0
    for row in range(2):
        for place, before in zip(found.meta["words"][row].tolist(), kept.meta["words"][row].tolist(), strict=True):
            assert place < 0 or view.x[row, place] == whole.x[row, before]
            lost += place < 0 <= before
    assert lost > 0
    _, cut = seen(RECORDS[:1], prep, length=6)
    assert cut.meta is not None
    assert cut.target is not None
    assert (cut.meta["words"] < 0).any()
    assert cut.meta["words"].max() < 6
    assert (cut.target >= 0).all(), "a word that is cut off is not forgotten"


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["B-a", "I-a", "O", "B-a", "B-a"], {(0, 2, "a"), (3, 4, "a"), (4, 5, "a")}),
        (["I-a", "I-a", "O"], {(0, 2, "a")}),  # conlleval: an I behind nothing begins one
        (["B-a", "I-b", "I-b"], {(0, 1, "a"), (1, 3, "b")}),
        (["O", "I-a", "B-a"], {(1, 2, "a"), (2, 3, "a")}),
        (["S-a", "B-a", "E-a", "I-a"], {(0, 1, "a"), (1, 3, "a"), (3, 4, "a")}),
        ([], set()),
    ],
)
def test_entities_are_those_of_conlleval(tags: list[str], found: set[tuple[int, int, str]]) -> None:
    assert entities(tags) == found


def outcome_of(said: list[list[str]], truth: list[list[str]]) -> tuple[Tag, np.ndarray]:
    made = tagger()
    longest = max(map(len, truth))
    log = np.full((len(truth), longest, len(TAGS)), -9.0)
    target = np.full((len(truth), longest), -1)
    for row, (own, true) in enumerate(zip(said, truth, strict=True)):
        log[row, range(len(own)), [TAGS.index(tag) for tag in own]] = 0
        target[row, : len(true)] = [TAGS.index(tag) for tag in true]
    return made, made.outcome({"log_probabilities": log}, target)


def tagger(tags: list[str] = TAGS) -> Tag:
    from untaught.config.registry import build_encoder

    torch.manual_seed(0)
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    size = {"vocabulary": 300, "length": 64, "special": special}
    return Tag(build_encoder("bert", size, {"width": "16", "depth": "1", "heads": "2"}), {"tags": tags}).eval()


def test_f1_is_over_all_documents_together() -> None:
    made, outcome = outcome_of([["B-person", "O", "O"], ["B-place", "I-place"]], [["B-person", "I-person", "O"], ["B-place", "I-place"]])
    assert outcome.tolist() == [[0, 1, 1, 2, 3], [1, 1, 1, 2, 2]]
    assert made.scores(outcome) == {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5, "word_accuracy": 0.8}
    nothing, rows = outcome_of([["O"]], [["O"]])
    assert nothing.scores(rows) == {"entity_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0, "word_accuracy": 1.0}


def test_f1_is_seqevals() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    random = np.random.default_rng(0)
    lengths = random.integers(1, 12, 300)
    truth, said = ([[TAGS[n] for n in random.integers(0, 5, length)] for length in lengths] for _ in range(2))
    said = [[t if random.random() < 0.7 else s for s, t in zip(*rows, strict=True)] for rows in zip(said, truth, strict=True)]
    made, outcome = outcome_of(said, truth)
    scores = made.scores(outcome)
    for name in ("f1", "precision", "recall"):
        assert scores[f"entity_{name}"] == pytest.approx(getattr(metrics, f"{name}_score")(truth, said))
    assert scores["word_accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))


def test_tags_that_mark_no_entities_have_an_accuracy_alone() -> None:
    made = tagger(["noun", "verb"])
    outcome = made.outcome({"log_probabilities": np.log([[[0.9, 0.1], [0.8, 0.2]]])}, np.array([[0, 1]]))
    assert made.scores(outcome) == {"word_accuracy": 0.5}


def test_the_loss_and_the_table_by_loops() -> None:
    made, x = tagger(), torch.randint(5, 300, (2, 8))
    words, target = torch.tensor([[1, 3, -1], [2, -1, -1]]), torch.tensor([[1, 0, 3], [4, -1, -1]])
    spelled = torch.tensor([list(b"a\nbc\nd"), list(b"e" + b"\n" * 5)])
    meta = {"words": words, "spelled": spelled, "count": torch.tensor([3, 1])}
    view = View(x, target=target, meta=meta)
    log = made.network(view).log_softmax(2)
    loss = -(log[0, 1, 1] + log[0, 3, 0] + log[1, 2, 4]) / 3
    assert made([view], 0.0)["cross_entropy"].item() == pytest.approx(loss.item(), rel=1e-5)
    predictions = made.predict(view)
    assert predictions["log_probabilities"][0, 2].argmax() == 0, "a word without a place is outside"
    assert made.judge(predictions, target.numpy()) == pytest.approx((loss.item() * 3 + 20) / 4, rel=1e-4)
    table = made.table({**predictions, "row": np.array([5, 9]), "name": np.array(["p", "q"], object)}).to_pydict()
    assert (table["row"], table["name"], table["word"]) == ([5, 5, 5, 9], ["p", "p", "p", "q"], [0, 1, 2, 0])
    assert table["token"] == ["a", "bc", "d", "e"]
    assert table["tag"][2] == "O"


@pytest.mark.parametrize("tags", [None, [], ["O"], [1, 2], "OB"])
def test_facts_of_a_strange_file_are_refused(tags: Any) -> None:
    with pytest.raises(UserError, match="has no tags"):
        tagger(tags)


def test_tags_that_do_not_fit_their_words_are_said() -> None:
    with pytest.raises(UserError, match=r"the data have no tags to learn: a \(has 2 words but 1 tags; one tag per word is required\)"):
        module.learn([{"tokens": ["a", "b"], "tags": ["O"], "name": "a"}], {})
    assert module.learn([{"tokens": ["a", "b"], "tags": ["B-x", "O"]}], {}) == {"tags": ["O", "B-x"]}
