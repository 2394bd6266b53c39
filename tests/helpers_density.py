"""Oracles for densities: what a probability must sum or integrate to, whatever the model; and random examples."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from scipy import stats
from torch import Generator, Tensor, nn

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.training.fit import fit
from models.base import ClipsSamples, GenerativeModel, HasLikelihood

__all__ = [
    "all_examples", "all_graphs", "discrete_mass", "examples", "quadrature", "randomize", "resumed_to_the_same_bits",
    "sampler_p_value", "share_outside",
]  # fmt: skip


def examples(shape: tuple[int, ...], levels: int | None, n: int, seed: int = 0) -> Tensor:
    """Random examples ``(n, *shape)``: levels that are equally likely, or standard normal reals."""
    generator = Generator().manual_seed(seed)
    if levels is None:
        return torch.randn(n, *shape, generator=generator)
    return torch.randint(levels, (n, *shape), generator=generator).to(torch.uint8)


def all_examples(shape: tuple[int, ...], levels: int) -> Tensor:
    """``(levels^D, *shape)`` uint8: every example there is."""
    every = list(itertools.product(range(levels), repeat=math.prod(shape)))
    return torch.tensor(every, dtype=torch.uint8).reshape(-1, *shape)


def all_graphs(nodes: int, node_types: int, edge_types: int) -> Tensor:
    """``(G, N + N(N-1)/2)`` uint8: every graph of 0 to N nodes there is, as ``bench.schema.GraphSpec`` has them.

    Counted one by one, whatever ``models.graphs`` makes of them.
    """
    every = []
    for n in range(nodes + 1):
        held = [j < n for i in range(nodes) for j in range(i + 1, nodes)]
        for types in itertools.product(range(1, node_types + 1), repeat=n):
            for edges in itertools.product(*[range(edge_types + 1) if both else (0,) for both in held]):
                every.append([*types, *[0] * (nodes - n), *edges])
    return torch.tensor(every, dtype=torch.uint8)


@torch.no_grad()
def discrete_mass(model: GenerativeModel, *, draws: int, seed: int = 0, x: Tensor | None = None) -> tuple[float, float]:
    """Total mass of a model on integers, estimated by averaging exp(log_weight), and its Monte-Carlo standard error.

    Arguments:
        x: All examples, where not every vector of levels is one.
    """
    assert isinstance(model, HasLikelihood)
    assert model.levels is not None
    x = all_examples(model.shape, model.levels) if x is None else x
    repeated = x.repeat(draws, *[1] * len(model.shape))
    weights = model.log_weight(repeated, generator=Generator().manual_seed(seed)).double().exp()
    masses = weights.reshape(draws, len(x)).sum(1)  # (draws,), each an unbiased estimate
    return masses.mean().item(), masses.std().item() / math.sqrt(draws)


def share_outside(model: ClipsSamples, *, draws: int, seed: int = 1) -> tuple[float, float]:
    """Share of a model's samples outside the data's range, and its binomial standard error, not below 1 / draws."""
    share = model.outside(draws, generator=Generator().manual_seed(seed)).double().mean().item()
    return share, max(math.sqrt(share * (1 - share) / draws), 1 / draws)


@torch.no_grad()
def quadrature(model: GenerativeModel, *, half_width: float, points: int) -> float:
    """Integral of a model's density over a cube around 0, by the midpoint rule, for 1 or 2 real variables."""
    assert isinstance(model, HasLikelihood)
    step = 2 * half_width / points
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) * step - half_width
    x = torch.cartesian_prod(*[axis] * model.dim).reshape(-1, *model.shape)
    total = sum(model.log_weight(chunk).double().exp().sum().item() for chunk in x.split(65_536))
    return total * step**model.dim


def randomize(module: nn.Module, std: float, seed: int = 0) -> None:
    """Fill every parameter with normal noise, so that zero-initialized layers do something."""
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std, generator=generator)


@torch.no_grad()
def sampler_p_value(model: GenerativeModel, n: int, *, seed: int = 0, x: Tensor | None = None) -> float:
    """P-value of the chi-square test that n samples of a model on few integers have its exact masses.

    Arguments:
        x: All examples, where not every vector of levels is one; a sample that is none of them is an error.
    """
    assert isinstance(model, HasLikelihood)
    assert model.levels is not None
    x = (all_examples(model.shape, model.levels) if x is None else x).flatten(1)
    masses = model.log_weight(x.unflatten(1, model.shape)).double().exp()
    place = {tuple(one): k for k, one in enumerate(x.tolist())}
    samples = model.sample(n, generator=Generator().manual_seed(seed)).flatten(1)
    counts = torch.bincount(torch.tensor([place[tuple(one)] for one in samples.tolist()]), minlength=len(x)).double()
    order = masses.argsort()
    masses, counts = masses[order], counts[order]
    few = int((masses.cumsum(0) * n < 10).sum()) + 1  # the rarest together are one cell
    masses = torch.cat([masses[:few].sum()[None], masses[few:]])
    counts = torch.cat([counts[:few].sum()[None], counts[few:]])
    expected = masses / masses.sum() * n
    return float(stats.chisquare(counts.numpy(), expected.numpy()).pvalue)


def resumed_to_the_same_bits(new: Callable[[int], GenerativeModel], data: Data, folder: Path) -> bool:
    """Whether 20 steps give the weights and buffers of 10 steps and, after a stop, 10 more of another model.

    Arguments:
        new: Seed to an untrained model.
    """

    class StoppedError(Exception):
        pass

    def stop(model: GenerativeModel) -> float:
        scored.append(1)
        if len(scored) == 2:
            raise StoppedError
        return 0.0

    schedule = Schedule(examples=320, batch_size=16, validate_every=160)
    scored: list[int] = []
    for part in ("whole", "parts"):
        (folder / part).mkdir()
    fit(new(0), data, schedule, Hardware(), seed=5, folder=folder / "whole", config={})
    try:
        fit(new(0), data, schedule, Hardware(), seed=5, folder=folder / "parts", config={}, validate=stop)
    except StoppedError:
        assert (folder / "parts" / "last.ckpt").is_file()
    else:
        raise AssertionError("training was to stop half-way")
    fit(new(9), data, schedule, Hardware(), seed=5, folder=folder / "parts", config={})
    whole, parts = (load_checkpoint(folder / part / "final.ckpt")["state_dict"] for part in ("whole", "parts"))
    return whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
