"""Small residual blocks and flows, and contractions whose log-determinants are known."""

import functools
from collections.abc import Callable

import torch
from helpers_density import randomize
from helpers_transforms import normal
from torch import Tensor, nn

from models.flows.base import Flow
from models.flows.idensenet import IDenseNet
from models.flows.iresnet import IResNet
from models.flows.residual_flow import ResidualFlow
from models.nn.lipschitz import LipSwish, lipschitz_mlp
from models.transforms.residual import Residual, Roulette, Series

__all__ = ["FLOWS", "block", "contraction", "linear", "mlp", "ready"]

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
SIZES = {"optimizer": ADAM, "blocks": 2, "scale_blocks": 2, "depth": 1, "scales": 2}
FLOWS: dict[str, Callable[..., Flow]] = {
    "iresnet": functools.partial(IResNet, **SIZES, hidden=8, channels=4),
    "residual_flow": functools.partial(ResidualFlow, **SIZES, hidden=8, channels=4, flat_blocks=1),
    "idensenet": functools.partial(IDenseNet, **SIZES, growth=8, flat_blocks=1),
}
TWO, TWENTY = Roulette(2), Roulette(20)


def block(branch: nn.Module, dim: int, train: Series = TWO, evaluation: Series = TWENTY, **more: int) -> Residual:
    return Residual(branch, dim, train_series=train, eval_series=evaluation, **more)


def mlp(dim: int, hidden: int = 8) -> nn.Module:
    return lipschitz_mlp(dim, hidden=hidden, depth=1, activation=LipSwish, coefficient=0.95)


def ready(module: nn.Module, std: float = 1.0) -> nn.Module:
    """The module with random parameters, in float64 and in evaluation mode."""
    randomize(module, std)
    return module.double().train().eval()


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(*matrix.shape, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def contraction(dim: int, norm: float) -> Tensor:
    """A matrix of this spectral norm."""
    matrix = normal(dim, dim, seed=3)
    return matrix * norm / torch.linalg.matrix_norm(matrix, 2)
