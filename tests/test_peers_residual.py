"""Residual blocks and continuous flows against other libraries, with shared parameters, in float64."""

import copy

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import normal
from torch import Generator, Tensor, nn

from models.nn.dynamics import MLPDynamics
from models.nn.lipschitz import CLipSwish, LipSwish, lipschitz_mlp
from models.transforms.continuous import Continuous, Tolerance
from models.transforms.residual import Residual, Roulette, Truncated

pytestmark = pytest.mark.usefixtures("fixed_seed")


def branch() -> nn.Module:
    network = lipschitz_mlp(2, hidden=16, depth=2, activation=LipSwish, coefficient=0.9)
    randomize(network, 1.0)
    return network.double().train().eval()


def test_residual_block_of_normflows() -> None:
    residual = pytest.importorskip("normflows.flows.residual")
    network = branch()
    ours = Residual(network, 2, train_series=Roulette(2), eval_series=Roulette(20)).eval()
    theirs = residual.iResBlock(network, brute_force=True).eval()
    x = normal(50, 2)
    z, log_det = ours(x)
    their_z, minus_log_det = theirs(x.clone(), torch.zeros(50, 1, dtype=torch.float64))
    torch.testing.assert_close(z, their_z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, -minus_log_det[:, 0], rtol=1e-10, atol=1e-10)


def test_truncated_series_of_normflows_with_the_same_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    residual = pytest.importorskip("normflows.flows.residual")
    network = branch()
    ours = Residual(network, 2, train_series=Truncated(6), eval_series=Truncated(6), exact_dim=0).eval()
    theirs = residual.iResBlock(network, n_power_series=6, neumann_grad=False)
    x = normal(50, 2)
    generator = Generator().manual_seed(3)
    probes = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda x: probes)
    theirs.training = True  # their network keeps the vectors of its power iteration
    _, minus_log_det = theirs(x.clone(), torch.zeros(50, 1, dtype=torch.float64))
    log_det = ours(x, generator=Generator().manual_seed(3))[1]
    torch.testing.assert_close(log_det, -minus_log_det[:, 0], rtol=1e-10, atol=1e-10)


def test_neumann_gradient_of_normflows_with_the_same_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    residual = pytest.importorskip("normflows.flows.residual")
    network = branch()
    ours = Residual(network, 2, train_series=Truncated(7), eval_series=Truncated(7), exact_dim=0).eval()
    theirs = residual.iResBlock(network, n_power_series=6, neumann_grad=True)  # they count from the zeroth power
    ours.training = theirs.training = True
    x = normal(50, 2)
    probes = torch.randn(50, 2, generator=Generator().manual_seed(3), dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda x: probes)
    _, minus_log_det = theirs(x.clone(), torch.zeros(50, 1, dtype=torch.float64))
    expected = torch.autograd.grad(-minus_log_det.sum(), list(network.parameters()), allow_unused=True)
    monkeypatch.setattr("models.transforms.residual.tighten", lambda module: None)
    log_det = ours(x, generator=Generator().manual_seed(3))[1]
    found = torch.autograd.grad(log_det.sum(), list(network.parameters()), allow_unused=True)
    for mine, other in zip(found, expected, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_lipswish_of_normflows() -> None:
    lipschitz = pytest.importorskip("normflows.nets.lipschitz")
    x = normal(20, 3)
    theirs = lipschitz.Swish().double()
    torch.testing.assert_close(LipSwish().double()(x), theirs(x), rtol=1e-14, atol=1e-14)
    both = torch.cat([theirs(x), theirs(-x)], 1) / 1.004
    torch.testing.assert_close(CLipSwish().double()(x), both, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 3])
def test_free_form_transform_of_zuko(dim: int) -> None:
    pytest.importorskip("torchdiffeq")
    zuko = pytest.importorskip("zuko.transforms")
    field = MLPDynamics(dim, hidden=8, depth=1).double()
    randomize(field, 0.6)
    tight = Tolerance(1e-12, 1e-12)
    ours = Continuous(field, dim, train_tolerance=tight, eval_tolerance=tight).eval()
    theirs = zuko.FreeFormJacobianTransform(copy.deepcopy(field), t0=0.0, t1=1.0, atol=1e-12, rtol=1e-12, exact=True)

    def compare(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)

    x = normal(20, dim)
    with torch.no_grad():
        compare(ours(x), theirs.call_and_ladj(x))
        compare(ours.inverse(x), theirs.inv.call_and_ladj(x))
