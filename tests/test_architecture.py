"""The house holds: imports point down only, the vocabulary stays small, and importing untaught is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import untaught

ROOT = Path(untaught.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = [  # from the ground up; rooms of one floor never import each other
    {"core"},
    {"ops", "ranges", "surroundings"},
    {"blocks"},
    {"encoders", "methods", "modalities", "data", "evaluate"},
    {"downstream"},
    {"engine"},
    {"report", "export"},
    {"api"},
    {"cli"},
]


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts else "untaught"


def imports(path: Path) -> Iterator[str]:
    """The rooms of ours that a file imports, for type checking too. `import untaught` (for its version) is free to all."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "untaught" and rest and rest[0] != "__version__":
                yield rest[0]


def floor(name: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{name} has no floor in the house"
    return found[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    own = room(path.relative_to(ROOT).parts)
    if own == "__init__":  # the public names
        return
    for other in imports(path):
        assert other == own or floor(other) < floor(own), f"{own} imports {other}"


def test_targets_in_tables_are_of_their_own_room() -> None:
    from untaught.encoders import ENCODERS
    from untaught.methods import METHODS
    from untaught.modalities import MODALITIES

    places = {
        "methods": list(METHODS.values()),
        "modalities": list(MODALITIES.values()),
        "encoders": [place for place, _ in ENCODERS.values()],
    }
    for own, targets in places.items():
        assert all(target.startswith(f"untaught.{own}.") for target in targets)


def test_core_is_small_and_imports_nothing_of_ours() -> None:
    core = ROOT / "core.py"
    assert len(core.read_text().splitlines()) < 200
    assert list(imports(core)) == []


def test_every_file_is_named_for_its_idea() -> None:
    vague = {"utils", "util", "misc", "helpers", "helper", "common", "base"}
    assert [path for path in FILES if vague & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}] == []


def test_ops_have_no_parameters() -> None:
    for path in (ROOT / "ops").glob("*.py"):
        bases = [
            ast.unparse(base) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef) for base in node.bases
        ]
        assert not [base for base in bases if "Module" in base], path


def test_importing_untaught_imports_no_torch() -> None:
    code = "import sys, untaught; untaught.__version__; print(*sorted({'torch', 'numpy', 'timm', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_public_names_are_there() -> None:
    for name in untaught.__all__:
        assert getattr(untaught, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = untaught.nothing_of_that_name  # pyright: ignore[reportAttributeAccessIssue]
