"""Records to arrays: every kind of image, and every kind of damage."""

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
from torch import Tensor

from untaught.core import Options, Preprocessor, Record, UserError
from untaught.modalities.image import IMAGE, adapt, doubt, masks, plan
from untaught.modalities.image.open import open_image

RGB = np.random.default_rng(0).integers(0, 255, (24, 36, 3), dtype=np.uint8)


def settings_of(side: int = 12, channels: int = 3, bits: int = 8) -> Options:
    return {"side": side, "channels": channels, "bits": bits}


def decode(record: Record, settings: Options) -> dict[str, np.ndarray]:
    return Preprocessor(IMAGE, settings).decode(record)


def pixels(value: Any, **given: Any) -> np.ndarray:
    return decode({"image": value}, settings_of(**given))["pixels"]


def encoded(picture: Image.Image, kind: str = "PNG", **given: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **given)
    return buffer.getvalue()


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def colours(value: Any, **given: Any) -> list[float]:
    """Of an image of one colour, that colour."""
    found = pixels(value, **given)
    assert (found == found[:, :1, :1]).all()
    return found[:, 0, 0].tolist()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_setting_has_its_shape_and_type(channels: int, bits: int) -> None:
    array = np.zeros((24, 36, channels), np.uint8 if bits == 8 else np.uint16)
    found = decode({"image": array}, settings_of(12, channels, bits))
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
        found = decode({"image": encoded(stored, exif=exif)}, settings_of(4, channels, bits))
        assert found["aspect"] == np.float32(16 / 24)
        bright = found["pixels"][0] > found["pixels"].max() // 2
        assert bright.tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    assert masks.size_of(open_image(encoded(stored, exif=exif)), {}).tolist() == [16, 24]


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
    with pytest.raises(ValueError, match=r"up to 300, .* at most 255"):
        decode({"image": np.full((9, 9), 300)}, settings_of(channels=1) | {"max_value": 255})


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
    "an exception": ValueError("gone"),
    "two sizes of channels": np.zeros((3, 9, 3), np.uint8),
}


@pytest.mark.parametrize("value", FAULTS.values(), ids=FAULTS)
def test_what_is_no_picture_says_so(value: Any) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        pixels(value)
    assert str(caught.value)


def test_too_many_pixels_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("untaught.modalities.image.open.PIXEL_LIMIT", 100)
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


def planned(*arrays: np.ndarray, **overrides: Any) -> dict[str, Any]:
    return plan([{"image": array} for array in arrays], overrides)


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


# ---------------------------------------------------------------------------------------------- which axis is the channels


def seen(array: Any, **overrides: Any) -> tuple[int, np.ndarray]:
    """(channels of the data set, the image's pixels), at the image's own size where it is square."""
    record = {"image": array, "name": "it"}
    found = plan([record], {"size": 16, **overrides})
    return found["channels"], decode(record, found | {"side": max(found["side"], 1)})["pixels"]


@pytest.mark.parametrize("shape", [(16, 16, 200), (16, 16, 5), (20, 30, 3), (20, 30, 1), (20, 30, 4), (3, 3, 1), (9, 9, 3)])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_the_channels_are_found_where_only_one_axis_can_be_them(shape: tuple[int, ...], first: bool, tensor: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    channels, want = seen(array, channels_first=False)
    turned = np.ascontiguousarray(array.transpose(2, 0, 1)) if first else array
    found, pixels = seen(torch.from_numpy(turned) if tensor else turned)
    assert channels == found == shape[2]
    np.testing.assert_array_equal(pixels, want)


@pytest.mark.parametrize("shape", [(3, 20, 3), (4, 20, 3), (13, 60, 64), (200, 16, 12), (16, 16, 16), (1, 20, 3)])
def test_the_channels_are_asked_for_where_either_axis_can_be_them(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(UserError, match=r"may have its channels first or last; give channels_first=true or channels_first=false"):
        seen(array)
    assert seen(array, channels_first=True)[0] == seen(array.transpose(1, 2, 0), channels_first=False)[0] == shape[0]
    assert seen(array, channels_first=False)[0] == shape[2]
    np.testing.assert_array_equal(seen(array, channels_first=True)[1], seen(array.transpose(1, 2, 0), channels_first=False)[1])


def test_a_tensor_has_its_channels_first_where_its_shape_does_not_tell_and_that_is_kept() -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 20, 3), dtype=np.uint8)
    for record in ({"image": torch.from_numpy(array)}, {"image": array, "tensor": True}):
        found = plan([record], {})
        assert found["channels_first"] is True
        np.testing.assert_array_equal(decode(record, found)["pixels"], decode({"image": array.transpose(1, 2, 0)}, found)["pixels"])
        np.testing.assert_array_equal(decode(record, found)["pixels"], decode({"image": array}, found)["pixels"])  # numpy's, later on
    assert "channels_first" not in plan([{"image": torch.zeros(3, 20, 30)}], {})


