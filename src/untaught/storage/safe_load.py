"""Loading untrusted JSON and YAML: plain values only, UserError for any fault, memory bounded by the file size."""

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

LARGEST = {".yaml": 1 << 20, ".json": 1 << 26}  # bytes; our files have a hundredth of that
DEEPEST = 40  # nesting depth; our files have 6
LONGEST = 64  # characters of a number
PLAIN = (str, int, float, datetime.date, type(None))


def read_json(path: Path, within: Path | None) -> Any:
    """within: the folder that links must not leave; None for a file named by the user. Raises UserError with the file's name."""
    return _read(path, ".json", json.loads, within)


def read_yaml(path: Path, within: Path | None) -> Any:
    """Like `read_json`. No tags, which build objects, and no aliases, which can expand a line to gigabytes."""
    return _read(path, ".yaml", lambda text: yaml.load(text, _Plain), within)


def check_kinds(values: Options, kinds: dict[str, Any], where: str) -> None:
    """Raises UserError, "`where` KEY ...", if a value listed in `kinds` has another type."""
    for key, kind in kinds.items():
        if key in values and not isinstance(values[key], kind):
            raise UserError(f"{where} {key} has the wrong type: {str(values[key])[:40]!r}")


def check_finite(values: Options, where: str) -> None:
    """Raises UserError, "`where` KEY ...", if one of `values` contains NaN or infinity, at any depth."""
    for key, value in values.items():
        if any(isinstance(part, float) and not math.isfinite(part) for part in _walk(value)):
            raise UserError(f"{where} {key} has a number that is not finite ({str(value)[:40]})")


class _Plain(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:
        if len(str(node.value)) > LONGEST:  # base-60 numbers take quadratic time
            raise yaml.YAMLError("it has a number that is too long")
        return super().construct_yaml_int(node)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)


def _walk(value: Any) -> Iterator[Any]:
    """All scalars of a document. Raises ValueError if it is nested too deeply."""
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
            raise ValueError(f"it has a {type(value).__name__}; only plain values are allowed")
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
