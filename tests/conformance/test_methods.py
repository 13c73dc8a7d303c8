"""What every method promises, on every modality that offers its views.

UNTAUGHT_METHODS=NAME,NAME pytest tests/conformance/test_methods.py     asks it of other methods, as those of a package of yours.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import BATCHES, MODALITIES, ToyConv, build, text_batch, toy_encoder, toy_fit

from untaught.config.help import meanings_of
from untaught.config.registry import check_needs, method_class
from untaught.core import Encoder, Facts, Method, UserError, View
from untaught.methods import METHODS
from untaught.training import checkpoint
from untaught.training.optim import parameter_groups

NAMES = os.environ.get("UNTAUGHT_METHODS", ",".join(METHODS)).split(",")
CLASSES: dict[str, type[Method]] = {name: method_class(name) for name in NAMES}
PAIRED = {"simclr", "vicreg", "byol"}  # of the methods that compare views of a sample, those that are asked on text: all would take long
SERIES = {
    "dino",
    "mae",
    "data2vec",
    "t_loss",
    "ts2vec",
    "forecasting",
}  # those that are asked all on series and audio; other padding is asked of every method
SPEECH = {"wav2vec2", "hubert"}
WORDS = {"clm", "mlm", "replaced_token"}  # those that are asked on events, with one that compares views
ROWS = {"simclr", "vime", "autoencoder", "mae", "data2vec", "mlm"}  # those that are asked on tables

NOT_THE_SLOPE = {  # methods whose gradient is not the loss's own, by a stop-gradient that is part of the algorithm, and of what
    "simsiam": "algorithm 1: of the projections that are predicted",
    "nnclr": "of the projections whose neighbours are sought",
    "nepa": "of the embeddings that are predicted",
    "swav": "section 3: of the assignments",
    "msn": "of the prototypes in the target",
    "deep_infomax": "of the critic in the encoder's term, of the summaries in the critic's",
    "wav2vec2": "section 3.3: of the choice of codes, straight-through",
    "vicregl": "of the choice of matches, by which the loss jumps",
}


def meets(name: str, cls: type[Method], kind: str) -> bool:
    """Whether the method is asked on this modality: it offers the views; on text, ours are asked that read words, and the paired ones."""
    if not set(cls.views) <= set(MODALITIES[kind].views):
        return False
    if kind == "waveform":
        return name in SPEECH
    if kind == "table":
        return name in ROWS or name not in METHODS
    if kind in ("series", "audio"):
        return name in SERIES | SPEECH or name not in METHODS
    if kind == "events":
        return name in {"simclr", *WORDS} or name not in METHODS
    return kind in ("image", "image_text") or name in PAIRED or name not in METHODS or "words" in cls.needs


GRID = [(name, kind) for name, cls in CLASSES.items() for kind in MODALITIES if meets(name, cls, kind)]
each = pytest.mark.parametrize(("name", "modality"), GRID)
each_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([term for term in terms.values() if term.requires_grad]).sum()


@each
def test_terms_are_finite_scalars(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    terms = method(views(batch, 0), 0.0)
    assert terms
    for term, value in terms.items():
        assert value.shape == (), term
        assert value.dtype == torch.float32, term
        assert value.isfinite(), term


@each
def test_terms_stay_float32_under_autocast(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    made = views(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(made, 0.0)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert all(value.isfinite() for value in terms.values())


@each
def test_the_gradient_is_the_slope_of_the_loss_and_reaches_every_parameter(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    made = views(batch, 0)
    total(method(made, 0.5)).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    pooling = {"model.fc_norm.weight", "model.fc_norm.bias"}  # of a ViT: only pooled vectors go through it
    encoders = [getattr(method, role) for role in method.roles()]
    without = [n for one in encoders for n, p in one.named_parameters() if n not in pooling and (p.grad is None or not p.grad.any())]
    assert without == []
    if name in NOT_THE_SLOPE or name not in METHODS:
        return
    for player in method.players or ("",):
        loss = total(moved(method, player, made))
        trained = [(p, p.grad.clone()) for n, p in method.named_parameters() if p.grad is not None and method.player_of(n) == player]
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in trained])
        step, losses = 3e-4 * loss.detach().abs() / norm, []  # along the gradient, so that the loss changes by as much of it
        for way in (step, -2 * step, step):
            with torch.no_grad():
                for parameter, gradient in trained:
                    parameter.add_(gradient * (way / norm))
            losses.append(total(moved(method, player, made)).double())
        assert float((losses[0] - losses[1]).detach() / (2 * step)) == pytest.approx(float(norm), rel=0.05)


def moved(method: Method, player: str, views: list[View]) -> dict[str, Tensor]:
    """The terms of a player's turn; of a method without players all."""
    if not player:
        return method(views, 0.5)
    with method.only(player):
        return method.turn(player, views, 0.5)


