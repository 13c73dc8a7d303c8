"""Which layers of an encoder learn, how fast, and that the others stand still."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from untaught.core import UserError, View
from untaught.downstream.network import Network, TrainedLayers
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.layers import layer_numbers
from untaught.encoders.plain import Plain
from untaught.encoders.timm import timm_encoder, vit_mini


def of_modules(names: dict[str, int]) -> list[str]:
    """The parameters' modules in the order of their layers, each layer once: "stages.0" ..."""
    return sorted({name.rsplit(".", 1)[0] for name in names}, key=lambda name: min(n for key, n in names.items() if key.startswith(name)))


def test_layers_of_our_own_network_are_its_stages() -> None:
    encoder = ConvSmall(width=2)
    numbers = layer_numbers(encoder)
    assert set(numbers) == {name for name, _ in encoder.named_parameters()}
    assert all(number == int(name.split(".")[1]) for name, number in numbers.items())


def test_layers_of_timm_models_are_theirs() -> None:
    resnet = layer_numbers(timm_encoder("resnet18", size=32))
    assert resnet["model.conv1.weight"] == 0 < resnet["model.layer1.0.conv1.weight"] < resnet["model.layer4.1.conv2.weight"]
    vit = layer_numbers(vit_mini(size=16, embed_dim=12, depth=3))
    first, last = vit["model.patch_embed.proj.weight"], vit["model.blocks.2.mlp.fc2.weight"]
    assert (first, vit["model.pos_embed"], vit["model.blocks.0.attn.qkv.weight"], last) == (0, 0, 1, 3)
    assert sorted(set(vit.values())) == list(range(max(vit.values()) + 1))


def test_layers_of_any_module_are_its_children_in_order() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    numbers = layer_numbers(Plain(module, View(torch.zeros(2, 1, 8, 8))))
    assert numbers == {
        "module.0.weight": 0,
        "module.0.bias": 0,
        "module.2.0.weight": 1,
        "module.2.0.bias": 1,
        "module.2.1.weight": 1,
        "module.2.1.bias": 1,
    }


def stepped(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state before and after one step of gradient descent in training mode."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(View(torch.randn(8, 3, 32, 32))).square().sum().backward()
    optimizer.step()
    return before, dict(network.state_dict())


@pytest.mark.parametrize(
    ("layers", "moving"),
    [
        (TrainedLayers(last=1), {0, 1, 2}),
        (TrainedLayers("partial"), {2}),
        (TrainedLayers("partial", last=2), {1, 2}),
        (TrainedLayers("partial", last=9), {0, 1, 2}),
        (TrainedLayers("frozen"), set()),
    ],
)
def test_only_the_last_layers_move_batch_norm_included(layers: TrainedLayers, moving: set[int]) -> None:
    torch.manual_seed(0)
    before, after = stepped(Network(ConvSmall(width=4), nn.Linear(8 * 4, 2), layers))
    for name, value in after.items():
        learns = name.startswith("head") or int(name.split(".")[2]) in moving
        assert torch.equal(before[name], value) is not learns, name


def test_rates_fall_towards_the_input() -> None:
    groups = Network(ConvSmall(width=2), nn.Linear(8 * 2, 2), TrainedLayers(layer_decay=0.5)).groups("network.")
    rates = {name.split(".")[3]: own["lr_scale"] for name, own in groups.items()}
    assert rates == {"0": 0.125, "1": 0.25, "2": 0.5}
    assert not any(name.startswith("network.head") for name in groups)


def test_the_head_is_exact_under_autocast() -> None:
    network = Network(ConvSmall(width=2), nn.Linear(8 * 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(View(torch.randn(2, 3, 32, 32))).dtype == torch.float32


@pytest.mark.parametrize(("last", "decay", "said"), [(0, 0.5, "last=0"), (1, 0.0, "layer_decay=0.0"), (1, 1.5, "layer_decay=1.5")])
def test_knobs_out_of_range_are_named(last: int, decay: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainedLayers("partial", last, decay)
