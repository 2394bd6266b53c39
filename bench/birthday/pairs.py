"""Choose the pairs of a page: the closest pairs of samples, and decoys of known truth, mixed so that nothing tells them
apart but the pictures themselves."""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.birthday.record import Kind, Shown
from bench.errors import UserError
from bench.features.base import Recipe
from bench.features.pixels import Pixels
from bench.metrics.calibration import Batch, prepared
from bench.metrics.near_duplicates import as_contrasted, distinct
from bench.metrics.pairs import blocks, squared_distances
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["DECOYS", "FEWEST", "MOST", "Chosen", "choose", "jittered"]

FEWEST = 50
"""Samples, and different held-out examples, that are needed."""

MOST = 200
"""The largest number of candidates."""

DECOYS = (20, 50)
"""Decoys of either kind: a quarter of the candidates, but at least and at most so many."""


@dataclass(frozen=True)
class Chosen:
    """The pairs in the order of the page.

    Attributes:
        shown: What the key says of each pair.
        pictures: Left and right picture, ``(P, 2, C, H, W)`` uint8.
        neighbours: The nearest training examples of both, ``(P, 2, C, H, W)`` uint8.
        samples: Number s of samples that were searched.
    """

    shown: tuple[Shown, ...]
    pictures: Tensor
    neighbours: Tensor
    samples: int


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one kind: indices ``(n,)``, scaled distances ``(n,)`` float64, pictures ``(n, 2, C, H, W)``."""

    kind: Kind
    first: Tensor
    second: Tensor
    distance: Tensor
    pictures: Tensor


def choose(examples: Examples, n_samples: int, candidates: int, features: Recipe | None = None) -> Chosen:
    """Return the closest pairs of samples among decoys, shuffled by a derived seed.

    Distances are those of the metric ``birthday`` with pixels: between smoothed and centred pictures up to a turn,
    divided by the local radius of both. There are two kinds of decoys. Different: the closest pairs of as many
    different held-out examples as there are samples, each example in one pair. Same: a held-out example twice. All
    pictures of decoys are jittered (``jittered``), so that a trace of the jitter says nothing about the kind. The
    distance between the two pictures of one example, in levels, is that of the model's own closest pairs, from the
    closest to the farthest candidate, in the contrast of the data, but not beyond that of the closest different real
    examples.

    Arguments:
        examples: Of pictures with integer levels, of one or three channels.
        n_samples: Number of samples to search.
        candidates: Number of their closest pairs to show, 1 to ``MOST``.
        features: Recipe of the feature space in which pairs are close; None: pixels.

    Raises:
        UserError: The data are no such pictures, or there are too few samples or held-out examples.
        UnavailableError: The subject cannot be sampled.
    """
    spec = examples.spec
    if not spec.is_image or spec.levels is None or spec.shape[0] not in (1, 3):
        raise UserError(
            f"birthday page: {spec.name} holds no grey or coloured pictures, and only pictures can be judged"
        )
    samples = examples.samples(n_samples)
    different = len(distinct(examples.held_out))
    if min(len(samples), different) < FEWEST:
        raise UserError(
            f"birthday page: {len(samples)} samples and {different} different held-out examples; at least {FEWEST} of "
            "either are needed"
        )
    batch = prepared(examples, features or Pixels(), n_samples, 1)
    kinds = _candidates_and_decoys(batch, samples, examples.held_out, spec.levels, candidates, examples.seed)
    pictures = torch.cat([kind.pictures for kind in kinds])
    shuffle = torch.randperm(len(pictures), generator=_generator(examples.seed, "shuffle"))
    swap = torch.rand(len(pictures), generator=_generator(examples.seed, "sides")) < 0.5
    pictures = torch.where(swap[:, None, None, None, None], pictures.flip(1), pictures)[shuffle]
    facts = [
        (kind.kind, *fact)
        for kind in kinds
        for fact in zip(kind.first.tolist(), kind.second.tolist(), kind.distance.tolist(), strict=True)
    ]
    shown = []
    for position, index in enumerate(shuffle.tolist()):
        what, first, second, distance = facts[index]
        if swap[index]:
            first, second = second, first
        # The position keeps pairs of equal pictures apart; samples of a collapsed model are often equal.
        text = f"{examples.seed} {position} ".encode() + pictures[position].numpy().tobytes()
        shown.append(Shown(hashlib.sha256(text).hexdigest()[:16], what, first, second, distance))
    nearest = examples.data.train.x[_nearest(pictures.flatten(0, 1), examples.data.train.x)]
    return Chosen(tuple(shown), pictures, nearest.view(pictures.shape), len(samples))


def _candidates_and_decoys(
    batch: Batch, samples: Tensor, real: Tensor, levels: int, candidates: int, seed: int
) -> list[_Pairs]:
    calibration = batch.calibration
    order = calibration.order[: calibration.n]
    held = calibration.real[order]
    close = calibration.closest(batch.fake, candidates)
    i, j, distance = close.i, close.j, close.distance
    found = _Pairs("candidate", i, j, distance, torch.stack([samples[i], samples[j]], 1))

    n = min(max(DECOYS[0], candidates // 4), DECOYS[1], len(held) // 3)
    close = calibration.closest(held, 20 * n)
    a, b, apart = _each_once(close.i, close.j, close.distance, n)
    used = set(a.tolist()) | set(b.tolist())
    alone = torch.tensor([one for one in range(len(held)) if one not in used])[:n]
    # From the closest candidate to the farthest, capped: a copy farther than two different examples is no small change.
    gain, _ = as_contrasted(samples.flatten(1), real.flatten(1))
    within = gain * _apart(samples[i], samples[j]).sort().values
    cap = _apart(real[order[a]], real[order[b]]).min().item()
    aim = within[torch.linspace(0, len(within) - 1, n).round().long()].clamp(max=cap)
    made: list[_Pairs] = [found]
    for kind, first, second, known in (("different", a, b, apart), ("same", alone, alone, aim)):
        steps = aim[: len(first)] / 2**0.5  # of either picture
        sides = []
        for side, index in (("left", first), ("right", second)):
            generator = _generator(seed, "jitter", kind, side)
            sides.append(jittered(real[order[index]], steps, levels, generator))
        made.append(_Pairs(kind, order[first], order[second], known[: len(first)], torch.stack(sides, 1)))  # type: ignore[arg-type]
    return made


def _each_once(i: Tensor, j: Tensor, distance: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first ``n`` pairs, or fewer, in which no example occurs twice."""
    used: set[int] = set()
    kept: list[int] = []
    for position, (first, second) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        if not used & {first, second} and len(kept) < n:
            used |= {first, second}
            kept.append(position)
    return i[kept], j[kept], distance[kept]


