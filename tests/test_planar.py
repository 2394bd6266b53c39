"""Planar, radial and Sylvester transforms, with numbers of their own and from a context."""

import math

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from models.transforms.base import Chain, Transform
from models.transforms.planar import Planar, planar_layers
from models.transforms.radial import Radial, radial_layers
from models.transforms.roots import increasing_root
from models.transforms.sylvester import Sylvester, sylvester_layers

KINDS = {"planar": Planar, "radial": Radial, "sylvester": Sylvester}
LAYERS = {"planar": planar_layers, "radial": radial_layers, "sylvester": sylvester_layers}


def check(transform: Transform, x: Tensor, context: Tensor | None = None) -> None:
    tolerance = None if transform.inverse_kind == "closed form" else 1e-9
    check_bijection(transform, x, context=context, inverse_tolerance=tolerance)


@pytest.mark.parametrize("kind", list(KINDS))
@few
@given(dim=st.integers(1, 7), std=st.sampled_from([0.1, 1.0, 3.0]))
def test_bijections(kind: str, dim: int, std: float) -> None:
    check(prepared(KINDS[kind](dim), std), normal(4, dim))


@pytest.mark.parametrize("kind", list(KINDS))
@few
@given(dim=st.integers(1, 5), n_context=st.integers(1, 3))
def test_each_example_has_its_own_map_by_its_context(kind: str, dim: int, n_context: int) -> None:
    transform = prepared(KINDS[kind](dim, n_context), 1.0)
    x, context = normal(4, dim), normal(4, n_context, seed=1)
    check(transform, x, context)
    alone = torch.cat([transform(x[i : i + 1], context=context[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(transform(x, context=context)[0], alone)
    with pytest.raises(ValueError, match="context"):
        transform(x)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("std", [0.3, 1.5])
def test_densities_integrate_to_one(kind: str, std: float) -> None:
    for dim, points in ((1, 200_000), (2, 1200)):
        chain = LAYERS[kind](dim, layers=3)
        prepared(chain, std)
        half = 25.0
        step = 2 * half / points
        axis = (torch.arange(points, dtype=torch.float64) + 0.5) * step - half
        total = 0.0
        with torch.no_grad():
            for x in torch.cartesian_prod(*[axis] * dim).reshape(-1, dim).split(100_000):
                z, log_det = chain(x)
                total += (log_det - 0.5 * z.square().sum(1) - dim / 2 * math.log(2 * math.pi)).exp().sum().item()
        assert total * step**dim == pytest.approx(1, abs=2e-3 if dim == 2 else 1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_large_parameters_in_float32(kind: str) -> None:
    forward_then_back, back_then_forward = [], []
    for seed in range(200):
        transform = KINDS[kind](5)
        randomize(transform, 10.0, seed)
        x = 3 * torch.randn(16, 5, generator=Generator().manual_seed(seed))
        z, log_det = transform(x)
        back, inverse_log_det = transform.inverse(z)
        again, _ = transform(back)
        for value in (z, log_det, back, inverse_log_det, again):
            assert value.isfinite().all()
        forward_then_back.append((back - x).abs().max().item())
        # A rounding error of w.x comes out of the map as large as its steepest slope makes it, up to |u| |w| here.
        jacobian = torch.func.vmap(torch.func.jacrev(lambda e, t=transform: t(e[None])[0][0]))(back.detach())
        steepness = torch.linalg.matrix_norm(jacobian, ord=2) * (1 + back.abs().amax(1))
        back_then_forward.append(((again - z).abs().amax(1) / steepness).max().item())
        (z.sum() + log_det.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in transform.parameters())
    print(f"{kind}: |f(f^-1(z)) - z| <= {max(back_then_forward):.1e} of the steepest slope times 1 + |x|, "
          f"|f^-1(f(x)) - x| <= {max(forward_then_back):.1e}")  # fmt: skip
    assert max(back_then_forward) < 1e-5


def test_planar_by_hand() -> None:
    # w = (1, 0), u = (u1, 0.5): w.u = u1, moved to m(u1) along w.
    planar = Planar(2).double()
    with torch.no_grad():
        planar.numbers.bias.copy_(torch.tensor([0.7, 0.5, 1.0, 0.0, 0.3]))
    m = math.log(1 + math.exp(0.7 + math.log(math.e - 1))) - 1
    z, log_det = planar(torch.tensor([[0.2, -1.0]], dtype=torch.float64))
    h = math.tanh(0.2 + 0.3)
    torch.testing.assert_close(z, torch.tensor([[0.2 + m * h, -1.0 + 0.5 * h]], dtype=torch.float64))
    assert log_det.item() == pytest.approx(math.log(1 + m * (1 - h**2)))


def test_sylvester_with_one_direction_is_planar() -> None:
    # One column q, r and r~ scalars: z = x + q r tanh(r~ q.x + b), a planar flow with u = r q and w = r~ q.
    sylvester = prepared(Sylvester(3, width=1, reflections=2), 1.0)
    x = normal(5, 3)
    q, r, r_tilde, b = (value[0] for value in sylvester._matrices(sylvester.numbers(len(x), None)))
    u, w = (q * r)[:, 0], (q * r_tilde)[:, 0]
    h = (x @ w + b).tanh()
    torch.testing.assert_close(sylvester(x)[0], x + h[:, None] * u)
    torch.testing.assert_close(sylvester(x)[1], torch.log1p(u @ w * (1 - h.square())))


def test_directions_are_orthonormal() -> None:
    sylvester = prepared(Sylvester(6, 2, width=4), 1.0)
    q = sylvester._matrices(sylvester.numbers(3, normal(3, 2)))[0]
    torch.testing.assert_close(q.transpose(1, 2) @ q, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))


def test_roots_of_increasing_functions() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    # A cube is flat at its root: Newton alone is slow, and its first steps overshoot.
    for function in (lambda x: (x**3, 3 * x**2), lambda x: (x.sinh(), x.cosh()), lambda x: (x.atan(), 1 / (1 + x**2))):
        target = function(x)[0]
        found = increasing_root(function, target, torch.full_like(x, -9.0), torch.full_like(x, 11.0))
        torch.testing.assert_close(function(found)[0], target, rtol=1e-12, atol=1e-12)


def test_layers_start_near_the_identity_and_apart_from_each_other() -> None:
    for kind, layers in LAYERS.items():
        torch.manual_seed(0)
        chain = layers(4, 0, layers=3)
        assert isinstance(chain, Chain)
        assert len(chain.parts) == 3
        x = torch.randn(64, 4, generator=Generator().manual_seed(0))
        assert (chain(x)[0] - x).abs().max() < 1, kind
        first, second = chain.parts[0], chain.parts[1]
        assert not torch.equal(first(x)[0], second(x)[0])


@pytest.mark.parametrize("kind", list(KINDS))
def test_transforms_stay_float32_under_autocast(kind: str) -> None:
    layers = prepared(KINDS[kind](16), 0.3).float()
    x = normal(32, 16).float()
    expected = layers(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = layers(x)
        back, _ = layers.inverse(z)
    torch.testing.assert_close((z, log_det), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
