"""pixelcnn, pixelrnn and nepa against the papers' equations in plain loops: what a value may see, its likelihood, and draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Encoder, Facts, UserError, View
from untaught.encoders.pixelcnn import PixelCNN
from untaught.encoders.pixelrnn import PixelRNN
from untaught.encoders.timm import timm_encoder, vit_causal, vit_mini
from untaught.methods import NEPA
from untaught.methods import PixelCNN as PixelCNNMethod
from untaught.methods import PixelRNN as PixelRNNMethod

MAKERS: dict[str, Any] = {
    "pixelcnn": lambda **given: PixelCNN(width=24, depth=4, **given),
    "pixelcnn of 5 x 5": lambda **given: PixelCNN(width=24, depth=2, kernel=5, **given),
    "pixelrnn": lambda **given: PixelRNN(width=24, depth=1, **given),
    "pixelrnn of two layers": lambda **given: PixelRNN(width=24, depth=2, **given),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
STATISTICS = {"mean": [0.3, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def built(make: Any, channels: int, side: int) -> Encoder:
    torch.manual_seed(0)
    return make(channels=channels, size=side).eval()


def place(channels: int, side: int) -> Tensor:
    """(C,S,S): the number of each value in the order of generation: rows, pixels of a row, channels of a pixel."""
    return torch.arange(side * side * channels).view(side, side, channels).permute(2, 0, 1)


# ------------------------------------------------------------------------------------------------------ what a value sees


@each
@pytest.mark.parametrize(("channels", "side"), [(1, 7), (3, 5), (2, 6)])
def test_a_value_sees_exactly_the_earlier_ones(make: Any, channels: int, side: int) -> None:
    """Images that a receptive field of 7 x 7 and more covers: by the gradient of each vector, no value is hidden and none is given away."""
    encoder = built(make, channels, side).double()
    x = torch.randn(1, channels, side, side, dtype=torch.double, requires_grad=True)
    vectors = encoder.causal_maps(View(x))
    assert vectors.shape[:4] == (1, side, side, channels)
    number = place(channels, side)
    for c, row, column in [(c, row, column) for c in range(channels) for row in range(side) for column in range(side)]:
        (gradient,) = torch.autograd.grad(vectors[0, row, column, c].square().sum(), x, retain_graph=True)
        assert torch.equal(gradient[0] != 0, number < number[c, row, column]), (c, row, column)


def test_the_recurrent_network_sees_all_of_a_large_image() -> None:
    side = 24
    encoder = built(MAKERS["pixelrnn"], 1, side).double()
    x = torch.randn(1, 1, side, side, dtype=torch.double, requires_grad=True)
    for row, column in ((23, 0), (12, 5), (1, 0), (23, 23)):
        (gradient,) = torch.autograd.grad(encoder.causal_maps(View(x))[0, row, column].sum(), x)
        assert torch.equal(gradient[0] != 0, place(1, side) < row * side + column)


def test_the_convolutional_network_sees_a_region_without_a_blind_spot() -> None:
    """Of a first layer of 7 x 7 and four of 3 x 3: 3 + 4 rows above, as many columns at either side, and to the left in its row."""
    side, reach = 21, 3 + 4
    encoder = built(MAKERS["pixelcnn"], 1, side).double()
    x = torch.randn(1, 1, side, side, dtype=torch.double, requires_grad=True)
    row, column = 15, 10
    (gradient,) = torch.autograd.grad(encoder.causal_maps(View(x))[0, row, column].sum(), x)
    for y in range(side):
        for at in range(side):
            above = 0 < row - y <= reach and abs(at - column) <= reach
            beside = y == row and 0 < column - at <= reach
            assert bool(gradient[0, 0, y, at] != 0) == (above or beside), (y, at)


@each
@pytest.mark.parametrize("channels", [1, 3])
def test_row_by_row_as_all_at_once(make: Any, channels: int) -> None:
    """Whatever stands where a row is not drawn yet."""
    side = 5
    encoder = built(make, channels, side)
    x = torch.randn(2, channels, side, side)
    whole = encoder.causal_maps(View(x))
    rows, number = encoder.causal_rows(2, side), place(channels, side)
    for y in range(side):
        for column in range(side):
            for c in range(channels):
                row = torch.where(number[:, y] < number[c, y, column], x[:, :, y], 9.0)
                torch.testing.assert_close(rows.vectors(row)[:, column, c], whole[:, y, column, c], atol=1e-5, rtol=1e-5)
        rows.advance(x[:, :, y])


def test_the_gate_of_equation_2() -> None:
    encoder = PixelCNN(channels=1, size=4, width=2, depth=0)
    layer: Any = encoder.layers[0]
    x = torch.randn(1, 1, 4, 4)
    kernel, bias = layer.above.weight.detach(), layer.above.bias.detach()
    v, _ = next(encoder._stacks(x, 1))
    for unit in range(2):
        for row in range(4):
            for column in range(4):
                totals = [float(bias[unit + half]) for half in (0, 2)]
                for i in range(3):
                    for j in range(7):
                        y, at = row - 3 + i, column - 3 + j
                        if y >= 0 and 0 <= at < 4:
                            for number, half in enumerate((0, 2)):
                                totals[number] += float(kernel[unit + half, 0, i, j] * x[0, 0, y, at] + kernel[unit + half, 1, i, j])
                expected = math.tanh(totals[0]) / (1 + math.exp(-totals[1]))
                assert float(v[0, unit, row, column]) == pytest.approx(expected, abs=1e-5)


def test_the_lstm_of_equation_3_on_a_diagonal() -> None:
    """One layer against loops over pixels, from the left and from the right, the latter shifted down by a row."""
    side = 3
    encoder = PixelRNN(channels=1, size=side, width=2, depth=1)
    layer: Any = encoder.layers[0]
    f, x = torch.randn(1, 4, side, side), torch.randn(1, 2, side, side)
    inputs = [layer.from_left(f), layer.from_right(torch.cat([f, x], 1))]
    states = []
    for way in range(2):
        state = torch.zeros(side + 1, side + 2, 2)  # a row above, and a column at either side
        memory = torch.zeros(side + 1, side + 2, 2)
        for row in range(side):
            for column in range(side) if way == 0 else reversed(range(side)):
                beside = (row + 1, column + (0 if way == 0 else 2))
                gates = inputs[way][0, :, row, column] + torch.cat([state[beside], state[row, column + 1]]) @ layer.state[way]
                output, forget, admit, content = gates.split(2)
                now = row + 1, column + 1
                memory[now] = forget.sigmoid() * memory[beside] + admit.sigmoid() * content.tanh()
                state[now] = output.sigmoid() * memory[now].tanh()
        states.append(state)
    expected = states[0][1:, 1:-1] + states[1][:-1, 1:-1]
    torch.testing.assert_close(layer(f, x), f + layer.out(expected.permute(2, 0, 1)[None]))


# --------------------------------------------------------------------------------------------------- likelihood and draws


def density(make: Any, cls: Any, channels: int = 3, side: int = 4) -> tuple[Any, View]:
    encoder = built(make, channels, side)
    statistics = {key: values[:channels] for key, values in STATISTICS.items()}
    target = torch.randint(256, (5, channels, side, side), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    view = View((target / 255 - mean) / std, target=target, meta={"index": torch.arange(5)})
    return cls(encoder, Facts(5, {"levels": view}, statistics)).eval(), view


BOTH = pytest.mark.parametrize(("make", "cls"), [(MAKERS["pixelcnn"], PixelCNNMethod), (MAKERS["pixelrnn"], PixelRNNMethod)])


@BOTH
def test_the_likelihood_is_the_product_over_values(make: Any, cls: Any) -> None:
    method, view = density(make, cls)
    target: Any = view.target
    vectors = method.encoder.causal_maps(view).relu()
    total = 0.0
    for sample in range(5):
        for c, linear in enumerate(method.levels.channels):
            for row in range(4):
                for column in range(4):
                    logits = linear(vectors[sample, row, column, c])
                    total -= float(F.log_softmax(logits, 0)[target[sample, c, row, column]])
    terms = method([view], 0.0)
    assert float(terms["nll"]) == pytest.approx(total / target.numel(), rel=1e-4)
    assert float(terms["bits_per_dim"]) == pytest.approx(total / target.numel() / math.log(2), rel=1e-4)
    assert not terms["bits_per_dim"].requires_grad


@BOTH
def test_probabilities_of_a_value_sum_to_one_over_images_that_differ_in_it(make: Any, cls: Any) -> None:
    """The last value of an image takes each of 256 levels in turn: the likelihoods, relative to those of the rest, sum to 1."""
    method, view = density(make, cls, channels=1, side=3)
    target: Any = view.target
    target = target[:1].expand(256, -1, -1, -1).clone()
    target[:, 0, 2, 2] = torch.arange(256)
    normalised = method.levels.normalised(target.flatten(2)).view(target.shape)
    vectors = method.encoder.causal_maps(View(normalised)).relu()
    logs = F.log_softmax(method.levels.channels[0](vectors[..., 0, :]), -1)
    each = logs.gather(3, target[:, 0, ..., None])[..., 0]
    assert torch.allclose(each.flatten(1)[:, :-1], each.flatten(1)[:1, :-1])
    assert float(each[:, 2, 2].exp().sum()) == pytest.approx(1, abs=1e-4)


@BOTH
def test_samples_are_the_view_of_levels_and_follow_the_learned_density(make: Any, cls: Any) -> None:
    method, _ = density(make, cls)
    for linear in method.levels.channels:
        torch.nn.init.zeros_(linear.weight)
        linear.bias.data.fill_(-30.0)
        linear.bias.data[[7, 200]] = torch.tensor([0.0, math.log(3.0)])
    drawn = method.sample(64, seed=1)
    levels = ((drawn * torch.tensor(STATISTICS["std"]).view(-1, 1, 1)) + torch.tensor(STATISTICS["mean"]).view(-1, 1, 1)) * 255
    assert drawn.shape == (64, 3, 4, 4)
    assert set(levels.round().long().unique().tolist()) == {7, 200}
    assert float((levels > 100).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drawn, method.sample(64, seed=1))
    assert not torch.equal(drawn, method.sample(64, seed=2))
    torch.testing.assert_close(drawn[:3], method.sample(3, seed=1))


@BOTH
def test_a_value_is_drawn_given_those_before_it(make: Any, cls: Any) -> None:
    """By a head that answers with what it is told: with all probability on the level of greatest logit, a draw is the argmax of the
    network on the image drawn so far."""
    method, _ = density(make, cls)
    for linear in method.levels.channels:
        linear.weight.data *= 1e4
    levels = method.levels.drawn(method.encoder, torch.zeros(5, 3, 4, 4, dtype=torch.long), 0, torch.arange(5), seed=0)
    x = method.levels.normalised(levels.flatten(2)).view(levels.shape)
    vectors = method.encoder.causal_maps(View(x)).relu()
    logits = torch.stack([linear(vectors[..., c, :]) for c, linear in enumerate(method.levels.channels)], 1)
    top = logits.topk(2, -1).values
    sure = top[..., 0] - top[..., 1] > 20
    assert sure.float().mean() > 0.5
    assert torch.equal(levels[sure], logits.argmax(-1)[sure])


@BOTH
def test_a_completion_keeps_the_upper_half(make: Any, cls: Any) -> None:
    method, view = density(make, cls)
    answer = method.solve([view])
    assert answer.shape == view.target.shape  # type: ignore[union-attr]
    assert torch.equal(answer[:, :, :2], view.target[:, :, :2])  # type: ignore[index]
    assert not torch.equal(answer[:, :, 2:], view.target[:, :, 2:])  # type: ignore[index]
    torch.testing.assert_close(method.solve([view[3:4]])[0], answer[3])
    given = method.given(view)
    assert torch.equal(given.x[:, :, :2], view.x[:, :, :2])
    lower = given.x[:, :, 2:] * torch.tensor(STATISTICS["std"]).view(-1, 1, 1) + torch.tensor(STATISTICS["mean"]).view(-1, 1, 1)
    torch.testing.assert_close(lower, torch.full_like(lower, 0.5))


@BOTH
def test_other_samples_are_refused(make: Any, cls: Any) -> None:
    with pytest.raises(UserError, match="is a density of images of 256 levels, which these samples are not; allowed: image"):
        cls(built(make, 3, 4), Facts(5, {"levels": View(torch.zeros(2, 3, 4, 4))}, STATISTICS))


# ------------------------------------------------------------------------------------------------------------------ nepa


def causal(**given: Any) -> Any:
    torch.manual_seed(0)
    return vit_causal(size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, **given)


def test_next_embeddings_are_predicted_by_cosine() -> None:
    encoder = causal()
    view = View(torch.randn(3, 3, 16, 16))
    embedded, _ = encoder.embed(view)
    predicted = encoder.context(embedded, None, causal=True).tokens
    total = 0.0
    for sample in range(3):
        for token in range(15):
            a, b = predicted[sample, token], embedded[sample, token + 1]
            total -= float((a * b).sum() / (a.norm() * b.norm()))
    assert float(NEPA(encoder, Facts(3, {"light": view}))([view], 0.0)["next_embedding"]) == pytest.approx(total / 45, rel=1e-4)


def test_the_target_passes_no_gradient() -> None:
    """The last patch is only a target: nothing of the loss reaches it."""
    encoder = causal()
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    NEPA(encoder, Facts(2, {"light": View(x.detach())}))([View(x)], 0.0)["next_embedding"].backward()
    assert x.grad is not None
    assert not x.grad[:, :, 12:, 12:].any()
    assert x.grad[:, :, :12].any()


def test_a_causal_token_sees_itself_and_those_before() -> None:
    encoder = causal().double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.double, requires_grad=True)
    tokens = encoder.features(View(x), want=("tokens",)).tokens
    assert tokens.shape == (1, 16, 32)
    for token in range(16):
        (gradient,) = torch.autograd.grad(tokens[0, token].square().sum(), x, retain_graph=True)
        seen = gradient.abs().sum(1).unfold(1, 4, 4).unfold(2, 4, 4).sum((3, 4)).flatten() > 0
        assert torch.equal(seen, torch.arange(16) <= token)


def test_the_attention_of_a_causal_transformer_is_on_what_tokens_see() -> None:
    """Of queries and keys that are all alike, a token attends equally to itself and those before."""
    encoder = causal()
    torch.nn.init.zeros_(encoder.blocks[-1].attn.qkv.weight)
    expected = sum((torch.arange(16) <= token) / (token + 1) for token in range(16)) / 16
    torch.testing.assert_close(encoder.attention(View(torch.randn(1, 3, 16, 16)))[0, 0], expected)


def test_only_a_causal_transformer_serves_and_one_with_a_class_token_is_refused() -> None:
    bidirectional = vit_mini(size=16, patch_size=4, embed_dim=32, depth=1, num_heads=2)
    tokens, _ = bidirectional.embed(View(torch.randn(1, 3, 16, 16)))
    with pytest.raises(UserError, match="bidirectional; causal methods need encoder=vit_causal"):
        bidirectional.context(tokens, causal=True)
    with pytest.raises(UserError, match="class_token=false global_pool=avg"):
        timm_encoder("vit_tiny_patch16_224", size=16, patch_size=8, depth=1, causal=True)
    with pytest.raises(UserError, match="a single one; choose a larger size"):
        NEPA(causal(), Facts(2, {"light": View(torch.randn(2, 3, 4, 4))}))
