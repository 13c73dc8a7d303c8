"""SimSiam, iBOT, DINOv2, I-JEPA, data2vec and MSN against the papers' equations in plain loops, and against lightly's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Facts, Method, View
from untaught.encoders.plain import Plain
from untaught.encoders.timm import vit_mini
from untaught.methods.distillation.data2vec import Data2Vec
from untaught.methods.distillation.dinov2 import DINOv2
from untaught.methods.distillation.ibot import IBOT
from untaught.methods.distillation.ijepa import IJEPA
from untaught.methods.distillation.msn import MSN
from untaught.methods.distillation.simsiam import SimSiam
from untaught.ops.cross_view import cross_view_entropy, token_entropy
from untaught.ops.koleo import koleo
from untaught.ops.masking import first
from untaught.ops.self_distillation import ibot_tokens
from untaught.ops.sinkhorn import sinkhorn
from untaught.training.optim import optimizer_for, rate, set_rate

ROWS, SIDE, PATCH, TOKENS, KINDS = 4, 16, 4, 16, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def vit() -> Encoder:
    return vit_mini(size=SIDE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=2)


def crop(side: int = SIDE, share: float | None = None) -> View:
    """A crop, of which a share of the tokens is hidden."""
    view = View(torch.randn(ROWS, 3, side, side))
    if share is not None:
        view.mask = torch.rand(ROWS, TOKENS).argsort(1) < round(share * TOKENS)
        view.meta = {"places": first(view.mask, TOKENS // 2)}
    return view


def built(cls: type[Method], views: list[View], **knobs: Any) -> Any:
    make: Any = cls
    method = make(vit(), Facts(rows=ROWS, views=dict(zip(cls.views, views, strict=True))), **knobs)
    with torch.no_grad():  # a teacher that is not the student
        for name, p in method.named_parameters():
            if name.startswith("teacher"):
                p.mul_(1.2)
    return method


def softmax(values: Tensor, temperature: float) -> list[float]:
    powers = [math.exp(float(v) / temperature) for v in values]
    return [power / sum(powers) for power in powers]


def entropy(target: list[float], said: list[float]) -> float:
    return -sum(t * math.log(s) for t, s in zip(target, said, strict=True))


# ------------------------------------------------------------------------------------------------------------- SimSiam


def simsiam(**knobs: int) -> SimSiam:
    encoder = Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8)), View(torch.zeros(2, 3, 4, 4)))
    return SimSiam(encoder, Facts(rows=ROWS), **knobs)


def test_simsiam_is_algorithm_1() -> None:
    method = simsiam().eval()
    z = [torch.randn(ROWS, 8), torch.randn(ROWS, 8)]
    p, total = [method.predictor(one) for one in z], 0.0
    for i in range(ROWS):
        for said, target in ((p[0][i], z[1][i]), (p[1][i], z[0][i])):
            total -= ((said / said.norm()) @ (target / target.norm())).item() / 2 / ROWS
    assert method.objective(z, 0.0)["distance"].item() == pytest.approx(total, rel=1e-5)


def test_simsiam_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    method = simsiam().eval()
    a, b = torch.randn(ROWS, 8), torch.randn(ROWS, 8)
    want = (loss(method.predictor(a), b) + loss(method.predictor(b), a)) / 2
    torch.testing.assert_close(method.objective([a, b], 0.0)["distance"], want)


def test_no_gradient_flows_through_simsiams_target() -> None:
    method = simsiam()
    for layer in method.predictor:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)  # nothing comes back through the prediction
    z = [torch.randn(ROWS, 8, requires_grad=True), torch.randn(ROWS, 8, requires_grad=True)]
    method.objective(z, 0.0)["distance"].backward()
    assert all(one.grad is not None and not one.grad.any() for one in z)


def test_simsiams_heads_are_the_papers() -> None:
    method = simsiam(width=16)
    kinds = [type(part).__name__ for part in method.projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert list(method.projector[-1].parameters()) == []
    assert [(m.in_features, m.out_features) for m in method.predictor if isinstance(m, nn.Linear)] == [(16, 4), (4, 16)]


def test_simsiams_predictor_keeps_its_rate() -> None:
    method = simsiam()
    optimizer = optimizer_for(method, TrainConfig(lr=0.1, optimizer="sgd"))
    set_rate(optimizer, 0.1, rate("cosine", 0.0, 0.9))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    later = 0.1 * (1 + math.cos(0.9 * math.pi)) / 2
    for name, parameter in method.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if name.startswith("predictor.") else later), name


# ------------------------------------------------------------------------------------------------------------ the terms


def test_cross_view_entropy_is_the_mean_of_pairs_of_different_views() -> None:
    log_said, target = torch.randn(4, ROWS, KINDS).log_softmax(-1), torch.randn(2, ROWS, KINDS).softmax(-1)
    pairs = [
        entropy(target[t, i].tolist(), log_said[s, i].exp().tolist()) for t in range(2) for s in range(4) if s != t for i in range(ROWS)
    ]
    assert cross_view_entropy(log_said, target).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_token_entropy_is_equation_3_of_ibot() -> None:
    log_said, target = torch.randn(ROWS, 5, KINDS).log_softmax(-1), torch.randn(ROWS, 5, KINDS).softmax(-1)
    counted, total = torch.rand(ROWS, 5) < 0.5, 0.0
    counted[0] = False
    for i in range(ROWS):
        own = [entropy(target[i, n].tolist(), log_said[i, n].exp().tolist()) for n in range(5) if counted[i, n]]
        total += sum(own) / max(len(own), 1) / ROWS
    assert token_entropy(log_said, target, counted).item() == pytest.approx(total, rel=1e-5)


# ---------------------------------------------------------------------------------------------------- iBOT and DINOv2


def crops(cls: type[Method]) -> list[View]:
    return [crop(share=0.3), crop(share=0.4), *(crop(8) for _ in cls.views[2:])]


SMALL: dict[str, Any] = {"prototypes": KINDS, "hidden": 8, "bottleneck": 4}


def passes(method: Any, views: list[View], heads: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What student and teacher say of each view (S,B,K) and (T,B,K), and of the tokens of the large ones (T,B,N,K)."""
    head, token_head = (getattr(method, name) for name in heads)
    teacher_head, teacher_token_head = (getattr(method, f"teacher_{name}") for name in heads)
    said, taught, said_tokens, taught_tokens = [], [], [], []
    for view in views[:2]:
        tokens, _ = method.encoder.embed(view)
        assert view.mask is not None
        masked = tokens.clone()
        for i, n in view.mask.nonzero():
            masked[i, n] = method.mask
        seen = method.encoder.context(masked, want=("pooled", "tokens"))
        whole = method.teacher_encoder.network.features(view, want=("pooled", "tokens"))
        said.append(head(seen.pooled))
        taught.append(teacher_head(whole.pooled))
        said_tokens.append(token_head(seen.tokens.flatten(0, 1)).unflatten(0, (ROWS, TOKENS)))
        taught_tokens.append(teacher_token_head(whole.tokens.flatten(0, 1)).unflatten(0, (ROWS, TOKENS)))
    said += [head(method.encoder(view)) for view in views[2:]]
    return torch.stack(said), torch.stack(taught), torch.stack(said_tokens), torch.stack(taught_tokens)


