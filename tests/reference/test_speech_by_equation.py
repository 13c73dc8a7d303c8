"""wav2vec 2.0, HuBERT and CPC on sequences against the papers' equations in plain loops, and against Wav2Vec2ForPreTraining."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from untaught.core import Facts, UserError, View
from untaught.encoders.patch_series import PatchSeries, patch_causal
from untaught.encoders.speech import wav2vec2
from untaught.methods import CPC, HuBERT, Wav2Vec2
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.discrete_codes import diversity, gumbel, straight_through
from untaught.ops.framing import valid_frames
from untaught.ops.kmeans import kmeans, nearest
from untaught.ops.masking import first
from untaught.ops.sampled_negatives import other_places, sampled_info_nce

ROWS, GROUPS, CODES, NEGATIVES = 3, 2, 5, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def masked_view() -> View:
    """Three recordings of 30, 18 and 9 frames, with masked spans."""
    encoder_patch, window = 160, 200
    valid = torch.arange(30 * encoder_patch + 40) < torch.tensor([[4840], [2950], [1500]])
    x = torch.where(valid, torch.randn(ROWS, valid.shape[1]), 0.0)
    frames = valid_frames(valid, window, encoder_patch)
    mask = torch.zeros_like(frames)
    mask[0, 3:9], mask[0, 20:24], mask[1, 2:12], mask[2, 4:7] = True, True, True, True
    meta = {"index": torch.tensor([4, 0, 9]), "places": first(mask, 12)}
    target = torch.randn(*frames.shape, 6)
    return View(x, valid, mask & frames, target, frames.unsqueeze(2).expand_as(target), meta)


def built(cls: Any, **knobs: Any) -> Any:
    view = masked_view()
    encoder = wav2vec2(rate=8000, width=32, depth=2, heads=2, channels=8)
    return cls(encoder, Facts(rows=ROWS, views={cls.views[0]: view}), **knobs), view


# ---------------------------------------------------------------------------------------------------------- wav2vec 2.0


@pytest.mark.parametrize("distinct", [False, True])
def test_wav2vec2_is_equations_3_and_4(distinct: bool) -> None:
    method, view = built(Wav2Vec2, groups=GROUPS, codes=CODES, code_width=8, width=6, negatives=NEGATIVES, distinct=distinct)
    terms = method([view], 0.3)
    local = method.encoder.local(view)
    hidden = torch.where(view.mask.unsqueeze(2), method.mask, local.tokens)
    context = method.predicted(method.encoder.context(hidden, local.valid).tokens)
    rng = CounterRNG(0, 0, view.meta["index"], 0)
    noise = gumbel(rng.uniform(12, GROUPS, CODES))
    drawn = rng.uniform(12, NEGATIVES)
    scores = method.codes(local.normed, None)
    loss, number, chances = 0.0, 0, torch.zeros(GROUPS, CODES)
    for b in range(ROWS):
        places = view.mask[b].nonzero().flatten().tolist()
        codes = [[int((scores[b, t, g] + noise[b, m, g]).argmax()) for g in range(GROUPS)] for m, t in enumerate(places)]
        quantised = [method.target(torch.cat([method.vectors[g, code] for g, code in enumerate(own)])) for own in codes]
        for m, t in enumerate(places):
            others = [math.floor(float(u) * (len(places) - 1)) for u in drawn[b, m]]
            others = [other + (other >= m) for other in others]
            assert m not in others
            if distinct:
                others = [other for other in others if codes[other] != codes[m]]
            cosine = [F.cosine_similarity(context[b, t], quantised[i], dim=0).item() / 0.1 for i in (m, *others)]
            loss += math.log(sum(math.exp(c) for c in cosine)) - cosine[0]
            number += 1
            chances += scores[b, t].softmax(-1)
    entropies = [-sum(p * math.log(p) for p in (chances[g] / number).tolist()) for g in range(GROUPS)]
    assert number == int(view.mask.sum())
    assert terms["contrastive"].item() == pytest.approx(loss / number, rel=1e-4)
    want = 0.1 * (GROUPS * CODES - sum(map(math.exp, entropies))) / (GROUPS * CODES)
    assert terms["diversity"].item() == pytest.approx(want, rel=1e-4)
    square = [local.raw[b, t].square().mean().item() for b in range(ROWS) for t in range(30) if local.valid[b, t]]
    assert terms["penalty"].item() == pytest.approx(10 * sum(square) / len(square), rel=1e-4)


def twin(method: Any) -> Wav2Vec2ForPreTraining:
    own = method.encoder.model.config.to_dict()
    sizes: dict[str, Any] = {
        "num_codevectors_per_group": CODES,
        "num_codevector_groups": GROUPS,
        "codevector_dim": 8,
        "proj_codevector_dim": 6,
        "num_negatives": NEGATIVES,
        "feat_quantizer_dropout": 0.0,
        "mask_time_prob": 0.5,
    }
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**{**own, **sizes}))
    with torch.no_grad():
        model.wav2vec2.load_state_dict({**method.encoder.model.state_dict(), "masked_spec_embed": method.mask})
        model.quantizer.weight_proj.load_state_dict(method.codes.linear.state_dict())
        model.quantizer.codevectors.copy_(method.vectors.flatten(0, 1)[None])
        model.project_hid.load_state_dict(method.predicted.state_dict())
        model.project_q.load_state_dict(method.target.state_dict())
    return model


@pytest.mark.parametrize("training", [False, True])
def test_wav2vec2_is_transformers(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss and the same gradients, on the same masks, negatives and noise; theirs are sums, ours means."""
    method, view = built(
        Wav2Vec2,
        groups=GROUPS,
        codes=CODES,
        code_width=8,
        width=6,
        negatives=NEGATIVES,
        distinct=True,
        gradient=1.0,
        penalty=0.0,
    )
    method.train(training)
    model = twin(method).train(training)
    rng = CounterRNG(0, 0, view.meta["index"], 0)
    noise, at = gumbel(rng.uniform(12, GROUPS, CODES)), view.meta["places"]
    if not training:
        rng = CounterRNG(0, 0, view.meta["index"], 0)  # in eval mode there is no noise, and negatives are drawn first
    places = other_places(rng.uniform(12, NEGATIVES), view.mask.sum(1))
    negatives = torch.zeros(ROWS, 30, NEGATIVES, dtype=torch.long)
    noises = torch.zeros(ROWS, 30, GROUPS, CODES)
    for b in range(ROWS):
        for m in range(int(view.mask[b].sum())):
            negatives[b, at[b, m]] = at[b, places[b, m]] + 30 * b
            noises[b, at[b, m]] = noise[b, m]

    def relaxed(scores: Tensor, tau: float, hard: bool) -> Tensor:
        return straight_through(scores + noises.view(-1, CODES), tau)

    monkeypatch.setattr("torch.nn.functional.gumbel_softmax", relaxed)
    model.set_gumbel_temperature(method.relaxed(0.3))
    found = model(view.x, attention_mask=view.valid.long(), mask_time_indices=view.mask, sampled_negative_indices=negatives)
    terms = method([view], 0.3)
    count = view.mask.sum()
    torch.testing.assert_close(terms["contrastive"], found.contrastive_loss / count, rtol=1e-4, atol=1e-5)
    if not training:  # there the perplexity in eval mode is that of the chosen codes
        torch.testing.assert_close(terms["code_perplexity"], found.codevector_perplexity, rtol=1e-4, atol=1e-4)
        return
    torch.testing.assert_close(terms["diversity"], 0.1 * found.diversity_loss / count, rtol=1e-4, atol=1e-5)
    (found.loss / count).backward()
    (terms["contrastive"] + terms["diversity"]).backward()
    theirs = {name: p.grad for name, p in model.named_parameters()}
    pairs = {
        "quantizer.weight_proj.weight": method.codes.linear.weight,
        "quantizer.codevectors": method.vectors,
        "project_q.weight": method.target.weight,
        "wav2vec2.masked_spec_embed": method.mask,
        **{f"wav2vec2.{name}": p for name, p in method.encoder.model.named_parameters()},
    }
    for name, own in pairs.items():
        want = theirs[name]
        assert want is not None
        assert own.grad is not None
        torch.testing.assert_close(own.grad.view_as(want), want, rtol=1e-3, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}")


