"""A self-supervised objective."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from untaught.core.encoder import Encoder
from untaught.core.errors import UserError
from untaught.core.modality import Options
from untaught.core.view import View

T = TypeVar("T")
Terms = dict[str, Tensor]  # weighted scalar losses by name; those with a gradient are summed, detached ones are only logged
ExtractFeatures = Callable[
    [str, int], tuple[Tensor, Tensor]
]  # (name of a method's function of a view, index of the view) -> index (N,), rows (N,D)


@dataclass(frozen=True)
class FrozenEncoder:
    """A trained encoder that a method only reads: a teacher that does not learn."""

    name: str
    encoder: Encoder
    adapt: Callable[[View], View] = lambda view: view  # a view of the data as this encoder expects it: its own size and normalisation
    digest: str = ""  # of its weights


@dataclass(frozen=True)
class Facts:
    """What a method's constructor knows about the data."""

    rows: int  # number of records in the store; 0 <= "index" < rows
    views: dict[str, View] = field(default_factory=dict)  # a small example of each view that the method reads, for shapes
    statistics: Options = field(default_factory=dict)  # fitted by the modality
    world_size: int = 1
    teachers: tuple[FrozenEncoder, ...] = ()  # those that a method with `taught` names by its knob `teachers`
    seed: int = 0  # of the run, for what a method draws itself


@dataclass(frozen=True)
class Role:
    """One of a method's encoders, named by the constructor parameter."""

    name: str
    needs: frozenset[str]  # abilities that the encoder must offer
    reads: tuple[int, ...]  # indices of the views that it reads; () for all
    export_view: str  # the view in which it is used and exported

    def of(self, views: Sequence[T]) -> list[T]:
        """The items for the views that this role reads, from a list with one item per view."""
        return [views[place] for place in self.reads] if self.reads else list(views)


