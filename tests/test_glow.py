"""Glow and its parts: exact densities, nothing lost between scales, and a state that survives whatever a run does."""

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_models import new_model, small_data
from helpers_transforms import check_bijection, few, normal, prepared
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Generator, Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule, typed
from bench.data.base import Data
from bench.training.fit import fit
from models.base import GenerativeModel
from models.flows.base import Flow
from models.flows.glow import Glow
from models.flows.realnvp import RealNVP
from models.nn.convnet import ConvNet, ZeroConv
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain, checkpoint_activations
from models.transforms.coupling import Coupling, MaskedCoupling, alternating, halves
from models.transforms.dequantize import UniformDequantization
from models.transforms.elementwise import Elementwise
from models.transforms.linear import Conv1x1, LULinear
from models.transforms.logit import Logit
from models.transforms.multiscale import MultiScale
from models.transforms.scale import Scale
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine, SigmoidAffine

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SPACES = [
    ((1,), None), ((5,), None), ((3,), 4), ((2, 1, 3), None), ((1, 3, 5), 4), ((3, 3, 5), 4), ((1, 8, 8), 256),
    ((3, 8, 8), 32),
]  # fmt: skip


def glow(shape: tuple[int, ...], levels: int | None, **changes: Any) -> Glow:
    sizes: dict[str, Any] = {"steps": 2, "scales": 2, "channels": 8, "hidden": 16, "depth": 1}
    torch.manual_seed(0)
    return Glow(shape, levels, ADAM, **(sizes | changes))


def examples(shape: tuple[int, ...], levels: int | None, n: int, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    if levels is None:
        return torch.randn(n, *shape, generator=generator)
    return torch.randint(levels, (n, *shape), generator=generator).to(torch.uint8)


def body_of(flow: Flow) -> Chain | MultiScale:
    return flow.get_submodule("transform.parts")[-1]


def settle(flow: nn.Module, std: float = 0.2) -> None:
    """Random weights, as after training: the normalization set, and left alone from now on."""
    randomize(flow, std)
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)


# The parts.


@few
@given(shape=st.sampled_from([(1,), (4,), (2, 3, 2)]), floor=st.sampled_from([0.0, 1e-3, 0.3]), std=st.floats(0.1, 3))
def test_the_sigmoid_scale_is_a_bijection(shape: tuple[int, ...], floor: float, std: float) -> None:
    check_bijection(prepared(Elementwise(SigmoidAffine(floor), shape), std), 2 * normal(4, *shape))


def test_the_sigmoid_scale_is_that_of_the_formula_and_has_right_gradients() -> None:
    x, parameters = normal(6, 3), 2 * normal(6, 2, 3, seed=1)
    shift, raw = parameters.unbind(1)
    z, log_derivative = SigmoidAffine(0.0).forward(x, parameters)
    scale = 1 / (1 + (-raw - 2).exp())
    torch.testing.assert_close(z, (x + shift) * scale)
    torch.testing.assert_close(log_derivative, scale.log())
    z, _ = SigmoidAffine().forward(x, torch.zeros_like(parameters))
    torch.testing.assert_close(z, 0.8809 * x, rtol=1e-3, atol=0)
    for direction in (SigmoidAffine().forward, SigmoidAffine().inverse):
        assert torch.autograd.gradcheck(direction, (x.requires_grad_(), parameters.requires_grad_()))


@pytest.mark.parametrize("std", [10.0, 1e5])
def test_the_sigmoid_scale_keeps_its_inverse_in_float32(std: float) -> None:
    generator = Generator().manual_seed(0)
    x = torch.randn(2000, 4, generator=generator)
    parameters = (std * torch.randn(2000, 2, 4, generator=generator)).requires_grad_()
    z, log_derivative = SigmoidAffine().forward(x, parameters)
    back, inverse = SigmoidAffine().inverse(z, parameters)
    assert log_derivative.min() >= math.log(1e-3) - 1e-4
    assert torch.equal(inverse, -log_derivative)
    # The shift is about std, so that x + t keeps about 1e-7 std of x.
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6 * std)
    (z.sum() + log_derivative.sum() + back.sum()).backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


@few
@given(shape=st.sampled_from([(1,), (4,), (2, 3, 2)]), factor=st.sampled_from([1.0, -0.3, 2.0, 1e3]))
def test_scale_is_a_bijection(shape: tuple[int, ...], factor: float) -> None:
    check_bijection(Scale(factor, -0.5), normal(4, *shape))


def test_scale_is_the_published_one_and_0_is_refused() -> None:
    levels = torch.tensor([[0.0, 128.0, 255.0]])
    z, log_det = Scale(1.0, -0.5)(levels / 256)
    torch.testing.assert_close(z, levels / 256 - 0.5)
    assert log_det.item() == 0
    assert Scale(2.0, -1.0)(levels)[1].item() == pytest.approx(3 * math.log(2))
    with pytest.raises(ValueError, match="no inverse"):
        Scale(0.0, 1.0)


