"""Several methods at once on one encoder: a+b:0.5. Each runs its own pass, and the sum of their weighted terms is trained on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from untaught.core import Encoder, ExtractFeatures, Facts, Method, Terms, UserError, View

JOINS = "+"


class Hybrid(Method):
    """Builds its methods on one encoder and passes on to each what the loop calls. The first says which encoder is kept."""

    members: dict[str, tuple[type[Method], float]]  # name -> class, weight
    places: dict[str, tuple[int, ...]]  # which of the hybrid's views each reads

    def __init__(self, encoder: Encoder, facts: Facts, **knobs: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.methods = nn.ModuleDict()
        for name, (cls, _) in self.members.items():
            build: Any = cls  # each method has a constructor of its own
            seen = {view: facts.views[view] for view in cls.views if view in facts.views} or facts.views
            own = {key.removeprefix(f"{name}."): value for key, value in knobs.items() if key.startswith(f"{name}.")}
            self.methods[name] = build(encoder, replace(facts, views=seen), **own)
        # a parameter of the encoder is named as the hybrid's
        placed = lambda name, prefix: prefix if prefix.startswith("encoder") else f"methods.{name}.{prefix}"  # noqa: E731
        self.groups = {placed(name, prefix): own for name, method in self._each() for prefix, own in method.groups.items()}

    def _each(self) -> list[tuple[str, Method]]:
        return list(self.methods.items())  # type: ignore[arg-type]

    @property
    def kept(self) -> Encoder:
        return self._each()[0][1].kept

    @property
    def how_kept(self) -> str:
        """In words, where not all of its methods would keep the encoder that is trained; else nothing."""
        taught = [name for name, method in self._each() if method.kept is not self.encoder]
        first = next(iter(self.members))
        if not taught:
            return ""
        if first in taught:
            return f"the teacher's encoder of {first}, the first of the methods"
        keep = "keeps its teacher's" if len(taught) == 1 else "keep their teachers'"
        return f"the encoder that is trained, as {first}, the first of the methods, keeps it; alone, {' and '.join(taught)} {keep}"

    def hf_model(self) -> Any:
        return next((model for _, method in self._each() if (model := method.hf_model()) is not None), None)

    def forward(self, views: list[View], progress: float) -> Terms:
        terms: Terms = {}
        left = {}  # what they would have after_step consume, as one entry of our own
        for name, method in self._each():
            weight = self.members[name][1]
            for term, value in method([views[place] for place in self.places[name]], progress).items():
                only_logged = torch.is_grad_enabled() and not value.requires_grad
                terms[f"{name}.{term}"] = value if only_logged else weight * value
            left[name], method.pending = method.pending, []
        if any(left.values()):
            self.pending.append(left)
        return terms

    def before_step(self, progress: float) -> None:
        for _, method in self._each():
            method.before_step(progress)

    def after_step(self, progress: float) -> None:
        for name, method in self._each():
            method.pending = [entry for left in self.pending for entry in left[name]]
            method.after_step(progress)


def hybrid_of(members: dict[str, tuple[type[Method], float]]) -> type[Hybrid]:
    """The Method that trains these, name -> class and weight. Views of the same name at the same place are made once.

    Raises UserError where the encoder would be used in two ways.
    """
    title = title_of({name: weight for name, (_, weight) in members.items()})
    if adversarial := [name for name, (cls, _) in members.items() if cls.players]:
        raise UserError(f"{title}: {adversarial[0]} has players that step in turn, and can't be joined with others; train it alone")
    wholes = {cls.whole: name for name, (cls, _) in members.items()}
    if len(wholes) > 1:
        said = ", ".join(f"{name} on {whole}" for whole, name in wholes.items())
        raise UserError(f"{title}: one encoder can't be used in two ways, {said}; join methods that use it alike")
    views = list(dict.fromkeys((view, place) for cls, _ in members.values() for place, view in enumerate(cls.views)))
    body = {
        "members": members,
        "places": {name: tuple(views.index((view, i)) for i, view in enumerate(cls.views)) for name, (cls, _) in members.items()},
        "views": tuple(view for view, _ in views),
        "needs": frozenset().union(*(cls.needs for cls, _ in members.values())),
        "whole": next(iter(wholes)),
        "find_unused_parameters": any(cls.find_unused_parameters for cls, _ in members.values()),
        "__doc__": f"{title}: {Hybrid.__doc__}",
    }
    if any(cls.before_epoch is not Method.before_epoch for cls, _ in members.values()):
        body["before_epoch"] = _before_epoch  # only then: a method that has it can't learn from a stream
    return type(title, (Hybrid,), body)


def _before_epoch(self: Hybrid, epoch: int, extract_features: ExtractFeatures) -> None:
    for name, method in self._each():
        places = self.places[name]
        method.before_epoch(epoch, lambda what, place, name=name, places=places: extract_features(f"methods.{name}.{what}", places[place]))


def weights_of(name: str) -> dict[str, float]:
    """The methods of "a+b:0.5", each with its weight. Raises UserError for what is not written so."""
    found: dict[str, float] = {}
    for part in name.split(JOINS):
        member, colon, said = part.strip().partition(":")
        try:
            weight = float(said) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(f"method {name}: the weight of {member}, {said or 'nothing'}, must be a number greater than 0, as in a+b:0.5")
        if not member:
            raise UserError(f"method {name}: a method's name is missing; methods are joined as in a+b:0.5")
        if member in found:
            raise UserError(f"method {name}: {member} is there twice; give it once, with a weight")
        found[member] = weight
    return found


def title_of(weights: dict[str, float]) -> str:
    """As run.yaml has it, from which the same weights are read again; a weight of 1 is left out."""
    return JOINS.join(
        name if weight == 1 else f"{name}:{str(weight).removesuffix('.0').replace(JOINS, '')}" for name, weight in weights.items()
    )
