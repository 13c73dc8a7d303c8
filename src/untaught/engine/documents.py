"""JSON and YAML that may come from anywhere: one fault for all that can be wrong with a file, and no more memory than it is large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from untaught.core import Options, UserError

LARGEST = {".yaml": 1 << 20, ".json": 1 << 26}  # bytes; what we write is a hundredth of it


def read_json(path: Path) -> Any:
    """Raises UserError, naming the file."""
    return _read(path, ".json", json.loads)


def read_yaml(path: Path) -> Any:
    """Plain values alone: no tags that build objects, no aliases, by which a line grows to gigabytes. Raises UserError."""
    return _read(path, ".yaml", lambda text: yaml.load(text, _Plain))


def check_kinds(values: Options, kinds: dict[str, Any], where: str) -> None:
    """A UserError, "`where` KEY is ...", where one of `values` that `kinds` names is of another type."""
    for key, kind in kinds.items():
        if key in values and not isinstance(values[key], kind):
            raise UserError(f"{where} {key} is {str(values[key])[:40]!r}, of another kind than it must be")


class _Plain(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)


def _read(path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
    try:
        if (size := path.stat().st_size) > LARGEST[kind]:
            raise UserError(f"{path} can't be read: it has {size:,} bytes, at most {LARGEST[kind]:,} are allowed")
        return parse(path.read_text("utf-8"))
    except RecursionError as error:
        raise UserError(f"{path} can't be read: it is nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} can't be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error
