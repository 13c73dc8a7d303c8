"""How each encoder of a method is initialised: by name and knobs, as the user's own module, or from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from untaught.config.overrides import parse, unknown
from untaught.config.registry import build_encoder, check_needs
from untaught.core import Encoder, Method, Modality, Options, Preprocessor, Role, UserError, View
from untaught.encoders import ENCODERS
from untaught.pipeline.pretrained import Pretrained, load_encoder

EncoderLike = str | nn.Module  # a name, a folder of an earlier run's encoder, or a module


@dataclass(frozen=True)
class Start:
    """How the encoder of a role is initialised. encoder: as given, None for the modality's default; of_vit: knobs if it is a vision
    transformer of timm; earlier: from an encoder folder."""

    role: Role
    encoder: EncoderLike | None
    knobs: Options
    of_vit: Options = field(default_factory=dict)
    earlier: Pretrained | None = None

    def overrides(self, modality: Modality) -> Options:
        """Settings that the encoder requires, e.g. its tokenizer or image size. Raises UserError for an encoder of another modality."""
        name, prefix = self.role.name, f"{self.role.name}." if self.role.name in modality.parts else ""
        own = modality.parts.get(name, modality)
        found: Options = {}
        if self.earlier is not None:
            if self.earlier.prep.modality.name != own.name:
                raise UserError(f"{self.encoder} is an encoder of {self.earlier.prep.modality.noun}; {name} needs one of {own.noun}")
            settings = self.earlier.prep.settings
            found = {key: settings[key] for key in own.knobs if settings.get(key) is not None}
            found |= own.expects(f"transformers/{self.encoder}")  # the folder contains the files of a checkpoint
        elif isinstance(self.encoder, str):
            found = own.expects(self.encoder)
        elif self.encoder is None:
            found = own.wants(self.role.needs)
        return {f"{prefix}{key}": value for key, value in found.items()}

    def named(self, prep: Preprocessor) -> Start:
        """With the modality's default encoder if none was given, and with the knobs of its kind."""
        encoder = prep.part(self.role.name).default_encoder(self.role.needs) if self.encoder is None else self.encoder
        suited = self.of_vit if isinstance(encoder, str) and self.earlier is None and self.of_vit and _is_vit(encoder) else {}
        return replace(self, encoder=encoder, knobs=suited | self.knobs)

    def build(self, prep: Preprocessor, cls: type[Method], example: Callable[[], View]) -> Encoder:
        """The encoder at the start of training. example: its export view for 2 samples. Raises UserError if it does not fit the data."""
        prep = prep.part(self.role.name)
        if self.earlier is None:
            assert self.encoder is not None
            place = "encoder" if len(cls.roles()) == 1 else f"encoder.{self.role.name}"
            built = build_encoder(self.encoder, prep.encoder_arguments, self.knobs, example, place)
        else:
            own, given = self.earlier.prep.encoder_arguments, prep.encoder_arguments
            if differing := [key for key in given if own.get(key) != given[key]]:
                key = differing[0]
                raise UserError(f"{self.encoder} takes {prep.modality.noun} with {key} {own.get(key)}; the data have {key} {given[key]}")
            built = self.earlier.network.train()
        check_needs(cls, built, self.role.name)
        return built

    @property
    def title(self) -> str:
        """As recorded in run.yaml."""
        return self.encoder if isinstance(self.encoder, str) else f"module:{type(self.encoder).__name__}"

    @property
    def architecture(self) -> tuple[str, Options]:
        """Name and knobs to rebuild it, without weights."""
        if self.earlier is not None:
            return self.earlier.config["encoder"], self.earlier.config["encoder_knobs"]
        return self.title, {key: parse(key, value, Any) for key, value in self.knobs.items() if key != "weights"}


def starts_of(
    cls: type[Method], encoder: Mapping[str, Any] | EncoderLike | None, knobs: Options, of_vit: Options | None = None
) -> dict[str, Start]:
    """The start of each role. encoder: one, or a mapping by role for a method with several; knobs: KNOB, or ROLE.KNOB with several; of_vit:
    the method's settings of a vision transformer.

    Raises UserError for an unknown role, and for an encoder folder that can't be loaded.
    """
    roles = cls.roles()
    if isinstance(encoder, Mapping):
        if extra := encoder.keys() - roles.keys():
            raise unknown(f"encoder of {cls.__name__},", sorted(extra)[0], roles)
        given: dict[str, Any] = {name: encoder.get(name) for name in roles}
    elif encoder is not None and len(roles) > 1:
        each = " ".join(f"--encoder {name}=NAME" for name in roles)
        raise UserError(f"{cls.__name__} has the encoders {' and '.join(roles)}; specify which one is {encoder}: {each}")
    else:
        given = dict.fromkeys(roles, encoder)
    own: dict[str, Options] = {name: {} for name in roles}
    for key, value in knobs.items():
        role, dot, knob = key.partition(".")
        if len(roles) == 1:
            own[next(iter(roles))][key] = value
        elif dot and role in roles:
            own[role][knob] = value
        else:
            raise unknown("knob", f"encoder.{key}", [f"encoder.{name}.KNOB" for name in roles])
    return {name: _start(role, given[name], own[name], of_vit or {}) for name, role in roles.items()}


def _start(role: Role, encoder: EncoderLike | None, knobs: Options, of_vit: Options) -> Start:
    place = Path(encoder).expanduser() if isinstance(encoder, str) and encoder not in ENCODERS else None
    if place is None or (not (place / "config.json").exists() and not (place / "encoder").is_dir()):
        return Start(role, encoder, knobs, of_vit)
    if knobs:
        raise UserError(f"encoder.{next(iter(knobs))}: {encoder} is a saved encoder with fixed knobs; remove this one")
    inner = place / "encoder" if (place / "encoder").is_dir() else place
    return Start(role, str(inner.absolute()), {}, earlier=load_encoder(place))


def _is_vit(encoder: str) -> bool:
    from untaught.encoders.timm import is_vit  # takes seconds to import

    return is_vit(encoder)


def with_statistics(prep: Preprocessor, starts: Mapping[str, Start]) -> Preprocessor:
    """The preprocessor with the statistics that encoders of earlier runs were trained with, instead of those of the new data."""
    statistics = prep.statistics
    for name, start in starts.items():
        if start.earlier is not None:
            own = start.earlier.prep.statistics
            statistics = {**statistics, name: own} if name in prep.modality.parts else own
    return replace(prep, statistics=statistics)
