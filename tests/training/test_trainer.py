"""The loop by itself, on toy parts: what one step does, what it says, and when it refuses to go on."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import ROWS, Batches, Line, Spread, fit, weights

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.core import Facts, Terms, UserError, View
from untaught.methods.contrastive.simclr import SimCLR
from untaught.training import checkpoint
from untaught.training import trainer as fit_module


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def at_call(number: int, change: Any) -> Any:
    """Changes the terms of forward number `number` (from 0, one a step)."""
    return lambda step, views, terms: change(terms) if step == number else terms


def nan_gradient(terms: Terms) -> Terms:
    """Finite values whose gradient is not: the square root of a zero."""
    return terms | {"spread": terms["spread"] + (terms["spread"] * 0).sqrt()}


# ------------------------------------------------------------------------------------------------------- one step


def test_accumulated_gradients_are_the_mean_of_the_parts(tmp_path: Path) -> None:
    run = fit(tmp_path, method := Spread(), accumulate=2)
    expected: dict[str, Tensor] = {}
    (view,) = run.views(next(iter(Batches().batches(0))), 0)
    for half in view.x.chunk(2):
        terms = Spread().forward([View(half)], 0.0)
        twin = Spread()
        sum(twin.forward([View(half)], 0.0).values(), torch.zeros(())).backward()
        assert terms.keys() == {"spread", "size"}
        for name, p in twin.named_parameters():
            assert p.grad is not None
            expected[name] = expected.get(name, torch.zeros(())) + p.grad / 2
    run.run()
    for name, gradient in method.gradients.items():
        torch.testing.assert_close(gradient, expected[name])
    fit(tmp_path / "whole", whole := Spread()).run()
    assert not torch.allclose(whole.gradients["head.weight"], method.gradients["head.weight"])


def simclr() -> SimCLR:
    torch.manual_seed(0)
    method = SimCLR(Line(), Facts(ROWS), width=3)
    method.projector = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))  # without BatchNorm
    return method


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 8, 100])
def test_cached_gradients_equal_those_of_the_plain_step(tmp_path: Path, chunk: int) -> None:
    fit(tmp_path / "plain", plain := simclr(), views=2).run()
    fit(tmp_path / "cached", cached := simclr(), views=2, cache_gradients=chunk).run()
    before = weights(simclr())
    for name, value in weights(cached).items():
        torch.testing.assert_close(value, weights(plain)[name], atol=1e-5, rtol=0)
        assert not torch.equal(value, before[name])
    assert metrics(tmp_path / "cached")[0]["nt_xent"] == pytest.approx(metrics(tmp_path / "plain")[0]["nt_xent"], abs=1e-5)


def test_clip_bounds_the_norm_of_all_gradients_together(tmp_path: Path) -> None:
    before = weights(method := Spread())
    fit(tmp_path, method, clip=0.01).run()
    moved = torch.cat([(before[name] - value).flatten() for name, value in weights(method).items()])
    free = torch.cat([g.flatten() for g in method.gradients.values()])
    assert free.norm() > 0.02
    assert moved.norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moved / moved.norm(), free / free.norm(), atol=1e-4, rtol=0)


def test_a_group_of_the_method_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    method = Spread()
    method.groups = {"head": {"lr": 0.25}}
    before = weights(method)
    fit(tmp_path, method, lr=0.5).run()
    for name, value in weights(method).items():
        share = 0.25 if name.startswith("head") else 0.5
        torch.testing.assert_close(before[name] - value, share * method.gradients[name])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bf16_step_leaves_views_codes_and_times_as_they_are(tmp_path: Path, accumulate: int) -> None:
    seen: list[View] = []

    def watch(step: int, views: list[View], terms: Terms) -> Terms:
        seen.extend(views)
        assert method.head(method.encoder(views[0])).dtype == torch.bfloat16
        return terms

    method = Spread(watch)
    fit(tmp_path, method, precision="bf16", accumulate=accumulate).run()
    index = torch.arange(8)
    assert {view.x.dtype for view in seen} == {torch.float32}
    where = [view.meta for view in seen if view.meta]
    assert torch.equal(torch.cat([w["code"] for w in where]), index + 257)
    assert torch.equal(torch.cat([w["time"] for w in where]), index.double() + 1e9 + 1e-6)


def test_hooks_run_in_order_and_pending_has_an_entry_a_micro_batch(tmp_path: Path) -> None:
    fit(tmp_path, method := Spread(), accumulate=4, steps=2).run()
    assert method.calls == (["forward"] * 4 + ["before_step", "after_step"]) * 2
    assert method.seen_pending == [2, 2, 2, 2]
    assert method.pending == []


# -------------------------------------------------------------------------------------------------- length and words


def test_small_numbers_are_kept_in_the_metrics(tmp_path: Path) -> None:
    fit(tmp_path, Spread(), steps=4, log_every=1, lr=2.5e-7, schedule="constant", warmup=0.0).run()
    assert metrics(tmp_path)[-1]["lr"] == 2.5e-7


class Machine:
    """A clock that a step of training moves on by what it costs, in seconds: the only one that the loop reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], float]) -> None:
        self.now, self.cost = 0.0, cost
        monkeypatch.setattr(fit_module, "time", types.SimpleNamespace(perf_counter=lambda: self.now))

    def __call__(self, step: int, views: list[View], terms: Terms) -> Terms:
        self.now += self.cost(step)
        return terms