def test_later_pictures_are_read_by_the_number_of_channels() -> None:
    array = np.random.default_rng(0).integers(0, 256, (12, 16, 40), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(array, channels=12), pixels(array.transpose(1, 2, 0), channels=12))
    with pytest.raises(ValueError, match="first or last"):
        pixels(array, channels=5)


@pytest.mark.parametrize(
    ("shape", "tensor"), [((20, 30), False), ((20, 30, 3), False), ((20, 30, 4), True), ((3, 20, 30), True), ((30, 20, 1), False)]
)
def test_one_picture_is_not_taken_for_many(shape: tuple[int, ...], tensor: bool) -> None:
    assert "if it is one image, give [array]" in (doubt(shape, tensor) or "")


@pytest.mark.parametrize("shape", [(1797, 8, 8), (1, 28, 28), (4, 8, 8), (6, 20, 30, 3), (6, 3, 20, 30)])
def test_rows_of_pictures_raise_no_doubt(shape: tuple[int, ...]) -> None:
    assert doubt(shape, False) is None


# ------------------------------------------------------------------------------------------------------------ what is white

GREY = np.random.default_rng(1).integers(0, 256, (16, 16))
GREY[0, :2] = 0, 255


def tiff(array: np.ndarray) -> bytes:
    return encoded(Image.fromarray(array), "TIFF")


def png(array: np.ndarray) -> bytes:
    return encoded(Image.fromarray(array))


EIGHT = {  # one image of 8 bits in all that can hold it
    "png": png(GREY.astype(np.uint8)),
    "tiff": tiff(GREY.astype(np.uint8)),
    "tiff of int32": tiff(GREY.astype(np.int32)),
    "tiff of uint16": tiff(GREY.astype(np.uint16)),
    "png of 16 bits": png(GREY.astype(np.uint16)),
    "PIL I": Image.fromarray(GREY.astype(np.int32)),
    **{str(kind): GREY.astype(kind) for kind in ("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">u2")},
    "int64 tensor": torch.from_numpy(GREY),
}


@pytest.mark.parametrize("value", EIGHT.values(), ids=EIGHT)
def test_a_picture_of_8_bits_is_the_same_in_whatever_holds_it(value: Any) -> None:
    found = plan([{"image": value}], {"size": 16})
    assert (found["bits"], found.get("max_value", 255)) == (8, 255)
    np.testing.assert_array_equal(decode({"image": value}, found)["pixels"][0], GREY)
    one_of_many = settings_of(16, 1)  # an encoder of ordinary images
    record = {"image": value}
    np.testing.assert_array_equal(decode(record, adapt([record], one_of_many))["pixels"][0], GREY)


@pytest.mark.parametrize(
    ("largest", "want"), [(1, (8, 1)), (255, (8, 255)), (256, (16, 4095)), (4095, (16, 4095)), (4096, (16, 65535)), (65535, (16, 65535))]
)
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_the_least_range_that_holds_all_is_that_of_the_data_set(largest: int, want: tuple[int, int], kind: Any) -> None:
    few, most = np.zeros((16, 16), kind), np.zeros((16, 16), kind)
    few[0], most[0] = 1, largest
    found = planned(few, most)
    assert (found["bits"], found["max_value"]) == want
    top = 2 ** want[0] - 1
    assert decode({"image": most}, found)["pixels"].max() == round(largest * top / want[1])
    assert decode({"image": few}, found)["pixels"].max() == round(top / want[1])  # not by its own largest value


def test_a_wish_says_what_is_white_and_more_is_refused() -> None:
    array = np.full((16, 16), 1000, np.int32)
    found = planned(array, max_value=1000)
    assert (found["max_value"], decode({"image": array}, found)["pixels"].max()) == (1000, 65535)
    with pytest.raises(ValueError, match="has values up to 2000, the other images at most 1000; give max_value="):
        decode({"image": array * 2}, found)
    with pytest.raises(UserError, match="values up to 100000; at most 65535 is allowed: rescale them, or give max_value=100000"):
        planned(array * 100)
    assert planned(array * 100, max_value=100_000)["bits"] == 16


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.uint16, "png", "1"])
def test_masks_are_black_and_white(kind: Any) -> None:
    array = GREY % 2
    value: Any = (
        png(array.astype(np.uint8)) if kind == "png" else encoded(Image.fromarray(array > 0)) if kind == "1" else array.astype(kind)
    )
    found = plan([{"image": value}], {"size": 16})
    np.testing.assert_array_equal(decode({"image": value}, found)["pixels"][0], array * 255)


