r"""Near-duplicates of pictures: the same photograph once more, recoloured, recompressed, cropped a little or mirrored.

What is compared is where a picture changes, not its colours. Averaged over 2 x 2 pixels, its slopes are

.. math:: G(x) = \big(\bar x_{i,j} - \bar x_{i,j-1}, \; \bar x_{i,j} - \bar x_{i-1,j}\big)

in every channel, and two pictures are as similar as the slopes of one's middle part are to those of the other's, at the
shift that fits best:

.. math:: s(x, y) = \max_{|a|, |b| \le 3} \cos\!\big(G(x)_{\text{middle}}, G(y)_{\text{middle} + (a, b)}\big)

Contrast, brightness and tints leave s alone, and a blue sky adds nothing to it. Some pictures are like many others all
the same, a ship on the horizon for one. So a distance counts in units of the picture's own distance to what is no copy
of it, the tenth of its 20 candidates: x has the near-duplicate y where

.. math:: d(x, y) = \sqrt{\frac{1 - s(x, y)}{1 - s_{10}(x)}} \le t

The candidates are the ten pictures that correlate most with x, pixel by pixel over all of them, and the ten that do so
with its mirror image; the latter are compared with the mirror image.

For CIFAR-10 this lists 466 of the 10,000 test images (4.7 %), which 655 pairs tie to one or more of the 50,000 training
images; 43 of them only through a mirror image. No pair has two different labels. The limit was chosen so, by eye and by
the labels: of the test images whose closest pair is just beyond it, 3 of 77 (up to 0.70), 10 of 141 (up to 0.75) and 41
of 252 (up to 0.80) are paired with an image of another class. Seen by eye, pairs that may be of two photographs (most
often aircraft of one type against an empty sky) begin at 0.5 and are about a fifth of those from 0.60 to 0.65.

Barz and Denzler 2020, "Do we train on test data? Purging CIFAR of near-duplicates", who looked at the nearest
neighbours in the features of a network, report 3.3 %: their list has 286 test images with a partner in train (253 near-
duplicates, 33 "very similar"), and 39 pairs within test. Of the 253 this search finds 213, of the 33 it finds 13; it
misses copies of another scale, shifted by more than 3 pixels or turned, and all that only a person can tell. The other
240 it lists are not in theirs, and by eye most are plain copies. Neither list is complete; together they name 526.
(Neither train nor test holds two images that are equal in every pixel, nor do they share one.)

``python -m bench.data.near_duplicates`` makes the list, ``cifar10_near_duplicates.csv`` beside this file: about two and
a half minutes on one core.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIMIT", "Pair", "find", "main", "nearest", "similarity"]

LIMIT = 0.65
"""t."""

_CANDIDATES = 10  # of each orientation
_BACKGROUND = 10  # which of all candidates is the unit of distance
_SHIFT = 3  # pixels
_BLOCK = 256
_DIGITS = 12  # the last ones of a product depend on where in a matrix it stands, even for equal rows


@dataclass(frozen=True)
class Pair:
    """``query`` and ``reference`` are indices; ``mirrored`` where it is the query's mirror image that is alike."""

    query: int
    reference: int
    mirrored: bool
    similarity: float
    distance: float


def find(queries: Tensor, references: Tensor, limit: float = LIMIT) -> list[Pair]:
    """Near-duplicates of ``queries`` (n, C, H, W) in ``references`` (m, C, H, W), m >= 10, by query and distance.

    A pair that is alike both as it is and mirrored counts once, the way it is closer.
    """
    chosen, alike = [], []
    for x in (queries, queries.flip(3)):
        chosen.append(nearest(x, references, _CANDIDATES))
        alike.append(_each(x, references, chosen[-1]))
    index, s = torch.cat(chosen, dim=1), torch.cat(alike, dim=1)  # (n, 20)
    background = s.sort(dim=1, descending=True).values[:, _BACKGROUND - 1, None]
    tiny = torch.finfo(torch.float64).eps
    distance = ((1 - s).clamp_min(0) / (1 - background).clamp_min(tiny)).sqrt()
    pairs = [
        Pair(i, int(index[i, j]), j >= _CANDIDATES, float(s[i, j]), float(distance[i, j]))
        for i, j in (distance <= limit).nonzero().tolist()
    ]
    pairs.sort(key=lambda pair: (pair.query, pair.distance, pair.reference))
    first = {(pair.query, pair.reference): pair for pair in reversed(pairs)}
    return [pair for pair in pairs if first[pair.query, pair.reference] is pair]


