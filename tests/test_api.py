"""The public names: lazy, typed, documented, and enough for loops of one's own."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import untaught as ut
from untaught.methods import METHODS

ROOT = Path(ut.__file__).parent


# ---------------------------------------------------------------------------------------------------------- names


def test_methods_are_there_by_their_class_and_only_on_use() -> None:
    code = "import sys, untaught.methods as m; print('MoCo' in dir(m), 'torch' in sys.modules, m.MoCo.__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "MoCo", "True"]
    with pytest.raises(AttributeError, match="MoCoV9"):
        _ = ut.methods.MoCoV9  # pyright: ignore[reportAttributeAccessIssue]


def test_editors_and_the_table_know_the_same_methods() -> None:
    tree = ast.parse((ROOT / "methods" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {f"{node.module}:{node.names[0].name}" for node in block.body if isinstance(node, ast.ImportFrom)}
    assert told == set(METHODS.values())


@pytest.mark.parametrize("place", METHODS.values())
def test_a_methods_docstring_is_its_header(place: str) -> None:
    cls = getattr(ut.methods, place.partition(":")[2])
    assert inspect.getdoc(cls) == inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    assert "http" in (inspect.getdoc(cls) or "")


def test_the_command_line_imports_the_api_alone() -> None:
    found = set()
    for node in ast.walk(ast.parse((ROOT / "cli.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" if node.module == "untaught" else node.module for alias in node.names}
    ours = {name for name in found if name and name.startswith("untaught")}
    assert ours <= {"untaught.api", "untaught.console", "untaught.signals", "untaught.surroundings"}


def test_the_package_is_typed_in_the_wheel_too(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(Path(__file__).parents[1]))
    import zipfile

    wheel = next(iter(build.build(directory=str(tmp_path), versions=["standard"])))
    assert "untaught/py.typed" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("name", ut.losses.__all__)
def test_a_loss_has_shapes_in_its_docstring(name: str) -> None:
    assert "->" in (inspect.getdoc(getattr(ut.losses, name)) or "") or "scalar" in (inspect.getdoc(getattr(ut.losses, name)) or ""), name


# ---------------------------------------------------------------------------------------------------------- other loops


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_views_are_random_by_seed_epoch_and_index_alone(images: torch.Tensor) -> None:
    views = ut.views("image", images, method="moco", size=16)
    data = views.decode(images)
    whole, part = views(data, 1), views({key: value[4:8] for key, value in data.items()}, 1)
    assert len(whole) == 2
    assert whole[0].x.shape == (12, 3, 16, 16)
    assert torch.allclose(whole[0].x[4:8], part[0].x, atol=1e-5)
    again = views(images[4:8], 1, index=torch.arange(4, 8))
    assert torch.allclose(again[1].x, part[1].x, atol=1e-5)
    assert not torch.allclose(views(data, 2)[0].x, whole[0].x)
    assert not torch.allclose(ut.views("image", images, method="moco", size=16, seed=1)(data, 1)[0].x, whole[0].x)


def test_views_without_a_sample_take_the_first_batch() -> None:
    views = ut.views("text", method="simclr", length=16)
    with pytest.raises(ut.UserError, match="give a sample"):
        _ = views.input
    one, other = views([f"a text of some words, number {i}" for i in range(20)])
    assert one.x.shape[0] == other.x.shape[0] == 20
    assert one.x.shape[1] <= 16


def test_views_refuse_what_they_do_not_know(images: torch.Tensor) -> None:
    with pytest.raises(ut.UserError, match="unknown knob sise"):
        ut.views("image", images, method="moco", sise=32)
    with pytest.raises(ut.UserError, match="unknown method mocco"):
        ut.views("image", images, method="mocco")
    with pytest.raises(ut.UserError, match="3 of 4"):
        ut.views("image", images, method="moco").decode([np.zeros((8, 8, 3), np.uint8), *[np.full((8, 8, 3), -1)] * 3])


def test_a_module_is_wrapped_and_a_method_trained_by_hand(images: torch.Tensor) -> None:
    views = ut.views("image", images, method="moco", size=16)
    encoder = ut.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8)), views)
    assert encoder.width == 8
    method = ut.methods.MoCo(encoder, views.facts(encoder, len(images)), queue=24)
    terms = method(views(images), 0.0)
    terms["info_nce"].backward()
    queue = method.queue.vectors.clone()
    method.after_step(0.0)
    assert (method.queue.vectors != queue).any(1).sum() == 12
    assert method.pending == []
    method.validate(views(images), 0.0)
    assert method.pending == []
    with pytest.raises(ut.UserError, match="needs an encoder that offers tokens"):
        ut.views("image", images, method="mae").facts(encoder, 12)