def jittered(x: Tensor, distance: Tensor, levels: int, generator: Generator) -> Tensor:
    r"""Return pictures ``(n, C, H, W)`` with a small shift and noise, each at about a given distance from its original.

    The change is that of a shift by up to one pixel, up or down, left or right, and normal noise of the same norm.
    After it, pictures are rounded to levels 0 .. L-1. The size of the change is found by bisection: it is the largest
    whose result is not farther than ``distance``.

    Arguments:
        x: uint8.
        distance: Euclidean, ``(n,)``, in levels; 0 changes nothing.
    """
    clean = x.double()
    padded = F.pad(clean, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[2:]
    moves = [
        padded[:, :, row : row + height, column : column + width] for row, column in ((0, 1), (2, 1), (1, 0), (1, 2))
    ]
    direction = torch.randint(4, (len(x),), generator=generator)
    shift = torch.stack(moves)[direction, torch.arange(len(x))] - clean
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    size = _norm(shift).clamp(max=distance / 2**0.5)  # a shift by one pixel at most
    change = _resized(shift, size) + _resized(noise, (distance**2 - size**2).sqrt())

    def at(amount: Tensor) -> Tensor:
        return (clean + amount[:, None, None, None] * change).round().clamp(0, levels - 1)

    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 4.0, dtype=torch.float64)
    for _ in range(20):
        middle = (low + high) / 2
        fits = _norm(at(middle) - clean) <= distance
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return at(low).to(torch.uint8)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Return the distances between pictures in levels, ``(n,)`` float64."""
    return _norm(x.double() - y.double())


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _resized(x: Tensor, norm: Tensor) -> Tensor:
    """Return each of ``(n, C, H, W)`` with this norm; what is 0 stays 0."""
    return x * (norm / _norm(x).clamp(min=1e-300))[:, None, None, None]


def _nearest(x: Tensor, train: Tensor) -> Tensor:
    """Return the index of the nearest training example of each picture, ``(n,)`` int64."""
    queries = x.flatten(1).float()
    best = torch.full((len(x),), torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64)
    for rows, part in blocks(train, len(x)):
        distance, place = squared_distances(queries, part.flatten(1).float()).min(1)
        closer = distance < best
        best[closer], index[closer] = distance[closer], place[closer] + rows.start
    return index


def _generator(seed: int, *parts: str) -> Generator:
    return Generator().manual_seed(derive_seed(seed, "birthday page", *parts))
