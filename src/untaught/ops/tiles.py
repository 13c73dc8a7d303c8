"""Tiles of images, and what hides the cues by which their place could be guessed without looking at the content."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from untaught.ops.resample import resample, resize_matrix

FLAT = 1e-4  # added to a tile's variance, in units of the input's


def cut(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """x (B,C,H,W), top and left (B,T,C) int64, the corner of each tile in each channel -> tiles (B,T,C,side,side)."""
    line = torch.arange(side, device=x.device)
    at = (top.unsqueeze(-1) + line).unsqueeze(-1) * x.shape[3] + (left.unsqueeze(-1) + line).unsqueeze(-2)
    tiles = x.flatten(2).gather(2, at.transpose(1, 2).flatten(2))
    return tiles.unflatten(2, (-1, side, side)).transpose(1, 2).contiguous()


def standardise(tiles: Tensor) -> Tensor:
    """tiles (...,C,h,w) -> the same, each with mean 0 in every channel and a variance of 1 over all of its values."""
    centred = tiles - tiles.mean((-2, -1), keepdim=True)
    return centred * (centred.square().mean((-3, -2, -1), keepdim=True) + FLAT).rsqrt()


def keep_one_channel(tiles: Tensor, kept: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """tiles (B,T,C,h,w), kept (B,T) int64, noise of the tiles' shape, standard normal -> the tiles with only one channel kept.

    The kept channel's mean is subtracted, and the others are noise with `deviation` times its standard deviation: colour dropping, Doersch,
    Gupta, Efros 2015, section 3.1, https://arxiv.org/abs/1505.05192
    """
    chosen = torch.arange(tiles.shape[2], device=tiles.device) == kept.unsqueeze(-1)
    one = tiles.gather(2, kept.view(*kept.shape, 1, 1, 1).expand(-1, -1, 1, *tiles.shape[3:]))
    one = one - one.mean((-2, -1), keepdim=True)
    spread = deviation * one.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(chosen[..., None, None], one, noise * spread)


def project_green_magenta(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x (...,3,h,w) with colours normalised by mean and std (3,) -> without its component along the green-magenta axis (-1, 2, -1).

    Chromatic aberration shifts green against red and blue. Colour projection, Doersch, Gupta, Efros 2015, section 3.1: I - a a^T / a^T a.
    """
    axis = torch.tensor([-1.0, 2.0, -1.0], device=x.device)
    matrix = torch.eye(3, device=x.device) - torch.outer(axis, axis) / axis.square().sum()
    colours = x.transpose(-3, -1) * std + mean
    return ((colours @ matrix.T - mean) / std).transpose(-3, -1)


def pixelate(tiles: Tensor, side: Tensor) -> Tensor:
    """tiles (N,C,s,s), side (N,) int64 from 1 to s -> each resized to `side` pixels and back to s: bilinear, antialiased."""
    matrices = _there_and_back(tiles.shape[-1], tiles.device)[side]
    return resample(tiles, matrices, matrices)


@cache
def _there_and_back(size: int, device: torch.device) -> Tensor:
    """(size + 1, size, size): at k the resize of `size` pixels to k and back along one axis; nothing at 0."""
    full, still = torch.tensor([float(size)], device=device), torch.tensor([False], device=device)
    matrices = [torch.zeros(size, size, device=device)]
    for small in range(1, size + 1):
        there = resize_matrix(torch.zeros_like(full), full, still, size, small)[0]
        back = resize_matrix(torch.zeros_like(full), torch.full_like(full, small), still, small, size)[0]
        matrices.append(back @ there)
    return torch.stack(matrices)