def test_ibot_is_dinos_term_and_that_of_hidden_tokens() -> None:
    views = crops(IBOT)
    method = built(IBOT, views, **SMALL, teacher_temperature=(0.04, 0.04)).eval()
    method.centre.copy_(0.1 * torch.randn(2, KINDS))
    said, taught, said_tokens, taught_tokens = passes(method, views, ("head", "head"))
    pairs, tokens = [], 0.0
    for t in range(2):
        for i in range(ROWS):
            target = softmax(taught[t, i] - method.centre[0], 0.04)
            pairs += [entropy(target, softmax(said[s, i], 0.1)) for s in range(len(views)) if s != t]
            hidden = views[t].mask
            assert hidden is not None
            own = [
                entropy(softmax(taught_tokens[t, i, n] - method.centre[1], 0.04), softmax(said_tokens[t, i, n], 0.1))
                for n in range(TOKENS)
                if hidden[i, n]
            ]
            tokens += sum(own) / len(own) / ROWS / 2
    found = method(views, 0.0)
    assert len(pairs) == ROWS * 2 * (len(views) - 1)
    assert found["cross_entropy"].item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-4)
    assert found["tokens"].item() == pytest.approx(tokens, rel=1e-4)


def test_ibots_token_term_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss").IBOTPatchLoss(output_dim=KINDS, teacher_temp=0.04)
    method = built(IBOT, crops(IBOT), **SMALL, teacher_temperature=(0.04, 0.04))
    hidden = torch.rand(ROWS, 4, 4) < 0.4
    said, taught = torch.randn(ROWS, TOKENS, KINDS), torch.randn(ROWS, TOKENS, KINDS)
    want = loss(taught[hidden.flatten(1)], said[hidden.flatten(1)], hidden)
    found = ibot_tokens(said, taught, hidden.flatten(1), method.centre[1], 0.1, 0.04)
    torch.testing.assert_close(found, want)