class Method(nn.Module):
    """A self-supervised objective. Concrete methods are final: one paper, one file, class depth 1.

    `forward` changes no state that outlives the step, except BatchNorm statistics. Data for teachers and queues is appended to
    `pending`, one entry per micro-batch, and read by `after_step`, after which the list is cleared. Any loop that calls
    `forward`, `backward`, `before_step`, `optimizer.step` and `after_step`, in this order, trains the method.
    Padding of a view (where `valid` is False) does not affect the loss or gradients.
    A method that defines `project` and `objective`, with forward = objective(project(views)), supports gradient caching.
    Each constructor parameter annotated Encoder is a role, stored as an attribute of that name. A method with several roles gives `needs`,
    `reads` and `export_view` by role.
    An adversarial method names its `players` and defines `turn` instead of `forward`: in each step the players take turns, each
    minimising its own terms over its own parameters, so that the next player sees the updated ones.
    """

    views: tuple[str, ...]  # in the order of forward's argument
    multicrop: str = ""  # a view at the end of `views`, of which any number may be requested
    needs: frozenset[str] | dict[str, frozenset[str]] = frozenset()  # abilities that the encoder must offer
    reads: dict[str, tuple[int, ...]] = {}  # with several roles: role -> indices of the `views` that its encoder reads
    export_view: str | dict[str, str] = "whole"  # the view in which the encoder is used and exported
    groups: dict[str, dict[str, Any]] = {}  # optimizer overrides by parameter prefix
    players: dict[str, tuple[str, ...]] = {}  # adversaries in turn order: player -> its modules and parameters
    paper: Options = {}  # the paper's training settings, as knobs: of the loop, and `encoder.KNOB` for vision transformers
    short: Options = {}  # settings for short runs, as knobs; defaults of the constructor are the paper's
    view_presets: dict[str, Options] = {}  # the paper's view options, as knobs, by the modality's preset: {"photo": {"global.blur": 1.0}}
    find_unused_parameters: bool = False  # whether a step may leave parameters without a gradient
    chance: float = 0.0  # of a pretext task with a term "accuracy": what guessing reaches; its terms are then reported on held-out samples
    held_out: bool = False  # whether its terms measure quality (a density's bits per dimension), and are reported on held-out samples
    alone: bool = True  # whether it trains an encoder without another method beside it
    taught: bool = False  # whether it has a knob `teachers`, names of trained encoders, and reads them as `facts.teachers`
    answers: str = ""  # what `solve` returns, for messages: "coloured images"; "" for a method without `solve`
    valuewise: bool = False  # whether answers and samples are drawn value by value, which takes long for large samples
    generates: str = ""  # what `sample` returns, for messages: "images"; "" for a method without `sample`

    encoder: Encoder  # if the method has a single role

    def __init_subclass__(cls, **options: Any) -> None:
        """A class without a docstring gets its module's; `after_step` clears `pending` when it has run."""
        super().__init_subclass__(**options)
        cls.__doc__ = cls.__doc__ or getattr(sys.modules.get(cls.__module__), "__doc__", None)
        if "after_step" in vars(cls):
            cls.after_step = _emptying_pending(cls.after_step)  # type: ignore[method-assign, assignment]

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Any] = []

    def forward(self, views: list[View], progress: float) -> Terms:
        """The weighted terms of a batch; views in the order of `self.views`; progress: share of training completed, in [0, 1].

        With players, the terms of all of them, each with gradients only for its player's parameters.
        """
        if not self.players:
            raise NotImplementedError
        terms: Terms = {}
        for player in self.players:
            with self.only(player):
                terms |= self.turn(player, views, progress)
        return terms

    def turn(self, player: str, views: list[View], progress: float) -> Terms:
        """The terms that this player minimises. Called within `only(player)`: the other players' parameters need no gradients."""
        raise NotImplementedError

    def player_of(self, name: str) -> str:
        """The player that owns the named parameter; "" without players. Raises UserError unless exactly one does."""
        owners = [player for player, parts in self.players.items() if any(f"{name}.".startswith(f"{part}.") for part in parts)]
        if self.players and len(owners) != 1:
            belongs = f"belongs to {' and '.join(owners)}" if owners else "belongs to no player"
            raise UserError(
                f"{type(self).__name__}: the parameter {name} {belongs}; name it under exactly one of {', '.join(self.players)}"
            )
        return owners[0] if owners else ""

    @contextmanager
    def only(self, player: str) -> Iterator[None]:
        """Context in which only the player's parameters require gradients."""
        others = [p for name, p in self.named_parameters() if p.requires_grad and self.player_of(name) != player]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def validate(self, views: list[View], progress: float, player: str = "") -> Terms:
        """The terms on held-out views, of one player if given; `pending` is left unchanged."""
        before = len(self.pending)
        try:
            return self.turn(player, views, progress) if player else self(views, progress)
        finally:
            del self.pending[before:]

    @classmethod
    def roles(cls) -> dict[str, Role]:
        """Its encoders by name; most methods have one, "encoder"."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        written = lambda annotation: str(annotation).strip("'\"").rpartition(".")[2]  # noqa: E731  # a string with `from __future__ import annotations`
        names = [p.name for p in parameters if p.annotation is Encoder or written(p.annotation) == Encoder.__name__]
        needs, export_view = cls.needs, cls.export_view
        return {
            name: Role(
                name,
                needs[name] if isinstance(needs, dict) else needs,
                cls.reads.get(name, ()),
                export_view[name] if isinstance(export_view, dict) else export_view,
            )
            for name in names or ["encoder"]
        }

    def exported(self) -> dict[str, Encoder]:
        """The encoders that are evaluated and exported, by role."""
        return {role: getattr(self, role) for role in self.roles()}

    def shared_space(self) -> dict[str, nn.Module]:
        """By role, the linear projection (no bias) of its encoder's vectors into a space shared by the roles; {} if there is none."""
        return {}

    def hf_model(self) -> Any:
        """The pretrained model with its heads as a transformers model (with `save_pretrained`); None if there is none."""

    def solve(self, views: list[View]) -> Tensor:
        """Its answer to the pretext task, in the form of the first view's target: numbers in the target's units, class probabilities
        (...,K) for classes; in the form of `x` for a view without a target. In eval mode and without gradients.
        """
        raise NotImplementedError

    def given(self, view: View) -> View:
        """The first view as `solve` reads it, for pictures: without what it ignores, such as the half of an image that it completes."""
        return view

    def sample(self, count: int, seed: int) -> Tensor:
        """Generates (count, ...) samples in the form of the first view's `x`. In eval mode and without gradients."""
        raise NotImplementedError

    def prototype_scores(self, view: View) -> Tensor:
        """The similarity of each sample to each of the method's prototypes (B,K), in eval mode. view: the exported one."""
        raise NotImplementedError

    @classmethod
    def wants_features(cls, views: Sequence[str]) -> bool:
        """Whether `before_epoch` asks for features of all samples, with these views; streamed data can't offer them."""
        return cls.before_epoch is not Method.before_epoch

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        """Called once at the start of an epoch; store per-sample results in a persistent buffer of `facts.rows` rows."""

    def before_step(self, progress: float) -> None:
        """Called after backward, before the optimizer step; with players, in every turn."""

    def after_step(self, progress: float) -> None:
        """Called after the optimizer step: updates of teachers and queues, clamps."""
        self.pending.clear()


def _emptying_pending(after_step: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
    @functools.wraps(after_step)
    def wrapped(self: Method, progress: float) -> None:
        after_step(self, progress)
        self.pending.clear()

    return wrapped
