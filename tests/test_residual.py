"""Residual blocks: exact log-determinants, inverses to a stated tolerance, and what every transform promises."""

import copy
import math

import pytest
import torch
from helpers_density import randomize
from helpers_residual import FLOWS, block, contraction, linear, mlp, ready
from helpers_transforms import check_bijection, few, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn

from models.nn.lipschitz import LipschitzDenseNet, LipSwish, lipschitz_convnet, lipschitz_mlp

pytestmark = pytest.mark.usefixtures("fixed_seed")


# The log-determinant where it is exact.


@few
@given(dim=st.integers(1, 5), std=st.sampled_from([0.3, 1.0, 10.0]))
def test_blocks_of_vectors(dim: int, std: float) -> None:
    check_bijection(ready(block(mlp(dim), dim), std), normal(3, dim), inverse_tolerance=1e-11)


@few
@given(c=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), dense=st.booleans())
def test_blocks_of_images(c: int, h: int, w: int, dense: bool) -> None:
    branch = (
        LipschitzDenseNet((c, h, w), growth=4, depth=2, coefficient=0.95)
        if dense
        else lipschitz_convnet((c, h, w), channels=4, activation=nn.ELU, coefficient=0.95, activation_first=True)
    )
    check_bijection(ready(block(branch, c * h * w)), normal(2, c, h, w), inverse_tolerance=1e-11)


@few
@given(name=st.sampled_from(sorted(FLOWS)), shape=st.sampled_from([(1,), (3,), (1, 2, 2), (3, 1, 1), (1, 3, 2)]))
def test_whole_flows(name: str, shape: tuple[int, ...]) -> None:
    flow = ready(FLOWS[name](shape, None), 0.5)
    check_bijection(flow.transform, normal(2, *shape), inverse_tolerance=1e-9)


def test_a_linear_branch_has_a_closed_form() -> None:
    a = contraction(4, 0.9)
    residual = block(linear(a), 4).eval()
    expected = torch.linalg.slogdet(torch.eye(4, dtype=torch.float64) + a).logabsdet.expand(3)
    x = normal(3, 4)
    z, log_det = residual(x)
    torch.testing.assert_close(log_det, expected, rtol=1e-13, atol=1e-13)
    solved = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + a, (z - residual.branch.bias).T).T
    torch.testing.assert_close(solved, x)
    torch.testing.assert_close(residual.inverse(z)[1], -expected)


# What every transform promises.


def test_random_numbers_come_from_the_generator_alone() -> None:
    branch = linear(contraction(3, 0.9))  # without layers to be tightened: two training passes are the same
    x = normal(4, 3)
    before = torch.get_rng_state()
    for training in (True, False):
        residual = block(branch, 3, exact_dim=0).train(training)
        first, again, other = (residual(x, generator=Generator().manual_seed(s))[1] for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    exact = block(branch, 3).eval()
    assert torch.equal(exact(x)[1], exact(x)[1])
    assert torch.equal(before, torch.get_rng_state())


def test_beyond_the_bound_it_is_an_estimate_and_the_inverse_has_no_log_determinant() -> None:
    branch = mlp(5)
    assert block(branch, 5, exact_dim=5).relation == "exact"
    residual = block(branch, 5, exact_dim=4).eval()
    assert residual.relation == "estimate"
    x = torch.randn(3, 5)
    z, log_det = residual(x)
    assert log_det.isfinite().all()
    back, unknown = residual.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
    assert unknown.isnan().all()


def test_sampling_computes_no_log_determinant(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ready(FLOWS["residual_flow"]((3,), None), 0.5)
    z = normal(4, 3)
    expected, log_det = flow.transform.inverse(z)
    assert log_det.isfinite().all()
    monkeypatch.setattr("models.transforms.residual._log_det", lambda *a, **k: pytest.fail("not asked for"))
    assert torch.equal(flow.transform.decode(z), expected)
    assert torch.equal(flow.decode(z), expected.float())


def test_what_is_no_contraction_is_not_inverted_silently() -> None:
    residual = block(linear(2 * torch.eye(2, dtype=torch.float64)), 2).eval()
    with pytest.raises(ArithmeticError, match="no contraction"):
        residual.inverse(normal(2, 2))


def test_an_inverse_does_not_depend_on_the_other_examples() -> None:
    residual = ready(block(mlp(3), 3), 3.0)
    z = normal(6, 3) * torch.tensor([1, 1, 1, 1, 1, 100.0], dtype=torch.float64)[:, None]
    together = residual.inverse(z)[0]
    alone = torch.cat([residual.inverse(row[None])[0] for row in z])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("biases", [10.0, 0.0])
@pytest.mark.parametrize("name", ["mlp", "convnet", "dense"])
def test_float32_at_a_large_scale_of_parameters(name: str, biases: float) -> None:
    """Norms hold whatever the weights. Large biases move the data far; without any, slopes are as steep as they get."""
    images = {"channels": 8, "activation": nn.ELU, "coefficient": 0.98, "activation_first": True}
    make, shape = {
        "mlp": (lambda: lipschitz_mlp(6, hidden=32, depth=3, activation=LipSwish, coefficient=0.98), (6,)),
        "convnet": (lambda: lipschitz_convnet((3, 4, 4), **images), (3, 4, 4)),
        "dense": (lambda: LipschitzDenseNet((6,), growth=16, depth=3, coefficient=0.98), (6,)),
    }[name]
    residual = block(make(), math.prod(shape))
    randomize(residual, 10.0)
    for parameter_name, parameter in residual.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.data.mul_(biases / 10)
    residual.train().eval()
    x = 3 * torch.randn(64, *shape)
    z, log_det = residual(x)
    back, inverse_log_det = residual.inverse(z)
    again = residual(residual.inverse(x)[0])[0]
    residuals = {"x": (back - x).abs().max().item(), "z": (again - x).abs().max().item()}
    for tensor in (z, log_det, back, inverse_log_det, again):
        assert tensor.isfinite().all()
    scale = 1 + x.flatten(1).norm(dim=1).max().item() + z.flatten(1).norm(dim=1).max().item()
    assert max(residuals.values()) < 2e-6 * scale, residuals
    exact = copy.deepcopy(residual).double()(x.double())[1]
    torch.testing.assert_close(log_det.double(), exact, rtol=1e-4, atol=1e-4)


def test_blocks_stay_float32_under_autocast() -> None:
    residual = block(mlp(4), 4).eval()
    x = torch.randn(3, 4)
    z, log_det = residual(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = residual(x)
        back, inverse_log_det = residual.inverse(z16)
    assert torch.equal(z16, z)
    assert torch.equal(log_det16, log_det)
    assert back.dtype == inverse_log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
