"""Residual blocks and continuous flows against the same networks in other libraries: values and gradients."""

import copy
from collections.abc import Callable

import torch
import zuko
from normflows.flows.residual import iResBlock
from paired import Ratio, measure
from torch import Tensor, nn

from models.nn.dynamics import MLPDynamics
from models.transforms.continuous import Continuous, Tolerance
from models.transforms.residual import Residual, Truncated

__all__ = ["ratios"]

ROWS, DIM, HIDDEN, TERMS = 256, 32, 128, 6
TOLERANCE = 1e-5


def contraction(dim: int) -> nn.Module:
    """Without layers to be tightened: both sides then do the same."""
    network = nn.Sequential(
        nn.Linear(dim, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, dim)
    )
    with torch.no_grad():
        for layer in network[::2]:
            layer.weight.mul_(0.9 / torch.linalg.matrix_norm(layer.weight, 2))
    return network


def with_gradient(module: nn.Module, forward: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], list[Tensor]]:
    """What one training step computes: z, log-determinant, and the gradient of a loss made of both."""
    parameters = list(module.parameters())

    def step() -> list[Tensor]:
        z, log_det = forward()
        loss = 0.5 * z.square().sum() - log_det.sum()
        return [z.detach(), log_det.detach(), *torch.autograd.grad(loss, parameters)]

    return step


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))


def residual_block(rounds: int) -> list[Ratio]:
    """The same Neumann gradient. Ours takes one product more for an estimate of the log-determinant beside it."""
    network, x = contraction(DIM), torch.randn(ROWS, DIM)
    ours = Residual(network, DIM, train_series=Truncated(TERMS + 1), eval_series=Truncated(TERMS + 1))
    theirs = iResBlock(network, n_power_series=TERMS, neumann_grad=True)
    zeros = torch.zeros(ROWS, 1)

    def peer() -> tuple[Tensor, Tensor]:
        z, minus_log_det = theirs(x.clone(), zeros)
        return z, -minus_log_det[:, 0]

    torch.manual_seed(0)  # both draw one probe, from the global generator
    mine = with_gradient(network, lambda: ours(x))()
    torch.manual_seed(0)
    others = with_gradient(network, peer)()
    same([mine[0], *mine[2:]], [others[0], *others[2:]], 1e-4)  # their value is not a log-determinant
    return [
        measure(
            f"residual block {ROWS}x{DIM}, {TERMS} terms, forward and backward",
            ("ours", with_gradient(network, lambda: ours(x))),
            ("normflows", with_gradient(network, peer)),
            rounds=rounds,
        )
    ]


def continuous_flow(rounds: int, dim: int) -> list[Ratio]:
    """Exact trace, solver and adjoint at the same tolerance; step sizes are each library's own."""
    field = MLPDynamics(dim, hidden=64, depth=2)
    x = torch.randn(ROWS, dim)
    tolerance = Tolerance(TOLERANCE, TOLERANCE)
    ours = Continuous(field, dim, train_tolerance=tolerance, eval_tolerance=tolerance).eval()
    peer_field = copy.deepcopy(field)
    theirs = zuko.transforms.FreeFormJacobianTransform(
        peer_field, phi=tuple(peer_field.parameters()), atol=TOLERANCE, rtol=TOLERANCE, exact=True
    )
    sides = (
        with_gradient(field, lambda: ours(x)),
        with_gradient(peer_field, lambda: theirs.call_and_ladj(x)),
    )
    same(sides[0](), sides[1](), 1e-2)
    return [
        measure(
            f"continuous flow {ROWS}x{dim}, exact trace, tolerance {TOLERANCE:g}, forward and backward",
            ("ours", sides[0]),
            ("zuko", sides[1]),
            rounds=rounds,
        )
    ]


def ratios(rounds: int) -> list[Ratio]:
    """Value and gradient of a residual block, and of continuous flows of 2 and 8 variables."""
    torch.manual_seed(0)
    return [*residual_block(rounds), *continuous_flow(rounds, 2), *continuous_flow(rounds, 8)]
