"""The detector looks at each of a method's encoders, says of which a verdict is, and leaves a frozen one out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from untaught.core import Batch, Encoder, Facts, Method, Modality, Preprocessor, Terms, View
from untaught.pipeline.view_pipeline import Views, used_view
from untaught.training.collapse import CollapseDetector

ROWS = 64
SIDES = ("sound", "film")


class Linear(Encoder):
    """x (B,8) -> (B,6)."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(8, 6)

    def forward(self, view: View) -> Tensor:
        return self.map(view.x)


class Agreement(Method):
    views = SIDES
    reads = {"sound": (0,), "film": (1,)}
    export_view = {"sound": "sound", "film": "film"}

    def __init__(self, sound: Encoder, film: Encoder, facts: Facts) -> None:
        super().__init__()
        self.sound, self.film = sound, film
        self.sound_head, self.film_head = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)

    def forward(self, views: list[View], progress: float) -> Terms:
        a, b = self.sound_head(self.sound(views[0])), self.film_head(self.film(views[1]))
        return {"distance": (a - b).square().mean()}

    def shared_space(self) -> dict[str, nn.Module]:
        return {"sound": self.sound_head, "film": self.film_head}


def view(name: str, batch: Batch, rng: Any, options: Any, prep: Any) -> View:
    return View(batch[name] + 0.1 * rng.normal(8))


@pytest.fixture
def detector() -> Any:
    torch.manual_seed(0)
    modality = Modality(
        name="pairs",
        noun="pairs",
        fields={},
        decode=lambda record, prep: {"x": np.zeros(1)},
        views={side: lambda *given, side=side: view(side, *given) for side in SIDES},
        encoder_for=lambda settings, needs: "",
    )
    prep = Preprocessor(modality, {})
    batch = {side: torch.randn(ROWS, 8) for side in SIDES} | {"index": torch.arange(ROWS)}
    method = Agreement(Linear(), Linear(), Facts(rows=ROWS))

    def build(frozen: str = "") -> tuple[Agreement, CollapseDetector]:
        if frozen:
            method.get_submodule(frozen).requires_grad_(False)
        views = Views(SIDES, prep, [{}, {}], seed=0)
        return method, CollapseDetector(method, views, {side: used_view(prep, side) for side in SIDES}, batch, {})

    return build


def moved(method: Agreement, *sides: str) -> None:
    with torch.no_grad():
        for side in sides:
            for parameter in method.get_submodule(side).parameters():
                parameter.mul_(1.2)


def test_each_role_is_looked_at_and_the_verdict_names_the_one_that_collapses(detector: Any) -> None:
    method, look = detector()
    moved(method, *SIDES)
    healthy = look(100, 0.5, 0.1, 1.0, {})
    assert healthy["verdict"] == "healthy"
    assert healthy["roles"].keys() == set(SIDES)
    with torch.no_grad():
        method.film.map.weight.zero_()
    looked = look(100, 0.5, 0.1, 1.0, {})
    assert looked["because"].startswith("in role film: the encoder maps all samples to nearly the same vector")
    assert looked["roles"]["sound"]["verdict"] == "healthy"
    assert looked["effective_rank"] == looked["roles"]["film"]["effective_rank"]


def test_an_encoder_that_stands_still_is_a_fault_unless_it_is_frozen(detector: Any) -> None:
    method, look = detector()
    moved(method, "film")
    assert look(100, 0.5, 0.1, 1.0, {})["because"].startswith("in role sound: the encoder hardly trains")
    method, look = detector(frozen="sound")
    moved(method, "film")
    looked = look(100, 0.5, 0.1, 1.0, {})
    assert looked["verdict"] == "healthy"
    assert looked["roles"].keys() == {"film"}


def test_a_head_is_judged_with_its_own_encoder(detector: Any) -> None:
    _, look = detector()
    assert [list(one.first.heads) for one in look.looks] == [["sound_head"], ["film_head"]]
