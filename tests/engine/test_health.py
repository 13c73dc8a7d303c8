"""The verdict: collapse is caught in networks that are trained into it, and healthy runs are left in peace."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Cli
from sklearn.datasets import load_digits
from torch import Tensor
from toy import Spread, fit

from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.timm import vit_mini
from untaught.engine.build import method_class
from untaught.engine.fit import Collapsed
from untaught.engine.health import Health, Sight, _sight
from untaught.engine.views import Views, view_names, view_options
from untaught.methods.distillation.byol import BYOL, distance
from untaught.modalities.image import IMAGE

STEPS, BATCH, RATE = 100, 64, 2e-3
LAYOUT = {"size": 16, "side": 8, "channels": 1, "bits": 8, "preset": "upright"}


class Unstopped(Method):
    """BYOL without a teacher and without the stopped gradient: the constant is its best answer."""

    views = BYOL.views

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        whole = BYOL(encoder, facts)
        self.encoder, self.projector, self.predictor = encoder, whole.projector, whole.predictor

    def forward(self, views: list[View], progress: float) -> Terms:
        a, b = (self.projector(self.encoder(view.x)) for view in views)
        return {"distance": distance(self.predictor(a), b) + distance(self.predictor(b), a)}


@cache
def digits() -> dict[str, Tensor]:
    flat, _ = load_digits(return_X_y=True)
    pixels = torch.from_numpy((flat.reshape(-1, 1, 8, 8) * 15.9).astype("uint8"))
    return {"pixels": pixels, "aspect": torch.ones(len(pixels)), "index": torch.arange(len(pixels))}


def untrained(method: str | type[Method], knobs: dict[str, Any]) -> tuple[Method, Views, Health]:
    torch.manual_seed(0)
    cls, data = method_class(method), digits()
    encoder = vit_mini(channels=1, size=16, embed_dim=24, depth=2, num_heads=2) if cls.needs else ConvSmall(channels=1, size=16, width=4)
    names, statistics = view_names(cls, IMAGE), IMAGE.fit(data, LAYOUT)
    views = Views(names, IMAGE, view_options(names, IMAGE, LAYOUT, {}), statistics, seed=0)
    views.fit_encoder(encoder)
    two = dict(zip(names, views({key: value[:2] for key, value in data.items()}, 0), strict=True))
    build: Any = cls
    built = build(encoder, Facts(len(data["index"]), two, statistics), **knobs)
    whole = Views(("whole",), IMAGE, [IMAGE.presets(LAYOUT)["whole"]], statistics, seed=0)
    return built, views, Health(built, views, whole, data, dict.fromkeys(knobs, "paper's"))


def train(method: str | type[Method], **knobs: Any) -> dict[str, Any]:
    """The health after 100 steps on real digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    built, views, health = untrained(method, knobs)
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], RATE)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        progress = step / STEPS
        rows = torch.randint(0, len(digits()["index"]), (BATCH,), generator=generator)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / 10) * (1 - progress)
        terms = built(views({key: value[rows] for key, value in digits().items()}, step), progress)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        built.before_step(progress)
        optimizer.step()
        built.after_step(progress)
        built.pending.clear()
    torch.set_num_threads(threads)
    return health(STEPS, 1.0, RATE, 0.5, {"share_data": 0.25})


@pytest.mark.parametrize(
    ("method", "knobs", "because", "remedy"),
    [
        (Unstopped, {}, "the pr.* gives samples nearly the same vector", "stopped gradient .* or a lower lr"),
        ("simclr", {"temperature": 100.0}, r"the projector puts samples along \d\.\d of the encoder's", "temperature=paper's"),
        ("vicreg", {"variance": 0.0}, "the expander gives samples nearly the same vector", "variance=paper's"),
    ],
    ids=["byol without its stopped gradient", "simclr at temperature 100", "vicreg without variance"],
)
def test_collapse_is_caught_with_its_cause_and_what_to_try(method: Any, knobs: dict[str, Any], because: str, remedy: str) -> None:
    found = train(method, **knobs)
    assert found["verdict"] == "collapsing", found
    assert re.search(because, found["because"])
    assert re.search(remedy, found["try"])


