"""From names to objects: methods, encoders and modalities from the tables, with checked knobs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from untaught.config.footprint import sized
from untaught.config.overrides import knobs_of, parse, unknown
from untaught.console import say, warn
from untaught.core import Encoder, Method, Modality, Options, UserError, View
from untaught.encoders import ENCODERS
from untaught.methods import METHODS
from untaught.methods.composite import JOINS, hybrid_of, title_of, weights_of
from untaught.methods.functional import Objective, method_of
from untaught.modalities import MODALITIES
from untaught.storage.finite import check_finite_weights

OURS = "untaught"
MethodLike = str | type[Method] | Objective  # a name (also a+b:0.5), a class, or a function (views, encoder, *, knobs) -> terms


def resolve(target: str) -> Any:
    """The object at "module:name"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def method_table() -> dict[str, tuple[str, str]]:
    """name -> (target, package): our methods, then those of installed packages (entry point group untaught.methods), in order of name.

    The first to claim a name keeps it; a warning names the others.
    """
    table = {name: (target, OURS) for name, target in METHODS.items()}
    offered = [(point.dist.name if point.dist else "?", point) for point in entry_points(group="untaught.methods")]
    for package, point in sorted(offered, key=lambda offer: (offer[0], offer[1].name)):
        if point.name in table:
            warn(f"ignoring the method {point.name} of package {package}: {table[point.name][1]} already has a method with that name")
        else:
            table[point.name] = point.value, package
    return table


def method_class(method: MethodLike) -> type[Method]:
    """The class of a method given by name, as a combination (a+b:0.5), as a class or as a function."""
    if not isinstance(method, str):
        return _method_given(method)
    table = method_table()
    if JOINS not in method:
        return method_named(method, table)
    return hybrid_of({name: (method_named(name, table), weight) for name, weight in weights_of(method).items()})


def method_named(name: str, table: dict[str, tuple[str, str]]) -> type[Method]:
    """Raises UserError for an unknown name, and for a package whose method can't be used."""
    if name not in table:
        raise unknown("method", name, table)
    target, package = table[name]
    if package == OURS:
        return resolve(target)
    try:
        return _method_given(resolve(target))
    except Exception as error:  # a third-party import may raise anything
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"the method {name} of package {package} can't be used: {cause}; fix or uninstall {package}") from error


def _method_given(method: Any) -> type[Method]:
    if inspect.isclass(method) and issubclass(method, Method) and hasattr(method, "views"):
        return method
    if inspect.isfunction(method):
        return method_of(method)
    what = getattr(method, "__qualname__", None) or f"an object of {type(method).__name__}"
    raise UserError(f"{what} is not a method; give a name, a subclass of untaught.Method with views, or a function (views, encoder)")


def method_title(method: MethodLike) -> str:
    """A method's name in run.yaml; "module:name" for a method given from Python."""
    if isinstance(method, str):
        return title_of(weights_of(method)) if JOINS in method else method
    cls = method_class(method)
    return f"{cls.__module__}:{cls.__qualname__}"


def from_python(title: str) -> bool:
    """Whether a method with this title was given from Python and can't be found by name."""
    return ":" in title and JOINS not in title and not title.partition(":")[2][:1].isdigit()


def modality_table() -> dict[str, str]:
    """name -> target: our modalities, then those of installed packages (entry point group untaught.modalities); ours keep their names."""
    return {point.name: point.value for point in entry_points(group="untaught.modalities")} | MODALITIES


def modality_named(name: str) -> Modality:
    table = MODALITIES if name in MODALITIES else modality_table()  # looking through installed packages takes time
    if name not in table:
        raise unknown("modality", name, table)
    found = resolve(table[name])
    if not isinstance(found, Modality):
        raise UserError(f"the modality {name} of an installed package ({table[name]}) is not a Modality; fix or uninstall the package")
    return found


