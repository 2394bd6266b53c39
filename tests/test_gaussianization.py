"""Gaussianization flow: rotations, an image that is the whole space, densities that integrate to 1."""

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from helpers_density import discrete_mass, examples, quadrature, randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Generator, Tensor

from models.flows.gaussianization import Gaussianization
from models.transforms.actnorm import ActNorm
from models.transforms.elementwise import Elementwise
from models.transforms.rotation import Rotation

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
SHAPES = [((1,), None), ((3,), None), ((2, 4, 4), None), ((1,), 4), ((3,), 4), ((1, 5, 7), 4), ((3, 8, 8), 256)]


def small(shape: tuple[int, ...], levels: int | None, layers: int = 2) -> Gaussianization:
    """Normalization stays the identity: it is set by data in training mode."""
    torch.manual_seed(0)
    return Gaussianization(shape, levels, ADAM, layers=layers, components=3, reflections=4).eval()


def randomized(flow: Gaussianization, std: float, seed: int = 0) -> Gaussianization:
    """All of it but the normalization."""
    for module in flow.modules():
        if isinstance(module, Elementwise | Rotation):
            randomize(module, std, seed)
            seed += 1
    return flow


@few
@given(dim=st.integers(1, 6), reflections=st.integers(1, 7))
def test_rotation_is_the_product_of_its_reflections(dim: int, reflections: int) -> None:
    rotation = prepared(Rotation(dim, reflections), 1.0)
    check_bijection(rotation, normal(3, dim))
    product = torch.eye(dim).double()
    for v in rotation.vectors.detach():
        product = product @ (torch.eye(dim).double() - 2 * torch.outer(v, v) / (v @ v))
    torch.testing.assert_close(rotation(torch.eye(dim).double())[0], product)
    assert torch.linalg.det(product).item() == pytest.approx(1 if reflections % 2 == 0 else -1)


def test_as_many_reflections_as_variables_reach_any_rotation() -> None:
    torch.manual_seed(0)
    target, _ = torch.linalg.qr(normal(3, 3))
    target = target * torch.linalg.det(-target).sign()  # three reflections have determinant -1
    rotation = Rotation(3, 3).double()
    optimizer = torch.optim.LBFGS(rotation.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (rotation(torch.eye(3).double())[0] - target).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert loss().item() < 1e-8


def test_many_reflections_stay_orthogonal_in_float32_and_under_autocast() -> None:
    torch.manual_seed(0)
    rotation = Rotation(300, 300)
    identity = torch.eye(300)
    q, log_det = rotation(identity)
    assert torch.equal(log_det, torch.zeros(300))
    torch.testing.assert_close(q @ q.T, identity, rtol=0, atol=3e-6)
    torch.testing.assert_close(rotation.inverse(q)[0], identity, rtol=0, atol=3e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotation(identity)[0], q)


def test_jacobian_of_all_layers() -> None:
    for dim in (1, 3):
        for std in (0.3, 1.0):
            flow = randomized(small((dim,), None), std).double()
            check_bijection(flow.transform, normal(3, dim), inverse_tolerance=1e-8)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_density_of_one_variable_integrates_to_one(shape: tuple[int, ...], std: float) -> None:
    """Over x = sinh t, even in t: finely where kernels are narrow, and as far as 10^5, where all tails have ended."""
    points, reach = 100_000, 12.0
    t = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1) * reach
    for seed in (0, 1):
        flow = randomized(small(shape, None), std, seed).double()
        with torch.no_grad():
            density = flow.log_weight(t.sinh().reshape(-1, *shape)).exp()
        assert (density * t.cosh()).sum().item() * 2 * reach / points == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("std", "half_width"), [(0.0, 10), (0.3, 12), (0.6, 20), (1.0, 12)])
def test_density_of_two_variables_integrates_to_one(std: float, half_width: float) -> None:
    for seed in (0, 1):
        flow = small((2,), None)
        if std > 0:
            randomized(flow, std, seed)
        flow.double()
        x = flow.sample(4000, generator=Generator().manual_seed(0)).double()
        outside = (x.abs().amax(1) > half_width).double().mean().item()
        assert outside < 0.5
        mass = quadrature(flow, half_width=half_width, points=300)
        assert mass + outside == pytest.approx(1, abs=4 * math.sqrt(outside / len(x)) + 5e-4)


def test_the_image_is_the_whole_space() -> None:
    """Quantiles computed from a CDF end at 5.3 in float32 and at 8.3 in float64. These do not."""
    for dtype, reach in ((torch.float32, 30.0), (torch.float64, 1000.0)):
        flow = randomized(small((2,), None, layers=3), 0.5).to(dtype)
        z = torch.tensor([[reach, 0], [-reach, 0], [0, reach], [reach, -reach]], dtype=dtype)
        x, inverse_log_det = flow.transform.inverse(z)
        again, log_det = flow.transform(x)
        tolerance = 1e-3 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(again, z, rtol=0, atol=tolerance)
        torch.testing.assert_close(log_det, -inverse_log_det, rtol=0, atol=tolerance)
    # Far out the density falls as fast as a normal one, and is never 0 on a logarithmic scale.
    with torch.no_grad():
        near, far = flow.log_weight(torch.tensor([[1e3, 0.0], [1e4, 0.0]], dtype=torch.float64)).tolist()
    assert far / near == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 2), (2,), (1,)])
