"""Time a spline coupling and RealNVP on images against peers with the same architecture and parameters."""

import copy
import math

import normflows
import torch
import zuko
from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform
from paired import Ratio, measure
from torch import Generator, Tensor, nn

from models.flows.realnvp import RealNVP
from models.nn.mlp import MLP
from models.nn.resnet import ResNet
from models.transforms.coupling import Coupling, MaskedCoupling, alternating
from models.transforms.multiscale import MultiScale
from models.transforms.spline import RationalQuadraticSpline
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine

__all__ = ["ratios"]

ROWS, DIM, BINS, BOUND = 1024, 64, 8, 3.0
HIDDEN, DEPTH = 128, 2  # of the conditioner
SHAPE, BATCH = (1, 28, 28), 64


def our_coupling() -> Coupling:
    kept, moved = alternating(DIM, 0)
    spline = RationalQuadraticSpline(BINS, BOUND)
    network = MLP(len(kept), spline.n_parameters * len(moved), hidden=HIDDEN, depth=DEPTH)
    return Coupling(kept, moved, network, spline)


@torch.no_grad()
def by_entry(coupling: Coupling, displacement: float) -> MLP:
    """Return our conditioner with its outputs in the peers' order: all parameters of one entry, then of the next.

    ``displacement`` is added to the outputs that become slopes.
    """
    spline, (_, n_moved) = coupling.univariate, coupling.sizes
    network = copy.deepcopy(coupling.conditioner)
    assert isinstance(network, MLP)
    last = network.layers[-1]
    for parameter in last.parameters():
        ours = parameter.unflatten(0, (spline.n_parameters, n_moved)).clone()
        if parameter.dim() == 1:
            ours[2 * BINS :] += displacement
        parameter.copy_(ours.transpose(0, 1).flatten(0, 1))
    return network


def nflows_coupling(ours: Coupling) -> nn.Module:
    network = by_entry(ours, math.log(math.expm1(1 - ours.univariate.min_derivative)))
    network.hidden_features = 1  # the peer divides raw widths and heights by the root of this number
    mask = torch.tensor([int(i % 2 == 1) for i in range(DIM)])
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, lambda n_in, n_out: network, num_bins=BINS, tails="linear", tail_bound=BOUND
    )


