"""Glow: exact densities, nothing lost between scales, and the paper's model from its configuration."""

import math
from pathlib import Path

import pytest
import torch
from helpers_density import examples, quadrature
from helpers_glow import ADAM, SPACES, body_of, glow, settle
from helpers_transforms import check_bijection, few, normal
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Generator, nn

from models.flows.glow import Glow
from models.nn.convnet import ZeroConv
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain
from models.transforms.coupling import Coupling, MaskedCoupling
from models.transforms.dequantize import UniformDequantization
from models.transforms.linear import Conv1x1, LULinear
from models.transforms.logit import Logit
from models.transforms.multiscale import MultiScale
from models.transforms.scale import Scale

MODELS = Path(__file__).parent.parent / "conf" / "model"


@few
@given(c=st.sampled_from([1, 2, 3]), h=st.integers(1, 4), w=st.integers(1, 4), fresh=st.booleans())
def test_its_map_of_images_is_a_bijection(c: int, h: int, w: int, fresh: bool) -> None:
    flow = glow((c, h, w), None)
    if fresh:
        flow.log_weight(examples((c, h, w), None, 8))
    else:
        settle(flow)
    check_bijection(body_of(flow).double(), normal(2, c, h, w))


@few
@given(dim=st.integers(1, 6))
def test_its_map_of_vectors_is_a_bijection(dim: int) -> None:
    flow = glow((dim,), None)
    settle(flow)
    check_bijection(body_of(flow).double(), normal(3, dim))


@pytest.mark.parametrize(
    ("shape", "points", "half_width"),
    [((1,), 20_000, 80), ((2,), 600, 40), ((1, 1, 1), 20_000, 80), ((1, 1, 2), 400, 25), ((2, 1, 1), 400, 25)],
)
@pytest.mark.parametrize("std", [0.1, 0.2])
def test_its_density_integrates_to_one(shape: tuple[int, ...], points: int, half_width: float, std: float) -> None:
    flow = glow(shape, None, steps=3)
    settle(flow, std)
    flow.double().eval()
    x = flow.sample(10_000, generator=Generator().manual_seed(0))
    assert (x.std(0) - 1).abs().max() > 0.05
    assert x.abs().max() < half_width
    assert quadrature(flow, half_width=half_width, points=points) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(2,), (1, 1, 2)])
def test_masses_of_all_integers_sum_to_one_and_those_of_the_levels_to_less(shape: tuple[int, ...]) -> None:
    """x / L - 1/2 leaves room for the flow outside of the levels; the dequantizer can number those cells as well."""
    flow = glow(shape, 4)
    data = examples(shape, 4, 64)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for step in range(30):
        optimizer.zero_grad()
        flow.training_step((data, None), step).backward()
        optimizer.step()
    flow.eval()
    cells = torch.arange(-10.0, 14.0)
    x = torch.cartesian_prod(cells, cells).reshape(-1, *shape)
    draws = 400
    with torch.no_grad():
        weights = flow.log_weight(x.repeat(draws, *[1] * len(shape)), generator=Generator().manual_seed(1)).exp()
    masses = weights.reshape(draws, -1).double()
    stderr = masses.sum(1).std().item() / math.sqrt(draws)
    assert stderr < 0.005
    assert masses.sum(1).mean().item() == pytest.approx(1, abs=4 * stderr)
    inside = ((x >= 0) & (x <= 3)).flatten(1).all(1)
    kept = masses[:, inside].sum(1).mean().item()
    assert 0.8 < kept < 0.999


@pytest.mark.parametrize(("shape", "levels"), SPACES)
def test_codes_are_exact_and_samples_are_data(shape: tuple[int, ...], levels: int | None) -> None:
    flow = glow(shape, levels)
    x = examples(shape, levels, 16)
    flow.training_step((x, None), 0)
    settle(flow, 0.1)
    flow.eval()
    assert flow.relation == ("exact" if levels is None else "lower_bound")
    code = flow.encode(x, generator=Generator().manual_seed(0))
    assert code.shape == (16, math.prod(shape))
    back = flow.decode(code)
    assert back.dtype == x.dtype
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    cold = flow.sample(3, temperature=0.0, generator=Generator().manual_seed(3))
    assert torch.equal(cold, flow.decode(torch.zeros(3, flow.dim)))
    spread = [flow.sample(200, temperature=t, generator=Generator().manual_seed(0)).float().std() for t in (0.5, 1.0)]
    assert spread[0] < spread[1]


def test_a_logit_takes_the_place_of_the_scale() -> None:
    flow = glow((1, 4, 4), 256, alpha=0.05)
    transform = flow.transform
    assert isinstance(transform, Chain)
    assert [type(part) for part in transform.parts] == [UniformDequantization, Logit, MultiScale]
    assert transform.parts[1].alpha == 0.05
    x = examples((1, 4, 4), 256, 16)
    assert torch.equal(flow.decode(flow.encode(x, generator=Generator().manual_seed(0))), x)
    assert isinstance(glow((3,), None, alpha=0.05).transform, Chain)  # reals need neither
    with pytest.raises(ValueError, match="alpha"):
        glow((3,), 256, alpha=0.5)