@each
def test_the_loss_falls(name: str, modality: str) -> None:
    for player in CLASSES[name].players or ("",):  # each against others that stand still
        method, views, batch = build(CLASSES[name], modality)
        optimizer = torch.optim.Adam(method.parameters(), 3e-3)
        made, losses = views(batch, 0), []
        for _ in range(15):
            loss = total(moved(method, player, made))
            optimizer.zero_grad()
            loss.backward()
            method.before_step(0.5)
            optimizer.step()
            method.after_step(0.5)
            method.pending.clear()
            losses.append(loss.item())
        little = 0.95 if player or name == "rotation" else 0.9  # to win against an untrained opponent, or in discs and bars turned around
        assert losses[-1] < little * max(losses[:2])  # the first may be against a queue's random vectors


@each
def test_state_goes_round(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    total(method(views(batch, 0), 0.0)).backward()
    other, _, _ = build(CLASSES[name], modality)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(method.state_dict())
    made = views(batch, 1)
    for term, value in method.eval()(made, 0.0).items():
        assert torch.equal(value, other.eval()(made, 0.0)[term])


@each
def test_forward_changes_nothing_but_batch_norm(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    made = views(batch, 0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    first, second = method(made, 0.0), method(made, 0.0)
    assert all(torch.equal(first[term], second[term]) for term in first)
    changed = [key for key, value in method.state_dict().items() if not torch.equal(value, before[key])]
    assert [key for key in changed if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))] == []


@each
def test_views_stay_as_they_came(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    made = views(batch, 0)
    method(made, 0.0)
    for came, again in zip(made, views(batch, 0), strict=True):
        assert torch.equal(came.x, again.x)
        assert came.target is None or torch.equal(came.target, again.target)  # type: ignore[arg-type]


@each
def test_forward_is_objective_of_project(name: str, modality: str) -> None:
    cls = CLASSES[name]
    if not hasattr(cls, "project"):
        pytest.skip(f"{name} has no pair")
    method, views, batch = build(cls, modality)
    made, pair = views(batch, 0), typing.cast(Any, method)
    whole, parts = method(made, 0.3), pair.objective(pair.project(made), 0.3)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[term], parts[term]) for term in whole)


@pytest.mark.parametrize(("name", "modality"), [*GRID, *([("moco+deepcluster:0.5", "image")] if len(NAMES) > 1 else [])])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, queues, teachers, prototypes and optimizer, from the middle of an epoch into the next, begun from other weights."""
    cls = method_class(name)

    def losses() -> list[float]:
        return [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]

    whole = toy_fit(cls, modality, tmp_path)
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    whole.run()
    for later in (4, 5):  # as if it had been stopped after step 3
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{later}", ignore_errors=True)
    expected, resumed = losses(), toy_fit(cls, modality, tmp_path)
    with torch.no_grad():
        for value in resumed.method.state_dict().values():
            value.add_(1)
    resumed.restore(checkpoint.load(tmp_path / "checkpoints", pytest.fail))
    assert (resumed.step, resumed.epoch, resumed.step_in_epoch) == (3, 1, 1)
    resumed.run()
    assert differences(resumed.state()["method"], whole.state()["method"]) == []
    assert differences(resumed.state()["optimizer"], whole.state()["optimizer"]) == []
    assert losses() == expected
    assert len(expected) == 5


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two states differ in any bit."""
    if isinstance(a, dict | list | tuple):
        pairs = (
            [(key, a[key], b[key]) for key in a] if isinstance(a, dict) else [(i, *pair) for i, pair in enumerate(zip(a, b, strict=True))]
        )
        assert len(a) == len(b)
        return [found for key, x, y in pairs for found in differences(x, y, f"{place}.{key}")]
    same = torch.equal(a, b) if isinstance(a, Tensor) else a == b
    return [] if same else [place]


