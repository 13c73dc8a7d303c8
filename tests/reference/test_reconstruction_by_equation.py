"""The reconstruction methods against the papers' equations in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Features, UserError, View
from untaught.encoders.conv_series import ConvSeries
from untaught.encoders.timm import vit_mini
from untaught.methods import MAE, VAE, Autoencoder, Denoising, DiscreteVAE, SimMIM
from untaught.methods.reconstruction.discrete_vae import cosine
from untaught.ops.likelihood import discretised_logit_laplace  # tested in tests/ops
from untaught.ops.reconstruction import interpolated_moments

ROWS, SIDE, CHANNELS, PATCH = 3, 8, 2, 2
FREE = 0.055  # nats, of which some of the latents below have more and some less
STATISTICS = {"mean": [0.3, 0.6], "std": [0.2, 0.4]}


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(3)


class Small(Encoder):
    """Two convolutions with BatchNorm: x (B,2,8,8) -> (B,5), and maps of 8 x 8 and 4 x 4."""

    width, stride, offers = 5, 2, frozenset({"maps"})

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 2, stride=2), nn.BatchNorm2d(5), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        fine = self.first(view.x)
        coarse = self.second(fine)
        return Features(pooled=coarse.mean((2, 3)), maps=[fine, coarse] if "maps" in want else None)


def leveled() -> Any:
    """Images of integer levels, some of them black and white."""
    levels = torch.randint(256, (ROWS, CHANNELS, SIDE, SIDE), generator=draws())
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    return View(normalised(levels), target=levels, meta={"index": torch.arange(ROWS)})


def normalised(levels: Tensor) -> Tensor:
    mean, std = (torch.tensor(STATISTICS[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (levels / 255 - mean) / std


def patched(patch: int = PATCH, masked: tuple[int, ...] = (0, 3, 5, 6)) -> View:
    x = torch.randn(ROWS, CHANNELS, SIDE, SIDE, generator=draws())
    target = nn.functional.unfold(x, patch, stride=patch).transpose(1, 2)
    mask = torch.zeros(ROWS, target.shape[1], dtype=torch.bool)
    mask[:, list(masked)] = True
    return View(x, mask=mask, target=target)


def series() -> View:
    valid = torch.arange(7) < torch.tensor([[7], [4], [5]])
    x = torch.where(valid.unsqueeze(2), torch.randn(ROWS, 7, 1, generator=draws()), 0.0)
    return View(x, valid)


def built(cls: Any, view: View, encoder: Encoder | None = None, **knobs: Any) -> Any:
    torch.manual_seed(0)
    return cls(encoder or Small(), Facts(ROWS, {cls.views[0]: view}, STATISTICS), **knobs)


def vit() -> Encoder:
    return vit_mini(channels=CHANNELS, size=SIDE, patch_size=PATCH, embed_dim=12, depth=1, num_heads=2)


# ------------------------------------------------------------------------------------------------------- autoencoders


def mean_square(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum((x - y) ** 2 for x, y in pairs) / len(pairs)


def test_the_autoencoder_restores_the_sample_from_a_code_of_the_pooled_vector() -> None:
    view = leveled()
    method = built(Autoencoder, view, width=3).eval()
    code = method.code(method.encoder(view))
    assert code.shape == (ROWS, 3)
    restored = method.decoder.net(code)
    assert method([view], 0.0)["reconstruction"].item() == pytest.approx(mean_square(restored, view.x), rel=1e-5)
    assert torch.equal(method.solve([view]), restored)


@pytest.mark.parametrize("cls", [Autoencoder, Denoising])
def test_padding_of_series_does_not_count(cls: Any) -> None:
    view = series()
    view.target = view.x + 1
    method = built(cls, view, ConvSeries(channels=1, hidden=4, width=6, depth=1)).eval()
    want: Any = view.x if cls is Autoencoder else view.target
    restored = method.solve([view])
    assert restored.shape == view.x.shape
    errors = [(restored[i, t, 0] - want[i, t, 0]).item() ** 2 for i in range(ROWS) for t in range(7) if view.valid[i, t]]
    assert method([view], 0.0)["reconstruction"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_missing_values_do_not_count_where_they_are_restored() -> None:
    view: Any = series()
    view.target = view.x + 1
    view.target_valid = view.valid.unsqueeze(2) & (torch.arange(7) != 2).view(1, 7, 1)
    method = built(Denoising, view, ConvSeries(channels=1, hidden=4, width=6, depth=1)).eval()
    restored = method.solve([view])
    known = view.target_valid.nonzero().tolist()
    errors = [(restored[i, t, c] - view.target[i, t, c]).item() ** 2 for i, t, c in known]
    assert method([view], 0.0)["reconstruction"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_rows_of_numbers_are_reconstructed() -> None:
    """Nonlinear principal component analysis."""
    view = View(torch.randn(ROWS, 6, generator=draws()))

    class Hidden(Encoder):
        width = 4

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
            return Features(pooled=self.linear(view.x).tanh())

    method = built(Autoencoder, view, Hidden(), width=2)
    assert method.solve([view]).shape == view.x.shape
    assert method([view], 0.0)["reconstruction"].requires_grad


def test_text_is_refused() -> None:
    view = View(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(UserError, match=r"autoencoder reconstructs numbers: .* for text, use tsdae or mlm"):
        built(Autoencoder, view)


def test_denoising_compares_what_it_makes_of_the_corrupted_sample_with_the_clean_one() -> None:
    view = leveled()
    view = replace(view, x=view.x + 1, target=view.x)
    method = built(Denoising, view).eval()
    coarse = method.encoder.features(view, want=("maps",)).maps[-1]
    restored = method.decoder.net(coarse)
    assert method([view], 0.0)["reconstruction"].item() == pytest.approx(mean_square(restored, view.target), rel=1e-5)
    assert torch.equal(method.solve([view]), restored)


def test_the_encoder_keeps_the_statistics_of_clean_samples() -> None:
    view = leveled()
    view = replace(view, x=view.x + 5, target=view.x)
    method = built(Denoising, view)
    for _ in range(100):
        method([view], 0.0)
    conv, norm = method.encoder.first[0], method.encoder.first[1]
    clean, corrupted = (conv(x).mean((0, 2, 3)) for x in (view.target[:1], view.x))
    torch.testing.assert_close(norm.running_mean, clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(method.corrupted.norms[0].running_mean, corrupted, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------------------------------------------------- VAE


def logistic_nats(level: int, mean: float, log_scale: float) -> float:
    """Minus the log-probability of a level; PixelCNN++, equation 2."""
    cumulative = lambda x: 1 / (1 + math.exp(-(x - mean) / math.exp(log_scale)))  # noqa: E731
    x = level / 127.5 - 1
    above = 1.0 if level == 255 else cumulative(x + 1 / 255)
    below = 0.0 if level == 0 else cumulative(x - 1 / 255)
    return -math.log(above - below)


def test_the_vae_minimises_the_negative_evidence_lower_bound_per_dimension() -> None:
    """Kingma, Welling 2014, equation 3 and appendix B, with one draw of the latents for each sample."""
    view = leveled()
    method = built(VAE, view, width=3, beta=4.0).eval()
    vector = method.encoder(view)
    mean, log_variance, noise = method.mean(vector), method.log_variance(vector), method.draw(view)
    latents = torch.stack(
        [torch.stack([m + (v / 2).exp() * e for m, v, e in zip(*row, strict=True)]) for row in zip(mean, log_variance, noise, strict=True)]
    )
    decoded = method.decoder(latents, view)
    nats = [
        logistic_nats(level, m, s)
        for level, m, s in zip(*(part.flatten().tolist() for part in (view.target, decoded[:, 0], decoded[:, 1])), strict=True)
    ]
    divergence = sum(
        0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True)
    )
    values = CHANNELS * SIDE * SIDE
    terms = method([view], 0.0)
    assert terms["reconstruction"].item() == pytest.approx(sum(nats) / ROWS / values, rel=1e-4)
    assert terms["kl"].item() == pytest.approx(4 * divergence / ROWS / values, rel=1e-4)
    bits = (sum(nats) + divergence) / ROWS / values / math.log(2)
    assert terms["bits_per_dim"].item() == pytest.approx(bits, rel=1e-4)
    assert not terms["bits_per_dim"].requires_grad


def test_free_bits_charge_a_minimum_for_each_latent() -> None:
    """Kingma et al. 2016, appendix C.8: the larger of lambda and the batch's mean divergence, summed over latents."""
    view = leveled()
    method = built(VAE, view, width=4, free_bits=FREE).eval()
    mean, log_variance = method.posterior(view)
    each = [
        sum(0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(mean[:, j].tolist(), log_variance[:, j].tolist(), strict=True)) / ROWS
        for j in range(4)
    ]
    assert min(each) < FREE < max(each)
    terms = method([view], 0.0)
    values = CHANNELS * SIDE * SIDE
    assert terms["kl"].item() == pytest.approx(sum(max(one, FREE) for one in each) / values, rel=1e-4)
    free = terms["bits_per_dim"] - terms["reconstruction"].detach() / math.log(2)
    assert free.item() == pytest.approx(sum(each) / values / math.log(2), rel=1e-3)


