"""Every knob that there is has a lower and an upper limit, which holds before anything is allocated, trained or written."""

from __future__ import annotations

import math
import os
import resource
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import MODALITIES, toy_prep

from untaught.config import footprint
from untaught.config.footprint import check_views, memory, sized
from untaught.config.overrides import knobs_of, parse, sort_knobs
from untaught.config.registry import build_encoder, encoder_factory, method_class, resolve
from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Facts, Method, UserError, View
from untaught.downstream import TASKS
from untaught.downstream.label_sampling import Trial
from untaught.downstream.network import TrainedLayers
from untaught.encoders import ENCODERS
from untaught.methods import METHODS
from untaught.pipeline.view_pipeline import view_options
from untaught.ranges import Few, Positive, Share, Size, Within, in_range, options_of, plain

INPUT = {"channels", "size", "vocabulary", "length", "special", "rate"}  # what the data says
OWNERS: dict[str, Any] = {
    "loop": TrainConfig,
    "trial": Trial,
    "layers": TrainedLayers,
    **{f"method {name}": method_class(name) for name in METHODS},
    **{f"encoder {name}": encoder_factory(name)[0] for name in ENCODERS},
    **{f"task {name}": resolve(target) for name, target in TASKS.items()},
}
KNOBS = [
    (f"{owner}: {name}", kind) for owner, target in OWNERS.items() for name, (kind, _) in knobs_of(target).items() if name not in INPUT
]
KNOBS += [(f"layout of {name}: {knob}", kind) for name, modality in MODALITIES.items() for knob, kind in modality.knobs.items()]
ABSURD = ("-1e300", "1e300", "nan", "inf", "-inf", "1" + "0" * 12, "-1", "words", "")


def numbers(kind: Any) -> Iterator[tuple[Any, Within | None]]:
    """The types of a knob that are numbers, those in tuples too, each with its range."""
    for option in options_of(kind):
        inner, within = plain(option)
        if typing.get_origin(inner) is tuple:
            for part in typing.get_args(inner):
                yield from numbers(part)
        elif inner in (int, float):
            yield inner, within


@pytest.mark.parametrize(("name", "kind"), KNOBS, ids=[name for name, _ in KNOBS])
def test_every_knob_that_is_a_number_says_its_range_and_keeps_it(name: str, kind: Any) -> None:
    found = list(numbers(kind))
    for number, within in found:
        assert within is not None, f"{name} has no range"
        assert math.isfinite(within.low) and math.isfinite(within.high)  # noqa: PT018
        assert number is float or (within.low, within.high) == (int(within.low), int(within.high))
    many = any(typing.get_origin(plain(option)[0]) is tuple for option in options_of(kind))
    for value in ABSURD if found else ():
        text = f"{value},{value}" if many else value
        got, fault = outcome(name, text, kind)
        if fault:
            assert "\n" not in fault
            assert all(str(within) in fault for _, within in found), "the line says what is allowed"
        else:
            assert any(within and part in within for part in (got if many else [got]) for _, within in found), got


def outcome(name: str, text: str, kind: Any) -> tuple[Any, str]:
    """The value, or what is said against it."""
    try:
        return parse(name, text, kind), ""
    except UserError as fault:
        return None, str(fault)


@pytest.mark.parametrize("kind", MODALITIES)
def test_every_option_of_a_view_has_limits(kind: str) -> None:
    prep = toy_prep(kind)
    for view, options in prep.presets().items():
        for option, default in options.items():
            parts = len(default) if isinstance(default, tuple) else 1
            if isinstance(default, bool | str):
                continue
            for value in (-(10**300), 10**300, -1e300, 1e300, math.nan, math.inf, 10**12, -1):
                with pytest.raises(UserError, match=rf"^{view}\.{option}="):
                    view_options((view,), prep, {f"{view}.{option}": (value,) * parts if parts > 1 else value})