def nearest(queries: Tensor, references: Tensor, k: int) -> Tensor:
    """The k references (m, ...) that have the greatest Pearson correlation with each query (n, ...): ``(n, k)`` int64.

    In order; what is equal to 12 digits by its index. Exact: all pairs are compared in float32, the 2k best again in
    float64, and where rounding could hide a better one among the others, all of them.
    """
    rough = _standardized(references).float()  # (m, D)
    dimension = rough.shape[1]
    rounding = 2 * dimension * torch.finfo(torch.float32).eps  # of a product of two unit vectors, and of its factors
    found = []
    for x in queries.split(_BLOCK):
        exact_x = _standardized(x)  # (b, D)
        products, index = (exact_x.float() @ rough.T).topk(min(2 * k, len(rough)), dim=1)
        index = index.sort(dim=1).values
        exact_y = _standardized(references[index.flatten()]).view(*index.shape, dimension)
        correlation = torch.einsum("bd,bcd->bc", exact_x, exact_y).round(decimals=_DIGITS)
        best, order = correlation.sort(dim=1, descending=True, stable=True)
        index = index.gather(1, order[:, :k])
        if len(rough) > 2 * k:
            for row in (best[:, k - 1] <= products[:, -1] + rounding).nonzero()[:, 0].tolist():
                every = torch.cat([_standardized(y) @ exact_x[row] for y in references.split(4096)])
                index[row] = every.round(decimals=_DIGITS).sort(descending=True, stable=True).indices[:k]
        found.append(index)
    return torch.cat(found)


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """s of pairs of pictures, ``(n, C, H, W)`` each, H and W at least 9: ``(n,)`` float64.

    0 where one of them is of a single colour. Not symmetric: the middle is x's, and y is the one that is shifted.
    """
    slopes = _slopes(y)
    middle = _slopes(x)[..., _SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
    height, width = middle.shape[2:]
    size = middle.flatten(1).norm(dim=1)
    tiny = torch.finfo(torch.float64).tiny
    best = torch.full((len(x),), -1.0, dtype=torch.float64)
    for a in range(2 * _SHIFT + 1):
        for b in range(2 * _SHIFT + 1):
            window = slopes[..., a : a + height, b : b + width]
            product = (middle * window).flatten(1).sum(dim=1)
            best = torch.maximum(best, product / (size * window.flatten(1).norm(dim=1)).clamp_min(tiny))
    return best


def main() -> None:
    """Write the near-duplicates of CIFAR-10's test images among its 50,000 training images to standard output as CSV.

    Indices count from 0 in the order of the files; distances are d, similarities s.
    """
    from bench.data.cifar import cifar10

    data = cifar10()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["test", "train", "mirrored", "similarity", "distance"])
    for pair in find(data.test.x, torch.cat([data.train.x, data.val.x])):
        numbers = f"{pair.similarity:.4f}", f"{pair.distance:.4f}"
        writer.writerow([pair.query, pair.reference, int(pair.mirrored), *numbers])


def _each(x: Tensor, references: Tensor, index: Tensor) -> Tensor:
    """s of every picture and each of its candidates, ``(n, k)``."""
    rows = torch.arange(len(x)).repeat_interleave(index.shape[1])
    blocks: Iterator[tuple[Tensor, Tensor]] = zip(rows.split(_BLOCK), index.flatten().split(_BLOCK), strict=True)
    return torch.cat([similarity(x[i], references[j]) for i, j in blocks]).view(index.shape)


def _standardized(x: Tensor) -> Tensor:
    """Less its mean and of length 1, ``(n, ...) -> (n, D)`` float64: products are then Pearson correlations."""
    flat = x.flatten(1).double()
    return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def _slopes(x: Tensor) -> Tensor:
    """G, ``(n, C, H, W) -> (n, 2C, H - 2, W - 2)`` float64."""
    mean = F.avg_pool2d(x.double(), 2, stride=1)
    here = mean[..., 1:, 1:]
    return torch.cat([here - mean[..., 1:, :-1], here - mean[..., :-1, 1:]], dim=1)


if __name__ == "__main__":
    main()