def encoder_factory(name: str) -> tuple[Any, tuple[str, ...]]:
    """The function that builds the named encoder, and its leading arguments (timm/NAME has one)."""
    family, _, rest = name.partition("/")
    if name in ENCODERS:
        return resolve(ENCODERS[name][0]), ()
    if rest and f"{family}/NAME" in ENCODERS:
        return resolve(ENCODERS[f"{family}/NAME"][0]), (rest,)
    raise unknown("encoder", name, ENCODERS)


def build_encoder(
    encoder: str | nn.Module, given: Options, knobs: Options, example: Callable[[], View] | None = None, place: str = "encoder"
) -> Encoder:
    """An encoder by name for the input that `given` describes (channels, size ...), or a module of the user's own, tried on `example`.

    place: the prefix of its knobs. Raises UserError for unknown names and for weights that are not finite.
    """
    built = _module(encoder, example) if isinstance(encoder, nn.Module) else _by_name(encoder, given, knobs, place)
    check_finite_weights(built.state_dict(), encoder if isinstance(encoder, str) else type(encoder).__name__)
    return built


def _module(module: nn.Module, example: Callable[[], View] | None) -> Encoder:
    if isinstance(module, Encoder):
        return module
    from untaught.encoders.plain import Plain

    assert example is not None
    return Plain(module, example())


def _by_name(encoder: str, given: Options, knobs: Options, place: str) -> Encoder:
    factory, leading = encoder_factory(encoder)
    known = knobs_of(factory)
    if not given.keys() <= known.keys():
        able = [name for name in ENCODERS if given.keys() <= knobs_of(encoder_factory(name)[0]).keys()]
        raise UserError(f"the encoder {encoder} does not take inputs with {', '.join(given)}; use one of {', '.join(able)}")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    parsed = {}
    for key, value in knobs.items():
        if key in given or (key not in known and not open_ended):
            raise unknown(f"knob of {encoder}", f"{place}.{key}", [f"{place}.{name}" for name in known if name not in given])
        parsed[key] = parse(f"{place}.{key}", value, known[key][0] if key in known else Any)
    made = sized(lambda: factory(*leading, **(given | parsed)), f"the encoder {encoder}", bool(knobs))
    if note := getattr(made, "note", ""):
        say(f"weights   {note}")
    return made


def build_random_init(encoder: str, given: Options, knobs: Options) -> Encoder:
    """Like `build_encoder`, with random weights even if the encoder would come with pretrained ones."""
    own = {key: value for key, value in knobs.items() if key not in ("weights", "pretrained")}
    drawn = {"pretrained": False} if "pretrained" in knobs_of(encoder_factory(encoder)[0]) else {}
    return build_encoder(encoder, given, own | drawn)


OFFERED_BY = {  # for messages
    "tokens": "vit_mini and timm/vit_*",
    "layers": "vit_mini and timm/vit_*",
    "steps": "ts2vec and conv_series",
    "local": "wav2vec2, hubert, patch_series and speech models of transformers",
    "words": "bert, gpt, bart and transformers/NAME",
    "causal": "vit_causal, gpt and causal checkpoints of transformers",
    "bidirectional": "bert, bart and similar checkpoints of transformers",
    "decoder": "bart and similar checkpoints of transformers",
    "maps": "conv_small, vit_mini and most timm networks",
    "causal_maps": "pixelcnn and pixelrnn",
    "recurrent": "pixelrnn",
    "any_size": "conv_small, vit_mini and timm/vit_*",
}


def check_needs(cls: type[Method], encoder: Encoder, role: str = "encoder") -> None:
    """Raises UserError with the ability that the encoder of a role lacks, and the encoders that have it."""
    missing = sorted(cls.roles()[role].needs - encoder.offers)
    if missing:
        what = "an encoder" if role == "encoder" else f"an encoder {role}"
        raise UserError(
            f"{cls.__name__} needs {what} that offers {', '.join(missing)}; {type(encoder).__name__} offers "
            f"{', '.join(sorted(encoder.offers)) or 'pooled vectors only'}; "
            + ", ".join(f"{OFFERED_BY[need]} offer {need}" for need in missing if need in OFFERED_BY)
        )