def test_ibots_centres_are_means_of_both_kinds_over_micro_batches() -> None:
    batches = [crops(IBOT), crops(IBOT)]
    method = built(IBOT, batches[0], **SMALL).eval()
    pooled, tokens = torch.zeros(KINDS), torch.zeros(KINDS)
    for views in batches:
        method(views, 0.0)
        _, taught, _, taught_tokens = passes(method, views, ("head", "head"))
        pooled += taught.mean((0, 1)) / 2
        for view, own in zip(views, taught_tokens, strict=False):  # of as many tokens as can be hidden, those first
            assert view.meta is not None
            for i in range(ROWS):
                tokens += own[i, view.meta["places"][i]].mean(0) / (2 * 2 * ROWS)
    assert (pooled - tokens).abs().max() > 0.05
    method.after_step(0.0)
    torch.testing.assert_close(method.centre, 0.1 * torch.stack([pooled, tokens]), atol=1e-6, rtol=1e-4)  # 0.9 of the zeros before


def test_dinov2_is_three_terms() -> None:
    views = crops(DINOv2)
    method = built(DINOv2, views, **SMALL, teacher_temperature=(0.06, 0.06), koleo=0.5).eval()
    said, taught, said_tokens, taught_tokens = passes(method, views, ("head", "token_head"))
    hidden = torch.stack([view.mask for view in views[:2]])  # type: ignore[misc]
    target = sinkhorn(taught.flatten(0, 1), 0.06).unflatten(0, (2, ROWS))
    target_tokens = sinkhorn(taught_tokens[hidden], 0.06)
    each = [entropy(t.tolist(), softmax(s, 0.1)) for t, s in zip(target_tokens, said_tokens[hidden], strict=True)]
    share = hidden.sum(2, keepdim=True).expand_as(hidden)[hidden] * 2 * ROWS
    found = method(views, 0.0)
    torch.testing.assert_close(found["cross_entropy"], cross_view_entropy((said / 0.1).log_softmax(-1), target))
    assert found["tokens"].item() == pytest.approx(sum(e / float(n) for e, n in zip(each, share, strict=True)), rel=1e-4)
    pooled = []
    for view in views[:2]:
        masked = torch.where(view.mask.unsqueeze(-1), method.mask, method.encoder.embed(view)[0])  # type: ignore[union-attr]
        pooled.append(method.encoder.context(masked, want=("pooled",)).pooled)
    torch.testing.assert_close(found["koleo"], 0.5 * (koleo(pooled[0]) + koleo(pooled[1])))


@pytest.mark.parametrize("cls", [IBOT, DINOv2])
def test_the_teacher_sharpens_less_as_the_training_warms_up(cls: type[Method]) -> None:
    views = crops(cls)
    method = built(cls, views, **SMALL, teacher_temperature=(0.04, 0.08), teacher_warmup=0.4).eval()
    fixed = built(cls, views, **SMALL).eval()
    fixed.load_state_dict(method.state_dict())
    for progress, temperature in ((0.0, 0.04), (0.2, 0.06), (0.4, 0.08), (1.0, 0.08)):
        fixed.teacher_temperature = temperature, temperature
        found, want = method(views, progress), fixed(views, 0.0)
        for term in want:
            torch.testing.assert_close(found[term], want[term])
    assert method(views, 0.0)["tokens"] != method(views, 1.0)["tokens"]


