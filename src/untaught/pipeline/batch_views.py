"""A method's views from raw samples, for any training loop: plain torch, Lightning, transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from untaught.config.overrides import parse, unknown
from untaught.config.registry import MethodLike, check_needs, method_class, modality_named
from untaught.core import Batch, Encoder, Facts, Options, Preprocessor, UserError, View
from untaught.data.sources import open_source, peek
from untaught.ops.gather import world_size
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.preprocessor import plan
from untaught.pipeline.view_pipeline import Views, used_view, view_names, view_options

SAMPLE = 1000  # records from which size, channels and statistics are estimated


class BatchViews:
    """Raw samples -> the views of a method, one batch at a time, on the batch's device.

    Size, channels, statistics and (for text) the tokenizer are fitted on `sample`, or on the first batch if it is omitted.
    Randomness depends only on (seed, epoch, sample index, view). `prep` is the fitted preprocessor; `input` holds the arguments
    that an encoder is built with.

    modality: "image", "text", ... method: a name (also "simclr+mae"), a class or a function. sample: arrays or tensors (N,C,H,W), a list
    of texts, a folder, a table: anything that `untaught.pretrain` accepts. knobs: data knobs (`size=32`), `views=`, and view options, e.g.
    `global__scale=(0.2, 1.0)` for `global.scale`.
    Raises UserError for an unknown name or knob, and for a method that uses views the modality does not offer.
    """

    def __init__(self, modality: str, sample: Any = None, *, method: MethodLike | None = None, seed: int = 0, **knobs: Any) -> None:
        self.modality = modality_named(modality)
        self.method, self.seed = method_class(method or self.modality.method), seed
        knobs = {key.replace("__", "."): value for key, value in knobs.items()}
        self._names = view_names(self.method, self.modality, knobs.pop("views", None))
        allowed = self.modality.knobs
        self._overrides = {key: value for key, value in knobs.items() if "." in key and key not in allowed}
        for key in knobs.keys() - self._overrides.keys() - allowed.keys():
            raise unknown("knob", key, [*allowed, "views", *(f"{name}.OPTION" for name in dict.fromkeys(self._names))])
        self._overrides_of_data = {key: parse(key, knobs[key], allowed[key]) for key in knobs if key in allowed}
        self._views: Views | None = None
        self.prep = Preprocessor(self.modality, {})
        if sample is not None:
            self._fit(sample)

    @property
    def input(self) -> Options:
        """Encoder arguments: channels and size of images, vocabulary and length of texts, ... By role if there are several encoders."""
        self._fitted()
        roles = self.method.roles()
        return {role: self.prep.part(role).encoder_arguments for role in roles} if len(roles) > 1 else self.prep.encoder_arguments

    def decode(self, raw: Any, index: torch.Tensor | None = None) -> Batch:
        """Raw samples -> tensors (N, ...) by name, as stored before views are made. Call it once for all epochs if they fit in memory.

        index (N,) int64: the samples' positions in the data set, which seed the randomness; 0 to N - 1 by default. Slices
        `{key: value[rows] for key, value in batch.items()}` are valid batches. Raises UserError for a sample that can't be read.
        """
        if self._views is None:
            self._fit(raw)
        source = open_source(raw, self.modality, encoding=self.prep.settings.get("encoding"))
        records = [record for part in source.parts.values() for record in part]
        batch, names = batch_of(records, self.prep)
        if len(names) < len(records):
            lost, noun = len(records) - len(names), self.modality.noun
            first = next(name for record in records if (name := str(record.get("name", "?"))) not in set(names))
            raise UserError(f"{lost} of {len(records)} {noun} can't be read, the first is {first}; remove them")
        if index is not None:
            batch["index"] = torch.as_tensor(index, dtype=torch.long)
        return batch

    def facts(self, encoder: Encoder | Mapping[str, Encoder], rows: int) -> Facts:
        """The second argument of a method's constructor: `untaught.methods.MoCo(encoder, views.facts(encoder, rows))`.

        encoder: the encoder, or a mapping by role for a method with several. rows: samples in the data set; every index is below it.
        Views are adapted to the encoder's patch size. Raises UserError if method, views and encoder are incompatible.
        """
        views, roles = self._fitted(), self.method.roles()
        encoders = encoder if isinstance(encoder, Mapping) else dict.fromkeys(roles, encoder)
        for name, role in roles.items():
            check_needs(self.method, encoders[name], name)
            views.fit_encoder(encoders[name], role)
        examples = views(self._example, 0)
        for name, role in roles.items():
            views.check_encoder(encoders[name], examples, self.example(name), role)
        return Facts(rows, dict(zip(self._names, examples, strict=True)), self.prep.statistics, world_size())

    def used(self, batch: Any, role: str | None = None) -> View:
        """The deterministic view that the encoder (of `role`, if there are several) is evaluated and exported with."""
        self._fitted()
        roles = self.method.roles()
        export_view = roles[role or next(iter(roles))].export_view
        return used_view(self.prep, export_view)(batch if _is_batch(batch) else self.decode(batch), 0)[0]

    def example(self, role: str | None = None) -> View:
        """`used` for 2 samples, e.g. for the shape."""
        self._fitted()
        return self.used(self._example, role)

    def __call__(self, batch: Any, epoch: int = 0, index: torch.Tensor | None = None) -> list[View]:
        """A batch from `decode` (on any device), or raw samples -> the method's views, in its order.

        epoch: each value gives different random draws. index (B,): for raw samples, see `decode`.
        """
        batch = batch if _is_batch(batch) else self.decode(batch, index)
        return self._fitted()(batch, epoch)

    def _fitted(self) -> Views:
        if self._views is None:
            raise UserError("the views are not fitted yet; give a sample, e.g. untaught.views('image', images, method='moco')")
        return self._views

    def _fit(self, sample: Any) -> None:
        modality = self.modality
        source = open_source(sample, modality, encoding=self._overrides_of_data.get("encoding"))
        records = peek(source, SAMPLE)
        wanted = {key: value for role in self.method.roles().values() for key, value in modality.wants(role.needs).items()}
        planned = plan(source, records, modality, wanted | self._overrides_of_data)
        batch, _ = batch_of(records, planned)
        self.prep = planned.fitted(batch)
        options = view_options(self._names, self.prep, self._overrides, self.method)
        self._views = Views(self._names, self.prep, options, self.seed)
        self._example = {key: value[:2] for key, value in batch.items()}


def _is_batch(batch: Any) -> bool:
    return isinstance(batch, dict) and "index" in batch
