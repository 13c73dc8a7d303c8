"""The convolution's gradients, against PyTorch's own."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from untaught.blocks import convolution as module
from untaught.blocks.convolution import Convolution, quicken, to_weight


@pytest.mark.parametrize(("batch", "height", "width"), [(3, 4, 4), (37, 2, 3), (2, 8, 8), (2, 5, 9)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_weight_gradient_is_pytorchs(
    batch: int, height: int, width: int, stride: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 5_000)  # several parts, the last one cut short
    torch.manual_seed(0)
    x, weight = torch.randn(batch, 5, height, width).to(memory_format=layout), torch.randn(7, 5, 3, 3, requires_grad=True)
    said = F.conv2d(x, weight, stride=stride, padding=1)
    upstream = torch.randn_like(said)
    (theirs,) = torch.autograd.grad(said, weight, upstream)
    torch.testing.assert_close(to_weight(x, upstream, stride), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_in_autocast_it_gives_what_conv2d_gives(stride: int) -> None:
    torch.manual_seed(0)
    convolution, x = Convolution(8, 8, stride), torch.randn(40, 8, 4, 4, requires_grad=True)
    plain = nn.Conv2d(8, 8, 3, stride=stride, padding=1, bias=False)
    plain.load_state_dict(convolution.state_dict())
    found = []
    for network in (convolution, plain):
        with torch.autocast("cpu", torch.bfloat16):
            said = network(x)
        found.append((said, *torch.autograd.grad(said.float().square().sum(), (x, network.weight))))
    assert "Convolve" in type(found[0][0].grad_fn).__name__
    assert [a.dtype for a in found[0]] == [b.dtype for b in found[1]]
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).float().norm() < 0.01 * theirs.float().norm()


def test_elsewhere_it_is_a_plain_convolution() -> None:
    convolution, x = Convolution(3, 4), torch.randn(2, 3, 4, 4)
    assert "Convolve" not in type(convolution(x).grad_fn).__name__  # float32
    with torch.autocast("cpu", torch.bfloat16):
        assert "Convolve" not in type(convolution(torch.randn(2, 3, 12, 12)).grad_fn).__name__  # larger maps
        assert "Convolve" not in type(convolution.eval()(x).grad_fn).__name__


def test_quicken_changes_what_it_can_and_no_weight() -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=0).eval()
    names, x = list(network.state_dict()), torch.randn(1, 3, 64, 64)
    before = network(x)
    quicken(network)
    kinds = {name: type(part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}
    assert kinds["layer4.1.conv2"] is kinds["layer3.0.conv1"] is Convolution
    assert kinds["conv1"] is kinds["layer4.0.downsample.0"] is nn.Conv2d  # 7 x 7, and 1 x 1
    assert list(network.state_dict()) == names
    assert torch.equal(network(x), before)
