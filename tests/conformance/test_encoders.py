"""What every encoder promises: vectors of its width for any channels and size, and abilities that it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import text_batch, text_prep, toy_language

from untaught.config.registry import build_encoder
from untaught.core import Encoder, Features, UserError, View
from untaught.encoders import ENCODERS
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.language import bart, bert, gpt, language, llama, modernbert
from untaught.encoders.pixelcnn import PixelCNN
from untaught.encoders.pixelrnn import PixelRNN
from untaught.encoders.plain import Plain
from untaught.encoders.timm import ViT, timm_encoder, vit_causal, vit_mini


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
    "pixelcnn": lambda **given: PixelCNN(width=8, depth=1, **given),
    "pixelrnn": lambda **given: PixelRNN(width=8, depth=1, **given),
    "vit_mini": small_vit,
    "vit_causal": lambda **given: vit_causal(**{"embed_dim": 32, "depth": 2, "num_heads": 2, **given}),
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
FAMILIES: dict[str, Any] = {"bert": bert, "modernbert": modernbert, "gpt": gpt, "llama": llama, "bart": bart}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def pictures(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_the_table_has_no_encoder_that_is_not_tested_here() -> None:
    images = {"conv_small", "vit_mini", "vit_causal", "timm/NAME", "pixelcnn", "pixelrnn"}
    assert set(ENCODERS) == {
        *images,
        *FAMILIES,
        "conv_series",
        "ts2vec",
        "patch_series",
        "patch_causal",
        "conv_mel",
        "wav2vec2",
        "hubert",
        "mlp",
        *("mlp_table", "resnet_table", "ft_transformer"),  # in test_table_encoders.py
        *("sasrec", "bert4rec"),  # in test_events_by_equation.py
        "transformers/NAME",
    }


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 48), (4, 96)])
@each
def test_pictures_become_vectors_of_its_width(make: Callable[..., Encoder], channels: int, size: int) -> None:
    encoder = make(channels=channels, size=size)
    y = encoder(View(pictures(channels, size)))
    assert y.shape == (2, encoder.width)
    assert y.isfinite().all()


@each
def test_channels_last_gives_the_same(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    want = encoder(View(x))
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(encoder(View(x.contiguous(memory_format=torch.channels_last))), want, atol=1e-4, rtol=1e-4)


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
        features = encoder.features(View(x), want=("pooled", "tokens", "maps"))
        assert features.maps
        sides = [m.shape[-1] for m in features.maps]
        assert all(m.ndim == 4 and len(m) == 2 for m in features.maps)
        assert sides == sorted(sides, reverse=True)
        torch.testing.assert_close(features.pooled, encoder(View(x)))
    if "any_size" in encoder.offers:
        assert encoder(View(pictures(size=40))).shape == (2, encoder.width)
    if "tokens" in encoder.offers:
        tokens, _ = encoder.embed(View(x))
        rows, columns = encoder.grid(View(x))
        assert tokens.shape == (2, rows * columns, encoder.width)
    if "layers" in encoder.offers:
        layers = encoder.features(View(x), want=("layers",)).layers
        assert layers
        assert len(layers) == 2
        assert all(layer.shape == layers[0].shape for layer in layers)


def test_those_with_tokens_are_those_expected() -> None:
    assert {name for name, make in MAKERS.items() if "tokens" in make(size=32).offers} == set(VITS)


@each_vit
def test_embed_then_context_is_forward(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    assert isinstance(encoder, ViT)
    tokens, _ = encoder.embed(View(x))
    features = encoder.context(tokens, want=("tokens", "pooled"))
    torch.testing.assert_close(features.pooled, encoder(View(x)))
    if encoder.causal:  # which timm's model does not know of
        return
    torch.testing.assert_close(features.pooled, encoder.model(x))
    whole = encoder.model.forward_features(x)[:, encoder.model.num_prefix_tokens :]
    torch.testing.assert_close(features.tokens, whole)


@each_vit
def test_at_all_places_is_as_without(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    tokens, _ = encoder.embed(View(x))
    order = torch.stack([torch.randperm(tokens.shape[1]) for _ in range(2)])
    shuffled = torch.stack([t[i] for t, i in zip(tokens, order, strict=True)])
    said, want = encoder.context(shuffled, at=order).tokens, encoder.context(tokens).tokens
    assert said is not None
    assert want is not None
    torch.testing.assert_close(said, torch.stack([t[i] for t, i in zip(want, order, strict=True)]), atol=1e-5, rtol=1e-4)


@each_vit
def test_a_token_at_another_place_is_another(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    tokens, _ = encoder.embed(View(x))
    here, there = (encoder.context(tokens[:, :2], at=torch.tensor([places] * 2)).tokens for places in ([0, 1], [0, 9]))
    assert here is not None
    assert there is not None
    assert not torch.allclose(here, there)


@each_vit
def test_layers_are_what_each_block_says_of_the_tokens(make: Callable[..., Encoder]) -> None:
    encoder, said = make(size=32).eval(), []
    assert isinstance(encoder, ViT)
    for block in encoder.model.blocks:
        block.register_forward_hook(lambda _, __, out: said.append(out))
    layers = encoder.features(View(pictures()), want=("layers",)).layers
    assert layers is not None
    for layer, whole in zip(layers, said, strict=True):
        assert torch.equal(layer, whole[:, encoder.model.num_prefix_tokens :])


@each_vit
def test_maps_lie_as_the_picture_does(make: Callable[..., Encoder]) -> None:
    encoder, x = make(size=32).eval(), pictures()
    rows, columns = encoder.grid(View(x))
    features: Features = encoder.features(View(x), want=("tokens", "maps"))
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
    maps = encoder.features(View(pictures()), want=("maps",)).maps
    assert maps is not None
    assert maps[-1].shape[-1] == 4


@pytest.mark.parametrize("given", [{"size": 32, "stem": "original"}, {"size": 65}])
def test_the_original_stem_is_timms(given: dict[str, Any]) -> None:
    encoder = timm_encoder("resnet18", **given)
    assert stem(encoder).kernel_size == (7, 7)
    torch.testing.assert_close(
        encoder.eval()(View(pictures(size=given["size"]))), encoder.get_submodule("model")(pictures(size=given["size"]))
    )


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "mixer_s32_224", "levit_128s"])
def test_models_of_one_size_take_ours(name: str) -> None:
    encoder = timm_encoder(name, size=112, channels=4)
    assert encoder.eval()(View(pictures(4, 112))).shape == (2, encoder.width)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a model that is not there": ("resnet8", {}, "timm has no model resnet8; similar: resnet18"),
    "a tag that is not there": ("resnet18.nope", {}, "nope"),
    "a knob that is not there": ("resnet18", {"blok": 3}, "blok"),
    "a stem that is not there": ("resnet18", {"stem": "tiny"}, "one of auto, small, original"),
    "a small stem where none is known": ("mixer_s32_224", {"stem": "small", "size": 64}, "stem=small is not supported"),
    "images smaller than a patch": ("vit_tiny_patch16_224", {"size": 8}, "can't take 3 x 8 x 8 images"),
    "heads that do not divide": ("vit_tiny_patch16_224", {"size": 32, "embed_dim": 30, "num_heads": 4}, "timm/vit_tiny_patch16_224"),
    "a folder that is not there": ("local-dir:/nowhere", {}, "/nowhere"),
    "a model without weights": (
        "test_vit_relpos",
        {"weights": "pretrained", "size": 160},
        "timm/test_vit_relpos has no pretrained weights; choose a model of timm.list_models(pretrained=True)",
    ),
    "weights that are not there": ("resnet18", {"weights": "/nowhere.pth"}, "weights=/nowhere.pth: file not found"),
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
    assert timm_encoder("vit_tiny_patch16_224", weights=str(path), size=96, **knobs)(View(pictures(size=96))).shape == (2, 32)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_damaged_file_of_weights_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="can't be read"):
        timm_encoder("resnet18", weights=str(path))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="has no weights of timm/resnet18"):
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


# ------------------------------------------------------------------------------------------------------ language models


def texts() -> tuple[Tensor, Tensor]:
    batch = text_batch()
    return batch["ids"][:4].long(), batch["ids_valid"][:4]


@each_family
def test_texts_become_vectors_of_its_width(family: Any) -> None:
    encoder, (ids, valid) = toy_language(family), texts()
    assert encoder.training
    y = encoder(View(ids, valid))
    assert y.shape == (4, encoder.width)
    assert y.isfinite().all()


@each_family
def test_what_a_text_becomes_does_not_depend_on_its_padding(family: Any) -> None:
    encoder, (ids, valid) = toy_language(family).eval(), texts()
    for row, own, y in zip(ids, valid, encoder(View(ids, valid)), strict=True):
        torch.testing.assert_close(encoder(View(row[own][None]))[0], y, atol=1e-5, rtol=1e-4)


def test_padding_beyond_a_windows_reach_harms_neither_vectors_nor_gradients() -> None:
    """ModernBERT's layers that see 64 tokens to each side find nothing but padding there."""
    given = {"vocabulary": 60, "length": 256, "special": {"pad": 0}}
    encoder, ids = modernbert(**given, width=32, depth=3, heads=2), torch.randint(5, 60, (2, 256))
    valid = torch.arange(256).expand(2, -1) < torch.tensor([[20], [256]])
    y = encoder(View(ids, valid))
    torch.testing.assert_close(y[:1], encoder(View(ids[:1, :20])), atol=1e-5, rtol=1e-4)
    y.square().sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in encoder.parameters())