@pytest.mark.parametrize(("n_in", "n_context"), [(3, 0), (3, 2), (0, 2), (0, 0)])
def test_the_conditioner_starts_at_zero_and_reads_what_it_is_given(n_in: int, n_context: int) -> None:
    x = normal(4, n_in, 5, 6).float()
    context = normal(4, n_context).float() if n_context else None
    pictures = None if context is None else context[:, :, None, None].expand(4, n_context, 5, 6)
    for network in (ConvNet(n_in, 7, channels=8, n_context=n_context), ZeroConv(n_in, 7, n_context=n_context)):
        assert torch.equal(network(x, context), torch.zeros(4, 7, 5, 6))
        randomize(network, 0.3)
        y = network(x, context)
        assert y.shape == (4, 7, 5, 6)
        torch.testing.assert_close(y, network(x, pictures))
        differs = (network(x + 1, context) != y).any(), context is not None and (network(x, 2 * context) != y).any()
        assert differs == (n_in > 0, n_context > 0)
        if n_context > 0:
            with pytest.raises(ValueError, match="context"):
                network(x)


def test_the_conditioners_normalization_is_that_of_activations() -> None:
    """Though it is applied to the weights: each hidden layer's first outputs have mean 0 and variance 1."""
    torch.manual_seed(0)
    network = ConvNet(3, 4, channels=8)
    nn.init.normal_(network.layers[-1].conv.weight)
    x = 5 * normal(10, 3, 6, 6).float() + 2
    y = network(x)
    h = x
    for layer in (network.layers[0], network.layers[2]):
        h = functional.conv2d(h, layer.conv.weight, padding=layer.conv.padding)
        h = layer.norm(h)[0]
        torch.testing.assert_close(h.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-4)
        torch.testing.assert_close(h.var((0, 2, 3), correction=0), torch.ones(8), rtol=1e-3, atol=0)
        h = h.relu()
    torch.testing.assert_close(y, network.layers[-1](h), rtol=1e-4, atol=1e-4)


def prior(n_kept: int, n_out: int, n_context: int = 0) -> Coupling:
    return Coupling([], range(n_out), ZeroConv(0, 2 * n_out, n_context=n_kept + n_context), Affine(bound=5.0))


def channel_coupling(c: int, n_context: int = 0) -> Coupling:
    kept, moved = halves(c, 0)
    network = ConvNet(len(kept), 2 * len(moved), channels=4, n_context=n_context)
    return Coupling(kept, moved, network, SigmoidAffine())


@few
@given(c=st.integers(1, 3), h=st.integers(1, 2), w=st.integers(1, 2), n_context=st.sampled_from([0, 2]))
def test_scales_with_conditional_priors_are_a_bijection(c: int, h: int, w: int, n_context: int) -> None:
    shape = (c, 2 * h, 2 * w)
    levels = [Chain(Squeeze(), channel_coupling(4 * c, n_context)), channel_coupling(2 * c, n_context), Conv1x1(c)]
    priors = [prior(2 * c, 2 * c, n_context), prior(c, c, n_context)]
    transform = MultiScale(shape, levels, priors)
    settle(transform, 0.3)
    context = normal(2, n_context, seed=4) if n_context else None
    check_bijection(transform.double(), normal(2, *shape), context=context)


def test_an_odd_half_has_a_prior_too() -> None:
    transform = MultiScale((5, 2, 2), [Conv1x1(5), Conv1x1(2)], [prior(2, 3)])
    check_bijection(prepared(transform), normal(2, 5, 2, 2))


def test_a_conditional_prior_is_a_normal_given_what_is_kept() -> None:
    transform = MultiScale((4, 2, 2), [Scale(1.0, 0.0), Scale(1.0, 0.0)], [prior(2, 2)])
    settle(transform, 0.3)
    transform.double()
    x = normal(3, 4, 2, 2)
    z, log_det = transform(x)
    kept, out = x.chunk(2, 1)
    shift, raw = transform.priors[0].conditioner(out[:, :0], kept).chunk(2, 1)
    log_scale = 5 * (raw / 5).tanh()
    mean, std = -shift * (-log_scale).exp(), (-log_scale).exp()
    base = Normal(torch.tensor(0.0).double(), 1.0)
    expected = Normal(mean, std).log_prob(out).flatten(1).sum(1) + base.log_prob(kept).flatten(1).sum(1)
    torch.testing.assert_close(base.log_prob(z).sum(1) + log_det, expected)
    assert (mean.std() > 0.05) & (std.std() > 0.05)
    # Untrained it is the standard normal, and MultiScale what it is without.
    plain = MultiScale((4, 2, 2), [Scale(1.0, 0.0), Scale(1.0, 0.0)])
    fresh = MultiScale((4, 2, 2), [Scale(1.0, 0.0), Scale(1.0, 0.0)], [prior(2, 2)])
    for got, wanted in zip(fresh(x.float()), plain(x.float()), strict=True):
        assert torch.equal(got, wanted)


