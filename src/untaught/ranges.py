"""What a knob may be: a type that says its range, which holds wherever the knob is given (command line, run.yaml, Python)."""

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
LARGEST_INT = 1 << 53  # of a whole number without a range of its own: what a float holds exactly
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
    """Both ends included. Annotated[float, Within(0, 1)] is the type of a knob that is a share."""

    low: float
    high: float

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:,.12g} to {self.high:,.12g}"


Share = Annotated[float, Within(0, 1)]
Start = Annotated[float, Within(0, 0.999)]  # a share that leaves some of the whole
Weight = Annotated[float, Within(0, 1e6)]
Positive = Annotated[float, Within(1e-6, 1e6)]
Positives = tuple[Positive, Positive]
Size = Annotated[int, Within(1, 1 << 20)]
Width = Annotated[int, Within(1, 1 << 16)]  # of an encoder
Count = Annotated[int, Within(0, 1 << 20)]
Few = Annotated[int, Within(1, 1000)]  # blocks, heads, passes: each costs time to build or to run
FewOrNone = Annotated[int, Within(0, 1000)]
Seed = Annotated[int, Within(0, (1 << 31) - 1)]  # what draws and folds add to it stays below numpy's and scikit-learn's 2^32
Samples = Annotated[int, Within(1, 1 << 20)]  # in a step, or encoded at once


def options_of(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have: of `int | None` both."""
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)


def plain(kind: Any) -> tuple[Any, Within | None]:
    """A type without its range, and the range."""
    if typing.get_origin(kind) is not Annotated:
        return kind, None
    inner, *said = typing.get_args(kind)
    return inner, next((one for one in said if isinstance(one, Within)), None)


def fits(value: Any, kind: Any) -> bool:
    """Whether a number, or each of a tuple's, is finite and in range, and a word one of the Literal's; what else comes is not judged."""
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


def spoken(kind: Any) -> str:
    """What is allowed, as "a whole number from 1 to 1,000, or none"."""
    said = []
    for option in options_of(kind):
        option, within = plain(option)
        parts = typing.get_args(option)
        if typing.get_origin(option) is Literal:
            said.append("one of " + ", ".join(map(str, parts)))
        elif typing.get_origin(option) is tuple or option is tuple:
            count = "" if Ellipsis in parts or not parts else f"{len(parts)} "
            within = plain(parts[0])[1] if parts else None
            said.append(f"{count}numbers with commas between them" + (f", each {within}" if within else ""))
        elif within:
            said.append(f"{WORDS[option].replace('finite ', '')} {within}")
        else:
            said.append(WORDS.get(option, getattr(option, "__name__", str(option))))
    return " or ".join(said)


def refuse(name: str, value: Any, kind: Any) -> UserError:
    return UserError(f"{name}={_short(value)}: must be {spoken(kind)}")


def check(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises UserError for the first value that is out of the range of its kind."""
    for name, value in values.items():
        if name in kinds and not fits(value, kinds[name]):
            raise refuse(name, value, kinds[name])


def in_range(function: F) -> F:
    """A function whose arguments are checked against the ranges of their types before it runs."""
    signature = inspect.signature(function)
    kinds: dict[str, Any] = {}

    @wraps(function)
    def checked(*arguments: Any, **knobs: Any) -> Any:
        if not kinds:  # now, for a module may name types below the function
            kinds.update(typing.get_type_hints(function, include_extras=True))
        check(signature.bind(*arguments, **knobs).arguments, kinds)
        return function(*arguments, **knobs)

    return checked  # type: ignore[return-value]


def outside(options: Mapping[str, Any], ranges: Mapping[str, Within]) -> str | None:
    """What is wrong with options by these ranges, or None; a pair must also be in order."""
    for name, within in ranges.items():
        if name not in options:
            continue
        value = options[name]
        parts = list(value) if isinstance(value, tuple | list) else [value]
        if not all(part in within for part in parts) or parts != sorted(parts):
            shown = ",".join(f"{part:g}" for part in parts) if len(parts) > 1 else _short(value)
            return f"{name}={shown}: must lie {within}" + (", the smaller first" if len(parts) > 1 else "")
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
