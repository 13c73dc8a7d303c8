"""Transcription: the loss by loops, padding, units, frames of a token, error rates against jiwer, and what is said of transcripts."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from untaught.core import Options, Preprocessor, UserError, View
from untaught.downstream.transcribe import TEXT, Outputs, Transcribe
from untaught.encoders.conv_mel import ConvMel
from untaught.encoders.patch_series import PatchSeries
from untaught.evaluation.error_rates import edits, error_counts
from untaught.modalities.audio import AUDIO
from untaught.modalities.audio.transcripts import text_of
from untaught.ops.ctc import ctc_loss, greedy

FACTS: Options = {"symbols": ["a", "b"], "vocabulary": ["a", "b", "x"]}


def task(facts: Options = FACTS, **knobs: Any) -> Transcribe:
    torch.manual_seed(0)
    encoder = PatchSeries(channels=4, length=40, width=8, depth=1, heads=2, patch=4)
    return Transcribe(encoder, facts, **{"frames": 1, **knobs}).eval()


def spectrogram(*frames: int, seed: int = 0) -> View:
    x = torch.randn(len(frames), max(frames), 4, generator=torch.Generator().manual_seed(seed))
    return View(x, torch.arange(max(frames)) < torch.tensor(frames).unsqueeze(1))


def stored(*texts: str, samples: int = 4000, longest: int = 40) -> Any:
    """A store of recordings of `samples` each, with these transcripts."""
    encoded = [np.frombuffer(text_of(text).encode(), np.uint8) for text in texts]
    offsets = {TEXT: np.cumsum([0, *map(len, encoded)]), "wave": samples * np.arange(len(texts) + 1)}

    class Store(SimpleNamespace):
        def __len__(self) -> int:
            return len(texts)

    return Store(columns={TEXT: np.concatenate(encoded)}, offsets=offsets)


def targets(*texts: str, **knobs: Any) -> Any:
    return Transcribe.targets(stored(*texts), AUDIO, "a table", knobs)


# ---------------------------------------------------------------------------------------------------------- the loss


def test_the_loss_by_loops_over_all_paths() -> None:
    made, view = task(), spectrogram(20, 12, 8)
    view.target = torch.tensor([[0, 1, 1], [2, 1, -1], [0, 0, -1]])  # the second has a symbol unseen in training; the third doesn't fit
    log, length = made.network(view)
    assert length.tolist() == [5, 3, 2]
    total = 0.0
    for row, symbols in enumerate([(1, 2, 2), (2,)]):
        chance = torch.zeros(())
        for path in itertools.product(range(3), repeat=int(length[row])):
            if tuple(symbol for symbol, _ in itertools.groupby(path) if symbol) == symbols:
                chance = chance + log[row, range(len(path)), path].sum().exp()
        total -= float(chance.detach().log())
    terms = made([view], 0.0)
    assert terms["ctc"].item() == pytest.approx(total / 4, rel=1e-5), "per symbol of the transcripts that fit"
    assert terms["train_unaligned"].item() == pytest.approx(1 / 3)
    predictions = made.predict(view)
    assert made.judge(predictions, view.target.numpy()) == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("encoder", ["patch_series", "conv_mel"])
def test_other_padding_is_the_same_loss_and_the_same_gradients(encoder: str) -> None:
    torch.manual_seed(0)
    patches = encoder == "patch_series"
    network = PatchSeries(channels=16, length=80, width=8, depth=1, heads=2, patch=8) if patches else ConvMel(channels=16, width=2)
    made = Transcribe(network, FACTS, frames=2)
    x, count = torch.randn(2, 48, 16), torch.tensor([48, 32])
    valid = torch.arange(48) < count.unsqueeze(1)
    found = []
    for behind, filling, padded in ((0, 0.0, -1), (24, 9.0, -1)):
        longer = torch.cat([torch.where(valid.unsqueeze(2), x, filling), torch.full((2, behind, 16), filling)], 1)
        target = torch.cat([torch.tensor([[0, 1, 0], [1, -1, -1]]), torch.full((2, behind), padded)], 1)
        view = View(longer, torch.arange(48 + behind) < count.unsqueeze(1), target=target)
        made.zero_grad()
        loss = made([view], 0.0)["ctc"]
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in made.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_head_begins_with_the_same_probabilities_everywhere() -> None:
    log, _ = Outputs(8, 5, 2)((torch.randn(2, 6, 8), None))
    torch.testing.assert_close(log.exp(), torch.tensor([0.8, 0.05, 0.05, 0.05, 0.05]).expand(2, 12, 5))


def test_tokens_are_normalised_over_what_is_valid() -> None:
    torch.manual_seed(0)
    head, tokens, valid = Outputs(8, 3, 1), 5 + 3 * torch.randn(2, 6, 8), torch.arange(6) < torch.tensor([[6], [2]])
    nn.init.normal_(head.scores.weight)
    rows = torch.cat([tokens[0], tokens[1, :2]])
    normal = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    expected = head.scores(normal).log_softmax(1)
    padded = torch.where(valid.unsqueeze(2), tokens, 1e6)
    torch.testing.assert_close(head((padded, valid))[0][valid], expected)
    torch.testing.assert_close(head.norm.running_mean, 0.1 * rows.mean(0))
    used = head.eval()((padded, valid))[0][1, 1]  # by moving averages
    mean, var = 0.1 * rows.mean(0), 0.9 + 0.1 * rows.var(0)
    torch.testing.assert_close(used, head.scores((tokens[1, 1] - mean) / (var + 1e-5).sqrt()).log_softmax(0))
    assert head.train()((tokens[:1, :1], None))[0].isfinite().all(), "one token alone"


def test_the_head_leaves_the_stage_of_blanks_soon() -> None:
    """Its tokens have a large mean in common, as those of encoders do, and what they say is small beside it."""
    torch.manual_seed(0)
    symbols = torch.randint(1, 4, (32, 4))
    shown = torch.stack([symbols, torch.zeros_like(symbols)], 2).flatten(1)  # a silent token behind each
    tokens = 3 * torch.randn(16) + 0.1 * F.one_hot(shown, 4).float() @ torch.randn(4, 16)
    head = Outputs(16, 4, 1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(60):
        log, length = head((tokens, None))
        optimizer.zero_grad()
        ctc_loss(log, length, symbols).mean().backward()
        optimizer.step()
    found = head.eval()((tokens, None))[0].argmax(2)
    assert (found == shown).float().mean() > 0.95


def test_the_head_puts_out_several_frames_for_a_token() -> None:
    torch.manual_seed(0)
    head = Outputs(8, 3, 4)
    tokens, valid = torch.randn(2, 5, 8), torch.arange(5) < torch.tensor([[5], [2]])
    log, length = head((tokens, valid))
    assert log.shape == (2, 20, 3)
    assert length.tolist() == [20, 8]
    assert head((tokens, None))[1].tolist() == [20, 20]
    nn.init.normal_(head.scores.weight)
    log, _ = head.eval()((tokens, valid))
    torch.testing.assert_close(log[0, 4:8], head.scores(head.norm(tokens[0, 1:2])[0]).view(4, 3).log_softmax(1))


# ------------------------------------------------------------------------------------------------------- the targets


def test_units_are_those_of_the_training_part() -> None:
    found = targets("ab b", " b  a ", "xa", "")
    assert found.known.tolist() == [True, True, True, False]
    made = task()
    batch = {"index": torch.tensor([2, 0]), TEXT: torch.zeros(2, 6)}
    view = found.follow(batch, spectrogram(40, 40))
    vocabulary = found.facts["vocabulary"]
    assert ["".join(vocabulary[n] for n in row if n >= 0) for row in view.target.tolist()] == ["xa", "ab b"]
    learned = Transcribe.learned(found, np.array([0, 1]), made.network.encoder, spectrogram(40))
    assert learned["symbols"] == [" ", "a", "b"]
    (said,) = Transcribe.check_targets(found, np.array([0, 1]), np.array([2]), "recordings")
    assert said == "1 symbols in 1 of 1 recordings to test are unseen in training ('x'): they count as errors"
    assert Transcribe.check_targets(found, np.array([0, 2]), np.array([1]), "recordings") == []
    words = targets("ab b", "b a", units="words")
    assert words.facts["vocabulary"] == ["a", "ab", "b"]
    assert words.about == "4 words, 3 different; "
    with pytest.raises(UserError, match="all 2 transcripts are empty; name the column with --label"):
        targets("", "  ")
    with pytest.raises(UserError, match="no training recordings with a transcript"):
        Transcribe.check_targets(found, np.array([], int), None, "recordings")


def test_a_token_has_as_many_frames_as_the_transcripts_need() -> None:
    found = targets("ab" * 4, "aab", "b")
    made = task()
    tokens = spectrogram(40)  # 10 tokens for 8 symbols
    assert Transcribe.learned(found, np.arange(3), made.network.encoder, tokens)["frames"] == 1
    longer = targets("ab" * 40, "aab", "b")
    learned = Transcribe.learned(longer, np.arange(3), made.network.encoder, tokens)
    assert learned["frames"] >= 8
    assert learned["unaligned"] == (0, 3)
    few = targets("ab" * 40, "aab", "b", frames=1)
    learned = Transcribe.learned(few, np.arange(3), made.network.encoder, tokens)
    assert learned["unaligned"] == (1, 3)
    (_, said) = task({**FACTS, "unaligned": (1, 3)}).remarks()
    assert said.startswith("output    about 1 of 3 transcripts to learn from need more frames than their recordings have")
    assert len(task().remarks()) == 1


def test_facts_that_cant_be_are_refused() -> None:
    made = task(frames=3, units="words", beam=4)
    assert made.facts == {"symbols": ["a", "b"], "units": "words", "beam": 4, "frames": 3}
    again = Transcribe.built(made.network.encoder, made.facts)
    assert isinstance(again, Transcribe)
    assert (again.units, again.beam, again.frames) == ("words", 4, 3)
    for wrong in ({}, {"symbols": []}, {"symbols": ["a", ""]}, {"symbols": [1]}):
        with pytest.raises(UserError, match="no symbols"):
            task(wrong)
    with pytest.raises(UserError, match="frames=0: must be from 1 to 64"):
        task(frames=0)


# ------------------------------------------------------------------------------------------------------------- errors


def edits_by_loops(truth: Any, said: Any) -> int:
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(said) + 1)] for i in range(len(truth) + 1)]
    for i in range(1, len(truth) + 1):
        for j in range(1, len(said) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (truth[i - 1] != said[j - 1]))
    return table[-1][-1]


def sentences(count: int) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(0)
    draw = lambda least: " ".join(random.choice(["one", "two", "too", "three", "on"], random.integers(least, 7)))  # noqa: E731
    return [draw(1) for _ in range(count)], [draw(0) for _ in range(count)]


def test_edits_by_loops() -> None:
    truth, said = sentences(100)
    for one, other in zip(truth, said, strict=True):
        assert error_counts(one, other) == (
            edits_by_loops(one.split(), other.split()),
            len(one.split()),
            edits_by_loops(one, other),
            len(one),
        )
    assert edits("", "abc") == edits("abc", "") == 3
    assert edits("", "") == 0


def test_error_rates_are_jiwers() -> None:
    jiwer = pytest.importorskip("jiwer")
    truth, said = sentences(60)
    counts = np.array([error_counts(*pair) for pair in zip(truth, said, strict=True)])
    scores = Transcribe.scores(np.column_stack([counts, np.ones((60, 2))]))
    assert scores["wer"] == pytest.approx(jiwer.wer(truth, said))
    assert scores["cer"] == pytest.approx(jiwer.cer(truth, said))


def predicted(made: Transcribe, *texts: str) -> Any:
    log = torch.full((len(texts), 8, 1 + len(made.symbols)), -9.0)
    for row, text in enumerate(texts):
        path = [place for one in text for place in (made.symbols.index(one) + 1, 0)]
        log[row, range(8), [*path, *[0] * (8 - len(path))]] = 0
    length = torch.full((len(texts),), 8)
    return {"symbols": greedy(log, length).numpy(), "blanks": np.array([8 - len(t) for t in texts]), "frames": length.numpy()}


def test_outcomes_and_tables() -> None:
    made = task({"symbols": [" ", "a", "b"], "vocabulary": [" ", "a", "b", "x"]})
    truth = np.array([[1, 0, 2, -1], [3, 1, -1, -1]])  # "a b", "xa"
    predictions = predicted(made, "a b", "a")
    outcome = made.outcome(predictions, truth)
    assert outcome.tolist() == [[0, 2, 0, 3, 5, 8], [1, 1, 1, 2, 7, 8]]
    assert made.scores(outcome) == {"wer": 1 / 3, "cer": 1 / 5, "blank_share": 0.75}
    beside = made.beside(predictions, truth, ["p.wav", "q.wav"]).to_pydict()
    assert beside == {"file": ["p.wav", "q.wav"], "transcript": ["a b", "xa"], "prediction": ["a b", "a"], "word_errors": [0, 1]}
    own = {**predictions, "confidence": np.array([0.5, 1.0]), "row": np.array([5, 9]), "name": np.array(["p", "q"], object)}
    assert made.table(own).to_pydict() == {"row": [5, 9], "name": ["p", "q"], "transcript": ["a b", "a"], "confidence": [0.5, 1.0]}
    words = task({"symbols": ["a", "b"], "vocabulary": ["a", "b"]}, units="words")
    assert words.texts({"symbols": np.array([[1, 2, 0], [0, 0, 0]])}) == ["a b", ""]


def test_more_insertions_than_words_are_above_one() -> None:
    outcome = np.array([[5, 2, 5, 2, 0, 8], [4, 2, 5, 2, 0, 8]])
    measured = Transcribe.metrics([outcome])["wer"]
    assert measured.mean == 9 / 4
    assert measured.interval[1] >= measured.mean


def test_all_blank_is_a_verdict() -> None:
    said = Transcribe.verdict(np.array([[2, 2, 9, 9, 97, 100], [1, 1, 3, 3, 97, 100]]))
    assert said.startswith("97% of frames are blank and WER is 100%: the network has collapsed to blanks")
    assert "steps=" in said
    assert not Transcribe.verdict(np.array([[1, 2, 9, 9, 97, 100]])), "sparse speech is mostly blank"
    assert not Transcribe.verdict(np.array([[2, 2, 9, 9, 50, 100]]))


@pytest.mark.parametrize("beam", [1, 5])
def test_outputs_that_are_not_finite_are_seen(beam: int) -> None:
    made = task(beam=beam)
    with torch.no_grad():
        next(made.network.head.parameters()).fill_(float("nan"))
    assert not np.isfinite(made.predict(spectrogram(20))["confidence"]).any()


# -------------------------------------------------------------------------------------------------------- the reading


def test_recordings_are_not_cut_where_their_transcript_is_learned() -> None:
    prep = Preprocessor(AUDIO, {"rate": 8000, "segment": 30.0, "ragged": ["wave"]})
    reading = Transcribe.reading(prep)
    assert reading.settings["segment"] == 3600
    assert reading.ragged == ("wave", TEXT)
    record = {"audio": np.random.default_rng(0).normal(size=9000).astype(np.float32), "transcript": " Ça  va\n"}
    assert bytes(reading.decode(record)[TEXT]).decode() == "Ça va"
    for missing in (None, "", float("nan"), "  "):
        assert len(reading.decode({**record, "transcript": missing})[TEXT]) == 0
    assert bytes(reading.decode({**record, "transcript": 7})[TEXT]).decode() == "7"
    assert TEXT not in Transcribe.reading(prep, labelled=False).decode({"audio": record["audio"]})
