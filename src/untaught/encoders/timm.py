"""Any timm model as an encoder."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import is_model_in_modules, load_state_dict
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from untaught.blocks.convolution import quicken
from untaught.blocks.transformer import sine_positions
from untaught.core import Encoder, Features, Options, UserError, View
from untaught.encoders.offline import offline
from untaught.encoders.sequence_windows import SequenceWindows
from untaught.ranges import Few, Width, Within, check, in_range

KNOBS = {  # of timm's models that determine their size
    **dict.fromkeys(("depth", "num_heads", "patch_size"), Few),
    "embed_dim": Width,
    "mlp_ratio": Annotated[float, Within(1e-3, 100)],
}
NUMBER = Annotated[float, Within(-(1 << 16), 1 << 16)]  # any other knob
SMALL = 64  # largest side for which stem=auto uses the small stem
STEPS = 1024  # of a window of a sequence, at most, if not given
MULTIPLE = 32  # of steps in a window, for networks that halve it five times


@in_range
def timm_encoder(
    name: str,
    *,
    channels: int = 3,
    size: int | None = None,
    length: int | None = None,
    steps: Annotated[int, Within(1, 1 << 14)] | None = None,
    stem: Literal["auto", "small", "original"] = "auto",
    weights: str | None = None,
    positions: Literal["learned", "sines"] = "learned",
    freeze_patches: bool = False,
    causal: bool = False,
    **knobs: Any,
) -> TimmEncoder | ViT | SequenceWindows:
    """timm's model `name` for images with `channels` channels and side `size` (224), or, if `length` is given, for sequences of about so
    many steps with `channels` values each, such as spectrograms: as images with one channel, a window of `steps` at a time.

    steps: by default the length's next multiple of 32, at most 1024. weights: a checkpoint file to start from, "pretrained" for timm's own,
    or none. stem: "small" is 3x3 without pooling or stride, "original" is timm's, "auto" is small for images up to 64 pixels. positions: of
    a vision transformer, "sines" are fixed sines and cosines. freeze_patches: whether its patch projection keeps its first weights. causal:
    whether its tokens, row by row, attend only to themselves and those before. Other knobs are passed to timm.create_model.
    """
    check({f"encoder.{key}": value for key, value in knobs.items()}, {f"encoder.{key}": KNOBS.get(key, NUMBER) for key in knobs})
    given: Any = {"weights": weights, "positions": positions, "freeze_patches": freeze_patches, "causal": causal, "knobs": knobs}
    if length is None:
        if steps is not None:
            raise UserError("encoder.steps is for sequences, such as spectrograms; leave it out")
        size = 224 if size is None else size
        return _of_images(name, channels, (size, size), small=stem == "small" or (stem == "auto" and size <= SMALL), stem=stem, **given)
    if size is not None:
        raise UserError("encoder.size is for images; encoder.steps sets the length of a sequence's windows")
    steps = min(-(-length // MULTIPLE) * MULTIPLE, STEPS) if steps is None else steps
    return SequenceWindows(_of_images(name, 1, (steps, channels), small=stem == "small", stem=stem, **given), steps)


def _of_images(
    name: str,
    channels: int,
    shape: tuple[int, int],
    *,
    small: bool,
    stem: str,
    weights: str | None,
    positions: str,
    freeze_patches: bool,
    causal: bool,
    knobs: Options,
) -> TimmEncoder | ViT:
    """See timm_encoder. shape: height and width of the images. small: whether the small stem is used, if the model has a stem for it."""
    requested, received, note = dict(knobs), name.startswith("local-dir:"), ""
    given = None if weights in (None, "pretrained") else _tensors(weights)
    try:
        fixed = getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "fixed_input_size", False)
        if fixed or "patch_size" in knobs:
            knobs = {"img_size": shape[0] if shape[0] == shape[1] else shape} | knobs
        if given is not None:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                wanted = timm.create_model(name, in_chans=channels, num_classes=0, **knobs)
            given, note = _fitting(given, wanted, f"weights={weights}", name)
            knobs["pretrained_cfg_overlay"] = {"state_dict": given}  # timm adapts head, channels and positions
        with offline() if received else nullcontext():
            model = timm.create_model(name, pretrained=weights is not None or received, in_chans=channels, num_classes=0, **knobs)
    except UserError:
        raise
    except Exception as error:  # each model raises its own types
        if "No pretrained weights exist" in str(error):
            fault = UserError(f"timm/{name} has no pretrained weights; choose a model of timm.list_models(pretrained=True)")
        else:
            fault = unknown(name) if "Unknown model" in str(error) else UserError(f"timm/{name}: {_line(error)}")
        raise fault from error
    stride = _stride(model)
    changed = small and _small_stem(model, name, required=stem == "small")
    _suit(model)
    encoder = ViT(model, causal) if type(model) is VisionTransformer else TimmEncoder(model)
    if causal and (not isinstance(encoder, ViT) or model.global_pool != "avg" or model.num_prefix_tokens):
        raise UserError(
            "causal=true is for vision transformers that average their tokens (a class token, as the first, would see none of them); if "
            f"timm/{name} is one, give class_token=false global_pool=avg, or use vit_causal"
        )
    if positions == "sines" or freeze_patches:
        _freeze(model, name, positions == "sines", freeze_patches)
    encoder.note = note
    encoder.stride = stride // ((4 if hasattr(model, "maxpool") else 2) if changed else 1)
    encoder.timm_args = None if changed or causal else _arguments(model, {"in_chans": channels, **knobs})
    if ":" in name:  # a folder or a repository, which may not exist where the encoder is loaded
        encoder.origin = _origin(model, {**requested, "stem": stem})
    try:
        with torch.no_grad():
            encoder.eval()(View(torch.zeros(1, channels, *shape)))
    except Exception as error:  # each model raises its own types
        raise UserError(f"timm/{name} can't take {channels} x {shape[0]} x {shape[1]} images: {_line(error)}") from error
    return encoder.train()


def _freeze(model: nn.Module, name: str, positions: bool, patches: bool) -> None:
    """Replaces a vision transformer's positions by fixed sines and cosines (0 for prefix tokens), and freezes its patch projection."""
    if not isinstance(model, VisionTransformer) or model.pos_embed is None:
        raise UserError(f"positions=sines and freeze_patches=true are for vision transformers with positions, which timm/{name} is not")
    if positions:
        found = sine_positions(model.patch_embed.grid_size, model.embed_dim)
        with torch.no_grad():
            model.pos_embed.copy_(torch.cat([found.new_zeros(model.pos_embed.shape[1] - len(found), model.embed_dim), found]))
        model.pos_embed.requires_grad_(False)
    for parameter in model.patch_embed.parameters() if patches else []:
        parameter.requires_grad_(False)