@each_family
def test_offers_of_language_models_are_true(family: Any) -> None:
    encoder, (ids, valid) = toy_language(family).eval(), texts()
    assert {"tokens", "layers", "words", "any_size"} <= encoder.offers
    assert ("causal" in encoder.offers, "decoder" in encoder.offers) == (family in (gpt, llama), family is bart)
    assert ("bidirectional" in encoder.offers) == (family not in (gpt, llama))
    found = encoder.features(View(ids, valid), want=("pooled", "tokens", "layers"))
    assert found.tokens is not None
    assert found.layers
    assert found.tokens.shape == (*ids.shape, encoder.width)
    assert encoder.grid(View(ids)) == (ids.shape[1],)
    assert [layer.shape for layer in found.layers] == [found.tokens.shape] * 2
    torch.testing.assert_close(found.layers[-1], found.tokens)  # as transformers has it: behind the last norm
    mean = torch.stack([row[own].mean(0) for row, own in zip(found.tokens, valid, strict=True)])
    torch.testing.assert_close(found.pooled, mean, atol=1e-6, rtol=1e-5)


@each_family
def test_embed_then_context_is_features_of_a_text(family: Any) -> None:
    encoder, (ids, valid) = toy_language(family).eval(), texts()
    tokens, same = encoder.embed(View(ids, valid))
    assert same is valid
    torch.testing.assert_close(encoder.context(tokens, valid).tokens, encoder.features(View(ids, valid), want=("tokens",)).tokens)


