"""Our spline and coupling against those of zuko and nflows with the same parameters, in float64, in both directions."""

import math

import pytest
import torch
from helpers_transforms import normal
from torch import Tensor, nn

from models.nn.mlp import MLP
from models.transforms.coupling import Coupling, alternating
from models.transforms.spline import RationalQuadraticSpline

BOUND = 3.0
MIN_DERIVATIVE = 1e-3


def ours(spline: RationalQuadraticSpline, widths: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """Raw parameters of our layout from slopes at the inner knots; all ``(B, D, ...)`` to ``(B, P, D)``."""
    least = spline.min_derivative
    displaced = (slopes - least).expm1().log() - math.log(math.expm1(1 - least))
    return torch.cat([widths, heights, displaced], -1).transpose(1, 2)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("bins", [2, 8])
def test_nflows(bins: int, std: float) -> None:
    peer = pytest.importorskip("nflows.transforms.splines.rational_quadratic").unconstrained_rational_quadratic_spline
    widths, heights, raw = (std * normal(40, 5, n, seed=n + i) for i, n in enumerate((bins, bins, bins - 1)))
    slopes = MIN_DERIVATIVE + nn.functional.softplus(raw)
    spline = RationalQuadraticSpline(bins, BOUND, min_bin=1e-3, min_derivative=MIN_DERIVATIVE)
    parameters = ours(spline, widths, heights, slopes)
    x = 2 * normal(40, 5, seed=9)
    assert 10 < (x.abs() > BOUND).sum() < 100
    for inverse in (False, True):
        expected = peer(
            x, widths, heights, raw, inverse=inverse, tails="linear", tail_bound=BOUND,
            min_bin_width=1e-3, min_bin_height=1e-3, min_derivative=MIN_DERIVATIVE,
        )  # fmt: skip
        got = spline.inverse(x, parameters) if inverse else spline.forward(x, parameters)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("bins", [2, 8])
def test_zuko(bins: int, std: float) -> None:
    peer = pytest.importorskip("zuko.transforms").MonotonicRQSTransform
    least = 1e-3  # zuko squeezes raw parameters, and has no least width: what it makes of them is shared
    widths, heights, raw = (std * normal(40, 5, n, seed=n + i) for i, n in enumerate((bins, bins, bins - 1)))
    theirs = peer(widths, heights, raw, bound=BOUND, slope=least)
    spline = RationalQuadraticSpline(bins, BOUND, min_bin=1e-14, min_derivative=1e-14)
    squeezed = [v / (1 + (2 * v / math.log(least)).abs()) for v in (widths, heights)]
    parameters = ours(spline, *squeezed, (raw / (1 + (raw / math.log(least)).abs())).exp())
    x = 2 * normal(40, 5, seed=9)
    z, log_derivative = theirs.call_and_ladj(x)
    for one, other in zip(spline.forward(x, parameters), (z, log_derivative), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    back, inverse_log_derivative = spline.inverse(x, parameters)
    torch.testing.assert_close(back, theirs.inv(x), rtol=0, atol=1e-10)
    expected = theirs.inv.log_abs_det_jacobian(x, theirs.inv(x))
    torch.testing.assert_close(inverse_log_derivative, expected, rtol=0, atol=1e-10)


def test_a_coupling_of_nflows() -> None:
    """With one conditioner for both, rows of whose last layer stand in the peer's order for the peer."""
    coupling = pytest.importorskip("nflows.transforms.coupling").PiecewiseRationalQuadraticCouplingTransform
    kept, moved = alternating(7, 0)
    spline = RationalQuadraticSpline(8, BOUND)
    network = MLP(len(kept), spline.n_parameters * len(moved), hidden=16, depth=2).double()
    displacement = math.log(math.expm1(1 - spline.min_derivative))

    class InTheirOrder(nn.Module):
        hidden_features = 1  # by whose root the peer divides raw widths and heights

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            by_entry = network(x).unflatten(1, (spline.n_parameters, len(moved))).transpose(1, 2).clone()
            by_entry[..., 2 * spline.bins :] += displacement
            return by_entry.flatten(1)

    mask = torch.tensor([int(i in moved) for i in range(7)])
    theirs = coupling(mask, lambda n_in, n_out: InTheirOrder(), num_bins=8, tails="linear", tail_bound=BOUND)
    mine = Coupling(kept, moved, network, spline)
    x = normal(50, 7)
    z, log_det = mine(x)
    for one, other in zip((z, log_det), theirs(x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    for one, other in zip(mine.inverse(x), theirs.inverse(x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
