"""Knobs: what each type takes, what is refused and how, and what follows from them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from untaught.commands.pretrain import decide
from untaught.config.overrides import knobs_of, method_knobs, parse, unknown
from untaught.config.registry import method_class, modality_named
from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Method, Preprocessor, Terms, UserError, View
from untaught.methods.contrastive.simclr import SimCLR
from untaught.modalities.image import IMAGE
from untaught.pipeline.view_pipeline import Views, view_names, view_options
from untaught.training.optim import default_lr, optimizer_for, parameter_groups, rate, set_rate

PARSED = [
    ("3", int, 3),
    (3, int, 3),
    (3.0, int, 3),
    ("3e-4", float, 3e-4),
    (2, float, 2.0),
    ("yes", bool, True),
    ("off", bool, False),
    (True, bool, True),
    ("lars", str, "lars"),
    ("none", int | None, None),
    (None, int | None, None),
    ("7", int | None, 7),
    ("linear", Literal["cosine", "linear"], "linear"),
    ("0.2,1", tuple[float, float], (0.2, 1.0)),
    ("(0.2, 1)", tuple[float, float], (0.2, 1.0)),
    ([0.2, 1], tuple[float, float], (0.2, 1.0)),
    ("1,2,3", tuple[int, ...], (1, 2, 3)),
    ("4", Any, 4),
    ("0.5", Any, 0.5),
    ("true", Any, True),
    ("avg", Any, "avg"),
]


@pytest.mark.parametrize(("text", "kind", "want"), PARSED, ids=str)
def test_every_type_is_parsed(text: Any, kind: Any, want: Any) -> None:
    found = parse("knob", text, kind)
    assert found == want
    assert type(found) is type(want)


REFUSED = [
    ("3.5", int, "a whole number"),
    (3.5, int, "a whole number"),
    (True, int, "a whole number"),
    (math.inf, int, "a whole number"),
    (math.nan, int, "a whole number"),
    ("many", int, "a whole number"),
    ("", float, "a finite number"),
    (math.nan, float, "a finite number"),
    ("1e400", float, "a finite number"),
    ("", str, "text"),
    (True, float, "a finite number"),
    ([1], float, "a finite number"),
    (None, float, "a finite number"),
    ("maybe", bool, "true or false"),
    (2, bool, "true or false"),
    ("step", Literal["cosine", "linear"], "one of cosine, linear"),
    ("0.2", tuple[float, float], "2 comma-separated numbers"),
    ("1,2,3", tuple[float, float], "2 comma-separated numbers"),
    ("a,b", tuple[float, float], "2 comma-separated numbers"),
    (0.2, tuple[float, float], "2 comma-separated numbers"),
    ("x", int | None, "a whole number or none"),
]


@pytest.mark.parametrize(("text", "kind", "says"), REFUSED, ids=str)
def test_the_wrong_type_is_refused_with_what_is_allowed(text: Any, kind: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"^knob=.*: must be {says}"):
        parse("knob", text, kind)


@pytest.mark.parametrize("name", sorted(knobs_of(TrainConfig)))
def test_every_default_of_the_recipe_is_of_its_type(name: str) -> None:
    kind, default = knobs_of(TrainConfig)[name]
    assert parse(name, default, kind) == default


WRONG = [
    {"lr": -1.0},
    {"lr": 0.0},
    {"lr": math.nan},
    {"lr": math.inf},
    {"batch_size": 0},
    {"epochs": 0},
    {"steps": -5},
    {"minutes": math.inf},
    {"minutes": math.nan},
    {"accumulate": 0},
    {"log_every": 0},
    {"save_every": 0},
    {"weight_decay": -0.1},
    {"momentum": math.nan},
    {"warmup": 1.5},
    {"warmup": -0.1},
    {"clip": -1.0},
    {"cache_gradients": -1},
    {"evaluate_every": -1},
    {"seed": -1},
    {"epochs": 1, "steps": 1},
    {"batch_size": 10, "accumulate": 3},
    {"accumulate": 2, "cache_gradients": 8},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_wrong_sign_or_size_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(**wrong)
    assert all(name in str(caught.value) for name in wrong)


def test_unknown_names_show_the_nearest_and_all() -> None:
    message = str(unknown("knob", "temprature", ["temperature", "lr", "epochs"]))
    assert message == "unknown knob temprature; did you mean temperature? known: epochs, lr, temperature"
    assert str(unknown("knob", "zzz", ["lr"])) == "unknown knob zzz; known: lr"


@pytest.mark.parametrize(("find", "name", "near"), [(method_class, "simclrr", "simclr"), (modality_named, "images", "image")])
def test_unknown_methods_and_modalities_show_the_nearest(find: Any, name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {near}"):
        find(name)


def test_a_methods_knobs_are_picked_and_parsed() -> None:
    assert method_knobs(SimCLR, {"temperature": "0.1", "lr": "3"}) == {"temperature": 0.1}
    with pytest.raises(UserError, match="temperature=warm: must be a number"):
        method_knobs(SimCLR, {"temperature": "warm"})


# ------------------------------------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_from_nothing_over_the_warmup(schedule: str) -> None:
    assert rate(schedule, 0.2, 0.0) == 0
    assert rate(schedule, 0.2, 0.1) == pytest.approx(0.5)
    assert rate(schedule, 0.2, 0.2) == pytest.approx(1)


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0), ("linear", 0.5, 0), ("constant", 1, 1)])
def test_then_it_follows_its_schedule_to_the_end(schedule: str, middle: float, end: float) -> None:
    assert rate(schedule, 0.2, 0.6) == pytest.approx(middle)
    assert rate(schedule, 0.2, 1.0) == pytest.approx(end)
    assert rate(schedule, 0.2, 1.1) == pytest.approx(end)


def test_there_is_a_rate_without_and_with_nothing_but_warmup() -> None:
    assert rate("cosine", 0.0, 0.0) == 1
    assert rate("cosine", 1.0, 1.0) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------------- optimizers


class TwoSpeeds(Method):
    views = ("global",)
    groups = {"predictor": {"lr": 0.5}}

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.encoder.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.predictor = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    def forward(self, views: list[View], progress: float) -> Terms:
        return {"loss": torch.stack([p.sum() for p in self.parameters()]).sum()}


def names_of(method: Method, groups: list[dict[str, Any]]) -> list[tuple[set[str], float]]:
    names = {id(p): name for name, p in method.named_parameters()}
    return [({names[id(p)] for p in group["params"]}, group["weight_decay"]) for group in groups]


def test_biases_norms_and_positions_do_not_decay() -> None:
    method = TwoSpeeds()
    found = names_of(method, parameter_groups(method, 0.1))
    decaying = set().union(*(names for names, decay in found if decay))
    assert decaying == {"encoder.net.0.weight", "predictor.weight"}
    assert {decay for _, decay in found} == {0.0, 0.1}


def test_every_trained_parameter_is_in_one_group() -> None:
    method = TwoSpeeds()
    names = [name for group, _ in names_of(method, parameter_groups(method, 0.1)) for name in group]
    assert sorted(names) == sorted(name for name, p in method.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars", "lamb"])
def test_a_methods_own_rate_keeps_its_share(optimizer: str) -> None:
    method = TwoSpeeds()
    built = optimizer_for(method, TrainConfig(lr=0.1, optimizer=optimizer))
    set_rate(built, 0.1, 0.5)
    rates = {
        name: group["lr"] for group in built.param_groups for name, p in method.named_parameters() if any(p is q for q in group["params"])
    }
    assert rates["predictor.weight"] == rates["predictor.bias"] == pytest.approx(0.25)
    assert rates["encoder.net.0.weight"] == pytest.approx(0.05)


class Everything(Method):
    """A matrix, a convolution, a norm, biases and rows of an embedding: whatever Muon leaves to AdamW too."""

    views = ("global",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        parts = nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.encoder.net = nn.ModuleList(parts)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_every_parameter_moves_as_far_as_the_schedule_says(optimizer: str) -> None:
    """The first step of each parameter, at a tenth of the rate, is a tenth of that at the full rate: measured on the weights."""

    def moved(share: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = Everything()
        built = optimizer_for(
            method, TrainConfig(lr=0.1, optimizer=optimizer, weight_decay=0.0, momentum=0.0 if optimizer == "sgd" else 0.9)
        )
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        for p in method.parameters():
            p.grad = torch.linspace(0.5, 1.5, p.numel()).view_as(p)
        set_rate(built, 0.1, share)
        built.step()
        return {name: p.detach() - before[name] for name, p in method.named_parameters()}

    whole, tenth, none = moved(1.0), moved(0.1), moved(0.0)
    for name, step in whole.items():
        assert step.abs().max() > 0, name
        torch.testing.assert_close(tenth[name], 0.1 * step, rtol=2e-3, atol=1e-6, msg=name)
        assert not none[name].any(), name


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "lr"),
    [("muon", 512, 0.02), ("muon", 128, 0.01), ("sgd", 256, 0.05), ("sgd", 1024, 0.2), ("lars", 256, 0.3), ("adamw", 128, 5e-4)],
)
def test_the_rate_by_default_follows_the_batch(optimizer: str, batch_size: int, lr: float) -> None:
    assert default_lr(optimizer, batch_size) == pytest.approx(lr)


def test_sgd_looks_ahead_as_nesterov_has_it() -> None:
    """Two steps of a constant gradient 1, by hand: the velocity is 1, then 1.9; a step is lr (gradient + 0.9 velocity)."""
    method = TwoSpeeds()
    built = optimizer_for(method, TrainConfig(lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=0.0))
    weight = method.encoder.net[0].weight  # type: ignore[union-attr,index]
    start = weight.detach().clone()
    for _ in range(2):
        for p in method.parameters():
            p.grad = torch.ones_like(p)
        built.step()
    torch.testing.assert_close(start - weight.detach(), torch.full_like(start, 0.1 * (1 + 0.9 * 1) + 0.1 * (1 + 0.9 * 1.9)))


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars", "lion"])
def test_optimizers_move_every_parameter(optimizer: str) -> None:
    method = TwoSpeeds()
    nn.init.ones_(method.encoder.pos_embed)  # type: ignore[arg-type]
    before = {name: p.clone() for name, p in method.named_parameters() if p.requires_grad}
    built = optimizer_for(method, TrainConfig(lr=0.1, optimizer=optimizer))
    method([], 0.0)["loss"].backward()
    built.step()
    assert [name for name, p in method.named_parameters() if name in before and torch.equal(p, before[name])] == []


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="unknown optimizer adamm; did you mean adam"):
        optimizer_for(TwoSpeeds(), TrainConfig(lr=0.1, optimizer="adamm"))


# --------------------------------------------------------------------------------------------------------------- views

LAYOUT = {"size": 32, "side": 32, "channels": 3, "bits": 8, "preset": "small"}


def options(overrides: dict[str, Any], names: tuple[str, ...] = ("global", "global", "local")) -> list[dict[str, Any]]:
    return view_options(names, Preprocessor(IMAGE, LAYOUT), overrides)


def test_by_name_all_views_are_changed_and_by_number_one() -> None:
    found = options({"global.blur": "0.3", "view1.flip": "0", "view2.size": "16"})
    assert [view["blur"] for view in found] == [0.3, 0.3, 0.0]
    assert [view["flip"] for view in found] == [0.5, 0.0, 0.5]
    assert [view["size"] for view in found] == [32, 32, 16]


def test_a_change_leaves_the_presets_as_they_were() -> None:
    before = options({})
    assert options({"global.scale": "0.5,0.6"}) != before
    assert options({}) == before


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("globl.blur", "0", "unknown view globl; did you mean global"),
        ("view3.blur", "0", "unknown view view3"),
        ("local2.blur", "0", "unknown view local2"),
        ("global.blurr", "0", "unknown option of the view global blurr; did you mean blur"),
        ("global", "0", "unknown option of the view global"),
        ("global.blur", "much", "global.blur=much: must be a finite number"),
        ("global.size", "3.5", "global.size=3.5: must be a whole number"),
        ("global.scale", "0.2", "comma-separated numbers"),
    ],
)
def test_a_wrong_override_is_refused(key: str, value: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        options({key: value})


def test_views_are_the_methods_or_as_many_others() -> None:
    assert view_names(SimCLR, IMAGE) == ("global", "global")
    assert view_names(SimCLR, IMAGE, "whole,local") == ("whole", "local")
    with pytest.raises(UserError, match="takes 2 views, by default global,global"):
        view_names(SimCLR, IMAGE, "whole")
    with pytest.raises(UserError, match=r"the view wrinkled; image offers whole, global"):
        view_names(SimCLR, IMAGE, ("whole", "wrinkled"))


@pytest.mark.parametrize(
    ("rows", "world", "accumulate", "batch_size"), [(3, 1, 1, 2), (200, 1, 1, 32), (1200, 1, 1, 256), (10**6, 1, 1, 512), (200, 3, 2, 30)]
)
def test_the_batch_by_default_is_a_quarter_of_the_rows_at_most(rows: int, world: int, accumulate: int, batch_size: int) -> None:
    dataset: Any = SimpleNamespace(modality=IMAGE, train_rows=rows, runs=None)
    place: Any = SimpleNamespace(size=world, devices=world, nodes=1)
    assert decide(TrainConfig(accumulate=accumulate), dataset, place).batch_size == batch_size


def batch(index: Tensor) -> dict[str, Tensor]:
    return {
        "pixels": (torch.arange(3 * 32 * 32) % 251).byte().view(1, 3, 32, 32).expand(len(index), -1, -1, -1),
        "aspect": torch.ones(len(index)),
        "index": index,
    }


def test_two_views_of_one_name_differ_and_come_again() -> None:
    names = ("global", "global")
    views = Views(names, Preprocessor(IMAGE, {}, {"mean": [0.5] * 3, "std": [0.2] * 3}), options({}, names), seed=4)
    first, second = views(batch(torch.tensor([8, 3])), 1)
    assert not torch.equal(first.x, second.x)
    torch.testing.assert_close(views(batch(torch.tensor([3])), 1)[0].x, first.x[1:], atol=1e-5, rtol=0)
    assert not torch.equal(views(batch(torch.tensor([8, 3])), 2)[0].x, first.x)