def test_the_relaxation_falls_as_the_papers_does() -> None:
    """By 0.999995 in each of 400,000 updates, from 2 to 0.5."""
    method, _ = built(Wav2Vec2)
    for update in (0, 100_000, 200_000, 300_000, 400_000):
        assert method.relaxed(update / 400_000) == pytest.approx(max(2 * 0.999995**update, 0.5), rel=0.01)


def test_codes_are_chosen_exactly_with_the_gradient_of_the_softmax() -> None:
    scores = torch.randn(4, 6, requires_grad=True)
    chosen = straight_through(scores, 0.7)
    assert set(chosen.flatten().tolist()) == {0.0, 1.0}
    weight = torch.randn(4, 6)
    (got,) = torch.autograd.grad((chosen * weight).sum(), scores)
    (want,) = torch.autograd.grad(((scores / 0.7).softmax(-1) * weight).sum(), scores)
    torch.testing.assert_close(got, want)


def test_negatives_are_uniform_over_the_other_masked_places() -> None:
    drawn = other_places(CounterRNG(0, 0, torch.arange(40), 0).uniform(5, 400), torch.full((40,), 4))[:, :4]
    for m in range(4):
        shares = [float((drawn[:, m] == other).float().mean()) for other in range(5)]
        assert shares == pytest.approx([0 if other in (m, 4) else 1 / 3 for other in range(5)], abs=0.01)