def test_there_is_a_prior_for_each_level_but_the_last() -> None:
    with pytest.raises(ValueError, match="2 levels have 1 priors, not 2"):
        MultiScale((4, 2, 2), [Conv1x1(4), Conv1x1(2)], [prior(2, 2), prior(1, 1)])


# The flow.


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


# What a run does to it.


def run(model: GenerativeModel, data: Data, folder: Path, hardware: Hardware | None = None, **changes: Any) -> None:
    schedule = Schedule(**({"examples": 160, "batch_size": 16, "validate_every": 64} | changes))
    folder.mkdir(exist_ok=True)
    fit(model, data, schedule, hardware or Hardware(), seed=5, folder=folder, config={})


def final(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder / "final.ckpt")["state_dict"]
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """It does not set its normalization again, nor its moving average."""
    data = small_data((1, 4, 4), 8)
    run(new_model("glow", data.spec), data, tmp_path / "whole", ema_decay=0.9)

    class KilledError(Exception):
        pass

    def die(model: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return 0.0

    calls: list[int] = []
    schedule = Schedule(examples=160, batch_size=16, validate_every=64, ema_decay=0.9)
    (tmp_path / "parts").mkdir()
    with pytest.raises(KilledError):
        fit(
            new_model("glow", data.spec), data, schedule, Hardware(), seed=5, folder=tmp_path / "parts", config={},
            validate=die,
        )  # fmt: skip
    run(new_model("glow", data.spec, seed=9), data, tmp_path / "parts", ema_decay=0.9)
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))


@pytest.mark.parametrize(("shape", "levels"), SPACES)
def test_reloaded_weights_give_the_same_numbers_on_another_batch(shape: tuple[int, ...], levels: int | None) -> None:
    flow = glow(shape, levels)
    flow.training_step((examples(shape, levels, 16), None), 0)
    torch.manual_seed(9)
    fresh = Glow(shape, levels, ADAM, steps=2, scales=2, channels=8, hidden=16, depth=1)
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    other = examples(shape, levels, 5, seed=1)
    for mode in (True, False):
        first, second = (
            f.train(mode).log_weight(other, generator=Generator().manual_seed(2)) for f in (flow, fresh)
        )  # fmt: skip
        assert torch.equal(first, second)
    assert torch.equal(*(f.sample(5, generator=Generator().manual_seed(0)) for f in (flow, fresh)))
    assert same(flow.state_dict(), fresh.state_dict())


def test_only_conditioners_run_in_bfloat16_under_autocast() -> None:
    flow = glow((3, 8, 8), 32)
    x = examples((3, 8, 8), 32, 16)
    seen: dict[str, set[torch.dtype]] = {"conditioner": set(), "transform": set()}

    def note(kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen[kind] |= {tensor.dtype for tensor in outputs}

        return hook

    for module in flow.modules():
        if isinstance(module, ConvNet):
            module.register_forward_hook(note("conditioner"))
        if isinstance(module, ActNorm | Conv1x1 | Coupling | MultiScale):
            module.register_forward_hook(note("transform"))
    flow.log_weight(x, generator=Generator().manual_seed(0))
    settle(flow, 0.05)
    expected = flow.log_weight(x, generator=Generator().manual_seed(0))
    for kind in seen:
        seen[kind].clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_w = flow.log_weight(x, generator=Generator().manual_seed(0))
        code = flow.encode(x, generator=Generator().manual_seed(0))
        back = flow.decode(code)
    assert seen == {"conditioner": {torch.bfloat16}, "transform": {torch.float32}}
    assert log_w.dtype == code.dtype == torch.float32
    assert torch.equal(back, x)
    torch.testing.assert_close(log_w, expected, rtol=0.01, atol=0.01)
    log_w.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in flow.parameters())


