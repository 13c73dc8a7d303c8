"""What a method and its encoder make of a batch: answers to the pretext task, prototypes, attention maps."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from untaught.core import Batch, Encoder, Method
from untaught.pipeline.view_pipeline import Views


class Answers(NamedTuple):
    """Of a batch: columns of a table (B,), and images (B,H,W,3) uint8, {} if they were not asked for.

    columns: the measures of the answer (see `Pretext.measure`), "prototype" and "prototype_score". images: "sample", the exported view;
    "input", what the method sees; "answer"; "attention".
    """

    columns: dict[str, np.ndarray]
    images: dict[str, np.ndarray]


@torch.no_grad()
def answer(
    method: Method | None, encoder: Encoder, views: Views | None, used: Views, batch: Batch, bf16: bool, draw: bool = True
) -> Answers:
    """method and views: None for the encoder alone; used: the exported view. All on the batch's device and in eval mode."""
    prep, device = used.prep, batch["index"].device
    columns: dict[str, np.ndarray] = {}
    images: dict[str, np.ndarray] = {}
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        view, options = used(batch, 0)[0], used.options[0]
        if draw:
            images["sample"] = prep.modality.render(view, options, prep)
        pretext = prep.modality.pretexts.get(views.names[0]) if views is not None else None
        if method is not None and views is not None and method.answers and pretext is not None:
            seen = views(batch, 0)
            solution = method.solve(seen)
            columns |= pretext.measure(seen[0], solution, views.options[0], prep)
            if draw:
                images["input"] = prep.modality.render(method.given(seen[0]), views.options[0], prep)
                images["answer"] = pretext.render(replace(seen[0], target=solution), views.options[0], prep)
        if method is not None and has_prototypes(type(method)):
            score, number = method.prototype_scores(view).float().max(1)
            columns |= {"prototype": number.cpu().numpy(), "prototype_score": score.cpu().numpy()}
    if draw and "attention" in encoder.offers and prep.modality.overlay is not None:
        weights = encoder.attention(view).mean(1).unflatten(1, encoder.grid(view))  # in float32: they may differ by little
        images["attention"] = prep.modality.overlay(view, weights, options, prep)
    return Answers(columns, images)


def has_prototypes(cls: type[Method]) -> bool:
    return cls.prototype_scores is not Method.prototype_scores