def test_a_black_picture_and_dark_colour_make_no_mask() -> None:
    assert "max_value" not in planned(np.zeros((16, 16), np.uint8))
    assert "max_value" not in plan([{"image": png((GREY % 2).astype(np.uint8))}, {"image": png(GREY.astype(np.uint8))}], {})


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floats_of_any_precision_are_the_picture(kind: torch.dtype) -> None:
    value = (torch.from_numpy(GREY) / 255).to(kind)
    found = decode({"image": value}, settings_of(16, 1, 16))["pixels"][0]
    assert np.abs(found / 257 - GREY).max() < 255 * torch.finfo(kind).eps + 0.01


def test_contrast_is_kept_of_what_is_dark_in_16_bits_and_not_made_of_rounding() -> None:

    def deviation(stored: Tensor, bits: int) -> list[float]:
        return Preprocessor(IMAGE, settings_of(16, 1, bits)).fitted({"pixels": stored}).statistics["std"]

    dark = torch.from_numpy(GREY.astype(np.uint16))[None, None]  # as older settings stored it
    assert deviation(dark, 16)[0] == pytest.approx(GREY.std(ddof=1) / 65535, rel=1e-4)
    assert deviation(torch.full((2, 1, 16, 16), 9, dtype=torch.uint16), 16) == [1e-4]
    assert deviation(torch.full((2, 1, 16, 16), 9, dtype=torch.uint8), 8) == [1e-2]


def test_settings_that_say_what_is_white_are_kept_and_older_ones_of_16_bits_too() -> None:
    record = {"image": GREY.astype(np.uint16)}
    for kept in (settings_of(16, 1, 16) | {"max_value": 4095}, settings_of(16, 1, 8) | {"max_value": 1}, settings_of(16, 1, 16)):
        assert adapt([record], kept) == kept
    assert adapt([{"image": GREY.astype(np.int64)}], settings_of(16, 1, 16))["max_value"] == 255
    assert adapt([{"image": GREY.astype(np.uint8)}], settings_of(16, 1, 8)) == settings_of(16, 1, 8)
    assert adapt([{"image": b"junk"}], settings_of()) == settings_of()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((9, 9), 200.0), r"must be in 0\.\.1, not 200\.\.200"),
        (np.full((9, 9), -0.5), r"must be in 0\.\.1, not -0\.5"),
        (np.full((9, 9), -5, np.int16), "int16 values from -5 to -5; they must not be negative"),
        (b"", "is empty"),
        (b"junk", "is damaged or not in a supported format"),
        (Path("/nowhere/a.png"), "there is no such file"),
    ],
)
def test_where_nothing_can_be_read_the_first_reason_is_said(array: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"none of the first 2 images can be read: first \(.*{says}") as caught:
        plan([{"image": array, "name": "first"}, {"image": None, "name": "second"}], {})
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"), [({"max_value": 0}, "max_value"), ({"max_value": 1.5}, "max_value"), ({"channels_first": 1}, "channels_first")]
)
def test_settings_of_anyone_are_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Preprocessor(IMAGE, planned(np.zeros((32, 32), np.uint8)) | given).presets()


def test_colour_of_16_bits_is_read_where_its_upper_bytes_tell_it() -> None:
    """Pillow has no colour of 16 bits; of an image that uses the lower bytes alone nothing would be left."""

    def file(values: np.ndarray) -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = len(values[0]).to_bytes(4, "big") + len(values).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    colour = RGB[:12, :12].astype(np.uint16)
    np.testing.assert_array_equal(pixels(file(colour * 257)), RGB[:12, :12].transpose(2, 0, 1))
    for bits in (8, 16):
        with pytest.raises(ValueError, match="16-bit colours with at most 12 bits used"):
            pixels(file(colour), bits=bits)


@pytest.mark.parametrize(("largest", "white"), [(1, 255), (200, 255), (300, 4095)])
def test_new_integers_are_of_a_byte_at_least(largest: int, white: int) -> None:
    found = plan([{"image": np.zeros((16, 16, 3), np.uint8)}], {})
    assert "max_value" not in found
    array = np.zeros((16, 16), np.int64)
    array[0, 0] = largest
    assert adapt([{"image": array}], found)["max_value"] == white