def test_masses_of_integers_sum_to_one(shape: tuple[int, ...]) -> None:
    flow = randomized(small(shape, 4), 0.3)
    mass, stderr = discrete_mass(flow, draws=4000)
    assert 0 < stderr < 0.03
    assert mass == pytest.approx(1, abs=4 * stderr)


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_codes_are_exact_and_samples_are_data(shape: tuple[int, ...], levels: int | None) -> None:
    flow = randomized(small(shape, levels), 0.3)
    x = examples(shape, levels, 6)
    z = flow.encode(x, generator=Generator().manual_seed(0))
    assert z.shape == (6, math.prod(shape))
    back = flow.decode(z)
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    s = flow.sample(5, generator=Generator().manual_seed(1))
    assert s.shape == (5, *shape)
    assert s.dtype == x.dtype
    assert torch.equal(s, flow.sample(5, generator=Generator().manual_seed(1)))
    assert flow.relation == ("exact" if levels is None else "lower_bound")
    fresh = small(shape, levels)
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    other = examples(shape, levels, 5, seed=1)
    first, second = (f.log_weight(other, generator=Generator().manual_seed(2)) for f in (flow, fresh))
    assert torch.equal(first, second)


def test_it_starts_near_a_rotation_of_normalized_data() -> None:
    flow = Gaussianization((3,), None, ADAM, components=16)
    x = examples((3,), None, 2000) * torch.tensor([0.1, 1.0, 30.0]) + 5
    flow.train()
    flow.training_step((x, None), 0).backward()  # normalizes, as the first step of training does
    z = flow.encode(x)
    off = (z.norm(dim=1) - ((x - x.mean(0)) / x.std(0, correction=0)).norm(dim=1)).abs()
    assert off.max() < 0.5
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    gradients = [m.raw.grad[16:32] for m in flow.modules() if isinstance(m, Elementwise)]
    assert all(g.unique().numel() == g.numel() for g in gradients)  # no two kernels stay equal


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 8, 8), 256)])
def test_large_parameters_give_no_nan(shape: tuple[int, ...], levels: int | None) -> None:
    flow = randomized(small(shape, levels), 10)
    log_w = flow.log_weight(examples(shape, levels, 64), generator=Generator().manual_seed(0))
    assert log_w.isfinite().all()
    log_w.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    assert not flow.sample(64, generator=Generator().manual_seed(0)).isnan().any()


def test_training_finds_a_known_density() -> None:
    """Two independent pairs of normals, turned by 45 degrees."""
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    half = math.sqrt(0.5)
    turn = torch.tensor([[half, half], [-half, half]])

    def draw(n: int) -> Tensor:
        centres = 2.0 * torch.randint(2, (n, 2), generator=generator) - 1
        return (centres + 0.3 * torch.randn(n, 2, generator=generator)) @ turn

    def log_density(x: Tensor) -> Tensor:
        own = x @ turn.T
        each = [torch.distributions.Normal(m, 0.3).log_prob(own) for m in (-1.0, 1.0)]
        return (torch.stack(each).logsumexp(0) - math.log(2)).sum(1)

    flow = Gaussianization((2,), None, functools.partial(torch.optim.Adam, lr=0.02), layers=3, components=6)
    optimizer = flow.configure_optimizers()
    for step in range(200):
        optimizer.zero_grad()
        flow.training_step((draw(256), None), step).backward()
        optimizer.step()
    flow.eval()
    x = draw(20_000)
    with torch.no_grad():
        gap = (log_density(x) - flow.log_weight(x)).mean().item()  # Kullback-Leibler divergence
    assert 0 < gap < 0.1  # a normal has a gap of more than 1
    samples = flow.sample(20_000, generator=generator)
    assert log_density(samples).mean().item() == pytest.approx(log_density(x).mean().item(), abs=0.4)


def test_its_yaml_makes_it_and_mistakes_are_refused() -> None:
    flow = instantiate(OmegaConf.load(MODELS / "gaussianization.yaml"), shape=[3], levels=None)
    assert isinstance(flow, Gaussianization)
    assert sum(isinstance(m, Elementwise) for m in flow.modules()) == 5
    assert [m.vectors.shape for m in flow.modules() if isinstance(m, Rotation)] == [(3, 3)] * 4
    assert sum(isinstance(m, ActNorm) for m in flow.modules()) == 1
    assert flow.configure_optimizers().param_groups[0]["amsgrad"]
    for mistake, message in (
        (lambda: Gaussianization((2,), None, ADAM, layers=0), "layer"),
        (lambda: Gaussianization((2,), None, ADAM, components=0), "component"),
        (lambda: Gaussianization((2,), None, ADAM, reflections=0), "reflection"),
        (lambda: Rotation(3, 1).output_shape((4,)), "vectors of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            mistake()