@each_family
def test_kept_tokens_keep_their_places(family: Any) -> None:
    """Given as the usual places they change nothing; given as others the same tokens become others."""
    encoder, (ids, _) = toy_language(family).eval(), texts()
    with torch.no_grad():  # weights as large as trained ones: rotary positions hardly matter to those drawn
        for weight in encoder.parameters():
            weight.mul_(5 if weight.ndim == 2 else 1)
    tokens, _ = encoder.embed(View(ids[:, :6]))
    usual, other = torch.arange(6).expand(4, -1), torch.tensor([0, 2, 3, 7, 8, 9]).expand(4, -1)
    want = encoder.context(tokens).tokens
    assert want is not None
    torch.testing.assert_close(encoder.context(tokens, at=usual).tokens, want, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder.context(tokens, at=other).tokens, want, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [bert, modernbert, bart], ids=["bert", "modernbert", "bart"])
def test_tokens_in_another_order_at_their_places_are_the_same(family: Any) -> None:
    encoder, (ids, _) = toy_language(family).eval(), texts()
    tokens, _ = encoder.embed(View(ids[:, :6]))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    want = encoder.context(tokens).tokens
    assert want is not None
    found = encoder.context(tokens[:, order], at=order.expand(4, -1)).tokens
    torch.testing.assert_close(found, want[:, order], atol=1e-5, rtol=1e-4)


def test_roberta_numbers_its_places_behind_padding(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, RobertaConfig

    sizes: Any = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 26,
    }
    AutoModelForMaskedLM.from_config(RobertaConfig(vocab_size=300, pad_token_id=1, **sizes)).save_pretrained(tmp_path)
    encoder = language(str(tmp_path), vocabulary=300, length=24, special={"pad": 1}).eval()
    ids = torch.randint(5, 300, (2, 24))
    tokens, _ = encoder.embed(View(ids))
    want = encoder.features(View(ids), want=("tokens",)).tokens
    torch.testing.assert_close(encoder.context(tokens, at=torch.arange(24).expand(2, -1)).tokens, want)
    with pytest.raises(UserError, match=r"length=25: .* has 24 positions"):
        language(str(tmp_path), vocabulary=300, length=25, special={"pad": 1})
    with pytest.raises(UserError, match="has a vocabulary of 300 tokens, but the tokenizer has 301"):
        language(str(tmp_path), vocabulary=301, length=24, special={"pad": 1})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        language(str(tmp_path), vocabulary=300, length=24, special={"pad": 1})


@pytest.mark.parametrize("family", [bert, modernbert, bart], ids=["bert", "modernbert", "bart"])
def test_causal_training_of_what_sees_both_sides_is_refused(family: Any) -> None:
    encoder = toy_language(family)
    tokens, _ = encoder.embed(View(texts()[0]))
    with pytest.raises(UserError, match="is bidirectional"):
        encoder.context(tokens, causal=True)