@pytest.mark.parametrize(
    "wrong",
    [
        *("lr=1e300", "weight_decay=1e9", "momentum=2", "seed=18446744073709551616", "log_every=1180591620717411303424", "steps=1e12"),
        *(
            "width=1000000000000",
            "temperature=0",
            "minutes=1e300",
            "batch_size=1000000000",
            "devices=1000000",
            "size=1000000",
            "optimizer=",
        ),
    ],
)
def test_what_is_out_of_range_is_refused_while_words_are_sorted(wrong: str) -> None:
    key, _, value = wrong.partition("=")
    with pytest.raises(UserError, match=f"^{wrong}: must be "):
        sort_knobs({key: value}, method_class("simclr"), MODALITIES["image"], TrainConfig)


# ------------------------------------------------------------------------------------------------------------ from Python


@in_range
def example(first: int = 0, *, share: Share = 0.5, size: Size | None = None, pair: tuple[Positive, Positive] = (1.0, 1.0)) -> float:
    return share


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"share": 1.5}, "share=1.5: must be a number from 0 to 1"),
        ({"share": math.nan}, "share=nan: must be a number from 0 to 1"),
        ({"size": 0}, "size=0: must be a whole number from 1 to 1,048,576 or none"),
        ({"pair": (1.0, 0.0)}, "pair=(1.0, 0.0): must be 2 comma-separated numbers, each from 1e-06 to 1,000,000"),
    ],
)
def test_a_decorated_function_checks_its_keywords(wrong: dict[str, Any], says: str) -> None:
    assert example(10**9, share=1.0, size=None, pair=(1e-6, 1e6)) == 1.0
    with pytest.raises(UserError) as fault:
        example(**wrong)
    assert str(fault.value) == says


# ------------------------------------------------------------------------------------------------------------ memory

PICTURES = {"channels": 3, "size": 32}
WORDS = {"vocabulary": 1000, "length": 32, "special": {"pad": 0, "cls": 1, "sep": 2}}
LARGE = [
    ("conv_small", PICTURES, {"width": 60_000}),
    ("vit_mini", PICTURES, {"embed_dim": 48_000}),
    ("timm/resnet50", PICTURES, {"base_width": 60_000}),
    ("bert", WORDS, {"width": 60_000}),
    ("modernbert", WORDS, {"width": 60_000}),
    ("gpt", WORDS, {"width": 60_000}),
    ("llama", WORDS, {"width": 60_000}),
    ("bart", WORDS, {"width": 60_000}),
]


@pytest.mark.parametrize(("name", "given", "knobs"), LARGE, ids=[name for name, _, _ in LARGE])
def test_an_encoder_that_no_machine_holds_is_refused_unbuilt(name: str, given: dict[str, Any], knobs: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=rf"^the encoder {name} needs .* TB to train, but .* are available"):
        build_encoder(name, given, knobs)
    assert torch.equal(torch.get_rng_state(), state)


class Heads(Method):
    views = ("global",)

    def __init__(self, encoder: Encoder, facts: Facts, *, width: Size = 8, layers: Few = 1) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(layers))
        self.register_buffer("rows", torch.zeros(width))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory is its own")
def test_the_memory_is_the_least_of_what_machine_process_and_container_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, container = (-1, -1), tmp_path / "memory.max"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: own)
    monkeypatch.setattr(footprint, "CGROUP", container)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory() == machine
    container.write_text("max\n")
    assert memory() == machine
    container.write_text("1048576\n")
    assert memory() == 1 << 20
    own = (1 << 19, -1)
    assert memory() == 1 << 19


def test_what_a_network_takes_is_its_weights_four_times_and_its_buffers() -> None:
    most = memory()
    width = math.isqrt(most // 16)  # four copies of four bytes: it just fits
    build = lambda width: sized(lambda: Heads(Encoder(), Facts(8), width=width), "it")  # noqa: E731
    assert build(64).heads[0].weight.device.type == "cpu"
    with pytest.raises(UserError, match=r"^it needs .* to train, but .* are available; choose smaller sizes"):
        build(width + 1)


def test_views_of_more_bytes_than_there_are_are_refused() -> None:
    view = View(torch.zeros(2, 3, 64, 64))  # 49,152 bytes a sample
    fits = memory() // (2 * 49_152)
    check_views([view, view], fits)
    with pytest.raises(UserError, match=r"the views of .* samples take .*; choose a smaller batch_size"):
        check_views([view, view], fits + 1)
