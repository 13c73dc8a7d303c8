"""Players: each step of an adversarial method, turn by turn, against loops written by hand; what they may not be joined with."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import WIDTH, Line, fit, weights

from untaught.core import Method, Terms, UserError, View
from untaught.methods.composite import hybrid_of
from untaught.training import checkpoint
from untaught.training.collapse import _heads_of
from untaught.training.optim import optimizer_for

ADAM = {"optimizer": "adamw", "lr": 0.05}


class Duel(Method):
    """A critic pushes vectors apart, the encoder and its head push them back. Dropout makes each turn's generator state count."""

    views = ("x",)
    players = {"critic": ("critic",), "actor": ("encoder", "head")}
    find_unused_parameters = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head, self.critic = Line(), nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 2)), nn.Linear(2, 1)
        self.told: list[str] = []
        self.seen: list[set[str]] = []

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        self.told.append(player)
        score = self.critic(self.head(self.encoder(views[0]))).float()
        return {player: (score if player == "critic" else -score).tanh().mean() + 0.1 * score.square().mean()}

    def before_step(self, progress: float) -> None:
        self.seen.append({name for name, p in self.named_parameters() if p.grad is not None})

    def after_step(self, progress: float) -> None:
        self.told.append("after")


def parameters(method: Duel, player: str) -> list[nn.Parameter]:
    return [p for name, p in method.named_parameters() if method.player_of(name) == player]


def test_a_step_is_a_turn_of_each_player_in_order_and_gradients_reach_none_but_its_own(tmp_path: Path) -> None:
    fit(tmp_path, method := Duel(), steps=2, **ADAM).run()
    assert method.told == ["critic", "actor", "after"] * 2
    assert (
        method.seen == [{"critic.weight", "critic.bias"}, {"encoder.line.weight", "encoder.line.bias", "head.1.weight", "head.1.bias"}] * 2
    )
    assert all(p.requires_grad for p in method.parameters())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("name", "make"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_turns_are_a_loop_of_an_optimizer_for_each_player(tmp_path: Path, name: str, make: Any, accumulate: int) -> None:
    """Bit for bit, over steps in which each sees the others as they have just moved."""
    own = {"lr": 0.05, "weight_decay": 0.0, **({"fused": True} if name == "adamw" else {"momentum": 0.9, "nesterov": True, "fused": True})}
    run = fit(tmp_path, method := Duel(), steps=3, optimizer=name, lr=0.05, momentum=0.9, accumulate=accumulate)
    twin = Duel()
    optimizers = {player: make(parameters(twin, player), **own) for player in twin.players}
    for step, batch in zip(range(3), run.batches.batches(0), strict=False):
        (view,) = run.views(batch, 0)
        for turn, player in enumerate(twin.players):
            optimizers[player].zero_grad()
            for part, x in enumerate(view.x.chunk(accumulate)):
                run.train_step._reseed(step, turn * accumulate + part)
                loss = twin.turn(player, [View(x)], 0.0)[player] / accumulate
                for p, gradient in zip(parameters(twin, player), torch.autograd.grad(loss, parameters(twin, player)), strict=True):
                    p.grad = gradient if p.grad is None else p.grad + gradient
            optimizers[player].step()
    run.run()
    assert all(torch.equal(value, weights(twin)[key]) for key, value in weights(method).items())
    assert not torch.equal(weights(method)["critic.weight"], weights(Duel())["critic.weight"])


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "adam", "lamb"])
def test_a_player_that_waits_keeps_its_weights_and_its_moments(tmp_path: Path, optimizer: str) -> None:
    """Lamb counts its steps a group, not a parameter."""
    run = fit(tmp_path, method := Duel(), steps=1, optimizer=optimizer, lr=0.01, weight_decay=0.1, momentum=0.9)
    run.run()

    def waiting() -> list[Any]:
        groups = [group for group in run.train_step.optimizer.param_groups if group["player"] == "critic"]
        return copy.deepcopy([groups, [run.train_step.optimizer.state[p] for group in groups for p in group["params"]]])

    before, kept = weights(method), waiting()
    (view,) = run.views(next(iter(run.batches.batches(0))), 0)
    with run.train_step.turn_of("actor"):
        run.train_step.move("actor", 1, [view], 0.0)
    assert repr(waiting()) == repr(kept)
    moved = {name for name, value in weights(method).items() if not torch.equal(value, before[name])}
    assert moved
    assert {method.player_of(name) for name in moved} == {"actor"}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    whole = fit(tmp_path, Duel(), steps=4, save_every=1, log_every=1, **ADAM)
    whole.run()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]
    for later in range(step + 1, 5):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{later}")
    resumed = fit(tmp_path, Duel(), steps=4, save_every=1, log_every=1, **ADAM)
    resumed.restore(checkpoint.load(tmp_path / "checkpoints", pytest.fail) or {})
    assert resumed.step == step
    resumed.run()
    assert all(torch.equal(value, weights(whole.method)[key]) for key, value in weights(resumed.method).items())
    assert [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()] == losses


