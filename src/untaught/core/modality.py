"""A kind of data (`Modality`), and the settings and statistics fitted to one data set of that kind (`Preprocessor`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from untaught.core.errors import UserError
from untaught.core.view import Batch, View

Record = dict[str, Any]  # one raw example from a source: field values (path, bytes, array ...), "label", "name", "facts" of a file
Options = dict[str, Any]  # plain values, as in run.yaml
Files = dict[str, bytes]  # files of a preprocessor, such as a tokenizer: contents by file name


def _flattened(batch: Batch, prep: Preprocessor) -> np.ndarray:
    """All arrays of a batch, flattened to one vector per sample (B,D)."""
    return np.concatenate([batch[name].flatten(1).float().numpy() for name in sorted(batch) if name != "index"], axis=1)


def _heatmap(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A row of grey squares: the first 64 values of x (B, ...), scaled to the sample's range -> (B,24,8*N,3) uint8."""
    x = view.x.detach().float().cpu().flatten(1)[:, :64].numpy()
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    grey = (255 * (x - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(grey[:, None, :, None], 24, 1), 8, 2), 3, 3)


def _alike(view: View, prep: Preprocessor, other: Preprocessor) -> View:
    """The view itself, if the other encoder's preprocessing is the data's."""
    for what, own, found in (
        ("input", prep.encoder_arguments, other.encoder_arguments),
        ("normalisation", prep.statistics, other.statistics),
        ("files", prep.files, other.files),
    ):
        if own != found:
            raise UserError(f"was trained with another {what} than the data have; choose one that was trained on data like these")
    return view


@dataclass(frozen=True)
class Pretext:
    """How the prediction target of a view is drawn, and how right an answer to it is.

    The answer of a method (`Method.solve`) has the form of the view's target, so that it is drawn by putting it in the target's place.
    """

    render: Callable[[View, Options, Preprocessor], np.ndarray]  # the sample that the target describes -> (B,H,W,3) uint8
    measure: Callable[[View, Tensor, Options, Preprocessor], dict[str, np.ndarray]]  # (view, answer, ...) -> columns of a table, (B,) each


