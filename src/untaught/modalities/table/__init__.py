"""Tables: rows of numbers, categories, dates and missing values.

Kinds of columns, categories and distributions are inferred from the training rows (`columns.py`), each row is stored as one float per
feature (`cells.py`), and a view is x (B,D), the values of all features side by side (`views.py`), whatever the encoder.
"""

from __future__ import annotations

from typing import Literal

from untaught.core import Modality, Options
from untaught.data.whole_rows import EVERY
from untaught.modalities.table.cells import decode, raw, unlike
from untaught.modalities.table.columns import FILE, check_files, extend, learn, plan
from untaught.modalities.table.pictures import PRETEXTS, render
from untaught.modalities.table.views import (
    blocks,
    check,
    corrupted,
    corrupted_rows,
    masked,
    masked_tokens,
    multiblock,
    presets,
    whole,
)


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    return "ft_transformer" if needs else "mlp_table"


def encoder_arguments(settings: Options) -> Options:
    return {"features": settings["features"]}


TABLE = Modality(
    name="table",
    noun="table rows",
    fields={"table": (EVERY,)},
    plan=plan,
    learn=learn,
    extend=extend,
    files=(FILE,),
    check_files=check_files,
    decode=decode,
    unlike=unlike,
    presets=presets,
    check=check,
    views={
        "whole": whole,
        **dict.fromkeys(("global", "global2", "local", "light"), corrupted_rows),
        **dict.fromkeys(("corrupted", "redrawn"), corrupted),
        **dict.fromkeys(("masked", "blocks", "global_masked"), masked),
        **dict.fromkeys(("global_blocks", "global2_blocks"), blocks),
        "multiblock": multiblock,
        "masked_tokens": masked_tokens,
    },
    raw=raw,
    boosted=True,
    render=render,
    pretexts=PRETEXTS,
    unaugmented={"level": 0.0},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    kind=lambda settings: settings["digest"],
    method="simclr",
    batch=256,
    knobs={"kinds": str, "text": Literal["leave", "hash"], "scale": Literal["quantile", "standard"]},
)
