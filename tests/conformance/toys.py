"""Toy data and encoders for the conformance suite: images of four kinds that a small network can tell apart, and sentences of two."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.config.overrides import knobs_of
from untaught.config.train_config import TrainConfig
from untaught.core import Batch, Encoder, Facts, Features, FrozenEncoder, Method, Modality, Preprocessor, View
from untaught.encoders.conv_mel import ConvMel
from untaught.encoders.conv_series import ConvSeries
from untaught.encoders.event_transformer import bert4rec, sasrec
from untaught.encoders.language import bart, bert, gpt, modernbert
from untaught.encoders.patch_series import PatchSeries
from untaught.encoders.pixelcnn import PixelCNN
from untaught.encoders.pixelrnn import PixelRNN
from untaught.encoders.speech import wav2vec2
from untaught.encoders.table import FTTransformer, MlpTable
from untaught.encoders.timm import vit_causal, vit_mini
from untaught.methods import Gram
from untaught.methods.composite import Hybrid
from untaught.modalities.audio import AUDIO
from untaught.modalities.events import EVENTS
from untaught.modalities.events.items import learn as learn_items
from untaught.modalities.events.items import plan as plan_items
from untaught.modalities.image import IMAGE
from untaught.modalities.image_text import IMAGE_TEXT
from untaught.modalities.series import SERIES
from untaught.modalities.table import TABLE
from untaught.modalities.table import learn as learn_columns
from untaught.modalities.table import plan as plan_columns
from untaught.modalities.text import TEXT, learn, plan
from untaught.pipeline.view_pipeline import Views, view_names, view_options
from untaught.training.feature_pass import ExtractFeatures
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

ROWS = 24
OPTIONS: dict[str, dict[str, Any]] = {  # of views that the presets leave to the network's dropout, of which the toys have none
    "image": {},
    "text": {"global.delete": 0.2, "global2.delete": 0.2},
    "series": {},
    "audio": {},
    "waveform": {},
    "image_text": {},
    "events": {},
    "table": {},
}
KNOBS: dict[str, dict[str, Any]] = {  # of methods whose defaults are for more samples than there are here
    "CPC": {"rows": 1, "group": 2},
    "DiscreteVAE": {"codes": 64},
    "Gram": {"start": 0.0},
    "HuBERT": {"units": 6, "later_units": 5, "masked": 0.8, "gradient": 1.0},
    "MoCo": {"queue": 8},
    "NNCLR": {"queue": 8},
    "TS2Vec": {"masked": 0.2},
    "VICRegL": {"width": 32, "local_width": 32},
    "WMSE": {"width": 8},
    "Wav2Vec2": {"codes": 6, "negatives": 8},
}


class ToyConv(Encoder):
    """Two convolutions with BatchNorm. x (B,3,H,W) -> (B,16)."""

    width = 16

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
        )

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.net(view.x).mean((2, 3)))


def toy_encoder(needs: frozenset[str], modality: str = "image") -> Encoder:
    if modality == "text":
        return toy_language({"bart": bart, "gpt": gpt, "bert": bert, "modernbert": modernbert}[text_prep().default_encoder(needs)])
    if modality == "events":
        made = bert4rec if "bidirectional" in needs else sasrec
        return made(**toy_prep("events").encoder_arguments, width=16, depth=2, heads=2, dropout=0.0)
    if modality == "series":
        if "steps" in needs:
            return ConvSeries(channels=2, hidden=32, width=32, depth=2)
        return (
            PatchSeries(channels=2, length=24, patch=2, width=32, depth=2, heads=2, causal="causal" in needs)
            if needs
            else ConvSeries(channels=2, hidden=8, width=16, depth=1)
        )
    if modality == "audio":
        return PatchSeries(channels=16, length=26, patch=2, width=32, depth=2, heads=2) if needs else ConvMel(channels=16, width=8, depth=1)
    if modality == "table":
        own = table_prep().encoder_arguments
        return FTTransformer(**own, width=32, depth=2, heads=2) if needs else MlpTable(**own, width=16, depth=2)
    if modality == "waveform":
        return wav2vec2(rate=8000, width=32, depth=2, heads=2, channels=8)
    if "recurrent" in needs:
        return PixelRNN(channels=3, size=16, width=24, depth=1)
    if "causal_maps" in needs:
        return PixelCNN(channels=3, size=16, width=48, depth=1)
    small = vit_causal if "causal" in needs else vit_mini
    return small(size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2) if needs else ToyConv()


def toy_language(family: Any) -> Encoder:
    """A tiny language model for the toy sentences, without dropout."""
    return family(**text_prep().encoder_arguments, width=32, depth=2, heads=2, dropout=0.0)


def image_batch() -> Batch:
    """Discs and bars of different colours, a little noise: (B,3,16,16) uint8."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 16)
    disc, bar = (line**2 + line[:, None] ** 2 < 0.5).float(), (line.abs() < 0.3).float().expand(16, 16)
    kinds = torch.stack([disc, bar, bar.T, 1 - disc])[torch.arange(ROWS) % 4]
    tint = torch.rand(ROWS, 3, 1, 1, generator=generator)
    pixels = (kinds[:, None] * tint + 0.1 * torch.rand(ROWS, 3, 16, 16, generator=generator)).clamp(0, 1)
    return {"pixels": (pixels * 255).byte(), "aspect": torch.ones(ROWS), "index": torch.arange(ROWS)}


