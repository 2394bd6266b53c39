r"""Find near-duplicates of pictures: copies that are recoloured, recompressed, slightly cropped or mirrored.

Two pictures are compared by their gradients, not by their colours. After averaging over 2 x 2 pixels, the gradients of
every channel are

.. math:: G(x) = \big(\bar x_{i,j} - \bar x_{i,j-1}, \; \bar x_{i,j} - \bar x_{i-1,j}\big)

The similarity of two pictures is the cosine between the gradients in the middle of one and those of the other, at the
best shift:

.. math:: s(x, y) = \max_{|a|, |b| \le 3} \cos\!\big(G(x)_{\text{middle}}, G(y)_{\text{middle} + (a, b)}\big)

Contrast, brightness and tint do not change s, and a uniform sky does not contribute to it. Some pictures, such as a
ship on the horizon, resemble many others. Each distance is therefore divided by the picture's distance to a picture
that is not a copy: the tenth most similar of its 20 candidates. y is a near-duplicate of x if

.. math:: d(x, y) = \sqrt{\frac{1 - s(x, y)}{1 - s_{10}(x)}} \le t

The candidates are the ten pictures with the greatest pixel-wise correlation with x, and the ten with the greatest
correlation with the mirror image of x, which are compared with the mirror image.

For CIFAR-10 this finds 466 of the 10,000 test images (4.7 %), in 655 pairs with the 50,000 training images. 43 of the
466 match only when mirrored. No pair has two different labels. The limit t was chosen by eye and by the labels: among
the test images whose closest pair lies just beyond it, 3 of 77 (up to 0.70), 10 of 141 (up to 0.75) and 41 of 252 (up
to 0.80) are paired with an image of another class. Judged by eye, pairs that may show two different photographs (mostly
aircraft of one type against an empty sky) start at d = 0.5 and make up about a fifth of the pairs from 0.60 to 0.65.

Barz and Denzler 2020, "Do we train on test data? Purging CIFAR of near-duplicates" (arXiv 1902.00423), compared nearest
neighbours in a network's features and report 3.3 %. Their list has 286 test images with a partner in train (253
near-duplicates, 33 "very similar") and 39 pairs within test. This search finds 213 of the 253 and 13 of the 33. It
misses copies that are scaled, rotated or shifted by more than 3 pixels, and copies that only a person recognizes. It
lists 240 images that theirs does not; judged by eye, most of these are plain copies. Neither list is complete; together
they name 526 images. (No two images of CIFAR-10, within or across train and test, are equal in every pixel.)

``python -m bench.data.near_duplicates`` prints the list that is stored as ``cifar10_near_duplicates.csv`` beside this
file, in about two and a half minutes on one core.
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
"""The limit t on the distance of a near-duplicate."""

_CANDIDATES = 10  # as it is, and as many mirrored
_BACKGROUND = 10  # rank of the candidate whose distance is the unit
_SHIFT = 3  # pixels
_BLOCK = 256
_DIGITS = 12  # beyond these, a product depends on its position in the matrix, even for equal rows


@dataclass(frozen=True)
class Pair:
    """A near-duplicate: the indices of query and reference, and whether the query's mirror image is the one alike."""

    query: int
    reference: int
    mirrored: bool
    similarity: float
    distance: float


def find(queries: Tensor, references: Tensor, limit: float = LIMIT) -> list[Pair]:
    """Return near-duplicates of ``queries`` (n, C, H, W) in ``references`` (m, C, H, W), sorted by query and distance.

    A pair that is alike both as it is and mirrored is listed once, with the smaller distance. m must be at least 10.
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
    """Return the k references (m, ...) of greatest Pearson correlation with each query (n, ...): ``(n, k)`` int64.

    They are sorted by correlation; correlations equal to 12 digits are sorted by index. The result is exact: all pairs
    are compared in float32 and the 2k best again in float64. If rounding could hide a better reference among the
    others, all are compared in float64.
    """
    rough = _standardized(references).float()  # (m, D)
    dimension = rough.shape[1]
    rounding = 2 * dimension * torch.finfo(torch.float32).eps  # bounds the error of a product of rounded unit vectors
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
    """Return s for pairs of pictures, ``(n, C, H, W)`` each, with H and W at least 9: ``(n,)`` float64.

    It is 0 if one of them has a single colour. It is not symmetric: the middle is that of x, and y is shifted.
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

    Indices count from 0 in the order of the files. The columns ``distance`` and ``similarity`` are d and s.
    """
    from bench.data.cifar import cifar10

    data = cifar10()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["test", "train", "mirrored", "similarity", "distance"])
    for pair in find(data.test.x, torch.cat([data.train.x, data.val.x])):
        numbers = f"{pair.similarity:.4f}", f"{pair.distance:.4f}"
        writer.writerow([pair.query, pair.reference, int(pair.mirrored), *numbers])


def _each(x: Tensor, references: Tensor, index: Tensor) -> Tensor:
    """Return s of every picture with each of its candidates, ``(n, k)``."""
    rows = torch.arange(len(x)).repeat_interleave(index.shape[1])
    blocks: Iterator[tuple[Tensor, Tensor]] = zip(rows.split(_BLOCK), index.flatten().split(_BLOCK), strict=True)
    return torch.cat([similarity(x[i], references[j]) for i, j in blocks]).view(index.shape)


def _standardized(x: Tensor) -> Tensor:
    """Subtract each row's mean and scale it to length 1, ``(n, ...) -> (n, D)`` float64, for Pearson correlations."""
    flat = x.flatten(1).double()
    return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def _slopes(x: Tensor) -> Tensor:
    """Return the gradients G, ``(n, C, H, W) -> (n, 2C, H - 2, W - 2)`` float64."""
    mean = F.avg_pool2d(x.double(), 2, stride=1)
    here = mean[..., 1:, 1:]
    return torch.cat([here - mean[..., 1:, :-1], here - mean[..., :-1, 1:]], dim=1)


if __name__ == "__main__":
    main()