@pytest.mark.parametrize("cls", [VAE, DiscreteVAE])
def test_draws_are_new_in_each_step_and_for_each_sample_and_the_same_in_any_batch(cls: Any) -> None:
    view = leveled()
    knobs: Any = {"codes": 5} if cls is DiscreteVAE else {}
    method = built(cls, view, **knobs)
    first = method.draw(view)
    assert torch.equal(first, method.draw(view))
    assert torch.equal(first[1:], method.draw(replace(view, x=view.x[1:], meta={"index": view.meta["index"][1:]})))
    method.after_step(0.5)
    both = torch.cat([first, method.draw(view)]).flatten(1)
    assert ((both[:, None] - both).abs().amax(2) + 9 * torch.eye(2 * ROWS) > 0.1).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_other_likelihoods_log_no_bits(likelihood: str) -> None:
    view = leveled()
    method = built(VAE, view, width=3, likelihood=likelihood).eval()
    decoded = method.decoder(method.posterior(view)[0] + (method.posterior(view)[1] / 2).exp() * method.draw(view), view)
    if likelihood == "gaussian":
        mean, scale = decoded[:, 0], decoded[:, 1].exp()
        nats = 0.5 * ((view.x - mean) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
    else:
        p, share = decoded[:, 0].sigmoid(), view.target / 255  # type: ignore[operator]
        nats = -(share * p.log() + (1 - share) * (1 - p).log())
    terms = method([view], 0.0)
    assert terms["reconstruction"].item() == pytest.approx(nats.mean().item(), rel=1e-4)
    assert terms.keys() == {"reconstruction", "kl"}


def test_vae_answers_with_levels_and_samples_in_the_form_of_the_input() -> None:
    view = leveled()
    method = built(VAE, view).eval()
    answer = method.solve([view])
    assert answer.shape == view.target.shape  # type: ignore[union-attr]
    assert answer.dtype == torch.long
    assert 0 <= answer.min() <= answer.max() <= 255
    samples = method.sample(4, seed=1)
    assert torch.equal(samples, method.sample(4, seed=1))
    assert not torch.equal(samples, method.sample(4, seed=2))
    levels = [samples.new_full((1, CHANNELS, 1, 1), level) for level in (0, 255)]
    assert (samples >= normalised(levels[0]) - 1e-5).all()
    assert (samples <= normalised(levels[1]) + 1e-5).all()


def test_a_vae_of_series_is_gaussian() -> None:
    view = replace(series(), meta={"index": torch.arange(ROWS)})
    encoder = lambda: ConvSeries(channels=1, hidden=4, width=6, depth=1)  # noqa: E731
    method = built(VAE, view, encoder())
    assert method([view], 0.0).keys() == {"reconstruction", "kl"}
    assert method.sample(2, seed=0).shape == (2, 7, 1)
    with pytest.raises(UserError, match=r"likelihood=logistic is of integer levels, .* choose gaussian"):
        built(VAE, view, encoder(), likelihood="logistic")


# ------------------------------------------------------------------------------------------------------- discrete VAE


def test_the_discrete_vae_relaxes_its_codes_in_training() -> None:
    """Ramesh et al. 2021, section 2.1: softmax((logits + gumbel) / temperature), the divergence from the uniform prior."""
    view = leveled()
    method = built(DiscreteVAE, view, codes=6, temperature=(1.0, 0.5), temperature_share=1.0, kl=3.0, kl_share=0.75)
    method.eval()  # BatchNorm's running statistics
    logits = method.codes(method.encoder.features(view, want=("maps",)).maps[-1])
    temperature = 0.5 + 0.5 * (1 + math.cos(math.pi * 0.25)) / 2
    weight = 3 - 3 * (1 + math.cos(math.pi * 0.25 / 0.75)) / 2
    codes = torch.zeros_like(logits)
    divergence = 0.0
    for b in range(ROWS):
        for i in range(4):
            for j in range(4):
                noisy = [
                    math.exp((logit + g) / temperature)
                    for logit, g in zip(logits[b, :, i, j].tolist(), method.draw(view)[b, :, i, j].tolist(), strict=True)
                ]
                codes[b, :, i, j] = torch.tensor([value / sum(noisy) for value in noisy])
                exponentials = [math.exp(logit) for logit in logits[b, :, i, j].tolist()]
                q = [value / sum(exponentials) for value in exponentials]
                divergence += sum(p * math.log(6 * p) for p in q)
    mean, log_scale = method.decoder(codes, view).unbind(1)
    inner = 0.8 * view.target / 255 + 0.1  # type: ignore[operator]
    nats = log_scale + math.log(2) + (inner * (1 - inner)).log() + (inner.logit() - mean).abs() / log_scale.exp()
    for part in method.modules():
        part.training = not isinstance(part, nn.BatchNorm2d)
    terms = method([view], 0.25)
    values = CHANNELS * SIDE * SIDE
    assert terms["reconstruction"].item() == pytest.approx(nats.mean().item(), rel=1e-4)
    assert terms["kl"].item() == pytest.approx(weight * divergence / ROWS / values, rel=1e-4)
    assert "bits_per_dim" not in terms


def test_held_out_codes_are_drawn_and_the_bits_are_of_levels() -> None:
    view = leveled()
    method = built(DiscreteVAE, view, codes=6).eval()
    logits = method.codes(method.encoder.features(view, want=("maps",)).maps[-1]).detach()
    drawn = (logits + method.draw(view)).argmax(1)
    codes = torch.zeros_like(logits)
    for b in range(ROWS):
        for i in range(4):
            for j in range(4):
                codes[b, drawn[b, i, j], i, j] = 1
    mean, log_scale = method.decoder(codes, view).detach().unbind(1)
    nats = -discretised_logit_laplace(view.target, mean, log_scale).double().sum().item()  # type: ignore[arg-type]
    q = logits.softmax(1).double()
    divergence = (q * (6 * q).log()).sum().item()
    terms = method([view], 1.0)
    assert terms["bits_per_dim"].item() == pytest.approx((nats + divergence) / view.x.numel() / math.log(2), rel=1e-4)
    frequency = q.mean((0, 2, 3))
    assert terms["code_perplexity"].item() == pytest.approx((-(frequency * frequency.log()).sum()).exp().item(), rel=1e-4)
    assert not terms["code_perplexity"].requires_grad
    answer = method.solve([view])
    assert answer.shape == view.target.shape  # type: ignore[union-attr]
    assert answer.dtype == torch.long


def test_a_cosine_leads_from_the_first_to_the_last_value() -> None:
    assert [cosine(1.0, 0.0, progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert cosine(0.0, 6.6, 0.0, 0.0) == 6.6


def test_drawn_codes_have_the_frequencies_of_their_distribution() -> None:
    """The Gumbel-max trick."""
    view = replace(leveled(), meta={"index": torch.arange(4000)})
    method = built(DiscreteVAE, leveled(), codes=3)
    logits = torch.tensor([0.5, -0.2, 1.0])
    codes = (logits.view(1, 3, 1, 1) + method.draw(view)).argmax(1).flatten()
    found = torch.bincount(codes, minlength=3) / len(codes)
    torch.testing.assert_close(found, logits.softmax(0), atol=0.01, rtol=0)


# ------------------------------------------------------------------------------------------------------------- SimMIM


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "convolutions"])
def test_simmim_is_the_mean_absolute_error_of_masked_pixels(tokens: bool) -> None:
    """Section 3.4: |y_M - x_M| / the number of masked pixels."""
    view = patched()
    method = built(SimMIM, view, vit() if tokens else Small()).eval()
    restored = method.restore(view)
    errors = [
        (restored[b, n, p] - view.target[b, n, p]).abs().item()  # type: ignore[index]
        for b in range(ROWS)
        for n in range(16)
        for p in range(PATCH * PATCH * CHANNELS)
        if view.mask[b, n]  # type: ignore[index]
    ]
    assert method([view], 0.0)["reconstruction"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "convolutions"])
