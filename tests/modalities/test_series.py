"""Series: what is read of files and arrays, how views are made, and that nothing depends on what it lies beside."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from untaught.config.registry import method_class
from untaught.core import Options, Preprocessor, Record, UserError, View
from untaught.data.sources import open_source
from untaught.encoders.conv_series import ConvSeries
from untaught.encoders.patch_series import PatchSeries
from untaught.evaluation.evaluate import evaluate
from untaught.methods import METHODS
from untaught.modalities.series import SERIES
from untaught.modalities.series.records import plan
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.dataset import batch_of, differing

NAN = float("nan")
BLUE = (31, 119, 180)  # the first channel


def records(missing: bool = False) -> list[Record]:
    random = np.random.default_rng(0)
    rows = [random.normal(size=(2, length)) for length in (20, 7, 13, 20)]
    if missing:
        rows[1][0, 2:4] = NAN
    return [{"series": row, "name": str(i)} for i, row in enumerate(rows)]


def prep_of(found: list[Record], **overrides: Any) -> Preprocessor:
    """With statistics of `records`."""
    prep = Preprocessor(SERIES, plan(found, overrides))
    return prep.fitted(batch_of(records(), prep)[0])


def decode(record: Record, settings: Options) -> np.ndarray:
    return Preprocessor(SERIES, settings).decode(record)["values"]


def view(name: str, found: list[Record], prep: Preprocessor, **options: Any) -> View:
    batch, _ = batch_of(found, prep)
    preset = prep.presets()[name]
    own = preset | ({"patch": 4} if "patch" in preset else {}) | options
    return SERIES.views[name](batch, CounterRNG(0, 0, batch["index"], 0), own, prep)


@pytest.mark.parametrize("name", SERIES.views)
def test_a_series_is_shown_alike_whatever_lies_beside_it(name: str) -> None:
    prep = prep_of(records())
    every, alone = view(name, records(), prep), view(name, records()[:2], prep)
    for field in ("x", "valid", "mask", "target", "target_valid"):
        value, own = getattr(every, field), getattr(alone, field)
        assert (value is None) == (own is None)
        if value is not None:
            assert torch.equal(value[:2, : own.shape[1]], own)


def test_a_missing_value_is_zero_and_said_by_a_channel() -> None:
    prep = prep_of(records(True))
    assert prep.settings["missing"]
    shown = view("whole", records(True), prep)
    assert shown.x.shape == (4, 20, 4)
    assert shown.x[1, 2:4, 0].tolist() == [0, 0]
    assert shown.x[1, :8, 2].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    masked = view("masked", records(True), prep, scale=(1.0, 1.0))
    assert masked.target is not None
    assert masked.target_valid is not None
    assert masked.target_valid.sum() == 2 * (20 + 7 + 13 + 20) - 2


def test_a_value_between_a_known_and_a_missing_one_is_missing() -> None:
    """Views between time steps interpolate: what is partly of a missing value would lie too near 0."""
    series = np.full((1, 40), 5.0)
    series[:, 5::6] = NAN
    found = [{"series": series, "name": "x"}]
    prep = Preprocessor(SERIES, plan(found, {"standardise": "none"}))
    still = dict.fromkeys(("jitter", "scaling", "magnitude_warp", "drop"), 0.0)
    shown = view("global", found, prep, scale=(1.0, 1.0), time_warp=0.05, **still)
    values, missing = shown.x[shown.valid].unbind(1)
    assert 10 < missing.sum() < 20, "two gaps of a time step around each missing value"
    torch.testing.assert_close(values, 5 * (1 - missing), atol=1e-2, rtol=0)


def test_a_missing_value_that_the_settings_do_not_have_is_refused_unless_it_is_wished_for() -> None:
    with pytest.raises(ValueError, match=r"time step 2 of channel 0 is missing, .* missing=True"):
        decode(records(True)[1], plan(records(), {}))
    wished = prep_of(records(), missing=True)
    assert wished.settings["missing"]
    assert view("whole", records(True), wished).x[1, 2:4, 2].tolist() == [1, 1]


@pytest.mark.parametrize("missing", [False, True])
def test_a_dropped_time_step_is_no_target(missing: bool) -> None:
    shown = view("masked", records(), prep_of(records(), missing=missing), scale=(1.0, 1.0), drop=0.5)
    assert shown.target is not None
    assert shown.target_valid is not None
    assert torch.equal(shown.target_valid, shown.target != 0)
    assert 0 < shown.target_valid.sum() < 2 * (20 + 7 + 13 + 20)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("corruption", ["masking", "gaussian"])
def test_a_corrupted_series_has_the_clean_one_as_target(corruption: str, missing: bool) -> None:
    found = records(missing)
    prep = prep_of(found, missing=missing)
    shown, clean = view("corrupted", found, prep, corruption=corruption, level=0.4), view("whole", found, prep)
    assert shown.target is not None
    assert shown.target_valid is not None
    assert torch.equal(shown.target, clean.x)
    assert torch.equal(shown.valid, clean.valid)
    values = shown.target_valid[..., :2]
    assert values.sum() == 2 * (20 + 7 + 13 + 20) - (2 if missing else 0)
    changed = (shown.x != clean.x)[..., :2]
    assert not changed[~values].any()
    if corruption == "masking":
        assert torch.equal(shown.x[..., :2][changed], torch.zeros(int(changed.sum())))
        assert 0.2 < changed[values].float().mean() < 0.6
    else:
        assert changed[values].all()
        assert (shown.x - clean.x)[..., :2][values].std().item() == pytest.approx(0.4, abs=0.1)
    if missing:
        assert torch.equal(shown.x[..., 2:], clean.x[..., 2:])


def test_salt_and_pepper_are_of_images_only() -> None:
    own = prep_of(records()).presets()["corrupted"]
    assert SERIES.check(own | {"corruption": "salt_and_pepper"}) == "corruption=salt_and_pepper: must be one of masking, gaussian"


def test_whole_views_are_normalised_by_channel_or_by_sample() -> None:
    found = records()
    by_channel = view("whole", found, prep_of(found))
    torch.testing.assert_close(by_channel.x[by_channel.valid].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    by_sample = view("whole", found, prep_of(found, standardise="sample"))
    own = by_sample.x[1, :7]
    torch.testing.assert_close(own.std(0, correction=0), torch.ones(2))
    plainly = view("whole", found, prep_of(found, standardise="none"))
    torch.testing.assert_close(plainly.x[1, :7], torch.from_numpy(found[1]["series"].T).float())


@pytest.mark.parametrize(("name", "rate"), [("masked", 0.4), ("blocks", 0.5)])
def test_a_share_of_each_series_own_tokens_is_masked(name: str, rate: float) -> None:
    shown = view(name, records(), prep_of(records()), scale=(1.0, 1.0))
    assert shown.mask is not None
    tokens = shown.valid.unflatten(1, (-1, 4)).any(2)
    assert tokens.sum(1).tolist() == [5, 2, 4, 5]
    assert not (shown.mask & ~tokens).any()
    assert shown.mask.sum(1).tolist() == [min(max(round(rate * n), 1), n - 1) for n in (5, 2, 4, 5)]


def test_mini_rocket_interpolates_missing_values() -> None:
    random = np.random.default_rng(0)
    found = [{"series": random.normal(size=(2, n)).cumsum(1), "name": "x"} for n in (30, 20, 25, 30)]
    prep = Preprocessor(SERIES, plan(found, {"missing": True}))
    batch, _ = batch_of(found, prep)
    prep = prep.fitted(batch)
    transform = SERIES.classical["MiniRocket"](batch, prep)
    whole = transform(batch, prep)
    assert whole.shape == (4, 9996)
    values = batch["values"].clone()
    values[0, 10:12, 1] = NAN
    values[1, :, 0] = NAN
    gaps = {**batch, "values": values}
    straight = values.clone()
    straight[0, 10:12, 1] = values[0, 9, 1] + (values[0, 12, 1] - values[0, 9, 1]) * torch.tensor([1 / 3, 2 / 3])
    straight[1, :, 0] = torch.where(batch["values_valid"][1], prep.statistics["mean"][0], 0.0)
    np.testing.assert_allclose(transform(gaps, prep), transform({**batch, "values": straight}, prep), atol=0.05)
    assert not np.allclose(transform(gaps, prep)[0], whole[0], atol=0.05)


def test_an_excerpt_is_the_series_or_so_many_steps_of_it() -> None:
    found = [{"series": np.arange(1.0, 1 + length)[None], "name": "x"} for length in (20, 2, 9)] * 100
    prep = Preprocessor(SERIES, plan(found, {"standardise": "none"}))
    whole = view("whole", found, prep)
    shown = view("excerpt", found, prep)
    assert torch.equal(shown.x, whole.x)
    assert torch.equal(shown.valid, whole.valid)
    shown = view("excerpt", found, prep, most=9)
    assert shown.x.shape == (300, 9, 1)
    assert shown.valid.sum(1).tolist() == [9, 2, 9] * 100
    assert torch.equal(shown.x[0::3, :, 0], shown.x[0::3, :1, 0] + torch.arange(9.0)), "steps that follow each other"
    assert set(shown.x[0::3, 0, 0].tolist()) == set(range(1, 13))
    assert set(shown.x[2::3, 0, 0].tolist()) == {1}


def test_a_subseries_lies_within_a_subseries_of_any_length() -> None:
    found = [{"series": np.arange(1.0, 1 + length)[None], "name": "x"} for length in (12, 1, 7)] * 400
    prep = Preprocessor(SERIES, plan(found, {"standardise": "none"}))
    for name in ("nested", "subseries"):
        shown = view(name, found, prep)
        counts, inner = [], []
        for i, (x, valid, record) in enumerate(zip(shown.x[:, :, 0], shown.valid, found, strict=True)):
            count, length = int(valid.sum()), record["series"].shape[1]
            assert torch.equal(x[:count], torch.arange(float(count)) + x[0]), "steps that follow each other"
            assert 1 <= x[0] <= x[count - 1] <= length
            assert not x[count:].any()
            counts += [count] if length == 12 else []
            if name == "nested":
                assert shown.meta is not None
                start, end = shown.meta["inner"][i].tolist()
                assert 0 <= start < end <= count
                inner += [end - start] if length == 12 else []
        uniform = inner or counts  # lengths of the subseries within, and of the other one
        assert set(uniform) == set(range(1, 13))
        assert np.mean(uniform) == pytest.approx(6.5, abs=0.6)
        assert np.mean(counts) == pytest.approx(9.25 if inner else 6.5, abs=0.6)  # between the inner length and the series'


def test_dropped_frequencies_are_dropped_and_the_mean_stays() -> None:
    steps, waves = np.arange(32), {2: 3.0, 5: 2.0, 11: 1.0}
    series = 4 + sum(height * np.sin(2 * np.pi * k * steps / 32) for k, height in waves.items())
    found = [{"series": np.stack([series, -2 * series]), "name": "x"}] * 200
    prep = Preprocessor(SERIES, plan(found, {"standardise": "none"}))
    still = {"jitter": 0.0, "scale": (1.0, 1.0)}
    kept = view("light", found, prep, **still)
    np.testing.assert_allclose(kept.x[0, :, 0], series, atol=1e-5)
    shown = view("light", found, prep, **still, frequency_drop=0.3)
    np.testing.assert_allclose(shown.x[:, :, 1], -2 * shown.x[:, :, 0], atol=1e-4)  # the same in all channels
    heights = np.abs(np.fft.rfft(shown.x[:, :, 0].numpy(), axis=1)) / 16
    np.testing.assert_allclose(heights[:, 0] / 2, 4, atol=1e-4)
    for k, height in waves.items():
        gone = heights[:, k] < 1e-3
        np.testing.assert_allclose(heights[~gone, k], height, atol=1e-3)
        assert gone.mean() == pytest.approx(0.3, abs=0.1)
    assert view("light", found, prep, **still, frequency_drop=1.0).x[0, :, 0].tolist() == pytest.approx([4.0] * 32, abs=1e-5)


@pytest.mark.parametrize(("patch", "few"), [(1, True), (7, True), (8, False)])
def test_tokens_of_few_values_are_marked(patch: int, few: bool) -> None:
    """Two channels: fewer than 16 values up to a patch of 7."""
    shown = view("masked", records(), prep_of(records()), patch=patch)
    assert shown.meta is not None
    assert shown.meta["few"].tolist() == [few] * 4


def test_ts_files_are_read_with_parts_classes_and_missing_values(tmp_path: Path) -> None:
    head = "# a comment\n@problemName Toy\n@timestamps false\n@classLabel true a b\n@data\n"
    (tmp_path / "Toy_TRAIN.ts").write_text(head + "1,2,3:4,5,6:a\n1,?,3,4:0,1,2,3:b\n")
    (tmp_path / "Toy_TEST.ts").write_text(head + "7,8:9,10:b\n")
    source = open_source(tmp_path, SERIES)
    assert source.classes == ("a", "b")
    assert {name: part.rows for name, part in source.parts.items()} == {"train": 2, "test": 1}
    found = list(source.parts["train"])
    assert [record["label"] for record in found] == [0, 1]
    settings = plan(found, {})
    assert (settings["channels"], settings["length"], settings["missing"]) == (2, 4, True)
    np.testing.assert_array_equal(decode(found[1], settings), [[1, 0], [NAN, 1], [3, 2], [4, 3]])


def test_a_ts_file_that_is_wrong_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.ts").write_text("@classLabel true\n@data\n1,2,x:a\n")
    with pytest.raises(UserError, match=r"x.ts, line 3: .*numbers separated by commas"):
        open_source(tmp_path / "x.ts", SERIES)
    (tmp_path / "y.ts").write_text("@timestamps true\n@data\n(0,1):a\n")
    with pytest.raises(UserError, match="has time stamps, which are not supported"):
        open_source(tmp_path / "y.ts", SERIES)
    (tmp_path / "z.ts").write_text("1,2,3:a\n")
    with pytest.raises(UserError, match="has no @data line"):
        open_source(tmp_path / "z.ts", SERIES)
    (tmp_path / "cut.ts").write_text("@classLabel true a b\n@data\n1,2,3:1,2,3:a\n1,2,3:?,2,3:?\n1,2,3:1,2")
    with pytest.raises(UserError, match=r"cut.ts, line 5: the label '1,2' is not one of .* \(a, b\); the line may be truncated"):
        open_source(tmp_path / "cut.ts", SERIES)


def test_numbered_columns_of_a_table_are_a_series(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("t1,t0,t2,label\n2,1,,a\n5,,6.5,b\n")
    source = open_source(tmp_path / "wide.csv", SERIES)
    assert "series from column t0 to t2, label from column label" in source.what
    found = list(source.parts["all"])
    assert [record["label"] for record in found] == [0, 1]
    settings = plan(found, {})
    np.testing.assert_array_equal(decode(found[0], settings), [[1], [2]])
    np.testing.assert_array_equal(decode(found[1], settings), [[NAN], [5], [6.5]])
    (tmp_path / "word.csv").write_text("t0,t1,t2\n1,two,3\n")
    (record,) = open_source(tmp_path / "word.csv", SERIES).parts["all"]
    with pytest.raises(ValueError, match="'two' is not a number"):
        decode(record, settings)
    (tmp_path / "gap.csv").write_text("t0,t2,label\n1,2,a\n")
    with pytest.raises(UserError, match=r"no column of gap.csv is recognised as the series"):
        open_source(tmp_path / "gap.csv", SERIES)


def test_no_method_has_a_knob_of_the_same_name() -> None:
    """The method would get the value."""
    for name in METHODS:
        cls = method_class(name)
        if set(cls.views) <= SERIES.views.keys():
            assert not SERIES.knobs.keys() & inspect.signature(cls).parameters.keys(), name


def test_series_of_one_time_step_are_refused() -> None:
    with pytest.raises(UserError, match="every series has 1 time step; at least 2 are required"):
        plan([{"series": [0.5]}, {"series": "3"}], {})


def test_series_are_never_said_to_be_converted_to_another_length() -> None:
    assert differing([{"series": np.arange(5.0)}], prep_of(records(), missing=True)) == {}


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (np.arange(3.0), [[0], [1], [2]]),
        ([[1, 2, NAN], [3, NAN, NAN]], [[1, 3], [2, NAN]]),
        ("1,?,3;4,5,6", [[1, 4], [NAN, 5], [3, 6]]),
    ],
)
def test_arrays_and_text_become_time_by_channel(given: Any, want: Any) -> None:
    np.testing.assert_array_equal(decode({"series": given}, {"channels": np.shape(want)[1]}), np.array(want, np.float32))


@pytest.mark.parametrize("given", [np.zeros((2, 3, 4)), [NAN, NAN], [1.0, float("inf")], "1,two"])
def test_what_is_no_series_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"shape|no values|infinite|'two' is not a number"):
        decode({"series": given}, {"channels": 1})


@pytest.mark.parametrize(
    "encoder", [ConvSeries(channels=2, width=8, hidden=8, depth=2), PatchSeries(channels=2, width=16, heads=2, patch=4)]
)
def test_an_encoder_does_not_read_padding(encoder: Any) -> None:
    x = torch.randn(3, 12, 2)
    valid = torch.arange(12) < torch.tensor([[12], [9], [5]])
    want = encoder(View(x, valid))
    wide = torch.cat([torch.where(valid.unsqueeze(2), x, 9.0), torch.full((3, 7, 2), 9.0)], 1)
    torch.testing.assert_close(encoder(View(wide, torch.cat([valid, torch.zeros(3, 7, dtype=torch.bool)], 1))), want)
    torch.testing.assert_close(encoder(View(x[2:, :5])), want[2:])
    if "steps" in encoder.offers:
        some, every = (encoder.features(given, want=("tokens",)).tokens for given in (View(x[2:, :5]), View(x, valid)))
        torch.testing.assert_close(every[2:, :5], some)
        torch.testing.assert_close(every[2, :5].amax(0), want[2])
    if "tokens" in encoder.offers:
        tokens, own = encoder.embed(View(x, valid))
        at = torch.tensor([2, 0, 1]).expand(3, -1)
        some = encoder.context(tokens.gather(1, at.unsqueeze(2).expand(-1, -1, 16)), own.gather(1, at), at=at, want=("pooled",)).pooled
        torch.testing.assert_close(some, want)


def test_the_line_plot_has_a_line_and_grey_where_tokens_are_masked() -> None:
    prep = prep_of(records())
    pixels = SERIES.render(view("masked", records(), prep), {"patch": 4, "missing": False}, prep)
    assert pixels.shape == (4, 48, 96, 3)
    assert (pixels == 215).all(3).any()
    assert (pixels == BLUE).all(3).any((1, 2)).all()


def test_mini_rocket_is_evaluated_beside_the_encoder(tmp_path: Path) -> None:
    """Phases differ from series to series, so that the raw values say little, and the frequency everything."""
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    phase = 2 * np.pi * random.random((60, 1))
    x = np.sin(np.arange(40) * (0.3 + 0.4 * y[:, None]) + phase) + 0.3 * random.normal(size=(60, 40))
    rows = evaluate(ConvSeries(channels=1, width=8, hidden=8, depth=2), (x, y), modality="series", out=tmp_path)
    linear = {row["features"]: row["mean"] for row in rows if row["probe"] == "linear" and row["labels"] == "all"}
    assert set(linear) == {"encoder", "random_init", "raw", "MiniRocket"}
    assert linear["MiniRocket"] > 0.9 > linear["raw"]


# --------------------------------------------------------------------------------------------------- answers to pretext tasks


def test_masked_tokens_are_hidden_in_the_input_and_drawn_in_the_answer() -> None:
    prep = prep_of(records())
    options = prep.presets()["masked"] | {"patch": 4}
    shown = view("masked", records(), prep, scale=(1.0, 1.0))
    seen, target = SERIES.render(shown, options, prep), SERIES.pretexts["masked"].render(shown, options, prep)
    assert shown.mask is not None
    for sample, mask in enumerate(shown.mask.tolist()):
        columns = np.array(mask)[np.linspace(0, 19, 96).round().astype(int) // 4]
        assert (seen[sample][:, columns] == 215).all(), "nothing of a masked token is seen"
        assert (target[sample][:, columns] == 215).any(0).all(), "masked tokens are still told apart"
    lines = lambda pixels: np.where(np.isin(pixels, (215, 255)).all(3, keepdims=True), 255, pixels)  # noqa: E731  # without their ground
    assert np.array_equal(lines(target), lines(SERIES.render(replace(shown, mask=None), options, prep))), "the whole series is the target"


def test_an_answer_fills_the_masked_tokens_alone_and_has_the_scale_of_the_input() -> None:
    prep = prep_of(records())
    options = prep.presets()["masked"] | {"patch": 4}
    shown = view("masked", records(), prep, scale=(1.0, 1.0))
    draw = lambda target: SERIES.pretexts["masked"].render(replace(shown, target=target), options, prep)  # noqa: E731
    assert shown.target is not None
    assert shown.mask is not None
    garbled = torch.where(shown.mask.unsqueeze(2), shown.target, 1e6)
    assert np.array_equal(draw(garbled), draw(shown.target)), "visible tokens are the series' own"
    flat = draw(torch.full_like(shown.target, float(shown.x[0].max())))
    assert (flat[0] == BLUE).all(2)[0].any(), "a token at the largest value is at the top"


@pytest.mark.parametrize("missing", [False, True])
def test_the_error_of_an_answer_counts_the_observed_values(missing: bool) -> None:
    found = records(missing)
    prep = prep_of(found, missing=missing)
    for name in ("whole", "corrupted", "masked"):
        shown = view(name, found, prep, **({"scale": (1.0, 1.0)} if name == "masked" else {}))
        options = prep.presets()[name] | {"patch": 4}
        truth = shown.x if shown.target is None else shown.target
        measure = SERIES.pretexts[name].measure
        assert measure(shown, truth, options, prep)["rmse"].tolist() == [0.0] * 4
        np.testing.assert_allclose(measure(shown, truth + 2.0, options, prep)["rmse"], 2.0, rtol=1e-6)
        counted = torch.zeros_like(truth, dtype=torch.bool)
        if name == "masked":
            assert shown.mask is not None
            assert shown.target_valid is not None
            counted = shown.target_valid & shown.mask.unsqueeze(2)
        else:
            for i, record in enumerate(found):
                values = torch.tensor(record["series"]).T
                counted[i, : len(values), :2] = values.isfinite()
        wrong = torch.where(counted, truth, truth + 9.0)
        assert measure(shown, wrong, options, prep)["rmse"].tolist() == [0.0] * 4, "padding, missing values and indicators do not count"


def test_without_augmentation_a_view_is_the_series() -> None:
    prep = prep_of(records())
    shown = view("global", records(), prep, **{key: value for key, value in SERIES.unaugmented.items() if key in prep.presets()["global"]})
    torch.testing.assert_close(shown.x, view("whole", records(), prep).x)


def test_samples_have_no_padding() -> None:
    prep = prep_of(records())
    pixels = SERIES.render(View(torch.randn(3, 20, 2)), prep.presets()["whole"], prep)
    assert pixels.shape == (3, 48, 96, 3)
    assert not (pixels == 215).all(3).any()
