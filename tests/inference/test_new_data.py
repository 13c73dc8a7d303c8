"""New data are read as an encoder's own: what its layout tells holds, and what it does not is decided for the whole of them and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import text_prep

from untaught.config.registry import build_encoder, modality_named
from untaught.core import Preprocessor, UserError
from untaught.evaluation.evaluate import _open
from untaught.evaluation.models import EvaluatedModel
from untaught.inference.embed import Embedder
from untaught.pipeline.pretrained import Pretrained

GREY = np.random.default_rng(0).integers(0, 256, (16, 16))


@pytest.fixture(scope="module")
def of_pictures() -> Pretrained:
    settings = {"size": 16, "side": 16, "channels": 3, "bits": 8, "preset": "small"}
    prep = Preprocessor(modality_named("image"), settings, {"mean": [0.5] * 3, "std": [0.25] * 3})
    return Pretrained(build_encoder("conv_small", prep.encoder_arguments, {"width": "8"}).eval(), {"view": "whole"}, prep)


@pytest.fixture(scope="module")
def of_text() -> Pretrained:
    torch.manual_seed(0)
    prep = text_prep()
    encoder = build_encoder("bert", prep.encoder_arguments, {"width": "32", "depth": "1", "heads": "2"}).eval()
    return Pretrained(encoder, {"view": "whole"}, prep)


def vectors(model: Pretrained, data: Any, **settings: Any) -> tuple[list[str], np.ndarray]:
    prep = replace(model.prep, settings={**model.prep.settings, **settings})
    batches = list(Embedder(model._replace(prep=prep), data))
    return [name for batch in batches for name in batch.names], np.concatenate([batch.vectors for batch in batches])


def test_one_picture_has_one_vector_in_whatever_it_is_stored(of_pictures: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("a.png", np.uint8), ("b.tif", np.int32), ("c.png", np.uint16)):
        Image.fromarray(GREY.astype(kind)).save(tmp_path / name)
    names, found = vectors(of_pictures, tmp_path)
    assert names == ["a.png", "b.tif", "c.png"]
    assert "inferred from the data: max_value 255" in capsys.readouterr().err
    same = [GREY.astype(np.uint8), GREY, torch.from_numpy(GREY), Image.fromarray(GREY.astype(np.uint8))]
    for other in (found, vectors(of_pictures, same)[1], vectors(of_pictures, [tmp_path / "b.tif"])[1]):
        np.testing.assert_allclose(other, np.broadcast_to(found[0], other.shape), atol=1e-5)
    dark = GREY[None].astype(np.uint16) // 4
    np.testing.assert_allclose(vectors(of_pictures, dark, max_value=65535)[1], vectors(of_pictures, dark * 0)[1], atol=1e-2)  # as told


def test_channels_of_new_arrays_are_found_by_the_number_in_training(of_pictures: Any) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    want = vectors(of_pictures, colour)[1]
    for same in (colour.transpose(0, 3, 1, 2), torch.from_numpy(colour), list(colour)):
        np.testing.assert_array_equal(vectors(of_pictures, same)[1], want)
    np.testing.assert_array_equal(
        vectors(of_pictures, colour[:, :, :3].transpose(0, 3, 1, 2), channels_first=True)[1],
        vectors(of_pictures, list(colour[:, :, :3]), channels_first=False)[1],
    )
    with pytest.raises(UserError, match=r"none of the images can be read \(the array row 0: an array of shape \(3, 16, 3\) may have"):
        vectors(of_pictures, colour[:, :3])
    with pytest.raises(UserError, match="if it is one image"):
        vectors(of_pictures, colour[0])


def test_where_nothing_can_be_embedded_the_reason_is_said(of_pictures: Any, of_text: Any, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\nelsewhere/0.png\nelsewhere/1.png\n")
    (tmp_path / "a.txt").write_bytes("one line\nand\n".encode("utf-16-le"))
    for network, data, said in [
        (of_pictures, tmp_path / "list.csv", r"\(elsewhere/0\.png: there is no such file\)"),
        (of_pictures, np.full((3, 9, 9, 3), 200.0), r"row 0: a float image must be in 0\.\.1, not 200\.\.200"),
        (of_text, tmp_path / "a.txt", r"a\.txt line 1: has NUL characters.*give encoding=utf-16-le"),
        (of_text, ["half \ud83d"], r"item 0: has an unpaired surrogate"),
    ]:
        with pytest.raises(UserError, match=f"nothing to embed: none of the .* can be read .*{said}"):
            vectors(network, data)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-8-sig", "latin-1"])
def test_text_is_read_in_the_encoding_of_the_layout(encoding: str, of_text: Any, tmp_path: Path) -> None:
    lines = ["the café", "is open", "till late"]
    (tmp_path / "a.txt").write_bytes("\n".join([lines[0], "", *lines[1:]]).encode(encoding))
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.txt").write_bytes(lines[0].encode(encoding))
    names, found = vectors(of_text, [tmp_path / "a.txt"], encoding=encoding)
    want = vectors(of_text, lines)[1]
    if len(names) == 3:
        assert names == ["a.txt line 1", "a.txt line 3", "a.txt line 4"]
        np.testing.assert_allclose(found, want, atol=1e-5)
    np.testing.assert_allclose(vectors(of_text, tmp_path / "one", encoding=encoding)[1], want[:1], atol=1e-5)


def test_lines_whose_bytes_do_not_tell_their_encoding_end_where_the_layouts_has_it(of_text: Any, tmp_path: Path) -> None:
    lines = ["上海", "東京都"]  # without a NUL, and with a byte as that of a newline
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode("utf-16-le"))
    names, found = vectors(of_text, [tmp_path / "a.txt"], encoding="utf-16-le")
    assert names == ["a.txt line 1", "a.txt line 2"]
    np.testing.assert_allclose(found, vectors(of_text, lines)[1], atol=1e-5)


def test_evaluation_reads_new_data_so_too(of_pictures: Any) -> None:
    prep = of_pictures.prep
    model = EvaluatedModel("it", prep.modality, lambda _: of_pictures.network, lambda _: None, "whole", prep)
    dataset = _open(model, (np.stack([GREY, GREY]), np.array([0, 1])), None, None, None, None, False, {})
    assert dataset.prep.settings["max_value"] == 255
    np.testing.assert_array_equal(dataset.store.gather(np.array([0]))["pixels"][0, 0], GREY)  # type: ignore[union-attr]