@pytest.mark.parametrize("method", ["simclr", "vicreg", "byol", "dino", "mae"])
def test_a_healthy_run_is_left_in_peace(method: str) -> None:
    found = train(method)
    assert (found["verdict"], found["because"], found["try"]) == ("healthy", "", ""), found
    assert found["std"] > found["std_untrained"]
    assert (found["teacher_lag"] is not None) == (method in ("byol", "dino"))
    assert found["gradient_norm"] == 0.5
    assert found["share_data"] == 0.25


def test_a_look_leaves_the_method_as_it_was() -> None:
    method, _, health = untrained("dino", {})
    before = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (health(99, 0.5, 1.0, 0.0, {}) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert method.training
    assert method.pending == []
    assert not any(part._forward_hooks for part in method.modules())


def test_a_predictor_may_be_narrower_than_its_projector() -> None:
    """As byol's was in a healthy run on CIFAR-10."""
    _, _, health = untrained("byol", {})
    sight = Sight(rank=52.0, spread=0.57, directions=8.1, noise=0.15)
    projector, predictor = Sight(54.0, 0.84, 8.5, 0.31), Sight(24.5, 0.73, 4.98, 0.22)
    assert health._judge(sight, {"projector": projector, "predictor": predictor}, 0.1) == ("", "")
    narrow = Sight(12.5, 1.0, 4.2, 0.26)  # simclr's at temperature 100
    because, _ = health._judge(sight, {"projector": narrow, "predictor": narrow}, 0.1)
    assert "along 4.2 of the encoder's 8.1 directions" in because
    margin = Sight(7.9, 0.87, 4.7, 0.13)  # which needs few to keep others a margin apart
    assert health._judge(sight, {"projector": margin}, 0.1) == ("", "")
    scores = Sight(14.9, 0.89, 3.5, 0.35)  # of prototypes, dinov2's, when kNN was 11 points above the untrained encoder
    assert health._judge(sight, {"head": scores}, 0.1) == ("", "")


class Constant(Encoder):
    width = 4

    def __init__(self, along: Tensor) -> None:
        super().__init__()
        self.along = torch.nn.Parameter(along)

    def features(self, x: Tensor, valid: Tensor | None = None, want: tuple[str, ...] = ("pooled",)) -> Any:
        from untaught.core import Features

        return Features(pooled=x.mean((1, 2, 3))[:, None] * self.along + 1)


def test_a_constant_encoder_is_caught_but_not_judged_early() -> None:
    method, views, _ = untrained("simclr", {})
    method.encoder = Constant(torch.randn(4))
    method.projector = torch.nn.Linear(4, 4)  # type: ignore[assignment]
    whole = Views(("whole",), IMAGE, [IMAGE.presets(LAYOUT)["whole"]], views.statistics, seed=0)
    health = Health(method, views, whole, digits(), {})
    with torch.no_grad():
        method.encoder.along.mul_(1e-4)  # type: ignore[operator]
    assert health(99, 0.05, 1.0, 0.0, {})["verdict"] == "healthy"
    assert health(49, 0.5, 1.0, 0.0, {})["verdict"] == "healthy"
    assert "the encoder gives every sample nearly the same vector" in health(50, 0.5, 1.0, 0.0, {})["because"]


def test_the_measures_are_those_of_loops() -> None:
    x = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    a, b = x[:3], x[3:]
    sight = _sight(x, a, b)
    mean = x.mean(0)
    assert sight.spread == pytest.approx((sum(float((row - mean).square().sum()) for row in x) / 6) ** 0.5, rel=1e-5)
    apart = sum(float((p - q).square().sum()) for p in a for q in a) / 9
    assert sight.noise == pytest.approx(sum(float((p - q).square().sum()) for p, q in zip(a, b, strict=True)) / 3 / apart, rel=1e-4)
    values = torch.linalg.eigvalsh((x.T @ x).double()).sqrt()
    share = values / values.sum()
    assert sight.rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-4)
    energy = torch.linalg.eigvalsh(((x - mean).T @ (x - mean)).double())
    assert sight.directions == pytest.approx(float(energy.sum() ** 2 / energy.square().sum()), rel=1e-4)


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
    assert "the expander gives samples nearly the same vector" in stopped.error
    assert "try variance=25.0 (the default)" in stopped.error
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert rows(tmp_path / "run")[-1]["health"]["verdict"] == "collapsing"
    gone_on = cli("pretrain", "--out", tmp_path / "run", "--resume", "stop_on_collapse=false")
    assert gone_on.code == 0, gone_on.err
    assert "warning: collapsing because the expander" in gone_on.err
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()
