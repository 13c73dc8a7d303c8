"""What every encoder promises: vectors of its width for any channels and size, and abilities that it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from untaught.core import Encoder, Features, UserError
from untaught.encoders import ENCODERS
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.plain import Plain
from untaught.encoders.timm import ViT, timm_encoder, vit_mini
from untaught.engine.build import build_encoder


def small_vit(**given: Any) -> Encoder:
    return vit_mini(**{"embed_dim": 32, "depth": 2, "num_heads": 2, **given})


def cls_vit(**given: Any) -> Encoder:
    knobs = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 2, **given}
    return timm_encoder("vit_tiny_patch16_224", **knobs)


def mean_vit(**given: Any) -> Encoder:
    return cls_vit(class_token=False, global_pool="avg", **given)


def no_embed_class_vit(**given: Any) -> Encoder:
    return cls_vit(no_embed_class=True, pre_norm=True, **given)


MAKERS: dict[str, Callable[..., Encoder]] = {
    "conv_small": lambda **given: ConvSmall(width=8, **given),
    "vit_mini": small_vit,
    "vit with registers": cls_vit,
    "vit without class token": mean_vit,
    "vit whose class token has no position": no_embed_class_vit,
    "timm/resnet18": lambda **given: timm_encoder("resnet18", **given),
    "timm/mobilenetv3_small_050": lambda **given: timm_encoder("mobilenetv3_small_050", **given),
    "timm/deit_tiny_distilled_patch16_224": lambda **given: timm_encoder("deit_tiny_distilled_patch16_224", depth=2, **given),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
VITS = {name: MAKERS[name] for name in MAKERS if name.startswith("vit")}
each_vit = pytest.mark.parametrize("make", VITS.values(), ids=VITS)


def pictures(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_the_table_has_no_encoder_that_is_not_tested_here() -> None:
    assert set(ENCODERS) == {"conv_small", "vit_mini", "timm/NAME"}


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 48), (4, 96)])
@each
def test_pictures_become_vectors_of_its_width(make: Callable[..., Encoder], channels: int, size: int) -> None:
    encoder = make(channels=channels, size=size)
    y = encoder(pictures(channels, size))
    assert y.shape == (2, encoder.width)
    assert y.isfinite().all()


@each
def test_channels_last_gives_the_same(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    want = encoder(x)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), want, atol=1e-4, rtol=1e-4)


@each
def test_new_encoders_are_in_training_mode(make: Callable[..., Encoder]) -> None:
    assert make(size=32).training


@each
def test_the_same_seed_gives_the_same_weights(make: Callable[..., Encoder]) -> None:
    torch.manual_seed(3)
    first = make(size=32).state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(value, first[key]) for key, value in make(size=32).state_dict().items())


@each
def test_offers_are_true(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=64).eval(), pictures(size=64)
    if "maps" in encoder.offers:
        features = encoder.features(x, want=("pooled", "tokens", "maps"))
        assert features.maps
        sides = [m.shape[-1] for m in features.maps]
        assert all(m.ndim == 4 and len(m) == 2 for m in features.maps)
        assert sides == sorted(sides, reverse=True)
        torch.testing.assert_close(features.pooled, encoder(x))
    if "any_size" in encoder.offers:
        assert encoder(pictures(size=40)).shape == (2, encoder.width)
    if "tokens" in encoder.offers:
        tokens, _ = encoder.embed(x)
        rows, columns = encoder.grid(x)
        assert tokens.shape == (2, rows * columns, encoder.width)
    if "layers" in encoder.offers:
        layers = encoder.features(x, want=("layers",)).layers
        assert layers
        assert len(layers) == 2
        assert all(layer.shape == layers[0].shape for layer in layers)


def test_those_with_tokens_are_those_expected() -> None:
    assert {name for name, make in MAKERS.items() if "tokens" in make(size=32).offers} == set(VITS)


@each_vit
def test_embed_then_context_is_forward(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    assert isinstance(encoder, ViT)
    tokens, _ = encoder.embed(x)
    features = encoder.context(tokens, want=("tokens", "pooled"))
    torch.testing.assert_close(features.pooled, encoder(x))
    torch.testing.assert_close(features.pooled, encoder.model(x))
    whole = encoder.model.forward_features(x)[:, encoder.model.num_prefix_tokens :]
    torch.testing.assert_close(features.tokens, whole)


@each_vit
def test_at_all_places_is_as_without(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    tokens, _ = encoder.embed(x)
    order = torch.stack([torch.randperm(tokens.shape[1]) for _ in range(2)])
    shuffled = torch.stack([t[i] for t, i in zip(tokens, order, strict=True)])
    said, want = encoder.context(shuffled, at=order).tokens, encoder.context(tokens).tokens
    assert said is not None
    assert want is not None
    torch.testing.assert_close(said, torch.stack([t[i] for t, i in zip(want, order, strict=True)]), atol=1e-5, rtol=1e-4)


@each_vit
def test_a_token_at_another_place_is_another(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    tokens, _ = encoder.embed(x)
    here, there = (encoder.context(tokens[:, :2], at=torch.tensor([places] * 2)).tokens for places in ([0, 1], [0, 9]))
    assert here is not None
    assert there is not None
    assert not torch.allclose(here, there)


@each_vit
def test_maps_lie_as_the_picture_does(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    rows, columns = encoder.grid(x)
    features: Features = encoder.features(x, want=("tokens", "maps"))
    assert features.maps is not None
    assert features.tokens is not None
    assert torch.equal(features.maps[0][:, :, 1, 2], features.tokens[:, columns + 2])
    assert features.maps[0].shape[-2:] == (rows, columns)


# ---------------------------------------------------------------------------------------------------------------- timm


def stem(encoder: Encoder) -> nn.Conv2d:
    return encoder.get_submodule("model.conv1")  # type: ignore[return-value]


def test_the_small_stem_keeps_the_resolution() -> None:
    encoder = timm_encoder("resnet18", size=32)
    assert stem(encoder).kernel_size == (3, 3)
    maps = encoder.features(pictures(), want=("maps",)).maps
    assert maps is not None
    assert maps[-1].shape[-1] == 4


@pytest.mark.parametrize("given", [{"size": 32, "stem": "original"}, {"size": 65}])
def test_the_original_stem_is_timms(given: dict[str, Any]) -> None:
    encoder = timm_encoder("resnet18", **given)
    assert stem(encoder).kernel_size == (7, 7)
    torch.testing.assert_close(encoder.eval()(pictures(size=given["size"])), encoder.get_submodule("model")(pictures(size=given["size"])))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "mixer_s32_224", "levit_128s"])
def test_models_of_one_size_take_ours(name: str) -> None:
    encoder = timm_encoder(name, size=112, channels=4)
    assert encoder.eval()(pictures(4, 112)).shape == (2, encoder.width)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a model that is not there": ("resnet8", {}, "timm has no model resnet8; near it: resnet18"),
    "a tag that is not there": ("resnet18.nope", {}, "nope"),
    "a knob that is not there": ("resnet18", {"blok": 3}, "blok"),
    "a stem that is not there": ("resnet18", {"stem": "tiny"}, "auto, small and original"),
    "a small stem where none is known": ("mixer_s32_224", {"stem": "small", "size": 64}, "stem=small is not known"),
    "pictures smaller than a patch": ("vit_tiny_patch16_224", {"size": 8}, "can't take 3 x 8 x 8 pictures"),
    "heads that do not divide": ("vit_tiny_patch16_224", {"size": 32, "embed_dim": 30, "num_heads": 4}, "timm/vit_tiny_patch16_224"),
    "a folder that is not there": ("local-dir:/nowhere", {}, "/nowhere"),
    "weights that are not there": ("resnet18", {"weights": "/nowhere.pth"}, "weights=/nowhere.pth: is not there"),
}


@pytest.mark.parametrize(("name", "given", "says"), WRONG.values(), ids=WRONG)
def test_what_timm_cannot_do_is_one_line(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        timm_encoder(name, **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("given", [{"size": 224}, {"size": 32}, {"size": 224, "channels": 1}], ids=str)
def test_weights_of_a_classifier_are_taken_from_a_file(kind: str, given: dict[str, Any], tmp_path: Path) -> None:
    model, path = timm.create_model("resnet18", num_classes=5), tmp_path / f"weights.{kind}"
    (save_file if kind == "safetensors" else torch.save)(model.state_dict(), path)
    encoder = timm_encoder("resnet18", weights=str(path), **given)
    assert torch.equal(encoder.get_parameter("model.layer1.0.conv1.weight"), model.get_parameter("layer1.0.conv1.weight"))


def test_positions_of_a_file_are_resized(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=5, **knobs).state_dict(), path)
    assert timm_encoder("vit_tiny_patch16_224", weights=str(path), size=96, **knobs)(pictures(size=96)).shape == (2, 32)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_damaged_file_of_weights_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="can't be read"):
        timm_encoder("resnet18", weights=str(path))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no weights of timm/resnet18"):
        timm_encoder("resnet18", weights=str(tmp_path / "weights.pth"))


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm-was-done"),)


def test_a_file_of_weights_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="can't be read"):
        timm_encoder("resnet18", weights=str(tmp_path / "weights.pth"))
    assert not Path("harm-was-done").exists()


# ------------------------------------------------------------------------------------------------- modules of the user's


@pytest.mark.parametrize("module", [nn.Conv2d(3, 7, 3), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 7))], ids=["maps", "vectors"])
def test_a_plain_module_is_an_encoder(module: nn.Module) -> None:
    encoder = build_encoder(module, {"channels": 3, "size": 8}, {})
    assert encoder.width == 7
    assert encoder(pictures(size=8)).shape == (2, 7)


def test_the_width_of_a_plain_module_is_found_without_changing_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    Plain(module, {"channels": 3, "size": 8})
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("module", [nn.Linear(5, 2), nn.Flatten(0), nn.Unflatten(1, (3, 1))], ids=["wrong input", "one axis", "five axes"])
def test_a_plain_module_that_gives_no_vectors_is_refused(module: nn.Module) -> None:
    with pytest.raises(UserError, match=type(module).__name__):
        Plain(module, {"channels": 3, "size": 8})


# --------------------------------------------------------------------------------------------------------------- build


def test_names_and_knobs_are_resolved() -> None:
    encoder = build_encoder("conv_small", {"channels": 3, "size": 32}, {"width": "16"})
    assert encoder.width == 128


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("conv_smal", {}, "did you mean conv_small"),
        ("conv_small", {"widht": "16"}, "did you mean encoder.width"),
        ("conv_small", {"width": "wide"}, "encoder.width=wide: must be a whole number"),
        ("hub/thing", {}, "unknown encoder hub/thing"),
        ("timm/", {}, "unknown encoder timm/"),
    ],
)
def test_unknown_names_and_knobs_show_the_nearest(name: str, knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_encoder(name, {"channels": 3, "size": 32}, knobs)