def sentences() -> list[str]:
    """A few short sentences each, of an animal's world or of a ship's, in which a word tells much of the next."""
    worlds = (("cat", "sees", "dog", "garden"), ("ship", "leaves", "harbour", "storm"))
    pick = torch.randint(2, (ROWS, 4), generator=torch.Generator().manual_seed(0)).tolist()
    texts = []
    for row, (a, b, c, d) in enumerate(pick):
        first, verb, second, place = worlds[row % 2]
        said = f"the {('old', 'small')[a]} {first} {verb} the {second} {('slowly', 'again')[b]} ."
        more = f" it is in the {place} {('now', 'today')[c]} ." if row % 3 else ""
        texts.append(said + more + (f" the {second} stays ." if d else ""))
    return texts


@cache
def text_prep() -> Preprocessor:
    """Learns the toy sentences' words, the same in every process."""
    records = [{"text": text} for text in sentences()]
    settings, files = learn(records, plan(records, {"tokenizer": "bpe", "length": 24, "vocabulary": 330}))
    return Preprocessor(TEXT, settings, files=files).fitted({})


def text_batch(width: int = 0) -> Batch:
    """Ids (B,T) of documents of different lengths and what of them is valid; T is `width` at least."""
    rows = [torch.from_numpy(text_prep().decode({"text": text})["ids"]) for text in sentences()]
    width = max(width, *map(len, rows))
    ids, valid = torch.zeros(ROWS, width, dtype=torch.int32), torch.zeros(ROWS, width, dtype=torch.bool)
    for own, is_valid, row in zip(ids, valid, rows, strict=True):
        own[: len(row)], is_valid[: len(row)] = row, True
    return {"ids": ids, "ids_valid": valid, "index": torch.arange(ROWS)}


def series_batch(width: int = 0) -> Batch:
    """Waves of four frequencies on two channels, of different lengths, a little noise: (B,T,2) float32, T is `width` at least."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(12, 25, (ROWS,), generator=generator)
    length[0] = 24
    time, kind = torch.arange(24.0), torch.arange(ROWS) % 4
    waves = torch.stack([(time * (k + 1) / 4 + p).sin() for k, p in zip(kind, torch.rand(ROWS, generator=generator), strict=True)])
    values = torch.stack([waves, waves.roll(2, 1)], 2) + 0.1 * torch.randn(ROWS, 24, 2, generator=generator)
    values = torch.nn.functional.pad(values, (0, 0, 0, max(width - 24, 0)))
    valid = torch.arange(values.shape[1]) < length.unsqueeze(1)
    return {"values": torch.where(valid.unsqueeze(2), values, 0.0), "values_valid": valid, "index": torch.arange(ROWS)}


def audio_batch(width: int = 0) -> Batch:
    """Tones of four pitches, of different lengths, a little noise: (B,T) int16, T is `width` at least."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(600, 2001, (ROWS,), generator=generator)
    length[0] = 2000
    time, pitch = torch.arange(2000.0) / AUDIO_SETTINGS["rate"], 200.0 * 2 ** (torch.arange(ROWS) % 4)
    wave = (2 * torch.pi * (pitch.unsqueeze(1) * time + torch.rand(ROWS, 1, generator=generator))).sin()
    wave = 0.3 * wave + 0.02 * torch.randn(ROWS, 2000, generator=generator)
    wave = torch.nn.functional.pad(wave, (0, max(width - 2000, 0)))
    valid = torch.arange(wave.shape[1]) < length.unsqueeze(1)
    return {"wave": torch.where(valid, wave * 32767, 0.0).short(), "wave_valid": valid, "index": torch.arange(ROWS)}


