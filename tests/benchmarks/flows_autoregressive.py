"""Time a masked autoregressive flow and its sequential inverse against peers with the same parameters."""

import torch
import zuko
from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
from paired import Ratio, measure
from torch import Generator, Tensor, nn
from torch.nn.functional import silu

from models.nn.made import MADE, REACH
from models.transforms.autoregressive import Autoregressive
from models.transforms.univariate import Affine

__all__ = ["ratios"]

DIM, BATCH = 256, 256
HIDDEN, DEPTH = 510, 2  # a multiple of the 255 degrees, so that both peers distribute units over degrees as ours does


class Given(nn.Module):
    """Wraps our network for use in a peer's flow.

    It softly clamps the inputs like ours, and converts the outputs to the peer's parametrization of shift and scale,
    (B, 2 D), with the two of each variable side by side.
    """

    def __init__(self, network: nn.Module, raw_scale_of: nn.Module, shift_first: bool) -> None:
        super().__init__()
        self.network = network
        self.raw_scale_of = raw_scale_of
        self.shift_first = shift_first

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        shift, raw = self.network(REACH * (x / REACH).tanh()).unflatten(-1, (DIM, 2)).unbind(-1)
        pair = [shift, self.raw_scale_of(Affine().bound * (raw / Affine().bound).tanh())]
        return torch.stack(pair if self.shift_first else pair[::-1], -1).flatten(-2)


class ForZuko(nn.Module):
    """Solves a = r / (1 + |r / log 0.001|) for r."""

    def forward(self, log_scale: Tensor) -> Tensor:
        return log_scale / (1 + (log_scale / torch.tensor(1e-3).log()).abs().neg())


class ForNflows(nn.Module):
    """Solves exp(a) = softplus(r) + 0.001 for r."""

    def forward(self, log_scale: Tensor) -> Tensor:
        return (log_scale.exp() - 1e-3).expm1().log()


@torch.no_grad()
def copy_to(layers: list[nn.Module], made: MADE) -> None:
    """Copy our weights into a peer's masked layers, whose units have another order.

    For every m, the k-th of their units that read m inputs corresponds to the k-th of ours that read m inputs.
    """
    columns = torch.arange(DIM)
    for theirs, ours in zip(layers, made.layers, strict=True):
        mask = theirs.mask[:, columns].float()
        rows = mask.sum(1).argsort(stable=True)
        if theirs is layers[-1]:
            rows = torch.arange(2 * DIM).view(DIM, 2).T.flatten()
        assert torch.equal(mask[rows], ours.mask)
        weight = torch.zeros_like(ours.weight)
        weight[:, columns] = ours.weight
        theirs.weight[rows] = weight
        theirs.bias[rows] = ours.bias
        columns = rows


def _zuko(made: MADE) -> zuko.transforms.Transform:
    part = zuko.flows.MaskedAutoregressiveTransform(DIM, hidden_features=[HIDDEN] * DEPTH, activation=nn.SiLU)
    copy_to([module for module in part.hyper if isinstance(module, nn.Linear)], made)
    part.hyper = Given(part.hyper, ForZuko(), shift_first=True)
    return part()


def _nflows(made: MADE) -> nn.Module:
    layer = MaskedAffineAutoregressiveTransform(
        DIM, HIDDEN, num_blocks=DEPTH - 1, use_residual_blocks=False, activation=silu
    )
    net = layer.autoregressive_net
    copy_to([net.initial_layer, *[block.linear for block in net.blocks], net.final_layer], made)
    layer.autoregressive_net = Given(net, ForNflows(), shift_first=False)
    return layer


def ratios(rounds: int = 11) -> list[Ratio]:
    """Compare ours with the peers in float32. Inverses get at most 5 rounds, because a peer's takes seconds."""
    torch.manual_seed(0)
    ours = Autoregressive(MADE(DIM, 2, hidden=HIDDEN, depth=DEPTH), Affine())
    peer_zuko, peer_nflows = _zuko(ours.network), _nflows(ours.network)
    x = torch.randn(BATCH, DIM, generator=Generator().manual_seed(0))
    sides = {
        "zuko": (peer_zuko.call_and_ladj, peer_zuko.inv),
        "nflows": (peer_nflows, lambda z: peer_nflows.inverse(z)[0]),
    }
    name = f"MAF {BATCH} x {DIM}, MADE of {DEPTH} x {HIDDEN}"
    found = []
    for peer, (forward, inverse) in sides.items():
        with torch.no_grad():
            for mine, theirs in zip(ours(x), forward(x), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
            samples, same = ours.inverse(x)[0], inverse(x)
            assert (samples - same).abs().max() <= 1e-5
            found.append(
                measure(
                    f"{name}: inverse", ("ours", lambda: ours.inverse(x)), (peer, lambda f=inverse: f(x)),
                    rounds=min(rounds, 5),
                )
            )  # fmt: skip

        def step(transform) -> None:  # type: ignore[no-untyped-def]
            z, log_det = transform(x)
            (0.5 * z.square().sum(1) - log_det).mean().backward()

        found.append(
            measure(
                f"{name}: forward and backward", ("ours", lambda: step(ours)), (peer, lambda f=forward: step(f)),
                rounds=rounds,
            )
        )  # fmt: skip
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    ratios()