@pytest.mark.parametrize("cls", [IBOT, DINOv2])
def test_a_batch_without_hidden_tokens_has_no_token_term(cls: type[Method]) -> None:
    views = [crop(share=0.0), crop(share=0.0), *(crop(8) for _ in cls.views[2:])]
    method = built(cls, views, **SMALL)
    found = method(views, 0.0)
    assert found["tokens"].item() == 0
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(("cls", "heads"), [(IBOT, ["head"]), (DINOv2, ["head", "token_head"])])
def test_prototypes_of_all_heads_stand_still_at_first(cls: type[Method], heads: list[str]) -> None:
    views = crops(cls)
    method = built(cls, views, **SMALL, frozen=0.1)
    for progress, moves in ((0.0, False), (0.1, True)):
        torch.stack(list(method(views, progress).values())).sum().backward()
        method.before_step(progress)
        assert [getattr(method, head).prototypes.weight.grad is not None for head in heads] == [moves] * len(heads)


# ----------------------------------------------------------------------------------------------- I-JEPA and data2vec


def multiblock() -> View:
    """Three targets of one to three tokens, and a context of 7 tokens outside of them."""
    view, targets = crop(), torch.zeros(ROWS, 3, TOKENS, dtype=torch.bool)
    hidden = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    for i in range(ROWS):
        order = torch.randperm(TOKENS)
        for t in range(3):
            targets[i, t, order[3 * t : 3 * t + 1 + (i + t) % 3]] = True
        hidden[i, order[9:]] = False
    view.mask, view.meta = hidden, {"targets": targets}
    return view


def smooth_l1(a: Tensor, b: Tensor, beta: float) -> float:
    distances = [abs(float(x)) for x in a - b]
    return sum(d * d / 2 / beta if d < beta else d - beta / 2 for d in distances) / len(distances)


