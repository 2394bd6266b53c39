"""Likelihood: K-draw bounds against an exact linear-Gaussian model; cost rows."""

import math
from itertools import pairwise
from statistics import stdev

import pytest
import torch
from helpers_metrics import ALL, FakeSubject, examples, spec
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal, Normal

from bench.metrics.certificate import CHECKED, ode_change
from bench.metrics.cost import Cost
from bench.metrics.likelihood import (
    LogLikelihood,
    bits_per_dim,
    bound_errors,
    estimate_errors,
    k_draw_bound,
    log_mean_exp,
)
from bench.schema import Relation, Status


def linear_gaussian(draws: int, n: int = 400, data_dim: int = 6, latent_dim: int = 2) -> tuple[Tensor, Tensor]:
    """Weights (K, N) of x = W z + e under a proposal wider than the posterior, and the exact log p(x) (N,)."""
    g = Generator().manual_seed(3)
    w = torch.randn(data_dim, latent_dim, generator=g, dtype=torch.float64)
    x = torch.randn(n, latent_dim, generator=g, dtype=torch.float64) @ w.T
    x = x + 0.5 * torch.randn(n, data_dim, generator=g, dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros_like(x[0]), w @ w.T + 0.25 * torch.eye(data_dim)).log_prob(x)
    precision = torch.eye(latent_dim, dtype=torch.float64) + w.T @ w / 0.25
    mean = x @ w @ precision.inverse() / 0.25  # (N, Z)
    scale = 1.5 * torch.linalg.cholesky(precision.inverse())
    z = mean + torch.randn(draws, n, latent_dim, generator=g, dtype=torch.float64) @ scale.T  # (K, N, Z)
    log_q = MultivariateNormal(mean, scale_tril=scale).log_prob(z)
    log_joint = Normal(z @ w.T, 0.5).log_prob(x).sum(dim=-1) + Normal(0.0, 1.0).log_prob(z).sum(dim=-1)
    return log_joint - log_q, exact


def test_many_draws_reach_the_exact_likelihood() -> None:
    log_w, exact = linear_gaussian(draws=2000, n=100)
    assert (k_draw_bound(log_w) - exact).abs().max() < 0.15
    assert (k_draw_bound(log_w) - exact).mean().abs() < 5e-3


def test_bound_rises_with_draws_and_stays_below() -> None:
    log_w, exact = linear_gaussian(draws=640)
    means = [
        torch.stack([k_draw_bound(part) for part in log_w.split(k)]).mean().item() - exact.mean().item()
        for k in (1, 4, 16, 64)
    ]
    assert means == sorted(means)
    assert means[0] < -0.1
    assert means[-1] < 1e-3


def test_log_mean_exp_against_plain_arithmetic_and_at_extremes() -> None:
    x = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    assert torch.allclose(log_mean_exp(x, 0), x.double().exp().mean(dim=0).log(), atol=1e-14)
    assert torch.allclose(log_mean_exp(x, 1), x.double().exp().mean(dim=1).log(), atol=1e-14)
    far = torch.tensor([-5000.0, -5001.0])
    assert log_mean_exp(far, 0).item() == pytest.approx(-5000 + math.log((1 + math.exp(-1)) / 2), abs=1e-10)
    assert log_mean_exp(torch.tensor([-math.inf, 0.0]), 0).item() == pytest.approx(-math.log(2))
    assert log_mean_exp(torch.full((3,), -math.inf), 0).item() == -math.inf


def test_bits_per_dim_of_a_uniform_pixel_is_its_bits() -> None:
    assert bits_per_dim(-784 * math.log(256), 784) == pytest.approx(8)


def test_metric_on_integer_data() -> None:
    log_w = torch.tensor([[-1.0, -2.0, -4.0], [-1.0, -2.0, -4.0]], dtype=torch.float64)
    nats, bits = LogLikelihood(4).compute(examples(spec(5, 256), log_weights=log_w, relation="lower_bound"))
    assert nats.value == pytest.approx(-7 / 3)
    stderr = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2 / 3)
    assert nats.stderr == pytest.approx(stderr)
    assert nats.ci_low == pytest.approx(-7 / 3 - 1.96 * stderr, abs=1e-4)
    assert (nats.n_real, nats.n_draws, nats.relation) == (3, 2, Relation.LOWER_BOUND)
    assert bits.value == pytest.approx(7 / 3 / (5 * math.log(2)))
    assert bits.relation is Relation.UPPER_BOUND
    assert bits.ci_low is not None
    assert bits.ci_high is not None
    assert bits.ci_low < bits.value < bits.ci_high


