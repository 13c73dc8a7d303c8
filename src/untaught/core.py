"""The vocabulary: what a method, an encoder and a modality say to each other. Imports nothing of ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Record = dict[str, Any]  # one raw example as a source gives it: a field's value (path, bytes, array ...), "label", "name", a file's "facts"
Batch = dict[str, Tensor]  # one step's raw material on the device; always "index" (B,); "<field>_valid" beside a ragged field
Terms = dict[str, Tensor]  # weighted scalar losses by name; those with a gradient are summed, detached ones are only logged
ExtractFeatures = Callable[[str, int], tuple[Tensor, Tensor]]  # (function of a view, number of the view) -> index (N,), rows (N,D)
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
    """One view of a batch: input, validity, mask, target, geometry. Every tensor has the samples on its first axis; floats stay float32."""

    x: Any  # a Tensor, or a dict[str, Tensor] where a sample has several inputs
    valid: Any = None  # (B,L) bool along axis 1 of x, False for padding; a dict with one for each ragged input where x is a dict
    mask: Tensor | None = None  # (B,N) bool, tokens that are hidden from the encoder or scored by the loss
    target: Tensor | None = None  # what is to be predicted; may differ from x in length
    target_valid: Tensor | None = None
    meta: dict[str, Tensor] | None = None  # geometry and the like: "affine" (B,2,3) view -> source, "index" (B,) ...

    def __len__(self) -> int:
        """The number of samples."""
        return len(next(iter(self.x.values())) if isinstance(self.x, dict) else self.x)

    def __getitem__(self, rows: slice | Tensor) -> View:
        """The view of some samples: a slice, or an index tensor."""
        return self._map(lambda value: value[rows])

    def to(self, device: Any) -> View:
        """The view on a device."""
        return self._map(lambda value: value.to(device, non_blocking=True))

    @property
    def nbytes(self) -> int:
        """Of the inputs."""
        return sum(value.numel() * value.element_size() for value in _parts(self.x).values())

    def map_inputs(self, change: Callable[[Tensor], Tensor]) -> View:
        """The same view with `change` applied to x, or to each of its inputs."""
        return replace(self, x={key: change(value) for key, value in self.x.items()} if isinstance(self.x, dict) else change(self.x))

    def _map(self, change: Callable[[Tensor], Tensor]) -> View:
        def each(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: change(part) for key, part in value.items()}
            return None if value is None else change(value)

        return View(**{f.name: each(getattr(self, f.name)) for f in fields(View)})

    @staticmethod
    def cat(views: Sequence[View]) -> View:
        """The samples of all views, in order. Ragged inputs, masks and targets are padded to the longest, `valid` tells; a field that one
        of the views lacks is left out.

        Raises ValueError where shapes differ in more than the length of a ragged input.
        """
        inputs = [_parts(view.x) for view in views]
        valids = [_parts(view.valid) for view in views]
        x: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        for key in inputs[0]:
            values, known = [one[key] for one in inputs], [one.get(key) for one in valids]
            ragged = any(each is not None for each in known)
            x[key] = _cat(values, ragged)
            if ragged:
                told = [v.new_ones(v.shape[:2], dtype=torch.bool) if k is None else k for v, k in zip(values, known, strict=True)]
                valid[key] = _cat(told, True)
        meta = {key: [(view.meta or {}).get(key) for view in views] for key in views[0].meta or {}}
        own = {name: [getattr(view, name) for view in views] for name in ("mask", "target", "target_valid")}
        joint = {name: _cat(parts, bool(valid)) for name, parts in own.items() if all(part is not None for part in parts)}
        single = not isinstance(views[0].x, dict)
        return View(
            x[""] if single else x,
            valid.get("") if single else valid or None,
            **joint,
            meta={key: _cat(parts, False) for key, parts in meta.items() if all(part is not None for part in parts)} or None,
        )


def _parts(value: Any) -> dict[str, Tensor]:
    """A tensor or a dict of them -> by name; "" for a single one."""
    return value if isinstance(value, dict) else {} if value is None else {"": value}


def _cat(values: list[Any], ragged: bool) -> Tensor:
    """Joins on axis 0; ragged ones are padded with 0 along axis 1."""
    if ragged and values[0].ndim > 1 and len({value.shape[1] for value in values}) > 1:
        longest = max(value.shape[1] for value in values)
        values = [torch.cat([v, v.new_zeros(len(v), longest - v.shape[1], *v.shape[2:])], 1) if v.shape[1] < longest else v for v in values]
    if len({value.shape[1:] for value in values}) > 1:
        raise ValueError(f"views of shapes {', '.join(str(tuple(value.shape[1:])) for value in values)} a sample can't be joined")
    return torch.cat(values)


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

    def forward(self, view: View) -> Tensor:
        """-> (B, width), pooled as trained."""
        pooled = self.features(view).pooled
        assert pooled is not None
        return pooled

    def features(self, view: View, want: Want = ("pooled",)) -> Features:
        """What is wanted, in one pass; padding of the view changes none of it."""
        raise NotImplementedError

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        """-> tokens (B,N,D) and their validity (B,N), without positions. Only with "tokens"."""
        raise NotImplementedError

    def context(
        self, tokens: Tensor, valid: Tensor | None = None, at: Tensor | None = None, causal: bool = False, want: Want = ("tokens",)
    ) -> Features:
        """Adds positions, then attends to valid tokens; `at` (B,K) are the places of the tokens in the view. Only with "tokens"."""
        raise NotImplementedError

    def tokens_at(self, view: View, at: Tensor) -> Tensor:
        """-> the tokens (B,K,D) of the places `at` (B,K), and no others. Only with "tokens"."""
        tokens = self.features(view, want=("tokens",)).tokens
        assert tokens is not None
        return tokens.gather(1, at.unsqueeze(2).expand(-1, -1, tokens.shape[2]))

    def grid(self, view: View) -> tuple[int, ...]:
        """How the tokens of a view lie: (h,w), (t,) or (t,h,w). Only with "tokens"."""
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
    Padding of a view (where `valid` is False) changes neither loss nor gradients.
    A method that defines the pair `project` and `objective`, with forward = objective(project(views)),
    can be trained with cached gradients.
    An adversarial method names its `players` and defines `turn` in place of `forward`: in each step every player in turn is
    given its terms and moves its own parameters, so that the next one sees them moved.
    """

    views: tuple[str, ...]  # in the order that forward reads them
    needs: frozenset[str] = frozenset()  # what the encoder must offer
    whole: str = "whole"  # the view in which the encoder is used and exported
    groups: dict[str, dict[str, Any]] = {}  # optimizer overrides by parameter prefix
    players: dict[str, tuple[str, ...]] = {}  # adversaries in the order of their turns: player -> its modules and parameters
    training_defaults: Options = {}  # options of the training loop whose default is the paper's, not the loop's
    find_unused_parameters: bool = False  # whether a step may leave parameters without a gradient

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
        """The weighted terms of a batch, in the order of `views`; progress: share of the training that is done, from 0 to 1.

        Those of all players where there are players, each with gradients for its player's parameters alone.
        """
        if not self.players:
            raise NotImplementedError
        terms: Terms = {}
        for player in self.players:
            with self.only(player):
                terms |= self.turn(player, views, progress)
        return terms

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        """The terms that this player minimises. Called within `only(player)`: the other players' parameters are constants."""
        raise NotImplementedError

    def player_of(self, name: str) -> str:
        """The player that a parameter belongs to, by its name; "" where there are no players. Raises UserError unless it is exactly one."""
        owners = [player for player, parts in self.players.items() if any(f"{name}.".startswith(f"{part}.") for part in parts)]
        if self.players and len(owners) != 1:
            belongs = f"belongs to {' and '.join(owners)}" if owners else "belongs to no player"
            raise UserError(
                f"{type(self).__name__}: the parameter {name} {belongs}; name it under exactly one of {', '.join(self.players)}"
            )
        return owners[0] if owners else ""

    @contextmanager
    def only(self, player: str) -> Iterator[None]:
        """Within it, no parameters require gradients but the player's."""
        others = [p for name, p in self.named_parameters() if p.requires_grad and self.player_of(name) != player]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def validate(self, views: list[View], progress: float, player: str = "") -> Terms:
        """The terms on views that are not trained on, of one player where it is named; nothing stays in `pending`."""
        before = len(self.pending)
        try:
            return self.turn(player, views, progress) if player else self(views, progress)
        finally:
            del self.pending[before:]

    @property
    def kept(self) -> Encoder:
        """What is evaluated and exported."""
        return self.encoder

    def hf_model(self) -> Any:
        """A model of a library, with heads, that predicts what was learned to predict (it has `save_pretrained`); None without one."""

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        """On entering an epoch, once: what it learns of the samples is a persistent buffer of `facts.rows`."""

    def before_step(self, progress: float) -> None:
        """After backward, before the optimizer; with players, in every turn."""

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

    `layout` is what was decided for a data set (image side, channels ...), as plain values: it is stored with the
    packed data, the run and the exported encoder, so that training and use cannot differ.
    """

    name: str
    noun: str  # "images": for messages
    fields: dict[str, tuple[str, ...]]  # raw fields and the column names they usually have
    suffixes: frozenset[str]  # of files that hold one record
    plan: Callable[[list[Record], Options], Options]  # (a sample of the records, wishes) -> layout
    decode: Callable[[Record, Options], dict[str, np.ndarray]]  # (record, layout) -> fixed-shape arrays; raises ValueError or OSError
    fit: Callable[[Batch, Options], Options]  # (a sample of decoded rows, layout) -> statistics
    presets: Callable[[Options], dict[str, Options]]  # layout -> the options of every view, with defaults
    check: Callable[[Options], str | None]  # a view's options -> what is wrong with them, naming the option first
    views: dict[str, Callable[..., View]]  # name -> fn(batch, draws, options, statistics)
    raw: Callable[[Batch, Options], Any]  # (batch, layout) -> (B,D) float or a sparse matrix, the raw baseline of an evaluation
    render: Callable[[View, Options, Options], np.ndarray]  # (view, options, statistics) -> (B,H,W,3) uint8
    encoder_for: Callable[[Options, frozenset[str]], str]  # (layout, needs) -> the default encoder's name
    input: Callable[[Options], Options]  # layout -> what an encoder must know of its input: shape, channels ...
    preprocessing: Callable[[Options, Options], Options]  # (layout, statistics) -> the `whole` view in words that others read
    method: str = "simclr"  # what is trained with if nothing else is said ...
    batch: int = 512  # ... and in steps of so many samples at most
    knobs: dict[str, Any] = field(default_factory=dict)  # what a user may wish of the layout: name -> type, with its range
    numbered: bool = False  # whether a record of the one field may lie in numbered columns of a table: t0, t1, ...
    doubt: Callable[[tuple[int, ...], bool], str | None] = lambda shape, tensor: None  # (of an array, is it torch's) -> are rows no records
    adapt: Callable[[list[Record], Options], Options] = lambda records, layout: layout  # (of new data, layout) -> the one to read it by
    runs: Callable[[list[Options]], tuple[str, int] | None] = lambda views: None  # a ragged field read as one stream, so much a sample
    learn: Callable[[Iterable[Record], Options], tuple[Options, Files]] | None = None  # what decoding needs first (a tokenizer)
    adopt: Callable[[Options, Files], None] = lambda layout, files: None  # makes a layout's files known to decode and views
    kept: Callable[[Options], Files] = lambda layout: {}  # the files of a layout that is known
    files: tuple[str, ...] = ()  # their names
    expects: Callable[[str], Options] = lambda encoder: {}  # wishes that an encoder's name brings along
    targets: dict[str, Any] = field(default_factory=dict)  # what tasks can learn of its records beside labels: data.target.Target by name
    paired: Any = None  # the Target whose files lie beside those of records
    captions: Callable[[View, Options], list[str]] | None = None  # what names a sample better than its place in the data
