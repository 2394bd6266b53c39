"""The monotone networks of neural autoregressive flows and of block neural autoregressive flows."""

import math

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.autograd.functional import jacobian

from models.nn.made import MADE
from models.transforms.autoregressive import Autoregressive
from models.transforms.base import Chain, Transform
from models.transforms.block_autoregressive import BlockAutoregressive, BlockLinear
from models.transforms.deep_sigmoid import DeepSigmoid
from models.transforms.logistic_mixture import LogisticMixtureCDF
from models.transforms.permute import reversal

TOLERANCE = 1e-7  # of round trips in x: 1e-14 in z, where a curve is as flat as 1e-7


def raw(std: float, units: int, *shape: int, seed: int = 0) -> Tensor:
    """Random raw parameters of a network of one variable, ``(B, 3 K, ...)``."""
    batch, *rest = shape
    return std * normal(batch, 3 * units, *rest, seed=seed)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("units", [1, 2, 16])
def test_the_curve_is_the_formula_and_its_slope_is_autograds(units: int, std: float) -> None:
    network = DeepSigmoid(units)
    parameters, x = raw(std, units, 40, 3), normal(40, 3, seed=1).requires_grad_()
    z, log_slope = network.forward(x, parameters)
    slope, shift, weight = parameters.unflatten(1, (3, units)).unbind(1)
    a = (3 * (slope / 3).tanh()).exp()
    expected = (weight.softmax(1) * (a * x[:, None] + shift).sigmoid()).sum(1)
    torch.testing.assert_close(z.sigmoid(), expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(log_slope, gradient.log(), rtol=1e-9, atol=1e-9)


def test_the_curve_is_that_of_a_mixture_of_logistics() -> None:
    """The same map in other parameters, and computed by other formulas."""
    parameters, x = raw(1.0, 5, 30, 2), 4 * normal(30, 2, seed=1)
    slope, shift, weight = parameters.unflatten(1, (3, 5)).unbind(1)
    log_a = 3 * (slope / 3).tanh()
    mixture = LogisticMixtureCDF(5, bound=4.0)
    affine = torch.zeros(30, 2, 2, dtype=torch.float64)
    theirs = torch.cat([weight, -shift * (-log_a).exp(), 4 * (-log_a / 4).atanh(), affine], 1)
    expected = mixture.forward(x, theirs)
    for one, other in zip(DeepSigmoid(5).forward(x, parameters), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_at_zero_it_is_the_identity() -> None:
    x = 20 * normal(10, 2)
    for direction in (DeepSigmoid(4).forward, DeepSigmoid(4).inverse):
        z, log_derivative = direction(x, torch.zeros(10, 12, 2, dtype=torch.float64))
        torch.testing.assert_close(z, x)
        torch.testing.assert_close(log_derivative, torch.zeros_like(x))


@few
@given(units=st.integers(1, 8), std=st.sampled_from([0.1, 1.0, 2.0]), seed=st.integers(0, 5))
def test_the_curve_and_its_inverse(units: int, std: float, seed: int) -> None:
    network = DeepSigmoid(units)
    parameters, x = raw(std, units, 20, 2, seed=seed), 3 * normal(20, 2, seed=9)
    z, log_dz = network.forward(x, parameters)
    back, log_dx = network.inverse(z, parameters)
    torch.testing.assert_close(back, x, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(log_dx, -log_dz, rtol=TOLERANCE, atol=TOLERANCE)
    again, _ = network.forward(network.inverse(x, parameters)[0], parameters)
    torch.testing.assert_close(again, x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0, 10.0])
def test_the_image_is_the_whole_line(std: float) -> None:
    """As far out as float32 is needed, and without losing the slope: there it is the least a of the units on that side
    (the greatest never is), where sigmoids are 0 or 1 to the last bit."""
    parameters = raw(std, 8, 50, 1).float()
    log_a = 3 * (parameters[:, :8, 0] / 3).tanh()
    for sign in (-1, 1):
        x = torch.full((50, 1), sign * 1e6)
        z, log_slope = DeepSigmoid(8).forward(x, parameters)
        assert (sign * z > 1e4).all()
        torch.testing.assert_close(log_slope[:, 0], log_a.amin(1), rtol=0, atol=5e-3)
        for far in (1e2, 1e6):
            y = torch.full((50, 1), sign * far)
            x, _ = DeepSigmoid(8).inverse(y, parameters)
            torch.testing.assert_close(DeepSigmoid(8).forward(x, parameters)[0], y, rtol=2e-6, atol=0)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0, 10.0])
