"""Copies that are turned against each other: the distance of two pictures up to a turn by at most 20 degrees.

A turn by 5 degrees moves the border of a digit by more than a pixel, so that copies that are turned lie farther apart
than some different digits. Of the closest pairs the second picture is turned by each of ``ANGLES``, and the smallest
distance counts. Samples and real examples are treated alike, so that a threshold that is calibrated on real pairs pays
for the freedom of the turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Generator, Tensor
from torch.nn import functional

from bench.metrics.near_duplicates import closest_pairs

__all__ = ["TRIED", "Pairs", "closest_up_to_a_turn", "joined", "spread_of_turns", "turned", "turned_at_random"]

ANGLES = (-20, -15, -10, -5, 5, 10, 15, 20)  # degrees
TRIED = 2**14  # pairs that are turned; of 1,000 digits those within about four times the threshold
CHUNK = 2**20  # entries at a time


@dataclass(frozen=True)
class Pairs:
    """Pairs i < j by ascending distance up to a turn: ``(m,)`` int64, float64, and degrees in float64.

    Attributes:
        plain: Distance without a turn.
        angle: Of the turn of the second one that brings the two closest.
    """

    i: Tensor
    j: Tensor
    distance: Tensor
    plain: Tensor
    angle: Tensor

    def where(self, kept: Tensor) -> "Pairs":
        """Return those pairs that a mask keeps."""
        return Pairs(self.i[kept], self.j[kept], self.distance[kept], self.plain[kept], self.angle[kept])

    def cpu(self) -> "Pairs":
        """Return the same on the CPU."""
        return Pairs(self.i.cpu(), self.j.cpu(), self.distance.cpu(), self.plain.cpu(), self.angle.cpu())

    def first(self, m: int) -> "Pairs":
        """Return the m closest pairs, or all where there are fewer."""
        return Pairs(self.i[:m], self.j[:m], self.distance[:m], self.plain[:m], self.angle[:m])


def closest_up_to_a_turn(x: Tensor, shape: Sequence[int], radius: Tensor, m: int) -> Pairs:
    """Return the m closest pairs in the order of their distance up to a turn, in units of the local radius.

    Arguments:
        x: Pictures as ``(N, C * H * W)``.
        shape: ``(C, H, W)``.
        radius: r > 0, ``(N,)`` float64.
        m: The pairs are the m closest ones without a turn; all where there are fewer.
    """
    i, j, plain = closest_pairs(x, radius, m)
    if len(i) == 0:
        return Pairs(i, j, plain, plain, plain)
    unit = (radius[i] * radius[j]).sqrt()
    best, angle = plain.clone(), torch.zeros_like(plain)
    ends, place = j.unique(return_inverse=True)
    for degrees in ANGLES:
        angles = torch.full((len(ends),), math.radians(degrees), device=x.device)
        other = turned(x[ends].view(-1, *shape), angles).flatten(1)
        rows = max(1, CHUNK // x.shape[1])
        pieces = zip(i.split(rows), place.split(rows), strict=True)
        distance = torch.cat([(x[a].float() - other[b]).norm(dim=1) for a, b in pieces]) / unit
        angle = torch.where(distance < best, float(degrees), angle)
        best = torch.minimum(best, distance)
    order = best.argsort(stable=True)
    return Pairs(i[order], j[order], best[order], plain[order], angle[order])


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Return pictures ``(N, C, H, W)`` in float32, each turned about its centre by ``angle`` (N,) in radians."""
    turn = torch.zeros(len(x), 2, 3, device=x.device)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
    # The grid runs from -1 to 1 on either side, so that a turn of an oblong picture needs the ratio of the sides.
    height, width = x.shape[2:]
    turn[:, 0, 1] *= height / width
    turn[:, 1, 0] *= width / height
    grid = functional.affine_grid(turn, list(x.shape), align_corners=False)
    return functional.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


def spread_of_turns(angle: Tensor) -> float:
    """Return the standard deviation, in radians, of the turn of one picture, from the angles between pairs, degrees."""
    return math.radians(math.sqrt(angle.square().mean().item() / 2)) if len(angle) > 0 else 0.0


def turned_at_random(x: Tensor, spread: float, generator: Generator) -> Tensor:
    """Return pictures, each turned by a normal angle of this standard deviation in radians; 0 changes nothing."""
    return x if spread == 0 else turned(x, spread * torch.randn(len(x), generator=generator))


def joined(group: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return groups ``(N,)`` int64 that also join the pairs i, j."""
    n = len(group)
    _, first = np.unique(group.numpy(), return_index=True)
    _, number = group.unique(return_inverse=True)
    ends = (np.concatenate([np.arange(n), i.numpy()]), np.concatenate([first[number.numpy()], j.numpy()]))
    graph = sparse.coo_array((np.ones(len(ends[0]), bool), ends), shape=(n, n))
    return torch.from_numpy(sparse.csgraph.connected_components(graph, directed=False)[1]).long()