def event_records() -> list[dict[str, Any]]:
    """Users who go around one of two circles of items, some a step further than others, from different places."""
    random = np.random.default_rng(0)
    records = []
    for user in range(ROWS):
        start, length, circle = int(random.integers(6)), int(random.integers(5, 11)), 6 * (user % 2)
        items = [f"i{circle + (start + step + int(random.uniform() < 0.1)) % 6}" for step in range(length)]
        records.append({"user": str(user), "item": items, "time": np.arange(length, dtype=np.float64)})
    return records


@cache
def event_prep() -> Preprocessor:
    settings, files = learn_items(event_records(), plan_items(event_records(), {"length": 8}))
    return Preprocessor(EVENTS, settings, files=files).fitted({})


def event_batch(width: int = 0) -> Batch:
    """Numbers of items (B,T) of users with different numbers of events; T is `width` at least."""
    made = [event_prep().decode(record) for record in event_records()]
    width = max(width, *(len(one["ids"]) for one in made))
    valid = torch.tensor([[place < len(one["ids"]) for place in range(width)] for one in made])
    pad = lambda name: torch.from_numpy(np.stack([np.pad(one[name], (0, width - len(one[name]))) for one in made]))  # noqa: E731
    known = torch.from_numpy(np.stack([one["known"] for one in made]))
    batch = {"ids": pad("ids"), "ids_valid": valid, "times": pad("times"), "times_valid": valid}
    return {**batch, "known": known, "index": torch.arange(ROWS)}


def table_rows() -> list[dict[str, Any]]:
    """Two kinds of rows: numbers and categories that depend on the kind, one with missing values, and two that are noise."""
    random = np.random.default_rng(0)
    rows = []
    for row in range(ROWS):
        own = {f"n{i}": float((-1) ** row + 0.3 * random.normal()) for i in range(4)}
        own |= {f"c{i}": ("red", "blue")[(row + (random.random() < 0.1)) % 2] for i in range(4)}
        rows.append({**own, "gap": None if row % 5 == 0 else float(random.normal()), "noise": ("a", "b", "c")[random.integers(3)]})
    return rows


@cache
def table_prep() -> Preprocessor:
    records = [{"table": row} for row in table_rows()]
    settings, files = learn_columns(records, plan_columns(records, {}))
    return Preprocessor(TABLE, settings, files=files)


def table_batch(width: int = 0) -> Batch:
    """Cells (B,10) of the toy rows."""
    cells = np.stack([table_prep().decode({"table": row})["cells"] for row in table_rows()])
    return {"cells": torch.from_numpy(cells), "index": torch.arange(ROWS)}


def image_text_batch(width: int = 0) -> Batch:
    """The toy images, each with two of the toy sentences; two pairs lack the image, one the text."""
    image, text = image_batch(), text_batch()
    lengths = text["ids_valid"].sum(1)
    captions = [[i, (i + 2) % ROWS] for i in range(ROWS)]
    captions[-1] = []
    count = torch.tensor([[int(lengths[i]) for i in own] + [0] * (2 - len(own)) for own in captions], dtype=torch.int32)
    width = max(width, int(count.sum(1).max()))
    ids, valid = torch.zeros(ROWS, width, dtype=torch.int32), torch.arange(width) < count.sum(1, keepdim=True)
    for row, own in enumerate(captions):
        if own:
            joined = torch.cat([text["ids"][i, : lengths[i]] for i in own])
            ids[row, : len(joined)] = joined
    present = torch.ones(ROWS, dtype=torch.bool)
    present[[3, 10]] = False
    arrays = {f"image.{name}": value for name, value in image.items() if name != "index"} | {"image.present": present}
    arrays |= {"text.ids": ids, "text.ids_valid": valid, "text.lengths": count, "text.lengths_valid": count > 0}
    return arrays | {"index": torch.arange(ROWS)}


AUDIO_SETTINGS: Any = {
    "rate": 8000,
    "seconds": 0.25,
    "segment": 30.0,
    "input": "log_mel",
    "mels": 16,
    "window": 200,
    "hop": 80,
    "ragged": ["wave"],
}
SERIES_SETTINGS = {"channels": 2, "length": 24, "missing": False, "standardise": "channel", "ragged": ["values"]}


IMAGE_SETTINGS = {"size": 16, "side": 16, "channels": 3, "bits": 8, "preset": "small"}


