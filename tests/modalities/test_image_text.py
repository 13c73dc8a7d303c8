"""Pairs: parts under their names, one caption drawn an epoch, several kept, and what is missing marked as such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from untaught.core import Batch, Preprocessor, UserError
from untaught.data.sources import open_source
from untaught.modalities.image_text import IMAGE_TEXT, items, learn, plan
from untaught.modalities.tokenizer import texts_of
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.view_pipeline import Views

CAPTIONS = ["a cat on a mat", ["a dog runs", "the dog", "an animal in the grass"], None, "", ["two birds", " "]]
OVERRIDES = {"text.tokenizer": "characters", "text.length": 32, "image.size": 8}


def records() -> list[dict[str, Any]]:
    """Five pairs: the second has three captions, the third and fourth no text, the fifth no image."""
    random = np.random.default_rng(0)
    images: list[Any] = [random.integers(0, 256, (12, 10, 3), dtype=np.uint8) for _ in CAPTIONS]
    images[4] = None
    return [{"image": image, "text": text, "name": f"pair {i}"} for i, (image, text) in enumerate(zip(images, CAPTIONS, strict=True))]


@pytest.fixture
def prepared() -> tuple[Preprocessor, Batch]:
    settings, files = learn(records(), plan(records(), OVERRIDES))
    prep = Preprocessor(IMAGE_TEXT, settings, files=files)
    batch, names = batch_of(records(), prep)
    assert names == [f"pair {i}" for i in range(5)]
    return prep.fitted(batch), batch


def texts(view: Any, prep: Preprocessor) -> list[str]:
    return [text.replace("[CLS]", "").replace("[SEP]", "").strip() for text in texts_of(view.x, view.valid, prep.part("text"))]


def made(prep: Preprocessor, batch: Batch, *names: str, epoch: int = 0, **options: Any) -> list[Any]:
    views = Views(names, prep, [prep.presets()[name] | options for name in names], seed=0)
    return views(batch, epoch)


def test_parts_have_their_own_settings_statistics_and_files(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, _ = prepared
    image, text = prep.part("image"), prep.part("text")
    assert (image.modality.name, text.modality.name) == ("image", "text")
    assert (image.settings["size"], text.settings["length"]) == (8, 32)
    assert set(image.statistics) == {"mean", "std"}
    assert set(text.files) == {"tokenizer.json", "tokenizer_config.json"}
    assert prep.part("encoder") is prep
    IMAGE_TEXT.check_files(prep.settings, prep.files)
    with pytest.raises(UserError, match="tokenizer"):
        IMAGE_TEXT.check_files(prep.settings, {**prep.files, "text.tokenizer.json": b"{}"})


def test_what_is_missing_is_marked_and_blank(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, batch = prepared
    image, text = made(prep, batch, "image.whole", "text.whole")
    assert image.meta["present"].tolist() == [True, True, True, True, False]
    assert text.meta["present"].tolist() == [True, True, False, False, True]
    assert text.valid.any(1).all()  # attention needs a token
    with_gap = batch["image.pixels"][batch["image.present"]].float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(torch.tensor(prep.statistics["image"]["mean"]), with_gap)  # blank images are not counted


def test_a_caption_is_drawn_each_epoch_and_the_first_is_used_whole(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, batch = prepared
    drawn = {epoch: texts(made(prep, batch, "text.light", epoch=epoch)[0], prep)[1] for epoch in range(40)}
    assert set(drawn.values()) == set(CAPTIONS[1])  # type: ignore[arg-type]
    again = texts(made(prep, batch, "text.light", epoch=7)[0], prep)
    assert again[1] == drawn[7]
    assert again[0] == CAPTIONS[0]
    whole = {texts(made(prep, batch, "text.whole", epoch=epoch)[0], prep)[1] for epoch in range(10)}
    assert whole == {"a dog runs"}


def test_a_draw_depends_on_no_other_sample(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, batch = prepared
    few = {key: value[1:3] for key, value in batch.items()}
    for epoch in range(5):
        alone, joined = (texts(made(prep, some, "text.light", epoch=epoch)[0], prep) for some in (few, batch))
        assert alone[0] == joined[1]


def test_items_are_all_captions_and_the_images_that_are_there(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, batch = prepared
    own, row = items(batch, "text")
    assert row.tolist() == [0, 1, 1, 1, 4]
    assert texts(made(prep, own, "text.whole")[0], prep) == [
        "a cat on a mat",
        "a dog runs",
        "the dog",
        "an animal in the grass",
        "two birds",
    ]
    own, row = items(batch, "image")
    assert row.tolist() == [0, 1, 2, 3]


def test_images_are_never_mirrored_and_options_are_those_of_the_part(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, _ = prepared
    presets = prep.presets()
    assert {options["flip"] for name, options in presets.items() if name.startswith("image.")} == {0.0}
    assert presets["text.whole"]["caption"] == "first"
    assert presets["text.light"]["caption"] == "drawn"
    assert IMAGE_TEXT.check(presets["text.light"] | {"caption": "all"}) == "caption=all: must be first or drawn"
    assert IMAGE_TEXT.check(presets["image.light"] | {"flip": 2.0})


def test_a_file_has_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a cat\n\nan animal\n")
    found = records()[:1]
    settings, files = learn(found, plan(found, OVERRIDES))
    prep = Preprocessor(IMAGE_TEXT, settings, files=files)
    assert len(prep.decode({**found[0], "text": tmp_path / "0.txt"})["text.lengths"]) == 2
    assert len(prep.decode({**found[0], "text": b"a cat"})["text.lengths"]) == 1


def test_pairs_without_any_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"none of the first 5 pairs has a text; give a folder with x\.jpg and x\.txt"):
        plan([{**record, "text": None} for record in records()], OVERRIDES)


def test_neither_image_nor_text_is_no_record(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, _ = prepared
    with pytest.raises(ValueError, match="no image and no text"):
        replace(prep).decode({"image": "", "text": [" "], "name": "x"})


def test_a_missing_caption_is_not_the_word_nan(prepared: tuple[Preprocessor, Batch]) -> None:
    prep, _ = prepared
    image = records()[0]["image"]
    nan: Any = float("nan")
    given = [nan, pd.NA, "", [nan, "a dog", None, b"  "], [b"a dog", np.str_("a cat")], np.array(["a cat", nan], object)]
    counts = [len(prep.decode({"image": image, "text": text, "name": "x"})["text.lengths"]) for text in given]
    assert counts == [0, 0, 0, 1, 2, 1]
    as_bytes, as_text = (prep.decode({"image": image, "text": [dog], "name": "x"})["text.ids"] for dog in (b"a dog", "a dog"))
    assert as_bytes.tolist() == as_text.tolist()
    table = pd.DataFrame({"image": [image] * 3, "text": [["a dog", nan], [None, "a cat"], nan]})
    texts = [record["text"] for record in open_source(table, IMAGE_TEXT).parts["all"]]
    assert [None if text is None else list(text) for text in texts] == [["a dog", None], [None, "a cat"], None]


def test_a_file_of_captions_is_read_as_any_text_is(prepared: tuple[Preprocessor, Batch], tmp_path: Path) -> None:
    prep, _ = prepared
    image, file = records()[0]["image"], tmp_path / "a.txt"

    def captions(content: bytes) -> list[str]:
        file.write_bytes(content)
        batch, _ = batch_of([{"image": image, "text": text, "name": "x"} for text in (file, "a dog")], prep)
        items_of, row = items(batch, "text")
        return [text for text, of in zip(texts(made(prep, items_of, "text.whole")[0], prep), row.tolist(), strict=True) if of == 0]

    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert captions("a dog runs\r\na cat\n".encode(encoding)) == ["a dog runs", "a cat"]
    assert len(captions("a dog\x0c runs\u2028on".encode())) == 1, "lines end at line ends only"
    file.write_bytes("a caf\u00e9".encode("latin-1"))
    given = [{"image": image, "text": file, "name": "pair 7"}]
    with pytest.raises(UserError, match=r"none of the texts .* can be read: pair 7 \(is not valid utf-8 at byte 5; give encoding=latin-1"):
        plan(given, OVERRIDES)
    assert plan(given, OVERRIDES | {"text.encoding": "latin-1"})["text"]["encoding"] == "latin-1"
    with pytest.raises(ValueError, match="bool is not text"):
        prep.decode({"image": image, "text": True, "name": "x"})