def test_densities_of_one_variable_integrate_to_one(std: float) -> None:
    """Of N(0, 1) brought back through 6 random curves of 4 units: by trapezoids between images of a grid of z, with
    log-derivatives of the way forth."""
    network, n = DeepSigmoid(4), 10_001
    z = torch.linspace(-9, 9, n, dtype=torch.float64)[:, None].expand(n, 6)
    parameters = raw(std, 4, 1, 6).expand(n, -1, -1)
    with torch.no_grad():
        x, _ = network.inverse(z, parameters)
        assert (x.diff(dim=0) > 0).all(), "increasing"
        again, log_slope = network.forward(x, parameters)
    density = (log_slope - 0.5 * again.square() - 0.5 * math.log(2 * math.pi)).exp()
    mass = torch.trapezoid(density, x, dim=0)
    # A curve that jumps from one step to the next has few points of the grid between.
    torch.testing.assert_close(mass, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-4 if std <= 3 else 1e-2)


def test_gradients_of_the_inverse_are_those_of_the_implicit_function() -> None:
    parameters, z = (raw(1.0, 3, 2, 2).requires_grad_(), normal(2, 2, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(DeepSigmoid(3).inverse, (z, parameters))


def test_raw_parameters_of_any_size_are_inverted_in_float32() -> None:
    """200 batches of raw parameters ten times a standard normal: no NaN, and 1e-5 at most in z."""
    network, generator = DeepSigmoid(16), Generator().manual_seed(0)
    for _ in range(200):
        parameters = 10 * torch.randn(32, 48, 4, generator=generator)
        y = 3 * torch.randn(32, 4, generator=generator)
        x, log_dx = network.inverse(y, parameters)
        again, log_dz = network.forward(x, parameters)
        assert x.isfinite().all()
        assert log_dz.isfinite().all()
        assert (again - y).abs().max() <= 1e-5
        assert torch.equal(log_dx, -log_dz)
        y.requires_grad_()
        parameters.requires_grad_()
        z, log_slope = network.forward(y, parameters)
        assert all(g.isfinite().all() for g in torch.autograd.grad((z + log_slope).sum(), (y, parameters)))


def neural(dim: int, n_context: int = 0, units: int = 4) -> Autoregressive:
    network = MADE(dim, 3 * units, hidden=12, depth=1, n_context=n_context)
    return Autoregressive(network, DeepSigmoid(units))


def block(dim: int, n_context: int = 0, depth: int = 2) -> BlockAutoregressive:
    return BlockAutoregressive(dim, units=3, depth=depth, n_context=n_context)


KINDS = {"naf": neural, "bnaf": block}


@pytest.mark.parametrize("kind", list(KINDS))
@few
@given(dim=st.integers(1, 6), n_context=st.sampled_from([0, 2]), std=st.sampled_from([0.1, 0.4, 0.8]))
def test_bijections(kind: str, dim: int, n_context: int, std: float) -> None:
    transform = prepared(KINDS[kind](dim, n_context), std)
    context = normal(3, n_context, seed=2) if n_context else None
    x = normal(3, dim)
    check_bijection(transform, x, context=context, inverse_tolerance=TOLERANCE)
    matrix = jacobian(lambda e: transform(e[None], context=None if context is None else context[:1])[0][0], x[0])
    assert matrix.triu(1).abs().max() == 0, "exactly zero above the diagonal"
    assert matrix.diagonal().min() > 0
    assert dim == 1 or matrix[1:, 0].abs().min() > 0


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("std", [0.1, 0.25, 0.4])
def test_densities_of_two_variables_integrate_to_one(kind: str, std: float) -> None:
    """Two layers with a reversal between them, by the midpoint rule over all that the base reaches within 6.5."""
    chain: Transform = Chain(KINDS[kind](2), reversal(2), KINDS[kind](2))
    prepared(chain, std, seed=3)
    with torch.no_grad():
        z = normal(20_000, 2)
        reached = chain.inverse(6.5 * z / z.norm(dim=1, keepdim=True))[0]
        # Each axis from the least to the greatest of them.
        low, high = reached.amin(0), reached.amax(0)
        n = 500
        axes = [low[i] + (high[i] - low[i]) * (torch.arange(n, dtype=torch.float64) + 0.5) / n for i in (0, 1)]
        total = 0.0
        for x in torch.cartesian_prod(*axes).split(100_000):
            z, log_det = chain(x)
            total += (log_det - 0.5 * z.square().sum(1)).exp().sum().item() / (2 * math.pi)
    assert total * ((high - low) / n).prod().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("n_context", [0, 2])
def test_gradients_of_the_inverse(n_context: int, depth: int) -> None:
    transform = prepared(block(3, n_context, depth))
    z = normal(2, 3).requires_grad_()
    context = normal(2, n_context, seed=1).requires_grad_() if n_context else None
    names, parameters = zip(*transform.named_parameters(), strict=True)

    def inverse(z: Tensor, context: Tensor | None, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        class Inverse(torch.nn.Module):
            """What functional_call calls."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = transform

            def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
                return self.inner.inverse(z, context=context)

        state = {f"inner.{name}": p for name, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Inverse(), state, (z, context))

    assert torch.autograd.gradcheck(inverse, (z, context, *parameters))


@pytest.mark.parametrize("std", [0.5, 10.0])
def test_block_weights(std: float) -> None:
    """Positive on the diagonal, zero above, rows as long as their scale says, in float32 at any size."""
    layer = BlockLinear(3, 2, 4)
    randomize(layer, std)
    weight = layer.weight()
    assert weight.isfinite().all()
    by_group = weight.view(3, 4, 3, 2)
    for i in range(3):
        for j in range(3):
            blocks = by_group[i, :, j]
            if i < j:
                assert (blocks == 0).all()
            elif i == j:
                # Beside a row's greatest weight a positive one may round to 0.
                assert (blocks > 0).all() if std < 1 else (blocks >= 0).all()
                assert torch.equal(layer.blocks(weight)[i], blocks)
            else:
                assert (blocks != 0).any()
    torch.testing.assert_close(weight.norm(dim=1).log(), 3 * (layer.log_scale / 3).tanh(), rtol=1e-5, atol=1e-5)
    weight.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    assert layer.n_masked == 3 * 2 * 4
    assert (layer.raw.grad == 0).sum() >= layer.n_masked


def test_block_weights_are_the_papers_formula() -> None:
    layer = BlockLinear(2, 2, 3)
    randomize(layer, 0.7)
    layer.double()
    by_hand = torch.zeros(6, 4, dtype=torch.float64)
    for r in range(6):
        for c in range(4):
            v = layer.raw[r, c].item()
            by_hand[r, c] = math.exp(v) if r // 3 == c // 2 else v if r // 3 > c // 2 else 0.0
        by_hand[r] *= math.exp(3 * math.tanh(layer.log_scale[r].item() / 3)) / by_hand[r].norm()
    torch.testing.assert_close(layer.weight(), by_hand)


def test_the_image_of_a_block_network_is_the_whole_space() -> None:
    """Its networks alone are bounded: far points are reached because each mixes its input in."""
    transform = block(3)
    randomize(transform, 1.0)
    for far in (1e2, 1e5):
        z = far * torch.randn(50, 3, generator=Generator().manual_seed(0))
        x, log_dx = transform.inverse(z)
        again, log_dz = transform(x)
        torch.testing.assert_close(again, z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_dz, -log_dx, rtol=1e-4, atol=1e-4)
        assert x.abs().max() > far


def test_block_networks_invert_in_float32_at_any_size_of_their_parameters() -> None:
    """200 networks of parameters ten times a standard normal. In one variable z is met to 1e-5 and what the slope makes
    of rounding x; in more of them the last bits of one are carried on to the next by slopes of up to exp(9)."""
    generator = Generator().manual_seed(0)
    for seed in range(200):
        dim = 1 + seed % 3
        transform = block(dim)
        randomize(transform, 10.0, seed)
        y = 3 * torch.randn(32, dim, generator=generator)
        with torch.no_grad():
            x, log_dx = transform.inverse(y)
            again, log_dz = transform(x)
        assert x.isfinite().all()
        torch.testing.assert_close(log_dz, -log_dx, rtol=0.01, atol=0.01)
        if dim == 1:
            rounding = torch.finfo(x.dtype).eps * x.abs()[:, 0] * log_dz.exp()
            assert ((again - y).abs()[:, 0] <= 1e-5 + 2 * rounding).all()


def test_mistakes_are_refused() -> None:
    for mistake in (
        lambda: DeepSigmoid(0),
        lambda: BlockAutoregressive(2, units=0, depth=1),
        lambda: BlockAutoregressive(2, units=1, depth=0),
        lambda: block(2).output_shape((3,)),
        lambda: block(2, 3)(torch.zeros(1, 2)),
        lambda: block(2, 3).inverse(torch.zeros(1, 2)),
    ):
        with pytest.raises(ValueError, match=r"."):
            mistake()