def unknown(name: str) -> UserError:
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
    return UserError(f"timm has no model {name}; similar: {', '.join(near) or 'none; see timm.list_models()'}")


def is_vit(name: str) -> bool:
    """Whether an encoder's name is that of one of timm's vision transformers, whose knobs the methods' settings name."""
    known = name.removeprefix("timm/").partition(".")[0]
    return name in ("vit_mini", "vit_causal") or (name.startswith("timm/") and is_model_in_modules(known, ["vision_transformer"]))


def is_known(name: str) -> bool:
    """Whether timm has a model with this name; folders and repositories are not checked."""
    return ":" in name or timm.is_model(name.partition(".")[0])


def shown_as(name: str) -> dict[str, Any]:
    """The image preprocessing of timm's pretrained model `name`: "size", and "mean" and "std" per channel in 0..1."""
    if name.startswith("local-dir:"):
        try:
            found = json.loads((Path(name.removeprefix("local-dir:")) / "config.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"timm/{name} has no readable config.json ({_line(error)}); give a folder saved by timm") from error
        found = found.get("pretrained_cfg", found)
    else:
        try:
            found = timm.get_pretrained_cfg(name).to_dict()  # type: ignore[union-attr]
        except (RuntimeError, AttributeError):
            found = {}  # timm_encoder reports the unknown name
    return {
        "size": found.get("input_size", (3, 224, 224))[-1],
        "mean": found.get("mean", IMAGENET_DEFAULT_MEAN),
        "std": found.get("std", IMAGENET_DEFAULT_STD),
    }


def _suit(model: nn.Module) -> None:
    """Replaces operations by equivalent ones that are faster on a CPU."""
    if torch.cuda.is_available():
        return
    quicken(model)
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # see blocks.transformer.attention
            setattr(module, "fused_attn", False)  # noqa: B010


def _tensors(weights: str) -> dict[str, Any]:
    try:
        return load_state_dict(weights, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"weights={weights}: file not found; give a checkpoint file, or pretrained for timm's weights") from error
    except Exception as error:  # damaged files raise many types
        raise UserError(f"weights={weights}: can't be read: {_line(error)}") from error


def _fitting(file: dict[str, Any], model: nn.Module, what: str, name: str) -> tuple[dict[str, Any], str]:
    """The model's tensors in a checkpoint, without their prefix, and a note for the user.

    Prefixes differ: MoCo "module.encoder_q.", DINO "teacher" {"backbone."}, Lightning "model.". The prefix that matches most weights is
    used; among equals, a teacher's first and a student's or momentum encoder's last. Raises UserError if weights are missing.
    """
    tensors = dict(_flat(file))
    own = [key for key, value in model.state_dict().items() if value.is_floating_point()]
    last = own[0]
    prefixes = {key[: -len(last)] for key in tensors if key == last or key.endswith(f".{last}")}
    rank = lambda prefix: (  # noqa: E731
        sum(prefix + key in tensors for key in own),
        "teacher" in prefix,
        not any(word in prefix for word in ("student", "momentum", "encoder_k")),
        -len(prefix),
    )
    prefix = max(prefixes, key=rank, default="")
    lacking = [key for key in own if prefix + key not in tensors]
    fitting = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if lacking and (convert := getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)):
        with suppress(Exception):  # not a format that timm converts
            lacking = [key for key in own if key not in convert(dict(fitting), model)]
    if len(lacking) == len(own):
        raise UserError(f"{what} has no weights of timm/{name} (found: {', '.join(list(tensors)[:3]) or 'nothing'} ...)")
    if lacking:
        raise UserError(f"{what} has only {len(own) - len(lacking)} of the {len(own)} weights of timm/{name}; {lacking[0]} is missing")
    return fitting, f"{what}: tensors with prefix {prefix}" if prefix else ""


def _flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint by name, nested dicts flattened to NAME.KEY; anything else is skipped."""
    for key, value in found.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def vit_mini(*, channels: int = 3, size: int = 32, **knobs: Any) -> Encoder:
    """timm's VisionTransformer, small enough for a CPU: 6 blocks of width 192, patches of an eighth of the side, mean pooling.

    It has no class token, which would learn nothing from losses on the other tokens.
    """
    small: dict[str, Any] = {
        "patch_size": max(2, size // 8),
        "embed_dim": 192,
        "depth": 6,
        "num_heads": 3,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
    return timm_encoder("vit_tiny_patch16_224", channels=channels, size=size, **(small | knobs))


def vit_causal(*, channels: int = 3, size: int = 32, **knobs: Any) -> Encoder:
    """vit_mini in which the tokens, row by row, attend only to themselves and those before."""
    return vit_mini(channels=channels, size=size, causal=True, **knobs)


def _arguments(model: Any, knobs: dict[str, Any]) -> dict[str, Any] | None:
    """The entries of timm's config.json that rebuild this model; None if impossible."""
    knobs = {**getattr(model, "pretrained_model_args", {}), **knobs}  # for a model loaded from such a folder
    knobs.pop("pretrained_cfg_overlay", None)
    if not all(isinstance(value, int | float | str | tuple | list | None) for value in knobs.values()):
        return None
    classifier = model.pretrained_cfg.get("classifier")
    return {"architecture": model.pretrained_cfg["architecture"], "model_args": knobs, "classifier": classifier}


def _origin(model: Any, knobs: dict[str, Any]) -> dict[str, Any]:
    """The config.json entries of a model that came from a folder or a repository."""
    given = {key: value for key, value in getattr(model, "pretrained_model_args", {}).items() if key not in ("in_chans", "img_size")}
    return {"encoder": f"timm/{model.pretrained_cfg['architecture']}", "encoder_knobs": {**given, **knobs}}


def _stride(model: Any) -> int:
    """Pixels per position of the last map; 0 if timm does not say."""
    stages = getattr(model, "feature_info", None)
    return stages[-1].get("reduction", 0) if isinstance(stages, list) and stages else 0


def _small_stem(model: nn.Module, name: str, required: bool) -> bool:
    """Replaces the stem by one that keeps the resolution, as is usual for CIFAR; timm has no option for it. -> whether it was replaced."""
    first = getattr(model, "conv1", None) or getattr(model, "conv_stem", None)
    if isinstance(first, nn.Conv2d):
        conv = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        setattr(model, "conv1" if hasattr(model, "conv1") else "conv_stem", conv)
        if hasattr(model, "maxpool"):
            model.maxpool = nn.Identity()
        return True
    if required:
        raise UserError(f"stem=small is not supported for timm/{name}; use stem=original, or a resnet or efficientnet")
    return False


class TimmEncoder(Encoder):
    """Any timm model: x (B,C,H,W) -> pooled (B,D), and maps if the model has them."""

    note = ""  # on its weights, printed for the user
    timm_args: dict[str, Any] | None = None  # how timm builds it without this library
    origin: dict[str, Any] | None = None  # its config.json entries, if it came from a folder or a repository

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = model.num_features if not hasattr(model, "head_hidden_size") else model.head_hidden_size
        self.offers = frozenset({"maps"}) if hasattr(model, "forward_intermediates") else frozenset()

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        if "maps" in want:
            last, maps = self.model.forward_intermediates(view.x, output_fmt="NCHW")
            return Features(pooled=self.model.forward_head(last, pre_logits=True), maps=maps)
        return Features(pooled=self.model.forward_head(self.model.forward_features(view.x), pre_logits=True))


class ViT(Encoder):
    """timm's VisionTransformer, with access to tokens: x (B,C,H,W) -> pooled (B,D), tokens (B,N,D).

    The side can be any multiple of the patch size; positions are resampled for sides other than the original.
    """

    offers = frozenset({"tokens", "layers", "maps", "attention", "any_size"})
    note = ""  # on its weights, printed for the user
    timm_args: dict[str, Any] | None = None  # how timm builds it without this library
    origin: dict[str, Any] | None = None  # its config.json entries, if it came from a folder or a repository

    def __init__(self, model: Any, causal: bool = False) -> None:
        super().__init__()
        self.model = model
        self.causal = causal
        self.offers = ViT.offers | ({"causal"} if causal else set())
        self.width = model.embed_dim
        self.patch = model.patch_embed.patch_size[0]
        model.patch_embed.strict_img_size = False

    @property
    def blocks(self) -> nn.Module:
        return self.model.blocks

    def grid(self, view: View) -> tuple[int, ...]:
        return view.x.shape[-2] // self.patch, view.x.shape[-1] // self.patch

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        tokens, _ = self.embed(view)
        features = self._attend(tokens, self._positions(self.grid(view)), want)
        if "maps" in want and features.tokens is not None:
            features.maps = [features.tokens.transpose(1, 2).unflatten(2, self.grid(view))]
        return features

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        tokens = self.model.patch_embed(view.x)  # (B,h,w,D) if dynamic_img_size
        return tokens if tokens.ndim == 3 else tokens.flatten(1, 2), None

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal and not self.causal:
            raise UserError("this vision transformer is bidirectional; causal methods need encoder=vit_causal, or causal=true")
        return self._attend(tokens, self.model.pos_embed, want, at)

    def attention(self, view: View) -> Tensor:
        """See Encoder.attention; the last block's queries and keys are read by a hook."""
        last, inputs = self.model.blocks[-1].attn, []
        hook = last.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
        try:
            self.features(view, want=("tokens",))
        finally:
            hook.remove()
        query, key, _ = last.qkv(inputs[0]).unflatten(-1, (3, last.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = last.q_norm(query).float(), last.k_norm(key).float()
        attending = query[:, :, :1] if self.model.cls_token is not None else query
        with torch.autocast(query.device.type, enabled=False):
            weights = attending * last.scale @ key.transpose(-2, -1)
            if self.causal:
                weights = weights + torch.full_like(weights, -torch.inf).triu(1)
            weights = weights.softmax(-1)
        return weights.mean(2)[..., self.model.num_prefix_tokens :]

    def _positions(self, grid: tuple[int, ...]) -> Tensor | None:
        """Positions of the prefix tokens, if they have any, and of a grid of tokens."""
        model = self.model
        if model.pos_embed is None or grid == model.patch_embed.grid_size:
            return model.pos_embed
        skip = 0 if model.no_embed_class else model.num_prefix_tokens
        return resample_abs_pos_embed(model.pos_embed, list(grid), list(model.patch_embed.grid_size), skip)

    def _attend(self, tokens: Tensor, positions: Tensor | None, want: tuple[str, ...], at: Tensor | None = None) -> Features:
        """positions (1, prefix + N, D), or (1, N, D) if the prefix tokens have none."""
        model = self.model
        prefix = model.num_prefix_tokens
        own = None  # positions of the prefix tokens
        if positions is not None:
            skip = 0 if model.no_embed_class else prefix
            own = positions[:, :skip] if skip else None
            places = positions[:, skip:]
            tokens = tokens + (places if at is None else places[0][at])
        first = [token.expand(tokens.shape[0], -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
        if first:
            head = torch.cat(first, 1)
            tokens = torch.cat([(head if own is None else head + own).to(tokens.dtype), tokens], 1)
        seen: dict[str, Tensor] = {}  # of a causal one: which tokens (columns) each token sees
        if self.causal:
            order = torch.arange(tokens.shape[1], device=tokens.device) if at is None else at.unsqueeze(1)
            seen["attn_mask"] = order.unsqueeze(-1) >= order.unsqueeze(-2)
        x = model.norm_pre(model.pos_drop(tokens))
        layers = []
        for block in model.blocks:
            x = block(x, **seen)
            if "layers" in want:
                layers.append(x[:, prefix:])
        x = model.norm(x)
        pooled = model.forward_head(x, pre_logits=True) if "pooled" in want else None
        return Features(pooled=pooled, tokens=x[:, prefix:], layers=layers or None)
