"""Several methods trained jointly on one encoder: a+b:0.5. Each runs its own forward pass; the loss is the weighted sum of their terms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from untaught.core import Encoder, ExtractFeatures, Facts, Method, Options, Terms, UserError, View

JOINS = "+"


class Hybrid(Method):
    """Builds its methods on one encoder and forwards every hook to each. The first method determines which encoder is exported."""

    members: dict[str, tuple[type[Method], float]]  # name -> class, weight
    places: dict[str, tuple[int, ...]]  # name -> the positions of its views among the hybrid's

    def __init__(self, encoder: Encoder, facts: Facts, **knobs: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.methods = nn.ModuleDict()
        for name, (cls, _) in self.members.items():
            build: Any = cls  # constructors differ
            seen = {view: facts.views[view] for view in cls.views if view in facts.views} or facts.views
            own = {key.removeprefix(f"{name}."): value for key, value in knobs.items() if key.startswith(f"{name}.")}
            self.methods[name] = build(encoder, replace(facts, views=seen), **own)
        # the encoder's parameters belong to the hybrid, not to a member
        placed = lambda name, prefix: prefix if prefix.startswith("encoder") else f"methods.{name}.{prefix}"  # noqa: E731
        self.groups = {placed(name, prefix): own for name, method in self._each() for prefix, own in method.groups.items()}

    def _each(self) -> list[tuple[str, Method]]:
        return list(self.methods.items())  # type: ignore[arg-type]

    @classmethod
    def wants_features(cls, views: Sequence[str]) -> bool:
        return any(
            member.wants_features([views[i] for i in cls.places[name] if i < len(views)]) for name, (member, _) in cls.members.items()
        )

    def exported(self) -> dict[str, Encoder]:
        return self._each()[0][1].exported()

    @property
    def export_note(self) -> str:
        """Which encoder is exported, in words; "" if all methods export the trained one."""
        teachers = [name for name, method in self._each() if method.exported()["encoder"] is not self.encoder]
        first = next(iter(self.members))
        if not teachers:
            return ""
        if first in teachers:
            return f"the teacher's encoder of {first}, the first method"
        keep = "exports its teacher's" if len(teachers) == 1 else "export their teachers'"
        return f"the trained encoder, as for {first}, the first method ({' and '.join(teachers)} alone {keep})"

    def hf_model(self) -> Any:
        return next((model for _, method in self._each() if (model := method.hf_model()) is not None), None)

    def forward(self, views: list[View], progress: float) -> Terms:
        terms: Terms = {}
        pending = {}  # each member's entries for after_step, joined into one entry of ours
        for name, method in self._each():
            weight = self.members[name][1]
            for term, value in method([views[place] for place in self.places[name]], progress).items():
                only_logged = torch.is_grad_enabled() and not value.requires_grad
                terms[f"{name}.{term}"] = value if only_logged else weight * value
            pending[name], method.pending = method.pending, []
        if any(pending.values()):
            self.pending.append(pending)
        return terms

    def before_step(self, progress: float) -> None:
        for _, method in self._each():
            method.before_step(progress)

    def after_step(self, progress: float) -> None:
        for name, method in self._each():
            method.pending = [entry for pending in self.pending for entry in pending[name]]
            method.after_step(progress)


def hybrid_of(members: dict[str, tuple[type[Method], float]]) -> type[Hybrid]:
    """The Method that trains these jointly: name -> (class, weight). Views with the same name at the same position are shared.

    Raises UserError if the methods use the encoder with different views, or if one is adversarial.
    """
    title = title_of({name: weight for name, (_, weight) in members.items()})
    if adversarial := [name for name, (cls, _) in members.items() if cls.players]:
        raise UserError(f"{title}: {adversarial[0]} is adversarial and can't be combined with other methods; train it alone")
    if several := [name for name, (cls, _) in members.items() if len(cls.roles()) > 1]:
        raise UserError(f"{title}: {several[0]} has several encoders and can't be combined with other methods; train it alone")
    roles = {name: role for name, (cls, _) in members.items() for role in cls.roles().values()}
    export_views = {role.export_view: name for name, role in roles.items()}
    if len(export_views) > 1:
        uses = ", ".join(f"{name} on {view}" for view, name in export_views.items())
        raise UserError(f"{title}: these methods use the encoder on different views ({uses}); combine methods that use the same")
    views = list(dict.fromkeys((view, place) for cls, _ in members.values() for place, view in enumerate(cls.views)))
    body = {
        "members": members,
        "places": {name: tuple(views.index((view, i)) for i, view in enumerate(cls.views)) for name, (cls, _) in members.items()},
        "views": tuple(view for view, _ in views),
        "needs": frozenset().union(*(role.needs for role in roles.values())),
        "export_view": next(iter(export_views)),
        "taught": any(cls.taught for cls, _ in members.values()),
        "find_unused_parameters": any(cls.find_unused_parameters for cls, _ in members.values()),
        "paper": _settings({name: (cls, cls.paper) for name, (cls, _) in members.items()}),
        "short": _settings({name: (cls, cls.short) for name, (cls, _) in members.items()}),
        "view_presets": {"photo": _of_all("photo", [cls.view_presets for cls, _ in members.values()])},
        "__doc__": f"{title}: {Hybrid.__doc__}",
    }
    if any(cls.before_epoch is not Method.before_epoch for cls, _ in members.values()):
        body["before_epoch"] = _before_epoch
    return type(title, (Hybrid,), body)


def _settings(members: dict[str, tuple[type[Method], Options]]) -> Options:
    """Every member's own knobs, as NAME.KNOB, and the first member's settings of training; without `views`, which are shared."""
    first = next(iter(members))
    found: Options = {}
    for name, (cls, own) in members.items():
        knobs = inspect.signature(cls.__init__).parameters
        found |= {f"{name}.{key}": value for key, value in own.items() if key in knobs}
        found |= {key: value for key, value in own.items() if name == first and key not in knobs and key != "views"}
    return found


def _of_all(preset: str, presets: list[dict[str, Options]]) -> Options:
    """The view options of all members; those of the first one win."""
    return {key: value for own in reversed(presets) for key, value in own.get(preset, {}).items()}


def _before_epoch(self: Hybrid, epoch: int, extract_features: ExtractFeatures) -> None:
    for name, method in self._each():
        places = self.places[name]
        method.before_epoch(epoch, lambda what, place, name=name, places=places: extract_features(f"methods.{name}.{what}", places[place]))


def weights_of(name: str) -> dict[str, float]:
    """The methods of "a+b:0.5" with their weights. Raises UserError for anything else."""
    found: dict[str, float] = {}
    for part in name.split(JOINS):
        member, colon, given = part.strip().partition(":")
        try:
            weight = float(given) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(f"method {name}: the weight of {member} is {given or 'missing'}; give a number greater than 0, as in a+b:0.5")
        if not member:
            raise UserError(f"method {name}: a method's name is missing; combine methods as in a+b:0.5")
        if member in found:
            raise UserError(f"method {name}: {member} is given twice; give it once, with a weight")
        found[member] = weight
    return found


def title_of(weights: dict[str, float]) -> str:
    """The name in run.yaml, which `weights_of` reads back exactly; weights of 1 are omitted."""
    return JOINS.join(
        name if weight == 1 else f"{name}:{str(weight).removesuffix('.0').replace(JOINS, '')}" for name, weight in weights.items()
    )