def test_minutes_become_a_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(tmp_path, Spread(Machine(monkeypatch, lambda step: 1.0)), minutes=1.0)
    run.run()
    assert run.total == run.step == 60


def test_minutes_of_two_steps_end_the_run_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path, Spread(Machine(monkeypatch, lambda step: 30.0)), minutes=1.2)
    run.run()
    assert run.step == run.total == 2, "a third would take a minute and a half"
    assert "minutes=1.2 ended after 2 steps" in capfd.readouterr().err


def test_minutes_hold_when_the_machine_slows_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(tmp_path, Spread(Machine(monkeypatch, lambda step: 1.0 if step < 30 else 2.0)), minutes=10.0, log_every=1)
    run.evaluate = lambda: {"knn20": 0.5}
    run.run()
    rows = metrics(tmp_path)
    assert len([row for row in rows if "knn20" in row]) == 3  # however often the plan has changed
    assert run.total == run.step == 30 + 570 // 2
    assert run.seconds == 600


def test_minutes_include_scores_and_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has given is time by the clock on the wall, whatever it goes to."""
    machine = Machine(monkeypatch, lambda step: 1.0)
    run = fit(tmp_path, Spread(machine), minutes=10.0)

    def evaluate() -> dict[str, float]:
        machine.now += 40.0
        return {"knn20": 0.5}

    run.evaluate = evaluate
    run.run()
    assert (run.step, run.seconds) == (600 - 3 * 40, 600)
    assert metrics(tmp_path)[-1]["samples_per_second"] == 8, "of training alone"


def test_the_rate_of_learning_has_no_jumps_and_ends_at_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as slow from step 150 on: the schedule is bent, and the rate moves by a small share of it a step."""
    machine = Machine(monkeypatch, lambda step: 5.0 if step == 0 else 1.0 if step < 150 else 4.0)
    run = fit(tmp_path, Spread(machine), minutes=6.0, log_every=1, lr=1.0, schedule="cosine", warmup=0.1)
    run.run()
    rates = [row["lr"] for row in metrics(tmp_path)]
    assert run.seconds == pytest.approx(360, rel=0.02)
    assert len(rates) == run.step > 190
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.06
    assert (max(rates), rates[0]) == (pytest.approx(1.0, abs=0.01), 0.0)
    assert rates[-1] < 0.01


