"""A run that begins from an earlier encoder shows it data as they were shown before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from untaught.core import Options, Preprocessor
from untaught.modalities.image import IMAGE
from untaught.modalities.image_text import IMAGE_TEXT
from untaught.pipeline.starts import Start, with_statistics

NOW: Options = {"mean": [0.1], "std": [0.2]}
BEFORE: Options = {"mean": [0.4], "std": [0.3]}


def start(statistics: Options | None) -> Start:
    earlier: Any = None if statistics is None else SimpleNamespace(prep=Preprocessor(IMAGE, {}, statistics))
    role: Any = SimpleNamespace(name="encoder")
    return Start(role, "conv_small" if earlier is None else "runs/x/encoder", {}, earlier=earlier)


def test_statistics_are_the_earlier_encoders_and_without_one_the_datas() -> None:
    prep = Preprocessor(IMAGE, {}, NOW)
    assert with_statistics(prep, {"encoder": start(BEFORE)}).statistics == BEFORE
    assert with_statistics(prep, {"encoder": start(None)}).statistics == NOW


def test_of_pairs_only_the_part_of_the_earlier_encoder_has_its_statistics() -> None:
    prep = Preprocessor(IMAGE_TEXT, {}, {"image": NOW, "text": {"vocabulary": 9}})
    found = with_statistics(prep, {"image": start(BEFORE), "text": start(None)})
    assert found.statistics == {"image": BEFORE, "text": {"vocabulary": 9}}
