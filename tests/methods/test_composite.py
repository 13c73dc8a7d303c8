"""a+b:0.5: the views of both made once, a pass of each, the sum of their weighted terms; and nothing that either does alone is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command import Cli
from torch import Tensor
from toys import ToyConv, build

import untaught as ut
from untaught.commands.request import PretrainArguments, free_name
from untaught.config.overrides import sort_knobs
from untaught.config.registry import from_python, method_class, method_title
from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, ExtractFeatures, Facts, Method, Terms, UserError, View
from untaught.methods.composite import hybrid_of, title_of, weights_of
from untaught.methods.contrastive.simclr import SimCLR
from untaught.modalities.image import IMAGE
from untaught.pipeline.view_pipeline import used_view
from untaught.training.collapse import CollapseDetector
from untaught.training.optim import parameter_groups

LOCALS = ("local",) * 6


def built(name: str, knobs: dict[str, Any] | None = None) -> tuple[Any, list[View]]:
    """The method with toy views of a batch."""
    method, views, batch = build(method_class(name), "image", **(knobs or {}))
    return method, views(batch, 0)


def total(terms: Terms) -> Tensor:
    return torch.stack([term for term in terms.values() if term.requires_grad]).sum()


# ---------------------------------------------------------------------------------------------------- what it reads


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("simclr+dcl", ("global", "global")),
        ("simclr+byol", ("global", "global", "global2")),
        ("mae+simclr", ("masked", "global", "global")),
        ("simclr+dino", ("global", "global", "global2", *LOCALS)),
        ("swav+deepcluster", ("global", "global", *LOCALS)),
        ("dinov2+ibot", ("global_blocks", "global2_blocks", *("local",) * 10)),
        ("cpc+deep_infomax+simclr", ("light", "global", "global")),
    ],
)
def test_views_of_one_name_at_one_position_are_made_once(name: str, views: tuple[str, ...]) -> None:
    cls: Any = method_class(name)
    assert cls.views == views
    for member, (own, _) in cls.members.items():
        assert tuple(views[place] for place in cls.places[member]) == own.views


def test_each_method_reads_its_own_views(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid, views = built("simclr+mae+cpc")
    seen: dict[str, list[View]] = {}
    for name, method in hybrid.methods.items():
        forward = type(method).forward

        def watched(self: Method, views: list[View], progress: float, name: str = name, forward: Any = forward) -> Terms:
            seen[name] = views
            return forward(self, views, progress)

        monkeypatch.setattr(type(method), "forward", watched)
    hybrid(views, 0.0)
    places = {id(view): place for place, view in enumerate(views)}
    assert {name: [places[id(view)] for view in shown] for name, shown in seen.items()} == {"simclr": [0, 1], "mae": [2], "cpc": [3]}


def test_needs_are_those_of_all() -> None:
    assert method_class("simclr+vicregl+mae").needs == {"tokens", "maps"}
    assert method_class("simclr+mae").find_unused_parameters
    assert not method_class("simclr+byol").find_unused_parameters


# --------------------------------------------------------------------------------------------------- what it computes


def test_terms_are_each_methods_times_its_weight() -> None:
    hybrid, views = built("simclr:2+byol:0.25+dino")
    terms = hybrid(views, 0.5)
    assert list(terms) == ["simclr.nt_xent", "byol.distance", "dino.cross_entropy"]
    for name, weight in {"simclr": 2.0, "byol": 0.25, "dino": 1.0}.items():
        alone = hybrid.methods[name]
        own = alone([views[place] for place in hybrid.places[name]], 0.5)
        for term, value in own.items():
            torch.testing.assert_close(terms[f"{name}.{term}"], weight * value)


def test_one_encoder_gets_the_sum_of_the_weighted_gradients() -> None:
    hybrid, views = built("simclr:2+vicreg:0.25")
    total(hybrid(views, 0.0)).backward()
    joint = [p.grad.clone() for p in hybrid.encoder.parameters()]
    summed = [torch.zeros_like(p) for p in hybrid.encoder.parameters()]
    for name, weight in {"simclr": 2.0, "vicreg": 0.25}.items():
        hybrid.zero_grad()
        assert hybrid.methods[name].encoder is hybrid.encoder
        total(hybrid.methods[name]([views[place] for place in hybrid.places[name]], 0.0)).backward()
        for gradient, parameter in zip(summed, hybrid.encoder.parameters(), strict=True):
            gradient += weight * parameter.grad
    for found, want in zip(joint, summed, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)


class Logging(Method):
    """Has a term that is only logged."""

    views = ("global",)

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: list[View], progress: float) -> Terms:
        return {"mean": self.encoder(views[0]).mean(), "right": torch.tensor(0.75)}


def test_what_is_only_logged_is_not_weighted() -> None:
    method, views, batch = build(hybrid_of({"simclr": (SimCLR, 1.0), "logging": (Logging, 0.5)}), "image")
    made = views(batch, 0)
    terms = method(made, 0.0)
    assert terms["logging.right"] == 0.75
    torch.testing.assert_close(terms["logging.mean"], 0.5 * method.encoder(made[0]).mean())


# ------------------------------------------------------------------------------------------------- what it passes on


def test_a_micro_batch_leaves_one_entry_and_after_step_gives_each_its_own() -> None:
    hybrid, views = built("moco+dino+simclr", {"moco.queue": 100})
    alone = [built(name, knobs)[0] for name, knobs in {"moco": {"queue": 100}, "dino": {}}.items()]
    for method, name in zip(alone, ("moco", "dino"), strict=True):
        method.load_state_dict(hybrid.methods[name].state_dict())
    for _ in range(2):
        hybrid(views, 0.5)
        for method, name in zip(alone, ("moco", "dino"), strict=True):
            method([views[place] for place in hybrid.places[name]], 0.5)
    assert len(hybrid.pending) == 2
    assert all(not method.pending for method in hybrid.methods.values())
    for method in (hybrid, *alone):
        method.after_step(0.5)
    for method, name in zip(alone, ("moco", "dino"), strict=True):
        for key, value in method.state_dict().items():
            if "encoder" not in key:  # the shared one's BatchNorm saw all passes
                torch.testing.assert_close(hybrid.methods[name].state_dict()[key], value)
        assert method.state_dict().keys() == hybrid.methods[name].state_dict().keys()
    assert not torch.equal(hybrid.methods["dino"].centre, torch.zeros(16))


def test_a_frozen_head_stays_and_a_predictor_keeps_its_rate() -> None:
    hybrid, views = built("dino+simsiam")
    total(hybrid(views, 0.0)).backward()
    hybrid.before_step(0.0)
    assert hybrid.methods["dino"].head.prototypes.weight.grad is None
    assert hybrid.groups == {"methods.simsiam.predictor": {"schedule": "constant"}}
    constant = {id(p) for group in parameter_groups(hybrid, 0.1) if group.get("schedule") == "constant" for p in group["params"]}
    assert constant == {id(p) for p in hybrid.methods["simsiam"].predictor.parameters()}
    every = [id(p) for group in parameter_groups(hybrid, 0.1) for p in group["params"]]
    assert len(every) == len(set(every))


class Slow(Method):
    """Wants its encoder at a tenth of the rate, and looks at all samples."""

    views = ("whole", "global")
    groups = {"encoder": {"lr_scale": 0.1}}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder, self.facts = encoder, facts

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        self.told = epoch, [extract_features("looked", place) for place in (0, 1)]

    def looked(self, view: View) -> Tensor:
        return view.x.mean((1, 2, 3))[:, None]

    def forward(self, views: list[View], progress: float) -> Terms:
        return {"mean": self.encoder(views[0]).mean()}


def test_a_survey_is_of_the_methods_own_function_and_view_and_its_facts_of_its_views() -> None:
    cls = hybrid_of({"simclr": (SimCLR, 1.0), "slow": (Slow, 1.0)})
    assert cls.views == ("global", "global", "whole")
    assert cls.places["slow"] == (2, 1)
    hybrid: Any = build(cls, "image")[0]
    assert list(hybrid.methods["slow"].facts.views) == ["whole", "global"]
    asked: list[Any] = []
    hybrid.before_epoch(3, lambda what, place: asked.append((what, place)))
    assert asked == [("methods.slow.looked", 2), ("methods.slow.looked", 1)]
    assert hybrid.methods["slow"].told[0] == 3
    assert hybrid.groups == {"encoder": {"lr_scale": 0.1}}


def test_only_with_a_method_that_looks_does_it_look() -> None:
    assert method_class("simclr+byol").before_epoch is Method.before_epoch
    assert method_class("simclr+deepcluster").before_epoch is not Method.before_epoch


def test_the_first_method_says_which_encoder_is_kept() -> None:
    first, _ = built("simclr+dino")
    assert first.exported()["encoder"] is first.encoder
    assert first.export_note == "the trained encoder, as for simclr, the first method (dino alone exports its teacher's)"
    taught, _ = built("dino+simclr")
    assert taught.exported()["encoder"] is taught.methods["dino"].teacher_encoder.network
    assert taught.export_note == "the teacher's encoder of dino, the first method"
    assert built("simclr+byol")[0].export_note == ""


def test_health_sees_the_heads_of_all() -> None:
    method, views, batch = build(method_class("simclr+byol"), "image")
    whole = used_view(views.prep, "whole")
    looked = CollapseDetector(method, views, {"encoder": whole}, batch, {})(100, 0.5, 0.1, 1.0, {})
    assert set(looked["measures"]["heads"]) == {"simclr.projector", "byol.projector", "byol.predictor"}
    assert looked["teacher_lag"] is not None
    assert not method.pending


# ----------------------------------------------------------------------------------------------------- how it is asked


def test_knobs_are_of_one_method_by_name_or_of_all_that_have_it() -> None:
    def sorted_(**knobs: Any) -> dict[str, Any]:
        return sort_knobs(
            {key.replace("__", "."): value for key, value in knobs.items()}, method_class("simclr+dino:0.5"), IMAGE, TrainConfig
        )

    assert sorted_(temperature="0.2")["method"] == {"simclr.temperature": 0.2, "dino.temperature": 0.2}
    assert sorted_(simclr__temperature="0.2")["method"] == {"simclr.temperature": 0.2}
    assert sorted_(prototypes=64)["method"] == {"dino.prototypes": 64}
    for knobs in ({"temperature": 0.2, "dino__temperature": 0.4}, {"dino__temperature": 0.4, "temperature": 0.2}):
        assert sorted_(**knobs)["method"] == {"simclr.temperature": 0.2, "dino.temperature": 0.4}
    assert sorted_(lr=0.1, global__blur=0.2)["loop"] == {"lr": 0.1}
    with pytest.raises(UserError, match=r"unknown knob simclr\.temperatur; did you mean simclr\.temperature"):
        sorted_(simclr__temperatur=1)
    with pytest.raises(UserError, match=r"dino\.prototypes=x: must be a whole number"):
        sorted_(prototypes="x")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("simclr+vicrg", "unknown method vicrg; did you mean vicreg"),
        ("simclr+", r"method simclr\+: a method's name is missing"),
        ("simclr+byol+simclr:2", "simclr is given twice; give it once, with a weight"),
        ("simclr+byol:x", "the weight of byol is x; give a number greater than 0"),
        ("simclr+byol:0", "the weight of byol is 0; give a number greater than 0"),
        ("simclr+byol:inf", "the weight of byol is inf; give"),
        ("simclr+byol:", "the weight of byol is missing; give"),
    ],
)
def test_what_can_not_be_joined_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as fault:
        method_class(name)
    assert "\n" not in str(fault.value)


class Grey(Logging):
    export_view = "grey"


def test_methods_that_use_the_encoder_in_two_ways_are_refused() -> None:
    with pytest.raises(UserError, match=r"simclr\+grey: these methods use .* views \(simclr on whole, grey on grey\); combine"):
        hybrid_of({"simclr": (SimCLR, 1.0), "grey": (Grey, 1.0)})


def test_its_title_is_one_way_to_write_it() -> None:
    assert method_title("simclr + mae:.50+byol:1") == "simclr+mae:0.5+byol"
    for weights in ({"simclr": 1 / 3, "byol": 2.0}, {"simclr": 1e20, "byol": 1e-20}):
        assert weights_of(title_of(weights)) == weights
    assert not from_python("simclr+mae:0.5")
    assert from_python("notebook:Twins")
    assert method_class("simclr + mae:.50").__name__ == "simclr+mae:0.5"
    assert free_name(PretrainArguments("photos/", "simclr+mae:0.5", modality="image")).name == "simclr+mae-photos"


def test_a_parameter_of_the_encoder_has_one_name_and_the_state_goes_round() -> None:
    hybrid, _ = built("simclr+byol")
    names = [name for name, _ in hybrid.named_parameters()]
    assert sum("encoder" in name and "teacher" not in name for name in names) == len(list(ToyConv().parameters()))
    other, _ = built("simclr+byol")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(hybrid.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(hybrid.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.methods["byol"].encoder is other.encoder


# ------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = generator.integers(0, 128, (48, 16, 16, 3)) + 127 * labels[:, None, None, None]
    np.savez(path, image=pixels.astype(np.uint8), label=labels)
    return path


SMALL: dict[str, Any] = {"encoder__width": 4, "size": 16, "batch_size": 16, "precision": "float32", "save_every": 2, "log_every": 1}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_from_python_goes_on_bit_for_bit(pictures: Path, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("untaught.api.finish", lambda run: None)  # neither exported nor reported
    name, knobs = "moco+byol:0.5", {**SMALL, "strategy": strategy, "moco__temperature": 0.3, "momentum": 0.9}
    whole = ut.pretrain(pictures, name, out=tmp_path / "cut", steps=4, **knobs)
    (tmp_path / "cut" / "checkpoints" / "step-4").rename(tmp_path / "later")
    cut = ut.pretrain(out=tmp_path / "cut", resume=True)
    for key, value in whole.encoder.state_dict().items():
        assert torch.equal(cut.encoder.state_dict()[key], value), key
    said = yaml.safe_load((tmp_path / "cut" / "run.yaml").read_text())
    assert said["method"] == name
    assert said["resolved"]["method"]["moco.temperature"] == 0.3
    assert said["resolved"]["method"]["moco.momentum"] == said["resolved"]["method"]["byol.momentum"] == 0.9
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["moco.info_nce"] + rows[-1]["byol.distance"])
    with pytest.raises(UserError, match=r"--method moco\+byol: the run in .* has moco\+byol:0.5"):
        ut.pretrain(method="moco+byol", out=tmp_path / "cut", resume=True)


def test_the_command_line_trains_scores_and_draws_one(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    words = [f"{key.replace('__', '.')}={value}" for key, value in SMALL.items()]
    done = cli("pretrain", pictures, "--method", "simclr+dino:0.5", "steps=2", "prototypes=8", *words, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "views global, global, global2, local" in done.err
    assert "exported  the trained encoder, as for simclr" in done.err
    assert "--method simclr+dino:0.5" in (tmp_path / "run" / "report.html").read_text()
    assert cli("evaluate", tmp_path / "run", "--json").code == 0
    assert cli("preview", pictures, "--method", "simclr+mae", "size=16", "-o", tmp_path / "p.png").code == 0
    said = cli("pretrain", pictures, "--method", "simclr+byol", "cache_gradients=4", *words, "--out", tmp_path / "no").error
    assert said == "cache_gradients: simclr+byol does not define project and objective"


def test_a_view_is_overridden_by_its_place_among_all(pictures: Path, tmp_path: Path) -> None:
    ut.pretrain(pictures, "simclr+byol", out=tmp_path / "run", steps=1, view1__blur=0.9, global2__flip=0.0, **SMALL)
    views = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["resolved"]["views"]
    assert [view["name"] for view in views] == ["global", "global", "global2"]
    assert [view["blur"] for view in views][1] == 0.9 != views[0]["blur"]
    assert views[2]["flip"] == 0.0