def normalised(token: Tensor) -> Tensor:
    return (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()


def test_ijepa_predicts_the_normalised_tokens_of_each_target() -> None:
    view = multiblock()
    method = built(IJEPA, [view]).eval()
    assert view.mask is not None
    assert view.meta is not None
    tokens = method.teacher_encoder.network.features(view, want=("tokens",)).tokens
    each = []
    for i in range(ROWS):
        at = (~view.mask[i]).nonzero().T
        context = method.encoder.context(method.encoder.embed(view[i : i + 1])[0][:, at[0]], at=at).tokens
        context = method.into(context) + method.positions[at]
        for target in view.meta["targets"][i]:
            places = target.nonzero()[:, 0]
            asked = (method.mask + method.positions[places])[None]
            said = method.out(method.predictor(torch.cat([context, asked], 1))[:, at.shape[1] :])[0]
            each += [smooth_l1(s, normalised(tokens[i, n]), 1.0) for s, n in zip(said, places, strict=True)]
    assert len(each) == int(view.meta["targets"].sum())
    assert method([view], 0.0)["distance"].item() == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_ijepas_student_never_sees_what_is_hidden() -> None:
    view = multiblock()
    method = built(IJEPA, [view]).eval()
    assert view.mask is not None
    assert view.meta is not None
    targets = view.meta["targets"]
    places = first(targets, 3)
    said = method.predict(view, places, targets.gather(2, places))
    pixels = view.mask.view(ROWS, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    changed = View(torch.where(pixels, torch.randn_like(view.x), view.x), mask=view.mask, meta=view.meta)
    torch.testing.assert_close(method.predict(changed, places, targets.gather(2, places)), said)


@pytest.mark.parametrize(("layers", "beta"), [(None, 2.0), (1, 0.1), (3, 0.5)])
def test_data2vec_is_smooth_l1_to_the_mean_of_the_top_layers(layers: int | None, beta: float) -> None:
    view = crop(share=0.5)
    method = built(Data2Vec, [view], layers=layers, beta=beta).eval()
    outputs: list[Tensor] = []
    for block in method.teacher_encoder.network.blocks:
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
    method.teacher_encoder.network(view)
    top = outputs[-(layers or 1) :]
    assert view.mask is not None
    masked = torch.where(view.mask.unsqueeze(-1), method.mask, method.encoder.embed(view)[0])
    said = method.head(method.encoder.context(masked).tokens)
    each = []
    for i in range(ROWS):
        for n in range(TOKENS):
            if view.mask[i, n]:
                target = torch.stack([normalised(layer[i, n]) for layer in top]).mean(0)
                each.append(smooth_l1(said[i, n], target, beta))
    assert method([view], 0.0)["distance"].item() == pytest.approx(sum(each) / len(each), rel=1e-4)


@pytest.mark.parametrize(("cls", "view", "end"), [(IJEPA, multiblock, 1.0), (Data2Vec, lambda: crop(share=0.5), 0.9998)])
def test_the_momentum_rises_linearly(cls: type[Method], view: Any, end: float) -> None:
    make: Any = cls
    method = make(vit(), Facts(rows=ROWS, views={cls.views[0]: view()}), momentum=0.5)
    behind = 1.0
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(behind)
    for progress in (0.0, 0.5, 1.0):
        method.after_step(progress)
        behind *= 0.5 + (end - 0.5) * progress
        for own, students in zip(method.teacher_encoder.parameters(), method.encoder.parameters(), strict=True):
            torch.testing.assert_close(students - own, torch.full_like(own, behind), atol=1e-4, rtol=1e-4)


def test_data2vecs_layers_are_those_of_the_encoder() -> None:
    with pytest.raises(ValueError, match="layers=4: must be from 1 to the encoder's 3"):
        built(Data2Vec, [crop(share=0.5)], layers=4)


# ----------------------------------------------------------------------------------------------------------------- MSN


def anchors() -> list[View]:
    return [crop(), crop(share=0.25), *(crop(8) for _ in range(10))]


def msn(views: list[View], **knobs: Any) -> Any:
    return built(MSN, views, **{"prototypes": KINDS, "hidden": 8, "width": 4, **knobs})


@pytest.mark.parametrize("iterations", [0, 3])
def test_msn_is_equation_1_with_sharpened_targets(iterations: int) -> None:
    method = msn(anchors(), sinkhorn=iterations, sharpening=0.25, me_max=0.5)
    said, target = 0.2 * torch.randn(3 * ROWS, KINDS), 0.2 * torch.randn(ROWS, KINDS)
    sharp = []
    for row in target:
        powers = [p**4 for p in softmax(row, 0.1)]
        sharp.append([power / sum(powers) for power in powers])
    if iterations:
        sharp = sinkhorn(torch.tensor(sharp).log(), 1.0, iterations).tolist()
    p = [softmax(row, 0.1) for row in said]
    mean = [sum(row[k] for row in p) / len(p) for k in range(KINDS)]
    found = method.terms(said, target)
    assert found["cross_entropy"].item() == pytest.approx(sum(entropy(sharp[i % ROWS], p[i]) for i in range(len(p))) / len(p), rel=1e-4)
    assert found["me_max"].item() == pytest.approx(0.5 * (math.log(KINDS) - entropy(mean, mean)), rel=1e-3)


def test_msn_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss").MSNLoss(temperature=0.1, sinkhorn_iterations=3, regularization_weight=1.0)
    method = msn(anchors())
    z, target, prototypes = torch.randn(3 * ROWS, 4), torch.randn(ROWS, 4), method.head.prototypes.weight.detach()
    found = method.terms(method.head.cosines(z), method.head.cosines(target))
    want = loss(F.normalize(z), F.normalize(target), prototypes=F.normalize(prototypes), target_sharpen_temperature=0.25)
    torch.testing.assert_close(found["cross_entropy"] + found["me_max"], want, atol=1e-4, rtol=1e-4)


def test_msns_anchors_are_a_masked_crop_and_small_ones_and_its_target_the_teachers() -> None:
    views = anchors()
    method = msn(views).eval()
    masked = views[1]
    assert masked.mask is not None
    rows = []
    for i in range(ROWS):
        at = (~masked.mask[i]).nonzero().T
        rows.append(method.encoder.context(method.encoder.embed(masked[i : i + 1])[0][:, at[0]], at=at, want=("pooled",)).pooled)
    said = [method.head(torch.cat(rows)), *(method.head(method.encoder(view)) for view in views[2:])]
    target = method.head.cosines(method.teacher_projector(method.teacher_encoder(views[0])))
    want, found = method.terms(torch.cat(said), target), method(views, 0.0)
    for name in ("cross_entropy", "me_max"):
        torch.testing.assert_close(found[name], want[name], atol=1e-4, rtol=1e-4)