def test_normalization_set_under_autocast_is_that_of_float32() -> None:
    flows = [glow((3, 8, 8), 32) for _ in range(2)]
    x = examples((3, 8, 8), 32, 64)
    for flow, enabled in zip(flows, (False, True), strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            flow.log_weight(x, generator=Generator().manual_seed(0))
    first, second = (flow.state_dict() for flow in flows)
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 5), (4,)])
def test_it_compiles_without_a_graph_break(shape: tuple[int, ...]) -> None:
    flow = glow(shape, None, steps=1)
    body = body_of(flow)
    x = examples(shape, None, 8)
    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(body, fullgraph=True, backend="eager")
    compiled(x)  # sets the normalization
    settle(flow)
    for got, expected in zip(compiled(x), body(x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*`torch.* is deprecated.*")  # torch.compile of torch
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_steps_are_one_graph_and_have_the_eager_gradients(checkpointing: bool) -> None:
    plain, body = (body_of(glow((3, 8, 8), None, steps=1)) for _ in range(2))
    if checkpointing:
        checkpoint_activations(body)
    compiled = body  # the first step is eager, as in training
    for step in range(3):
        x = examples((3, 8, 8), None, 8, seed=step)
        for side in (plain, compiled):
            side.zero_grad()
            z, log_det = side(x)
            (z.square().sum(1) / 2 - log_det).mean().backward()
        for (name, p), q in zip(plain.named_parameters(), body.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4, msg=name)
        if step == 0:
            settle(plain, 0.1)
            settle(body, 0.1)
            torch.compiler.reset()  # what other tests compiled counts against a limit
            compiled = torch.compile(body, fullgraph=True)


# Activation checkpointing.


def saved_bytes(flow: Flow, x: Tensor) -> int:
    """What the graph of one training step holds on to, parameters not counted."""
    own = {parameter.data_ptr() for parameter in flow.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = flow.training_step((x, None), 0)
    assert loss.requires_grad
    return sum(held.values())


def deep(name: str) -> Flow:
    torch.manual_seed(0)
    if name == "realnvp":
        return RealNVP((1, 8, 8), 256, ADAM, channels=8, blocks=2)
    if name == "nsf":
        flow = new_model("nsf", small_data((1, 8, 8), 256).spec)
        assert isinstance(flow, Flow)
        return flow
    return glow((1, 8, 8), 256, steps=6, channels=24)


@pytest.mark.parametrize("name", ["glow", "realnvp", "nsf"])
def test_checkpointing_saves_memory_and_changes_no_bit_of_training(name: str) -> None:
    plain = deep(name)
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    x = examples((1, 8, 8), 256, 16)
    flows = (plain, checkpointed)
    for flow in flows:
        flow.train_generator = Generator().manual_seed(3)
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        for step in range(3):  # the first sets the normalization
            optimizer.zero_grad()
            flow.training_step((x, None), step).backward()
            optimizer.step()
    assert same(plain.state_dict(), checkpointed.state_dict())
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    # The noise of dequantization is drawn once.
    assert torch.equal(plain.train_generator.get_state(), checkpointed.train_generator.get_state())
    assert saved_bytes(checkpointed, x) < saved_bytes(plain, x) / 3
    with torch.no_grad():
        logs = [flow.eval().log_weight(x, generator=Generator().manual_seed(0)) for flow in flows]
    assert torch.equal(*logs)


class _Noisy(nn.Module):
    """A conditioner with dropout, which draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x)


def test_checkpointing_repeats_dropout() -> None:
    torch.manual_seed(0)
    chain = Chain(*[Coupling(*alternating(4, i % 2), _Noisy(), Affine()) for i in range(3)])
    x = torch.randn(32, 4)
    gradients, states = [], []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(chain)
        chain.zero_grad()
        torch.manual_seed(1)
        z, log_det = chain(x)
        (z.square().sum() - log_det.sum()).backward()
        gradients.append([p.grad.clone() for p in chain.parameters()])
        states.append(torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert torch.equal(*states)


def test_compiled_runs_set_their_normalization_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the eager backend, as one graph, with activation checkpointing: the weights of a plain run."""
    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(nn.Module.compile, fullgraph=True, backend="eager")
    )
    data = small_data((3,), None)
    flows = [Glow((3,), None, ADAM, steps=2, hidden=8, depth=1) for _ in range(2)]
    flows[1].load_state_dict(flows[0].state_dict())
    run(flows[0], data, tmp_path / "plain")
    run(flows[1], data, tmp_path / "compiled", Hardware(compile=True, checkpoint_activations=True))
    plain, compiled = final(tmp_path / "plain"), final(tmp_path / "compiled")
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, msg=name)


def test_the_trainer_has_the_switch(tmp_path: Path) -> None:
    data = small_data((1, 4, 4), 8)
    hardware = typed(Hardware, {"checkpoint_activations": True}, "trainer")
    model = new_model("glow", data.spec)
    run(model, data, tmp_path / "with", hardware)
    run(new_model("glow", data.spec), data, tmp_path / "without")
    assert all(module.checkpointing for module in model.modules() if isinstance(module, Chain))
    assert same(final(tmp_path / "with"), final(tmp_path / "without"))
    gan = new_model("dcgan", data.spec)  # nothing to checkpoint
    run(gan, data, tmp_path / "gan", hardware, examples=32)
