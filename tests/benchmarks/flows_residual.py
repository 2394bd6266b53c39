"""Time residual blocks and continuous flows against the same networks in other libraries: values and gradients."""

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
    """Return a contractive network without our spectrally normalized layers, so that both sides do the same work."""
    network = nn.Sequential(
        nn.Linear(dim, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, dim)
    )
    with torch.no_grad():
        for layer in network[::2]:
            layer.weight.mul_(0.9 / torch.linalg.matrix_norm(layer.weight, 2))
    return network


def with_gradient(module: nn.Module, forward: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], list[Tensor]]:
    """Return the results of one training step: z, log-determinant, and the gradient of a loss of both."""
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
    """Compare the same Neumann gradient. Ours needs one more product, because it also estimates the log-determinant."""
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


def continuous_flows(rounds: int, dim: int) -> list[Ratio]:
    """Compare a training step with the estimated trace and an evaluation with the exact trace, at equal tolerances.

    Each library chooses its own step sizes, so errors differ. zuko's log-determinants are a hundred times less precise.
    """
    field = MLPDynamics(dim, hidden=64, depth=2)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(3)  # makes the field as curved as after some training
    peer_field, x = copy.deepcopy(field), torch.randn(ROWS, dim)
    tolerance = Tolerance(TOLERANCE, TOLERANCE)
    ours = Continuous(field, dim, train_tolerance=tolerance, eval_tolerance=tolerance, noise="gaussian")
    phi = tuple(peer_field.parameters())
    estimated, exact = (
        zuko.transforms.FreeFormJacobianTransform(peer_field, phi=phi, atol=TOLERANCE, rtol=TOLERANCE, exact=exact)
        for exact in (False, True)
    )
    training = (
        with_gradient(field, lambda: ours.train()(x)),
        with_gradient(peer_field, lambda: estimated.call_and_ladj(x)),
    )
    evaluation = (
        torch.no_grad()(lambda: list(ours.eval()(x))),
        torch.no_grad()(lambda: list(exact.call_and_ladj(x))),
    )
    results = []
    for what, (mine, theirs) in {"estimated trace, with gradient": training, "exact trace": evaluation}.items():
        both = []
        for side in (mine, theirs):
            torch.manual_seed(0)  # both draw one normal probe, from the global generator
            both.append(side())
        same(*both, 1e-3)
        name = f"continuous flow {ROWS}x{dim}, {what}, tolerance {TOLERANCE:g}"
        results.append(measure(name, ("ours", mine), ("zuko", theirs), rounds=rounds))
    return results


def ratios(rounds: int) -> list[Ratio]:
    """Time a residual block's training step, and training and evaluation of continuous flows of 2 and 8 variables."""
    torch.manual_seed(0)
    return [*residual_block(rounds), *continuous_flows(rounds, 2), *continuous_flows(rounds, 8)]
