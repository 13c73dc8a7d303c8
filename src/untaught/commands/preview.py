"""An image of the views that a method reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from untaught.config.overrides import sort_knobs
from untaught.config.presets import chosen_defaults, encoder_defaults, with_defaults
from untaught.config.registry import MethodLike, method_class
from untaught.config.train_config import TrainConfig
from untaught.console import say
from untaught.core import UserError
from untaught.data.sources import open_source, peek
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.infer import chosen_modality
from untaught.pipeline.preprocessor import plan
from untaught.pipeline.starts import starts_of
from untaught.pipeline.view_pipeline import Views, used_view, view_names, view_options
from untaught.ranges import Few, in_range
from untaught.report.contact_sheet import sheet
from untaught.storage.atomic import make_room, replacing
from untaught.storage.ownership import check_replaceable, signed


@in_range
def preview(
    data: Any,
    method: MethodLike,
    out: Path,
    *,
    modality: str | None,
    columns: dict[str, str] | None,
    encoder: str | dict[str, str] | None,
    knobs: dict[str, Any],
    rows: Few,
) -> Path:
    """Writes a PNG: one row per sample, the whole view first, then every view that the method reads."""
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: the suffix of a preview must be .png")
    make_room(out)
    check_replaceable(out, "choose another --out")
    cls = method_class(method)
    kind = chosen_modality(modality, data, columns, cls.views)
    defaults, _ = chosen_defaults(cls, knobs)
    sorted_knobs = sort_knobs(with_defaults(cls, defaults, knobs), cls, kind, TrainConfig)
    starts = starts_of(cls, encoder, sorted_knobs["encoder"], encoder_defaults(cls, defaults))
    overrides = {key: value for start in starts.values() for key, value in start.overrides(kind).items()} | sorted_knobs["layout"]
    source = open_source(data, kind, columns=columns, encoding=overrides.get("encoding"))
    records = peek(source, max(rows, 100))
    prep = plan(source, records, kind, overrides)
    batch, _ = batch_of(records, prep)
    prep = prep.fitted(batch)
    batch = {key: value[:rows] for key, value in batch.items()}

    names = view_names(cls, kind, sorted_knobs["views"])
    views = Views(names, prep, view_options(names, prep, sorted_knobs["view"], cls), seed=0)
    if any(0 in (options.get("patch"), options.get("stride")) for options in views.options):
        for start in starts.values():
            views.fit_encoder(
                start.named(prep).build(prep, cls, lambda start=start: used_view(prep, start.role.export_view)(batch, 0)[0]), start.role
            )
    whole_names = tuple(role.export_view for role in cls.roles().values())
    used = Views(whole_names, prep, [prep.presets()[name] for name in whole_names], seed=0)
    with replacing(out) as partial:
        sheet(batch, used, views).save(partial, pnginfo=signed())
    say(f"data      {source.what}")
    say(
        "views     "
        + "; ".join(
            f"{name} {', '.join(f'{k} {v}' for k, v in o.items() if v)}" for name, o in dict(zip(names, views.options, strict=True)).items()
        )
    )
    return out