class Broken(Duel):
    """The critic's gradient is not finite."""

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        terms = super().turn(player, views, progress)
        return {player: terms[player] + (terms[player] * 0).sqrt()} if player == "critic" else terms


def test_a_gradient_that_is_not_finite_is_dropped_from_its_player_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, method := Broken(), steps=1).run()
    assert all(value.isfinite().all() for value in weights(method).values())
    first = weights(Duel())
    assert torch.equal(weights(method)["critic.weight"], first["critic.weight"])
    assert not torch.equal(weights(method)["head.1.weight"], first["head.1.weight"])
    assert "step 0: its gradient not finite" in " ".join("".join(capsys.readouterr()).split())


def test_each_player_is_clipped_by_its_own_norm(tmp_path: Path) -> None:
    fit(tmp_path / "free", free := Duel(), lr=1.0).run()
    fit(tmp_path / "clipped", clipped := Duel(), lr=1.0, clip=1e-3).run()
    for player, most in (("critic", 1e-3), ("actor", 1e-3)):
        moved = {
            m: torch.cat([(p - q).flatten() for p, q in zip(parameters(m, player), parameters(Duel(), player), strict=True)])
            for m in (free, clipped)
        }
        assert float(moved[clipped].detach().norm()) == pytest.approx(most, rel=1e-3)
        assert float(moved[free].detach().norm()) > 10 * most


def test_forward_has_the_terms_of_all_each_for_its_own_player() -> None:
    method, x = Duel().eval(), torch.randn(5, 6)
    terms = method([View(x)], 0.0)
    assert list(terms) == ["critic", "actor"]
    sum(terms.values(), torch.zeros(())).backward()
    for player in method.players:
        (loss,) = method.turn(player, [View(x)], 0.0).values()
        expected = torch.autograd.grad(loss, parameters(method, player))
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters(method, player), expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("players", "says"),
    [
        (
            {"critic": ("critic",), "actor": ("encoder",)},
            r"the parameter head\.1\.weight belongs to no player; name it under exactly one of critic, actor",
        ),
        ({"critic": ("critic", "head"), "actor": ("encoder", "head.1")}, r"the parameter head\.1\.weight belongs to critic and actor"),
        ({"critic": ("critic",), "actor": ("encoder", "hea")}, r"head\.1\.weight belongs to no player"),
    ],
)
def test_every_parameter_belongs_to_one_player(tmp_path: Path, players: dict[str, tuple[str, ...]], says: str) -> None:
    method = Duel()
    method.players = players
    with pytest.raises(UserError, match=says):
        fit(tmp_path, method)


def test_frozen_parameters_stay_frozen() -> None:
    method = Duel()
    method.critic.bias.requires_grad_(False)
    with pytest.raises(KeyError), method.only("actor"):
        raise KeyError
    assert [name for name, p in method.named_parameters() if not p.requires_grad] == ["critic.bias"]


def test_what_cannot_be_done_in_turns_is_refused(tmp_path: Path) -> None:
    run = fit(tmp_path, Duel())
    with pytest.raises(UserError, match="strategy=fsdp does not support adversarial methods such as Duel; use strategy=ddp"):
        optimizer_for(run.method, type(run.train_config)(strategy="fsdp", lr=0.1))
    with pytest.raises(UserError, match=r"duel\+other: duel is adversarial and can't be combined with other methods; train it alone"):
        hybrid_of({"duel": (Duel, 1.0), "other": (Duel, 1.0)})


def test_health_looks_at_the_heads_of_the_encoders_player_alone() -> None:
    assert [name for name, _ in _heads_of(Duel())] == ["head"]
