"""Image-text pairs, composed of the image and text modalities. Either field may be missing, and the text may be several captions.

Settings, statistics and files are keyed by part; arrays and views are named PART.NAME. "text.ids" concatenates the tokens of all
captions of a pair, "text.lengths" holds their lengths. A text view takes one caption: a random one each epoch, or the first in
deterministic views. meta["present"] (B,) of a view is False where its part is missing; the view is then blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from untaught.core import Batch, Files, Modality, Options, Preprocessor, Record, UserError, View, reason
from untaught.data.labels import is_missing
from untaught.modalities.image import IMAGE
from untaught.modalities.text import TEXT
from untaught.modalities.tokenizer import read
from untaught.ops.counter_rng import CounterRNG

PARTS = {"image": IMAGE, "text": TEXT}
LINE_END = re.compile(r"\r\n|\r|\n")  # of a file of captions; str.splitlines also cuts at a form feed, or at U+2028
CAPTION = ("first", "drawn")  # which caption a view of the text takes

# ---------------------------------------------------------------------------------------------- records to arrays


def plan(records: list[Record], overrides: Options) -> Options:
    """Settings of both parts, from the records that have them. Raises UserError if no record has an image, or none has a text."""
    encoding = overrides.get("text.encoding", "utf-8")
    known: dict[str, list[Record]] = {"image": [record for record in records if not _is_missing(record["image"])], "text": []}
    faults = []
    for record in records:
        try:
            known["text"] += ({**record, "text": caption} for caption in _captions(record["text"], encoding))
        except (ValueError, OSError) as error:
            faults.append(f"{record.get('name', 'the first')} ({reason(error)})")
    for name, found in known.items():
        if not found and name == "text" and faults:
            raise UserError(f"none of the texts of the first {len(records)} pairs can be read: {faults[0]}")
        if not found:
            raise UserError(
                f"none of the first {len(records)} pairs has {'an image' if name == 'image' else 'a text'}; give a folder with x.jpg "
                "and x.txt, a folder with a captions.csv, or a table with both columns (--columns image=NAME,text=NAME)"
            )
    own = {name: {key.removeprefix(f"{name}."): value for key, value in overrides.items() if key.startswith(f"{name}.")} for name in PARTS}
    settings: Options = {name: part.plan(known[name], own[name]) for name, part in PARTS.items()}
    return {**settings, "ragged": ["text.ids", "text.lengths"]}


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> "image.present" () bool and the arrays of the image, blank where it is missing; "text.ids" (T,) int32 and "text.lengths" (K,).

    Raises ValueError or OSError for an unreadable record, and if both fields are missing.
    """
    image, text = prep.part("image"), prep.part("text")
    captions = [text.decode({**record, "text": caption})["ids"] for caption in _captions(record["text"], text.settings["encoding"])]
    present = not _is_missing(record["image"])
    if not present and not captions:
        raise ValueError("has no image and no text")
    shown = record if present else {"image": np.zeros((image.settings["side"],) * 2, np.uint8)}
    arrays = {f"image.{name}": array for name, array in image.decode(shown).items()}
    lengths = np.array([len(ids) for ids in captions], np.int32)
    return {
        "image.present": np.array(present),
        **arrays,
        "text.ids": np.concatenate(captions) if captions else np.zeros(0, np.int32),
        "text.lengths": lengths,
    }


def _is_missing(value: Any) -> bool:
    return is_missing(value) or (isinstance(value, float) and value != value) or (isinstance(value, str | bytes) and not value.strip())


def _captions(value: Any, encoding: str) -> list[str]:
    """A text, a list of texts, or a file with one per line -> the non-blank ones. Raises ValueError or OSError for what is not text."""
    if isinstance(value, Path | bytes):
        found: list[Any] = LINE_END.split(read(value, encoding))
    elif isinstance(value, list | tuple | np.ndarray):
        found = list(value)
    else:
        found = [value]
    texts = (str(read(one, encoding)) for one in found if not _is_missing(one))
    return [text for text in texts if text.strip()]


def _captions_or_none(record: Record, encoding: str) -> list[str]:
    """Captions for the tokenizer; packing reports unreadable ones."""
    try:
        return _captions(record["text"], encoding)
    except (ValueError, OSError):
        return []


def fit(batch: Batch, prep: Preprocessor) -> Options:
    present = batch["image.present"]
    image = {key: value[present] for key, value in _of(batch, "image").items()} if present.any() else _of(batch, "image")
    return {"image": IMAGE.fit(image, prep.part("image")), "text": TEXT.fit(_captioned(batch, None), prep.part("text"))}


def learn(records: Iterable[Record], settings: Options) -> tuple[Options, Files]:
    """The tokenizer, trained on all captions."""
    assert TEXT.learn is not None
    encoding = settings["text"]["encoding"]

    def captions() -> Iterator[Record]:
        for record in records:
            yield from ({"text": caption} for caption in _captions_or_none(record, encoding))

    own, files = TEXT.learn(captions(), settings["text"])
    return {**settings, "text": own}, {f"text.{name}": content for name, content in files.items()}


def check_files(settings: Options, files: Files) -> None:
    for name, part in PARTS.items():
        own = {file.removeprefix(f"{name}."): content for file, content in files.items() if file.startswith(f"{name}.")}
        part.check_files(settings[name], own)


# ------------------------------------------------------------------------------------------------ arrays to views


