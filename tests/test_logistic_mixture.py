"""Maps by the CDF of a mixture, logistic (Flow++) and normal (Gaussianization): formula, tails, inverse, float32."""

import functools
import math

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from models.nn.mlp import MLP
from models.transforms.coupling import Coupling, alternating
from models.transforms.elementwise import Elementwise
from models.transforms.logistic_mixture import LogisticMixtureCDF
from models.transforms.mixture_cdf import Kernel, Logistic, Normal
from models.transforms.normal_mixture import NormalMixtureCDF
from models.transforms.univariate import Univariate

LAWS = [LogisticMixtureCDF, NormalMixtureCDF]
SCALES = [0.3, 1.0, 3.0]


def random_parameters(law: Univariate, n: int, scale: float, seed: int = 0, dtype=torch.float64) -> Tensor:
    """``(n, P, 1)``: of each example its own."""
    return (scale * normal(n, law.n_parameters, 1, seed=seed)).to(dtype)


def mixture(law: LogisticMixtureCDF | NormalMixtureCDF, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k = law.components
    weights, means, raw = parameters[:, : 3 * k].split(k, 1)
    return weights.softmax(1), means, (law.bound * (raw / law.bound).tanh()).exp()


@few
@given(k=st.integers(1, 5), scale=st.sampled_from(SCALES))
def test_logistic_mixture_is_the_formula_of_the_paper(k: int, scale: float) -> None:
    law = LogisticMixtureCDF(k)
    parameters, x = random_parameters(law, 20, scale), normal(20, 1, seed=1)
    weights, means, scales = mixture(law, parameters)
    cdf = (weights * ((x[:, None] - means) / scales).sigmoid()).sum(1)
    shift, raw = parameters[:, -2], parameters[:, -1]
    expected = (2 * (raw / 2).tanh()).exp() * torch.logit(cdf) + shift
    inside = ((cdf > 1e-6) & (cdf < 1 - 1e-6)).squeeze()  # where the naive formula is good to ten digits
    assert inside.sum() > 8
    torch.testing.assert_close(law.forward(x, parameters)[0][inside], expected[inside], rtol=1e-8, atol=1e-8)


@few
@given(k=st.integers(1, 5), scale=st.sampled_from(SCALES))
def test_normal_mixture_is_the_formula_of_the_paper(k: int, scale: float) -> None:
    law = NormalMixtureCDF(k)
    parameters, x = random_parameters(law, 20, scale), normal(20, 1, seed=1)
    weights, means, scales = mixture(law, parameters)
    cdf = (weights * torch.special.ndtr((x[:, None] - means) / scales)).sum(1)
    inside = ((cdf > 1e-6) & (cdf < 1 - 1e-6)).squeeze()
    assert inside.sum() > 8
    expected = torch.special.ndtri(cdf)
    torch.testing.assert_close(law.forward(x, parameters)[0][inside], expected[inside], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", [kind(k) for kind in LAWS for k in (1, 5)], ids=str)
def test_equal_components_at_zero_are_the_identity_far_out_too(law: Univariate, dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-1e4, 1e4, 401), torch.linspace(-10, 10, 401)]).to(dtype)[:, None]
    z, log_derivative = law.forward(x, torch.zeros(len(x), law.n_parameters, 1, dtype=dtype))
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(z, x, rtol=rounding, atol=rounding)
    torch.testing.assert_close(log_derivative, torch.zeros_like(z), rtol=0, atol=rounding)


