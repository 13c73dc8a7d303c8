"""Recordings: what is read of files and arrays, spectrograms, how views are made, and that nothing depends on what it lies beside."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from untaught.core import Preprocessor, Record, UserError, View
from untaught.data.pieces import cut_source
from untaught.data.sources import open_source
from untaught.data.store import pack
from untaught.encoders.conv_mel import ConvMel
from untaught.modalities.audio import AUDIO
from untaught.modalities.audio.augment import _band, _fast_size, _resized
from untaught.modalities.audio.decode import plan, raw
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.log_mel import FLOOR, cepstra, deltas, log_mel
from untaught.pipeline.dataset import batch_of, open_dataset

soundfile = pytest.importorskip("soundfile")
RATE = 8000
MIX = {"mix": 0.0}  # which is with another sample of the batch


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, **given: Any) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **given})
    return held.getvalue()


def records() -> list[Record]:
    return [{"audio": encoded(tone(s, 200 + 90 * i)), "name": str(i)} for i, s in enumerate((0.5, 0.13, 0.31, 0.5))]


def prep_of(found: list[Record], **overrides: Any) -> Preprocessor:
    """With statistics of `records`."""
    prep = Preprocessor(AUDIO, plan(found, overrides))
    return prep.fitted(batch_of(records(), prep)[0])


def view(name: str, found: list[Record], prep: Preprocessor, **options: Any) -> View:
    batch, _ = batch_of(found, prep)
    preset = prep.presets()[name]
    own = preset | ({"patch": 4} if "patch" in preset else {}) | {key: value for key, value in options.items() if key in preset}
    return AUDIO.views[name](batch, CounterRNG(0, 0, batch["index"], 0), own, prep)


def decoded(value: Any, **settings: Any) -> np.ndarray:
    return Preprocessor(AUDIO, {"rate": RATE, **settings}).decode({"audio": value})["wave"]


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ({"subtype": "PCM_16"}, 0),
        ({"subtype": "PCM_24"}, 1),
        ({"subtype": "FLOAT"}, 1),
        ({"subtype": "PCM_U8"}, 300),
        ({"format": "FLAC"}, 0),
        ({"format": "OGG", "subtype": "VORBIS"}, 1500),
        ({"format": "MP3", "subtype": "MPEG_LAYER_III"}, 1500),
    ],
)
def test_every_format_is_the_same_sound(kind: dict[str, str], limit: int) -> None:
    sound = tone(0.5)
    want = np.rint(sound * 32768).astype(int)
    found = decoded(encoded(sound, RATE, **kind)).astype(int)
    middle = slice(800, len(want) - 800)
    assert abs(len(found) - len(want)) <= 1200
    assert np.abs(found[middle] - want[middle]).max() <= limit + 1


def test_samples_a_little_above_full_scale_are_clipped() -> None:
    sound = 3 * tone(0.5)
    assert np.abs(decoded(encoded(sound, subtype="FLOAT")) / 32768 - np.clip(sound, -1, 1)).max() < 1e-4


def test_channels_are_averaged_and_rates_resampled() -> None:
    stereo = np.stack([tone(0.5, 440, 48_000), np.zeros(24_000, np.float32)], 1)
    found = decoded(encoded(stereo, 48_000)) / 32768
    assert len(found) == 4000
    assert np.abs(found - tone(0.5, 440, RATE, 0.25))[200:-200].max() < 2e-3


def test_arrays_are_samples_with_a_rate() -> None:
    sound = tone(0.2)
    want = decoded(encoded(sound)).astype(int)
    for given in (sound, torch.from_numpy(sound), np.stack([sound, sound]), {"array": sound, "sampling_rate": RATE}):
        assert np.abs(decoded(given).astype(int) - want).max() <= 1
    assert np.abs(decoded(np.rint(sound * 32768).astype(np.int16)).astype(int) - want).max() <= 1
    with pytest.raises(UserError, match="no sample rate; give rate="):
        plan([{"audio": sound}], {})
    assert plan([{"audio": sound}], {"rate": RATE})["seconds"] == 0.2


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "is empty"),
        (b"this is a text, whatever its name is" * 20, "damaged or not in a supported format"),
        (encoded(tone(0.5))[:30], "damaged or not in a supported format"),
        (encoded(np.zeros(4000, np.float32)), "is silent"),
        (encoded(tone(3 / RATE)), r"is 3 samples long, 0\.375 ms; at least 20 ms"),
        (encoded(np.array([0.1, np.nan, 0.2] * 400, np.float32), subtype="FLOAT"), "NaN or infinite"),
        (encoded(tone(0.5), 100), "has a sample rate of 100 Hz; it must be from 1,000 to 384,000"),
        (encoded(tone(0.5), 10**9), "has a sample rate of 1,000,000,000 Hz"),
        ({"array": tone(0.5), "sampling_rate": 10}, "has a sample rate of 10 Hz"),
        (32768 * tone(0.5), r"has samples of up to 1\.64e\+04, where full scale is 1; divide them"),
        (np.zeros((2, 3, 4), np.float32), "is not a recording"),
        (7, "int is not a recording"),
    ],
)
def test_what_is_no_recording_is_refused_in_a_line(value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decoded(value)


def test_a_recording_of_twenty_hours_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long:
        samplerate, frames = RATE, 20 * 3600 * RATE
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

    content = encoded(tone(0.5))
    monkeypatch.setattr(soundfile, "SoundFile", lambda file: Long())
    with pytest.raises(ValueError, match=r"is 20\.0 hours long, more than 1; list parts of it"):
        decoded(content)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(UserError, match=r'pip install "untaught\[audio\]"'):
        plan([{"audio": tone(0.1), "rate": RATE}], {})


def test_the_rate_is_the_common_one_but_at_most_16_khz() -> None:
    def rate(*rates: int, **given: Any) -> int:
        return plan([{"audio": encoded(tone(0.1, rate=each), each)} for each in rates], given)["rate"]

    assert rate(8000, 8000, 44_100) == 8000
    assert rate(96_000) == 16_000
    assert rate(8000, rate=22_050) == 22_050


def test_columns_start_and_end_are_parts_of_a_file(tmp_path: Path) -> None:
    sound = np.concatenate([tone(0.5, 300), tone(0.5, 900)])
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    table = "file,onset,offset,label\na.wav,0.0,0.5,low\na.wav,0.5,1.0,high\na.wav,0.9,3,bad\n"
    (tmp_path / "list.csv").write_text(table)
    source = open_source(tmp_path / "list.csv", AUDIO, label="label")
    assert "start from column onset" in source.what
    found = list(source.parts["all"])
    prep = Preprocessor(AUDIO, plan(found, {}))
    low, high = (prep.decode(record)["wave"] for record in found[:2])
    assert (len(low), len(high)) == (4000, 4000)
    assert np.abs(np.fft.rfft(low)).argmax() == 150
    assert np.abs(np.fft.rfft(high)).argmax() == 450
    with pytest.raises(ValueError, match=r"from 0\.9 to 3 s does not lie within its 1\.00 s"):
        prep.decode(found[2])
    with pytest.raises(UserError, match="no column begin in"):
        open_source(tmp_path / "list.csv", AUDIO, columns={"start": "begin"})


def test_long_recordings_are_cut_and_stay_in_one_split(tmp_path: Path) -> None:
    for kind in range(2):
        (tmp_path / "data" / str(kind)).mkdir(parents=True)
        for i in range(6):
            soundfile.write(tmp_path / "data" / str(kind) / f"{i}.wav", tone(0.95 if i else 0.3, 200 + 90 * (6 * kind + i)), RATE)
    source = open_source(tmp_path / "data", AUDIO)
    prep = Preprocessor(AUDIO, plan(list(source.parts["all"]), {"segment": 0.4}))
    cut = cut_source(source, AUDIO.cut(prep.settings), 0)  # type: ignore[misc]
    assert cut.rows == 2 * (5 * 3 + 1)
    assert cut.fingerprint != source.fingerprint
    one = list(cut.parts["all"])
    at = cut.parts["all"].at
    assert at is not None
    assert [at(i)["name"] for i in range(len(one))] == [record["name"] for record in one]
    assert one[1]["name"].endswith("1.wav 0.00-0.32 s")
    whole = prep.decode({"audio": tmp_path / "data" / "0" / "1.wav"})["wave"]
    pieces = np.concatenate([prep.decode(record)["wave"] for record in one[1:4]])
    assert np.array_equal(pieces, whole)
    store = pack(cut, prep, cache=tmp_path / "cache")
    for seed in range(5):
        parts, _ = store.parts(seed)
        held, train = ({name.rpartition(" 0.")[0] for name in store.names(parts[part])} for part in ("val", "train"))
        assert held
        assert not held & train
    assert cut_source(source, lambda record: [record], 0) is source


def test_examples_of_a_long_recording_are_pieces_of_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", tone(1.0), RATE)
    dataset = open_dataset(tmp_path / "long.wav", AUDIO, columns=None, label=None, split=None, overrides={"segment": 0.4})
    assert [record["end"] - record["start"] for record in dataset.peeked] == pytest.approx([1 / 3] * 3)
    assert batch_of(dataset.peeked, dataset.prep)[0]["wave"].shape == (3, 2667)


# -------------------------------------------------------------------------------------------------------- spectrograms


def test_log_mel_is_that_of_an_independent_implementation() -> None:
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    found = log_mel(wave, 16_000, 64, 400, 160)
    filters = mel_filter_bank(257, 64, 50.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    for own, samples in zip(found, wave.double().numpy(), strict=True):
        padded = np.pad(samples, (200, 400))
        hann = window_function(400, "hann")
        power = spectrogram(padded, hann, 400, 160, fft_length=512, power=2.0, center=False, mel_filters=filters, mel_floor=0)
        np.testing.assert_allclose(own, np.log(power.T + FLOOR)[: len(own)], atol=1e-4)


def test_cepstra_and_deltas_are_those_of_the_equations() -> None:
    from scipy.fft import dct

    x = torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(cepstra(x, 7), np.asarray(dct(x.numpy(), norm="ortho"))[:, :, :7], atol=1e-5)
    count = torch.tensor([11, 5])
    found = deltas(x, count)
    for b, number in enumerate(count.tolist()):
        for t in range(number):
            slope = sum(k * (x[b, min(t + k, number - 1)] - x[b, max(t - k, 0)]) for k in range(1, 5)) / 60
            torch.testing.assert_close(found[b, t], slope)


def test_the_raw_baseline_knows_a_pitch_and_no_padding() -> None:
    prep = prep_of(records())
    every, alone = (raw(batch_of(found, prep)[0], prep) for found in (records(), records()[1:2]))
    assert every.shape == (4, 120)
    np.testing.assert_allclose(every[1], alone[0], atol=1e-4)
    assert np.abs(every[0] - every[3]).max() > 1


# ---------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("form", ["log_mel", "waveform"])
@pytest.mark.parametrize("name", AUDIO.views)
def test_a_recording_is_shown_alike_whatever_lies_beside_it(name: str, form: str) -> None:
    prep = prep_of(records(), input=form)
    if name not in prep.presets():
        pytest.skip("this form has no such view")
    every, alone = view(name, records(), prep, **MIX), view(name, records()[1:3], prep, **MIX)
    batch = {key: value[1:3] for key, value in batch_of(records(), prep)[0].items()}
    own = (
        prep.presets()[name]
        | ({"patch": 4} if "patch" in prep.presets()[name] else {})
        | (MIX if form == "log_mel" and name != "whole" else {})
    )
    alone = AUDIO.views[name](batch, CounterRNG(0, 0, batch["index"], 0), own, prep)
    for field in ("x", "valid", "mask", "target", "target_valid"):
        value, found = getattr(every, field), getattr(alone, field)
        assert (value is None) == (found is None)
        if value is not None:
            long = min(value.shape[1], found.shape[1])
            assert not value[1:3, long:].any()
            torch.testing.assert_close(value[1:3, :long], found[:, :long], atol=2e-4, rtol=1e-4)


def test_the_whole_view_is_normalised_and_zero_beyond_the_end() -> None:
    prep = prep_of(records())
    found = view("whole", records(), prep)
    assert found.x.shape == (4, 51, 64)
    assert found.valid.sum(1).tolist() == [51, 14, 32, 51]
    assert not found.x[~found.valid].any()
    values = found.x[found.valid]
    assert abs(float(values.mean())) < 1e-4
    assert abs(float(values.std()) - 1) < 1e-3


def test_a_waveform_has_mean_0_and_variance_1() -> None:
    found = view("whole", records(), prep_of(records(), input="waveform"))
    assert found.x.shape == (4, 4000)
    for x, valid in zip(found.x, found.valid, strict=True):
        assert abs(float(x[valid].mean())) < 1e-5
        assert abs(float(x[valid].square().mean()) - 1) < 1e-4
        assert not x[~valid].any()


def still(**options: Any) -> dict[str, Any]:
    return dict(AUDIO.unaugmented) | options


@pytest.mark.parametrize("option", [{"polarity": 1.0}, {"gain": 0.0}])
def test_polarity_is_not_heard_in_a_spectrogram(option: dict[str, Any]) -> None:
    prep = prep_of(records())
    whole, found = view("whole", records(), prep), view("global", records(), prep, **still(**option))
    torch.testing.assert_close(found.x, whole.x, atol=1e-4, rtol=1e-4)


def test_noise_has_the_ratio_that_is_given() -> None:
    prep = prep_of(records(), input="waveform")
    prep = Preprocessor(AUDIO, prep.settings | {"input": "waveform"}, prep.statistics)
    clean, noisy = (view("global", records(), prep, **still(noise=noise, snr=(10.0, 10.0))) for noise in (0.0, 1.0))
    for a, b, valid in zip(clean.x, noisy.x, clean.valid, strict=True):
        a, b = a[valid], b[valid]  # both with variance 1: of the signal 10/11 is left
        share = float((a * b).mean()) ** 2
        assert 10 * math.log10(share / (1 - share)) == pytest.approx(10, abs=0.7)


def test_a_band_filter_passes_what_lies_between() -> None:
    response = _band(257, CounterRNG(0, 0, torch.arange(50), 0), 16_000)
    assert response.shape == (50, 257)
    assert float(response.amax(1).min()) > 0.85
    assert float(response[:, 0].max()) < 0.01
    assert float(response[:, -1].min()) < 0.01


@pytest.mark.parametrize("least", [1, 2, 7, 11, 600, 4097, 36_800])
def test_transforms_have_the_smallest_fast_size(least: int) -> None:
    sizes = [m << power for m in (1, 3, 5, 9, 15) for power in range(20)]
    assert _fast_size(least) == min(size for size in sizes if size >= least)


def test_a_shift_moves_bands_and_a_stretch_moves_frames() -> None:
    x = torch.full((1, 40, 64), math.log(FLOOR))
    x[0, 10, 20] = 3.0
    moved = {"stretch": 0.0, "zoom": 0.0, "shift": 0.25}
    rng, again = (CounterRNG(0, 0, torch.tensor([4]), 0) for _ in range(2))
    found, number = _resized(x, torch.tensor([40]), rng, moved)
    again.uniform(low=-1.0)
    by = float(again.uniform(low=-1.0)) * 0.25 * 64
    assert number.item() == 40
    place = float((found[0, 10] - math.log(FLOOR)) @ torch.arange(64.0) / (found[0, 10] - math.log(FLOOR)).sum())
    assert place == pytest.approx(20 - by, abs=1e-3)
    rng, again = (CounterRNG(0, 0, torch.tensor([4]), 0) for _ in range(2))
    found, number = _resized(x, torch.tensor([40]), rng, {"stretch": 0.5, "zoom": 0.0, "shift": 0.0})
    factor = math.exp(float(again.uniform(low=-1.0)) * math.log(1.5))
    assert number.item() == min(round(40 / factor), 40)
    assert abs(int(found[0, :, 20].argmax()) - 10 / factor) <= 1


def test_spans_of_time_and_bands_are_hidden() -> None:
    prep = prep_of(records())
    found = view("global", records()[:1] * 30, prep, **still(masks=1, time_mask=0.3, mel_mask=0.3))
    zero = found.x == 0
    frames, bands = zero.all(2).sum(1), zero.all(1).sum(1)
    assert 0.05 * 51 < float(frames.float().mean()) < 0.3 * 51
    assert int(frames.max()) <= 0.3 * 51 + 1
    assert 0 < int(bands.max()) <= 0.3 * 64 + 1


def test_a_mixture_adds_the_power_of_another() -> None:
    prep = prep_of(records())
    alone, mixed = (view("global", records(), prep, **still(mix=mix)) for mix in (0.0, 0.4))
    assert float((mixed.x - alone.x)[alone.valid].abs().max()) > 0.5
    mean, std = prep.statistics["mean"][0], prep.statistics["std"][0]
    power = (alone.x * std + mean).exp()
    share = CounterRNG(0, 0, torch.arange(4), 0)
    for _ in range(2):
        share.uniform()  # of the crop
    weight = 0.4 * share.uniform().view(-1, 1, 1)
    other = torch.where(alone.valid.unsqueeze(2), power, FLOOR).roll(1, 0)
    want = ((1 - weight) * power + weight * other).log()
    torch.testing.assert_close(((mixed.x * std + mean)[alone.valid]), want[alone.valid], atol=1e-3, rtol=1e-3)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="input=mfcc: must be log_mel or waveform"):
        Preprocessor(AUDIO, {"input": "mfcc", "seconds": 1.0}).presets()
    prep = prep_of(records())
    assert "noise" in (AUDIO.check(prep.presets()["global"] | {"noise": 2.0}) or "")
    assert AUDIO.check(prep.presets()["global"]) is None


def test_pictures_show_what_is_masked_and_where_it_ends() -> None:
    prep = prep_of(records())
    found = view("masked", records(), prep)
    pixels = AUDIO.render(found, prep.presets()["masked"] | {"patch": 4}, prep)
    assert pixels.shape == (4, 64, 128, 3)
    grey = (pixels == 215).all(3).all(1)
    assert grey[1, -60:].all()  # a short recording
    assert 0.2 < grey[0].mean() < 0.95


def test_an_answer_that_is_right_has_no_error_and_looks_like_the_recording() -> None:
    prep = prep_of(records())
    found, options = view("masked", records(), prep), prep.presets()["masked"] | {"patch": 4}
    pretext = AUDIO.pretexts["masked"]
    assert found.target is not None
    assert not pretext.measure(found, found.target, options, prep)["rmse_db"].any()
    wrong = pretext.measure(found, found.target + math.log(10) / 10 / prep.statistics["std"][0], options, prep)["rmse_db"]
    np.testing.assert_allclose(wrong, 1.0, rtol=1e-4)  # every band 1 dB too loud
    assert np.array_equal(pretext.render(found, options, prep), AUDIO.render(View(found.x, found.valid), options, prep))


def test_the_encoder_does_not_see_padding() -> None:
    prep, network = prep_of(records()), ConvMel(width=8).eval()
    found = view("whole", records(), prep)
    every = network(found)
    assert every.shape == (4, network.width)
    alone = network(view("whole", records()[1:2], prep))
    torch.testing.assert_close(every[1:2], alone, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="a multiple of 16, not 40"):
        ConvMel(channels=40)


# ------------------------------------------------------------------------------------------------------- views of waveforms


def waveform(name: str, **options: Any) -> tuple[View, dict[str, Any], Preprocessor]:
    prep = prep_of(records(), input="waveform")
    own = prep.presets()[name] | {"scale": (1.0, 1.0), "patch": 160, "window": 200, **options}
    batch, _ = batch_of(records(), prep)
    return AUDIO.views[name](batch, CounterRNG(0, 0, batch["index"], 0), own, prep), own, prep


def test_views_of_waveforms_have_no_options_of_spectrograms_and_no_values_of_tokens() -> None:
    presets = prep_of(records(), input="waveform").presets()
    assert {"spans", "feature_spans", "blocks", "multiblock", "global", "whole"} <= presets.keys()
    assert not presets.keys() & {"masked", "global_masked"}
    assert not {"mix", "zoom", "masks"} & presets["spans"].keys()


def test_a_recording_is_normalised_by_itself_whatever_its_gain_and_padding() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    loud, quiet = ([{"audio": encoded(gain * noise[:n]), "name": str(n)} for n in (4000, 900)] for gain in (1.0, 0.25))
    prep = prep_of(loud, normalise="recording")
    found, other, alone = (view("whole", each, prep) for each in (loud, quiet, loud[1:]))
    for x, valid in zip(found.x, found.valid, strict=True):
        assert float(x[valid].mean(0).abs().max()) < 1e-4
        assert float(x[valid].square().mean()) == pytest.approx(1, abs=1e-3)
        assert not x[~valid].any()
    assert float((other.x - found.x).abs().mean()) < 0.01
    assert torch.allclose(alone.x[0], found.x[1, : alone.x.shape[1]], atol=1e-4)


def test_a_waveform_is_standardised_unless_its_encoder_reads_it_as_it_is() -> None:
    found, _, _ = waveform("spans")
    for x, valid in zip(found.x, found.valid, strict=True):
        assert float(x[valid].mean()) == pytest.approx(0, abs=1e-4)
        assert float(x[valid].square().mean()) == pytest.approx(1, abs=1e-3)
    prep = prep_of(records(), input="waveform", standardise=False)
    loud = view("whole", records(), prep).x
    assert float(loud[0].abs().max()) == pytest.approx(0.5, abs=0.01)


def test_features_of_tokens_are_cepstra_and_their_deltas_at_the_middle_of_each_frame() -> None:
    found, _, _ = waveform("feature_spans")
    assert found.target is not None
    assert found.target_valid is not None
    assert found.mask is not None
    assert found.target.shape == (*found.mask.shape, 39)
    for row, valid in enumerate(found.valid):
        wave = found.x[row, valid][None]
        x = cepstra(log_mel(wave, RATE, 64, 200, 80), 13)
        count = torch.tensor([x.shape[1]])
        slope = deltas(x, count)
        x = torch.cat([x, slope, deltas(slope, count)], 2)[0]
        number = (wave.shape[1] - 200) // 160 + 1
        assert found.target_valid[row].all(1).sum() == number
        for n in range(number):  # the frame's middle is at 160 n + 100 samples, that of the spectrogram's at 80 m
            torch.testing.assert_close(found.target[row, n], x[round((160 * n + 100) / 80)], atol=1e-3, rtol=1e-3)


def test_pictures_of_waveforms_show_their_masks() -> None:
    found, options, prep = waveform("spans", starts=0.2, length=3)
    assert found.mask is not None
    pixels = AUDIO.render(found, options, prep)
    grey = (pixels == 215).all(3).all(1)
    shown = found.mask[0].float().repeat_interleave(2)
    assert float(grey[0].mean()) == pytest.approx(float(shown.mean()), abs=0.12)
