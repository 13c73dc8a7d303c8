"""The simulation of many ranks, against what can be counted by hand; its tables in the documents are those that it prints."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scale() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("scale")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("ranks", [1, 8])
def test_steps_of_one_length_take_the_sum_of_their_parts(scale: Any, ranks: int) -> None:
    job = replace(scale.paper(ranks, stored=True), jitter=0.0, decode=0.0, hidden=0.0)
    step = job.compute + job.gathering + job.reducing
    assert scale.simulate(job, 40).pictures_per_second == pytest.approx(ranks * job.batch / step, rel=1e-6)


def test_a_storage_that_is_too_slow_sets_the_pace(scale: Any) -> None:
    job = replace(scale.paper(8), jitter=0.0, storage=1e8)
    found = scale.simulate(job, 40)
    assert found.pictures_per_second == pytest.approx(1e8 / scale.ENCODED, rel=0.05)
    assert found.data + found.others > 0.5


def test_all_wait_for_the_slowest_and_for_the_checkpoint(scale: Any) -> None:
    even = replace(scale.paper(16, stored=True), jitter=0.0)
    calm, uneven, kept = (scale.simulate(job, 40) for job in (even, replace(even, jitter=0.1), replace(even, every=4)))
    assert uneven.others > 0.1 > calm.others
    assert kept.pictures_per_second < calm.pictures_per_second


def test_the_documents_have_the_tables_as_they_are(scale: Any) -> None:
    said = (ROOT / "docs" / "scale.md").read_text()
    assert scale.data_table() in said
    assert scale.faults_table() in said
