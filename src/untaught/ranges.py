"""Ranges of knobs as types, checked wherever a knob is given (command line, run.yaml, Python)."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar, Union

from untaught.core import UserError

F = TypeVar("F", bound=Callable[..., Any])
LARGEST_INT = 1 << 53  # limit of integers without a range: what a float represents exactly
WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "none",
    Any: "a number or text",
}


@dataclass(frozen=True)
class Within:
    """An inclusive range, as in Annotated[float, Within(0, 1)]."""

    low: float
    high: float

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:,.12g} to {self.high:,.12g}"


Share = Annotated[float, Within(0, 1)]
Start = Annotated[float, Within(0, 0.999)]  # a share below 1
Weight = Annotated[float, Within(0, 1e6)]
Positive = Annotated[float, Within(1e-6, 1e6)]
Positives = tuple[Positive, Positive]
Size = Annotated[int, Within(1, 1 << 20)]
Width = Annotated[int, Within(1, 1 << 16)]  # an encoder's
Count = Annotated[int, Within(0, 1 << 20)]
Few = Annotated[int, Within(1, 1000)]  # blocks, heads, passes
FewOrNone = Annotated[int, Within(0, 1000)]
Seed = Annotated[int, Within(0, (1 << 31) - 1)]  # leaves room for offsets below numpy's and scikit-learn's limit of 2^32
Samples = Annotated[int, Within(1, 1 << 20)]  # per step, or encoded at once


def options_of(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a type: both for `int | None`."""
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)


def plain(kind: Any) -> tuple[Any, Within | None]:
    """A type without its range, and the range (or None)."""
    if typing.get_origin(kind) is not Annotated:
        return kind, None
    inner, *metadata = typing.get_args(kind)
    return inner, next((one for one in metadata if isinstance(one, Within)), None)


def fits(value: Any, kind: Any) -> bool:
    """Whether a number (or each one in a tuple) is finite and in range, or a word is one of a Literal's. Other types are not checked."""
    kinds = [plain(option) for option in options_of(kind)]
    if isinstance(value, tuple | list):
        inner = next((typing.get_args(option) for option, _ in kinds if typing.get_origin(option) is tuple), ())
        inner = [part for part in inner if part is not Ellipsis] or [Any]
        return all(fits(part, inner[min(i, len(inner) - 1)]) for i, part in enumerate(value))
    words = [word for option, _ in kinds if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if isinstance(value, str) and words and not any(option is str for option, _ in kinds):
        return value in words
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if isinstance(value, float) and not math.isfinite(value):
        return False
    ranges = [within for option, within in kinds if option in (int, float) and within]
    return any(value in within for within in ranges) if ranges else abs(value) <= (LARGEST_INT if isinstance(value, int) else math.inf)


def described(kind: Any) -> str:
    """What is allowed, such as "a whole number from 1 to 1,000 or none"."""
    allowed = []
    for option in options_of(kind):
        option, within = plain(option)
        parts = typing.get_args(option)
        if typing.get_origin(option) is Literal:
            allowed.append("one of " + ", ".join(map(str, parts)))
        elif typing.get_origin(option) is tuple or option is tuple:
            count = "" if Ellipsis in parts or not parts else f"{len(parts)} "
            within = plain(parts[0])[1] if parts else None
            words = "names" if plain(parts[0])[0] is str else "numbers"
            allowed.append(f"{count}comma-separated {words}" + (f", each {within}" if within else ""))
        elif within:
            allowed.append(f"{WORDS[option].replace('finite ', '')} {within}")
        else:
            allowed.append(WORDS.get(option, getattr(option, "__name__", str(option))))
    return " or ".join(allowed)


def refuse(name: str, value: Any, kind: Any) -> UserError:
    return UserError(f"{name}={_short(value)}: must be {described(kind)}")


def check(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises UserError for the first value out of range."""
    for name, value in values.items():
        if name in kinds and not fits(value, kinds[name]):
            raise refuse(name, value, kinds[name])


def in_range(function: F) -> F:
    """A decorator that checks a function's arguments against the ranges of their types."""
    signature = inspect.signature(function)
    kinds: dict[str, Any] = {}

    @wraps(function)
    def checked(*arguments: Any, **knobs: Any) -> Any:
        if not kinds:  # lazily, since types may be defined below the function
            kinds.update(typing.get_type_hints(function, include_extras=True))
        check(signature.bind(*arguments, **knobs).arguments, kinds)
        return function(*arguments, **knobs)

    return checked  # type: ignore[return-value]


def outside(options: Mapping[str, Any], ranges: Mapping[str, Within]) -> str | None:
    """What is wrong with the options, given these ranges, or None. A pair must also be in order."""
    for name, within in ranges.items():
        if name not in options:
            continue
        value = options[name]
        parts = list(value) if isinstance(value, tuple | list) else [value]
        if not all(part in within for part in parts) or parts != sorted(parts):
            shown = ",".join(f"{part:g}" for part in parts) if len(parts) > 1 else _short(value)
            return f"{name}={shown}: must be {within}" + (", smaller first" if len(parts) > 1 else "")
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
