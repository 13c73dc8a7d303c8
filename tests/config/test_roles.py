"""Encoder roles: the constructor's parameters annotated Encoder, what each needs, reads and is used in, and what is asked of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from untaught.config.registry import check_needs, method_class
from untaught.core import Encoder, Facts, Method, Role, Terms, UserError, View
from untaught.methods import METHODS
from untaught.methods.contrastive.clip import CLIP
from untaught.pipeline.starts import starts_of
from untaught.ranges import in_range


class Linear(Encoder):
    """x (B,4) -> (B,3)."""

    width = 3

    def __init__(self, offers: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.map, self.offers = nn.Linear(4, 3), offers

    def forward(self, view: View) -> Tensor:
        return self.map(view.x)


class Agreement(Method):
    """Two encoders of two views, and a knob."""

    views = ("sound", "film")
    needs = {"sound": frozenset(), "film": frozenset({"tokens"})}
    reads = {"sound": (0,), "film": (1,)}
    export_view = {"sound": "sound.whole", "film": "film.whole"}

    @in_range
    def __init__(self, sound: Encoder, film: "Encoder", facts: Facts, *, weight: float = 1.0) -> None:  # noqa: UP037
        super().__init__()
        self.sound, self.film, self.weight = sound, film, weight

    def forward(self, views: list[View], progress: float) -> Terms:
        a, b = self.sound(views[0]), self.film(views[1])
        return {"distance": self.weight * (a - b).square().mean()}


def test_roles_are_the_encoders_of_the_constructor() -> None:
    assert Agreement.roles() == {
        "sound": Role("sound", frozenset(), (0,), "sound.whole"),
        "film": Role("film", frozenset({"tokens"}), (1,), "film.whole"),
    }
    assert [Agreement.roles()[role].of(Agreement.views) for role in ("sound", "film")] == [["sound"], ["film"]]
    sound, film = Linear(), Linear()
    assert Agreement(sound, film, Facts(rows=2)).exported() == {"sound": sound, "film": film}


def test_all_methods_but_clip_have_one_role() -> None:
    for name in METHODS:
        cls = method_class(name)
        assert list(cls.roles()) == (["image", "text"] if cls is CLIP else ["encoder"]), name
    (role,) = method_class("mlm").roles().values()
    assert role.of(("a", "b")) == ["a", "b"]  # one encoder reads all views
    assert "words" in role.needs


def test_a_need_is_said_of_its_role() -> None:
    check_needs(Agreement, Linear(), "sound")
    check_needs(Agreement, Linear(frozenset({"tokens"})), "film")
    with pytest.raises(UserError, match="Agreement needs an encoder film that offers tokens; Linear offers pooled vectors only"):
        check_needs(Agreement, Linear(), "film")


def test_knobs_and_encoders_go_to_their_role() -> None:
    module = Linear()
    starts = starts_of(Agreement, {"film": module}, {"sound.width": "8"})
    assert (starts["sound"].encoder, starts["sound"].knobs) == (None, {"width": "8"})
    assert (starts["film"].encoder, starts["film"].title) == (module, "module:Linear")
    (start,) = starts_of(method_class("simclr"), "conv_small", {"width": "8", "weights": "x"}).values()
    assert (start.title, start.architecture) == ("conv_small", ("conv_small", {"width": 8}))


def test_terms_reach_both_encoders() -> None:
    method = Agreement(Linear(), Linear(), Facts(rows=2))
    method([View(torch.randn(2, 4)), View(torch.randn(2, 4))], 0.0)["distance"].backward()
    assert all(p.grad is not None for p in method.parameters())
