"""From names to objects: methods, encoders and modalities out of the tables, with their knobs checked."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from untaught.config.footprint import sized
from untaught.config.overrides import knobs_of, parse, unknown
from untaught.console import say, warn
from untaught.core import Encoder, Method, Modality, Options, UserError
from untaught.encoders import ENCODERS
from untaught.methods import METHODS
from untaught.methods.composite import JOINS, hybrid_of, title_of, weights_of
from untaught.methods.functional import Objective, method_of
from untaught.modalities import MODALITIES
from untaught.storage.finite import check_finite_weights

OURS = "untaught"
MethodLike = str | type[Method] | Objective  # a name (a+b:0.5 too), a class, or a function (views, encoder, *, knobs) -> terms


def resolve(target: str) -> Any:
    """The object at "module:name"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def method_table() -> dict[str, tuple[str, str]]:
    """name -> (target, package): our methods, then those of installed packages (entry point group untaught.methods).

    Who has a name keeps it, packages in the order of their names; of who comes too late a warning tells.
    """
    table = {name: (target, OURS) for name, target in METHODS.items()}
    offered = [(point.dist.name if point.dist else "?", point) for point in entry_points(group="untaught.methods")]
    for package, point in sorted(offered, key=lambda offer: (offer[0], offer[1].name)):
        if point.name in table:
            warn(f"the method {point.name} of the package {package} is left out: {table[point.name][1]} has one of that name")
        else:
            table[point.name] = point.value, package
    return table


def method_class(method: MethodLike) -> type[Method]:
    """The class of a method that is named, of several that are joined (a+b:0.5), or of one given as a class or a function."""
    if not isinstance(method, str):
        return _method_given(method)
    table = method_table()
    if JOINS not in method:
        return method_named(method, table)
    return hybrid_of({name: (method_named(name, table), weight) for name, weight in weights_of(method).items()})


def method_named(name: str, table: dict[str, tuple[str, str]]) -> type[Method]:
    """Raises UserError for a name that is not in the table, and for a package whose method can't be used."""
    if name not in table:
        raise unknown("method", name, table)
    target, package = table[name]
    if package == OURS:
        return resolve(target)
    try:
        return _method_given(resolve(target))
    except Exception as error:  # whatever the import of somebody else's module may raise
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"the method {name} of the package {package} can't be used: {said}; mend or uninstall {package}") from error


def _method_given(method: Any) -> type[Method]:
    if inspect.isclass(method) and issubclass(method, Method) and hasattr(method, "views"):
        return method
    if inspect.isfunction(method):
        return method_of(method)
    what = getattr(method, "__qualname__", None) or f"an object of {type(method).__name__}"
    raise UserError(
        f"{what} is no method; a name is, a class that derives from untaught.Method and has views, or a function (views, encoder)"
    )


def method_title(method: MethodLike) -> str:
    """A method's name as run.yaml has it: "module:name" of what came from Python."""
    if isinstance(method, str):
        return title_of(weights_of(method)) if JOINS in method else method
    cls = method_class(method)
    return f"{cls.__module__}:{cls.__qualname__}"


def from_python(title: str) -> bool:
    """Whether a method of this title can't be found again by it."""
    return ":" in title and JOINS not in title and not title.partition(":")[2][:1].isdigit()


def modality_named(name: str) -> Modality:
    if name not in MODALITIES:
        raise unknown("modality", name, MODALITIES)
    return resolve(MODALITIES[name])


def encoder_factory(name: str) -> tuple[Any, tuple[str, ...]]:
    """The function that builds the encoder of this name, and its leading arguments (timm/NAME has one)."""
    family, _, rest = name.partition("/")
    if name in ENCODERS:
        return resolve(ENCODERS[name][0]), ()
    if rest and f"{family}/NAME" in ENCODERS:
        return resolve(ENCODERS[f"{family}/NAME"][0]), (rest,)
    raise unknown("encoder", name, ENCODERS)


def build_encoder(encoder: str | nn.Module, given: Options, knobs: Options) -> Encoder:
    """An encoder by name for the input that `given` describes (channels, size ...), or a module of the user's own.

    Raises UserError for what is not known, and for weights that are not finite.
    """
    built = _module(encoder, given) if isinstance(encoder, nn.Module) else _by_name(encoder, given, knobs)
    check_finite_weights(built.state_dict(), encoder if isinstance(encoder, str) else type(encoder).__name__)
    return built


def _module(module: nn.Module, given: Options) -> Encoder:
    if isinstance(module, Encoder):
        return module
    from untaught.encoders.plain import Plain

    return Plain(module, given)


def _by_name(encoder: str, given: Options, knobs: Options) -> Encoder:
    factory, leading = encoder_factory(encoder)
    known = knobs_of(factory)
    if not given.keys() <= known.keys():
        able = [name for name in ENCODERS if given.keys() <= knobs_of(encoder_factory(name)[0]).keys()]
        raise UserError(f"the encoder {encoder} does not take data of {', '.join(given)}; {', '.join(able)} do")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    parsed = {}
    for key, value in knobs.items():
        if key in given or (key not in known and not open_ended):
            raise unknown(f"knob of {encoder}", f"encoder.{key}", [f"encoder.{name}" for name in known if name not in given])
        parsed[key] = parse(f"encoder.{key}", value, known[key][0] if key in known else Any)
    made = sized(lambda: factory(*leading, **(given | parsed)), f"the encoder {encoder}", bool(knobs))
    if note := getattr(made, "note", ""):
        say(f"weights   {note}")
    return made


def build_random_init(encoder: str, given: Options, knobs: Options) -> Encoder:
    """As `build_encoder`, with every weight drawn anew, whatever weights the encoder comes with."""
    own = {key: value for key, value in knobs.items() if key not in ("weights", "pretrained")}
    drawn = {"pretrained": False} if "pretrained" in knobs_of(encoder_factory(encoder)[0]) else {}
    return build_encoder(encoder, given, own | drawn)


OFFERED_BY = {  # for messages
    "tokens": "vit_mini and timm/vit_*",
    "layers": "vit_mini and timm/vit_*",
    "words": "bert, gpt, bart and transformers/NAME",
    "causal": "gpt and causal checkpoints of transformers",
    "bidirectional": "bert, bart and checkpoints of transformers such as they",
    "decoder": "bart and such checkpoints of transformers",
    "maps": "conv_small, vit_mini and most networks of timm",
    "any_size": "conv_small, vit_mini and timm/vit_*",
}


def check_needs(cls: type[Method], encoder: Encoder) -> None:
    """A UserError says which ability the encoder lacks and which encoders have it."""
    missing = sorted(cls.needs - encoder.offers)
    if missing:
        raise UserError(
            f"{cls.__name__} needs an encoder that offers {', '.join(missing)}; {type(encoder).__name__} offers "
            f"{', '.join(sorted(encoder.offers)) or 'pooled vectors only'}; "
            + ", ".join(f"{OFFERED_BY[need]} offer {need}" for need in missing if need in OFFERED_BY)
        )
