"""Linear maps and activation normalization against two independent libraries, with the same parameters."""

import math

import pytest
import torch
from helpers_transforms import normal, prepared
from torch import Tensor

from models.transforms.actnorm import ActNorm
from models.transforms.linear import Conv1x1, FullLinear, LULinear

nflows = pytest.importorskip("nflows.transforms")
normflows = pytest.importorskip("normflows.flows")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.*deprecated.*:UserWarning")


def check_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.expand(a.shape), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_lu_linear_is_nflows(dim: int) -> None:
    ours = prepared(LULinear(dim))
    peer = nflows.LULinear(dim).double()
    entries = ours.matrix.entries
    with torch.no_grad():  # theirs has neither a permutation nor signs
        ours.matrix.rows.copy_(torch.arange(dim))
        ours.matrix.signs.fill_(1.0)
        peer.lower_entries.copy_(entries[peer.lower_indices[0], peer.lower_indices[1]])
        peer.upper_entries.copy_(entries[peer.upper_indices[0], peer.upper_indices[1]])
        peer.unconstrained_upper_diag.copy_((entries.diagonal().exp() - peer.eps).expm1().log())
        peer.bias.copy_(ours.bias)
    for rows in (3, 12):
        check_same(ours(normal(rows, dim)), peer(normal(rows, dim)))
    check_same(ours.inverse(normal(5, dim)), peer.inverse(normal(5, dim)))


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_full_linear_is_nflows(dim: int) -> None:
    ours = prepared(FullLinear(dim))
    peer = nflows.NaiveLinear(dim).double()
    with torch.no_grad():
        peer._weight.copy_(ours.weight)
        peer.bias.copy_(ours.bias)
    x = normal(5, dim)
    z, log_det = peer(x)
    check_same(ours(x), (z, log_det))
    check_same(ours.inverse(z), (x, -log_det))  # their own inverse calls what torch no longer has


@pytest.mark.parametrize("channels", [2, 5])
def test_the_1x1_convolution_is_normflows(channels: int) -> None:
    ours = prepared(Conv1x1(channels))
    peer = normflows.Invertible1x1Conv(channels, use_lu=True).double()
    entries = ours.matrix.entries
    with torch.no_grad():
        peer.P.copy_(torch.eye(channels)[ours.matrix.rows])
        peer.L.copy_(entries)
        peer.U.copy_(entries)
        peer.sign_S.copy_(ours.matrix.signs)
        peer.log_S.copy_(entries.diagonal())
    x = normal(3, channels, 4, 2)
    check_same(ours(x), peer.inverse(x))  # their inverse is towards the latents
    check_same(ours.inverse(x), peer(x))


@pytest.mark.parametrize("shape", [(4,), (3, 4, 2)])
def test_activation_normalization_starts_as_nflows(shape: tuple[int, ...]) -> None:
    ours, peer = ActNorm(shape[0]).double(), nflows.ActNorm(shape[0]).double()
    batch = 3 * normal(40, *shape) + 2
    n = batch.numel() / shape[0]
    mine = ours(batch)
    peer(batch)
    with torch.no_grad():  # they divide by n - 1
        peer.log_scale.sub_(0.5 * math.log((n - 1) / n))
        peer.shift.mul_((n / (n - 1)) ** 0.5)
    check_same(mine, peer(batch))
    x = normal(5, *shape, seed=1)
    check_same(ours(x), peer(x))
    check_same(ours.inverse(x), peer.inverse(x))
