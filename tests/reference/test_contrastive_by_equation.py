"""Contrastive methods against the papers' equations in plain loops, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.plain import Plain
from untaught.methods.contrastive.cpc import CPC, cut
from untaught.methods.contrastive.dcl import DCL
from untaught.methods.contrastive.deep_infomax import DeepInfoMax
from untaught.methods.contrastive.margin import Margin
from untaught.methods.contrastive.moco import MoCo
from untaught.methods.contrastive.mocov3 import MoCoV3
from untaught.methods.contrastive.nnclr import NNCLR
from untaught.ops.contrastive import jensen_shannon, nearest

ROWS, WIDTH = 5, 4
FACTS = Facts(rows=ROWS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pair() -> list[Tensor]:
    return [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)]


def encoder() -> Encoder:
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6)), View(torch.zeros(2, 3, 4, 4)))


def views() -> list[View]:
    return [View(torch.randn(ROWS, 3, 4, 4)) for _ in range(2)]


def units(z: Tensor) -> list[Tensor]:
    return [row / row.norm() for row in z.detach().double()]


def log_softmax(scores: list[float], at: int) -> float:
    return scores[at] - math.log(sum(math.exp(score) for score in scores))


def layers(head: nn.Module) -> list[str]:
    return [type(part).__name__ for part in head.modules() if not isinstance(part, nn.Sequential)]


def widths(head: nn.Module) -> list[tuple[int, int]]:
    return [(part.in_features, part.out_features) for part in head.modules() if isinstance(part, nn.Linear)]


# -------------------------------------------------------------------------------------------------------------- margin


def test_margin_is_equation_4(pair: list[Tensor]) -> None:
    z, margin = [x for two in pair for x in two.double()], 2.5
    near, far = [], []
    for i in range(2 * ROWS):
        for j in range(2 * ROWS):
            if i == j:
                continue
            distance = math.sqrt(sum(float(z[i][k] - z[j][k]) ** 2 for k in range(WIDTH)))
            if i % ROWS == j % ROWS:
                near.append(distance**2 / 2)
            else:
                far.append(max(0.0, margin - distance) ** 2 / 2)
    found = Margin(encoder(), FACTS, margin=margin).objective(pair, 0.0)
    assert any(value > 0 for value in far)
    assert found["together"].item() == pytest.approx(sum(near) / len(near), rel=1e-5)
    assert found["apart"].item() == pytest.approx(sum(far) / len(far), rel=1e-5)


def test_views_that_are_equal_and_strangers_that_are_far_cost_nothing() -> None:
    z = 10 * torch.eye(ROWS)
    assert sum(Margin(encoder(), FACTS).objective([z, z.clone()], 0.0).values()) == 0


# ----------------------------------------------------------------------------------------------------------------- DCL


def test_dcl_is_equation_6(pair: list[Tensor]) -> None:
    z, temperature, total = [units(x) for x in pair], 0.3, 0.0
    for i in range(ROWS):
        for k in range(2):
            below = sum(math.exp(float(z[k][i] @ x[j]) / temperature) for x in z for j in range(ROWS) if j != i)
            total += -float(z[0][i] @ z[1][i]) / temperature + math.log(below)
    found = DCL(encoder(), FACTS, temperature=temperature).objective(pair, 0.0)["decoupled"]
    assert found.item() == pytest.approx(total / (2 * ROWS), rel=1e-5)


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("weighted", [False, True])
def test_dcl_is_lightlys(pair: list[Tensor], weighted: bool) -> None:
    module = pytest.importorskip("lightly.loss.dcl_loss")
    loss = module.DCLWLoss(temperature=0.2, sigma=0.4) if weighted else module.DCLLoss(temperature=0.2)
    ours, theirs = ([z.clone().requires_grad_() for z in pair] for _ in range(2))
    found = DCL(encoder(), FACTS, temperature=0.2, weighted=weighted, sigma=0.4).objective(ours, 0.0)["decoupled"]
    want = loss(*theirs)
    torch.testing.assert_close(found, want)
    found.backward()
    want.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- MoCo


def test_moco_is_equation_1_over_the_queue_alone() -> None:
    method, (shown, other) = MoCo(encoder(), FACTS, queue=7, width=WIDTH, temperature=0.3), views()
    with torch.no_grad():
        for parameter in method.key_encoder.parameters():
            parameter.mul_(1.5)
    query, key = units(method.head(method.encoder(shown))), units(method.key_head(method.key_encoder(other)))
    want = 0.0
    for i in range(ROWS):
        scores = [float(query[i] @ k) / 0.3 for k in (key[i], *method.queue.vectors.double())]
        want -= log_softmax(scores, 0) / ROWS
    assert method([shown, other], 0.0)["info_nce"].item() == pytest.approx(want, rel=1e-5)


def test_moco_and_its_queue_are_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2, memory_bank_size=(2 * ROWS, WIDTH))
    method = MoCo(encoder(), FACTS, queue=2 * ROWS, width=WIDTH)
    method.queue.vectors.copy_(loss.memory_bank.bank)
    for _ in range(3):
        query, key = (nn.functional.normalize(torch.randn(ROWS, WIDTH)) for _ in range(2))
        torch.testing.assert_close(method.info_nce(query, key), loss(query.requires_grad_(), key))
        method.pending = [key]
        method.after_step(0.0)
        torch.testing.assert_close(method.queue.vectors, loss.memory_bank.bank)


def test_mocos_head_is_the_papers_and_its_keys_follow_slowly() -> None:
    method = MoCo(encoder(), FACTS, momentum=0.9)
    assert layers(method.head) == ["Linear", "ReLU", "Linear"]
    assert widths(method.head) == [(6, 6), (6, 128)]
    before = [p.clone() for p in method.key_encoder.parameters()]
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    method.after_step(0.7)
    for own, was in zip(method.key_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(own, was + 0.1)
    assert method.exported()["encoder"] is method.encoder


@pytest.mark.parametrize(("rows", "size"), [(100, 256), (50_000, 2500), (10_000_000, 65_536)])
def test_mocos_queue_holds_a_twentieth_of_the_data(rows: int, size: int) -> None:
    assert MoCo(encoder(), Facts(rows=rows), width=2).queue.vectors.shape == (size, 2)


# ------------------------------------------------------------------------------------------------------------- MoCo v3


def test_mocov3_is_algorithm_1() -> None:
    method, both = MoCoV3(encoder(), FACTS, temperature=0.3, width=WIDTH), views()
    with torch.no_grad():
        for parameter in method.key_encoder.parameters():
            parameter.mul_(1.5)
    queries = [units(method.predictor(method.projector(method.encoder(v)))) for v in both]
    keys = [units(method.key_projector(method.key_encoder(v))) for v in both]
    want = 0.0
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(ROWS):
            want -= 2 * 0.3 * log_softmax([float(q[i] @ k[j]) / 0.3 for j in range(ROWS)], i) / ROWS
    assert method(both, 0.0)["info_nce"].item() == pytest.approx(want, rel=1e-5)


def test_mocov3s_heads_are_the_papers() -> None:
    method = MoCoV3(encoder(), FACTS)
    for head, inside in ((method.projector, 6), (method.predictor, 256)):
        assert layers(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
        assert widths(head) == [(inside, 12), (12, 256)]
        assert not list(head[-1].parameters())
    vit = encoder()
    vit.offers = frozenset({"tokens"})
    assert widths(MoCoV3(vit, FACTS).projector) == [(6, 12), (12, 12), (12, 256)]
    assert method.exported()["encoder"] is method.encoder


# --------------------------------------------------------------------------------------------------------------- NNCLR


def test_nnclr_is_equation_3_both_ways_round(pair: list[Tensor]) -> None:
    method = NNCLR(encoder(), FACTS, queue=7, width=WIDTH, temperature=0.3)
    z, predicted = [units(x) for x in pair], [units(method.predictor(x)) for x in pair]
    queue = units(method.queue.vectors)
    want = 0.0
    for one, other in ((0, 1), (1, 0)):
        for i in range(ROWS):
            nearest = min(queue, key=lambda q, i=i, one=one: float((z[one][i] - q).norm()))
            scores = [float(nearest @ predicted[other][k]) / 0.3 for k in range(ROWS)]
            want -= log_softmax(scores, i) / (2 * ROWS)
    assert method.objective(pair, 0.0)["info_nce"].item() == pytest.approx(want, rel=1e-5)


def test_nnclrs_neighbours_are_lightlys(pair: list[Tensor]) -> None:
    bank = pytest.importorskip("lightly.models.modules").NNMemoryBankModule(size=(7, WIDTH))
    method = NNCLR(encoder(), FACTS, queue=7, width=WIDTH)
    method.queue.vectors.copy_(bank.bank)
    z = nn.functional.normalize(pair[0])
    torch.testing.assert_close(nearest(z, method.queue.vectors), bank(z, update=False))


def test_nnclrs_queue_takes_the_first_view_and_no_gradient_flows_through_projections_there(pair: list[Tensor]) -> None:
    method = NNCLR(encoder(), FACTS, queue=ROWS, width=WIDTH)
    a, b = (z.requires_grad_() for z in pair)
    neighbours = method.queue.vectors.clone()
    method.objective([a, b], 0.0)["info_nce"].backward()
    assert torch.equal(method.queue.vectors, neighbours)
    assert not method.pending[0].requires_grad
    method.after_step(0.0)
    torch.testing.assert_close(method.queue.vectors, nn.functional.normalize(a.detach()))


def test_nnclrs_heads_are_the_papers() -> None:
    method = NNCLR(encoder(), FACTS)
    assert layers(method.projector) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert widths(method.projector) == [(6, 6), (6, 6), (6, 256)]
    assert layers(method.predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert widths(method.predictor) == [(256, 12), (12, 256)]


# ----------------------------------------------------------------------------------------------------------------- CPC

SIDE = 16


def picture(rows: int = 4) -> View:
    return View(torch.rand(rows, 3, SIDE, SIDE), meta={"affine": torch.eye(2, 3).expand(rows, 2, 3)})


def cpc(view: View, **knobs: object) -> CPC:
    return CPC(ConvSmall(size=SIDE, width=2), Facts(rows=4, views={"light": view}), **knobs).eval()  # type: ignore[arg-type]


def test_cpc_is_equation_4_of_patches_some_rows_below() -> None:
    view = picture()
    method = cpc(view, grid=3, group=2, width=6)
    with torch.no_grad():  # so that scores differ: of a new network all are near 0, and any patch is as good as the right one
        method.target.weight.mul_(100)
        for prediction in method.predictions:
            prediction.weight.mul_(100)  # type: ignore[operator]
    z = torch.stack(
        [torch.stack([method.encoder(View(view.x[:, :, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8])) for j in range(3)], -1) for i in range(3)],
        -2,
    )  # (B,D,3,3)
    context, target = method.context(z).detach().double(), method.target(z).detach().double()
    want, wrong = [], []
    for k, prediction in enumerate(method.predictions, 1):
        predicted, each, others = prediction.double()(context).detach(), [], []
        for b in range(4):
            group = [b % 2, b % 2 + 2]  # every second image
            keys = [(n, i, j) for n in group for i in range(3) for j in range(3)]
            for i in range(3 - k):
                for j in range(3):
                    scores = [0.1 * float(predicted[b, :, i, j] @ target[n, :, y, x]) for n, y, x in keys]  # Henaff et al., appendix
                    each.append(-log_softmax(scores, keys.index((b, i + k, j))))
                    others.append(-log_softmax(scores, keys.index((b, i, j))))
        prediction.float()
        want.append(sum(each) / len(each))
        wrong.append(sum(others) / len(others))
    assert abs(sum(wrong) - sum(want)) > 0.02 * sum(want)
    assert method([view], 0.0)["info_nce"].item() == pytest.approx(sum(want) / 2, rel=1e-5)


def test_cpcs_running_statistics_are_those_of_whole_views() -> None:
    view = picture()
    encoder, whole = ConvSmall(size=SIDE, width=2), ConvSmall(size=SIDE, width=2)
    whole.load_state_dict(encoder.state_dict())
    method = CPC(encoder, Facts(rows=4, views={"light": view}))
    method([view], 0.0)
    whole(view)
    fresh = dict(ConvSmall(size=SIDE, width=2).named_buffers())
    for name, want in whole.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            assert not torch.equal(want, fresh[name])
            assert torch.equal(encoder.get_buffer(name), want)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    method.eval()([view], 0.0)
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_patches_overlap_by_half() -> None:
    x = torch.rand(2, 3, SIDE, SIDE)
    patches = cut(x, 2).unflatten(0, (2, 7, 7))
    assert patches.shape == (2, 7, 7, 3, 4, 4)
    assert torch.equal(patches[1, 2, 5], x[1, :, 4:8, 10:14])


def test_a_context_knows_its_row_and_those_above_alone() -> None:
    context = cpc(picture()).context
    z = torch.randn(1, 16, 7, 7, requires_grad=True)
    context(z)[0, :, 3, 4].sum().backward()
    assert z.grad is not None
    seen = z.grad[0].abs().sum(0) > 0
    assert not seen[4:].any()
    assert seen[:4].any(1).all()


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"grid": 6}, "give a size that is a multiple of 7, or another grid"),
        ({"grid": 40}, "a multiple of 41"),
    ],
)
def test_cpc_says_which_grid_will_do(knobs: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        cpc(picture(), **knobs)


@pytest.mark.parametrize(("side", "grid", "rows"), [(16, 3, 2), (64, 7, 5)])
def test_larger_views_are_cut_into_more_patches(side: int, grid: int, rows: int) -> None:
    method = CPC(ConvSmall(size=side, width=2), Facts(rows=4, views={"light": View(torch.rand(2, 3, side, side))}))
    assert method.grid == grid
    assert len(method.predictions) == rows


def test_the_running_statistics_are_of_whole_pictures() -> None:
    view = picture()
    method, other = cpc(view).train(), ConvSmall(size=SIDE, width=2)
    other.load_state_dict(method.encoder.state_dict())
    method([view], 0.0)
    other(view)
    for name, value in other.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(method.encoder.state_dict()[name], value)


def test_cpc_refuses_an_encoder_of_one_size() -> None:
    fixed = Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 6)), View(torch.zeros(2, 3, SIDE, SIDE)))
    with pytest.raises(UserError, match="can't take 8 x 8 patches"):
        CPC(fixed, Facts(rows=4, views={"light": picture()}))


# -------------------------------------------------------------------------------------------------------- Deep InfoMax


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_jensen_shannon_estimator_is_equation_4() -> None:
    summary, vectors = torch.randn(ROWS, WIDTH), torch.randn(ROWS, 3, WIDTH)
    together, apart = [], []
    for i in range(ROWS):
        for j in range(ROWS):
            for n in range(3):
                score = float(summary[i].double() @ vectors[j, n].double())
                (together if i == j else apart).append(softplus(-score if i == j else score))
    want = sum(together) / len(together) + sum(apart) / len(apart)
    assert jensen_shannon(summary, vectors).item() == pytest.approx(want, rel=1e-5)


def deep_infomax(view: View, **knobs: float) -> DeepInfoMax:
    return DeepInfoMax(ConvSmall(size=SIDE, width=2), Facts(rows=4, views={"light": view}), **knobs)  # type: ignore[arg-type]


def test_deep_infomax_scores_the_summary_with_the_last_map_but_one() -> None:
    view = picture()
    method = deep_infomax(view, alpha=0.5, beta=2.0, gamma=0.0).eval()
    features = method.encoder.features(view, want=("pooled", "maps"))
    assert features.pooled is not None
    assert features.maps is not None
    summary, places = method.summary(features.pooled), features.maps[-2].flatten(2).transpose(1, 2)
    found = method([view], 0.0)
    assert found.keys() == {"local", "global"}
    torch.testing.assert_close(found["local"], 2.0 * jensen_shannon(method.local_summary(summary), method.local_map(places)))
    whole = method.global_map(places.flatten(1))
    torch.testing.assert_close(found["global"], 0.5 * jensen_shannon(method.global_summary(summary), whole.unsqueeze(1)))


def test_the_critic_tells_summaries_from_noise_and_the_encoder_fools_it() -> None:
    view = picture()
    method = deep_infomax(view).eval()
    found = method([view], 0.0)
    seen = torch.sigmoid(method.summary(method.encoder(view)))
    noise = method.noise(seen)
    total = sum(softplus(float(s)) for s in method.critic(seen).detach()) + sum(softplus(-float(s)) for s in method.critic(noise).detach())
    assert found["critic"].item() == pytest.approx(total / 4, rel=1e-5)
    assert found["prior"].item() == pytest.approx(0.1 * sum(softplus(-float(s)) for s in method.critic(seen).detach()) / 4, rel=1e-5)

    found["prior"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.critic.parameters())
    assert method.summary.weight.grad is not None
    before = method.summary.weight.grad.clone()
    found["critic"].backward()
    assert all(p.grad is not None for p in method.critic.parameters())
    assert torch.equal(method.summary.weight.grad, before)


def test_the_noise_is_uniform_and_another_each_step() -> None:
    method = deep_infomax(picture())
    many = torch.zeros(2000, 8)
    first = method.noise(many)
    assert torch.equal(first, method.noise(many))
    method.after_step(0.0)
    assert not torch.isin(method.noise(many), first).all()
    assert first.mean().item() == pytest.approx(0.5, abs=0.02)
    assert first.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_deep_infomax_without_a_term_that_looks_at_the_map_is_refused() -> None:
    with pytest.raises(UserError, match="alpha=0 and beta=0"):
        deep_infomax(picture(), beta=0.0)