def test_a_density_has_no_bits_and_one_example_no_error() -> None:
    nats, bits = LogLikelihood(4).compute(examples(spec(2), log_weights=torch.tensor([[-1.5]])))
    assert (nats.value, nats.stderr, nats.relation, nats.n_draws) == (-1.5, None, Relation.EXACT, 1)
    assert bits.status is Status.SKIPPED
    assert "real-valued" in bits.reason


@pytest.mark.parametrize("bad", [-math.inf, math.inf, math.nan])
def test_weights_that_are_not_finite_fail_and_are_counted(bad: float) -> None:
    log_w = torch.zeros(3, 10, dtype=torch.float64)
    log_w[:, [2, 7]] = bad
    for estimate in LogLikelihood(4).compute(examples(spec(2, 4), log_weights=log_w)):
        assert estimate.status is Status.FAILED
        assert "2 of 10" in estimate.reason


@pytest.mark.parametrize(
    ("log_p", "relation", "possible"),
    [
        (0.0, "exact", False),
        (-math.log(6), "exact", True),
        (-math.log(6) + 0.01, "exact", False),
        (-math.log(6) + 0.01, "estimate", True),
        (1.0, "lower_bound", False),
    ],
)
def test_probabilities_of_integers_sum_to_no_more_than_1(log_p: float, relation: str, possible: bool) -> None:
    """Six examples there are of one entry; each stands in the test split twice."""
    log_w = torch.full((1 if relation == "exact" else 4, 12), log_p, dtype=torch.float64)
    real = torch.arange(12)[:, None].remainder(6).to(torch.uint8)
    for one in LogLikelihood(4).compute(examples(spec(1, 6), real=real, log_weights=log_w, relation=relation))[:2]:
        assert (one.status is Status.OK) == possible
        assert possible or "sum to more than 1" in one.reason


def test_draws_of_a_bound_that_sum_to_1_on_average_are_possible() -> None:
    """A uniform distribution of 6 values, by weights of which one draw in 16 or none is large."""
    g = Generator().manual_seed(0)
    real = torch.arange(6, dtype=torch.uint8)[:, None]
    for _ in range(200):
        log_w = torch.where(torch.rand(16, 6, generator=g) < 1 / 16, math.log(16 / 6), -5.0).double()
        nats, _ = LogLikelihood(16).compute(examples(spec(1, 6), real=real, log_weights=log_w, relation="lower_bound"))
        assert nats.status is Status.OK


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_few_draws_of_a_bound_refuse_no_right_model(draws: int) -> None:
    """A uniform distribution of 6 values, each with noise of its own: every second sum of one draw is above 1."""
    g = Generator().manual_seed(0)
    real = torch.arange(6, dtype=torch.uint8)[:, None]
    metric = LogLikelihood(draws)
    for _ in range(200):
        log_w = (0.3 * torch.randn(draws, 6, generator=g) - 0.045 - math.log(6)).double()
        nats, _ = metric.compute(examples(spec(1, 6), real=real, log_weights=log_w, relation="lower_bound"))
        assert nats.status is Status.OK


