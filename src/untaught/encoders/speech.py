"""Networks of transformers for waveforms (wav2vec 2.0, HuBERT, WavLM): small ones at random init, or a local checkpoint.

A stack of strided convolutions makes a frame of every 20 ms, and a transformer with convolutional positions relates the frames.
The small default has 3.5 million weights, and differs from the base models of the papers as follows.
- Convolutions keep the frames (every 20 ms, of 25 ms) at any sample rate: at 8 kHz there is one convolution of stride 2 fewer.
- 128 channels instead of 512, half of that in the first two layers, which see most positions. The convolutions then cost about as much
  as the transformer (4 blocks of width 256); with 512 channels they would cost fifteen times as much.
- LayerNorm in every convolutional layer and pre-norm blocks, as in the papers' large models: no result depends on padding, and no long
  warm-up is needed. The base models normalise the first layer over time, padding included.
- Positions reach 32 frames, 0.64 s, not 128: the models are for recordings of a second.
- No LayerDrop and no dropout: short runs do not overfit.
Checkpoints whose first layer is normalised over time (wav2vec2-base, hubert-base) are normalised here over the valid frames, so that a
recording has the same vectors in any batch; alone in a batch it has transformers'.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.local import Local
from untaught.core import Encoder, Features, Files, Options, UserError, View
from untaught.encoders.language import DROPOUTS, suit
from untaught.encoders.transformers import NO_CODE, check_complete, check_weights, library, or_fault
from untaught.ops.framing import valid_frames
from untaught.ops.gradient import scaled_gradient
from untaught.ranges import Few, Start, Width, in_range
from untaught.storage.speech_input import PREPROCESSOR, speech_input

FRAME = 0.02  # seconds between frames
POSITIONS = 32  # frames that a position's convolution reaches over
TYPES = ("wav2vec2", "hubert", "wavlm")
DROPPED = (*DROPOUTS, "hidden_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop", "final_dropout")


@in_range
def wav2vec2(*, rate: int, width: Width = 256, depth: Few = 4, heads: Few = 4, channels: Width = 128, dropout: Start = 0.0) -> Encoder:
    """The network of wav2vec 2.0 (Baevski et al. 2020, https://arxiv.org/abs/2006.11477) of this size at random init.

    rate: samples a second. channels: of the convolutions. x (B,T) -> pooled (B, width), the mean over valid frames.
    """
    return _small("Wav2Vec2", rate, width, depth, heads, channels, dropout)


@in_range
def hubert(*, rate: int, width: Width = 256, depth: Few = 4, heads: Few = 4, channels: Width = 128, dropout: Start = 0.0) -> Encoder:
    """The network of HuBERT (Hsu et al. 2021, https://arxiv.org/abs/2106.07447) of this size at random init; as `wav2vec2`."""
    return _small("Hubert", rate, width, depth, heads, channels, dropout)


def _small(family: str, rate: int, width: int, depth: int, heads: int, channels: int, dropout: float) -> Encoder:
    groups = math.gcd(width, 16)  # of the positions' convolution
    if width % heads:
        raise UserError(f"encoder.width={width}: must be a multiple of its {heads} heads")
    kernels, strides = convolutions(rate)
    config = getattr(library(), f"{family}Config")(
        vocab_size=32,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        **{name: dropout for name in DROPPED if name not in ("layerdrop", "feat_proj_dropout")},
        layerdrop=0.0,
        feat_proj_dropout=0.0,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        conv_dim=[max(channels // 2, 1)] * 2 + [channels] * (len(kernels) - 2),
        conv_kernel=kernels,
        conv_stride=strides,
        num_conv_pos_embeddings=POSITIONS,
        num_conv_pos_embedding_groups=groups,
        mask_time_prob=0.0,  # the mask token is the method's
    )
    return SpeechEncoder(library().AutoModel.from_config(config), rate)


def convolutions(rate: int) -> tuple[list[int], list[int]]:
    """Kernels and strides of the papers' convolutions, with as many of stride 2 as make a frame of every 20 ms at this rate."""
    halvings = max(round(math.log2(rate * FRAME / 5)), 2)
    return [10] + [3] * (halvings - 2) + [2, 2], [5] + [2] * halvings


@in_range
def speech(name: str, *, rate: int, pretrained: bool = True, dropout: Start | None = None) -> Encoder:
    """The speech model `name`, a folder or a name on the Hugging Face hub, with its weights or at random init.

    rate: samples a second. dropout: the model's if none. Raises UserError for another kind of model, and for another rate than the model's.
    """
    config = or_fault(name, lambda: library().AutoConfig.from_pretrained(name, **NO_CODE))
    if config.model_type not in TYPES:
        raise UserError(f"transformers/{name} is a {config.model_type}; waveforms are read by {', '.join(TYPES)}")
    said = speech_input(name)
    if said["rate"] != rate:
        raise UserError(f"transformers/{name} reads {said['rate']} samples a second, not {rate}; give rate={said['rate']}")
    if dropout is not None:
        for key in DROPPED:
            if hasattr(config, key):
                setattr(config, key, dropout)
    if not pretrained:
        return SpeechEncoder(library().AutoModel.from_config(config), rate, said["standardise"])
    check_weights(name, "AutoModel")
    load = library().AutoModel.from_pretrained
    model, info = or_fault(name, lambda: load(name, config=config, use_safetensors=True, output_loading_info=True, **NO_CODE))
    check_complete(name, model, info["missing_keys"])
    return SpeechEncoder(model, rate, said["standardise"])


class SpeechEncoder(Encoder):
    """x (B,T), valid (B,T) -> pooled (B,D), the mean over valid frames; tokens and layers (B,N,D); the last layer is normalised."""

    layered = True
    offers = frozenset({"tokens", "layers", "local", "bidirectional", "any_size"})

    def __init__(self, model: Any, rate: int, standardise: bool = True) -> None:
        super().__init__()
        config = model.config
        suit(model)
        self.model = model
        if (mask := getattr(model, "masked_spec_embed", None)) is not None:  # the mask token is the method's; it stays in the export
            mask.requires_grad_(False)
        self.rate, self.standardise = rate, standardise
        self.width, self.local_width = int(config.hidden_size), int(config.conv_dim[-1])
        self.patch, self.window = math.prod(config.conv_stride), 1  # samples from frame to frame, and of a frame
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.window = (self.window - 1) * stride + kernel

    @property
    def blocks(self) -> nn.Module:
        return self.model.encoder.layers

    def foreign_config(self) -> Options:
        """The config.json entries for transformers' AutoModel."""
        return {**self.model.config.to_diff_dict(), "architectures": [type(self.model).__name__]}

    def foreign_files(self) -> Files:
        """The file for transformers' AutoFeatureExtractor."""
        about = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": self.rate,
            "do_normalize": self.standardise,
            "padding_value": 0.0,
            "return_attention_mask": True,
        }
        return {PREPROCESSOR: json.dumps(about, indent=2).encode()}

    def grid(self, view: View) -> tuple[int, ...]:
        return (max(view.x.shape[1] - self.window, 0) // self.patch + 1,)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return self.context(*self.embed(view), want=want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        local = self.local(view)
        return local.tokens, local.valid

    def local(self, view: View, gradient: float = 1.0) -> Local:
        """The outputs of the convolutions, without and with LayerNorm, and the tokens made of them."""
        x, valid = view.x, view.valid
        if valid is not None:
            x = torch.where(valid, x, 0.0)
        if not torch.compiler.is_compiling():  # a traced program must not branch on the length, and takes nothing shorter
            x = F.pad(x, (0, max(self.window - x.shape[1], 0)))
        x = x.unsqueeze(2)
        window, hop = 1, 1  # of a frame of the layer, in samples
        for layer in self.model.feature_extractor.conv_layers:
            (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            window, hop = window + (kernel - 1) * hop, hop * stride
            x = convolved(x, layer.conv, kernel, stride)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                x = norm_over_time(x, norm, None if valid is None else valid_frames(valid, window, hop, x.shape[1]))
            elif norm is not None:
                x = norm(x)
            x = layer.activation(x)
        raw = scaled_gradient(x, gradient)
        projection = self.model.feature_projection
        normed = projection.layer_norm(raw) if hasattr(projection, "layer_norm") else raw
        tokens = projection.dropout(projection.projection(normed))
        return Local(raw, normed, tokens, None if valid is None else valid_frames(valid, self.window, self.patch, x.shape[1]))

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal:
            raise UserError("speech models of transformers are bidirectional; causal methods need an encoder such as patch_causal")
        if at is not None:
            raise UserError(
                "the positions of speech models are convolutions over all frames; for a method that drops masked tokens use patch_series"
            )
        body = self.model.encoder
        before = bool(getattr(self.model.config, "do_stable_layer_norm", False))  # whether blocks are pre-norm
        x = tokens if valid is None else torch.where(valid.unsqueeze(2), tokens, torch.zeros((), dtype=tokens.dtype, device=tokens.device))
        x = x + body.pos_conv_embed(x)
        x = body.dropout(x if before else body.layer_norm(x))
        layers = []
        mask, bias = None if valid is None else valid[:, None, None, :].expand(-1, -1, x.shape[1], -1), None
        for number, block in enumerate(body.layers):
            if self.model.config.model_type == "wavlm":  # the first block's relative positions serve all
                x, bias = block(x, attention_mask=valid, position_bias=bias, index=number)
            else:
                x = block(x, attention_mask=mask)
            layers.append(x)
        if before:
            x = layers[-1] = body.layer_norm(x)
        pooled = None
        if "pooled" in want:
            pooled = x.mean(1) if valid is None else (x * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return Features(pooled, x if "tokens" in want else None, valid, layers if "layers" in want else None)


def convolved(x: Tensor, conv: nn.Conv1d, kernel: int, stride: int) -> Tensor:
    """x (B,T,C) -> (B,N,E): the convolution, as a linear layer on windows, which takes a third of the time of torch's on a CPU."""
    if torch.compiler.is_compiling():  # which follows torch's for any length
        return conv(x.transpose(1, 2)).transpose(1, 2)
    return F.linear(windows(x, kernel, stride), conv.weight.transpose(1, 2).flatten(1), conv.bias)


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x (B,T,C) -> (B, (T - kernel) // stride + 1, kernel * C), the steps of every window."""
    if x.shape[2] == 1:
        return x.squeeze(2).unfold(1, kernel, stride)
    count = (x.shape[1] - kernel) // stride + 1
    whole, rest = divmod(kernel, stride)
    parts = [x[:, i * stride : (i + count) * stride].reshape(x.shape[0], count, -1) for i in range(whole)]
    parts += [x[:, i : i + (count - 1) * stride + 1 : stride] for i in range(whole * stride, whole * stride + rest)]
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def norm_over_time(x: Tensor, norm: nn.GroupNorm, valid: Tensor | None) -> Tensor:
    """x (B,N,C), valid (B,N) -> the same, each channel normalised by its mean and variance over the valid frames of its sample."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        weight = torch.ones_like(x[:, :, :1]) if valid is None else valid.unsqueeze(2).float()
        count = weight.sum(1, keepdim=True)
        mean = (x * weight).sum(1, keepdim=True) / count
        variance = ((x - mean).square() * weight).sum(1, keepdim=True) / count
        return (x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
