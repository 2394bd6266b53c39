"""Modules from elsewhere as transforms: the Jacobian, a flow of them, and what is refused."""

import copy
import doctest
import math
from typing import Any

import pytest
import torch
from helpers_density import quadrature
from helpers_transforms import check_bijection, check_log_det, normal
from torch import Generator, Tensor, nn

from models.flows import base
from models.flows.base import Flow, to_reals
from models.transforms import wrapped
from models.transforms.base import Chain, Transform, checkpoint_activations
from models.transforms.flatten import Flatten
from models.transforms.wrapped import Wrapped


class Warp(nn.Module):
    """z = sinh(a x + b) with a matrix for the channels of images or the variables of vectors."""

    def __init__(self, n: int) -> None:
        super().__init__()
        generator = Generator().manual_seed(n)
        self.weight = nn.Parameter(torch.eye(n) + 0.3 * torch.randn(n, n, generator=generator))
        self.bias = nn.Parameter(torch.randn(n, generator=generator))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.einsum("ij,bj...->bi...", self.weight, x) + self._bias(x)
        positions = math.prod(x.shape[2:])
        log_det = positions * torch.linalg.slogdet(self.weight).logabsdet + y.cosh().log().flatten(1).sum(1)
        return y.sinh(), log_det

    def inverse(self, z: Tensor) -> Tensor:
        return torch.einsum("ij,bj...->bi...", self.weight.inverse(), z.asinh() - self._bias(z))

    def _bias(self, x: Tensor) -> Tensor:
        return self.bias.view(-1, *[1] * (x.dim() - 2))


