"""Oracles for densities: what a probability must sum or integrate to, whatever the model."""

import itertools
import math

import torch
from torch import Generator, Tensor, nn

from models.base import ClipsSamples, GenerativeModel, HasLikelihood

__all__ = ["all_examples", "discrete_mass", "quadrature", "randomize", "share_outside"]


def all_examples(shape: tuple[int, ...], levels: int) -> Tensor:
    """``(levels^D, *shape)`` uint8: every example there is."""
    every = list(itertools.product(range(levels), repeat=math.prod(shape)))
    return torch.tensor(every, dtype=torch.uint8).reshape(-1, *shape)


@torch.no_grad()
def discrete_mass(model: GenerativeModel, *, draws: int, seed: int = 0) -> tuple[float, float]:
    """Total mass of a model on integers, estimated by averaging exp(log_weight), and its Monte-Carlo standard error."""
    assert isinstance(model, HasLikelihood)
    assert model.levels is not None
    x = all_examples(model.shape, model.levels)
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
