"""View options."""

from __future__ import annotations

import math
from typing import Any

from untaught.core import Options, UserError
from untaught.modalities.image.open import PIXEL_LIMIT
from untaught.ranges import Within, outside

SIDES = Within(4, 4096)  # side of a stored image or view in pixels
SMALL = 64  # images up to this side get milder presets, as in common recipes for CIFAR
NOTHING: Options = {
    "size": 0,  # side of the view, filled in from the settings
    "scale": (1.0, 1.0),  # area of the crop as a share of the image's
    "ratio": (1.0, 1.0),  # width / height of the crop
    "flip": 0.0,  # probabilities from here ...
    "flip_vertical": 0.0,
    "rotate": 0.0,  # maximum degrees to either side
    "translate": 0.0,  # share of the side
    "shear": 0.0,  # maximum degrees to either side
    "jitter": 0.0,  # probability; the strengths below are torchvision's
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grey": 0.0,
    "blur": 0.0,
    "blur_sigma": (0.1, 2.0),  # pixels of a view of side 224; smaller views in proportion
    "solarize": 0.0,
    "erase": 0.0,
    "erase_area": (0.02, 0.33),
    "noise": 0.0,  # standard deviation, in units of the full range
}
_SIMCLR: Options = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5}
_STRONG: Options = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}  # SimCLR's strength 1; 0.5 for CIFAR
_CROP: Options = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}  # MAE, appendix A.1
_BRIGHT: Options = {"jitter": 1.0, "hue": 0.0}  # data2vec, which follows BEiT
_WIDE: Options = {"scale": (0.3, 1.0), "ratio": (3 / 4, 4 / 3)}  # I-JEPA: its code's crops, without flips
_LIGHT: Options = {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}  # for fine-tuning: crops keep the object
_PUZZLE: Options = {"scale": (0.6, 1.0), "grey": 0.3}  # Noroozi and Favaro: 30% of the images are grey
_PAIR: Options = {"scale": (0.33, 1.0)}  # Doersch et al., section 3: images of 150,000 to 450,000 pixels for patches of 96 x 96
PRESETS: dict[str, dict[str, Options]] = {
    "photo": {  # SimCLR appendix A; BYOL appendix B for the second view; DINO's local crops
        "global": _SIMCLR | _STRONG,
        "global2": _SIMCLR | _STRONG | {"blur": 0.1, "solarize": 0.2},
        "local": _SIMCLR | _STRONG | {"scale": (0.05, 0.4)},
        "masked": _CROP,
        "blocks": _CROP | _BRIGHT,
        "multiblock": _WIDE,
        "light": _LIGHT,
        "rotations": _SIMCLR | {"jitter": 0.0, "grey": 0.0, "blur": 0.0},  # RotNet's code for ImageNet: crops and flips
        "puzzle": _PUZZLE,
        "neighbours": _PAIR,
    },
    "small": {  # SimCLR appendix B.9 (CIFAR-10): half the strength of colour, no blur; crops as MoCo's
        "global": _SIMCLR | {"blur": 0.0, "scale": (0.2, 1.0)},
        "global2": _SIMCLR | {"blur": 0.0, "scale": (0.2, 1.0), "solarize": 0.1},
        "local": _SIMCLR | {"blur": 0.0, "scale": (0.05, 0.4)},
        "masked": _CROP,
        "blocks": _CROP | _BRIGHT,
        "multiblock": _WIDE,
        "light": _LIGHT,
        "rotations": {"translate": 4 / 32, "flip": 0.5},  # RotNet's code for CIFAR-10: shifts by up to 4 pixels, and flips
        "puzzle": _PUZZLE | {"permutations": 100},  # as in the authors' published code; 1000 are for large data
        "neighbours": _PAIR,
    },
    "upright": {  # characters and scans, where flips change the meaning: no flips, larger crops
        "global": {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0, "jitter": 0.8},
        "global2": {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0, "jitter": 0.8},
        "local": {"scale": (0.15, 0.4), "ratio": (3 / 4, 4 / 3), "jitter": 0.8},
        "masked": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)},
        "blocks": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)} | _BRIGHT,
        "multiblock": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)},
        "light": {"scale": (0.7, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0},
        "rotations": {"translate": 4 / 32},
        "puzzle": {"scale": (0.6, 1.0), "permutations": 100},
        "neighbours": {"scale": (0.6, 1.0)},
    },
}
TILES: dict[str, Options] = {  # options of views of tiles; "stride" is filled in from the encoder
    "puzzle": {  # Noroozi and Favaro: tiles of 64 pixels at random in cells of 85, channels displaced by up to 2
        "grid": 3,
        "permutations": 1000,
        "tile": 0,
        "stride": 0,
        "gap": 21 / 64,
        "shift": 0.5,
        "channel_shift": 2 / 64,
        "normalise": True,
    },
    "neighbours": {  # Doersch et al.: patches of 96 pixels, gaps of 48, displaced by up to 7
        "tile": 0,
        "stride": 0,
        "gap": 48 / 96,
        "shift": 7 / 48,
        "drop": 1.0,
        "project": 0.0,
        "pixelate": 1 / 3,
        "normalise": True,
    },
}
MASKING: dict[str, Options] = {  # options of views with masked tokens; "patch" is the side of a token, filled in from the encoder
    "masked": {"rate": 0.75},  # MAE
    "global_masked": {"rate": 0.15},  # MSN, of a small ViT
    "blocks": {"rate": (0.6, 0.6), "masking": 1.0},  # data2vec
    "global_blocks": {"rate": (0.1, 0.5), "masking": 0.5},  # iBOT
    "global2_blocks": {"rate": (0.1, 0.5), "masking": 0.5},
    "multiblock": {"targets": 4, "target_scale": (0.15, 0.2), "target_ratio": (0.75, 1.5), "context_scale": (0.85, 1.0)},  # I-JEPA
}
LOCAL_SHARE = 96 / 224  # side of a local view relative to a global one (DINO)


