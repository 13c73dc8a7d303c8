"""A plain function as a method: (views, encoder, *, knobs) -> terms. For trying a loss without heads in a notebook."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from untaught.core import Encoder, Facts, Method, Terms, UserError, View

Objective = Callable[..., Terms]  # (views, encoder, *, knobs) -> terms
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Function(Method):
    """A method that calls a function; only the encoder is trained."""

    views = ("global", "global")
    function: Objective

    def __init__(self, encoder: Encoder, facts: Facts, **knobs: Any) -> None:
        super().__init__()
        self.encoder, self.knobs, self.checked = encoder, knobs, False

    def forward(self, views: list[View], progress: float) -> Terms:
        terms = self.function(views, self.encoder, **self.knobs)
        if not self.checked and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.check(terms)
        return {name: value.float() for name, value in terms.items()}

    def check(self, terms: Any) -> None:
        """Once, on the first batch: raises UserError for terms that can't be trained on, or that need more than the encoder."""
        name = type(self).__name__
        if not isinstance(terms, dict) or not all(isinstance(value, Tensor) and value.ndim == 0 for value in terms.values()):
            raise UserError(f"{name} returned {_described(terms)}; a method returns a dict of scalar losses by name")
        trained = {id(parameter) for parameter in self.parameters()}
        leaves = list(_leaves(terms.values()))
        if not any(id(leaf) in trained for leaf in leaves):
            raise UserError(f"{name}: none of its terms ({', '.join(terms) or 'there are none'}) has a gradient that reaches the encoder")
        for leaf in leaves:
            if id(leaf) not in trained:
                shape = " x ".join(map(str, leaf.shape)) or "one number"
                raise UserError(
                    f"{name} uses a parameter ({shape}) outside the encoder, which would not be trained; write a Method class to have heads"
                )
        self.checked = True


def method_of(function: Objective) -> type[Function]:
    """The Method that calls this function. Attributes `views` and `needs` of the function, if set, become the method's."""
    signature = inspect.signature(function)
    first, knobs = [*signature.parameters.values()][:2], [*signature.parameters.values()][2:]
    takes_both = len(first) == 2 and all(p.kind in POSITIONAL for p in first)
    if not takes_both or any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in knobs):
        raise UserError(f"{function.__name__}{signature}: a function used as a method must take (views, encoder, *, knob=default ...)")
    body = {
        "function": staticmethod(function),
        "views": tuple(getattr(function, "views", Function.views)),
        "needs": frozenset(getattr(function, "needs", ())),
        **{name: getattr(function, name) for name in ("__module__", "__qualname__", "__doc__")},
    }
    return type(function.__name__.strip("<>"), (Function,), body)


def _leaves(values: Any) -> Iterator[Tensor]:
    """The leaf tensors that the gradients of these scalars reach."""
    waiting = [value.grad_fn for value in values if value.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            yield node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def _described(terms: Any) -> str:
    if isinstance(terms, Tensor):
        return f"a tensor of shape {tuple(terms.shape)}"
    if isinstance(terms, dict):
        return "a dict with " + ", ".join(f"{key} {_described(value)}" for key, value in terms.items())
    return f"a {type(terms).__name__}"
