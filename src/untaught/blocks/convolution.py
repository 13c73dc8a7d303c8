"""3 x 3 convolutions with fast weight gradients for small maps on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 64  # positions of an output map up to which patch products are faster than the library's kernel
PART = 1 << 22  # elements in the patches of one product, so that they fit into caches


class Convolution(nn.Conv2d):
    """nn.Conv2d, 3 x 3 with padding 1, any stride, no bias: x (B,C,H,W) -> (B, outside, ...).

    In bfloat16 training on a CPU, the weight gradient for small maps is computed as a matrix product of output gradients and input
    patches, one part of the batch at a time. oneDNN's kernel takes twice as long at 8 x 8, five times at 4 x 4.
    """

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__(inside, outside, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        places = ((x.shape[-2] - 1) // self.stride[0] + 1) * ((x.shape[-1] - 1) // self.stride[1] + 1)
        if places <= SMALL and self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            return _Convolve.apply(x, self.weight, self.stride)
        return super().forward(x)


def quicken(network: nn.Module) -> None:
    """Turns every equivalent nn.Conv2d of the network into a Convolution, in place; weights and names are unchanged."""
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.bias is not None or module.padding_mode != "zeros":
            continue
        if (module.kernel_size, module.padding, module.dilation, module.groups) == ((3, 3), (1, 1), (1, 1), 1):
            module.__class__ = Convolution


class _Convolve(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_input = None
        if ctx.needs_input_grad[0]:
            shape = (None, ctx.stride, [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])
            to_input = torch.ops.aten.convolution_backward(gradient, x, weight, *shape)[0]
        return to_input, to_weight(x, gradient, ctx.stride).to(weight.dtype), None


def to_weight(x: Tensor, gradient: Tensor, stride: tuple[int, int]) -> Tensor:
    """x (B,C,H,W), gradient (B,O,h,w) of the outputs -> (O,C,3,3) float32, the weight gradient."""
    (_, inside, _, _), (_, outside, height, width) = x.shape, gradient.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()  # (B,H+2,W+2,C)
    sample, line, place, _ = padded.stride()
    patches = padded.as_strided(
        (len(x), height, width, 3, 3 * inside), (sample, line * stride[0], place * stride[1], line, 1)
    )  # three horizontal neighbours are contiguous
    rows = gradient.permute(0, 2, 3, 1)
    part = max(1, PART // (height * width * 9 * inside))
    total = torch.zeros(outside, 9 * inside, device=x.device)
    for start in range(0, len(x), part):
        here = slice(start, start + part)
        total += rows[here].reshape(-1, outside).t() @ patches[here].reshape(-1, 9 * inside)
    return total.view(outside, 3, 3, inside).permute(0, 3, 1, 2)
