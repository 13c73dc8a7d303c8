"""A modality of a few lines: points, which have no channels and no size."""

from __future__ import annotations

import numpy as np

from untaught.core import Modality, View


def near(batch, rng, options, prep):  # type: ignore[no-untyped-def]
    return View(batch["point"] + 0.3 * rng.normal(batch["point"].shape[1]))


POINT = Modality(
    name="point",
    noun="points",
    fields={"point": ("point", "points")},
    decode=lambda record, prep: {"point": np.asarray(record["point"], np.float32)},
    plan=lambda records, overrides: {"inputs": len(records[0]["point"])},
    encoder_for=lambda settings, needs: "mlp",
    encoder_arguments=lambda settings: settings,
    views={"whole": lambda batch, rng, options, prep: View(batch["point"]), "global": near},
)
