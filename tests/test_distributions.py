"""Output distributions: masses that sum to 1, an independent reference, and samples that follow the masses."""

import math

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from models.distributions import (
    Bernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Distribution,
    bounded_log_scale,
    from_symmetric,
    output_distribution,
    parameters_per_entry,
    standard_normal,
    to_symmetric,
    uniform,
)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def every_level(levels: int, copies: int) -> Tensor:
    """``(levels * copies, 1)``: each level, for each of ``copies`` parameters."""
    return torch.arange(levels, dtype=torch.uint8).repeat_interleave(copies).unsqueeze(1)


EXTREMES = [
    (m, s) for m in (-1000.0, -0.5, 0.0, 0.49, 1.0, 127.5, 300.0, 1000.0) for s in (-80.0, -5.0, 0.0, 5.0, 80.0)
]


@pytest.mark.parametrize("levels", [2, 32, 256])
def test_discretized_logistic_masses_sum_to_one_at_extreme_parameters(levels: int) -> None:
    mean, log_scale = torch.tensor(EXTREMES).unbind(1)
    mean = mean.repeat(levels).unsqueeze(1).requires_grad_()
    log_scale = log_scale.repeat(levels).unsqueeze(1).requires_grad_()
    log_mass = DiscretizedLogistic(mean, log_scale, levels).log_prob(every_level(levels, len(EXTREMES)))
    assert torch.isfinite(log_mass).all()
    total = log_mass.double().exp().view(levels, -1).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-5)
    gradients = torch.autograd.grad(log_mass.sum(), [mean, log_scale])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("levels", [2, 32, 256])
def test_chosen_distribution_masses_sum_to_one_at_extreme_outputs(levels: int) -> None:
    ends = torch.tensor([-60.0, -1.0, 0.0, 0.3, 60.0])
    raw = torch.cartesian_prod(*[ends] * parameters_per_entry(levels)).view(-1, parameters_per_entry(levels), 1)
    raw = raw.repeat(levels, 1, 1).requires_grad_()
    log_mass = output_distribution(raw, levels).log_prob(every_level(levels, len(raw) // levels))
    total = log_mass.double().exp().view(levels, -1).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-5)
    assert torch.isfinite(torch.autograd.grad(log_mass.sum(), raw)[0]).all()


@pytest.mark.parametrize("levels", [3, 32, 256])
def test_mixture_masses_sum_to_one_at_extreme_outputs(levels: int) -> None:
    choices = torch.tensor([-300.0, -1.0, 0.3, 300.0])
    raw = choices[torch.randint(4, (200, 9, 1), generator=seeded(1))]  # of 3 components
    raw = raw.repeat(levels, 1, 1).requires_grad_()
    distribution = output_distribution(raw, levels, "mixture", components=3)
    log_mass = distribution.log_prob(every_level(levels, 200))
    total = log_mass.double().exp().view(levels, -1).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-5)
    assert torch.isfinite(log_mass).all()
    assert torch.isfinite(torch.autograd.grad(log_mass.sum(), raw)[0]).all()
    assert int(distribution.sample(seeded(0)).max()) < levels


def mixture(copies: int = 1) -> DiscretizedLogisticMixture:
    """Over (copies, 2) integers 0 .. 7, with three components of which one lies on the last level."""
    generator = seeded(11)
    logits = torch.randn(1, 3, 2, generator=generator, dtype=torch.float64)
    means = torch.tensor([[[0.6, 2.2], [4.4, 5.0], [7.3, 9.0]]], dtype=torch.float64)
    log_scales = 0.7 * torch.randn(1, 3, 2, generator=generator, dtype=torch.float64) - 0.5
    return DiscretizedLogisticMixture(*(t.expand(copies, -1, -1) for t in (logits, means, log_scales)), levels=8)


