"""The views that a method reads, made from raw samples in any loop: plain torch, Lightning, transformers' Trainer."""

from __future__ import annotations

from typing import Any

import torch

from untaught.config.overrides import parse, unknown
from untaught.config.registry import MethodLike, check_needs, method_class, modality_named
from untaught.core import Batch, Encoder, Facts, Options, UserError, View
from untaught.data.sources import open_source, peek
from untaught.ops.gather import world_size
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.preprocessor import learn
from untaught.pipeline.view_pipeline import Views, view_names, view_options

SAMPLE = 1000  # records of the sample that size, channels and statistics are taken from


class BatchViews:
    """Raw samples -> the views of a method, a whole batch at once, on the batch's device.

    Size, channels, statistics and (of text) the tokenizer are taken from `sample`; without one, from the first batch that comes.
    What is random depends on (seed, epoch, index of a sample, view) alone. `layout` is what was decided of the data, `input` what
    an encoder must know of it.

    modality: "image" or "text". method: a name ("simclr+mae" too), a class or a function. sample: arrays or tensors (N,C,H,W), a list of
    texts, a folder, a table: anything that `untaught.pretrain` takes. knobs: those of the data (`size=32`), `views=`, and options of a
    view, as `global__scale=(0.2, 1.0)` for `global.scale`.
    Raises UserError for an unknown name or knob, and for a method whose views the modality does not have.
    """

    def __init__(self, modality: str, sample: Any = None, *, method: MethodLike | None = None, seed: int = 0, **knobs: Any) -> None:
        self.modality = modality_named(modality)
        self.method, self.seed = method_class(method or self.modality.method), seed
        knobs = {key.replace("__", "."): value for key, value in knobs.items()}
        self._names = view_names(self.method, self.modality, knobs.pop("views", None))
        self._overrides = {key: value for key, value in knobs.items() if "." in key}
        allowed = self.modality.knobs
        for key in knobs.keys() - self._overrides.keys() - allowed.keys():
            raise unknown("knob", key, [*allowed, "views", *(f"{name}.OPTION" for name in dict.fromkeys(self._names))])
        self._overrides_of_data = {key: parse(key, knobs[key], allowed[key]) for key in knobs if key in allowed}
        self._views: Views | None = None
        self.layout: Options = {}
        if sample is not None:
            self._fit(sample)

    @property
    def input(self) -> Options:
        """What an encoder must know of its input: channels and size of images, vocabulary and length of texts ..."""
        self._fitted()
        return self.modality.input(self.layout)

    def decode(self, raw: Any, index: torch.Tensor | None = None) -> Batch:
        """Raw samples -> tensors (N, ...) by name, as they are stored before a view is made; once for all epochs, if they fit in memory.

        index (N,) int64: the samples' numbers in the data set, which what is random depends on; 0 to N - 1 if none. Slices
        `{key: value[rows] for key, value in batch.items()}` are batches. Raises UserError for a sample that can't be read.
        """
        if self._views is None:
            self._fit(raw)
        source = open_source(raw, self.modality, encoding=self.layout.get("encoding"))
        records = [record for part in source.parts.values() for record in part]
        batch, names = batch_of(records, self.modality, self.layout)
        if len(names) < len(records):
            lost, noun = len(records) - len(names), self.modality.noun
            first = next(name for record in records if (name := str(record.get("name", "?"))) not in set(names))
            raise UserError(f"{lost} of {len(records)} {noun} can't be read, first {first}; leave them out")
        if index is not None:
            batch["index"] = torch.as_tensor(index, dtype=torch.long)
        return batch

    def facts(self, encoder: Encoder, rows: int) -> Facts:
        """What a method's constructor is given beside the encoder: `untaught.methods.MoCo(encoder, views.facts(encoder, rows))`.

        rows: samples in the data set; every index is below it. Views are fitted to the encoder (the side of a patch).
        Raises UserError where method, views and encoder don't fit.
        """
        views = self._fitted()
        check_needs(self.method, encoder)
        views.fit_encoder(encoder)
        examples = views(self._example, 0)
        views.check_encoder(encoder, examples, self.modality.presets(self.layout)[self.method.whole])
        return Facts(rows, dict(zip(self._names, examples, strict=True)), views.statistics, world_size())

    def used(self, batch: Any) -> View:
        """The view in which the encoder is used and exported; nothing in it is random."""
        views = self._fitted()
        name = self.method.whole
        one = Views((name,), self.modality, [self.modality.presets(self.layout)[name]], views.statistics, 0)
        return one(batch if _is_batch(batch) else self.decode(batch), 0)[0]

    def __call__(self, batch: Any, epoch: int = 0, index: torch.Tensor | None = None) -> list[View]:
        """A batch that `decode` made (on any device), or raw samples -> the method's views, in its order.

        epoch: other numbers give other random draws. index (B,): of raw samples, see `decode`.
        """
        batch = batch if _is_batch(batch) else self.decode(batch, index)
        return self._fitted()(batch, epoch)

    def _fitted(self) -> Views:
        if self._views is None:
            raise UserError("the views know no data yet; give a sample, as untaught.views('image', images, method='moco')")
        return self._views

    def _fit(self, sample: Any) -> None:
        modality = self.modality
        source = open_source(sample, modality, encoding=self._overrides_of_data.get("encoding"))
        records = peek(source, SAMPLE)
        layout = modality.plan(records, self._overrides_of_data)
        self.layout = learn(source, modality, layout) if modality.learn else layout
        batch, _ = batch_of(records, modality, self.layout)
        options = view_options(self._names, modality, self.layout, self._overrides)
        self._views = Views(self._names, modality, options, modality.fit(batch, self.layout), self.seed)
        self._example = {key: value[:2] for key, value in batch.items()}


def _is_batch(batch: Any) -> bool:
    return isinstance(batch, dict) and "index" in batch