def presets(settings: Options) -> dict[str, Options]:
    _check_settings(settings)
    size = settings["size"]
    named = {"whole": {}, "levels": {}} | PRESETS[settings["preset"]]
    named |= {"global_masked": named["global"], "global_blocks": named["global"], "global2_blocks": named["global2"]}
    options = {name: NOTHING | {"size": size} | TILES.get(name, {}) | given for name, given in named.items()}
    options["local"]["size"] = max(8, 8 * round(size * LOCAL_SHARE / 8))
    options["levels"]["size"] = min(size, settings["side"])  # enlarged, an image has values that its neighbours determine
    for name, given in MASKING.items():
        options[name] |= {"patch": 0, **given}
    return options


def _check_settings(settings: Options) -> None:
    """Raises UserError for settings of an untrusted run or encoder that are invalid or would not fit in memory."""
    sides: list[Any] = [settings.get(key) for key in ("size", "side", "channels")]
    known = settings.get("bits") in (8, 16) and str(settings.get("preset")) in PRESETS
    white, first = settings.get("max_value", 255), settings.get("channels_first", False)
    if type(white) is not int or not 0 < white < 1 << 32 or type(first) is not bool:
        raise UserError(f"max_value of images must be a positive integer and channels_first true or false; got {white} and {first}")
    if not known or not all(type(value) is int and value > 0 for value in sides):
        raise UserError(f"images need settings with size, side, channels, bits (8 or 16) and preset ({', '.join(PRESETS)}); got {settings}")
    if max(sides[:2]) ** 2 * sides[2] > PIXEL_LIMIT:
        raise UserError(f"images of {sides[2]} x {max(sides[:2])} x {max(sides[:2])} values exceed the limit of {PIXEL_LIMIT:,}")


RANGES = {  # of options; a pair must also be in order
    **dict.fromkeys(("scale", "erase_area", "rate", "target_scale", "context_scale"), Within(1e-4, 1)),
    **dict.fromkeys(("flip", "flip_vertical", "jitter", "grey", "blur", "solarize", "erase", "translate", "masking"), Within(0, 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation", "noise"), Within(0, 100)),
    **dict.fromkeys(("blur_sigma", "ratio", "target_ratio"), Within(1e-2, 100)),
    "hue": Within(0, 0.5),
    "rotate": Within(0, 180),
    "shear": Within(0, 80),
    "size": SIDES,
    "patch": Within(0, SIDES.high),  # 0: the encoder's
    "targets": Within(1, 64),
    **dict.fromkeys(("drop", "project", "pixelate", "channel_shift"), Within(0, 1)),
    "tile": Within(0, 1024),  # 0: a quarter of the side
    "stride": Within(0, SIDES.high),  # 0: the encoder's
    "gap": Within(0, 4),
    "shift": Within(0, 0.5),  # at most half of the gap to either side: tiles never overlap
    "grid": Within(2, 3),
    "permutations": Within(2, math.factorial(9)),
}


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    if fault := outside(options, RANGES):
        return fault
    if options.get("targets", 0) * options.get("target_scale", (0, 0))[1] >= 1:
        return f"target_scale={options['target_scale']}: {options['targets']} targets of that size would leave no context"
    cells = options.get("grid", 3) ** 2
    if options.get("permutations", 0) > math.factorial(cells):
        return f"permutations={options['permutations']}: {cells} tiles have only {math.factorial(cells)}; choose fewer, or a larger grid"
    return None
