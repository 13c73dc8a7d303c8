"""From a batch to a method's views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from untaught.config.overrides import parse, unknown
from untaught.core import Batch, Encoder, Method, Modality, Options, Preprocessor, Role, UserError, View
from untaught.methods.functional import Function
from untaught.ops.counter_rng import CounterRNG

T = TypeVar("T")


def view_names(method: type[Method], modality: Modality, wanted: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The method's views, or the requested ones, each offered by the modality: as many, but any number of its small crops (`multicrop`),
    and for a function any number."""
    names = method.views
    if wanted is not None:
        if not isinstance(wanted, str | tuple | list):
            raise UserError(f"views={wanted}: must be names separated by commas")
        names = tuple(wanted.split(",")) if isinstance(wanted, str) else tuple(wanted)
        fixed = lambda views: len([name for name in views if name != method.multicrop])  # noqa: E731
        if (fixed(names) != fixed(method.views) or not names) and not issubclass(method, Function):
            raise UserError(
                f"views={','.join(names)}: {method.__name__} takes {len(method.views)} views, by default {','.join(method.views)}"
            )
    for name in names:
        if name not in modality.views:
            raise UserError(f"{method.__name__} reads the view {name}; {modality.name} offers {', '.join(modality.views)}")
    return names


def view_options(names: tuple[str, ...], prep: Preprocessor, overrides: Options, method: type[Method] | None = None) -> list[Options]:
    """The options of each view: the modality's presets, those of the `method` for the preset in use, then `overrides`: NAME.option, or
    viewN.option (N from 0)."""
    presets = prep.presets()
    own = method.view_presets.get(str(prep.settings.get("preset")), {}) if method else {}
    overrides = {key: value for key, value in own.items() if key.rpartition(".")[0] in names} | overrides
    result = [dict(presets[name]) for name in names]
    targets = {name: [i for i, n in enumerate(names) if n == name] for name in names}
    targets |= {f"view{i}": [i] for i in range(len(names))}
    for key, value in overrides.items():
        place, _, option = key.rpartition(".") if "." in key else (key, "", "")
        if place not in targets:
            raise unknown("view", place, targets)
        for i in targets[place]:
            if option not in result[i]:
                raise unknown(f"option of the view {names[i]}", option, result[i])
            result[i][option] = parse(key, value, _kind(result[i][option]))
    for name, options in zip(names, result, strict=True):
        if fault := prep.modality.check(options):
            raise UserError(f"{name}.{fault}")
    return result


def _kind(default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple[tuple(type(part) for part in default)]  # type: ignore[misc]
    return type(default)


def used_view(prep: Preprocessor, name: str) -> Views:
    """The deterministic view that an encoder is evaluated and exported with, with preset options."""
    return Views((name,), prep, [prep.presets()[name]], seed=0)


def _read(role: Role | None, each: Iterable[T]) -> list[T]:
    """The items of the views that a role reads; all if None."""
    return list(each) if role is None else role.of(list(each))


def convolves(network: nn.Module) -> bool:
    """Whether the network has two-dimensional convolutions, which are faster in channels_last."""
    return any(p.ndim == 4 for p in network.parameters())


class Views:
    """Makes views batched, on the batch's device; randomness depends only on (seed, epoch, index, position)."""

    def __init__(self, names: tuple[str, ...], prep: Preprocessor, options: list[Options], seed: int) -> None:
        self.names, self.prep, self.options, self.seed = names, prep, options, seed
        self.channels_last = False
        self.adjusted: dict[str, str] = {}  # options changed to fit the encoder, and why

    def fit_encoder(self, encoder: Encoder, role: Role | None = None) -> None:
        """Sets options that depend on the encoder: its patch size or stride, and the view sizes that follow from them.

        role: the encoder's role; only the views that it reads are changed, all if None.
        """
        patch = getattr(encoder, "patch", 0)
        for name, options in _read(role, zip(self.names, self.options, strict=True)):
            if options.get("patch") == 0:
                options["patch"] = patch or encoder.stride
            if options.get("window") == 0:
                options["window"] = getattr(encoder, "window", 0)
            if options.get("stride") == 0:
                options["stride"] = patch or encoder.stride
            changes = self.prep.modality.suit(options, patch) if patch and "any_size" in encoder.offers else {}
            for key, value in changes.items():
                self.adjusted[f"{name}.{key}={value}"] = f"not {options[key]}: a multiple of the encoder's patch of {patch}"
            options.update(changes)

    def check_encoder(self, encoder: Encoder, examples: list[View], whole: View, role: Role | None = None) -> None:
        """Raises UserError if the encoder can't take the shape of a view. examples: one per view; whole: the view that the encoder is
        exported with, for the same samples."""
        for name, view in _read(role, zip(self.names, [view.apart() for view in examples], strict=True)):
            if view.shapes == whole.shapes:
                continue
            training = encoder.training
            try:
                with torch.no_grad():
                    encoder.eval()(view)
            except (RuntimeError, AssertionError, ValueError) as error:
                raise UserError(
                    f"the encoder can't take the view {name} of shape {view.shapes} (the exported view has {whole.shapes}); choose an "
                    f"encoder that offers any_size (untaught encoders), or give {name} the size of the exported view"
                ) from error
            finally:
                encoder.train(training)

    def unaugmented(self, seed: int) -> Views:
        """These views without random augmentation. seed: of what is still drawn, such as masks."""
        still = self.prep.modality.unaugmented
        options = [{key: still.get(key, value) for key, value in own.items()} for own in self.options]
        return Views(self.names, self.prep, options, seed)

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        return [self.one(batch, epoch, position) for position in range(len(self.names))]

    @torch.no_grad()
    def one(self, batch: Batch, epoch: int, position: int) -> View:
        """The view at `position`, with meta["index"] (B,)."""
        name, options = self.names[position], self.options[position]
        turn = epoch % versions if (versions := options.get("versions")) else epoch  # a view may cycle through a fixed number of versions
        view = self.prep.modality.views[name](batch, CounterRNG(self.seed, turn, batch["index"], position), options, self.prep)
        if self.channels_last:
            view = view.map_inputs(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
        view.meta = {**(view.meta or {}), "index": batch["index"]}
        return view
