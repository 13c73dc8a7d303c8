"""Any transformers vision model as an encoder."""

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

NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # never run code from a model folder, nor prompt for it


def transformers_encoder(name: str, *, channels: int = 3, size: int = 224, pretrained: bool = True) -> Encoder:
    """The vision model `name`, a folder or a name on the Hugging Face hub, with its weights or at random init.

    size: the side of its input images (B, channels, size, size).
    """
    hub = library()
    config = or_fault(name, lambda: hub.AutoConfig.from_pretrained(name, **NO_CODE))
    expected = getattr(config, "num_channels", channels)
    if expected != channels:
        raise UserError(f"transformers/{name} takes images with {expected} channels, these have {channels}; choose another model")
    if pretrained:
        check_weights(name, "AutoModel")
        model, info = or_fault(name, lambda: hub.AutoModel.from_pretrained(name, output_loading_info=True, **NO_CODE))
        check_complete(name, model, info["missing_keys"])
    else:
        model = or_fault(name, lambda: hub.AutoModel.from_config(config, **NO_CODE))
    model = getattr(model, "vision_model", model)  # of an image-text model
    encoder = TransformersEncoder(model)
    try:
        with torch.no_grad():
            encoder.width = encoder.eval()(View(torch.zeros(1, channels, size, size))).shape[1]
    except Exception as error:  # each model raises its own types
        raise UserError(f"transformers/{name} can't take {channels} x {size} x {size} images: {_line(error)}") from error
    return encoder.train()


def shown_as(name: str) -> dict[str, Any]:
    """The model's image preprocessing: "size", and "mean" and "std" per channel in 0..1."""
    hub = library()
    config = or_fault(name, lambda: hub.AutoConfig.from_pretrained(name, **NO_CODE))
    try:
        from transformers.image_processing_base import ImageProcessingMixin

        found: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError as error:
        raise UserError(
            f"transformers/{name} has no preprocessor_config.json, which defines how images are normalised; put it next to the weights"
        ) from error
    side = found.get("crop_size") or found.get("size") or getattr(config, "image_size", 224)
    if isinstance(side, dict):
        side = side.get("height") or side.get("shortest_edge") or getattr(config, "image_size", 224)
    if not found.get("do_normalize", True):
        found = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return {"size": int(side), "mean": found.get("image_mean") or [0.5] * 3, "std": found.get("image_std") or [0.5] * 3}


class TransformersEncoder(Encoder):
    """x (B,C,H,W) -> pooled (B,D): the model's pooler output if it has one, else its class token or the mean over positions."""

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
    """Raises UserError for a folder without safetensors weights, with a command to convert others. kind: the class that loads them."""
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        code = f"from transformers import {kind} as M; M.from_pretrained('{name}').save_pretrained('{name}-safe')"
        raise UserError(
            f"transformers/{name} has its weights in {pickled[0]}, a pickle, which can run code when loaded; if you trust it, convert to "
            f'safetensors: python -c "{code}", and copy the tokenizer\'s files'
        )
    raise UserError(f"transformers/{name} has no weights (model.safetensors); copy the complete checkpoint")


def check_complete(name: str, model: Any, missing: Iterable[str]) -> None:
    """Raises UserError if weights of the model's body are missing from its checkpoint; missing heads are randomly initialised."""
    body = model if model.base_model is model else model.base_model
    own = {key for key, _ in body.named_parameters() if "pooler" not in key}
    prefix = "" if body is model else f"{model.base_model_prefix}."
    if lacking := sorted({key.removeprefix(prefix) for key in missing} & own):
        raise UserError(
            f"transformers/{name} lacks {len(lacking)} of the model's {len(own)} weights ({lacking[0]} ...), which would be random; "
            "copy the complete checkpoint"
        )


def library() -> Any:
    """The transformers library with logging silenced. Raises UserError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("transformers is not installed; pip install untaught[transformers]") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return transformers


def or_fault(name: str, make: Any) -> Any:
    """Returns make(); any error in loading the model `name` becomes a UserError. Folders are loaded offline."""
    try:
        with offline() if Path(name).exists() else nullcontext():
            return make()
    except Exception as error:  # no such folder, no network, a damaged file, a missing dependency: each has its own type
        raise UserError(f"transformers/{name} can't be loaded: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
