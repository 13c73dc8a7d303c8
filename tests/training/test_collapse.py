"""The verdict: each rule on measures of real runs (benchmarks/collapse.py), three small runs, and looks that leave no trace."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Cli
from sklearn.datasets import load_digits
from torch import Tensor, nn
from toy import Spread, fit

from untaught.config.registry import method_class
from untaught.core import Encoder, Facts, Features, Method, Preprocessor, Terms, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.patch_series import PatchSeries
from untaught.encoders.timm import vit_mini
from untaught.methods.distillation.byol import BYOL
from untaught.methods.reconstruction.mae import MAE
from untaught.modalities.image import IMAGE
from untaught.modalities.series import SERIES
from untaught.modalities.text import TEXT
from untaught.ops.cosine import cosine_distance
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.view_pipeline import Views, used_view, view_names, view_options
from untaught.training.collapse import RULES, CollapseDetector, FeatureStats, Measures, _distinct, _same, _stats, broken
from untaught.training.trainer import Collapsed

LAYOUT = {"size": 16, "side": 8, "channels": 1, "bits": 8, "preset": "upright"}

# ------------------------------------------------------------------------------------------------ rules, on what runs measured


def sight(rank: float, spread: float = 0.65, noise: float | None = 0.2, confusion: float | None = 0.04) -> FeatureStats:
    return FeatureStats(rank, spread, directions=4.0, noise=noise, confusion=confusion)


def measures(first: dict[str, FeatureStats] | None = None, now: dict[str, FeatureStats] | None = None, **changed: Any) -> Measures:
    """Those of simclr on Fashion-MNIST after 80 of 200 steps, healthy, but for the heads (untrained and now) and what is changed."""
    heads = {
        "first_heads": first or {"projector": sight(42.8, 1.0, 0.73, 0.217)},
        "heads": now or {"projector": sight(25.6, 0.98, 0.16, 0.024)},
    }
    encoders = {"first_encoder": sight(15.3, 0.31, 0.47, 0.164), "encoder": sight(21.2, 0.62, 0.23, 0.043)}
    rest = {
        "step": 80,
        "first_loss": 4.578,
        "loss": 2.113,
        "moved": 0.24,
        "dimensions": 60,
        "distinct": 1.0,
        "same_views": False,
        "shown": None,
    }
    return Measures(**{**encoders, **heads, **rest, **changed})


BROKEN: dict[str, tuple[str, Measures, str]] = {
    "one document": ("samples", measures(distinct=0.02), "only 2.0% of the data is distinct"),
    "identical views": ("views", measures(same_views=True), "all views of a sample are identical"),
    "all visible": ("shown", measures({}, {}, shown=1.0), "the reconstruction target is visible in the input"),
    "4 directions": (
        "bottleneck",
        measures(dimensions=4),
        "features span only 4 dimensions, even before training",
    ),
    "lr 1e-7": ("frozen", measures(moved=3e-6), "its weights changed by 3e-06 of their norm"),
    "lr 10": ("destroyed", measures(moved=250.0), "in 80 steps they changed by 250 times their norm"),
    "lr 10, a long run": ("destroyed", measures(step=400, moved=12.0), "in 400 steps they changed by 12 times their norm"),
    "a constant encoder": ("constant", measures(encoder=sight(1.0, 0.001)), "the encoder maps all samples to nearly the same vector"),
    "byol, not stopped": (
        "constant",
        measures({"projector": sight(45.5, 0.82, 0.7, 0.184)}, {"projector": sight(2.0, 0.035, 0.18, 0.12)}),
        "the projector maps all samples to nearly the same vector (std 0.04, before training 0.82)",
    ),
    "vicreg without variance": (
        "constant",
        measures({"expander": sight(50.4, 0.81, 0.78, 0.208)}, {"expander": sight(14.2, 0.214, 0.42, 0.138)}),
        "the expander maps all samples to nearly the same vector",
    ),
    "vicreg without variance, at a low rate": (
        "constant",
        measures({"expander": sight(44.5, 0.788, 0.865, 0.338)}, {"expander": sight(36.2, 0.501, 0.937, 0.411)}),
        "the expander maps all samples to nearly the same vector",
    ),
    "simsiam, not stopped": (
        "constant",
        measures(
            {"projector": sight(38.5, 1.0, 0.81, 0.293), "predictor": sight(13.7, 0.7, 0.9, 0.402)},
            {"projector": sight(5.8, 0.665, 0.38, 0.259), "predictor": sight(4.1, 0.572, 0.21, 0.203)},
        ),
        "the projector maps all samples to nearly the same vector",
    ),
    "simclr at temperature 100": (
        "narrow",
        measures(now={"projector": sight(5.4, 0.999, 0.06, 0.076)}, first_loss=4.841, loss=4.835),
        "the projector's output has effective rank 5.4 (before training 42.8), and the loss hardly falls",
    ),
    "barlow_twins without invariance": (
        "noise",
        measures({"projector": sight(50.4, 0.81, 0.78, 0.208)}, {"projector": sight(45.7, 0.89, 0.92, 0.412)}),
        "two views of a sample as far apart as two samples (squared distance ratio 0.92",
    ),
    "dino without its centre": (
        "prototypes",
        measures({"head": replace(sight(48.0, 0.85), used=36)}, {"head": replace(sight(16.2, 0.51), used=4)}),
        "the head assigns all samples to 4 of its prototypes (before training 36)",
    ),
    "discrete_vae whose divergence weighs too much": (
        "codes",
        measures({"codes": replace(sight(20.0, 0.1), codes=60)}, {"codes": replace(sight(30.0, 0.4), codes=3)}),
        "the codes of all samples are the same 3 (before training 60)",
    ),
    "wav2vec2 with distinct negatives, on 50 minutes of speech": (
        "codes",
        measures(
            {"codes": replace(sight(24.2, 0.727, None, None), codes=143, code_perplexity=28.2)},
            {"codes": replace(sight(1.4, 0.104, None, None), codes=3, code_perplexity=1.4)},
        ),
        "the codes of all samples are the same 3 (before training 143)",
    ),
    "the same, half-way": (
        "codes",
        measures(
            {"codes": replace(sight(24.2, 0.727, None, None), codes=143, code_perplexity=28.2)},
            {"codes": replace(sight(3.8, 0.167, None, None), codes=14, code_perplexity=2.2)},
        ),
        "the codes in use, by the entropy of their frequencies, are 2.2 (before training 28)",
    ),
    "no progress": (
        "stuck",
        measures({}, {}, first_loss=4.841, loss=4.835),
        "the loss has not changed since before training (4.841, now 4.835)",
    ),
}
HEALTHY = {
    "simclr": measures(),
    "margin": measures({"projector": sight(39.5, 0.81, 0.7, 0.208)}, {"projector": sight(8.7, 0.936, 0.07, 0.049)}),
    "margin on CIFAR-10": measures(
        {"projector": sight(41.0, 0.8, 0.79, 0.27)}, {"projector": sight(9.0, 0.88, 0.38, 0.13)}, first_loss=21.0, loss=14.2
    ),
    "byol": measures(
        {"projector": sight(45.5, 0.82, 0.7, 0.184), "predictor": sight(46.2, 0.81, 0.75, 0.217)},
        {"projector": sight(19.8, 0.89, 0.17, 0.078), "predictor": sight(11.8, 0.748, 0.09, 0.065)},
    ),
    "ibot": measures({"head": sight(40.0, 0.85, 0.66, 0.25)}, {"head": sight(20.0, 0.485, 0.3, 0.107)}),
    "swav on CIFAR-10": measures(
        {"projector": sight(40.0, 0.8, 0.79, 0.25)}, {"projector": sight(13.0, 0.82, 0.56, 0.25)}, first_loss=5.5, loss=5.15
    ),
    "moco, whose head sees one view": measures(
        {"head": sight(44, 0.8, None, None)}, {"head": sight(9, 0.9, None, None)}, first_loss=1.7, loss=3.7
    ),
    "dino": measures({"head": replace(sight(48.0, 0.85), used=36)}, {"head": replace(sight(19.6, 0.59), used=9)}),
    "wav2vec2 in a short run": measures(
        {"codes": replace(sight(28.2, 0.859, None, None), codes=123, code_perplexity=47.0)},
        {"codes": replace(sight(28.9, 0.868, None, None), codes=127, code_perplexity=57.1)},
        first_loss=4.77,
        loss=4.41,
    ),
    "a long run": measures(step=10_000, moved=8.0),
    "mae": measures({}, {}, shown=0.0, first_loss=1.21, loss=0.86),
    "mlm": measures({}, {}, shown=0.13, first_loss=7.7, loss=7.1, distinct=0.9),
    "deepcluster, without clusters at first": measures(first_loss=None, loss=4.0),
}


@pytest.mark.parametrize(("name", "seen", "because"), BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_named_with_its_cause(name: str, seen: Measures, because: str) -> None:
    rule, said = broken(seen, progress=0.4)
    assert rule is not None
    assert rule.name == name
    assert because in said


def test_every_rule_is_tried() -> None:
    assert {rule.name for rule in RULES} == {name for name, _, _ in BROKEN.values()}


@pytest.mark.parametrize("seen", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_run_is_left_alone(seen: Measures) -> None:
    assert broken(seen, progress=0.4) == (None, "")


def test_what_training_changes_is_not_judged_early() -> None:
    early, late = (measures(moved=3e-6, step=step) for step in (49, 50))
    assert broken(early, progress=0.5)[0] is broken(late, progress=0.09)[0] is None
    assert broken(late, progress=0.1)[0] is not None
    assert broken(measures(same_views=True, step=1), progress=0.001)[0] is not None


# -------------------------------------------------------------------------------------------------------------- small runs


class Unstopped(Method):
    """BYOL without predictor, teacher and stopped gradient: the constant is its best answer."""

    views = BYOL.views

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, BYOL(encoder, facts).projector

    def forward(self, views: list[View], progress: float) -> Terms:
        a, b = (self.projector(self.encoder(view)) for view in views)
        return {"distance": 2 * cosine_distance(a, b)}


@cache
def digits() -> dict[str, Tensor]:
    flat, _ = load_digits(return_X_y=True)
    pixels = torch.from_numpy((flat.reshape(-1, 1, 8, 8) * 15.9).astype("uint8"))
    return {"pixels": pixels, "aspect": torch.ones(len(pixels)), "index": torch.arange(len(pixels))}


def untrained(
    method: str | type[Method], names: tuple[str, ...] = (), encoder: Encoder | None = None
) -> tuple[Method, Views, CollapseDetector]:
    torch.manual_seed(0)
    cls, data = method_class(method), digits()
    if encoder is None:
        encoder = (
            vit_mini(channels=1, size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2)
            if cls.needs
            else ConvSmall(channels=1, size=16, width=4)
        )
    names, prep = names or view_names(cls, IMAGE), Preprocessor(IMAGE, LAYOUT).fitted(data)
    views = Views(names, prep, view_options(names, prep, {}), seed=0)
    views.fit_encoder(encoder)
    two = dict(zip(names, views({key: value[:2] for key, value in data.items()}, 0), strict=True))
    build: Any = cls
    built = build(encoder, Facts(len(data["index"]), two, prep.statistics))
    whole = used_view(prep, "whole")
    return built, views, CollapseDetector(built, views, {"encoder": whole}, {key: value[:64] for key, value in data.items()}, {})


def test_alignment_and_uniformity_are_those_of_wang_and_isola() -> None:
    built, views, health = untrained("simclr")
    looked = health(100, 0.5, 0.1, 1.0, {})
    batch, encoder = {key: value[:64] for key, value in digits().items()}, built.exported()["encoder"].eval()
    whole = used_view(views.prep, "whole")
    with torch.no_grad():
        x, a, b = (nn.functional.normalize(encoder(view)).double() for view in (*whole(batch, 0), *views(batch, 0)))
    pairs = [float((x[i] - x[j]).square().sum()) for i in range(64) for j in range(i)]
    assert looked["uniformity"] == pytest.approx(math.log(sum(math.exp(-2 * squared) for squared in pairs) / len(pairs)), rel=1e-4)
    assert looked["alignment"] == pytest.approx(float((a - b).square().sum() / 64), rel=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(method: str | type[Method], steps: int, rate: float) -> dict[str, Any]:
    """The health after some steps on real digits."""
    built, views, health = untrained(method)
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], rate)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(0, len(digits()["index"]), (64,), generator=generator)
        terms = built(views({key: value[rows] for key, value in digits().items()}, step), 0.5)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        built.after_step(0.5)
        built.pending.clear()
    return health(200, 0.5, rate, 0.5, {"share_data": 0.25})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("method", "steps", "rate", "because", "remedy"),
    [
        (
            Unstopped,
            40,
            1e-2,
            "the projector maps all samples to nearly the same vector",
            "a stop-gradient that prevents collapse; or a lower lr (now 0.01)",
        ),
        ("simclr", 2, 1e-9, "the encoder hardly trains", "a higher lr (now 1e-09)"),
        ("simclr", 30, 5e-3, "", ""),
    ],
    ids=["not stopped", "frozen", "healthy"],
)
def test_small_runs(method: Any, steps: int, rate: float, because: str, remedy: str) -> None:
    found = train(method, steps, rate)
    assert found["because"].startswith(because), found
    assert bool(found["because"]) == bool(because)
    assert remedy in found["try"]
    assert found["verdict"] == ("collapsing" if because else "healthy")
    assert (found["gradient_norm"], found["share_data"]) == (0.5, 0.25)
    assert json.loads(json.dumps(found["measures"])) == found["measures"]
    assert broken(Measures.read(found["measures"]), 0.5)[1] == found["because"]


# ------------------------------------------------------------------------------------------------- what the method is given


class VisibleMAE(MAE):
    def restore(self, view: View) -> Tensor:
        kept = self.encoder.context(self.encoder.embed(view)[0]).tokens
        assert kept is not None
        return self.out(self.decoder(self.into(kept) + self.positions))


class Narrow(Encoder):
    width = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.Linear(4, 16))

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.layers(view.x))


def verdict(health: CollapseDetector) -> str:
    return health(1, 0.001, 1.0, 0.0, {})["because"]


def test_faults_of_what_is_given_are_named_at_the_first_look() -> None:
    assert verdict(untrained("simclr")[2]) == verdict(untrained("mae")[2]) == ""
    assert "all views of a sample are identical" in verdict(untrained("simclr", ("whole", "whole"))[2])
    assert "target is visible in the input" in verdict(untrained(VisibleMAE)[2])
    assert "span only 4 dimensions" in verdict(untrained("simclr", encoder=Narrow())[2])


def series_health(method: type[Method]) -> CollapseDetector:
    random = np.random.default_rng(0)
    found = [{"series": random.normal(size=(2, length)), "name": str(i)} for i, length in enumerate([20, 13, 16, 20] * 4)]
    layout = SERIES.plan(found, {})
    batch, _ = batch_of(found, Preprocessor(SERIES, layout))
    encoder = PatchSeries(channels=2, length=20, width=8, heads=2, depth=1, patch=4)
    names = view_names(method, SERIES)
    prep = Preprocessor(SERIES, layout).fitted(batch)
    views = Views(names, prep, view_options(names, prep, {}), seed=0)
    views.fit_encoder(encoder)
    built: Any = method
    facts = Facts(len(found), dict(zip(names, views(batch, 0), strict=True)), prep.statistics)
    whole = used_view(prep, "whole")
    return CollapseDetector(built(encoder, facts), views, {"encoder": whole}, batch, {})


def test_hidden_patches_of_series_are_not_shown() -> None:
    torch.manual_seed(0)
    assert series_health(MAE).looks[0].first.shown == 0.0
    assert series_health(VisibleMAE).looks[0].first.shown == 1.0


def test_views_of_several_inputs_are_compared_by_all_of_them() -> None:
    a, b = torch.tensor([[1.0], [1.0], [2.0], [2.0]]), torch.tensor([[1], [2], [3], [3]])
    assert _distinct(View({"a": a, "b": b})) == 0.75
    assert _same([View({"a": a, "b": b}), View({"a": a.clone(), "b": b})])
    assert not _same([View({"a": a, "b": b}), View({"a": a, "b": b + 1})])
    assert not _same([View({"a": a, "b": b}), View(a)])


def test_dropout_tells_identical_views_apart() -> None:
    class Dropping(ConvSmall):
        def __init__(self, p: float) -> None:
            super().__init__(channels=1, size=16, width=4)
            self.dropout = nn.Dropout(p)

    assert verdict(untrained("simclr", ("whole", "whole"), Dropping(0.1))[2]) == ""
    assert "identical" in verdict(untrained("simclr", ("whole", "whole"), Dropping(0.0))[2])


def test_texts_are_compared_by_eight_tokens_in_a_row() -> None:
    document = torch.arange(100)
    shifted = torch.stack([document.roll(i)[:32] for i in range(100)])
    assert _distinct(View(shifted)) == pytest.approx(100 / (100 * 25))  # of 100 runs of 32 tokens, each with 25 windows
    assert _distinct(View(torch.arange(64 * 32).view(64, 32))) == 1.0
    valid = torch.arange(32).expand(100, -1) < 8  # the rest is padding
    assert _distinct(View(shifted, valid)) == 1.0
    assert _distinct(View(torch.ones(10, 1, 4, 4))) == pytest.approx(0.1)


@pytest.mark.parametrize(("mask", "low", "high"), [(0.8, 0.0, 0.3), (0.0, 1.0, 1.0)])
def test_tokens_that_are_left_as_they_were_are_shown(mask: float, low: float, high: float) -> None:
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    layout = {"length": 16, "special": special, "vocabulary": 50, "tokenizer": "x"}
    options = view_options(("masked_tokens",), Preprocessor(TEXT, layout), {"masked_tokens.mask": mask, "masked_tokens.random": 0.0})
    views = Views(("masked_tokens",), Preprocessor(TEXT, {}, layout), options, seed=0)
    ids = torch.randint(5, 50, (64, 17), generator=torch.Generator().manual_seed(0))
    health = object.__new__(CollapseDetector)
    health.read = views({"ids": ids, "index": torch.arange(64)}, 0)
    shown = health._shown()
    assert shown is not None
    assert low <= shown <= high


# ------------------------------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("method", ["dino", "cpc"])  # with a teacher; and one that sets BatchNorm's momentum itself
def test_a_look_leaves_the_method_as_it_was(method: str) -> None:
    built, _, health = untrained(method)
    before = {key: value.clone() for key, value in built.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (health(99, 0.5, 1.0, 0.0, {}) for _ in range(2))
    assert first == second
    assert (first["teacher_lag"] is not None) == (method == "dino")
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert built.training
    assert built.pending == []
    assert not any(part._forward_hooks for part in built.modules())


def test_a_method_that_needs_more_samples_than_are_looked_at_has_no_heads() -> None:
    built, _, health = untrained("w_mse")  # 64 samples, of which it whitens 64 dimensions
    assert health.looks[0].first.heads == {}
    assert health(99, 0.5, 1.0, 0.0, {})["measures"]["loss"] is None
    assert built.training


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_features_without_a_direction_do_not_end_a_run(value: float) -> None:
    built, _, health = untrained("simclr")
    with torch.no_grad():
        for parameter in [*built.encoder.parameters(), *built.get_submodule("projector").parameters()]:
            parameter.fill_(value)
    found = health(60, 0.5, 1.0, 0.0, {})
    assert found["verdict"] == "collapsing"
    assert found["measures"]["encoder"]["spread"] == 0.0
    assert found["measures"]["encoder"]["rank"] == 1.0


def test_the_measures_are_those_of_loops() -> None:
    x = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    a, b = x[:3], x[3:]
    sight = _stats(x, a, b)
    mean = x.mean(0)
    assert sight.spread == pytest.approx((sum(float((row - mean).square().sum()) for row in x) / 6) ** 0.5, rel=1e-5)
    apart = sum(float((p - q).square().sum()) for p in a for q in a) / 9
    assert sight.noise == pytest.approx(sum(float((p - q).square().sum()) for p, q in zip(a, b, strict=True)) / 3 / apart, rel=1e-4)
    nearer = [(a[i] - b[j]).norm() < (a[i] - b[i]).norm() for i in range(3) for j in range(3) if i != j]
    assert sight.confusion == pytest.approx(sum(map(bool, nearer)) / 6)
    assert 0 < sum(map(bool, nearer)) < 6
    values = torch.linalg.eigvalsh((x.T @ x).double()).sqrt()
    share = values / values.sum()
    assert sight.rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-4)
    energy = torch.linalg.eigvalsh(((x - mean).T @ (x - mean)).double())
    assert sight.directions == pytest.approx(float(energy.sum() ** 2 / energy.square().sum()), rel=1e-4)
    assert _stats(x).noise is None


# -------------------------------------------------------------------------------------------------------- in the loop


def looked(because: str = "") -> dict[str, Any]:
    return {"verdict": "collapsing" if because else "healthy", "because": because, "try": "lr=1"}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 8, 10]), (3, [4, 6, 10]), (0, [10]), (None, [10])])
def test_it_is_looked_at_every_few_steps_and_at_the_end(tmp_path: Path, every: int | None, steps: list[int]) -> None:
    run = fit(tmp_path, Spread(), steps=10, log_every=2, lr=0.01, health_every=every)
    seen: list[tuple[float, float]] = []
    run.health = lambda step, progress, lr, norm, shares: seen.append((progress, norm)) or looked()
    run.run()
    assert [row["step"] for row in rows(tmp_path) if "health" in row] == steps
    assert [progress for progress, _ in seen] == [step / 10 for step in steps]
    assert all(norm > 0 for _, norm in seen)


def test_by_default_a_short_run_is_looked_at_before_half_of_it(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), steps=200, batch_size=64, log_every=20, lr=0.01)
    run.health = lambda step, progress, lr, norm, shares: looked()
    run.run()
    assert [row["step"] for row in rows(tmp_path) if "health" in row] == [80, 140, 200]


def test_stop_on_collapse_ends_the_run_saved_and_says_why(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), steps=10, log_every=2, lr=0.01, health_every=2, stop_on_collapse=True)
    run.health = lambda step, progress, lr, norm, shares: looked("all is one" if progress >= 0.4 else "")
    with pytest.raises(Collapsed) as stop:
        run.run()
    place = tmp_path / "checkpoints" / "step-4"
    assert str(stop.value) == f"stopped at step 4 of 10, collapsing because all is one; try lr=1; saved in {place}"
    assert isinstance(stop.value, UserError)
    assert place.is_dir()


def test_without_it_the_run_goes_on(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), steps=10, log_every=2, lr=0.01, health_every=2)
    run.health = lambda step, progress, lr, norm, shares: looked("all is one")
    run.run()
    assert run.step == 10


def test_the_command_stops_with_one_line_and_goes_on_when_told_to(cli: Cli, tmp_path: Path) -> None:
    words = [
        "steps=90",
        "size=16",
        "batch_size=64",
        "encoder.width=4",
        "optimizer=adamw",
        "lr=2e-3",
        "log_every=10",
        "health_every=10",
        "evaluate_every=0",
    ]
    broken = ["pretrain", "builtin:digits", "--method", "vicreg", "variance=0", *words]
    stopped = cli(*broken, "--out", tmp_path / "run", "stop_on_collapse=true")
    assert "the expander maps all samples to nearly the same vector" in stopped.error
    assert "try variance=25.0 (the default)" in stopped.error
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert rows(tmp_path / "run")[-1]["health"]["verdict"] == "collapsing"
    gone_on = cli("pretrain", "--out", tmp_path / "run", "--resume", "stop_on_collapse=false")
    assert gone_on.code == 0, gone_on.err
    assert "warning: collapsing because the expander" in gone_on.err
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()
