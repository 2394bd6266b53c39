"""Our masked autoregressive flow against those of zuko and nflows with the same parameters, in float64, both ways.

What is given to the peers' networks goes through our soft clamp first. Their hidden units stand in another order: they
are sorted by how many inputs they read.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import normal
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from models.nn.made import MADE, REACH
from models.transforms.autoregressive import Autoregressive
from models.transforms.base import Chain
from models.transforms.permute import reversal
from models.transforms.univariate import Univariate

DIM, UNITS, LAYERS, CONTEXT = 5, 20, 3, 2  # units are a multiple of 4 and of 5 degrees: peers spread them alike


@dataclass(frozen=True)
class ZukoAffine(Univariate):
    """z = x exp(a) + t with a = r / (1 + |r / log 0.001|): t, then r."""

    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale(parameters)
        return x * log_scale.exp() + parameters[:, 0], log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale(parameters)
        return (z - parameters[:, 0]) / log_scale.exp(), -log_scale

    def _log_scale(self, parameters: Tensor) -> Tensor:
        raw = parameters[:, 1]
        return raw / (1 + (raw / math.log(1e-3)).abs())


@dataclass(frozen=True)
class NflowsAffine(Univariate):
    """z = (softplus(r) + 0.001) x + t: r, then t."""

    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scale = softplus(parameters[:, 0]) + 1e-3
        return scale * x + parameters[:, 1], scale.log()

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scale = softplus(parameters[:, 0]) + 1e-3
        return (z - parameters[:, 1]) / scale, -scale.log()


class Clamped(nn.Module):
    """A peer's network that sees its inputs, the first DIM numbers, as ours does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        inputs, rest = x[..., :DIM], x[..., DIM:]
        return self.network(torch.cat([REACH * (inputs / REACH).tanh(), rest], -1), *context)


@torch.no_grad()
def copied(layers: list[nn.Module], n_context: int, *, backwards: bool) -> MADE:
    """A peer's masked layers as ours. Its rows of outputs are those of the first input, then of the second; with
    ``backwards`` it reads its inputs from the last to the first, and ours are turned round."""
    made = MADE(DIM, 2, hidden=UNITS, depth=len(layers) - 1, n_context=n_context).double()
    order = torch.arange(DIM).flip(0) if backwards else torch.arange(DIM)
    columns = order
    for i, (ours, theirs) in enumerate(zip(made.layers, layers, strict=True)):
        if i == 0 and n_context > 0:
            context_weight = theirs.weight[:, DIM:]
        mask, weight = theirs.mask[:, columns].double(), theirs.weight[:, columns]
        last = i == len(layers) - 1
        rows = torch.arange(2 * DIM).view(DIM, 2)[order].T.flatten() if last else mask.sum(1).argsort(stable=True)
        assert torch.equal(mask[rows], ours.mask), "the same units read the same"
        ours.weight.copy_(weight[rows])
        ours.bias.copy_(theirs.bias[rows])
        if i == 0 and n_context > 0:
            made.project.weight.copy_(context_weight[rows])
        columns = rows
    return made


def chain_of(networks: list[MADE], univariate: Univariate) -> Chain:
    parts = [Autoregressive(networks[0], univariate)]
    for network in networks[1:]:
        parts += [reversal(DIM), Autoregressive(network, univariate)]
    return Chain(*parts)


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("std", [0.1, 0.3])
@pytest.mark.parametrize("n_context", [0, CONTEXT])
def test_zuko(n_context: int, std: float) -> None:
    zuko = pytest.importorskip("zuko")
    theirs = zuko.flows.MAF(
        DIM, n_context, transforms=LAYERS, hidden_features=(UNITS, UNITS), activation=nn.SiLU
    ).double()
    randomize(theirs, std)
    networks = []
    for i, part in enumerate(theirs.transform.transforms):
        layers = [module for module in part.hyper if isinstance(module, nn.Linear)]
        networks.append(copied(layers, n_context, backwards=i % 2 == 1))
        part.hyper = Clamped(part.hyper)
    ours = chain_of(networks, ZukoAffine())
    x, context = normal(30, DIM), normal(30, n_context, seed=1) if n_context else None
    peer = theirs(context)
    z, log_det = ours(x, context=context)
    same(log_det - 0.5 * z.square().sum(1) - 0.5 * DIM * math.log(2 * math.pi), peer.log_prob(x))
    same(z, peer.transform(x))  # an even number of reversals
    back, inverse_log_det = ours.inverse(x, context=context)
    same(back, peer.transform.inv(x))
    same(inverse_log_det, -peer.transform.call_and_ladj(back)[1])
    assert (log_det - log_det[0]).abs().max() > 0.1 * std


@pytest.mark.parametrize("std", [0.1, 0.3])
def test_nflows(std: float) -> None:
    made = pytest.importorskip("nflows.transforms.autoregressive").MaskedAffineAutoregressiveTransform
    permutations = pytest.importorskip("nflows.transforms.permutations")
    composite = pytest.importorskip("nflows.transforms.base").CompositeTransform
    parts, networks = [], []
    for i in range(LAYERS):
        layer = made(DIM, UNITS, num_blocks=1, use_residual_blocks=False, activation=silu).double()
        randomize(layer, std, seed=i)
        net = layer.autoregressive_net
        layers = [net.initial_layer, *[block.linear for block in net.blocks], net.final_layer]
        networks.append(copied(layers, 0, backwards=False))
        layer.autoregressive_net = Clamped(net)
        parts += [permutations.ReversePermutation(DIM)] * (i > 0) + [layer]
    theirs, ours = composite(parts), chain_of(networks, NflowsAffine())
    x = normal(30, DIM)
    for one, other in zip(ours(x), theirs(x), strict=True):
        same(one, other)
    for one, other in zip(ours.inverse(x), theirs.inverse(x), strict=True):
        same(one, other)
    assert (ours(x)[1] - ours(x)[1][0]).abs().max() > 0.1 * std