def test_a_mixture_is_the_weighted_sum_of_its_components() -> None:
    made, x = mixture(8), torch.arange(8).unsqueeze(1).expand(-1, 2)
    weights = made.log_weights.exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(8, 2, dtype=torch.float64))
    expected = torch.zeros(8, dtype=torch.float64)
    for entry in range(2):
        masses = [
            DiscretizedLogistic(made.means[:, m, [entry]], made.log_scales[:, m, [entry]], 8).log_prob(x[:, [entry]])
            for m in range(3)
        ]
        expected += (weights[:, :, entry] * torch.stack(masses, 1).exp()).sum(1).log()
    torch.testing.assert_close(made.log_prob(x), expected)
    assert torch.autograd.gradcheck(
        lambda logits, m, s: DiscretizedLogisticMixture(logits, m, s, 8).log_prob(x[3:4]),
        [t[:1].clone().requires_grad_() for t in (made.log_weights, made.means, made.log_scales)],
    )


def test_the_median_of_a_mixture_is_where_its_masses_reach_a_half() -> None:
    generator = seeded(3)
    logits, means, log_scales = torch.randn(3, 50, 2, 1, generator=generator).double()
    made = DiscretizedLogisticMixture(2 * logits, 3.5 + 4 * means, log_scales, 8)
    cumulative = torch.stack([made.log_prob(torch.full((50, 1), k)).exp() for k in range(8)], 1).cumsum(1)
    assert torch.equal(made.median.squeeze(1).long(), (cumulative < 0.5).sum(1))
    assert made.median.unique().numel() > 4


def test_means_are_those_before_rounding_and_are_differentiable() -> None:
    weights = mixture().log_weights.exp()
    torch.testing.assert_close(mixture().mean, (weights * mixture().means).sum(1))
    for levels, output in ((2, None), (None, None), (256, "logistic"), (256, "mixture")):
        raw = torch.randn(4, parameters_per_entry(levels, output, 2), 3, generator=seeded(0)).requires_grad_()
        made = output_distribution(raw, levels, output, 2)
        assert made.mean.shape == (4, 3)
        assert (torch.autograd.grad(made.mean.sum(), raw)[0] != 0).any()
    logits = torch.tensor([[0.3, -2.0]])
    torch.testing.assert_close(Bernoulli(logits).mean, Bernoulli(logits.T).log_prob(torch.ones(2, 1)).exp()[None])