def test_the_same_codes_everywhere_are_the_worst_choice_unless_negatives_must_be_distinct() -> None:
    """This is how training collapses: without negatives the loss is 0."""
    predicted, target = torch.randn(1, 6, 4), torch.ones(1, 6, 4)
    others, counted = other_places(torch.rand(1, 6, NEGATIVES), torch.tensor([6])), torch.ones(1, 6, dtype=torch.bool)
    same = torch.ones(1, 6, 6, dtype=torch.bool)
    assert sampled_info_nce(predicted, target, others, counted, 0.1)[0].item() == pytest.approx(math.log(NEGATIVES + 1))
    assert sampled_info_nce(predicted, target, others, counted, 0.1, same)[0].item() == pytest.approx(0, abs=1e-6)


def test_diversity_is_least_where_all_codes_are_used() -> None:
    counted = torch.ones(1, CODES, dtype=torch.bool)
    each = 50 * torch.eye(CODES).view(1, CODES, 1, CODES).expand(-1, -1, GROUPS, -1)
    assert diversity(each, counted).item() == pytest.approx(0, abs=1e-5)
    assert diversity(each[:, :1].expand(-1, CODES, -1, -1), counted).item() == pytest.approx(1 - 1 / CODES)


# ----------------------------------------------------------------------------------------------------------------- HuBERT


def clustered(**knobs: Any) -> tuple[Any, View]:
    method, view = built(HuBERT, **{"units": 4, "later_units": 3, "width": 6, **knobs})
    method.before_epoch(0, lambda what, place: (view.meta["index"], getattr(method, what)(view)))
    return method, view


@pytest.mark.parametrize("masked", [1.0, 0.7])
def test_hubert_is_equation_3(masked: float) -> None:
    method, view = clustered(masked=masked)
    terms = method([view], 0.0)
    local = method.encoder.local(view)
    hidden = torch.where(view.mask.unsqueeze(2), method.mask, local.tokens)  # type: ignore[union-attr]
    out = method.predicted(method.encoder.context(hidden, local.valid).tokens)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for b in range(ROWS):
        for t in range(30):
            if not local.valid[b, t]:
                continue
            described = (view.target[b, t] - method.first.mean) / method.first.deviation  # type: ignore[index]
            unit = min(range(4), key=lambda k: float((described - method.first.centroids[k]).square().sum()))
            powers = [math.exp(float(F.cosine_similarity(out[b, t], method.vectors[k], dim=0)) / 0.1) for k in range(4)]
            losses[bool(view.mask[b, t])].append(-math.log(powers[unit] / sum(powers)))  # type: ignore[index]
    assert terms["masked"].item() == pytest.approx(masked * sum(losses[True]) / len(losses[True]), rel=1e-4)
    if masked < 1:
        assert terms["unmasked"].item() == pytest.approx((1 - masked) * sum(losses[False]) / len(losses[False]), rel=1e-4)


def test_huberts_later_units_are_of_a_copys_layer_and_stay_while_the_encoder_moves() -> None:
    method, view = clustered()
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.mul_(1.1)
    layer = method.encoder.features(view, ("layers",)).layers[0]
    method.after_step(0.4)
    assert (method.now, method.taken) == (1, 0)
    method.after_step(0.5)
    method.before_epoch(1, lambda what, place: (view.meta["index"], getattr(method, what)(view)))  # type: ignore[index]
    assert (int(method.phase), int(method.copies)) == (2, 1)
    want = ((layer - method.later.mean) / method.later.deviation).unsqueeze(2) - method.later.centroids
    units, count = method.units_of(view)
    assert count == 3
    assert torch.equal(units[view.target_valid[:, :, 0]], want.square().sum(3).argmin(2)[view.target_valid[:, :, 0]])  # type: ignore[index]
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.mul_(1.1)
    assert torch.equal(method.units_of(view)[0], units)
    before = method.later.centroids.clone()
    method.before_epoch(2, pytest.fail)  # of which there is nothing new to cluster
    assert torch.equal(method.later.centroids, before)
    again, _ = built(HuBERT, units=4, later_units=3, width=6)
    again.load_state_dict(method.state_dict())
    assert (again.now, again.taken) == (2, 1)