def test_a_pair_is_whole() -> None:
    assert [name for name, cls in CLASSES.items() if hasattr(cls, "project") != hasattr(cls, "objective")] == []


@each_class
def test_the_header_is_the_contract(cls: type[Method]) -> None:
    header = sys.modules[cls.__module__].__doc__ or ""
    assert re.search(r"https://\S+", header.splitlines()[0]), "the first line names the paper and where it is"
    for part in ("Views:", "Heads:", "Loss:"):
        assert re.search(rf"^{part}", header, re.MULTILINE), part


@each_class
def test_a_method_is_final(cls: type[Method]) -> None:
    assert cls.__bases__ == (Method,)


@each_class
def test_views_are_offered_by_a_modality(cls: type[Method]) -> None:
    assert cls.views
    assert any(set(cls.views) <= set(modality.views) for modality in MODALITIES.values())


def knobs(cls: type[Method]) -> Iterator[inspect.Parameter]:
    return (p for p in inspect.signature(cls).parameters.values() if p.name not in (*cls.roles(), "facts"))


@each_class
def test_knobs_are_keywords_with_type_and_default(cls: type[Method]) -> None:
    hints = typing.get_type_hints(cls.__init__)
    for knob in knobs(cls):
        assert knob.kind is knob.KEYWORD_ONLY, knob
        assert knob.default is not knob.empty, knob
        assert knob.name in hints, knob


@each_class
def test_every_knob_has_a_meaning(cls: type[Method]) -> None:
    meanings = meanings_of(cls)
    assert [knob.name for knob in knobs(cls) if not meanings.get(knob.name)] == [], "a comment beside it says what it means"


@pytest.mark.parametrize("cls", [cls for cls in CLASSES.values() if cls.needs], ids=lambda cls: cls.__name__)
def test_an_encoder_that_cannot_serve_is_refused_with_those_that_can(cls: type[Method]) -> None:
    with pytest.raises(UserError, match=rf"ToyConv offers pooled vectors only; .*(vit_|bert|bart|gpt|pixel|conv_).*offer {min(cls.needs)}"):
        check_needs(cls, ToyConv())