def test_one_draw_of_weight_zero_among_others_is_no_failure() -> None:
    log_w = torch.tensor([[-math.inf, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert LogLikelihood(4).compute(examples(spec(2), log_weights=log_w))[0].value == pytest.approx(-math.log(2) / 2)


@pytest.mark.parametrize(("of_examples", "of_draws", "rest"), [(1.0, 0.5, 2.0), (1.0, 0.0, 2.0), (0.0, 0.3, 1.0)])
def test_errors_of_an_estimated_likelihood_are_those_of_repeated_runs(
    of_examples: float, of_draws: float, rest: float
) -> None:
    """Simulated: every run has other examples and other draws, and draws share noise among examples."""
    draws, n, runs = 8, 60, 4000
    g = Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    y = of_examples * noise(runs, 1, n) + of_draws * noise(runs, draws, 1) + rest * noise(runs, draws, n)
    errors = torch.tensor([estimate_errors(run) for run in y], dtype=torch.float64)
    variance = y.mean((1, 2)).var().item()
    mean_squares = errors.square().mean(0)
    # A variance from 4000 runs is known to 2.2 %; cutting a negative component off at 0 adds a little.
    assert mean_squares[0].item() == pytest.approx(variance, rel=0.12)
    assert mean_squares[0].item() > 0.9 * variance
    fixed = of_examples * noise(1, 1, n)
    y = fixed + of_draws * noise(runs, draws, 1) + rest * noise(runs, draws, n)
    errors = torch.tensor([estimate_errors(run) for run in y], dtype=torch.float64)
    assert errors[:, 1].square().mean().item() == pytest.approx(y.mean((1, 2)).var().item(), rel=0.1)


@pytest.mark.parametrize("draws", [2, 3, 6])
def test_errors_of_a_bound_are_those_of_the_jackknife_written_out(draws: int) -> None:
    log_w = 2 * torch.randn(draws, 4, generator=Generator().manual_seed(draws), dtype=torch.float64)
    variance, bounds = 0.0, []
    for column in log_w.T.tolist():
        weights = [math.exp(one) for one in column]
        bounds.append(math.log(sum(weights) / draws))
        left = [math.log((sum(weights) - one) / (draws - 1)) for one in weights]
        variance += (draws - 1) / draws * sum((one - sum(left) / draws) ** 2 for one in left)
    total = stdev(bounds) / math.sqrt(4)
    assert bound_errors(log_w) == pytest.approx((total, math.sqrt(variance) / 4), rel=1e-9)


@pytest.mark.parametrize(("draws", "n"), [(2, 2), (2, 7), (5, 3)])
@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_errors_of_estimates_are_those_of_nested_least_squares(draws: int, n: int, shared: float) -> None:
    """Mean squares from residuals of regressions on indicators, with degrees of freedom from ranks."""
    g = Generator().manual_seed(draws)
    y = torch.randn(draws, n, generator=g, dtype=torch.float64)
    y += shared * torch.randn(draws, 1, generator=g, dtype=torch.float64)
    of_example = torch.eye(n, dtype=torch.float64).repeat(draws, 1)  # (K N, N)
    of_draw = torch.eye(draws, dtype=torch.float64).repeat_interleave(n, dim=0)  # (K N, K)
    residuals, ranks = [], []
    for design in (of_example, of_draw, torch.cat([of_example, of_draw], dim=1)):
        fitted = design @ torch.linalg.pinv(design) @ y.flatten()
        residuals.append((y.flatten() - fitted).square().sum().item())
        ranks.append(int(torch.linalg.matrix_rank(design)))
    m_draws = (residuals[0] - residuals[2]) / (ranks[2] - ranks[0])
    m_examples = (residuals[1] - residuals[2]) / (ranks[2] - ranks[1])
    m_rest = residuals[2] / (draws * n - ranks[2])
    total = math.sqrt((m_examples + max(0.0, m_draws - m_rest)) / (draws * n))
    assert estimate_errors(y) == pytest.approx((total, math.sqrt(m_draws / (draws * n))), rel=1e-9)


def test_noise_that_draws_share_is_part_of_the_standard_error() -> None:
    """The error over examples alone would miss it: here all examples are alike."""
    g = Generator().manual_seed(1)
    log_w = torch.randn(16, 1, generator=g, dtype=torch.float64).expand(16, 100)
    nats, bits, estimator = LogLikelihood(4).compute(examples(spec(2, 4), log_weights=log_w, relation="estimate"))
    expected = log_w[:, 0].std().item() / 4
    assert nats.stderr == pytest.approx(expected)
    assert estimator.value == pytest.approx(expected)
    assert bits.stderr == pytest.approx(expected / (2 * math.log(2)))
    assert (estimator.info.name, estimator.info.unit, estimator.n_draws) == ("estimator_stderr", "nats", 16)


def test_only_estimates_have_an_estimator_error() -> None:
    for relation, n in (("exact", 2), ("lower_bound", 2), ("estimate", 3), ("", 2)):
        assert len(LogLikelihood(4).infos(examples(spec(2, 4), relation=relation))) == n
    one_draw = examples(spec(2, 4), log_weights=torch.zeros(1, 5), relation="estimate")
    nats, _, estimator = LogLikelihood(4).compute(one_draw)
    assert nats.stderr == 0
    assert estimator.status is Status.SKIPPED
    assert "n_draws" in estimator.reason
    bad = examples(spec(2), log_weights=torch.full((2, 5), math.nan), relation="estimate")
    assert [estimate.status for estimate in LogLikelihood(4).compute(bad)] == [Status.FAILED] * 3


def test_counts_have_rows_where_a_model_counts() -> None:
    context = examples(spec(2), cost_names=("nfe_sample", "series_terms"), costs={"nfe_sample": 26.0})
    estimates = {estimate.info.name: estimate for estimate in Cost(ALL).compute(context)}
    assert estimates["nfe_sample"].value == 26
    assert estimates["series_terms"].status is Status.SKIPPED
    assert "nfe_log_weight" not in estimates


def test_costs_are_passed_on_or_skipped() -> None:
    context = examples(spec(2), costs={"parameters": 12.0, "samples_per_second": 3.5})
    estimates = {estimate.info.name: estimate for estimate in Cost(ALL).compute(context)}
    assert estimates["parameters"].value == 12
    assert estimates["samples_per_second"].value == 3.5
    assert [estimate.n_fake for estimate in Cost(ALL).compute(context)] == [None] * 4 + [ALL]
    assert estimates["train_seconds"].status is Status.SKIPPED
    assert estimates["train_seconds"].reason
    assert [estimate.info for estimate in Cost(ALL).compute(context)] == list(Cost(ALL).infos(context))
    assert [info.higher_is_better for info in Cost(ALL).infos(context)] == [None, False, None, True, True]


@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0])
def test_the_part_of_the_draws_is_what_other_draws_for_the_same_examples_move(spread: float) -> None:
    """Simulated with weights up to those of a bad posterior, where the delta method gives a third of it."""
    g = Generator().manual_seed(0)
    draws, n, repeats = 16, 300, 200
    level = torch.randn(n, generator=g, dtype=torch.float64)
    values, parts = [], []
    for _ in range(repeats):
        log_w = level + spread * torch.randn(draws, n, generator=g, dtype=torch.float64)
        values.append(k_draw_bound(log_w).mean().item())
        total, of_draws = bound_errors(log_w)
        parts.append(of_draws)
        assert of_draws <= 1.2 * total
    moved = torch.tensor(values).std().item()
    assert sum(parts) / repeats == pytest.approx(moved, rel=0.2)


def test_errors_of_a_bound_whose_other_weights_are_all_zero_are_not_split() -> None:
    log_w = torch.full((4, 6), -math.inf, dtype=torch.float64)
    log_w[0] = torch.arange(6.0) - 9  # masses that sum to less than 1
    (nats, _) = LogLikelihood(4).compute(examples(spec(2, 4), log_weights=log_w, relation="lower_bound"))
    assert nats.stderr is not None
    assert (nats.stderr_test, nats.stderr_draws) == (None, None)


class Recorded(FakeSubject):
    """Tells which examples its solver was asked for again."""

    def ode_changes(self, x: Tensor) -> Tensor:
        self.given["asked"] = x[:, 0].tolist()
        return x[:, 0]


@pytest.mark.parametrize(("n", "gaps"), [(250, {2, 3}), (100, {1}), (7, {1})])
def test_the_examples_that_are_computed_again_are_of_the_whole_split(n: int, gaps: set[int]) -> None:
    """A split may be sorted by class, and its beginning would be one class."""
    subject = Recorded({})
    context = examples(spec(1), real=torch.arange(float(n))[:, None])
    context.subject = subject
    change = ode_change(context)
    asked = subject.given["asked"]
    assert (asked[0], asked[-1], len(asked)) == (0, n - 1, min(n, CHECKED))
    assert {b - a for a, b in pairwise(asked)} == gaps
    assert change == pytest.approx(sum(asked) / len(asked))
