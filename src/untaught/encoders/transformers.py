"""Any vision model of transformers as an encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untaught.core import Encoder, Features, UserError, View
from untaught.encoders.offline import offline

NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # which a model's folder may bring, or ask for on the terminal


def transformers_encoder(name: str, *, channels: int = 3, size: int = 224, pretrained: bool = True) -> Encoder:
    """The vision model `name`, a folder or a name on the Hugging Face hub, with its weights or drawn anew.

    size is the side of the images (B, channels, size, size) that it will be given.
    """
    hub = library()
    config = or_fault(name, lambda: hub.AutoConfig.from_pretrained(name, **NO_CODE))
    wanted = getattr(config, "num_channels", channels)
    if wanted != channels:
        raise UserError(f"transformers/{name} takes images of {wanted} channels, these have {channels}; choose another model")
    if pretrained:
        check_weights(name, "AutoModel")
        model, said = or_fault(name, lambda: hub.AutoModel.from_pretrained(name, output_loading_info=True, **NO_CODE))
        check_whole(name, model, said["missing_keys"])
    else:
        model = or_fault(name, lambda: hub.AutoModel.from_config(config, **NO_CODE))
    model = getattr(model, "vision_model", model)  # of a pair of images and text
    encoder = TransformersEncoder(model)
    try:
        with torch.no_grad():
            encoder.width = encoder.eval()(View(torch.zeros(1, channels, size, size))).shape[1]
    except Exception as error:  # each model has its own way to say no
        raise UserError(f"transformers/{name} can't take {channels} x {size} x {size} images: {_line(error)}") from error
    return encoder.train()


def shown_as(name: str) -> dict[str, Any]:
    """How the model wants images: their "size", and "mean" and "std" of each channel in 0..1."""
    hub = library()
    config = or_fault(name, lambda: hub.AutoConfig.from_pretrained(name, **NO_CODE))
    try:
        from transformers.image_processing_base import ImageProcessingMixin

        said: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError as error:
        raise UserError(
            f"transformers/{name} has no preprocessor_config.json, which says how images are normalised; put it beside the weights"
        ) from error
    side = said.get("crop_size") or said.get("size") or getattr(config, "image_size", 224)
    if isinstance(side, dict):
        side = side.get("height") or side.get("shortest_edge") or getattr(config, "image_size", 224)
    if not said.get("do_normalize", True):
        said = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return {"size": int(side), "mean": said.get("image_mean") or [0.5] * 3, "std": said.get("image_std") or [0.5] * 3}


class TransformersEncoder(Encoder):
    """x (B,C,H,W) -> pooled (B,D): the model's own pooled vector if it has a trained one, else its class token or mean over places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        found = self.model(pixel_values=view.x)
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            last = found.last_hidden_state
            has_class = any("cls_token" in key or "class_embedding" in key for key in self.model.state_dict())
            pooled = last.mean((2, 3)) if last.ndim == 4 else last[:, 0] if has_class else last.mean(1)
        return Features(pooled=pooled.flatten(1))


def check_weights(name: str, kind: str) -> None:
    """Raises UserError for a folder without weights as safetensors, and says how others become that. kind: the class that reads them."""
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        said = f"from transformers import {kind} as M; M.from_pretrained('{name}').save_pretrained('{name}-safe')"
        raise UserError(
            f"transformers/{name} has its weights in {pickled[0]}, a pickle, which can run code when it is opened; if you trust it, make "
            f'safetensors of it: python -c "{said}", and copy the tokenizer\'s files'
        )
    raise UserError(f"transformers/{name} has no weights (model.safetensors); copy the whole checkpoint")


def check_whole(name: str, model: Any, missing: Iterable[str]) -> None:
    """Raises UserError where weights of the model's body were not in its checkpoint, as in that of a head alone; heads are drawn anew."""
    body = model if model.base_model is model else model.base_model
    own = {key for key, _ in body.named_parameters() if "pooler" not in key}
    prefix = "" if body is model else f"{model.base_model_prefix}."
    if lacking := sorted({key.removeprefix(prefix) for key in missing} & own):
        raise UserError(
            f"transformers/{name} lacks {len(lacking)} of the model's {len(own)} weights ({lacking[0]} ...), which would be random; "
            "copy the whole checkpoint"
        )


def library() -> Any:
    """transformers, quiet. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("transformers is not installed; pip install untaught[transformers]") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return transformers


def or_fault(name: str, make: Any) -> Any:
    """What `make` gives; whatever goes wrong with the model `name` is a UserError. A folder is opened without the network."""
    try:
        with offline() if Path(name).exists() else nullcontext():
            return make()
    except Exception as error:  # no such folder, no network, a damaged file, a missing dependency: each its own class
        raise UserError(f"transformers/{name} can't be loaded: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