@each
def test_what_has_no_gradient_is_not_the_optimizers_and_moves_only_after_the_step(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    still = {n: p for n, p in method.named_parameters() if not p.requires_grad}
    trained = {id(p) for group in parameter_groups(method, 0.1) for p in group["params"]}
    assert trained == {id(p) for p in method.parameters() if p.requires_grad}
    before = {n: p.clone() for n, p in still.items()}
    total(method(views(batch, 0), 0.5)).backward()
    method.before_step(0.5)
    torch.optim.SGD(method.parameters(), 0.1).step()
    assert all(torch.equal(p, before[n]) for n, p in still.items())
    method.after_step(0.5)
    assert not still or any(not torch.equal(p, before[n]) for n, p in still.items())


@each
def test_a_micro_batch_leaves_one_entry_and_after_step_takes_them_all(name: str, modality: str) -> None:
    method, views, batch = build(CLASSES[name], modality)
    made = views(batch, 0)
    method(made, 0.5)
    each_time = len(method.pending)
    assert each_time <= 1
    method(made, 0.5)
    assert len(method.pending) == 2 * each_time
    method.validate(made, 0.5)
    assert len(method.pending) == 2 * each_time
    method.after_step(0.5)
    assert method.pending == []


@each_class
def test_groups_name_parameters_that_there_are(cls: type[Method]) -> None:
    method, _, _ = build(cls, next(kind for name, kind in GRID if CLASSES[name] is cls))
    assert [p for p in method.groups if not any(n.startswith(p) for n, _ in method.named_parameters())] == []


@pytest.mark.parametrize("cls", [cls for cls in CLASSES.values() if cls.players], ids=lambda cls: cls.__name__)
def test_each_turn_reaches_the_parameters_of_its_player_alone(cls: type[Method]) -> None:
    assert cls.find_unused_parameters, "the parameters of the players that wait have no gradient"
    method, views, batch = build(cls, next(kind for name, kind in GRID if CLASSES[name] is cls))
    made, seen = views(batch, 0), set()
    for player in method.players:
        method.zero_grad()
        terms = moved(method, player, made)
        total(terms).backward()
        reached = {n for n, p in method.named_parameters() if p.grad is not None}
        assert reached == {n for n, p in method.named_parameters() if p.requires_grad and method.player_of(n) == player}
        assert not seen & terms.keys()
        seen |= terms.keys()
    assert method(made, 0.5).keys() == seen


@each
def test_what_is_kept_is_an_encoder(name: str, modality: str) -> None:
    method, _, _ = build(CLASSES[name], modality)
    roles, exported = method.roles(), method.exported()
    assert exported.keys() == roles.keys()
    assert all(isinstance(encoder, Encoder) for encoder in exported.values())
    assert {role.export_view for role in roles.values()} <= MODALITIES[modality].views.keys()
    assert method.shared_space().keys() <= roles.keys()


# ------------------------------------------------------------------------------------------------------------------ text


PICTURES = {"cpc", "deep_infomax", "simmim", "vicregl", "bigan"}  # methods that read maps or patches of images, and refuse what has padding
NUMBERS = {"autoencoder"}  # methods that reconstruct numbers, and refuse text
PADDED = [
    (name, kind)
    for name, cls in CLASSES.items()
    for kind in ("text", "series", "audio", "waveform", "image_text")
    if name not in PICTURES
    and not (name in NUMBERS and kind == "text")
    and not (kind in ("series", "audio") and "causal" in cls.needs)
    and (kind != "waveform" or name in SPEECH | {"data2vec"})
    and set(cls.views) <= set(MODALITIES[kind].views)
]
GARBAGE = {"text": 9, "series": 7.5, "audio": 7.5, "waveform": 7.5, "image_text": 9}
FIELD = {"text": "ids", "series": "values", "audio": "wave", "waveform": "wave", "image_text": "text.ids"}  # the ragged field of a batch


def longer(view: View, kind: str, patch: int, more: int) -> View:
    """The same view with `more` tokens of padding, and other values in the padding there was."""

    def wider(value: Tensor | None, by: int, axis: int = 1, fill: float = 0) -> Tensor | None:
        if value is None:
            return None
        shape = [by if i == axis else n for i, n in enumerate(value.shape)]
        return torch.cat([value, value.new_full(shape, fill)], axis)

    steps, x = more * patch, view.x
    if view.valid is not None:
        valid = view.valid if x.ndim == 2 else view.valid.unsqueeze(2)
        x = torch.where(valid, x, torch.tensor(GARBAGE[kind], dtype=x.dtype))
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if view.valid is None else view.valid
    meta = {key: wider(value, more, 2) if key == "targets" else value for key, value in (view.meta or {}).items()}
    return View(
        wider(x, steps, fill=GARBAGE[kind]),
        wider(valid, steps),
        wider(view.mask, more),
        wider(view.target, more, fill=GARBAGE[kind]),
        wider(
            torch.ones_like(view.target, dtype=torch.bool) if view.target is not None and view.target_valid is None else view.target_valid,
            more,
        ),
        meta,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("name", "kind"), PADDED)
def test_other_padding_is_the_same_loss_and_the_same_gradients(name: str, kind: str) -> None:
    """In training, BatchNorm included; the batch's padding, and that of its views."""
    method, views, batch = build(CLASSES[name], kind)
    made = views(batch, 0)
    patch = getattr(getattr(method, "encoder", None), "patch", 1)
    field = FIELD[kind]
    wide = BATCHES[kind](batch[field].shape[1] + 7)
    valid = wide[f"{field}_valid"].unsqueeze(2) if kind == "series" else wide[f"{field}_valid"]
    garbage = torch.where(valid, wide[field], torch.tensor(GARBAGE[kind]).to(wide[field].dtype))
    others = [views({**wide, field: garbage}, 0)]
    if kind != "image_text":  # of which a view of the text is as long as it may be
        others.append([longer(view, kind, patch, 3) for view in made])
    state = {key: value.clone() for key, value in method.state_dict().items()}

    def learned(views: list[View]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        method.load_state_dict(state)
        method.zero_grad()
        method.pending.clear()
        terms = method(views, 0.5)
        total(terms).backward()
        return terms, {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}

    want, slopes = learned(made)
    for other in others:
        found, gradients = learned(other)
        for term, value in want.items():
            torch.testing.assert_close(found[term], value, atol=1e-5, rtol=1e-4, msg=lambda said, term=term: f"{term}: {said}")
        assert gradients.keys() == slopes.keys()
        scale = max(float(slope.abs().max()) for slope in slopes.values())
        for n, slope in slopes.items():
            torch.testing.assert_close(gradients[n], slope, atol=1e-4 * scale, rtol=1e-3, msg=lambda said, n=n: f"{n}: {said}")


@pytest.mark.parametrize("name", ["deep_infomax", "vicregl"])
def test_a_method_of_maps_refuses_padding(name: str) -> None:
    view = View(torch.zeros(2, 4, 1), torch.ones(2, 4, dtype=torch.bool), meta={"affine": torch.eye(2, 3).expand(2, 2, 3)})
    with pytest.raises(UserError, match="uses feature maps, which do not support padding"):
        method_class(name)(ToyConv(), Facts(rows=2, views={"light": view}))  # type: ignore[call-arg]


CAUSAL = {name: cls for name, cls in CLASSES.items() if "causal" in cls.needs}


@pytest.mark.parametrize("cls", CAUSAL.values(), ids=CAUSAL)
def test_a_causal_method_sees_nothing_that_comes_later(cls: type[Method]) -> None:
    encoder = toy_encoder(cls.roles()["encoder"].needs, "text").eval()
    ids = text_batch()["ids"][:3, :10].long()
    tokens, _ = encoder.embed(View(ids))
    tokens = tokens.detach().requires_grad_()
    for causal in (True, False):  # it is causal of itself
        said = encoder.context(tokens, causal=causal).tokens
        assert said is not None
        for t in range(ids.shape[1]):
            (gradient,) = torch.autograd.grad(said[:, t].square().sum(), tokens, retain_graph=True)
            assert not gradient[:, t + 1 :].any(), t
            assert gradient[:, : t + 1].abs().sum(2).gt(0).all(), t


WRONG = {
    "simclr": [{"temperature": 0.0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"width": 0}],
    "vicreg": [{"width": -1}, {"variance": float("nan")}, {"invariance": -1.0}],
    "byol": [{"momentum": 1.5}, {"momentum": float("nan")}, {"hidden": 0}, {"width": 0}],
    "dino": [
        *({"momentum": -0.1}, {"temperature": 0.0}, {"teacher_temperature": (0.0, 0.04)}, {"teacher_warmup": 2.0}),
        *({"frozen": 1.0}, {"centre_momentum": 1.1}, {"prototypes": 0}, {"hidden": 0}, {"bottleneck": -1}),
    ],
    "margin": [{"margin": 0.0}, {"margin": float("inf")}, {"width": 0}],
    "cpc": [{"grid": 1}, {"rows": 0}, {"group": 0}, {"hidden": 0}, {"width": 0}],
    "deep_infomax": [{"alpha": -1.0}, {"beta": float("nan")}, {"gamma": -0.1}, {"units": 0}, {"width": 0}],
    "moco": [{"temperature": 0.0}, {"momentum": 1.1}, {"queue": 0}, {"width": 0}],
    "mocov3": [{"temperature": float("nan")}, {"momentum": -0.1}, {"hidden": 0}, {"width": 0}],
    "nnclr": [{"temperature": 0.0}, {"queue": 0}, {"hidden": 0}, {"width": 0}],
    "dcl": [{"temperature": 0.0}, {"sigma": 0.0}, {"width": 0}],
    "barlow_twins": [{"redundancy": -0.1}, {"width": 0}],
    "w_mse": [{"width": 0}, {"hidden": 0}, {"slice": 8}],
    "vicregl": [
        *({"alpha": 1.5}, {"matches": 0}, {"matches": 17}, {"width": 0}, {"local_width": 0}),
        *({"invariance": -1.0}, {"variance": float("nan")}, {"covariance": float("inf")}),
    ],
    "lejepa": [{"regularisation": 1.5}, {"directions": 0}, {"hidden": 0}, {"width": 0}],
    "simsiam": [{"width": 0}, {"bottleneck": -1}],
    "ibot": [
        *({"momentum": 1.5}, {"temperature": 0.0}, {"teacher_temperature": (0.04, float("inf"))}, {"teacher_warmup": -0.1}),
        *({"frozen": 1.0}, {"centre_momentum": float("nan")}, {"prototypes": 0}, {"hidden": 0}, {"bottleneck": 0}),
    ],
    "dinov2": [
        *({"momentum": 1.5}, {"temperature": -1.0}, {"teacher_temperature": (0.0, 0.04)}, {"teacher_warmup": 1.1}),
        *({"frozen": -0.1}, {"koleo": -1.0}, {"prototypes": 0}, {"hidden": 0}, {"bottleneck": 0}),
    ],
    "ijepa": [{"momentum": 2.0}, {"predictor_width": 100}, {"predictor_width": 0}, {"predictor_depth": -1}],
    "data2vec": [{"momentum": -1.0}, {"end": 1.1}, {"layers": 0}, {"layers": 3}, {"beta": 0.0}],
    "msn": [
        *({"momentum": 1.1}, {"temperature": 0.0}, {"sharpening": float("nan")}, {"sinkhorn": -1}),
        *({"me_max": float("inf")}, {"prototypes": 0}, {"hidden": 0}, {"width": 0}),
    ],
    "swav": [
        *({"temperature": 0.0}, {"epsilon": -1.0}, {"iterations": 0}, {"prototypes": 0}, {"frozen": 1.0}),
        *({"queue": -1}, {"queue_start": 1.1}, {"hidden": 0}, {"width": 0}),
    ],
    "deepcluster": [{"temperature": 0.0}, {"prototypes": 0}, {"clusterings": 0}, {"iterations": 0}, {"hidden": 0}, {"width": 0}],
    "replaced_token": [{"generator": 0.0}, {"generator": 1.5}, {"discrimination": -1.0}, {"discrimination": float("nan")}],
    "bigan": [{"width": 0}, {"maps": 0}],
    "relative_patch": [{"hidden": 0}],
    "jigsaw": [{"hidden": 0}, {"tile_width": 0}],
    "feature_distillation": [{"pooled": -1.0}, {"dense": float("nan")}, {"smooth": 1.5}, {"hidden": 0}, {"pooled": 0.0, "dense": 0.0}],
    "gram": [{"start": 1.0}, {"refresh": -0.1}, {"momentum": 1.1}],
    "tsdae": [{"depth": 0}, {"heads": 0}, {"heads": 5}],
    "autoencoder": [{"width": 0}],
    "vae": [{"width": 0}, {"beta": -1.0}, {"free_bits": float("nan")}, {"likelihood": "cauchy"}],
    "discrete_vae": [
        *({"codes": 0}, {"kl": -1.0}, {"kl_share": 1.5}),
        *({"temperature": (0.0, 1.0)}, {"temperature_share": -0.1}),
    ],
    "mae": [{"decoder_width": 100}, {"decoder_width": -4}, {"decoder_depth": -1}],
}


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in NAMES for wrong in WRONG.get(name, ())], ids=str)
def test_a_knob_out_of_range_is_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        build(CLASSES[name], next(kind for other, kind in GRID if other == name), **wrong)


# ---------------------------------------------------------------------------------------------------------------- seeds


DRAWING = [name for name in ("vae", "discrete_vae", "bigan", "deep_infomax", "lejepa") if name in CLASSES]


@pytest.mark.parametrize("name", DRAWING)
def test_what_a_method_draws_itself_depends_on_the_runs_seed(name: str) -> None:
    cls = CLASSES[name]
    found = []
    for seed in (0, 0, 1):
        method, views, batch = build(cls, "image")
        assert method.seed == 0
        method.seed = seed  # type: ignore[assignment]
        torch.manual_seed(0)
        found.append(sum(float(value.detach()) for value in method.train()(views(batch, 0), 0.5).values()))
    assert found[0] == found[1] != found[2]
