"""Make pictures comparable for the search of near-duplicates: smoothed, centred and reduced.

Copies that are shifted, or that differ by noise, are far from each other in the space of pixels. A Gaussian of 1/28 of
the picture's width averages noise away, and the move to the centre of mass takes a shift back. Both treat all pictures
alike. What is left has less detail than the smoothing lets through, so every second entry is enough.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["registered", "registered_shape"]

WIDTH = 1 / 28  # standard deviation of the Gaussian, in widths of the picture: one pixel of MNIST
CHUNK = 2**20  # entries at a time


def registered(x: Tensor) -> Tensor:
    r"""Return comparable features ``(N, F)`` in float32 of pictures ``(N, C, H, W)``.

    The centre of mass weighs the squared difference of the smoothed picture from its median, so that it depends neither
    on contrast and offset nor on whether the background is bright. The picture is moved by fractions of a pixel; what
    comes in from outside continues the border.
    """
    pieces = x.split(max(1, CHUNK // x[0].numel()))
    return torch.cat([_registered(piece.float()).flatten(1) for piece in pieces])


def registered_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of the pictures that ``registered`` makes of those of ``(C, H, W)``."""
    channels, height, width = shape
    rows, columns = _pool(height, width)
    return channels, height // rows, width // columns


def _pool(height: int, width: int) -> tuple[int, int]:
    """Return how many rows and columns are averaged: every second entry of what the smoothing leaves is enough."""
    pool = max(1, int(2 * WIDTH * max(height, width)))
    return min(pool, height), min(pool, width)


def _registered(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    sigma = WIDTH * max(height, width)
    smooth = smoothed(x, sigma)
    centred = _centred(smooth, smoothed(smooth, sigma))
    return functional.avg_pool2d(centred, _pool(height, width))


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """Convolve ``(N, C, H, W)`` with a Gaussian; the border continues outside."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=x.dtype) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = x.flatten(0, 1)[:, None]
    flat = functional.conv2d(functional.pad(flat, (radius, radius, 0, 0), "replicate"), kernel[None, None, None, :])
    flat = functional.conv2d(functional.pad(flat, (0, 0, radius, radius), "replicate"), kernel[None, None, :, None])
    return flat.view_as(x)


def _centred(x: Tensor, seen: Tensor) -> Tensor:
    """Move ``x`` so that the centre of mass of ``seen`` is the centre of the picture."""
    n, _, height, width = x.shape
    mass = (seen - seen.flatten(2).median(dim=2).values[..., None, None]).square().sum(dim=1)  # (N, H, W)
    mass = mass.double()
    total = mass.sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    move = torch.zeros(n, 2, 3)
    move[:, 0, 0] = move[:, 1, 1] = 1
    for row, size, dim in ((0, width, 1), (1, height, 2)):
        place = (2 * torch.arange(size).double() + 1) / size - 1  # from -1 to 1
        move[:, row, 2] = ((mass.sum(dim=dim) @ place) / total).float()
    grid = functional.affine_grid(move, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
