"""The Gaussian against SciPy, and the resampler against its training set."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_density import all_examples, discrete_mass, quadrature, sampler_p_value
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import multivariate_normal
from torch import Generator, Tensor

from models.base import HasLikelihood
from models.baselines import Gaussian, Independent, Resampler, oracle_approximating_shrinkage

MODELS = Path(__file__).parent.parent / "conf" / "model"


def correlated(n: int, dim: int, offset: float = 0.0) -> Tensor:
    generator = Generator().manual_seed(0)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing.T + offset


def reloaded(model: torch.nn.Module, fresh: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    return fresh


@pytest.mark.parametrize("sizes", [[1000], [1, 998, 1], [300, 0, 700], [7] * 142 + [6]])
def test_fit_is_maximum_likelihood_however_the_data_come(sizes: list[int]) -> None:
    # An offset of 1e6 standard deviations leaves naive sums of squares no correct digit of the variance in float32
    # and four in float64.
    x = correlated(1000, 4, offset=1e6)
    model = Gaussian((4,), None, shrinkage=0.0)
    model.fit(x.split(sizes))
    covariance = model.cholesky @ model.cholesky.T
    np.testing.assert_allclose(model.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(x.T.numpy(), bias=True), rtol=1e-8, atol=1e-9)


def test_density_of_reals_is_scipys() -> None:
    x = correlated(500, 6).float()
    model = Gaussian((2, 3, 1), None, shrinkage=0.0)
    model.fit([x[:200].reshape(-1, 2, 3, 1), x[200:].reshape(-1, 2, 3, 1)])
    covariance = np.cov(x.double().T.numpy(), bias=True)
    expected = multivariate_normal(x.double().mean(0).numpy(), covariance).logpdf(x[:20].double().numpy())
    assert model.relation == "exact"
    np.testing.assert_allclose(model.log_weight(x[:20].reshape(-1, 2, 3, 1)), expected, rtol=1e-7)


def test_density_of_reals_integrates_to_one() -> None:
    model = Gaussian((2,), None)
    model.fit([correlated(100, 2)])
    assert quadrature(model, half_width=20, points=800) == pytest.approx(1, abs=1e-8)


def test_masses_of_integers_are_those_of_the_normals_cells() -> None:
    generator = Generator().manual_seed(0)
    first = torch.randint(4, (400,), generator=generator)
    second = (first + torch.randint(2, (400,), generator=generator)).clamp(max=3)
    x = torch.stack([first, second], 1).to(torch.uint8)
    model = Gaussian((2,), 4, shrinkage=0.0)
    model.fit([x])
    y = x.double().numpy()
    covariance = np.cov(y.T, bias=True) + np.eye(2) / 12
    np.testing.assert_allclose(model.cholesky @ model.cholesky.T, covariance, rtol=1e-12)
    normal = multivariate_normal(y.mean(0) + 0.5, covariance)

    def cell(low: np.ndarray, high: np.ndarray) -> float:
        return float(normal.cdf(high, lower_limit=low))

    every, draws = all_examples((2,), 4), 20_000
    log_w = model.log_weight(every.repeat(draws, 1), generator=generator).reshape(draws, 16)
    means, stderrs = log_w.exp().mean(0), log_w.exp().std(0) / math.sqrt(draws)
    masses = torch.tensor([cell(point, point + 1) for point in every.double().numpy()])
    assert ((means - masses).abs() < 4.5 * stderrs).all()
    # Together: the normal's mass in [0, 4)^2, which is less than 1.
    assert model.relation == "lower_bound"
    total, stderr = discrete_mass(model, draws=4000)
    inside = cell(np.zeros(2), np.full(2, 4.0))
    assert inside < 0.97
    assert total == pytest.approx(inside, abs=4 * stderr)

    # The sampler gives each cell at least its mass: the end levels also get what lies beyond them.
    samples = model.sample(200_000, generator=generator)
    assert samples.dtype == torch.uint8
    frequencies = torch.bincount(samples[:, 0].long() * 4 + samples[:, 1].long(), minlength=16) / 200_000
    assert (frequencies > masses - 4.5 * (masses / 200_000).sqrt() - 1e-4).all()
    assert frequencies[0] > masses[0] + 0.01


def test_samples_have_the_fitted_moments_and_temperature_scales_them() -> None:
    x = correlated(1000, 3, offset=5.0).float()
    model = Gaussian((3,), None)
    model.fit([x])
    samples = model.sample(100_000, generator=Generator().manual_seed(1))
    assert samples.dtype == torch.float32
    torch.testing.assert_close(samples.mean(0), x.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(samples.T.cov(), x.T.cov(), rtol=0.03, atol=0.05)
    cold = model.sample(4, temperature=0.0, generator=Generator().manual_seed(1))
    torch.testing.assert_close(cold, x.mean(0).expand(4, 3))
    hot = model.sample(100_000, temperature=2.0, generator=Generator().manual_seed(1))
    torch.testing.assert_close(hot - x.mean(0), 2 * (samples - x.mean(0)), rtol=1e-4, atol=1e-4)


def test_degenerate_data() -> None:
    constant_pixels = torch.zeros(50, 1, 4, 4, dtype=torch.uint8)
    constant_pixels[:, 0, 1, 1] = torch.randint(256, (50,), generator=Generator().manual_seed(0)).to(torch.uint8)
    model = Gaussian((1, 4, 4), 256)
    model.fit([constant_pixels])
    assert model.log_weight(constant_pixels).isfinite().all()
    assert torch.linalg.eigvalsh(model.cholesky @ model.cholesky.T).min() >= 1 / 12 - 1e-12

    collinear = torch.randn(50, 1, generator=Generator().manual_seed(0)).repeat(1, 5)
    reals = Gaussian((5,), None)
    reals.fit([collinear])
    assert reals.log_weight(collinear).isfinite().all()
    with pytest.raises(ValueError, match="all the same"):
        Gaussian((5,), None).fit([torch.ones(10, 5)])
    with pytest.raises(ValueError, match="no examples"):
        Gaussian((5,), None).fit([])


def test_reloaded_gaussian_gives_the_same_numbers() -> None:
    model = Gaussian((3,), None)
    model.fit([correlated(100, 3)])
    fresh = reloaded(model, Gaussian((3,), None))
    other = correlated(7, 3) + 1
    assert torch.equal(model.log_weight(other), fresh.log_weight(other))


def test_resampler_draws_training_examples_equally_often() -> None:
    x = torch.arange(5, dtype=torch.uint8).repeat_interleave(4).reshape(5, 1, 2, 2)
    model = Resampler((1, 2, 2), 5)
    model.fit([x[:3], x[3:]])
    samples = model.sample(50_000, generator=Generator().manual_seed(0))
    assert samples.dtype == torch.uint8
    assert samples.shape == (50_000, 1, 2, 2)
    assert (samples == samples[:, :, :1, :1]).all()
    counts = torch.bincount(samples[:, 0, 0, 0].long(), minlength=5)
    assert counts.sum() == 50_000
    chi_square = ((counts - 10_000).square() / 10_000).sum()
    assert chi_square < 20.5  # 99.96 % point with 4 degrees of freedom
    assert torch.equal(samples, model.sample(50_000, temperature=0.5, generator=Generator().manual_seed(0)))
    assert not isinstance(model, HasLikelihood)
    assert not list(model.parameters())


def test_a_fresh_resampler_loads_any_number_of_examples() -> None:
    model = Resampler((3,), None)
    model.fit([correlated(4, 3).float(), correlated(2, 3).float()])
    fresh = reloaded(model, Resampler((3,), None))
    assert torch.equal(fresh.examples, model.examples)
    assert len(fresh.examples) == 6
    draw = (m.sample(9, generator=Generator().manual_seed(3)) for m in (model, fresh))
    assert torch.equal(next(draw), next(draw))
    # A part of a larger module loads as well, and what is missing is still reported.
    nested = torch.nn.ModuleDict({"model": Resampler((3,), None)})
    nested.load_state_dict({"model.examples": model.examples})
    assert torch.equal(nested["model"].examples, model.examples)
    with pytest.raises(RuntimeError, match="examples"):
        fresh.load_state_dict({})


def test_independent_entries_have_the_frequencies_of_all_training_examples() -> None:
    x = torch.tensor([[0, 2], [0, 1], [1, 2], [0, 2], [2, 2]], dtype=torch.uint8)
    for sizes in ([5], [2, 1, 2]):
        model = Independent((2,), 3, smoothing=0.5)
        model.fit(x.split(sizes))
        p = torch.tensor([[3.5, 1.5, 1.5], [0.5, 1.5, 4.5]], dtype=torch.float64) / 6.5
        every = all_examples((2,), 3)
        torch.testing.assert_close(model.log_weight(every).exp(), torch.outer(*p).flatten())
        assert sampler_p_value(model, 20_000) > 1e-3


def test_parameters_are_the_free_numbers_of_a_fit() -> None:
    assert Gaussian((3,), None).n_parameters == 3 + 6  # a mean and a symmetric matrix
    assert Independent((1, 2, 2), 3).n_parameters == 4 * 2
    resampler = Resampler((3,), None)
    resampler.fit([torch.zeros(4, 3), torch.zeros(2, 3)])
    assert resampler.n_parameters == 18


def test_their_yamls() -> None:
    gaussian = instantiate(OmegaConf.load(MODELS / "gaussian.yaml"), shape=[2], levels=None)
    resampler = instantiate(OmegaConf.load(MODELS / "resampler.yaml"), shape=[2], levels=4)
    assert isinstance(gaussian, Gaussian)
    assert gaussian.shrinkage is None
    assert isinstance(resampler, Resampler)
    assert (gaussian.family, resampler.family) == ("baseline", "control")


@pytest.mark.parametrize(("n", "dim"), [(30, 40), (500, 8), (60, 3)])
def test_shrinkage_agrees_with_scikit_learn(n: int, dim: int) -> None:
    """Whose variant of the formula leaves out the terms of order 1/D, so the tolerance is of that order."""
    sklearn_covariance = pytest.importorskip("sklearn.covariance")
    generator = Generator().manual_seed(n)
    x = (
        torch.randn(n, dim, generator=generator, dtype=torch.float64)
        @ torch.randn(dim, dim, generator=generator).double()
    )
    centred = x - x.mean(0)
    rho = oracle_approximating_shrinkage(centred.T @ centred / n, n)
    _, theirs = sklearn_covariance.oas(x.numpy())
    assert rho == pytest.approx(theirs, rel=2 / dim)
    # The published formula, term by term.
    s = (centred.T @ centred / n).numpy()
    square, trace = float((s @ s).trace()), float(s.trace())
    exact = ((1 - 2 / dim) * square + trace**2) / ((n + 1 - 2 / dim) * (square - trace**2 / dim))
    assert rho == pytest.approx(min(1.0, exact), rel=1e-10)


def test_shrinkage_makes_constant_pixels_bearable() -> None:
    """A pixel that is 0 in every training image and 200 in one test image."""
    generator = Generator().manual_seed(0)
    train = torch.randint(0, 256, (300, 6), generator=generator).to(torch.uint8)
    train[:, 0] = 0
    test = train[:1].clone()
    test[0, 0] = 200
    shrunk, plain = Gaussian((6,), 256), Gaussian((6,), 256, shrinkage=0.0)
    for model in (shrunk, plain):
        model.fit([train])
    worse = [float(model.log_weight(test, generator=Generator().manual_seed(1))) for model in (shrunk, plain)]
    assert worse[1] < -100_000
    assert worse[0] > -2_000