@pytest.mark.parametrize(
    ("shape", "scales", "convolutions", "checkerboards"),
    [
        ((3, 32, 32), 3, [12, 24, 48], 0),
        ((1, 28, 28), 2, [4, 8], 0),
        ((1, 2, 2), 1, [4], 0),
        ((3, 5, 8), 1, [3], 0),
        ((2, 1, 1), 1, [2], 0),
        ((1, 5, 8), 1, [], 4),
        ((1, 1, 1), 1, [], 4),
    ],
)
def test_scales_and_steps_follow_from_the_shape(
    shape: tuple[int, ...], scales: int, convolutions: list[int], checkerboards: int
) -> None:
    flow = glow(shape, 256, steps=4, scales=3)
    body = body_of(flow)
    assert isinstance(body, MultiScale)
    assert len(body.levels) == scales
    assert len(body.priors) == scales - 1
    sizes = [len(module.matrix.entries) for module in flow.modules() if isinstance(module, Conv1x1)]
    assert sizes == [c for c in convolutions for _ in range(4)]
    assert sum(isinstance(module, MaskedCoupling) for module in flow.modules()) == checkerboards


def test_its_yaml_makes_the_papers_model() -> None:
    config = OmegaConf.load(MODELS / "glow.yaml")
    flow = instantiate(config, shape=[3, 32, 32], levels=256)
    assert isinstance(flow, Glow)
    transform = flow.transform
    assert isinstance(transform, Chain)
    assert [type(part) for part in transform.parts] == [UniformDequantization, Scale, MultiScale]
    steps = [
        [type(part) for part in level.parts[1 + 3 * i : 4 + 3 * i]]  # after the squeeze
        for level in body_of(flow).levels
        for i in range(32)
    ]
    assert steps == 3 * 32 * [[ActNorm, Conv1x1, Coupling]]
    kernels = {module.kernel_size for module in flow.modules() if isinstance(module, nn.Conv2d)}
    assert kernels == {(3, 3), (1, 1)}
    assert 43.5e6 < flow.n_parameters < 44.5e6
    optimizer = flow.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    vectors = instantiate(config, shape=[3], levels=None)
    assert [type(part) for part in body_of(vectors).parts] == 32 * [ActNorm, LULinear, Coupling]
    with pytest.raises(ValueError, match="vectors"):
        Glow((3, 4), None, ADAM)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Glow((3,), None, ADAM, steps=0)


@pytest.mark.parametrize(("shape", "levels"), SPACES)
def test_every_variable_reaches_the_density(shape: tuple[int, ...], levels: int | None) -> None:
    flow = glow(shape, levels)
    settle(flow, 0.3)
    x = torch.randn(2, *shape, generator=Generator().manual_seed(0), requires_grad=True)
    z, log_det = body_of(flow)(x)
    (gradient,) = torch.autograd.grad((log_det - z.square().sum(1) / 2).sum(), x)
    assert (gradient != 0).all()
    # And no coupling's part of the latents is cut off from the other variables.
    if math.prod(shape) > 1:
        (gradient,) = torch.autograd.grad(body_of(flow)(x)[0][:, -1].sum(), x)
        assert (gradient != 0).sum() > len(x)


def test_large_parameters_give_no_nan() -> None:
    for shape, levels in [((8,), None), ((1, 8, 8), 256), ((1, 5, 5), 256)]:
        flow = glow(shape, levels, steps=4, channels=16)
        x = examples(shape, levels, 32)
        flow.log_weight(x)
        for module in flow.modules():  # weights ten times as large as layers start with, where Glow's start at zero
            if isinstance(module, ZeroConv):
                nn.init.normal_(module.conv.weight, std=0.5)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.0)
        log_w = flow.log_weight(x, generator=Generator().manual_seed(0))
        assert log_w.isfinite().all()
        log_w.mean().backward()
        assert all(p.grad.isfinite().all() for p in flow.parameters())
        assert not flow.sample(64, generator=Generator().manual_seed(0)).isnan().any()


def test_training_finds_a_known_density() -> None:
    cholesky = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    generator = Generator().manual_seed(0)
    flow = glow((2,), None)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for step in range(300):
        x = torch.randn(256, 2, generator=generator) @ cholesky.T + 5
        optimizer.zero_grad()
        flow.training_step((x, None), step).backward()
        optimizer.step()
    x = torch.randn(20_000, 2, generator=generator) @ cholesky.T + 5
    with torch.no_grad():
        loss = flow.training_step((x, None), 0).item()
    assert loss == pytest.approx(1 + math.log(2 * math.pi), abs=0.03)  # the entropy: the determinant is 1


@pytest.mark.parametrize(("shape", "levels"), [((1,), None), ((3,), 4), ((1, 8, 8), 8), ((1, 3, 3), 4)])
def test_a_conditional_glow_is_a_mixture_over_its_classes(shape: tuple[int, ...], levels: int | None) -> None:
    flow = glow(shape, levels, classes=3, conditional=True)
    settle(flow, 0.15)
    x = examples(shape, levels, 6)
    joint = flow.class_log_weights(x, generator=Generator().manual_seed(0))
    assert joint.shape == (6, 3)
    assert (joint[:, 0] != joint[:, 1]).all()
    torch.testing.assert_close(flow.log_weight(x, generator=Generator().manual_seed(0)), joint.logsumexp(1))
    back = flow.decode(flow.encode(x, generator=Generator().manual_seed(0)))
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    flow.training_step((x, torch.arange(6) % 3), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
