"""VAEs whose likelihood is known, or can be computed from a few points."""

import functools
import math

import torch
from torch import Generator, Tensor

from models.transforms.gate import iaf_layers
from models.transforms.planar import planar_layers
from models.transforms.radial import radial_layers
from models.transforms.sylvester import sylvester_layers
from models.vaes.vae import VAE, PosteriorFlow

__all__ = ["ADAM", "POSTERIORS", "linear_gaussian", "random_vae", "seeded", "space", "weights"]

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def random_vae(
    shape: tuple[int, ...],
    levels: int | None,
    *,
    latent_dim: int = 2,
    seed: int = 0,
    flow: PosteriorFlow | None = None,
    output: str | None = None,
    draws: int = 1,
) -> VAE:
    """An untrained VAE in float64 whose parameters are drawn wide enough that z matters.

    The posterior is wrong but wider than the prior, so that importance weights have a finite variance.
    """
    sizes = {"latent_dim": latent_dim, "hidden": 8, "depth": 2, "features": 3, "components": 2}
    model = VAE(shape, levels, ADAM, **sizes, flow=flow, output=output, draws=draws).double()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        last = model.encoder.network[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight *= 0.3
        last.bias[latent_dim : 2 * latent_dim] = 0.4
    return model.eval()


def weights(model: VAE, x: Tensor, draws: int, seed: int) -> Tensor:
    """``(draws, B)`` values of log_weight."""
    with torch.no_grad():
        return model.log_weight(x.repeat(draws, *[1] * (x.dim() - 1)), generator=seeded(seed)).view(draws, len(x))


def space(shape: tuple[int, ...], levels: int) -> Tensor:
    """Every point of a finite data space."""
    entries = [torch.arange(levels, dtype=torch.uint8)] * math.prod(shape)
    return torch.cartesian_prod(*entries).view(-1, *shape)


POSTERIORS = {
    "planar": functools.partial(planar_layers, layers=2),
    "radial": functools.partial(radial_layers, layers=2),
    "sylvester": functools.partial(sylvester_layers, layers=2),
    "iaf": functools.partial(iaf_layers, layers=2, hidden=8),
}


def unbounded(log_scale: Tensor) -> Tensor:
    """What a network must put out for ``bounded_log_scale`` to give ``log_scale``."""
    return torch.log(torch.expm1(log_scale + 7)) - 7


W = torch.tensor([[1.0, 0.4], [1.0, -0.4], [0.5, 0.0]], dtype=torch.float64)


def linear_gaussian(
    posterior_shift: float, posterior_factor: float, w: Tensor = W, s: float = 0.5, draws: int = 1
) -> tuple[VAE, torch.distributions.LowRankMultivariateNormal]:
    r"""A VAE with :math:`p(x|z) = N(Wz + b, s^2 I)`, and its exact marginal :math:`N(b, W W^T + s^2 I)`.

    W has orthogonal columns, so that the true posterior is diagonal and the encoder can hold it:
    :math:`\Sigma = (I + W^T W / s^2)^{-1}`, mean :math:`\Sigma W^T (x - b) / s^2`. The shift and the factor spoil it.
    """
    d, z = w.shape
    b = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).repeat(d)[:d]
    covariance = torch.diag(1 / (1 + (w**2).sum(0) / s**2))
    to_mean = covariance @ w.T / s**2  # (Z, D)
    model = VAE((d,), None, ADAM, latent_dim=z, depth=0, draws=draws).double()
    encoder, decoder = model.encoder.network[0], model.decoder[0]
    assert isinstance(encoder, torch.nn.Linear)
    assert isinstance(decoder, torch.nn.Linear)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros(z, d)]))
        log_scale = 0.5 * covariance.diagonal().log() + math.log(posterior_factor)
        encoder.bias.copy_(torch.cat([posterior_shift - to_mean @ b, unbounded(log_scale)]))
        decoder.weight.copy_(torch.cat([w, torch.zeros(d, z)]))
        decoder.bias.copy_(torch.cat([b, unbounded(torch.full((d,), math.log(s), dtype=torch.float64))]))
    noise = torch.full((d,), s**2, dtype=torch.float64)
    return model.eval(), torch.distributions.LowRankMultivariateNormal(b, w, noise)