@each_family
def test_words_are_scored_as_the_whole_model_does(family: Any) -> None:
    encoder: Any = toy_language(family).eval()
    ids, valid = texts()
    whole = encoder.language.eval()
    words = encoder.words()
    given = {"decoder_input_ids": ids} if family is bart else {}
    want = whole(input_ids=ids, attention_mask=valid.long(), **given).logits
    tokens = encoder.features(View(ids, valid), want=("tokens",)).tokens
    found = words(encoder.decode(ids, tokens, valid) if family is bart else tokens)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
    hidden, weight, _ = words.parts(tokens)
    assert weight is encoder.model.get_input_embeddings().weight
    assert hidden.shape[-1] == weight.shape[1]


def test_a_decoder_sees_what_came_before_and_the_valid_memory() -> None:
    encoder: Any = toy_language(bart).eval()
    ids, valid = texts()
    memory = torch.randn(*ids.shape, encoder.width)
    want = encoder.decode(ids, memory, valid)
    for t in range(1, ids.shape[1]):
        other = ids.clone()
        other[:, t:] = 7
        torch.testing.assert_close(encoder.decode(other, memory, valid)[:, :t], want[:, :t], atol=1e-6, rtol=1e-5)
    wild = torch.where(valid.unsqueeze(2), memory, 100.0)
    torch.testing.assert_close(encoder.decode(ids, wild, valid), want, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder.decode(ids, -memory, valid), want, atol=1e-3)
    assert encoder.start == text_prep().settings["special"]["sep"]


@pytest.mark.parametrize("family", [bert, gpt, modernbert], ids=["bert", "gpt", "modernbert"])
def test_a_shallower_one_shares_the_embedding_and_nothing_else(family: Any, tmp_path: Path) -> None:
    encoder: Any = toy_language(family)
    small: Any = encoder.shallower(0.25)
    layers = small.features(View(*texts()), want=("layers",)).layers
    assert len(layers) == 1
    assert layers[0].shape[2] == encoder.width
    shared = {id(p) for p in small.parameters()} & {id(p) for p in encoder.parameters()}
    assert shared == {id(encoder.model.get_input_embeddings().weight)}
    assert small.words().parts(torch.zeros(1, 1, encoder.width))[1] is encoder.model.get_input_embeddings().weight
    assert small.language.config.num_hidden_layers == 1
    assert encoder.language.config.num_hidden_layers == 2
    small.language.save_pretrained(tmp_path)  # which checks that its settings agree


@pytest.mark.parametrize("family", FAMILIES)
def test_a_width_that_heads_do_not_divide_is_one_line(family: str) -> None:
    with pytest.raises(UserError, match=r"encoder.width=30: must be a multiple of its 4 heads"):
        build_encoder(family, {"vocabulary": 50, "length": 16, "special": {"pad": 0}}, {"width": "30"})


def test_mlp_takes_any_numbers_of_a_sample() -> None:
    encoder = build_encoder("mlp", {"inputs": 12}, {"width": "8", "depth": "3"}).eval()
    assert encoder.width == 8
    assert sum(isinstance(layer, nn.Linear) for layer in encoder.modules()) == 3
    x = torch.randn(5, 3, 4)
    assert torch.equal(encoder(View(x)), encoder(View(x.flatten(1))))
    assert (encoder(View(x)) >= 0).all()


# ------------------------------------------------------------------------------------------------- modules of the user's


@pytest.mark.parametrize("module", [nn.Conv2d(3, 7, 3), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 7))], ids=["maps", "vectors"])
def test_a_plain_module_is_an_encoder(module: nn.Module) -> None:
    encoder = build_encoder(module, {}, {}, lambda: View(torch.zeros(2, 3, 8, 8)))
    assert encoder.width == 7
    assert encoder(View(pictures(size=8))).shape == (2, 7)


def test_the_width_of_a_plain_module_is_found_without_changing_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    Plain(module, View(torch.zeros(2, 3, 8, 8)))
    assert module.training
    Plain(module.eval(), View(torch.zeros(2, 3, 8, 8)))
    assert not module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("module", [nn.Linear(5, 2), nn.Flatten(0)], ids=["wrong input", "one axis"])
def test_a_plain_module_that_gives_no_vectors_is_refused(module: nn.Module) -> None:
    with pytest.raises(UserError, match=type(module).__name__):
        Plain(module, View(torch.zeros(2, 3, 8, 8)))


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


def test_a_transformers_model_is_shown_pictures_as_its_folder_says(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from untaught.encoders.transformers import shown_as

    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    said = {"size": {"height": 32, "width": 32}, "image_mean": mean, "image_std": std}
    for normalised, shown in ((None, (mean, std)), (True, (mean, std)), (False, ([0.0] * 3, [1.0] * 3))):
        own = said if normalised is None else said | {"do_normalize": normalised}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
        assert shown_as(str(tmp_path)) == {"size": 32, "mean": shown[0], "std": shown[1]}
