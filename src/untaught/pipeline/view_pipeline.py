"""From a batch to the views that a method reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from untaught.config.overrides import parse, unknown
from untaught.core import Batch, Encoder, Method, Modality, Options, UserError, View
from untaught.methods.functional import Function
from untaught.ops.counter_rng import CounterRNG


def view_names(method: type[Method], modality: Modality, wanted: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The method's views, or the wanted ones, which must be as many (a function takes any number); each must be offered by the modality."""
    names = method.views
    if wanted is not None:
        if not isinstance(wanted, str | tuple | list):
            raise UserError(f"views={wanted}: names with commas between them are needed")
        names = tuple(wanted.split(",")) if isinstance(wanted, str) else tuple(wanted)
        if len(names) != len(method.views) and not issubclass(method, Function):
            raise UserError(
                f"views={','.join(names)}: {method.__name__} reads {len(method.views)} views, by default {','.join(method.views)}"
            )
    for name in names:
        if name not in modality.views:
            raise UserError(f"{method.__name__} reads the view {name}; {modality.name} offers {', '.join(modality.views)}")
    return names


def view_options(names: tuple[str, ...], modality: Modality, layout: Options, overrides: Options) -> list[Options]:
    """The options of each view: the modality's presets, then NAME.option, then viewN.option (from 0) of the overrides."""
    presets = modality.presets(layout)
    result = [dict(presets[name]) for name in names]
    targets = {name: [i for i, n in enumerate(names) if n == name] for name in names}
    targets |= {f"view{i}": [i] for i in range(len(names))}
    for key, value in overrides.items():
        place, _, option = key.partition(".")
        if place not in targets:
            raise unknown("view", place, targets)
        for i in targets[place]:
            if option not in result[i]:
                raise unknown(f"option of the view {names[i]}", option, result[i])
            result[i][option] = parse(key, value, _kind(result[i][option]))
    for name, options in zip(names, result, strict=True):
        if fault := modality.check(options):
            raise UserError(f"{name}.{fault}")
    return result


def _kind(default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple[tuple(type(part) for part in default)]  # type: ignore[misc]
    return type(default)


def used_view(modality: Modality, layout: Options, name: str, statistics: Options) -> Views:
    """The one view in which an encoder is used, with its preset options: nothing in it is random."""
    return Views((name,), modality, [modality.presets(layout)[name]], statistics, seed=0)


def convolves(network: nn.Module) -> bool:
    """Whether the network has two-dimensional convolutions, which are faster in channels_last."""
    return any(p.ndim == 4 for p in network.parameters())


class Views:
    """Makes the views of a batch, whole batch at once, on the batch's device; randomness comes from (seed, epoch, index, position)."""

    def __init__(self, names: tuple[str, ...], modality: Modality, options: list[Options], statistics: Options, seed: int) -> None:
        self.names, self.modality, self.options, self.statistics, self.seed = names, modality, options, statistics, seed
        self.channels_last = False
        self.told: dict[str, str] = {}  # what was changed to fit the encoder, and why

    def fit_encoder(self, encoder: Encoder) -> None:
        """Fills in what a view must know of the encoder: the side of a token, of which its own side is a multiple."""
        patch = getattr(encoder, "patch", 0)
        for name, options in zip(self.names, self.options, strict=True):
            if options.get("patch") == 0:
                options["patch"] = patch
            if patch and "any_size" in encoder.offers and (size := options.get("size", 0)) % patch:
                options["size"] = max(1, round(size / patch)) * patch
                self.told[f"{name}.size={options['size']}"] = f"not {size}: a multiple of the encoder's patch of {patch}"

    def check_encoder(self, encoder: Encoder, examples: list[View], whole: Options) -> None:
        """A UserError says which view has a side that the encoder can't take. examples: a view each, of a few samples."""
        for name, options, view in zip(self.names, self.options, examples, strict=True):
            if options.get("size") == whole.get("size"):
                continue
            training = encoder.training
            try:
                with torch.no_grad():
                    encoder.eval()(view)
            except (RuntimeError, AssertionError, ValueError) as error:
                raise UserError(
                    f"the encoder can't take the view {name}, whose size is {options['size']} (whole has {whole['size']}); conv_small, "
                    f"vit_mini and timm's convolutional networks and vit_* take more than one size, others {name}.size={whole['size']}"
                ) from error
            finally:
                encoder.train(training)

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        return [self.one(batch, epoch, position) for position in range(len(self.names))]

    @torch.no_grad()
    def one(self, batch: Batch, epoch: int, position: int) -> View:
        """The view at `position`, with meta["index"] (B,)."""
        name, options = self.names[position], self.options[position]
        turn = epoch % versions if (versions := options.get("versions")) else epoch  # a view may have so many versions, by turns
        view = self.modality.views[name](batch, CounterRNG(self.seed, turn, batch["index"], position), options, self.statistics)
        if self.channels_last:
            view = view.map_inputs(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
        view.meta = {**(view.meta or {}), "index": batch["index"]}
        return view
