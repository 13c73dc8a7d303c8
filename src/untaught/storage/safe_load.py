"""JSON and YAML that may come from anywhere: plain values, one fault for all that can be wrong, no more memory than the file is large."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from untaught.core import Options, UserError
from untaught.storage.safe_open import read_file

LARGEST = {".yaml": 1 << 20, ".json": 1 << 26}  # bytes; what we write is a hundredth of it
DEEPEST = 40  # lists in lists; of what we write, 6
LONGEST = 64  # characters of a number
PLAIN = (str, int, float, datetime.date, type(None))


def read_json(path: Path, within: Path | None) -> Any:
    """within: the folder that links may not lead out of, None for a file that the user has named. Raises UserError, naming the file."""
    return _read(path, ".json", json.loads, within)


def read_yaml(path: Path, within: Path | None) -> Any:
    """As `read_json`. Plain values alone: no tags that build objects, no aliases, by which a line grows to gigabytes."""
    return _read(path, ".yaml", lambda text: yaml.load(text, _Plain), within)


def check_kinds(values: Options, kinds: dict[str, Any], where: str) -> None:
    """A UserError, "`where` KEY is ...", where one of `values` that `kinds` names is of another type."""
    for key, kind in kinds.items():
        if key in values and not isinstance(values[key], kind):
            raise UserError(f"{where} {key} is {str(values[key])[:40]!r}, of another kind than it must be")


def check_finite(values: Options, where: str) -> None:
    """A UserError, "`where` KEY ...", where one of `values` holds a number that is infinite or none, at any depth."""
    for key, value in values.items():
        if any(isinstance(part, float) and not math.isfinite(part) for part in _walk(value)):
            raise UserError(f"{where} {key} holds a number that is not finite ({str(value)[:40]})")


class _Plain(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:
        if len(str(node.value)) > LONGEST:  # those of base 60 take the square of their length
            raise yaml.YAMLError("it has a number that is too long")
        return super().construct_yaml_int(node)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)


def _walk(value: Any) -> Iterator[Any]:
    """Everything inside a document that is neither a list nor a table. Raises ValueError for what is too deep."""
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(value, dict | list):
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        else:
            yield value


def _check_plain(document: Any) -> None:
    for value in _walk(document):
        if not isinstance(value, PLAIN):
            raise ValueError(f"it holds a {type(value).__name__}; plain values are allowed")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("it has a number that is too large")


def _read(path: Path, kind: str, parse: Callable[[str], Any], within: Path | None) -> Any:
    content = read_file(path, LARGEST[kind], within)
    try:
        document = parse(content.decode())
        _check_plain(document)
        return document
    except RecursionError as error:
        raise UserError(f"{path} can't be read: it is nested too deeply") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error