class OneWay(nn.Module):
    """z = x + sigmoid(a) tanh(x): a bijection whose inverse nobody wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        strength = self.raw.sigmoid()
        log_det = torch.log1p(strength * (1 - x.tanh().square())).flatten(1).sum(1)
        return x + strength * x.tanh(), log_det


class Returns(nn.Module):
    """Returns what a test wants to see refused."""

    def __init__(self, forward: Any, inverse: Any = None) -> None:
        super().__init__()
        self.of_forward, self.of_inverse = forward, inverse

    def forward(self, x: Tensor) -> Any:
        return self.of_forward(x)

    def inverse(self, z: Tensor) -> Any:
        return self.of_inverse(z)


class Mine(Flow):
    """What a user writes."""

    def __init__(self, shape: tuple[int, ...], levels: int | None, module: nn.Module, **kw: Any) -> None:
        transform = Chain(*to_reals(levels, 1e-6), Wrapped(module, **kw), Flatten(shape))
        super().__init__(shape, levels, transform, torch.optim.Adam)


def warp(n: int) -> Transform:
    return Wrapped(Warp(n), inverse_kind="closed form").double()


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3, 2)])
def test_log_det_and_inverse_are_the_jacobians(shape: tuple[int, ...]) -> None:
    check_bijection(warp(shape[0]), normal(5, *shape))


def test_a_kind_that_is_iterative_is_told() -> None:
    check_bijection(Wrapped(Warp(3), inverse_kind="iterative").double(), normal(4, 3), inverse_tolerance=1e-9)


def test_one_way_has_a_log_det_and_no_inverse() -> None:
    transform = Wrapped(OneWay())
    assert transform.inverse_kind == "one-way"
    check_log_det(transform.double(), normal(4, 2, 2, 2))
    for call in (transform.inverse, transform.decode):
        with pytest.raises(NotImplementedError, match="OneWay was wrapped as one-way"):
            call(normal(4, 2, 2, 2))


def test_a_flow_of_it_integrates_to_one() -> None:
    for module in (Warp(2), OneWay()):
        flow = Mine((2,), None, module).double().eval()
        assert quadrature(flow, half_width=12, points=800) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("shape", "levels"), [((3, 4, 4), 256), ((5,), None)])
def test_a_flow_of_it_trains_and_samples(shape: tuple[int, ...], levels: int | None) -> None:
    flow = Mine(shape, levels, Warp(shape[0]), inverse_kind="closed form")
    assert flow.cannot_sample == ""
    assert flow.relation == ("exact" if levels is None else "lower_bound")
    samples = flow.sample(6, generator=Generator().manual_seed(0))
    assert samples.shape == (6, *shape)
    assert samples.dtype == flow.data_dtype
    flow.training_step((samples, None), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    back = flow.decode(flow.encode(samples, generator=Generator().manual_seed(1)))
    torch.testing.assert_close(back, samples, rtol=1e-3, atol=1e-3)


def test_a_flow_without_the_inverse_refuses_to_sample() -> None:
    flow = Mine((2,), None, Warp(2))
    assert flow.cannot_sample == "its transform has no inverse"
    assert flow.log_weight(torch.zeros(3, 2)).shape == (3,)
    with pytest.raises(NotImplementedError, match="Warp was wrapped as one-way"):
        flow.sample(2)


def test_a_copy_uses_its_own_weights() -> None:
    transform = warp(2)
    twin = copy.deepcopy(transform)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.zero_()
    check_bijection(twin, normal(3, 2))


def test_autocast_does_not_reach_the_module() -> None:
    transform, x = Wrapped(Warp(4), inverse_kind="closed form"), torch.randn(3, 4, generator=Generator().manual_seed(0))
    plain = [*transform(x), *transform.inverse(x)]
    with torch.autocast("cpu", torch.bfloat16):
        lowered = [*transform(x), *transform.inverse(x)]
    assert all(torch.equal(a, b) for a, b in zip(plain, lowered, strict=True))


def test_activations_of_a_module_whose_buffers_may_move_are_kept() -> None:
    module, seen = OneWay(), []
    module.register_forward_hook(lambda *_: seen.append(1))
    chain = Chain(Wrapped(module), Wrapped(OneWay()))
    checkpoint_activations(chain)
    x = torch.randn(3, 2, generator=Generator().manual_seed(0)).requires_grad_()
    z, log_det = chain(x)
    (z.sum() + log_det.sum()).backward()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x, r"a pair \(z, log-determinant\), not a tensor \(3, 2\)"),
        (lambda x: (x, x.sum(1), x), "a pair .* not a tuple of 3"),
        (lambda x: [x, x.sum(1)], "a pair .* not a list of 2"),
        (lambda x: (x[:, :1], x.sum(1)), r"z of Returns must be \(3, 2\) numbers"),
        (lambda x: (x.double(), x.sum(1)), "z of Returns .* not a tensor .* of torch.float64"),
        (lambda x: (x, x.sum()), r"the log-determinant of Returns must be \(3,\) numbers"),
        (lambda x: (x, x), r"the log-determinant of Returns must be \(3,\) numbers .* not a tensor \(3, 2\)"),
        (lambda x: (x, 0.0), r"the log-determinant of Returns must be .* not a float"),
    ],
)
def test_what_a_module_must_not_return(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wrapped(Returns(returned))(torch.zeros(3, 2))


@pytest.mark.parametrize("returned", [lambda z: (z, z.sum(1)), lambda z: z[:, :1]])
def test_what_an_inverse_must_not_return(returned: Any) -> None:
    module = Returns(lambda x: (x, x.new_zeros(len(x))), returned)
    transform = Wrapped(module, inverse_kind="closed form")
    for call in (transform.inverse, transform.decode):
        with pytest.raises(ValueError, match="x of inverse of Returns must be"):
            call(torch.zeros(3, 2))


def test_a_promised_inverse_must_be_there() -> None:
    with pytest.raises(ValueError, match="OneWay has no method inverse"):
        Wrapped(OneWay(), inverse_kind="closed form")
    with pytest.raises(ValueError, match="inverse_kind is closed form, iterative or one-way, not exact"):
        Wrapped(OneWay(), inverse_kind="exact")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [base, wrapped])
def test_the_examples_of_the_docstrings(module: Any) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
