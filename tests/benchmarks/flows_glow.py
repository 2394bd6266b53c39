"""Time a training step of Glow and of a linear map in LU form against peers with the same parameters."""

import math

import normflows
import torch
from nflows.transforms import LULinear as PeerLULinear
from paired import Ratio, measure
from torch import Generator, Tensor, nn

from models.nn.convnet import ConvNet
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain
from models.transforms.coupling import Coupling, halves
from models.transforms.linear import Conv1x1, LULinear
from models.transforms.multiscale import MultiScale
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import SigmoidAffine

__all__ = ["ratios"]

SHAPE, STEPS, SCALES, WIDTH, BATCH = (3, 32, 32), 4, 2, 64, 16
DIM, ROWS = 64, 512


def our_glow() -> MultiScale:
    """Return our Glow without dequantization and conditional priors, which the peer lacks."""

    def step(c: int) -> list[ActNorm | Conv1x1 | Coupling]:
        kept, moved = halves(c, parity=0)
        conditioner = ConvNet(len(kept), 2 * len(moved), channels=WIDTH)
        return [ActNorm(c), Conv1x1(c), Coupling(kept, moved, conditioner, SigmoidAffine(floor=0.0))]

    channels = [4 * SHAPE[0] * 2**level for level in range(SCALES)]
    return MultiScale(SHAPE, [Chain(Squeeze(), *[part for _ in range(STEPS) for part in step(c)]) for c in channels])


class PeerGlow(nn.Module):
    """Wraps normflows' blocks, from data to latents, with our squeeze and split between them."""

    def __init__(self, ours: MultiScale) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.levels = nn.ModuleList()
        for level in ours.levels:
            parts = list(level.parts)[1:]
            blocks = [_peer_block(*parts[i : i + 3]) for i in range(0, len(parts), 3)]
            self.levels.append(nn.ModuleList(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = [], x.new_zeros(len(x))
        for index, level in enumerate(self.levels):
            x, _ = self.squeeze(x)
            for block in level:
                x, term = block.inverse(x)
                log_det = log_det + term
            if index < len(self.levels) - 1:
                x, latent = x.chunk(2, 1)
                latents.append(latent.flatten(1))
        return torch.cat([*latents, x.flatten(1)], 1), log_det


@torch.no_grad()
def _peer_block(norm: ActNorm, conv: Conv1x1, coupling: Coupling) -> nn.Module:
    c = len(norm.bias)
    block = normflows.flows.GlowBlock(c, WIDTH, split_mode="channel", scale_map="sigmoid", net_actnorm=True)
    peer_coupling, peer_conv, peer_norm = block.flows
    peer_norm.s.copy_(-norm.log_scale.view(1, c, 1, 1))
    peer_norm.t.copy_((-norm.bias * (-norm.log_scale).exp()).view(1, c, 1, 1))
    peer_norm.data_dep_init_done.fill_(1.0)
    entries = conv.matrix.entries
    peer_conv.P.copy_(torch.eye(c)[conv.matrix.rows])
    peer_conv.L.copy_(entries)
    peer_conv.U.copy_(entries)
    peer_conv.sign_S.copy_(conv.matrix.signs)
    peer_conv.log_S.copy_(entries.diagonal())
    network = next(module for module in peer_coupling.modules() if isinstance(module, normflows.nets.ConvNet2d)).net
    first, _, second, _, last = coupling.conditioner.layers
    for ours, index in ((first, 0), (second, 3)):
        network[index].weight.copy_(ours.conv.weight)
        network[index + 1].actNorm.s.copy_(ours.norm.log_scale.view(1, WIDTH, 1, 1))
        network[index + 1].actNorm.t.copy_(ours.norm.bias.view(1, WIDTH, 1, 1))
        network[index + 1].actNorm.data_dep_init_done.fill_(1.0)
    scale = (3 * last.log_scale).exp()
    weight, bias = last.conv.weight * scale.view(-1, 1, 1, 1), last.conv.bias * scale
    half = len(bias) // 2  # the peer has shift, scale, shift, scale, ..., and subtracts the shift
    network[6].weight.copy_(torch.stack([-weight[:half], weight[half:]], 1).flatten(0, 1))
    network[6].bias.copy_(torch.stack([-bias[:half], bias[half:]], 1).flatten())
    return block


@torch.no_grad()
def peer_lu(ours: LULinear) -> PeerLULinear:
    """Remove permutation and signs from ours, which nflows' map lacks, and return nflows' map with our parameters."""
    ours.matrix.rows.copy_(torch.arange(DIM))
    ours.matrix.signs.fill_(1.0)
    peer = PeerLULinear(DIM)
    entries = ours.matrix.entries
    peer.lower_entries.copy_(entries[peer.lower_indices[0], peer.lower_indices[1]])
    peer.upper_entries.copy_(entries[peer.upper_indices[0], peer.upper_indices[1]])
    peer.unconstrained_upper_diag.copy_((entries.diagonal().exp() - peer.eps).expm1().log())
    peer.bias.copy_(ours.bias)
    return peer


def _training_step(transform: nn.Module, x: Tensor) -> float:
    """Run forward and backward, with the density of the latents, and return the loss."""
    transform.zero_grad()
    z, log_det = transform(x)
    loss = (0.5 * z.square().sum(1) - log_det).mean()
    loss.backward()
    return loss.item()


def _compare(benchmark: str, ours: nn.Module, peer_name: str, peer: nn.Module, x: Tensor, rounds: int) -> Ratio:
    assert math.isclose(_training_step(ours, x), _training_step(peer, x), rel_tol=1e-5)
    mine = ("ours", lambda: _training_step(ours, x))
    return measure(benchmark, mine, (peer_name, lambda: _training_step(peer, x)), rounds=rounds)


def ratios(rounds: int = 11) -> list[Ratio]:
    """Compare ours with the peers, forward and backward, in float32."""
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    images = torch.rand(BATCH, *SHAPE, generator=generator) - 0.5
    glow = our_glow()
    _training_step(glow, images)  # initializes the activation normalization
    with torch.no_grad():
        for module in glow.modules():
            if isinstance(module, Coupling):
                module.conditioner.layers[-1].conv.weight.normal_(std=0.02, generator=generator)
                module.conditioner.layers[-1].log_scale.normal_(std=0.1, generator=generator)
    linear = LULinear(DIM)
    peer = peer_lu(linear)
    name = f"Glow {SHAPE}, K={STEPS}, L={SCALES}, width {WIDTH}, batch {BATCH}: training step"
    vectors = torch.randn(ROWS, DIM, generator=generator)
    return [
        _compare(name, glow, "normflows", PeerGlow(glow), images, rounds),
        _compare(f"LU linear, D={DIM}, batch {ROWS}: training step", linear, "nflows", peer, vectors, rounds),
    ]


if __name__ == "__main__":
    ratios()