@few
@given(
    kind=st.sampled_from(LAWS), k=st.integers(1, 4), scale=st.sampled_from(SCALES), reach=st.sampled_from([1, 30, 1e4])
)
def test_log_derivative_against_autograd_in_both_tails(kind: type, k: int, scale: float, reach: float) -> None:
    law = kind(k)
    x = (reach * normal(40, 1, seed=2)).requires_grad_()
    z, log_derivative = law.forward(x, random_parameters(law, 40, scale))
    (slope,) = torch.autograd.grad(z.sum(), x)
    seen = slope > 1e-100  # between two components far apart autograd's slope underflows
    assert seen.float().mean() > 0.8
    torch.testing.assert_close(log_derivative[seen], slope.log()[seen], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("law", [kind(3) for kind in LAWS], ids=str)
def test_gradients_by_input_and_parameters_are_right_both_ways(law: Univariate, direction: str) -> None:
    """Some are those of implicit functions; the log-derivative has them too."""
    x = torch.tensor([[-9.0, -1.0, 0.1, 0.6, 7.0]], dtype=torch.float64, requires_grad=True)
    parameters = (0.7 * normal(1, law.n_parameters, 5)).requires_grad_()
    assert torch.autograd.gradcheck(getattr(law, direction), (x, parameters), eps=1e-6, atol=1e-6, rtol=1e-5)


@few
@given(kind=st.sampled_from(LAWS), dim=st.integers(1, 5), parity=st.integers(0, 1))
def test_couplings(kind: type, dim: int, parity: int) -> None:
    law = kind(3)
    kept, moved = alternating(dim, parity)
    network = MLP(len(kept), law.n_parameters * len(moved), hidden=8, depth=1)
    check_bijection(prepared(Coupling(kept, moved, network, law)), normal(3, dim), inverse_tolerance=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", LAWS)
def test_density_of_one_variable_integrates_to_one(kind: type, scale: float) -> None:
    for seed in range(2):
        transform = prepared(Elementwise(kind(4), (1,)), scale, seed)
        points = 200_000
        # Even in sinh^-1 x: fine where components are narrow, and as far as 10^4, where logistic tails have ended.
        t = (torch.arange(points, dtype=torch.float64) + 0.5) / points * 20 - 10
        x = t.sinh()
        with torch.no_grad():
            z, log_det = transform(x[:, None])
        density = (log_det - 0.5 * z[:, 0].square() - 0.5 * math.log(2 * math.pi)).exp()
        assert (density * t.cosh()).sum().item() * 20 / points == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", LAWS)
def test_density_of_two_variables_integrates_to_one(kind: type) -> None:
    law = kind(3)
    network = functools.partial(MLP, 1, law.n_parameters, hidden=8, depth=1)
    first, second = (Coupling(*alternating(2, i), network(), law) for i in (0, 1))
    for transform in (first, second):
        prepared(transform, 0.3)
    points, half_width = 600, 25.0
    axis = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1) * half_width
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z, a = first(x)
        z, b = second(z)
    mass = (a + b - 0.5 * z.square().sum(1)).exp().sum().item() / (2 * math.pi) * (2 * half_width / points) ** 2
    assert mass == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", LAWS)
def test_the_image_is_the_whole_line(kind: type) -> None:
    """Where the CDF is 1 in float32, above 17 or 5.4 scales, z still grows and can be inverted."""
    law = kind(3)
    parameters = random_parameters(law, 1, 1.0, dtype=torch.float32).expand(2000, -1, -1)
    x = torch.linspace(-1000, 1000, 2000)[:, None]
    z, log_derivative = law.forward(x, parameters)
    assert (z.diff(dim=0) > 0).all()
    assert z.max() > 100
    assert z.min() < -100
    assert log_derivative.isfinite().all()
    torch.testing.assert_close(law.inverse(z, parameters)[0], x, rtol=1e-5, atol=1e-4)
    _, grows = law.forward(torch.tensor([[-1e6], [1e6]]), parameters[:2])
    assert (grows > -10).all()


@pytest.mark.parametrize("kind", LAWS)
def test_float32_stress(kind: type) -> None:
    """No NaN at parameters of scale 10 in 200 batches; roots to 1e-5, or to rounding where that is more."""
    law = kind(5)
    eps = torch.finfo(torch.float32).eps
    generator = Generator().manual_seed(0)
    for batch in range(200):
        scale = 10.0 if batch % 2 else 1.0
        parameters = (scale * torch.randn(32, law.n_parameters, 4, generator=generator)).requires_grad_()
        y = (scale * torch.randn(32, 4, generator=generator)).requires_grad_()
        z, log_derivative = law.forward(y, parameters)
        (z.sum() + log_derivative.sum()).backward()
        for tensor in (z, log_derivative, parameters.grad, y.grad):
            assert tensor is not None
            assert tensor.isfinite().all()
        with torch.no_grad():
            x, inverse_log_derivative = law.inverse(y, parameters)
            again, log_derivative = law.forward(x, parameters)
        assert x.isfinite().all()
        torch.testing.assert_close(inverse_log_derivative, -log_derivative, rtol=1e-5, atol=1e-5)
        error = (again - y).abs()
        if scale == 1.0:
            assert error.max() <= 1e-5
        assert (error <= 16 * eps * (1 + y.abs() + x.abs() * log_derivative.exp())).all()


@pytest.mark.parametrize("kernel", [Logistic(), Normal()], ids=["logistic", "normal"])
def test_kernels_and_their_gradients(kernel: Kernel) -> None:
    """The gradient of log G is the hazard at -u, the quantile undoes G, and float32 agrees with float64."""
    u = torch.cat([-torch.logspace(-3, 4.5, 50), torch.logspace(-3, 4.5, 50)])
    for function in (kernel.log_cdf, kernel.log_hazard):
        pairs = []
        for dtype in (torch.float32, torch.float64):
            given = u.to(dtype).requires_grad_()
            value = function(given)
            pairs.append((value.double(), torch.autograd.grad(value.sum(), given)[0].double()))
        for single, double in zip(*pairs, strict=True):
            torch.testing.assert_close(single, double, rtol=1e-5, atol=2e-3)
    exact = u.double().requires_grad_()
    log_cdf = kernel.log_cdf(exact)
    (slope,) = torch.autograd.grad(log_cdf.sum(), exact)
    torch.testing.assert_close(slope, kernel.log_hazard(-exact).exp(), rtol=1e-9, atol=1e-300)
    reference = torch.special.log_ndtr if isinstance(kernel, Normal) else torch.nn.functional.logsigmoid
    torch.testing.assert_close(log_cdf, reference(exact), rtol=1e-12, atol=1e-12)
    below = exact[exact < 0]
    torch.testing.assert_close(kernel.lower_quantile(kernel.log_cdf(below)), below, rtol=1e-9, atol=1e-9)


def test_inverse_passes_gradients_at_scale_10() -> None:
    for kind in LAWS:
        law = kind(5)
        parameters = random_parameters(law, 64, 10.0, dtype=torch.float32).requires_grad_()
        x, log_derivative = law.inverse(10 * normal(64, 1).float(), parameters)
        (x.sum() + log_derivative.sum()).backward()
        assert parameters.grad is not None
        assert not parameters.grad.isnan().any()


def test_under_autocast_only_the_network_is_low() -> None:
    law = LogisticMixtureCDF(3)
    coupling = Coupling(*alternating(4, 0), MLP(2, 2 * law.n_parameters, hidden=16, depth=2), law)
    randomize(coupling, 0.3)
    x = torch.randn(8, 4, generator=Generator().manual_seed(0))
    z, _ = coupling(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = coupling(x)
        back, _ = coupling.inverse(z16)
    assert z16.dtype == log_det16.dtype == torch.float32
    assert not torch.equal(z16, z)
    torch.testing.assert_close(z16, z, rtol=0.05, atol=0.1)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_spread_components_are_nearly_standard_normal() -> None:
    for k in (2, 8, 100):
        law = NormalMixtureCDF(k)
        parameters = law.spread().double()[None, :, None]
        weights, means, scales = mixture(law, parameters)
        assert (weights * means).sum().item() == pytest.approx(0, abs=1e-6)
        assert (weights * (means.square() + scales.square())).sum().item() == pytest.approx(1, abs=1e-5)
        x = torch.linspace(-3, 3, 41).double()[:, None]
        torch.testing.assert_close(law.forward(x, parameters.expand(41, -1, -1))[0], x, rtol=0, atol=0.1)
        assert means.unique().numel() == k


def test_mistakes_are_refused() -> None:
    for kind in LAWS:
        with pytest.raises(ValueError, match="component"):
            kind(0)
