"""BiGAN against the paper's equations in plain loops, and against two optimizers in a loop written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untaught.blocks.adversaries import Discriminator, Generator, LinearDiscriminator, LinearGenerator, halved
from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Facts, UserError, View
from untaught.encoders.plain import Plain
from untaught.methods.adversarial.bigan import BiGAN, cross_entropy
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

ROWS, LATENT, SIZE = 5, 3, 9
STATISTICS = {"mean": [0.3, 0.6], "std": [0.2, 0.4]}


def encoder() -> Encoder:
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(2 * SIZE * SIZE, 6)), View(torch.zeros(2, 2, SIZE, SIZE)))


def view(rows: int = ROWS) -> View:
    return View(torch.randn(rows, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1)), meta={"index": torch.arange(rows)})


def bigan(**knobs: Any) -> BiGAN:
    torch.manual_seed(0)
    return BiGAN(encoder(), Facts(ROWS, {"whole": view()}, STATISTICS), width=LATENT, **{"maps": 4, **knobs})


def probabilities(method: BiGAN, view: View, z: Tensor) -> tuple[list[float], list[float]]:
    """D of pairs of an image and its encoding, and of pairs of a latent and what is generated from it."""
    real = method.discriminator(view.x, method.latent(method.encoder(view)))
    generated = method.discriminator(method.generator(z), z)
    return [1 / (1 + math.exp(-score)) for score in real.tolist()], [1 / (1 + math.exp(-score)) for score in generated.tolist()]


@pytest.mark.parametrize("layers", ["convolutions", "linear"])
def test_the_discriminators_loss_is_equation_3_with_its_sign_turned(layers: str) -> None:
    method, one = bigan(layers=layers), view()
    loss = method.turn("discriminator", [one], 0.0)["discriminator"].item()
    real, generated = probabilities(method, one, method.draw("discriminator", one))
    value = sum(math.log(d) for d in real) / ROWS + sum(math.log(1 - d) for d in generated) / ROWS
    assert loss == pytest.approx(-value, rel=1e-5)


@pytest.mark.parametrize("layers", ["convolutions", "linear"])
def test_encoder_and_generator_minimise_the_inverse_objective(layers: str) -> None:
    """Section 3.4: the same with the labels real and generated swapped."""
    method, one = bigan(layers=layers), view()
    loss = method.turn("generator", [one], 0.0)["generator"].item()
    real, generated = probabilities(method, one, method.draw("generator", one))
    value = sum(math.log(1 - d) for d in real) / ROWS + sum(math.log(d) for d in generated) / ROWS
    assert loss == pytest.approx(-value, rel=1e-5)


def test_at_chance_the_objective_is_log_4() -> None:
    """Theorem 1: where both joint distributions are equal, D is 1/2 and C(E, G) is -log 4."""
    assert cross_entropy(torch.zeros(7), torch.zeros(7)).item() == pytest.approx(math.log(4))


def test_log_odds_far_from_zero_keep_their_slope() -> None:
    score = torch.tensor([-200.0, 200.0], requires_grad=True)
    cross_entropy(score, -score).backward()
    assert score.grad is not None
    torch.testing.assert_close(score.grad, torch.tensor([-1.0, 0.0]))


def test_the_accuracy_is_the_share_of_pairs_that_are_told_right() -> None:
    method, one = bigan(), view()
    accuracy = method.turn("discriminator", [one], 0.0)["discriminator_accuracy"]
    real, generated = probabilities(method, one, method.draw("discriminator", one))
    assert not accuracy.requires_grad
    assert accuracy.item() == pytest.approx((sum(d > 0.5 for d in real) + sum(d < 0.5 for d in generated)) / (2 * ROWS))


def test_latents_are_uniform_and_others_for_every_step_player_and_sample() -> None:
    method, one = bigan(), view(400)
    drawn = [method.draw("discriminator", one), method.draw("generator", one)]
    method.after_step(0.0)
    drawn.append(method.draw("discriminator", one))
    every = torch.cat(drawn)
    assert every.shape == (1200, LATENT)
    assert every.dtype == torch.float32
    assert -1 <= every.min() < -0.99
    assert 0.99 < every.max() < 1
    assert float(every.mean().abs()) < 0.03
    assert float(every.var()) == pytest.approx(1 / 3, rel=0.03)
    assert len(every.unique(dim=0)) == 1200
    half = View(one.x[200:], meta={"index": torch.arange(200, 400)})
    assert torch.equal(method.draw("discriminator", half), drawn[2][200:])


def test_turns_are_two_optimizers_in_a_loop(tmp_path: Path) -> None:
    """Bit for bit, three steps as section 3.4 has them: D by a step of its own, then E and G together by one that sees it moved."""
    data, method, twin = view(12), bigan(), bigan()

    class Batches:
        steps_per_epoch = None

        def batches(self, epoch: int, step: int = 0) -> Any:
            for start in (0, 4, 8):
                yield {"index": torch.arange(start, start + 4)}

    class Views:
        names, channels_last = ("whole",), False

        def __call__(self, batch: Any, epoch: int) -> list[View]:
            return [View(data.x[batch["index"]], meta={"index": batch["index"]})]

    how: Any = {"lr": 2e-3, "weight_decay": 2.5e-5, "betas": (0.5, 0.999)}
    train_config = TrainConfig(optimizer="adam", schedule="constant", warmup=0.0, steps=3, batch_size=4, precision="float32", **how)
    made: Any = Views()
    Trainer(TrainingStep(method, train_config), made, Batches(), tmp_path, name=lambda index: []).run()

    def adam(*modules: nn.Module) -> torch.optim.Optimizer:
        every = [p for module in modules for p in module.parameters()]
        decayed, others = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
        return torch.optim.Adam([{"params": decayed}, {"params": others, "weight_decay": 0.0}], **how)

    first, second = adam(twin.discriminator), adam(twin.encoder, twin.latent, twin.generator)
    for batch in Batches().batches(0):
        (one,) = Views()(batch, 0)
        z = twin.draw("discriminator", one)
        with torch.no_grad():
            encoding, image = twin.latent(twin.encoder(one)), twin.generator(z)
        first.zero_grad()
        cross_entropy(twin.discriminator(one.x, encoding), twin.discriminator(image, z)).backward()
        first.step()
        z = twin.draw("generator", one)
        encoding, image = twin.latent(twin.encoder(one)), twin.generator(z)
        real, generated = twin.discriminator(one.x, encoding), twin.discriminator(image, z)
        second.zero_grad()
        cross_entropy(generated, real).backward()
        second.step()
        twin.step += 1
    start = bigan().state_dict()
    for name, value in twin.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name
        assert name.endswith(("norm.bias", "running_var")) or not torch.equal(value, start[name]), name


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("size", "sides"), [(28, [28, 14, 7]), (32, [32, 16, 8, 4]), (30, [30, 15, 8, 4]), (9, [9, 5]), (4, [4, 2]), (64, [64, 32, 16, 8, 4])]
)
def test_images_of_any_size_are_generated_and_judged(size: int, sides: list[int]) -> None:
    assert halved([size, size]) == [[side, side] for side in sides]
    dark, bright = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 3.0, 0.5])
    z = torch.rand(2, LATENT) * 2 - 1
    images = Generator(LATENT, (3, size, size), 4, dark, bright)(z)
    assert images.shape == (2, 3, size, size)
    for channel in range(3):
        assert dark[channel] < images[:, channel].min() <= images[:, channel].max() < bright[channel]
    score = Discriminator(LATENT, (3, size, size), 4)(images, z)
    assert score.shape == (2,)


def test_the_latent_enters_every_layer_of_the_discriminator_but_the_first() -> None:
    """Section 4: transformed by a learned matrix, and added to what goes into the non-linearity."""
    method = bigan()
    critic, x, z = method.discriminator.eval(), view().x, torch.rand(ROWS, LATENT)
    assert [type(layer).__name__ for layer in critic.latents] == ["Linear"] * len(critic.layers)
    h = nn.functional.leaky_relu(critic.first(x), 0.2)
    for layer, norm, latent in zip(critic.layers, critic.norms, critic.latents, strict=True):
        h = layer(h)
        h = h if h.ndim == 4 else h[:, :, None, None]
        shifted = torch.stack([row + (latent.weight @ one)[:, None, None] for row, one in zip(h, z, strict=True)])  # type: ignore[operator]
        h = nn.functional.leaky_relu(norm(shifted), 0.2)
    torch.testing.assert_close(critic(x, z), (h.flatten(1) @ critic.score.weight[0]) + critic.score.bias)


def test_without_convolutions_the_second_layer_reads_the_latent_too() -> None:
    """The authors' mnist_mlp and deconvnet_mnist_mlp, unit by unit; BatchNorm without gain and bias."""
    torch.manual_seed(2)
    z = torch.rand(ROWS, LATENT) * 2 - 1
    maker, critic = LinearGenerator(LATENT, (2, 3), 5, torch.tensor(-1.0), torch.tensor(2.0)), LinearDiscriminator(LATENT, (2, 3), 5)

    def normed(column: Tensor) -> Tensor:
        return (column - column.mean()) / (column.var(correction=0) + 1e-5).sqrt()

    first = torch.stack([normed(z @ row).clamp(min=0) for row in maker.first.weight], 1)
    both = [normed(first @ row + z @ own).clamp(min=0) for row, own in zip(maker.second.weight, maker.latent.weight, strict=True)]
    values = torch.stack(both, 1) @ maker.out.weight.T + maker.out.bias
    made = maker(z)
    torch.testing.assert_close(made, -1 + 3 / (1 + (-values.view(ROWS, 2, 3)).exp()))

    leaky = lambda x: torch.where(x > 0, x, 0.2 * x)  # noqa: E731
    h = leaky(made.flatten(1) @ critic.first.weight.T + critic.first.bias)
    h = torch.stack([leaky(normed(h @ row + z @ own)) for row, own in zip(critic.second.weight, critic.latent.weight, strict=True)], 1)
    torch.testing.assert_close(critic(made, z), h @ critic.score.weight[0] + critic.score.bias)