def toy_prep(modality: str, batch: Batch | None = None) -> Preprocessor:
    """Fitted on a batch, by default the toy's own."""
    if modality == "text":
        return text_prep()
    if modality == "events":
        return event_prep()
    if modality == "table":
        return table_prep()
    if modality == "image_text":
        settings: Any = {"image": dict(IMAGE_SETTINGS), "text": text_prep().settings, "ragged": ["text.ids", "text.lengths"]}
        files = {f"text.{name}": content for name, content in text_prep().files.items()}
        return Preprocessor(IMAGE_TEXT, settings, files=files).fitted(batch or image_text_batch())
    kinds = {
        "series": (SERIES, SERIES_SETTINGS),
        "audio": (AUDIO, AUDIO_SETTINGS),
        "waveform": (AUDIO, AUDIO_SETTINGS | {"input": "waveform"}),
        "image": (IMAGE, IMAGE_SETTINGS),
    }
    kind, settings = kinds[modality]
    return Preprocessor(kind, dict(settings)).fitted(batch or BATCHES[modality]())


BATCHES = {
    "image": image_batch,
    "text": text_batch,
    "series": series_batch,
    "audio": audio_batch,
    "waveform": audio_batch,
    "table": table_batch,
    "image_text": image_text_batch,
    "events": event_batch,
}
MODALITIES: dict[str, Modality] = {
    "image": IMAGE,
    "text": TEXT,
    "series": SERIES,
    "audio": AUDIO,
    "table": TABLE,
    "image_text": IMAGE_TEXT,
    "events": EVENTS,
    "waveform": AUDIO,  # input=waveform, for encoders of these
}


def toy_knobs(cls: Any) -> dict[str, Any]:
    """Those of the table, and as many prototypes as 24 samples can use; of a hybrid, those of its methods."""
    if issubclass(cls, Hybrid):
        return {f"{name}.{key}": value for name, (member, _) in cls.members.items() for key, value in toy_knobs(member).items()}
    return ({"prototypes": 16} if "prototypes" in inspect.signature(cls).parameters else {}) | KNOBS.get(cls.__name__, {})


def build(cls: Any, modality: str, encoder: Encoder | None = None, batch: Batch | None = None, **knobs: Any) -> tuple[Method, Views, Batch]:
    """The method on toy data of a modality, its views, and the batch."""
    torch.manual_seed(0)
    batch = batch or BATCHES[modality]()
    prep = toy_prep(modality, batch)
    roles = cls.roles().values()
    encoders = [encoder or toy_encoder(role.needs, role.name if role.name in prep.modality.parts else modality) for role in roles]
    names = view_names(cls, prep.modality)
    options = {key: value for key, value in OPTIONS[modality].items() if key.rpartition(".")[0] in names}
    views = Views(names, prep, view_options(names, prep, options), seed=0)
    for one, role in zip(encoders, roles, strict=True):
        views.fit_encoder(one, role)
    examples: dict[str, View] = dict(zip(names, views({key: value[:2] for key, value in batch.items()}, 0), strict=True))
    teachers = (FrozenEncoder("toy", toy_encoder(frozenset(), modality)),) if cls.taught else ()
    facts = Facts(rows=ROWS, views=examples, statistics=prep.statistics, teachers=teachers)
    method: Method = cls(*encoders, facts, **(toy_knobs(cls) | knobs))
    with torch.no_grad():
        for part in method.modules():
            for parameter in part.anchor.parameters() if isinstance(part, Gram) else ():  # so that it is not the student itself
                parameter.add_(0.2 * torch.randn_like(parameter))
    with torch.no_grad():
        method.before_epoch(0, lambda what, place: (batch["index"], attrgetter(what)(method)(views.one(batch, 0, place))))
    return method, views, batch


class Shuffled:
    """The toy batch, 12 rows a step, in an order of each epoch."""

    steps_per_epoch: int | None = ROWS // 12

    def __init__(self, batch: Batch) -> None:
        self.batch, self.rows = batch, np.arange(ROWS)

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(self.rows))
        for at in range(step, ROWS // 12):
            yield {key: value[order[12 * at : 12 * at + 12]] for key, value in self.batch.items()}


def toy_fit(cls: type[Method], modality: str, folder: Path) -> Any:
    """The loop of the engine over five steps, two an epoch, saved after three; it looks at all samples where the method does."""
    queues: Any = {knob: 20 for knob in knobs_of(cls) if knob.rpartition(".")[2] == "queue"}  # so that a step ends in the middle of one
    method, views, batch = build(cls, modality, **queues)
    train_config = TrainConfig(steps=5, batch_size=12, lr=0.01, log_every=1, save_every=3, warmup=0.2)
    step, loader = TrainingStep(method, train_config), Shuffled(batch)
    looks: Any = cls.before_epoch is not Method.before_epoch
    extract_features = ExtractFeatures(loader, views, method, step.call, step.device, folder) if looks else None  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    return Trainer(step, views, loader, folder, name=lambda index: [], extract_features=extract_features)
