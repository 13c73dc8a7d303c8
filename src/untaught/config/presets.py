"""A method's default settings: the paper's, or those for short runs."""

from __future__ import annotations

from untaught.config.overrides import knobs_of, parse
from untaught.config.train_config import TrainConfig
from untaught.core import Method, Options, UserError

RATES = ("lr", "base_lr")  # one replaces the other
LONG = 100  # epochs from which the paper's settings are the default
BY_OPTIMIZER = ("lr", "base_lr", "momentum", "betas", "weight_decay", "weight_decay_end", "bias_lr", "patch_lr", "layer_decay")


def chosen_defaults(cls: type[Method], knobs: Options, recorded: str | None = None) -> tuple[str, str]:
    """ "paper" or "short", and the reason: as asked by `defaults=`, as `recorded` by the run that is resumed, or by its length.

    Raises UserError for an unknown name, and for "paper" if the method names no settings of a paper.
    """
    wanted = knobs.get("defaults", recorded)
    if wanted not in (None, "paper", "short"):
        raise UserError(f"defaults={wanted}: must be paper or short")
    if wanted == "paper" and not cls.paper:
        raise UserError(f"{cls.__name__} has no settings of a paper; leave out defaults=paper")
    if wanted is not None:
        return wanted, ""
    if not cls.paper:
        return "short", ""
    epochs = knobs.get("epochs")
    if epochs is not None and parse("epochs", epochs, knobs_of(TrainConfig)["epochs"][0]) >= LONG:
        return "paper", f"{LONG} epochs or more; for a short run's, defaults=short"
    return "short", f"fewer than {LONG} epochs; for the paper's, defaults=paper"


def with_defaults(cls: type[Method], defaults: str, knobs: Options) -> Options:
    """The method's settings under `defaults` ("paper" or "short"), overridden by `knobs`. Settings that suit only the preset's optimizer
    are left out if `knobs` name another one, and its learning rate if they give one in either form; settings of the encoder are in
    `encoder_defaults`. Raises UserError for two learning rates."""
    if knobs.keys() >= set(RATES):
        raise UserError(f"lr={knobs['lr']} base_lr={knobs['base_lr']}: give one of them; base_lr is lr for a batch of 256")
    given = lambda key: key.rpartition(".")[2] in knobs  # noqa: E731  # momentum=, for every member of a hybrid that has it
    preset = {key: value for key, value in getattr(cls, defaults).items() if not key.startswith("encoder.") and not given(key)}
    if knobs.keys() & set(RATES):
        preset = {key: value for key, value in preset.items() if key not in RATES}
    if knobs.get("optimizer", preset.get("optimizer")) != preset.get("optimizer"):
        own = knobs_of(cls)  # MoCo's momentum is its teacher's
        preset = {key: value for key, value in preset.items() if key not in BY_OPTIMIZER or key in own}
    return preset | {key: value for key, value in knobs.items() if key != "defaults"}


def encoder_defaults(cls: type[Method], defaults: str) -> Options:
    """Knobs of a vision transformer under `defaults`."""
    return {key.removeprefix("encoder."): value for key, value in getattr(cls, defaults).items() if key.startswith("encoder.")}