def test_a_run_of_minutes_that_was_killed_repeats_its_lost_steps_and_ends_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock runs as fast again, but another time while the lost steps are done again: their plans are read, not made."""
    cost = lambda step: 0.5 + 0.3 * (step % 3) + (0.4 if step > 80 else 0.0)  # noqa: E731
    knobs: dict[str, Any] = {"minutes": 2.0, "log_every": 1, "lr": 0.1, "schedule": "cosine", "save_every": 50}
    fit(tmp_path / "whole", whole := Spread(Machine(monkeypatch, cost)), **knobs).run()

    class Killed(BaseException):
        pass

    def killed(step: int, views: list[View], terms: Terms) -> Terms:
        if step == 75:
            raise Killed
        return machine(step, views, terms)

    machine = Machine(monkeypatch, cost)
    with pytest.raises(Killed):
        fit(tmp_path / "run", Spread(killed), **knobs).run()

    state = checkpoint.load(tmp_path / "run" / "checkpoints", print)
    assert state is not None
    assert state["place"]["step"] == 50
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    other = Machine(monkeypatch, lambda step: cost(step + 50) * (2.0 if step < 20 else 1.0))  # 20 of the 25 lost steps take longer
    resumed = fit(tmp_path / "run", Spread(other), **knobs)
    resumed.restore(state)
    resumed.run()
    rows = {place: {row["step"]: (row["lr"], row["loss"]) for row in metrics(tmp_path / place)} for place in ("whole", "run")}
    assert all(rows["run"][step] == rows["whole"][step] for step in range(1, 76))
    assert resumed.seconds == pytest.approx(120, abs=1.5), "and the time is kept all the same"

    same = Machine(monkeypatch, lambda step: cost(step + 50))
    resumed = fit(tmp_path / "again", again := Spread(same), **knobs)
    resumed.restore(state)
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), weights(whole).values(), strict=True))


def test_epochs_become_a_number_of_steps(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), epochs=3)
    run.run()
    assert (run.step, run.total, run.step_in_epoch) == (12, 12, 4)


def test_metrics_say_what_happened_every_few_steps(tmp_path: Path) -> None:
    method = Spread(lambda step, views, terms: terms | {"watched": terms["size"].detach() * 0 + step})
    run = fit(tmp_path, method, steps=10, log_every=4, lr=0.1, schedule="cosine", evaluate_every=5)
    run.evaluate = lambda: {"knn20": 0.5}
    run.run()
    rows = [row for row in metrics(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert [row["samples"] for row in rows] == [32, 64, 80]
    assert [row["watched"] for row in rows] == [1.5, 5.5, 8.5]
    for row in rows:
        assert row["loss"] == pytest.approx(row["spread"] + row["size"], abs=2e-6)
        assert row["share_data"] + row["share_views"] + row["share_compute"] == pytest.approx(1, abs=1e-5)
        assert row["samples_per_second"] > 0
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert rows[0]["lr"] > rows[1]["lr"] > rows[2]["lr"] > 0
    assert [row["step"] for row in metrics(tmp_path) if row.get("knn20") == 0.5] == [5]


# ----------------------------------------------------------------------------------------------------- non-finite


def test_a_loss_that_is_not_finite_ends_the_run_and_names_step_term_samples_and_checkpoint(tmp_path: Path) -> None:
    method = Spread(at_call(6, lambda terms: terms | {"size": terms["size"] * float("nan")}))
    run = fit(tmp_path, method, steps=12, log_every=4, save_every=4, lr=0.01)
    with pytest.raises(UserError) as stop:
        run.run()
    said = str(stop.value)
    assert "step 6: size not finite (samples row 16, row 17, row 18" in said
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step-4'}" in said
    assert "lr (now 0.01)" in said
    assert not (tmp_path / "checkpoints" / "step-8").exists()
    assert all(value.isfinite().all() for value in weights(method).values())


def test_a_checkpoint_whose_own_step_is_not_finite_is_no_good_one(tmp_path: Path) -> None:
    method = Spread(at_call(8, lambda terms: terms | {"size": terms["size"] * float("nan")}))
    with pytest.raises(UserError) as stop:
        fit(tmp_path, method, steps=12, log_every=4, save_every=4, lr=0.01).run()
    assert "step 8: size not finite" in str(stop.value)
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step-4'}" in str(stop.value)
    assert checkpoint.steps(tmp_path / "checkpoints") == [4]


def test_a_single_bad_gradient_is_dropped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept: dict[int, dict[str, Tensor]] = {}

    def watch(step: int, views: list[View], terms: Terms) -> Terms:
        kept[step] = weights(method)
        return nan_gradient(terms) if step == 3 else terms

    method = Spread(watch)
    fit(tmp_path, method, steps=6, log_every=4, lr=0.01).run()
    for name, value in kept[3].items():
        assert torch.equal(value, kept[4][name])
        assert not torch.equal(value, kept[5][name])
    said = capsys.readouterr().err
    assert "warning: step 3: its gradient not finite (samples row 24, row 25, row 26 ...)" in said
    assert said.count("warning") == 1


@pytest.mark.parametrize("log_every", [1, 20])
def test_bad_gradients_that_persist_end_the_run(tmp_path: Path, log_every: int) -> None:
    method = Spread(lambda step, views, terms: nan_gradient(terms) if step >= 2 else terms)
    with pytest.raises(UserError, match=r"diverged at step .: its gradient not finite"):
        fit(tmp_path, method, steps=20, log_every=log_every, lr=0.01).run()


def test_bad_gradients_far_apart_do_not_end_the_run(tmp_path: Path) -> None:
    method = Spread(lambda step, views, terms: nan_gradient(terms) if step % 4 == 1 else terms)
    run = fit(tmp_path, method, steps=20, log_every=2, lr=0.01)
    run.run()
    assert run.step == 20


# ------------------------------------------------------------------------------------------------- what users bring


class Uniform(SimCLR):  # a user's own method
    pass


@pytest.mark.parametrize("method", [Uniform, "simclr"])
def test_a_class_and_a_module_of_the_users_own_are_trained(tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    pictures = np.random.default_rng(0).integers(0, 255, (24, 8, 8), np.uint8)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    before = weights(module)
    pretrain(PretrainArguments(pictures, method, module, tmp_path / "run", knobs={"steps": 2, "size": 16, "batch_size": 8}))
    after = weights(module)
    assert not torch.equal(before["0.weight"], after["0.weight"])
    assert int(after["1.num_batches_tracked"]) == 4