def presets(settings: Options) -> dict[str, Options]:
    """The parts' presets. Images are never flipped: a caption may say "left"."""
    options: dict[str, Options] = {}
    for name, part in PARTS.items():
        assert part.presets is not None
        if not isinstance(settings.get(name), dict):
            raise UserError(f"settings of pairs need entries for {' and '.join(PARTS)}; got {str(settings)[:200]}")
        own: Options = {"flip": 0.0} if name == "image" else {"caption": "drawn"}
        options |= {f"{name}.{view}": given | own for view, given in part.presets(settings[name]).items()}
    options["text.whole"]["caption"] = "first"
    return options


def check(options: Options) -> str | None:
    if options.get("caption", "first") not in CAPTION:
        return f"caption={options['caption']}: must be {' or '.join(CAPTION)}"
    return (TEXT if "caption" in options else IMAGE).check(options)


def image_view(name: str, batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    view = IMAGE.views[name](_of(batch, "image"), rng, options, prep.part("image"))
    return replace(view, meta={**(view.meta or {}), "present": batch["image.present"]})


def text_view(name: str, batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    own = _captioned(batch, rng if options["caption"] == "drawn" else None)
    present = own["ids_valid"].any(1)
    view = TEXT.views[name](own, rng, options, prep.part("text"))
    valid = (
        view.valid
        if view.valid is None
        else view.valid | (~present.unsqueeze(1) & (torch.arange(view.x.shape[1], device=view.x.device) == 0))
    )
    return replace(view, valid=valid, meta={**(view.meta or {}), "present": present})  # attention without a valid token would give NaN


def _of(batch: Batch, part: str) -> Batch:
    """The arrays of a part, with the index if there is one."""
    own = {key.removeprefix(f"{part}."): value for key, value in batch.items() if key.startswith(f"{part}.")}
    return {key: value for key, value in own.items() if key != "present"} | {"index": batch["index"]} if "index" in batch else own


def _captioned(batch: Batch, rng: CounterRNG | None) -> Batch:
    """A text batch with one caption per pair, random or the first: "ids" (B,T), "ids_valid" (B,T), all False for a pair without text."""
    lengths, known = batch["text.lengths"].long(), batch["text.lengths_valid"]
    at = torch.zeros(len(lengths), dtype=torch.long, device=lengths.device)
    if rng is not None:
        count = known.sum(1)
        at = (rng.uniform() * count).long().minimum(count - 1).clamp(min=0)
    return _caption(batch, at)


def _caption(batch: Batch, at: Tensor) -> Batch:
    """A text batch of the captions with numbers `at` (B,)."""
    ids, lengths = batch["text.ids"], torch.where(batch["text.lengths_valid"], batch["text.lengths"], 0).long()
    length = lengths.gather(1, at.unsqueeze(1))
    start = lengths.cumsum(1).gather(1, at.unsqueeze(1)) - length
    places = torch.arange(ids.shape[1], device=ids.device)
    valid = places < length
    taken = ids.gather(1, (start + places).clamp(max=ids.shape[1] - 1))
    own = {"ids": torch.where(valid, taken, 0), "ids_valid": valid}
    return own | ({"index": batch["index"]} if "index" in batch else {})


def items(batch: Batch, part: str) -> tuple[Batch, Tensor]:
    """A batch of B pairs -> a batch with one row per image present, or per caption, (N), and the source row of each (N,)."""
    if part == "image":
        row = batch["image.present"].nonzero().squeeze(1)
        return {key: value[row] for key, value in batch.items()}, row
    row, number = batch["text.lengths_valid"].nonzero(as_tuple=True)
    own = {key: value[row] for key, value in batch.items()}
    caption = _caption(own, number)
    lengths = caption["ids_valid"].sum(1, keepdim=True)
    one = {"ids": caption["ids"], "ids_valid": caption["ids_valid"], "lengths": lengths, "lengths_valid": lengths > 0}
    return own | {f"text.{name}": value for name, value in one.items()}, row


def raw(batch: Batch, prep: Preprocessor) -> Any:
    """The raw baseline of the images."""
    return IMAGE.raw(_of(batch, "image"), prep.part("image"))


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    name = "text" if "caption" in options else "image"
    return PARTS[name].render(view, options, prep.part(name))


IMAGE_TEXT = Modality(
    name="image_text",
    noun="pairs",
    fields={"image": IMAGE.fields["image"], "text": ("caption", "captions", "sentences", "txt", *TEXT.fields["text"])},
    suffixes=IMAGE.suffixes,
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        **{f"image.{name}": partial(image_view, name) for name in IMAGE.views},
        **{f"text.{name}": partial(text_view, name) for name in TEXT.views},
    },
    raw=raw,
    render=render,
    encoder_for=lambda settings, needs: IMAGE.encoder_for(settings["image"], needs),
    kind=lambda settings: [part.kind(settings[name]) for name, part in PARTS.items()],
    suit=lambda options, patch: IMAGE.suit(options, patch) if "caption" not in options else {},
    method="clip",
    batch=256,
    knobs={f"{name}.{knob}": kind for name, part in PARTS.items() for knob, kind in part.knobs.items()},
    learn=learn,
    files=tuple(f"{name}.{file}" for name, part in PARTS.items() for file in part.files),
    check_files=check_files,
    optional=frozenset(PARTS),
    several=frozenset(["text"]),
    beside={"text": (".txt",)},
    parts=PARTS,
    items=items,
)
