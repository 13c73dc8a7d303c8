"""Encoders of waveforms: transformers' own numbers, whatever lies beside a recording, and folders that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, HubertConfig, Wav2Vec2Config, WavLMConfig

from untaught.config.registry import build_encoder
from untaught.core import UserError, View
from untaught.encoders.speech import SpeechEncoder, convolutions, hubert, norm_over_time, speech, wav2vec2, windows
from untaught.modalities.audio import AUDIO, expects

SMALL: dict[str, Any] = {"rate": 8000, "width": 32, "depth": 2, "heads": 2, "channels": 8}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 32,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MODELS = {
    "wav2vec2 base": lambda: Wav2Vec2Config(**SIZES),
    "wav2vec2 large": lambda: Wav2Vec2Config(**SIZES, **LARGE),
    "hubert base": lambda: HubertConfig(**SIZES, feat_proj_layer_norm=False),
    "hubert large": lambda: HubertConfig(**SIZES, **LARGE),
    "wavlm base": lambda: WavLMConfig(**SIZES, num_buckets=8, max_bucket_distance=20),
    "wavlm large": lambda: WavLMConfig(**SIZES, **LARGE, num_buckets=8, max_bucket_distance=20),
}
each = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def recordings() -> tuple[Tensor, Tensor]:
    valid = torch.arange(1600) < torch.tensor([[1600], [700], [33]])
    return torch.randn(3, 1600), valid


def saved(make: Any, folder: Path, **preprocessor: Any) -> Any:
    """A checkpoint with the weights of a network that is far from its random init."""
    model = AutoModel.from_config(make())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    about = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(about | preprocessor))
    return model.eval()


@each
def test_a_recording_becomes_what_transformers_makes_of_it(make: Any, tmp_path: Path) -> None:
    model = saved(make, tmp_path)
    encoder = build_encoder(f"transformers/{tmp_path}", {"rate": 8000}, {}).eval()
    x, _ = recordings()
    want = model(x, output_hidden_states=True)
    found = encoder.features(View(x), ("pooled", "tokens", "layers"))
    torch.testing.assert_close(found.tokens, want.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert found.layers is not None
    assert len(found.layers) == 2
    torch.testing.assert_close(found.layers[0], want.hidden_states[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.layers[-1], found.tokens)
    torch.testing.assert_close(found.pooled, want.last_hidden_state.mean(1), atol=1e-4, rtol=1e-4)
    assert encoder.grid(View(x)) == (found.tokens.shape[1],)  # type: ignore[union-attr]


@each
def test_padding_does_not_matter(make: Any, tmp_path: Path) -> None:
    """Not even to a first layer that is normalised over time, and to a recording shorter than a frame."""
    saved(make, tmp_path)
    encoder = speech(str(tmp_path), rate=8000).eval()
    x, valid = recordings()
    found = encoder.features(View(torch.where(valid, x, 7.5), valid), ("pooled", "tokens"))
    assert found.valid is not None
    for row in range(3):
        alone = encoder.features(View(x[row : row + 1, : int(valid[row].sum())]), ("pooled", "tokens"))
        torch.testing.assert_close(alone.pooled[0], found.pooled[row], atol=1e-4, rtol=1e-4)  # type: ignore[index]
        torch.testing.assert_close(alone.tokens[0], found.tokens[row][found.valid[row]], atol=1e-4, rtol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("make", [wav2vec2, hubert])
def test_small_ones_are_transformers_with_an_attention_mask(make: Any) -> None:
    encoder = make(**SMALL).eval()
    x, valid = recordings()
    x, valid = x[:2], valid[:2]
    want = encoder.model(torch.where(valid, x, 0.0), attention_mask=valid.long()).last_hidden_state
    found = encoder.features(View(x, valid), ("tokens",))
    torch.testing.assert_close(found.tokens[found.valid], want[found.valid], atol=1e-4, rtol=1e-4)
    local = encoder.local(View(x, valid))
    torch.testing.assert_close(encoder.context(local.tokens, local.valid).tokens, found.tokens)
    assert local.raw.shape[2] == local.normed.shape[2] == encoder.local_width


def test_gradients_of_the_convolutions_are_scaled_and_no_others() -> None:
    encoder: Any = wav2vec2(**SMALL)
    x, valid = recordings()

    def slopes(scale: float) -> dict[str, Tensor]:
        encoder.zero_grad()
        local = encoder.local(View(x, valid), scale)
        encoder.context(local.tokens, local.valid).tokens[local.valid].square().sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters()}

    whole, tenth = slopes(1.0), slopes(0.1)
    for name, slope in whole.items():
        scale = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(tenth[name], scale * slope, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("rate", "kernels", "hop", "window"), [(16_000, 7, 320, 400), (8000, 6, 160, 200), (11_025, 6, 160, 200)])
def test_a_frame_is_20_ms_at_any_rate(rate: int, kernels: int, hop: int, window: int) -> None:
    sizes, strides = convolutions(rate)
    assert len(sizes) == len(strides) == kernels
    encoder: Any = wav2vec2(**(SMALL | {"rate": rate}))
    assert (encoder.patch, encoder.window) == (hop, window)
    if rate == 16_000:
        assert (sizes, strides) == ([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])  # the papers'


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (7, 3), (1, 1), (3, 1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_windows_times_weights_are_a_convolution(kernel: int, stride: int, channels: int) -> None:
    conv = torch.nn.Conv1d(channels, 6, kernel, stride)
    for length in range(kernel, kernel + 9):
        x = torch.randn(2, length, channels)
        found = torch.nn.functional.linear(windows(x, kernel, stride), conv.weight.transpose(1, 2).flatten(1), conv.bias)
        torch.testing.assert_close(found, conv(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_a_norm_over_time_is_torchs_without_padding() -> None:
    norm = torch.nn.GroupNorm(5, 5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(norm_over_time(x, norm, None), norm(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_folders_are_read_by_transformers(tmp_path: Path) -> None:
    encoder: Any = wav2vec2(**SMALL).eval()
    (tmp_path / "config.json").write_text(json.dumps(encoder.foreign_config()))
    for name, content in encoder.foreign_files().items():
        (tmp_path / name).write_bytes(content)
    from safetensors.torch import save_file

    save_file(encoder.model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, prepare = AutoModel.from_pretrained(tmp_path).eval(), AutoFeatureExtractor.from_pretrained(tmp_path)
    x = 3 * torch.randn(1, 1600) + 1
    given = prepare(list(x.numpy()), sampling_rate=8000, return_tensors="pt")
    standardised = (x - x.mean()) / x.std(correction=0)
    torch.testing.assert_close(model(**given).last_hidden_state.mean(1), encoder(View(standardised)), atol=1e-3, rtol=1e-3)


def test_a_checkpoint_says_at_which_rate_it_reads(tmp_path: Path) -> None:
    saved(MODELS["wav2vec2 large"], tmp_path, sampling_rate=16_000, do_normalize=False)
    assert expects(f"transformers/{tmp_path}") == {"input": "waveform", "rate": 16_000, "standardise": False}
    with pytest.raises(UserError, match=r"reads 16000 samples a second, not 8000; give rate=16000"):
        speech(str(tmp_path), rate=8000)
    encoder: Any = speech(str(tmp_path), rate=16_000)
    assert json.loads(encoder.foreign_files()["preprocessor_config.json"])["do_normalize"] is False
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        expects(f"transformers/{tmp_path}")


def test_what_reads_no_waveforms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is a bert; waveforms are read by wav2vec2, hubert, wavlm"):
        speech(str(tmp_path), rate=8000)
    with pytest.raises(UserError, match=r"encoder.width=30: must be a multiple of its 4 heads"):
        wav2vec2(rate=8000, width=30)


def test_the_form_of_the_input_follows_from_the_encoder_and_from_what_a_method_needs() -> None:
    assert [expects(name) for name in ("wav2vec2", "hubert", "conv_mel", "patch_series", "mlp")] == [
        *[{"input": "waveform"}] * 2,
        *[{"input": "log_mel"}] * 2,
        {},
    ]
    assert AUDIO.wants(frozenset({"tokens", "local"})) == {"input": "waveform"}
    assert AUDIO.wants(frozenset({"tokens"})) == {}
    assert AUDIO.encoder_for({"input": "waveform"}, frozenset()) == "wav2vec2"


def test_positions_of_some_frames_alone_are_refused() -> None:
    encoder = wav2vec2(**SMALL)
    tokens = torch.zeros(1, 4, 32)
    with pytest.raises(UserError, match="convolutions over all frames"):
        encoder.context(tokens, at=torch.tensor([[0, 2, 3, 5]]))
    with pytest.raises(UserError, match="bidirectional"):
        encoder.context(tokens, causal=True)
    assert isinstance(encoder, SpeechEncoder)
