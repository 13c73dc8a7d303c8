"""docs/api.md, made from signatures and docstrings: `python tests/test_api_page.py` writes it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import untaught as ut
from untaught.encoders import ENCODERS
from untaught.methods import METHODS
from untaught.pipeline.batch_views import BatchViews

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
RUNS = (
    *("pretrain", "pretrain_seeds", "compare", "evaluate", "finetune", "embed", "predict", "preview", "load", "runs"),
    *("Run", "Model", "Comparison"),
)
PARTS = ("views", "wrap")
CONTRACTS = ("Encoder", "Method", "View", "Features", "Facts", "Modality", "UserError")


def signature(name: str, thing: Any) -> str:
    """As it is called, without self; a line a parameter where one line does not hold it. "" of a property."""
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return ""
    found = inspect.signature(thing)
    parts, star = [], False
    for own, parameter in found.parameters.items():
        if own == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + own
        text += "" if parameter.annotation is parameter.empty else f": {annotation(parameter.annotation)}"
        parts.append(text if parameter.default is parameter.empty else f"{text} = {default(parameter.default)}")
    returns = "" if inspect.isclass(thing) or found.return_annotation is found.empty else f" -> {annotation(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) > 120:
        line = "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])
    return f"```python\n{line}\n```\n\n"


def annotation(value: Any) -> str:
    """As it is written in the source."""
    return value.__name__ if inspect.isclass(value) else str(value)


def default(value: Any) -> str:
    return "..." if repr(value).startswith("<") else repr(value)


def entry(name: str, thing: Any, level: int = 3) -> str:
    return f"{'#' * level} {name}\n\n{signature(name, thing)}```text\n{inspect.getdoc(thing)}\n```\n"


def members(cls: type) -> list[tuple[str, Any]]:
    """The public functions and properties that a class defines itself."""
    named = [(name, value) for name, value in vars(cls).items() if not name.startswith("_")]
    return [(name, value) for name, value in named if isinstance(value, property) or inspect.isfunction(value)]


def of_class(name: str, cls: type) -> str:
    documented = [(member, value) for member, value in members(cls) if inspect.getdoc(value)]
    return "\n".join([entry(name, cls), *(entry(f"{name}.{member}", value, 4) for member, value in documented)])


def written() -> str:
    """The whole page."""
    things = {name: getattr(ut, name) for name in (*RUNS, *PARTS)}
    runs = [of_class(name, thing) if inspect.isclass(thing) else entry(name, thing) for name, thing in things.items() if name in RUNS]
    classes = sorted(place.partition(":")[2] for place in METHODS.values())
    methods = [entry(f"methods.{name}", getattr(ut.methods, name)) for name in classes]
    losses = [entry(f"losses.{name}", getattr(ut.losses, name)) for name in ut.losses.__all__]
    encoders = ["| name | description |\n|---|---|", *(f"| `{name}` | {what} |" for name, (_, what) in ENCODERS.items())]
    sections = {
        "Training, evaluation, inference": runs,
        "Views": [entry("views", ut.views), of_class("BatchViews", BatchViews)],
        "Encoders": [entry("wrap", ut.wrap), "\n".join(encoders) + "\n"],
        "Methods": methods,
        "Losses": [str(inspect.getdoc(ut.losses)) + "\n", *losses],
        "Contracts": [of_class(name, getattr(ut, name)) for name in CONTRACTS],
    }
    head = (
        "# Python API\n\nMade by `python tests/test_api_page.py` from signatures and docstrings. All names are those of\n"
        "`import untaught as ut`; errors that the caller can fix are `ut.UserError`, with a one-line message.\n"
        "In shapes: B batch, N tokens or samples, D dimensions.\n"
        "Our methods and views in other training loops: [plain torch](../examples/plain_torch.py),\n"
        "[PyTorch Lightning](../examples/lightning.py), [transformers' Trainer](../examples/transformers_trainer.py).\n"
    )
    return head + "".join(f"\n## {title}\n\n" + "\n".join(parts) for title, parts in sections.items())


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == written(), "run: python tests/test_api_page.py"


@pytest.mark.parametrize("name", [name for name in ut.__all__ if name not in ("losses", "methods")])
def test_every_public_class_and_function_has_a_docstring(name: str) -> None:
    thing = getattr(ut, name)
    assert thing.__doc__, name
    if inspect.isclass(thing):
        defined = [(member, value) for member, value in members(thing) if getattr(value, "__name__", "") != "<lambda>"]
        assert [member for member, value in defined if not inspect.getdoc(value)] == []


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
