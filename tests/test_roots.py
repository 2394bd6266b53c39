"""The gradient of a root: Newton's step against closed forms and finite differences."""

import torch
from torch import Tensor

from models.transforms.roots import implicit_root, increasing_root, newton_step


def cubic(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) = x^3 + theta x, and log f'(x)."""
    return x**3 + theta * x, (3 * x.square() + theta).log()


def solved(z: Tensor, theta: Tensor) -> Tensor:
    def value_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
        value, log_slope = cubic(x, theta)
        return value, log_slope.exp()

    with torch.no_grad():
        x = increasing_root(value_and_slope, z, torch.full_like(z, -20.0), torch.full_like(z, 20.0))
    value, log_slope = cubic(x, theta)
    return implicit_root(x, newton_step(value, z, log_slope))


def test_an_implicit_root_is_the_root_and_has_its_derivatives() -> None:
    z = torch.linspace(-50, 50, 11, dtype=torch.float64).requires_grad_()
    theta = torch.linspace(0.1, 3, 11, dtype=torch.float64).requires_grad_()
    x = solved(z, theta)
    torch.testing.assert_close(cubic(x, theta)[0], z, rtol=1e-14, atol=1e-14)
    by_z, by_theta = torch.autograd.grad(x.sum(), [z, theta])
    slope = 3 * x.detach().square() + theta.detach()
    torch.testing.assert_close(by_z, 1 / slope, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_theta, -x.detach() / slope, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(solved, [z, theta])


def test_a_newton_step_leads_to_the_root_of_a_line() -> None:
    x, target = torch.tensor([3.0, -2.0]), torch.tensor([1.0, 10.0])
    step = newton_step(4 * x + 1, target, torch.full((2,), 4.0).log())
    torch.testing.assert_close(4 * (x + step) + 1, target)


def test_a_root_where_the_curve_is_flat_has_a_finite_gradient() -> None:
    x, z = torch.tensor([0.3, 0.4]), torch.tensor([1.0, 1.0], requires_grad=True)
    root = implicit_root(x, newton_step(torch.ones(2), z, torch.full((2,), -torch.inf)))
    assert torch.equal(root, x)
    (gradient,) = torch.autograd.grad(root.sum(), z)
    assert torch.isfinite(gradient).all()
