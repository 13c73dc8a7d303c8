"""Records to arrays: every kind of picture, and every kind of damage."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from untaught.core import UserError
from untaught.modalities import image as module
from untaught.modalities.image import decode, plan

RGB = np.random.default_rng(0).integers(0, 255, (24, 36, 3), dtype=np.uint8)


def layout(side: int = 12, channels: int = 3, bits: int = 8) -> dict[str, Any]:
    return {"side": side, "channels": channels, "bits": bits}


def pixels(value: Any, **given: Any) -> np.ndarray:
    return decode({"image": value}, layout(**given))["pixels"]


def encoded(picture: Image.Image, kind: str = "PNG", **given: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **given)
    return buffer.getvalue()


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def colours(value: Any, **given: Any) -> list[float]:
    """Of a picture of one colour, that colour."""
    found = pixels(value, **given)
    assert (found == found[:, :1, :1]).all()
    return found[:, 0, 0].tolist()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_layout_has_its_shape_and_type(channels: int, bits: int) -> None:
    array = np.zeros((24, 36, channels), np.uint8 if bits == 8 else np.uint16)
    found = decode({"image": array}, layout(12, channels, bits))
    assert found["pixels"].shape == (channels, 12, 12)
    assert found["pixels"].dtype == (np.uint8 if bits == 8 else np.uint16)
    assert found["aspect"].dtype == np.float32
    assert found["aspect"] == 1.5


def palette(transparent: bool) -> Image.Image:
    picture = flat("P", 1)
    picture.putpalette([0, 0, 0, 200, 100, 50] + [0] * 762)
    if transparent:
        picture.info["transparency"] = bytes([0, 128])
    return picture


MODES = {
    "L": (flat("L", 90), [90] * 3),
    "LA": (flat("LA", (90, 10)), [90] * 3),
    "1": (flat("1", 1), [255] * 3),
    "P": (palette(False), [200, 100, 50]),
    "P with transparency": (palette(True), [200, 100, 50]),
    "RGB": (flat("RGB", (200, 100, 50)), [200, 100, 50]),
    "RGBA": (flat("RGBA", (200, 100, 50, 7)), [200, 100, 50]),
    "CMYK": (flat("CMYK", (55, 155, 205, 0)), [200, 100, 50]),
    "I;16": (flat("I;16", 257 * 90), [90] * 3),
    "I": (flat("I", 257 * 90), [90] * 3),
    "I;16 between": (flat("I;16", 257 * 200 + 100), [200] * 3),  # not 51500 / 256 = 201
    "F": (flat("F", 90 / 255), [90] * 3),
}


@pytest.mark.parametrize(("picture", "want"), MODES.values(), ids=MODES)
def test_every_mode_shows_its_colour(picture: Image.Image, want: list[int]) -> None:
    assert colours(picture) == want


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize(("picture", "want"), MODES.values(), ids=MODES)
def test_every_mode_can_be_16_bit_of_one_channel(picture: Image.Image, want: list[int]) -> None:
    (found,) = colours(picture, channels=1, bits=16)
    assert abs(found - 257 * np.mean(want)) <= 257


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_bytes_and_files_are_the_picture(kind: str, tmp_path: Path) -> None:
    data = encoded(flat("RGB", (200, 100, 50)), kind)
    (tmp_path / "a").write_bytes(data)
    for value in (data, tmp_path / "a", str(tmp_path / "a"), {"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "a")}):
        np.testing.assert_allclose(pixels(value)[:, 0, 0], [200, 100, 50], atol=6)


def test_a_picture_is_squashed_as_by_pillow() -> None:
    want = np.asarray(Image.fromarray(RGB).resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_allclose(pixels(encoded(Image.fromarray(RGB))), want, atol=2)


def test_arrays_of_many_channels_are_squashed_like_pictures() -> None:
    five = np.concatenate([RGB, RGB[:, :, :2]], 2)
    np.testing.assert_allclose(pixels(five, channels=5)[:3].astype(int), pixels(RGB).astype(int), atol=2)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = Image.new("RGB", (16, 24))
    upright.paste((255, 255, 255), (0, 0, 8, 12))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose by EXIF orientation, undone
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(undo[turn]))
    for channels, bits in ((3, 8), (1, 16)):
        found = decode({"image": encoded(stored, exif=exif)}, layout(4, channels, bits))
        assert found["aspect"] == np.float32(16 / 24)
        bright = found["pixels"][0] > found["pixels"].max() // 2
        assert bright.tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2


FORMS = {
    "HWC": RGB,
    "CHW": RGB.transpose(2, 0, 1),
    "float": RGB / 255,
    "float16": (RGB / 255).astype(np.float16),
    "int64": RGB.astype(np.int64),
    "uint16": RGB.astype(np.uint16) * 257,
    "tensor": torch.from_numpy(RGB),
    "tensor with a gradient": (torch.from_numpy(RGB) / 255).requires_grad_(),
    "nested lists": RGB.tolist(),
}


@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS)
def test_every_form_of_array_is_the_same_picture(value: Any) -> None:
    np.testing.assert_allclose(pixels(value).astype(int), pixels(RGB).astype(int), atol=2)


def test_one_channel_and_booleans() -> None:
    assert colours(np.full((9, 9), 90, np.uint8)) == [90] * 3
    assert colours(np.full((9, 9), True), channels=1) == [255]


def test_depth_is_that_of_the_data_set_not_of_one_picture() -> None:
    dark = np.full((9, 9), 100)  # int64: alone it could be 8 bit
    assert colours(dark, channels=1, bits=16) == [100]
    assert colours(dark.astype(np.uint16), channels=1, bits=16) == [100]
    assert colours(dark.astype(np.uint8), channels=1, bits=16) == [25700]
    assert colours(dark.astype(np.uint16) * 257, channels=1) == [100]
    with pytest.raises(ValueError, match=r"up to 300 .* 8 bits"):
        pixels(np.full((9, 9), 300), channels=1)


FAULTS = {
    "nothing": None,
    "empty bytes": b"",
    "text": b"hello",
    "a folder": Path("/"),
    "no file": Path("/nowhere/a.png"),
    "a NUL in the name": "a\0b",
    "a number": 5,
    "an empty dict": {},
    "four axes": np.zeros((2, 2, 2, 2), np.uint8),
    "one axis": np.zeros(4),
    "no pixels": np.zeros((0, 4, 3), np.uint8),
    "negative": np.full((4, 4), -1),
    "too large": np.full((4, 4), 70_000),
    "float over 1": np.full((4, 4), 1.5),
    "nan": np.full((4, 4), np.nan),
    "complex": np.zeros((4, 4), complex),
    "strings": np.full((4, 4), "a"),
    "objects": np.full((4, 4), None),
    "ragged lists": [[1, 2], [3]],
    "two channels": np.zeros((8, 8, 2), np.uint8),
    "bfloat16": torch.zeros(4, 4, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("value", FAULTS.values(), ids=FAULTS)
def test_what_is_no_picture_says_so(value: Any) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        pixels(value)
    assert str(caught.value)


def test_too_many_pixels_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXEL_LIMIT", 100)
    with pytest.raises(ValueError, match="more than the limit of 100"):
        pixels(encoded(flat("RGB", 0).resize((11, 10))))


def test_a_decompression_bomb_is_refused_unread() -> None:
    bomb = bytearray(encoded(flat("1", 0)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"3600000000 pixels"):
        pixels(bytes(bomb))


FILES = {
    "png": encoded(Image.fromarray(RGB)),
    "png with palette": encoded(Image.fromarray(RGB).convert("P"), transparency=3),
    "jpeg": encoded(Image.fromarray(RGB), "JPEG"),
    "gif": encoded(Image.fromarray(RGB).convert("P"), "GIF"),
    "tiff": encoded(Image.fromarray(RGB), "TIFF"),
    "webp": encoded(Image.fromarray(RGB), "WEBP"),
}
turned = Image.Exif()
turned[0x0112] = 6
FILES["jpeg with exif"] = encoded(Image.fromarray(RGB), "JPEG", exif=turned)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_a_value_error_or_an_os_error(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(0, 5))):
        damaged[data.draw(st.integers(0, min(len(file), 200) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(file)))
    try:
        found = pixels(bytes(damaged[: cut or None]), channels=data.draw(st.sampled_from([1, 3])), bits=data.draw(st.sampled_from([8, 16])))
    except (ValueError, OSError):
        return
    assert found.shape[1:] == (12, 12)


@pytest.mark.parametrize("error", [SyntaxError, IndexError, TypeError, AttributeError, KeyError, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("bits", [8, 16])
def test_whatever_breaks_inside_pillow_is_damage(error: type[Exception], bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise error("inside")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(ValueError, match="inside"):
        pixels(FILES["png"], channels=1, bits=bits)


def test_a_broken_chunk_of_a_png_is_damage() -> None:
    data = bytearray(FILES["png"])
    second = data.index(b"IDAT")
    data[second : second + 4] = b"\xfe\x01\x02\x03"
    with pytest.raises((ValueError, OSError)):
        pixels(bytes(data))


# ---------------------------------------------------------------------------------------------------------------- plan


def planned(*arrays: np.ndarray, **wishes: Any) -> dict[str, Any]:
    return plan([{"image": array} for array in arrays], wishes)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_small_colour_pictures_have_the_small_preset_and_their_size() -> None:
    found = planned(np.zeros((32, 32, 3), np.uint8))
    assert found == {"size": 32, "side": 32, "channels": 3, "bits": 8, "preset": "small"}


def test_small_grey_pictures_keep_upright() -> None:
    assert planned(np.zeros((28, 28), np.uint8))["preset"] == "upright"


def test_photos_are_cut_to_what_the_machine_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = np.zeros((300, 400, 3), np.uint8)
    assert planned(photo) == {"size": 96, "side": 144, "channels": 3, "bits": 8, "preset": "photo"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert planned(photo)["size"] == 224


def test_stored_pictures_are_never_larger_than_the_originals() -> None:
    assert planned(np.zeros((60, 70, 3), np.uint8))["side"] == 70


def test_wishes_win() -> None:
    found = planned(np.zeros((300, 300, 3), np.uint8), size=40, side=50, preset="upright")
    assert (found["size"], found["side"], found["preset"]) == (40, 50, "upright")


def test_one_colour_or_deep_picture_decides_for_all() -> None:
    grey, colour, deep = np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint16)
    assert planned(grey, colour)["channels"] == 3
    assert planned(grey, deep)["bits"] == 16
    assert planned(np.full((32, 32), 255))["bits"] == 8
    assert planned(np.full((32, 32), 256))["bits"] == 16


def test_the_unreadable_does_not_decide() -> None:
    assert plan([{"image": b"junk"}, {"image": ValueError("gone")}, {"image": np.zeros((32, 32), np.uint8)}], {})["size"] == 32


def test_nothing_readable_and_unknown_presets_stop() -> None:
    with pytest.raises(UserError, match="none of the first 1"):
        plan([{"image": b"junk"}], {})
    with pytest.raises(UserError, match="photo, small, upright"):
        planned(np.zeros((32, 32), np.uint8), preset="phto")
