"""Parsing of `key=value`: names, types, ranges, and suggestions for unknown names."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Literal

from untaught.core import Method, Modality, Options, UserError
from untaught.methods.composite import Hybrid
from untaught.ranges import fits, options_of, plain, refuse


def knobs_of(target: Callable | type) -> dict[str, tuple[Any, Any]]:
    """The keyword-only arguments of a function or constructor, or the fields of a dataclass: name -> (type, default).

    For a function used as a method, the function's; for a hybrid, NAME.KNOB of its members.
    """
    if inspect.isclass(target) and issubclass(target, Hybrid):
        return {f"{name}.{key}": knob for name, (cls, _) in target.members.items() for key, knob in knobs_of(cls).items()}
    if hasattr(target, "__dataclass_fields__"):
        hints = typing.get_type_hints(target, include_extras=True)
        return {f.name: (hints[f.name], f.default) for f in fields(target)}  # type: ignore[arg-type]
    function = declared_by(target)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def declared_by(target: Callable | type) -> Callable:
    """The function whose keyword-only arguments are the target's knobs: itself, the constructor, or the function behind a method."""
    return getattr(target, "function", target.__init__) if inspect.isclass(target) else target


def parse(name: str, text: Any, kind: Any) -> Any:
    """The value of a knob from its text (or a Python value), checked against its type. Raises UserError with what is allowed."""
    for option in options_of(kind):
        try:
            found = _parse_one(text, plain(option)[0])
        except (ValueError, TypeError, OverflowError):
            continue
        if fits(found, option):
            return found
    raise refuse(name, text, kind)


def _parse_one(value: Any, kind: Any) -> Any:
    if kind is Any:
        return _guess(value)
    if kind is type(None):
        if value is None or value in ("none", "None", "null"):
            return None
        raise ValueError
    if value is None:
        raise ValueError
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value in typing.get_args(kind):
            return value
        raise ValueError
    if origin is tuple or kind is tuple:
        inner = [a for a in typing.get_args(kind) if a is not Ellipsis] or [float]
        parts = value.strip("()[]").split(",") if isinstance(value, str) else list(value)
        if typing.get_args(kind) and Ellipsis not in typing.get_args(kind) and len(parts) != len(inner):
            raise ValueError
        return tuple(_parse_one(part, plain(inner[min(i, len(inner) - 1)])[0]) for i, part in enumerate(parts))
    if kind is bool:
        word = str(value).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    if kind is str:
        if not str(value).strip():
            raise ValueError
        return str(value)
    if isinstance(value, kind):
        return value
    raise ValueError


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name: the nearest names first, then all."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"unknown {what} {name}; {hint}known: {', '.join(known)}")


def method_knobs(cls: type[Method], knobs: Options) -> Options:
    """The method's knobs among `knobs`, parsed. Others are ignored."""
    known = knobs_of(cls)
    return {key: parse(key, value, known[key][0]) for key, value in knobs.items() if key in known}


def sort_knobs(knobs: Options, cls: type[Method], modality: Modality, loop_type: type) -> dict[str, Any]:
    """Sorts key=value pairs: loop, method, encoder.X, views and NAME.X or viewN.X, layout. Raises UserError for unknown keys.

    loop_type: the dataclass whose fields are the loop's knobs.
    """
    loop, own = knobs_of(loop_type), knobs_of(cls)
    result: dict[str, Any] = {"loop": {}, "method": {}, "encoder": {}, "view": {}, "layout": {}, "views": None}
    for key, value in knobs.items():
        place, dot, option = key.partition(".")
        if named := [name for name in own if key in (name, name.rpartition(".")[2])]:  # a hybrid's plain knob
            result["method"] |= method_knobs(cls, {name: value for name in named if name == key or name not in knobs})
        elif dot and place == "encoder":
            result["encoder"][option] = value
        elif dot and (key.rpartition(".")[0] in modality.views or (place.startswith("view") and place[4:].isdigit())):
            result["view"][key] = value
        elif key == "views":
            result["views"] = value
        elif key in loop:
            result["loop"][key] = parse(key, value, loop[key][0])
        elif key in modality.knobs:
            result["layout"][key] = parse(key, value, modality.knobs[key])
        else:
            raise unknown(
                "knob",
                key,
                [*own, *loop, *modality.knobs, "defaults", "views", "encoder.KNOB", *(f"{v}.OPTION" for v in dict.fromkeys(cls.views))],
            )
    return result
