"""The vocabulary: what a method, an encoder and a modality say to each other. Imports nothing of ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

Record = dict[str, Any]  # one raw example as a source gives it: a field's value (path, bytes, array ...), "label", "name", a file's "facts"
Batch = dict[str, Tensor]  # one step's raw material on the device; always "index" (B,); "<field>_valid" beside a ragged field
Terms = dict[str, Tensor]  # weighted scalar losses by name; those with a gradient are summed, detached ones are only logged
Survey = Callable[[str, int], tuple[Tensor, Tensor]]  # (a method's function of a view, which of its views) -> index (N,), rows (N,D)
Want = tuple[str, ...]  # what one pass of an encoder is to give: of pooled, tokens, layers, maps
Options = dict[str, Any]  # plain values, as they stand in run.yaml
Files = dict[str, bytes]  # what belongs to a layout and is no plain value, as a tokenizer: contents by file name


class UserError(ValueError):
    """A fault that the user can mend. One line: what came, what is allowed, what to do."""


def reason(error: BaseException) -> str:
    """One line that says why something can't be read."""
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass
class View:
    """What the network is shown, and what it must say about it. Floats stay float32."""

    x: Tensor
    valid: Tensor | None = None  # (B,L) real, not padding
    hidden: Tensor | None = None  # (B,L) where the loss looks
    target: Tensor | None = None  # what was hidden or damaged; may differ from x in length
    target_valid: Tensor | None = None
    where: dict[str, Tensor] | None = None  # geometry: "affine" (B,2,3) view -> source ...


@dataclass
class Features:
    """All that one pass of an encoder can give; only what was wanted is filled."""

    pooled: Tensor | None = None  # (B,D)
    tokens: Tensor | None = None  # (B,N,D)
    valid: Tensor | None = None  # (B,N)
    layers: list[Tensor] | None = None  # (B,N,D) each
    maps: list[Tensor] | None = None  # (B,Di,hi,wi), fine to coarse


@dataclass(frozen=True)
class Facts:
    """What a method may know of the data when it is built."""

    rows: int  # records in the store: "index" is below it
    views: dict[str, View] = field(default_factory=dict)  # one small example of each view that the method reads: its shapes
    statistics: Options = field(default_factory=dict)  # as the modality fitted them
    world_size: int = 1


class Encoder(nn.Module):
    """Turns a view into vectors. `offers` names the abilities beyond pooled vectors."""

    width: int
    offers: frozenset[str] = frozenset()  # of: tokens layers maps causal bidirectional any_size words decoder
    layered: bool = False  # whether its field reads it as a weighted sum of layers

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x -> (B, width), pooled as trained."""
        pooled = self.features(x, valid).pooled
        assert pooled is not None
        return pooled

    def features(self, x: Tensor, valid: Tensor | None = None, want: Want = ("pooled",)) -> Features:
        """x and its validity -> what is wanted, in one pass."""
        raise NotImplementedError

    def embed(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x -> tokens (B,N,D) and their validity, without positions. Only with "tokens"."""
        raise NotImplementedError

    def context(
        self, tokens: Tensor, valid: Tensor | None = None, at: Tensor | None = None, causal: bool = False, want: Want = ("tokens",)
    ) -> Features:
        """Adds positions, then attends; `at` (B,K) says where kept tokens sat. Only with "tokens"."""
        raise NotImplementedError

    def tokens_at(self, x: Tensor, valid: Tensor | None, at: Tensor) -> Tensor:
        """x -> the tokens (B,K,D) of the places `at` (B,K), and no others. Only with "tokens"."""
        tokens = self.features(x, valid, want=("tokens",)).tokens
        assert tokens is not None
        return tokens.gather(1, at.unsqueeze(2).expand(-1, -1, tokens.shape[2]))

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """How the tokens of x lie: (h,w), (t,) or (t,h,w). Only with "tokens"."""
        raise NotImplementedError

    def words(self) -> Any:
        """A module that scores the vocabulary: `parts(tokens (...,D))` -> (...,E), weight (V,E), bias (V,) or None. Only with "words"."""
        raise NotImplementedError

    def shallower(self, share: float) -> Encoder:
        """A new one of its kind, as wide, with this share of its blocks and the same embedding of tokens. Only with "words"."""
        raise NotImplementedError

    @property
    def start(self) -> int:
        """The token that decoding begins with. Only with "decoder"."""
        raise NotImplementedError

    def decode(self, ids: Tensor, memory: Tensor, memory_valid: Tensor | None = None) -> Tensor:
        """ids (B,T), each seeing those before it and the memory (B,N,D) -> (B,T,D). Only with "decoder"."""
        raise NotImplementedError


