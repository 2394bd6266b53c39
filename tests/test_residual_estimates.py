"""Estimated log-determinants of residual blocks and their gradients: without bias, or with the bias that is stated."""

import copy
import math

import pytest
import torch
from helpers_residual import FLOWS, block, contraction, linear, mlp, ready
from helpers_transforms import normal
from torch import Generator, Tensor, nn

from models.transforms.jacobian import jacobian
from models.transforms.residual import Residual, Roulette, Series, Truncated

pytestmark = pytest.mark.usefixtures("fixed_seed")


def draws(residual: Residual, x: Tensor, calls: int) -> Tensor:
    """Mean estimate of each of many calls, which differ in their number of terms, over rows, which do not."""
    g = Generator().manual_seed(5)
    with torch.no_grad():
        return torch.stack([residual(x, generator=g)[1].mean() for _ in range(calls)])


def within(draws: Tensor, exact: float | Tensor, errors: float = 4.0) -> None:
    """The mean of draws along dimension 0 is no further from the truth than its standard error allows."""
    stderr = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() <= errors * stderr + 1e-12).all(), (draws.mean(0), exact, stderr)


@pytest.mark.parametrize("training", [True, False])
def test_the_roulette_has_no_bias(training: bool) -> None:
    a = contraction(3, 0.7)
    residual = block(linear(a), 3, Roulette(2), Roulette(1, stop=0.3), exact_dim=0).train(training)
    assert residual.relation == "estimate"
    exact = torch.linalg.slogdet(torch.eye(3, dtype=torch.float64) + a).logabsdet.item()
    estimates = draws(residual, normal(400, 3), 1500)
    within(estimates, exact)
    assert estimates.std() / math.sqrt(1500) < 0.01 * abs(exact), "the test can see a bias of a few percent"


def test_a_nonlinear_block_is_estimated_without_bias() -> None:
    residual = ready(block(mlp(3), 3, exact_dim=0), 2.0)
    exact = copy.deepcopy(residual)
    exact.exact = True
    x = normal(2, 3)
    for row in x:
        rows = row.expand(500, 3)
        for training in (True, False):
            within(draws(residual.train(training), rows, 200), exact(rows[:1])[1].item())


def test_a_truncated_series_has_the_bias_it_states() -> None:
    a = contraction(3, 0.8)
    exact = torch.linalg.slogdet(torch.eye(3, dtype=torch.float64) + a).logabsdet.item()
    biases: list[float] = []
    for terms in (1, 2, 4, 8, 16):
        powers = [torch.linalg.matrix_power(a, k).trace().item() for k in range(1, terms + 1)]
        truncated = sum((-1) ** (k + 1) / k * trace for k, trace in enumerate(powers, start=1))
        residual = block(linear(a), 3, Truncated(terms), Truncated(terms), exact_dim=0).eval()
        with torch.no_grad():
            estimates = residual(normal(200_000, 3), generator=Generator().manual_seed(terms))[1]
        within(estimates, truncated)
        assert residual.terms == terms
        biases.append(abs(truncated - exact))
        assert biases[-1] <= 3 * 0.8 ** (terms + 1) / (terms + 1) / (1 - 0.8)
    assert biases[0] > 100 * biases[-1]


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """The gradient of a number with respect to all parameters of a module, as one vector."""
    found = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in found]).double()


@pytest.mark.parametrize("series", [Roulette(2), Truncated(3)], ids=["roulette", "truncated"])
def test_the_neumann_gradient_has_the_mean_of_the_exact_gradient(series: Series) -> None:
    branch = ready(mlp(2, hidden=4), 1.5)
    residual = block(branch, 2, train=series, exact_dim=0).eval()
    x = normal(4, 2)
    inner = x.clone().requires_grad_()
    j = jacobian(branch(inner), inner, create_graph=True)
    if isinstance(series, Truncated):
        powers = [torch.linalg.matrix_power(j, k).diagonal(dim1=1, dim2=2).sum() for k in range(1, series.terms + 1)]
        expected = gradient(sum((-1) ** (k + 1) / k * t for k, t in enumerate(powers, start=1)) / 4, branch)
    else:
        expected = gradient(torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + j).logabsdet.mean(), branch)
    assert expected.abs().max() > 0.02
    residual.training = True  # the branch keeps its vectors
    g = Generator().manual_seed(0)
    many = x.repeat(100, 1)
    gradients = torch.stack([gradient(residual(many, generator=g)[1].mean(), branch) for _ in range(250)])
    within(gradients, expected, errors=4.5)
    assert (gradients.std(0) / math.sqrt(250)).max() < 0.1 * expected.abs().max()


def test_the_gradient_reaches_the_input_and_earlier_layers() -> None:
    branch = ready(mlp(2, hidden=4), 1.5)
    residual = block(branch, 2, exact_dim=0).eval()
    x = normal(3, 2).requires_grad_()
    j = jacobian(branch(x), x, create_graph=True)
    (expected,) = torch.autograd.grad(torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + j).logabsdet.sum(), x)
    residual.training = True
    g = Generator().manual_seed(0)
    many = (2 * (x / 2)).expand(300, 3, 2).reshape(-1, 2)  # as if made by an earlier layer
    gradients = []
    for _ in range(200):
        (found,) = torch.autograd.grad(residual(many, generator=g)[1].sum() / 300, x, retain_graph=True)
        gradients.append(found)
    within(torch.stack(gradients), expected, errors=4.5)


def test_the_value_in_training_is_that_of_the_series_and_not_of_its_gradient() -> None:
    residual = block(linear(contraction(3, 0.7)), 3, Truncated(6), Truncated(6), exact_dim=0)
    x = normal(5, 3)
    with_gradient = residual(x, generator=Generator().manual_seed(2))[1]
    with torch.no_grad():
        without = residual(x, generator=Generator().manual_seed(2))[1]
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.detach(), without)


@pytest.mark.parametrize("name", FLOWS)
def test_the_training_loss_is_an_unbiased_estimate(name: str) -> None:
    """Of the negative log-likelihood in nats, but for the truncation of i-ResNet, whose terms are made many here."""
    more = {"series_terms": 25} if name == "iresnet" else {}
    flow = ready(FLOWS[name]((2,), None, **more), 0.5)
    x = normal(8, 2)
    exact = -flow.log_weight(x).mean().item()
    flow.train()
    for module in flow.modules():
        module.training = isinstance(module, Residual)  # layers keep their vectors
    flow.train_generator = Generator().manual_seed(0)
    batch = (x.repeat(50, 1), None)
    within(torch.stack([flow.training_step(batch, 0).detach() for _ in range(150)]), exact)


def test_weights_of_the_roulette() -> None:
    g, like = Generator().manual_seed(0), torch.zeros(1)
    sizes, totals = [], torch.zeros(4000, 12)
    for i in range(4000):
        weights = Roulette(3, stop=0.4).weights(g, like)
        assert weights[:4] == [1.0] * 4, "the first term after the exact ones is always taken"
        sizes.append(len(weights) - 3)
        totals[i, : min(12, len(weights))] = torch.tensor(weights[:12])
    within(torch.tensor(sizes, dtype=torch.float64), 1 / 0.4)  # geometric on 1, 2, ..
    within(totals, 1.0)
    assert Truncated(3).weights(g, like) == [1.0] * 3