def test_hubert_has_no_loss_before_the_first_clustering() -> None:
    method, view = built(HuBERT, units=4, later_units=3)
    assert method([view], 0.0)["masked"].isnan()


def test_kmeans_finds_what_lies_together() -> None:
    middle = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    x = middle.repeat_interleave(50, 0) + 0.5 * torch.randn(150, 2)
    centroids = kmeans(x, x[[3, 60, 140]], 10)
    torch.testing.assert_close(centroids, torch.stack([part.mean(0) for part in x.split(50)]))
    assert nearest(x, centroids).tolist() == [0] * 50 + [1] * 50 + [2] * 50
    from sklearn.cluster import KMeans

    found = KMeans(3, init=x[[3, 4, 60]].numpy(), n_init=1, max_iter=3, tol=0, algorithm="lloyd").fit(x.numpy())  # type: ignore[arg-type]
    torch.testing.assert_close(kmeans(x, x[[3, 4, 60]], 3), torch.from_numpy(found.cluster_centers_), rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------------------------------------------------- CPC


def sequences(more: int = 0) -> View:
    """Of 10, 6 and 3 tokens of two steps each."""
    valid = torch.arange(20 + 2 * more) < torch.tensor([[20], [12], [6]])
    return View(torch.where(valid.unsqueeze(2), torch.randn(3, 20, 4).repeat(1, 2, 1)[:, : 20 + 2 * more], 7.5), valid)


def cpc() -> Any:
    encoder = patch_causal(channels=4, length=20, width=16, depth=2, heads=2, patch=2)
    return CPC(encoder, Facts(rows=3, views={"light": sequences()}), rows=3, width=5)


def test_cpc_is_equation_4_of_tokens_some_steps_later() -> None:
    method, view = cpc(), sequences()
    tokens, valid = method.encoder.embed(view)
    context, target = method.encoder.context(tokens, valid).tokens, method.target(tokens)
    keys = [(b, t) for b in range(3) for t in range(10) if valid[b, t]]
    means = []
    for ahead, prediction in enumerate(method.predictions, 1):
        losses = []
        for b, t in keys:
            if (b, t + ahead) in keys:
                scores = {key: 0.1 * (prediction(context[b, t]) @ target[key]).item() for key in keys}
                losses.append(math.log(sum(map(math.exp, scores.values()))) - scores[b, t + ahead])
        means.append(sum(losses) / len(losses))
    assert method([view], 0.0)["info_nce"].item() == pytest.approx(sum(means) / 3, rel=1e-4)


def test_padding_does_not_change_cpc() -> None:
    method = cpc()
    view = sequences()
    wide = View(F.pad(view.x, (0, 0, 0, 6), value=7.5), F.pad(view.valid, (0, 6)))
    torch.testing.assert_close(method([wide], 0.0)["info_nce"], method([view], 0.0)["info_nce"], rtol=1e-5, atol=1e-6)


def test_a_causal_encoder_of_patches_sees_nothing_that_comes_later() -> None:
    encoder = patch_causal(channels=4, length=20, width=16, depth=2, heads=2, patch=2).eval()
    x = torch.randn(2, 20, 4)
    want = encoder.features(View(x), ("tokens",)).tokens
    assert want is not None
    for t in range(1, 10):
        other = x.clone()
        other[:, 2 * t :] = 3.0
        found = encoder.features(View(other), ("tokens",)).tokens
        assert found is not None
        torch.testing.assert_close(found[:, :t], want[:, :t], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found[:, t:], want[:, t:], atol=1e-3)
    order = torch.tensor([3, 0, 2])
    tokens, _ = encoder.embed(View(x))
    some = encoder.context(tokens[:, order], at=order.expand(2, -1)).tokens
    again = encoder.context(tokens[:, [0, 2, 3]], at=torch.tensor([[0, 2, 3]] * 2)).tokens
    torch.testing.assert_close(some[:, [1, 2, 0]], again, atol=1e-5, rtol=1e-4)  # type: ignore[index]


def test_cpc_on_sequences_asks_for_a_causal_encoder() -> None:
    with pytest.raises(
        UserError, match=r"needs an encoder that offers tokens and causal; PatchSeries offers .*give --encoder patch_causal"
    ):
        CPC(PatchSeries(channels=4, length=20, patch=2), Facts(rows=3, views={"light": sequences()}))
