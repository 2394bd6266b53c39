"""The rational-quadratic spline: a bijection with the right derivative, exact tails, and an inverse that float32 can
trust."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers_transforms import check_bijection, few, normal, prepared, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from models.nn.mlp import MLP
from models.transforms.coupling import Coupling, alternating
from models.transforms.elementwise import Elementwise
from models.transforms.spline import RationalQuadraticSpline

Spline = RationalQuadraticSpline


def knots_of(spline: Spline, raw: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Abscissas, ordinates and slopes of one entry, from the formulas of the docstring and one raw vector (P,)."""
    k, m, b = spline.bins, spline.min_bin, spline.bound
    corners: list[list[float]] = []
    for part in (raw[:k], raw[k : 2 * k]):
        weights = [math.exp(v) for v in part.tolist()]
        sizes = [2 * b * (m + (1 - k * m) * w / sum(weights)) for w in weights]
        corners.append([-b + sum(sizes[:i]) for i in range(k + 1)])
    displaced = math.log(math.exp(1 - spline.min_derivative) - 1)
    inner = [spline.min_derivative + math.log1p(math.exp(v + displaced)) for v in raw[2 * k :].tolist()]
    return corners[0], corners[1], [1.0, *inner, 1.0]


@few
@given(dim=st.integers(1, 5), bins=st.integers(2, 9), bound=st.sampled_from([0.5, 3.0, 10.0]), parity=st.integers(0, 1))
def test_a_spline_coupling_is_a_bijection(dim: int, bins: int, bound: float, parity: int) -> None:
    spline = Spline(bins, bound)
    kept, moved = alternating(dim, parity)
    network = MLP(len(kept), spline.n_parameters * len(moved), hidden=8, depth=1)
    check_bijection(prepared(Coupling(kept, moved, network, spline)), 2 * normal(3, dim))


@few
@given(shape=st.sampled_from([(1,), (4,), (2, 3, 2)]), std=st.sampled_from([0.3, 1.0, 3.0]))
def test_an_elementwise_spline_is_a_bijection(shape: tuple[int, ...], std: float) -> None:
    check_bijection(prepared(Elementwise(Spline(5, 2.0), shape), std), 2 * normal(4, *shape))


def test_knots_and_slopes_are_those_of_the_formulas() -> None:
    spline = Spline(5, 2.0, min_bin=0.03, min_derivative=0.02)
    raw = normal(spline.n_parameters)
    xs, ys, slopes = knots_of(spline, raw)
    x = torch.tensor(xs, dtype=torch.float64)
    parameters = raw[None, :, None].expand(1, -1, 6)
    z, log_derivative = spline.forward(x[None], parameters)
    torch.testing.assert_close(z[0], torch.tensor(ys, dtype=torch.float64))
    torch.testing.assert_close(log_derivative[0].exp(), torch.tensor(slopes, dtype=torch.float64))
    # Within a bin: the equations of the paper, one number at a time.
    for k in range(spline.bins):
        w, h, t = xs[k + 1] - xs[k], ys[k + 1] - ys[k], 0.3
        s, d0, d1 = h / w, slopes[k], slopes[k + 1]
        bottom = s + (d1 + d0 - 2 * s) * t * (1 - t)
        value = ys[k] + h * (s * t**2 + d0 * t * (1 - t)) / bottom
        slope = s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2) / bottom**2
        x = torch.tensor([[xs[k] + t * w]], dtype=torch.float64)
        got, log_derivative = spline.forward(x, raw[None, :, None])
        assert got.item() == pytest.approx(value, abs=1e-12)
        assert log_derivative.item() == pytest.approx(math.log(slope), abs=1e-12)


