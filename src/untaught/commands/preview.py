"""An image of what a method would be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from untaught.config.overrides import sort_knobs
from untaught.config.registry import MethodLike, build_encoder, method_class, modality_named
from untaught.config.train_config import TrainConfig
from untaught.console import say
from untaught.core import UserError
from untaught.data.sources import open_source, peek
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.preprocessor import learn
from untaught.pipeline.view_pipeline import Views, used_view, view_names, view_options
from untaught.ranges import Few, in_range
from untaught.report.contact_sheet import sheet
from untaught.storage.atomic import make_room, whole
from untaught.storage.ownership import check_replaceable, signed


@in_range
def preview(
    data: Any,
    method: MethodLike,
    out: Path,
    *,
    modality: str,
    columns: dict[str, str] | None,
    encoder: str | None,
    knobs: dict[str, Any],
    rows: Few,
) -> Path:
    """Writes a PNG: a row a sample, the whole view first, then every view that the method reads."""
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: a preview is a .png")
    make_room(out)
    check_replaceable(out, "choose another --out")
    kind, cls = modality_named(modality), method_class(method)
    sorted_knobs = sort_knobs(knobs, cls, kind, TrainConfig)
    overrides = (kind.expects(encoder) if encoder else {}) | sorted_knobs["layout"]
    source = open_source(data, kind, columns=columns, encoding=overrides.get("encoding"))
    records = peek(source, max(rows, 100))
    layout = kind.plan(records, overrides)
    layout = learn(source, kind, layout) if kind.learn else layout
    batch, _ = batch_of(records, kind, layout)
    statistics = kind.fit(batch, layout)
    batch = {key: value[:rows] for key, value in batch.items()}

    names = view_names(cls, kind, sorted_knobs["views"])
    views = Views(names, kind, view_options(names, kind, layout, sorted_knobs["view"]), statistics, seed=0)
    if any(options.get("patch") == 0 for options in views.options):
        views.fit_encoder(build_encoder(encoder or kind.encoder_for(layout, cls.needs), kind.input(layout), sorted_knobs["encoder"]))
    used = used_view(kind, layout, cls.whole, statistics)
    with whole(out) as partial:
        sheet(batch, used, views).save(partial, pnginfo=signed())
    say(f"data      {source.what}")
    say(
        "views     "
        + "; ".join(
            f"{name} {', '.join(f'{k} {v}' for k, v in o.items() if v)}" for name, o in dict(zip(names, views.options, strict=True)).items()
        )
    )
    return out