def test_the_density_of_reals_integrates_to_one() -> None:
    raw = torch.tensor([[[0.4], [-1.0]]]).expand(4001, -1, -1)
    y = torch.linspace(-10, 10, 4001).unsqueeze(1)
    density = output_distribution(raw, None).log_prob(y).double().exp()
    assert float(torch.trapezoid(density, y.squeeze(1).double())) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("levels", "output", "said"),
    [
        (256, "bernoulli", "output: data with 256 levels take logistic or mixture, not bernoulli"),
        (256, "gaussian", "output: data with 256 levels take logistic or mixture, not gaussian"),
        (2, "mixture", "output: data with 2 levels take bernoulli, not mixture"),
        (None, "logistic", "output: real-valued data take gaussian, not logistic"),
        (2, "normal", "output: there is no output 'normal'; data with 2 levels take bernoulli, not normal"),
    ],
)
def test_an_output_that_does_not_suit_the_data_is_refused(levels: int | None, output: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parameters_per_entry(levels, output)


def test_a_mixture_without_components_is_refused() -> None:
    with pytest.raises(ValueError, match="components must be at least 1, not 0"):
        parameters_per_entry(256, "mixture", 0)
    with pytest.raises(ValueError, match="levels must be from 2 to 256"):
        DiscretizedLogisticMixture(*torch.zeros(3, 1, 2, 1), levels=257)


def test_discretized_logistic_equals_differences_of_the_cdf() -> None:
    levels = 32
    mean = (40 * torch.rand(50, 3, generator=seeded(0), dtype=torch.float64) - 4).requires_grad_()
    log_scale = (3 * torch.rand(50, 3, generator=seeded(1), dtype=torch.float64) - 1).requires_grad_()
    x = torch.randint(0, levels, (50, 3), generator=seeded(2))
    x[0], x[1] = 0, levels - 1
    lower = torch.where(x == 0, -torch.inf, x - 0.5)
    upper = torch.where(x == levels - 1, torch.inf, x + 0.5)
    reference = stats.logistic(mean.detach().numpy(), log_scale.detach().exp().numpy())
    left = torch.tensor(reference.cdf(upper.numpy()) - reference.cdf(lower.numpy()))
    right = torch.tensor(reference.sf(lower.numpy()) - reference.sf(upper.numpy()))
    # Each difference is precise on its own side of the mean and cancels on the other.
    expected = torch.where(x < mean, left, right).detach().log().sum(1)
    distribution = DiscretizedLogistic(mean, log_scale, levels)
    torch.testing.assert_close(distribution.log_prob(x), expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda m, s: DiscretizedLogistic(m, s, levels).log_prob(x), (mean, log_scale))


def test_a_tail_mass_keeps_its_relative_precision_in_float32() -> None:
    # 1 - sigmoid differences would be 0 here and their logarithm -inf.
    log_mass = DiscretizedLogistic(torch.tensor([[0.0]]), torch.tensor([[0.0]]), 256).log_prob(torch.tensor([[200]]))
    exact = -199.5 + math.log(-math.expm1(-1.0))
    assert float(log_mass) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("levels", [1, 257])
def test_discretized_logistic_refuses_levels_that_are_no_bytes(levels: int) -> None:
    with pytest.raises(ValueError, match="levels must be from 2 to 256"):
        DiscretizedLogistic(torch.zeros(1, 1), torch.zeros(1, 1), levels)


def test_bernoulli_equals_torch() -> None:
    logits = 8 * torch.randn(40, 5, generator=seeded(0))
    x = torch.randint(0, 2, (40, 5), generator=seeded(1), dtype=torch.uint8)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x.float()).sum(1)
    torch.testing.assert_close(Bernoulli(logits).log_prob(x), expected)