def test_vectors_are_generated_too_without_bounds() -> None:
    x = View(torch.randn(8, 7), meta={"index": torch.arange(8)})
    method = BiGAN(Plain(nn.Linear(7, 6), x), Facts(8, {"whole": x}), maps=2)
    assert isinstance(method.generator, LinearGenerator)
    terms = method([x], 0.0)
    assert terms["generator"].requires_grad
    assert method.eval().sample(5, seed=0).shape == (5, 7)
    with pytest.raises(UserError, match="layers=convolutions: these samples are not images; choose layers=linear"):
        BiGAN(Plain(nn.Linear(7, 6), x), Facts(8, {"whole": x}), layers="convolutions")


@pytest.mark.parametrize("layers", ["convolutions", "linear"])
def test_samples_depend_on_the_seed_and_the_number_alone(layers: str) -> None:
    method = bigan(layers=layers).eval()
    assert method.sample(4, seed=1).shape == (4, 2, SIZE, SIZE)
    torch.testing.assert_close(method.sample(4, seed=1)[:2], method.sample(2, seed=1))
    assert not torch.equal(method.sample(2, seed=1), method.sample(2, seed=2))


def test_what_cannot_be_generated_is_refused() -> None:
    ragged = View(torch.zeros(2, 7, 3), valid=torch.ones(2, 7, dtype=torch.bool))
    for one in (ragged, View(torch.zeros(2, 7, dtype=torch.long))):
        with pytest.raises(UserError, match="BiGAN generates samples of one shape, made of numbers; these differ in length or hold words"):
            BiGAN(encoder(), Facts(ROWS, {"whole": one}, STATISTICS))
    with pytest.raises(UserError, match="images of 3 x 3 are too small for BiGAN; use a size of at least 4, or layers=linear"):
        BiGAN(encoder(), Facts(ROWS, {"whole": View(torch.zeros(2, 2, 3, 3))}, STATISTICS))