def test_masked_patches_are_not_seen(tokens: bool, patch: int) -> None:
    """Patches of the view may be larger than the encoder's."""
    view = patched(patch, masked=(1, 2))
    method = built(SimMIM, view, vit() if tokens else Small()).eval()
    hidden = method.hidden(view).expand_as(view.x)
    assert hidden.float().mean().item() == pytest.approx(2 / (SIDE // patch) ** 2)
    other, shown = (torch.where(where, 1 - 2 * view.x, view.x) for where in (hidden, ~hidden))
    same, changed = method.restore(replace(view, x=other)), method.restore(replace(view, x=shown))
    torch.testing.assert_close(same, method.restore(view), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(changed, method.restore(view))


def test_simmim_answers_in_the_units_of_the_target() -> None:
    view = patched()
    method = built(SimMIM, view).eval()
    answer, restored = method.solve([view]), method.restore(view)
    assert torch.equal(answer[:, [0, 3, 5, 6]], restored[:, [0, 3, 5, 6]])
    assert torch.equal(answer[:, [1, 2, 4]], view.target[:, [1, 2, 4]])  # type: ignore[index]
    with torch.no_grad():  # what the linear layer says of a place are the pixels there
        method.out.weight.zero_()
        method.out.bias.copy_(torch.arange(float(len(method.out.bias))))
    side = method.side
    want = torch.arange(float(side * side * CHANNELS)).view(CHANNELS, side, side).repeat(1, SIDE // side, SIDE // side)
    assert torch.equal(method.restore(view)[0], nn.functional.unfold(want[None], PATCH, stride=PATCH)[0].T)


def test_patches_smaller_than_the_encoders_are_refused() -> None:
    with pytest.raises(UserError, match=r"masked.patch=1: must be a multiple of the encoder's patch of 2"):
        built(SimMIM, patched(1), vit())


# ---------------------------------------------------------------------------------------------------------------- MAE


def test_moments_of_masked_tokens_are_interpolated_from_visible_ones() -> None:
    view = patched()
    mean, std = interpolated_moments(view.target, ~view.mask, (4, 4))  # type: ignore[arg-type, operator]
    for n in range(16):
        own = view.target[0, n].tolist()  # type: ignore[index]
        if not view.mask[0, n]:  # type: ignore[index]
            middle = sum(own) / len(own)
            variance = sum((value - middle) ** 2 for value in own) / (len(own) - 1)
            assert mean[0, n].item() == pytest.approx(middle, abs=1e-6)
            assert std[0, n].item() == pytest.approx(math.sqrt(variance + 1e-6), rel=1e-4)
            continue
        known = [m for m in range(16) if not view.mask[0, m]]  # type: ignore[index]
        weights = [1 / ((n // 4 - m // 4) ** 2 + (n % 4 - m % 4) ** 2) for m in known]
        weighed = lambda values: sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)  # noqa: B023, E731
        assert mean[0, n].item() == pytest.approx(weighed([mean[0, m].item() for m in known]), abs=1e-5)
        assert math.log(std[0, n].item()) == pytest.approx(weighed([math.log(std[0, m].item()) for m in known]), abs=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_answers_in_the_units_of_the_target_without_looking_at_masked_tokens(normalise: bool) -> None:
    view = patched()
    method = built(MAE, view, vit(), normalise=normalise).eval()
    answer, masked = method.solve([view]), view.mask
    assert masked is not None
    assert torch.equal(answer[~masked], view.target[~masked])  # type: ignore[index]
    restored = method.restore(view)
    if normalise:
        mean, std = interpolated_moments(view.target, ~masked, (4, 4))  # type: ignore[arg-type]
        restored = restored * std + mean
    torch.testing.assert_close(answer[masked], restored[masked])
    other = torch.where(masked.unsqueeze(2), 100.0, view.target)  # type: ignore[arg-type]
    hidden = masked.view(-1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    changed = method.solve([replace(view, target=other, x=torch.where(hidden, 100.0, view.x))])
    torch.testing.assert_close(changed, answer)