def test_gaussian_equals_torch() -> None:
    mean, log_scale, x = torch.randn(3, 40, 2, 3, generator=seeded(0), dtype=torch.float64)
    gaussian = DiagonalGaussian(mean, log_scale)
    reference = torch.distributions.Normal(mean, log_scale.exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(gaussian.log_prob(x), reference.log_prob(x).sum((1, 2)))
    kl = torch.distributions.kl_divergence(reference, standard).sum((1, 2))
    torch.testing.assert_close(gaussian.kl_to_standard(), kl)


INTEGER = {
    "bernoulli": (Bernoulli(torch.full((20_000, 1), 0.7)), 2),
    "two levels": (DiscretizedLogistic(torch.full((20_000, 1), 0.7), torch.full((20_000, 1), -0.3), 2), 2),
    "inside": (DiscretizedLogistic(torch.full((20_000, 1), 3.3), torch.full((20_000, 1), 0.2), 8), 8),
    "edges": (DiscretizedLogistic(torch.full((20_000, 1), -0.4), torch.full((20_000, 1), 1.5), 8), 8),
    "mixture": (
        output_distribution(
            torch.tensor([0.5, -0.5, -1.1, 0.4, -3.0, -2.0]).view(1, 6, 1).repeat(20_000, 1, 1), 8, "mixture", 2
        ),
        8,
    ),
    "chosen": (output_distribution(torch.tensor([[[0.1], [-1.0]]]).repeat(20_000, 1, 1), 8), 8),
}


@pytest.mark.parametrize("name", list(INTEGER))
def test_sample_frequencies_match_the_masses(name: str) -> None:
    distribution, levels = INTEGER[name]
    masses = torch.stack([distribution.log_prob(torch.full((20_000, 1), k))[0].exp() for k in range(levels)])
    draws = distribution.sample(seeded(3))
    assert draws.shape == (20_000, 1)
    assert draws.dtype == torch.uint8
    counts = torch.bincount(draws.flatten().long(), minlength=levels).double()
    expected = masses.double() / masses.double().sum() * len(draws)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_gaussian_samples_follow_the_density_and_carry_gradients() -> None:
    log_scale = torch.full((20_000, 1), -0.5, requires_grad=True)
    draws = DiagonalGaussian(torch.full((20_000, 1), 2.0), log_scale).sample(seeded(4))
    reference = stats.norm(2.0, math.exp(-0.5))
    assert stats.kstest(draws.detach().flatten().numpy(), reference.cdf).pvalue > 1e-3
    gradient = torch.autograd.grad(draws.sum(), log_scale)[0]
    torch.testing.assert_close(gradient, draws.detach() - 2.0, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("levels", "output"), [(2, None), (5, None), (256, None), (5, "mixture"), (256, "mixture"), (None, None)]
)
def test_the_median_splits_the_samples(levels: int | None, output: str | None) -> None:
    parameters = torch.linspace(-0.9, 0.8, parameters_per_entry(levels, output)).view(1, -1, 1).repeat(20_000, 1, 1)
    distribution: Distribution = output_distribution(parameters, levels, output)
    draws, median = distribution.sample(seeded(5)).double(), distribution.median.double()
    assert median.shape == (20_000, 1)
    assert (draws <= median).double().mean() > 0.48
    assert (draws >= median).double().mean() > 0.48


def test_choice_by_levels_is_on_the_symmetric_scale() -> None:
    assert isinstance(output_distribution(torch.zeros(1, 1, 3), 2), Bernoulli)
    logistic = output_distribution(torch.tensor([[[-1.0, 0.0, 1.0], [3.0, 3.0, 3.0]]]), 256)
    assert isinstance(logistic, DiscretizedLogistic)
    torch.testing.assert_close(logistic.mean, torch.tensor([[0.0, 127.5, 255.0]]))
    torch.testing.assert_close(logistic.log_scale, torch.full((1, 3), 3 + math.log(127.5)), atol=1e-4, rtol=0)
    gaussian = output_distribution(torch.tensor([[[5.0], [2.0]]]), None)
    assert isinstance(gaussian, DiagonalGaussian)
    assert float(gaussian.mean) == 5.0
    with pytest.raises(ValueError, match="expected 2 numbers an entry, not 1"):
        output_distribution(torch.zeros(1, 1, 3), 256)


def test_half_precision_parameters_are_raised_to_float32() -> None:
    assert output_distribution(torch.zeros(1, 2, 3, dtype=torch.bfloat16), None).median.dtype == torch.float32


def test_log_scale_is_bounded_below_with_a_live_gradient() -> None:
    raw = torch.tensor([-20.0, -7.0, 0.0, 5.0], requires_grad=True)
    bounded = bounded_log_scale(raw)
    assert (bounded >= -7).all()
    torch.testing.assert_close(bounded[2:], raw[2:], atol=1e-3, rtol=0)
    assert (torch.autograd.grad(bounded.sum(), raw)[0] > 0).all()


@pytest.mark.parametrize("levels", [2, 3, 32, 255, 256])
def test_symmetric_scale_is_inverted_exactly(levels: int) -> None:
    x = torch.arange(levels, dtype=torch.uint8)
    y = to_symmetric(x, levels)
    assert y[0] == -1
    assert y[-1] == 1
    torch.testing.assert_close(from_symmetric(y, levels), x, rtol=0, atol=0)


def test_symmetric_scale_leaves_reals_alone() -> None:
    x = torch.randn(5, generator=seeded(0))
    assert torch.equal(to_symmetric(x, None), x)
    assert torch.equal(from_symmetric(x, None), x)


@pytest.mark.parametrize("draw", [standard_normal, uniform])
def test_noise_comes_from_the_given_generator_alone(draw: object) -> None:
    assert callable(draw)
    like = torch.zeros(1, dtype=torch.float64)
    state = torch.get_rng_state()
    first, second = draw((4, 2), like, seeded(6)), draw((4, 2), like, seeded(6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert not torch.equal(first, draw((4, 2), like, seeded(7)))