def test_zero_parameters_are_the_identity() -> None:
    for dtype, tolerance in [(torch.float64, 1e-14), (torch.float32, 1e-6)]:
        for spline in (Spline(), Spline(2, 0.5), Spline(13, 10.0, min_bin=0.02, min_derivative=0.5)):
            x = (2 * spline.bound * normal(500)).to(dtype)[:, None]
            zero = x.new_zeros(500, spline.n_parameters, 1)
            for direction in (spline.forward, spline.inverse):
                y, log_derivative = direction(x, zero)
                torch.testing.assert_close(y, x, rtol=0, atol=tolerance * spline.bound)
                torch.testing.assert_close(log_derivative, torch.zeros_like(x), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_the_map_increases_and_its_derivative_is_continuous_out_of_the_box(std: float) -> None:
    spline = Spline(6, 2.0)
    parameters = std * normal(20, spline.n_parameters, 1, seed=3)
    x = torch.linspace(-2.5, 2.5, 20_001, dtype=torch.float64)
    z, log_derivative = spline.forward(x.expand(20, -1), parameters.expand(-1, -1, len(x)))
    assert (z.diff(dim=1) > 0).all()
    outside = x.abs() >= 2
    assert torch.equal(z[:, outside], x.expand(20, -1)[:, outside])
    assert torch.equal(log_derivative[:, outside], torch.zeros_like(z[:, outside]))
    assert z[:, ~outside].abs().max() < 2
    # Beside a knot on either side, the corners of the box among them, the slope is the knot's own.
    for i in range(20):
        xs, _, slopes = knots_of(spline, parameters[i, :, 0])
        knots = torch.tensor([xs, xs], dtype=torch.float64) + torch.tensor([[-1e-12], [1e-12]], dtype=torch.float64)
        _, beside = spline.forward(knots, parameters[i : i + 1].expand(2, -1, len(xs)))
        expected = torch.tensor(slopes, dtype=torch.float64).log().expand(2, -1)
        torch.testing.assert_close(beside, expected, rtol=0, atol=1e-4)


def test_gradients_of_both_directions_are_those_of_finite_differences() -> None:
    spline = Spline(4, 2.0, min_bin=0.05, min_derivative=0.05)
    x = (6 * uniform(5, 2) - 3).requires_grad_()  # some outside
    parameters = normal(5, spline.n_parameters, 2, seed=1).requires_grad_()
    assert (x.abs() > 2).any()
    assert torch.autograd.gradcheck(spline.forward, (x, parameters))
    assert torch.autograd.gradcheck(spline.inverse, (x, parameters))


@pytest.mark.parametrize("std", [0.5, 2.0, 5.0])
def test_density_of_one_variable_integrates_to_one(std: float) -> None:
    flow = prepared(Elementwise(Spline(6, 4.0), (1,)), std)
    x = ((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * 20 - 10)[:, None]
    with torch.no_grad():
        z, log_det = flow(x)
    density = (log_det - z[:, 0].square() / 2 - math.log(2 * math.pi) / 2).exp()
    assert density.std() > 0.02
    assert density.sum().item() * 20 / 200_000 == pytest.approx(1, abs=1e-6)


def stress(spline: Spline, record: Callable[[str, object], None]) -> dict[str, float]:
    """The largest errors in float32 with raw parameters of standard deviation 10, over 200 batches of 64 x 32."""
    worst: dict[str, float] = {}
    generator = Generator().manual_seed(0)
    spacing = torch.finfo(torch.float32).eps * spline.bound  # of float32 numbers near the sides of the box
    for _ in range(200):
        parameters = 10 * torch.randn(64, spline.n_parameters, 32, generator=generator)
        z = spline.bound * (2 * torch.rand(64, 32, generator=generator) - 1)
        x, log_inverse = spline.inverse(z, parameters)
        again, log_derivative = spline.forward(x, parameters)
        forth, _ = spline.forward(z, parameters)
        back, _ = spline.inverse(forth, parameters)
        assert all(t.isfinite().all() for t in (x, log_inverse, again, log_derivative, back))
        error, slope = (again - z).abs(), log_derivative.exp()
        found = {
            "f(f^-1(z)) - z": error,
            "f(f^-1(z)) - z beyond the rounding of f^-1(z)": error - spacing * slope,
            "f^-1(f(x)) - x": (back - z).abs(),
            "slope": slope,
            "log-derivatives": (log_inverse + log_derivative).abs(),
        }
        worst = {key: max(worst.get(key, 0.0), values.max().item()) for key, values in found.items()}
    for key, value in worst.items():
        record(f"{spline}: {key}", value)
    return worst


def test_the_inverse_is_as_good_as_float32_allows(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """x is a float32 number. Where the slope is 2000, its rounding alone, by up to 1e-7, moves f(x) by 2e-4."""
    worst = stress(Spline(), record_testsuite_property)
    assert worst["slope"] > 1900
    assert worst["f(f^-1(z)) - z"] < 5e-4
    assert worst["f(f^-1(z)) - z beyond the rounding of f^-1(z)"] <= 1e-5
    assert worst["log-derivatives"] <= 1e-5


def test_the_inverse_is_good_to_1e_5_where_rounding_x_costs_less(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """Slopes below 200 in a box of size 1."""
    worst = stress(Spline(bound=1.0, min_bin=0.01), record_testsuite_property)
    assert 100 < worst["slope"] < 200
    assert worst["f(f^-1(z)) - z"] <= 1e-5


def test_the_best_float32_number_does_no_better() -> None:
    """The exact inverse, found by bisection in float64, rounded to float32 and mapped in float64."""
    spline, generator = Spline(), Generator().manual_seed(1)
    parameters = 10 * torch.randn(64, spline.n_parameters, 32, generator=generator)
    z = 6 * torch.rand(64, 32, generator=generator) - 3
    low, high = torch.full_like(z, -3.0).double(), torch.full_like(z, 3.0).double()
    for _ in range(60):
        middle = (low + high) / 2
        below = spline.forward(middle, parameters.double())[0] < z
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    best = (spline.forward(high.float().double(), parameters.double())[0] - z).abs().max().item()
    ours = (spline.forward(spline.inverse(z, parameters)[0], parameters)[0] - z).abs().max().item()
    assert best > 1e-4
    assert ours < 1.2 * best


def test_no_gradient_is_nan_whatever_the_input_and_the_parameters() -> None:
    spline = Spline()
    special = torch.tensor([0.0, 3.0, -3.0, 2.9999998, -2.9999998, 1e30, -1e30, 0.75, math.inf, -math.inf])
    for std in (0.0, 1.0, 10.0, 100.0):
        for direction in (spline.forward, spline.inverse):
            x = special.repeat(200, 1).requires_grad_()
            generator = Generator().manual_seed(0)
            parameters = (std * torch.randn(200, spline.n_parameters, 10, generator=generator)).requires_grad_()
            y, log_derivative = direction(x, parameters)
            assert torch.equal(y[:, -2:], x[:, -2:])
            assert torch.equal(y[:, 5:7], x[:, 5:7])
            gradients = torch.autograd.grad(y[:, :-2].sum() + log_derivative.sum(), (x, parameters))
            assert all(gradient.isfinite().all() for gradient in gradients)


def test_autocast_changes_nothing() -> None:
    spline, generator = Spline(), Generator().manual_seed(0)
    x, parameters = torch.randn(9, 4, generator=generator), torch.randn(9, spline.n_parameters, 4, generator=generator)
    for direction in (spline.forward, spline.inverse):
        expected = direction(x, parameters)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = direction(x, parameters)
        assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_it_compiles_as_one_graph() -> None:
    spline = Spline(5)
    parameters, x = normal(7, spline.n_parameters, 3, seed=1), 3 * normal(7, 3)
    for direction in (spline.forward, spline.inverse):
        torch.compiler.reset()  # what other tests compiled counts against a limit
        compiled = torch.compile(direction, fullgraph=True, backend="eager")
        for got, expected in zip(compiled(x, parameters), direction(x, parameters), strict=True):
            torch.testing.assert_close(got, expected)


def test_mistakes_are_refused() -> None:
    for mistake in (
        lambda: Spline(bins=1),
        lambda: Spline(bound=0.0),
        lambda: Spline(bins=10, min_bin=0.1),
        lambda: Spline(min_bin=0.0),
        lambda: Spline(min_derivative=1.0),
        lambda: Elementwise(Spline(), (3,)).output_shape((4,)),
    ):
        with pytest.raises(ValueError, match=r"."):
            mistake()
