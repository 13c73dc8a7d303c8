"""A plain function as a method: what it reads, what its knobs are, and what is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.config.overrides import knobs_of, method_knobs
from untaught.config.registry import check_needs, method_class
from untaught.core import Facts, Method, UserError, View
from untaught.encoders.plain import Plain
from untaught.methods.contrastive.simclr import SimCLR
from untaught.modalities.image import IMAGE
from untaught.pipeline.view_pipeline import view_names
from untaught.storage.run_dir import Folder

PICTURES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
HEAD = nn.Linear(4, 2)


def twins(views: Any, encoder: Any, *, temperature: float = 0.5, sharp: bool = False) -> dict[str, Tensor]:
    a, b = (F.normalize(encoder(view), dim=1) for view in views)
    return {"twins": F.cross_entropy(a @ b.T / temperature, torch.arange(len(a)))}


def masked(views: Any, encoder: Any) -> dict[str, Tensor]:
    raise AssertionError("never called here")


setattr(masked, "views", ("masked",))  # noqa: B010
setattr(masked, "needs", {"tokens"})  # noqa: B010


def build(function: Any, **knobs: Any) -> Method:
    cls: Any = method_class(function)
    return cls(Plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), View(torch.zeros(2, 1, 8, 8))), Facts(rows=6), **knobs)


def call(method: Method) -> dict[str, Tensor]:
    return method([View(PICTURES), View(PICTURES.flip(3))], 0.0)


def test_it_is_called_with_views_encoder_and_knobs() -> None:
    method = build(twins, temperature=0.2)
    terms = call(method)
    assert torch.equal(terms["twins"], twins([View(PICTURES), View(PICTURES.flip(3))], method.encoder, temperature=0.2)["twins"])
    terms["twins"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.encoder.parameters())


def test_keyword_arguments_are_knobs() -> None:
    cls = method_class(twins)
    assert knobs_of(cls) == {"temperature": (float, 0.5), "sharp": (bool, False)}
    assert method_knobs(cls, {"temperature": "0.1", "sharp": "yes"}) == {"temperature": 0.1, "sharp": True}
    with pytest.raises(UserError, match="sharp=perhaps: must be true or false"):
        method_knobs(cls, {"sharp": "perhaps"})


def test_views_are_two_global_ones_or_what_the_function_or_the_knob_says() -> None:
    assert view_names(method_class(twins), IMAGE) == ("global", "global")
    assert view_names(method_class(masked), IMAGE) == ("masked",)
    assert view_names(method_class(twins), IMAGE, "whole,global,local") == ("whole", "global", "local")
    with pytest.raises(UserError, match="twins reads the view wide; image offers whole"):
        view_names(method_class(twins), IMAGE, "wide")


def test_needs_are_asked_of_the_encoder() -> None:
    with pytest.raises(UserError, match="masked needs an encoder that offers tokens"):
        check_needs(method_class(masked), build(twins).encoder)


def test_terms_are_float32_whatever_the_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert call(build(lambda views, encoder: {"mean": encoder(views[0]).mean()}))["mean"].dtype == torch.float32


def head_of_the_module(views: Any, encoder: Any) -> dict[str, Tensor]:
    return {"loss": HEAD(encoder(views[0])).sum()}


def head_of_a_closure() -> Any:
    head = nn.Linear(4, 3)
    return lambda views, encoder: {"loss": head(encoder(views[0])).sum()}


def head_made_anew(views: Any, encoder: Any) -> dict[str, Tensor]:
    return {"loss": nn.Linear(4, 5)(encoder(views[0])).sum()}


@pytest.mark.parametrize(
    ("function", "shape"),
    [(head_of_the_module, "2 x 4|2"), (head_of_a_closure(), "3 x 4|3"), (head_made_anew, "5 x 4|5")],
    ids=["module", "closure", "anew"],
)
def test_a_head_that_would_stay_untrained_is_refused(function: Any, shape: str) -> None:
    with pytest.raises(
        UserError, match=rf"uses a parameter \(({shape})\) outside the encoder, which would not be trained; write a Method class"
    ):
        call(build(function))


def test_a_fixed_network_beside_the_encoder_is_allowed() -> None:
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    assert call(build(lambda views, encoder: {"distance": F.mse_loss(encoder(views[0]), fixed(views[0].x))}))["distance"].requires_grad


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda views, encoder: encoder(views[0]).mean(), r"returned a tensor of shape \(\); a method returns a dict of scalar losses"),
        (lambda views, encoder: {"all": encoder(views[0])}, r"returned a dict with all a tensor of shape \(6, 4\)"),
        (lambda views, encoder: None, "returned a NoneType"),
        (lambda views, encoder: {}, r"none of its terms \(there are none\) has a gradient"),
        (lambda views, encoder: {"a": encoder(views[0]).mean().detach()}, r"none of its terms \(a\) has a gradient that reaches"),
    ],
)
def test_what_is_no_dict_of_losses_is_refused(function: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^lambda.*{said}"):
        call(build(function))


def test_a_look_without_gradients_is_not_judged() -> None:
    method = build(twins)
    expected = call(method)["twins"]
    with torch.no_grad():
        terms = call(method)
    assert not terms["twins"].requires_grad
    assert torch.equal(terms["twins"], expected)
    method = build(lambda views, encoder: {"mean": encoder(views[0]).mean().detach()})
    with torch.no_grad():
        assert call(method)["mean"].isfinite()
    with pytest.raises(UserError, match="has a gradient that reaches"):
        call(method)


class NoViews(Method):
    pass


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (5, "an object of int is not a method; give a name"),
        (nn.Linear, "Linear is not a method"),
        (nn.Linear(2, 2), "an object of Linear is not a method"),
        (NoViews, "NoViews is not a method"),
        (len, "len is not a method"),
        (lambda views: {}, r"\(views\): a function used as a method must take \(views, encoder, \*, knob=default ...\)"),
        (lambda views, encoder, temperature=1.0: {}, r"\(views, encoder, temperature=1.0\): a function used"),
        (lambda views, encoder, *, temperature: {}, r"\(views, encoder, \*, temperature\): a function used"),
        (lambda *views: {}, r"\(\*views\): a function used"),
    ],
)
def test_what_is_no_method_is_refused(method: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        method_class(method)


def test_a_class_is_itself() -> None:
    assert method_class(SimCLR) is SimCLR


def test_a_run_of_a_function_is_named_for_it_and_goes_on_with_it_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (24, 8, 8), np.uint8))
    knobs = {"steps": 2, "log_every": 1, "size": 16, "batch_size": 8, "encoder.width": 4, "temperature": 0.2, "views": "global,global2"}
    asked = PretrainArguments(tmp_path / "images.npy", twins, out=tmp_path / "run", knobs=knobs)
    pretrain(asked)
    said = Folder(tmp_path / "run").read()
    assert said["method"] == f"{__name__}:twins"
    assert said["resolved"]["method"] == {"temperature": 0.2, "sharp": False}
    assert [view["name"] for view in said["resolved"]["views"]] == ["global", "global2"]
    with pytest.raises(UserError, match=r"the method of the run was a Python object \(.*:twins\); pass it again from Python"):
        pretrain(replace(asked, method=None), resume=True)
    with pytest.raises(UserError, match=r"--method .*:masked: the run in .* has .*:twins"):
        pretrain(replace(asked, method=masked), resume=True)
    pretrain(replace(asked, knobs=knobs | {"steps": 3}), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "twins" in row] == [1, 2, 3]