class ZukoCoupling(nn.Module):
    """Wraps zuko's coupling and spline. Its values differ: it squeezes raw parameters and has no minimum width."""

    def __init__(self, ours: Coupling) -> None:
        super().__init__()
        self.network = by_entry(ours, 0.0)
        self.transform = zuko.transforms.CouplingTransform(self.spline_given, torch.arange(DIM) % 2 == 0)

    def spline_given(self, kept: Tensor) -> zuko.transforms.Transform:
        parameters = self.network(kept).unflatten(1, (DIM // 2, 3 * BINS - 1))
        spline = zuko.transforms.MonotonicRQSTransform(*parameters.split([BINS, BINS, BINS - 1], -1), bound=BOUND)
        return zuko.transforms.DependentTransform(spline, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.call_and_ladj(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.inv.call_and_ladj(z)


class AsZukoSqueezes(nn.Module):
    """Our conditioner followed by zuko's squeezing, which makes the two splines comparable."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        sizes, raw = self.network(x).unflatten(1, (3 * BINS - 1, DIM // 2)).split([2 * BINS, BINS - 1], 1)
        least = -math.log(1e-3)
        slopes = (raw / (1 + (raw / least).abs())).exp()
        displaced = slopes.expm1().log() - math.log(math.expm1(1.0))
        return torch.cat([sizes / (1 + (2 * sizes / least).abs()), displaced], 1).flatten(1)


class PeerRealNVP(nn.Module):
    """Wraps normflows' couplings, from data to latents, with our conditioners, squeeze and split."""

    def __init__(self, ours: MultiScale) -> None:
        super().__init__()
        self.kept = ours.kept_shapes
        self.levels = nn.ModuleList(nn.ModuleList(_peer_of(part) for part in level.parts) for level in ours.levels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = [], x.new_zeros(len(x))
        for index, level in enumerate(self.levels):
            for part in level:
                x, term = part(x)
                log_det = log_det + term
            if index < len(self.levels) - 1:
                x, latent = x.chunk(2, 1)
                latents.append(latent.flatten(1))
        return torch.cat([*latents, x.flatten(1)], 1), log_det


class ShiftAndLogScale(nn.Module):
    """Our conditioner with log-scales clamped as in our flow; returns (shift, log-scale).

    Its layers alone are taken, so pictures lie in memory as torch and normflows have them.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = nn.Sequential(network.first, network.layers)
        self.bound = Affine().bound

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(x).chunk(2, 1)
        return shift, self.bound * (raw / self.bound).tanh()


class LogScale(nn.Module):
    """The map s of normflows' masked layer. It also computes the shift, because one network makes both, as in ours."""

    def __init__(self, both: ShiftAndLogScale) -> None:
        super().__init__()
        self.both = both
        self.shift = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.shift, log_scale = self.both(x)
        return log_scale


class Shift(nn.Module):
    """The map t of normflows' masked layer, called after s."""

    def __init__(self, log_scale: LogScale) -> None:
        super().__init__()
        self.log_scale = log_scale

    def forward(self, x: Tensor) -> Tensor:
        return self.log_scale.shift


class Interleaved(nn.Module):
    """Arranges outputs for normflows' unmasked layer: shift, log-scale, shift, log-scale, ..."""

    def __init__(self, both: ShiftAndLogScale) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.both(x), 2).flatten(1, 2)


def _peer_of(part: nn.Module) -> nn.Module:
    if isinstance(part, MaskedCoupling):
        log_scale = LogScale(ShiftAndLogScale(part.conditioner))
        mask = part.keep.float()
        return normflows.flows.MaskedAffineFlow(mask, t=Shift(log_scale), s=log_scale)
    if isinstance(part, Coupling):
        first_is_kept = part.order.tolist() == sorted(part.order.tolist())
        mode = "channel" if first_is_kept else "channel_inv"
        network = Interleaved(ShiftAndLogScale(part.conditioner))
        return normflows.flows.AffineCouplingBlock(network, scale_map="exp", split_mode=mode)
    assert isinstance(part, Squeeze)
    return part


def _training_step(transform: nn.Module, x: Tensor) -> float:
    """Run forward and backward, with the density of the latents, and return the loss."""
    transform.zero_grad()
    z, log_det = transform(x)
    loss = (0.5 * z.square().sum(1) - log_det).mean()
    loss.backward()
    return loss.item()


@torch.no_grad()
def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def _splines(rounds: int) -> list[Ratio]:
    ours = our_coupling()
    for parameter in ours.conditioner.layers[-1].parameters():
        nn.init.normal_(parameter, std=0.1)  # makes splines far from the identity
    x = torch.randn(ROWS, DIM, generator=Generator().manual_seed(0))
    nflows, peer_zuko = nflows_coupling(ours), ZukoCoupling(ours)
    as_zuko = Coupling(
        *alternating(DIM, 0), AsZukoSqueezes(ours.conditioner), RationalQuadraticSpline(BINS, BOUND, 1e-9, 1e-9)
    )
    compiled = torch.compile(ours, fullgraph=True)
    _same(ours(x), nflows(x))
    _same(ours.inverse(x), nflows.inverse(x))
    _same(compiled(x), ours(x))
    _same(as_zuko(x), peer_zuko(x))
    _same(as_zuko.inverse(x), peer_zuko.inverse(x))

    name = f"Spline coupling {ROWS} x {DIM}, {BINS} bins, MLP of {DEPTH} x {HIDDEN}"
    found = []
    for peer_name, peer in (("nflows", nflows), ("zuko", peer_zuko)):
        theirs = (peer_name, lambda peer=peer: _training_step(peer, x))
        for our_name, side in (("ours", ours), ("ours, compiled", compiled)):
            mine = (our_name, lambda side=side: _training_step(side, x))
            found.append(measure(f"{name}: forward and backward", mine, theirs, rounds=rounds))
        with torch.no_grad():
            inverse = ("ours", lambda: ours.inverse(x))
            found.append(
                measure(f"{name}: inverse", inverse, (peer_name, lambda peer=peer: peer.inverse(x)), rounds=rounds)
            )
    return found


def _images(channels: int, blocks: int, rounds: int) -> Ratio:
    flow = RealNVP(SHAPE, None, torch.optim.Adam, channels=channels, blocks=blocks)
    [ours] = flow.transform.parts
    for module in ours.modules():
        if isinstance(module, Coupling | MaskedCoupling):
            for parameter in module.conditioner.layers[-1].parameters():
                nn.init.normal_(parameter, std=0.02)
    peer = PeerRealNVP(ours)
    x = torch.randn(BATCH, *SHAPE, generator=Generator().manual_seed(0))
    _same(ours(x), peer(x))
    name = f"RealNVP {SHAPE}, {channels} channels, {blocks} blocks, batch {BATCH}: forward and backward"
    mine = ("ours", lambda: _training_step(ours, x))
    return measure(name, mine, ("normflows", lambda: _training_step(peer, x)), rounds=rounds)


def ratios(rounds: int = 11) -> list[Ratio]:
    """Compare ours with the peers in float32. Full-size RealNVP gets at most 5 rounds, because a step takes seconds."""
    torch.manual_seed(0)
    return [*_splines(rounds), _images(16, 1, rounds), _images(64, 8, min(rounds, 5))]


if __name__ == "__main__":
    torch.set_num_threads(1)
    ratios()
