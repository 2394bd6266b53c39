"""Output distributions of autoregressive models: masses, samples, medians, gradients."""

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from models.entries import entries


def raw(output: str, levels: int, n: int = 3) -> Tensor:
    p = entries(output, levels, 3).n_parameters
    return 1.5 * torch.randn(n, p, 1, generator=Generator().manual_seed(4), dtype=torch.float64)


def masses(output: str, levels: int, parameters: Tensor) -> Tensor:
    """``(B, L)``."""
    distribution = entries(output, levels, 3).distribution(parameters)
    each = [distribution.log_prob(torch.full((len(parameters), 1), k)) for k in range(levels)]
    return torch.stack(each, 1).exp()


@pytest.mark.parametrize("output", ["logistic", "categorical", "mixture"])
@pytest.mark.parametrize("levels", [2, 3, 256])
def test_masses_sum_to_one_and_samples_and_medians_follow_them(output: str, levels: int) -> None:
    parameters = raw(output, levels)
    p = masses(output, levels, parameters)
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64))
    read = entries(output, levels, 3)
    median = read.distribution(parameters).median
    assert median.dtype == torch.uint8
    below = p.cumsum(1)
    for row, level in enumerate(median[:, 0].tolist()):
        assert below[row, level] >= 0.5 - 1e-9
        assert level == 0 or below[row, level - 1] <= 0.5 + 1e-9
    n = 4000
    for row in range(3):
        many = parameters[row].expand(n, -1, 1)
        drawn = read.distribution(many).sample(Generator().manual_seed(1))
        assert drawn.dtype == torch.uint8
        counts = torch.bincount(drawn[:, 0].long(), minlength=levels).double()
        common = p[row] * n > 8
        observed = torch.cat([counts[common], counts[~common].sum()[None]])
        expected = torch.cat([p[row][common], p[row][~common].sum()[None]]) * n
        kept = expected > 0
        assert observed[~kept].sum() == 0
        result = stats.chisquare(observed[kept].numpy(), (expected[kept] / expected[kept].sum() * n).numpy())
        assert result.pvalue > 1e-3


def test_a_mixture_of_one_component_is_the_logistic() -> None:
    parameters = torch.randn(4, 3, 5, dtype=torch.float64, generator=Generator().manual_seed(0))
    x = torch.randint(0, 256, (4, 5), generator=Generator().manual_seed(1))
    mixture = entries("mixture", 256, 1).distribution(parameters).log_prob(x)
    torch.testing.assert_close(mixture, entries("logistic", 256).distribution(parameters[:, 1:]).log_prob(x))


def test_mixture_gradients_are_finite_where_components_are_far_from_the_data() -> None:
    parameters = torch.tensor([[0.0, 0, 50, -50, -6, -6], [90, -90, 30, 30, -9, 9]])[:, :, None].requires_grad_()
    log_prob = entries("mixture", 256, 2).distribution(parameters).log_prob(torch.tensor([[3], [255]]))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert parameters.grad is not None
    assert torch.isfinite(parameters.grad).all()


def test_the_mean_of_a_categorical_entry() -> None:
    parameters = raw("categorical", 5)
    expected = (masses("categorical", 5, parameters) * torch.arange(5)).sum(1, keepdim=True)
    torch.testing.assert_close(entries("categorical", 5).distribution(parameters).mean, expected)
