"""The papers' view strengths for photographs, where they differ from SimCLR's, which are those of the preset `photo`."""

from __future__ import annotations

from collections.abc import Mapping

from untaught.core import Options

BYOL: Options = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}  # BYOL, appendix B; DINO, Barlow Twins, VICReg ...
MOCO: Options = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}  # MoCo v2's code; SimSiam, MSN
BYOL_VIEWS: dict[str, Options] = {"global": BYOL | {"blur": 1.0}, "global2": BYOL | {"blur": 0.1, "solarize": 0.2}}


def photo(views: Mapping[str, Options]) -> dict[str, Options]:
    """View options by view name, as `Method.view_presets` of photographs: {"photo": {"global.blur": 1.0, ...}}."""
    return {"photo": {f"{view}.{option}": value for view, options in views.items() for option, value in options.items()}}
