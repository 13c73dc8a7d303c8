"""Methods of other packages: the example is installed as anybody's, named, trained and resumed; faulty ones are told of by name."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command import Cli
from torch import Tensor, nn

from untaught.core import Facts, View
from untaught.encoders.plain import Plain
from untaught.ops.info_nce import nt_xent

ROOT = Path(__file__).parents[2]
TINY = ("size=16", "encoder.width=8", "batch_size=32", "log_every=1")
FAULTY = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "zz-faulty"
version = "0"

[project.entry-points."untaught.methods"]
absent = "zz_faulty:Absent"
broken = "zz_no_such_module:Broken"
linear = "torch.nn:Linear"
function = "zz_faulty:function"
simclr = "zz_faulty:function"
hard_simclr = "zz_faulty:function"

[tool.hatch.build.targets.wheel]
only-include = ["zz_faulty.py"]
"""


def install(package: Path, target: Path) -> str:
    """Where it lies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", target, package], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(target)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    return install(ROOT / "examples" / "plugin", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(FAULTY)
    (source / "zz_faulty.py").write_text("def function(views, encoder): return {'mean': encoder(views[0]).mean()}\n")
    return install(source, tmp_path_factory.mktemp("faulty"))


# ------------------------------------------------------------------------------------------------------- the example


def test_it_is_listed_with_its_package_and_shown(cli: Cli, example: str) -> None:
    cards = {card["name"]: card for card in json.loads(cli("methods", "--json", PYTHONPATH=example).out)}
    assert cards["hard_simclr"]["package"] == "untaught-hard-negatives"
    assert cards["simclr"]["package"] == "untaught"
    shown = cli("methods", "hard_simclr", PYTHONPATH=example).out
    assert "Robinson" in shown
    assert "  concentration  1.0  how much more a near negative counts; 0 is not at all" in shown


def test_it_trains_with_its_knobs_and_goes_on(cli: Cli, example: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--method", "hard_simclr", "--out", out, *TINY, "steps=2", "concentration=0.5")
    done = cli("pretrain", "builtin:digits", *words, PYTHONPATH=example)
    assert done.code == 0, done.err
    assert "concentration=0.5" in done.err
    done = cli("pretrain", "--out", out, "--resume", "steps=3", PYTHONPATH=example)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "hard_nt_xent" in row] == [1, 2, 3]
    assert "unknown method hard_simclr; " in cli("pretrain", "--out", out, "--resume", "steps=4").error  # no longer installed


def test_it_keeps_the_promises_of_a_method(example: str) -> None:
    """As docs/methods.md has the author of a package ask for it."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([example, os.environ.get("PYTHONPATH", "")]),
        "UNTAUGHT_METHODS": "hard_simclr",
    }
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/conformance/test_methods.py"]
    done = subprocess.run(suite, cwd=ROOT, env={**variables, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 15, done.stdout


@pytest.fixture
def hard(example: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The loss of the example with these knobs, of a and b (B,D)."""
    monkeypatch.syspath_prepend(example)
    from hard_negatives import HardSimCLR  # pyright: ignore[reportMissingImports]

    encoder = Plain(nn.Flatten(), View(torch.zeros(2, 1, 4, 4)))
    yield lambda a, b, **knobs: HardSimCLR(encoder, Facts(rows=8), **knobs).objective([a, b], 0.0)["hard_nt_xent"]
    sys.modules.pop("hard_negatives")


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)


@pytest.mark.parametrize("knobs", [{}, {"temperature": 0.1, "prior": 0.5, "concentration": 2.0}])
def test_its_loss_is_that_of_plain_loops(hard: Any, knobs: dict[str, float]) -> None:
    a, b = pairs()
    temperature, prior, concentration = ({"temperature": 0.5, "prior": 0.1, "concentration": 1.0} | knobs).values()
    z, rows = F.normalize(torch.cat([a, b]), dim=1).double(), len(a)
    losses = []
    for i in range(2 * rows):
        positive = math.exp(float(z[i] @ z[(i + rows) % (2 * rows)]) / temperature)
        negatives = [math.exp(float(z[i] @ z[j]) / temperature) for j in range(2 * rows) if j % rows != i % rows]
        weights = [negative**concentration for negative in negatives]
        total = sum(w * n for w, n in zip(weights, negatives, strict=True)) / (sum(weights) / len(weights))
        total = max((total - prior * len(negatives) * positive) / (1 - prior), len(negatives) * math.exp(-1 / temperature))
        losses.append(-math.log(positive / (positive + total)))
    assert float(hard(a, b, **knobs)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_without_concentration_and_prior_its_loss_is_simclrs(hard: Any) -> None:
    a, b = pairs()
    assert float(hard(a, b, prior=0.0, concentration=0.0, temperature=0.2)) == pytest.approx(float(nt_xent(a, b, 0.2)), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- faults


def test_a_package_that_cannot_be_used_is_warned_of_and_the_others_are_listed(cli: Cli, example: str, faulty: str) -> None:
    listed = cli("methods", "--json", PYTHONPATH=os.pathsep.join([faulty, example]))
    assert listed.code == 0, listed.err
    cards = {card["name"]: card["package"] for card in json.loads(listed.out)}
    assert {"absent", "broken", "linear"} & cards.keys() == set()
    assert (cards["hard_simclr"], cards["simclr"], cards["function"]) == ("untaught-hard-negatives", "untaught", "zz-faulty")
    assert sorted(listed.err.splitlines()) == [
        "warning: ignoring the method hard_simclr of package zz-faulty: untaught-hard-negatives already has a method with that name",
        "warning: ignoring the method simclr of package zz-faulty: untaught already has a method with that name",
        "warning: the method absent of package zz-faulty can't be used: "
        "AttributeError: module 'zz_faulty' has no attribute 'Absent'; fix or uninstall zz-faulty",
        "warning: the method broken of package zz-faulty can't be used: "
        "ModuleNotFoundError: No module named 'zz_no_such_module'; fix or uninstall zz-faulty",
        "warning: the method linear of package zz-faulty can't be used: Linear is not a method; give a name, a subclass "
        "of untaught.Method with views, or a function (views, encoder); fix or uninstall zz-faulty",
    ]


def test_training_with_a_method_that_cannot_be_used_is_one_line(cli: Cli, faulty: str, tmp_path: Path) -> None:
    for name, said in {"broken": "No module named 'zz_no_such_module'", "linear": "Linear is not a method"}.items():
        error = cli("pretrain", "builtin:digits", "--method", name, "--out", tmp_path / "run", PYTHONPATH=faulty).error
        assert error.startswith(f"the method {name} of package zz-faulty can't be used: ")
        assert said in error
    assert not (tmp_path / "run").exists()


def test_a_fault_of_another_method_stops_nothing(cli: Cli, faulty: str, tmp_path: Path) -> None:
    done = cli("preview", "builtin:digits", "--method", "simclr", "-o", tmp_path / "preview.png", PYTHONPATH=faulty)
    assert done.code == 0, done.err
    assert "ignoring the method simclr of package zz-faulty: untaught already has a method with that name" in done.err
    assert (tmp_path / "preview.png").exists()