class Method(nn.Module):
    """A self-supervised objective. Concrete methods are final: one paper, one file, class depth 1.

    `forward` changes nothing that outlives the step but BatchNorm statistics; what a teacher or a queue needs is appended to
    `pending`, one entry a micro-batch, and read by `after_step`, after which the list is emptied: any loop that calls
    `forward`, `backward`, `before_step`, `optimizer.step` and `after_step`, in that order, trains the method.
    A method that defines the pair `project` and `objective`, with forward = objective(project(views)),
    can be trained with cached gradients.
    """

    views: tuple[str, ...]  # in the order that forward reads them
    needs: frozenset[str] = frozenset()  # what the encoder must offer
    whole: str = "whole"  # the view in which the encoder is used and exported
    groups: dict[str, dict[str, Any]] = {}  # optimizer overrides by parameter prefix
    find_unused_parameters: bool = False  # whether a step may leave parameters without a gradient
    padded: bool = True  # whether padded views may come: what is not valid must change no loss

    encoder: Encoder

    def __init_subclass__(cls, **options: Any) -> None:
        """A class without a docstring takes its module's; `after_step` empties `pending` once it has run."""
        super().__init_subclass__(**options)
        cls.__doc__ = cls.__doc__ or getattr(sys.modules.get(cls.__module__), "__doc__", None)
        if "after_step" in vars(cls):
            cls.after_step = _emptying_pending(cls.after_step)  # type: ignore[method-assign, assignment]

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Any] = []

    def forward(self, views: list[View], progress: float) -> Terms:
        """The weighted terms of a batch, in the order of `views`; progress: share of the training that is done, from 0 to 1."""
        raise NotImplementedError

    def validate(self, views: list[View], progress: float) -> Terms:
        """The terms on views that are not trained on: `forward`, of which nothing stays in `pending`."""
        before = len(self.pending)
        try:
            return self(views, progress)
        finally:
            del self.pending[before:]

    @property
    def kept(self) -> Encoder:
        """What is evaluated and exported."""
        return self.encoder

    def publish(self) -> Any:
        """A model of a library, with heads, that predicts what was learned to predict (it has `save_pretrained`); None without one."""

    def before_epoch(self, epoch: int, survey: Survey) -> None:
        """On entering an epoch, once: what it learns of the samples is a persistent buffer of `facts.rows`."""

    def before_step(self, progress: float) -> None:
        """After backward, before the optimizer."""

    def after_step(self, progress: float) -> None:
        """After the optimizer: teachers, queues, clamps."""
        self.pending.clear()


def _emptying_pending(after_step: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
    @functools.wraps(after_step)
    def wrapped(self: Method, progress: float) -> None:
        after_step(self, progress)
        self.pending.clear()

    return wrapped


@dataclass(frozen=True)
class Modality:
    """One kind of data: how raw records become arrays, and arrays become views.

    `layout` is what was decided for a data set (picture side, channels ...), as plain values: it is stored with the
    packed data, the run and the exported encoder, so that training and use cannot differ.
    """

    name: str
    noun: str  # "pictures": for messages
    fields: dict[str, tuple[str, ...]]  # raw fields and the column names they usually have
    suffixes: frozenset[str]  # of files that hold one record
    plan: Callable[[list[Record], Options], Options]  # (a sample of the records, wishes) -> layout
    decode: Callable[[Record, Options], dict[str, np.ndarray]]  # (record, layout) -> fixed-shape arrays; raises ValueError or OSError
    fit: Callable[[Batch, Options], Options]  # (a sample of decoded rows, layout) -> statistics
    presets: Callable[[Options], dict[str, Options]]  # layout -> the options of every view, with defaults
    check: Callable[[Options], str | None]  # a view's options -> what is wrong with them, naming the option first
    views: dict[str, Callable[..., View]]  # name -> fn(batch, draws, options, statistics)
    raw: Callable[[Batch, Options], Any]  # (batch, layout) -> (B,D) float or a sparse matrix, the raw baseline of an evaluation
    picture: Callable[[View, Options, Options], np.ndarray]  # (view, options, statistics) -> (B,H,W,3) uint8
    encoder_for: Callable[[Options, frozenset[str]], str]  # (layout, needs) -> the default encoder's name
    input: Callable[[Options], Options]  # layout -> what an encoder must know of its input: shape, channels ...
    preprocessing: Callable[[Options, Options], Options]  # (layout, statistics) -> the `whole` view in words that others read
    method: str = "simclr"  # what is trained with if nothing else is said ...
    batch: int = 512  # ... and in steps of so many samples at most
    knobs: dict[str, Any] = field(default_factory=dict)  # what a user may wish of the layout: name -> type, with its range
    doubt: Callable[[tuple[int, ...], bool], str | None] = lambda shape, tensor: None  # (of an array, is it torch's) -> are rows no records
    adapt: Callable[[list[Record], Options], Options] = lambda records, layout: layout  # (of new data, layout) -> the one to read it by
    runs: Callable[[list[Options]], tuple[str, int] | None] = lambda views: None  # a ragged field read as one stream, so much a sample
    learn: Callable[[Iterable[Record], Options], tuple[Options, Files]] | None = None  # what decoding needs first (a tokenizer)
    adopt: Callable[[Options, Files], None] = lambda layout, files: None  # makes a layout's files known to decode and views
    kept: Callable[[Options], Files] = lambda layout: {}  # the files of a layout that is known
    files: tuple[str, ...] = ()  # their names
    expects: Callable[[str], Options] = lambda encoder: {}  # wishes that an encoder's name brings along
    captions: Callable[[View, Options], list[str]] | None = None  # what names a sample better than its place in the data
