"""The architecture holds: imports point down only, the vocabulary stays small, and importing untaught is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import untaught

ROOT = Path(untaught.__file__).parent
DRAWING = Path(__file__).parent.parent / "docs" / "architecture.md"
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = [  # from the top; a package imports from layers below its own, and within one only what stands right of it
    ("cli", "api", "losses", "sklearn"),
    ("commands", "inference", "export"),
    ("report", "downstream"),
    ("evaluation", "training"),
    ("pipeline", "distributed"),
    ("config",),
    ("methods", "encoders"),
    ("blocks", "modalities", "storage"),
    ("data", "ops"),
    ("console", "signals", "ranges", "surroundings", "core"),
]
ORDER = [name for layer in LAYERS for name in layer]


def package(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts else "untaught"


def imports(path: Path) -> Iterator[str]:
    """The packages of ours that a file imports, for type checking too. `import untaught` (for its version) is free to all."""
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


def drawn() -> str:
    """docs/architecture.md: the layers, and which package imports which."""
    found: dict[str, set[str]] = {name: set() for name in ORDER}
    for path in FILES:
        own = package(path.relative_to(ROOT).parts)
        if own in found:
            found[own] |= set(imports(path)) - {own}
    boxes = [f'  subgraph L{number}[" "]\n    direction LR\n    {" ~~~ ".join(layer)}\n  end' for number, layer in enumerate(LAYERS)]
    above = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    edges = [
        f"  {own} --> {other}"
        for own in ORDER
        for other in sorted(found[own], key=ORDER.index)
        if above[other] < len(LAYERS) - 1  # every package imports the vocabulary
    ]
    return "\n".join(
        [
            "# Architecture",
            "",
            "Written by `python tests/test_architecture.py`. A package imports from layers below its own; within a layer, only from",
            "packages to its right. Arrows to the last layer, which all packages import, are omitted.",
            "",
            "```mermaid",
            "flowchart TD",
            *boxes,
            *edges,
            "```",
            "",
            "",
        ]
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    own = package(path.relative_to(ROOT).parts)
    if own == "__init__":  # the public names
        return
    assert own in ORDER, f"{own} has no layer"
    for other in imports(path):
        assert other == own or ORDER.index(own) < ORDER.index(other), f"{own} imports {other}"


def test_the_drawing_is_up_to_date() -> None:
    assert DRAWING.read_text() == drawn(), "run: python tests/test_architecture.py"


def test_targets_in_tables_are_of_their_own_package() -> None:
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


def test_core_is_small_and_imports_nothing_else_of_ours() -> None:
    core = sorted((ROOT / "core").glob("*.py"))
    assert sum(len(path.read_text().splitlines()) for path in core) < 660
    assert {package for path in core for package in imports(path)} <= {"core"}


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


if __name__ == "__main__":
    DRAWING.write_text(drawn())