@dataclass(frozen=True)
class Modality:
    """One kind of data: how raw records become arrays, and arrays become views. Stateless: the state of a data set is in a Preprocessor.

    Fields with a default are optional: a modality of arrays of one shape needs only name, noun, fields, `decode`, views and
    `encoder_for`.
    """

    name: str
    noun: str  # for messages: "images"
    fields: dict[str, tuple[str, ...]]  # raw fields and their usual column names
    decode: Callable[[Record, Preprocessor], dict[str, np.ndarray]]  # -> arrays by name; raises ValueError or OSError
    views: dict[str, Callable[..., View]]  # name -> fn(batch, rng, options, prep)
    encoder_for: Callable[[Options, frozenset[str]], str]  # (settings, needs) -> the default encoder's name
    suffixes: frozenset[str] = frozenset()  # of files with one record each
    plan: Callable[[list[Record], Options], Options] = lambda records, overrides: {}  # a sample of the records -> settings
    fit: Callable[[Batch, Preprocessor], Options] = lambda batch, prep: {}  # a sample of decoded rows -> statistics
    presets: Callable[[Options], dict[str, Options]] | None = None  # settings -> default options of every view; None: no options
    check: Callable[[Options], str | None] = lambda options: None  # a view's options -> error message starting with the option, or None
    suit: Callable[[Options, int], Options] = lambda options, patch: {}  # view options to change for tokens of this side or length
    raw: Callable[[Batch, Preprocessor], Any] = _flattened  # -> (B,D) float or a sparse matrix, the raw baseline of an evaluation
    classical: dict[str, Any] = field(default_factory=dict)  # further baselines: name -> fn(training rows, prep) -> fn as `raw`
    boosted: bool = False  # whether an evaluation also gives the raw baseline to gradient boosting: features with a meaning each
    render: Callable[[View, Options, Preprocessor], np.ndarray] = _heatmap  # (view, its options) -> (B,H,W,3) uint8
    pretexts: dict[str, Pretext] = field(default_factory=dict)  # by view, for views with a target that can be drawn
    overlay: Callable[[View, Tensor, Options, Preprocessor], np.ndarray] | None = (
        None  # (view, weights of its tokens on their grid (B,h,w) in 0..1, ...) -> (B,H,W,3) uint8: the view with the weights drawn over it
    )
    unaugmented: Options = field(default_factory=dict)  # view options that switch random augmentation off
    remarks: Callable[[tuple[str, ...], Options], list[str]] = (
        lambda views, settings: []
    )  # (names of views, settings) -> what these views change in data like these, for messages
    captions: Callable[[View, Preprocessor], list[str]] | None = None  # sample captions better than the index
    encoder_arguments: Callable[[Options], Options] = lambda settings: {}  # settings -> encoder arguments that depend on the input
    export: Callable[[Preprocessor], Options] = (
        lambda prep: {}
    )  # the `whole` view as preprocessing of other libraries; checks the statistics
    kind: Callable[[Options], Any] = lambda settings: None  # settings -> key; encoders with equal keys can read the same stored samples
    method: str = "simclr"  # default method
    batch: int = 512  # upper limit of the default batch size
    knobs: dict[str, Any] = field(default_factory=dict)  # settings that a user may override: name -> type with range
    numbered: bool = False  # whether a record may be spread over numbered columns (t0, t1, ...) or rows of a table
    lines: bool = False  # whether a record may be a line or paragraph of a text file
    doubt: Callable[[tuple[int, ...], bool], str | None] = lambda shape, tensor: None  # (shape, is torch) -> doubt that rows are records
    likely: Callable[[list[Record]], bool] = lambda records: True  # whether readable records are of this modality, to infer it
    adapt: Callable[[list[Record], Options], Options] = lambda records, settings: settings  # (new records, settings) -> settings for them
    unlike: Callable[[list[Record], Preprocessor], list[str]] = lambda records, prep: []  # what an encoder can't use in new data, in words
    runs: Callable[[list[Options]], tuple[str, int] | None] = lambda views: None  # ragged field read as one stream; length per sample
    learn: Callable[[Iterable[Record], Options], tuple[Options, Files]] | None = None  # fits what decoding requires (a tokenizer)
    extend: Callable[[Iterable[Record], Preprocessor], Preprocessor] | None = None  # (training records, an encoder's) -> for their columns
    resized: dict[str, Any] = field(default_factory=dict)  # knob that an any-size encoder may get at another value -> fn(settings, value)
    files: tuple[str, ...] = ()  # names of the fitted files
    check_files: Callable[[Options, Files], None] = lambda settings, files: None  # raises UserError if they do not match the settings
    expects: Callable[[str], Options] = lambda encoder: {}  # encoder name -> settings it requires
    wants: Callable[[frozenset[str]], Options] = lambda needs: {}  # an encoder's abilities -> settings with which the default one has them
    shown: Callable[[Preprocessor, Options], Preprocessor] | None = None  # adapted to an external model: {"size", "mean", "std"}
    adapted: Callable[[View, Preprocessor, Preprocessor], View] = (
        _alike  # (view, the data's, another encoder's) -> the view as that encoder expects it; raises UserError, the encoder's name aside
    )
    targets: dict[str, Any] = field(default_factory=dict)  # targets besides labels: data.target.Target by name
    paired: Any = None  # the Target whose files lie next to those of the records
    optional: frozenset[str] = frozenset()  # fields that may be missing, but not all at once
    extras: dict[str, tuple[str, ...]] = field(default_factory=dict)  # further columns of a table, if it has them
    cut: Callable[[Options], Any] | None = None  # settings -> fn(record) -> its pieces, each a sample, with the "group" of all; or None
    several: frozenset[str] = frozenset()  # fields that may hold a list: the captions of an image
    grouped: str = ""  # field whose equal values in a table make one record of several rows: the user of events
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)  # fields in files with the stem of the first field's: suffixes
    parts: dict[str, Modality] = field(default_factory=dict)  # component modalities; settings, statistics and files are by part
    items: Callable[[Batch, str], tuple[Batch, Tensor]] | None = None  # (batch, part) -> a row per value of the part, the sample of each


@dataclass(frozen=True)
class Preprocessor:
    """How the records of one data set become arrays, and arrays views: planned on a sample of the records, fitted on the training part.

    Stored with the packed data, the run and the exported encoder, so that training and inference can't differ.
    """

    modality: Modality
    settings: Options  # image side, channels ..., as plain values; "layout" in run.yaml and config.json
    statistics: Options = field(default_factory=dict)
    files: Files = field(default_factory=dict)

    def decode(self, record: Record) -> dict[str, np.ndarray]:
        """-> arrays by name; raises ValueError or OSError."""
        return self.modality.decode(record, self)

    @property
    def ragged(self) -> tuple[str, ...]:
        """Arrays that may differ in length between samples, along their first axis."""
        return tuple(self.settings.get("ragged", ()))

    def presets(self) -> dict[str, Options]:
        """The default options of every view. Raises UserError for invalid settings: a run folder may be untrusted."""
        make = self.modality.presets
        return {name: {} for name in self.modality.views} if make is None else make(self.settings)

    @property
    def encoder_arguments(self) -> Options:
        return self.modality.encoder_arguments(self.settings)

    def default_encoder(self, needs: frozenset[str]) -> str:
        """The name of the default encoder."""
        return self.modality.encoder_for(self.settings, needs)

    def part(self, name: str) -> Preprocessor:
        """The preprocessor of a part of the modality, for the encoder of the role `name`; itself if there is no such part."""
        modality = self.modality.parts.get(name)
        if modality is None:
            return self
        own = {file.removeprefix(f"{name}."): content for file, content in self.files.items() if file.startswith(f"{name}.")}
        return Preprocessor(modality, self.settings[name], self.statistics.get(name, {}), own)

    def fitted(self, batch: Batch) -> Preprocessor:
        """A copy with statistics of these rows."""
        return replace(self, statistics=self.modality.fit(batch, self))
