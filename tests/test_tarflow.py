"""TarFlow: strictly causal networks, sampling with kept keys and values, densities that integrate to 1."""

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
from torch.autograd.functional import jacobian
from torch.utils.flop_counter import FlopCounterMode

from models.flows.tarflow import TarFlow
from models.nn.causal_transformer import CausalTransformer
from models.transforms.logistic_mixture import LogisticMixtureCDF
from models.transforms.permute import Permute
from models.transforms.sequence import Patches, TokenAutoregressive
from models.transforms.univariate import Affine

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SHAPES = [((1,), None), ((3,), None), ((2, 4, 4), None), ((1,), 4), ((3,), 4), ((1, 5, 7), 4), ((3, 8, 8), 32)]


def transformer(length: int, n_in: int, n_out: int, n_context: int = 0, layers: int = 2) -> CausalTransformer:
    return CausalTransformer(n_in, n_out, length, channels=8, layers=layers, heads=2, n_context=n_context)


def layer(length: int, n_in: int, n_context: int = 0) -> TokenAutoregressive:
    return TokenAutoregressive(transformer(length, n_in, 2 * n_in, n_context), Affine())


def small(shape: tuple[int, ...], levels: int | None, classes: int | None = None, **sizes: int) -> TarFlow:
    sizes = {"patch": 2, "blocks": 2, "layers": 1, "channels": 8, "heads": 2, **sizes}
    return TarFlow(shape, levels, ADAM, **sizes, classes=classes, conditional=classes is not None)  # type: ignore[arg-type]


def naive_inverse(transform: TokenAutoregressive, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Token after token, with the whole network at each: what ``inverse`` must equal."""
    x = torch.zeros_like(z)
    for i in range(z.shape[1]):
        parameters = transform.network(x, context).unflatten(2, (2, -1)).transpose(1, 2)
        x = x.clone()
        x[:, i] = transform.univariate.inverse(z, parameters)[0][:, i]
    return x


@pytest.mark.parametrize(("length", "size"), [(1, 3), (2, 1), (5, 2)])
def test_outputs_depend_on_earlier_tokens_alone_and_on_all_of_them(length: int, size: int) -> None:
    network = transformer(length, size, 3)
    randomize(network, 0.5)
    network.double()
    x = normal(length, size)
    matrix = jacobian(lambda e: network(e[None])[0].sum(1), x)  # (T outputs, T tokens, size)
    later = torch.ones(length, length).triu().bool()
    assert matrix[later].abs().sum() == 0
    assert (matrix[~later].abs() > 0).all()


def test_jacobian_of_the_transform_is_block_triangular_with_diagonal_blocks() -> None:
    transform = prepared(layer(4, 2))
    matrix = jacobian(lambda e: transform(e[None])[0][0], normal(4, 2))  # (T, G, T, G)
    for i in range(4):
        for j in range(4):
            block = matrix[i, :, j]
            if j > i:
                assert block.abs().max() == 0
            elif j == i:
                assert torch.equal(block, block.diagonal().diag())
                assert (block.diagonal() > 0).all()
            else:
                assert block.abs().min() > 0


@few
@given(length=st.integers(1, 5), size=st.integers(1, 3), n_context=st.sampled_from([0, 2]))
def test_token_autoregressive(length: int, size: int, n_context: int) -> None:
    transform = prepared(layer(length, size, n_context))
    context = normal(2, n_context, seed=3) if n_context else None
    check_bijection(transform, normal(2, length, size), context=context, inverse_tolerance=1e-9)


def test_token_autoregressive_of_a_mixture() -> None:
    law = LogisticMixtureCDF(3)
    transform = TokenAutoregressive(transformer(3, 2, law.n_parameters * 2), law)
    check_bijection(prepared(transform, 0.3), normal(2, 3, 2), inverse_tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_context", [0, 3])
def test_inverse_with_kept_keys_equals_the_naive_one(n_context: int, dtype: torch.dtype) -> None:
    network = CausalTransformer(4, 8, 12, channels=16, layers=3, heads=4, n_context=n_context)
    transform = TokenAutoregressive(network, Affine()).to(dtype)
    randomize(transform, 0.2)
    z = normal(6, 12, 4).to(dtype)
    context = normal(6, n_context, seed=1).to(dtype) if n_context else None
    with torch.no_grad():
        x, log_det = transform.inverse(z, context=context)
        expected = naive_inverse(transform, z, context)
        forward = transform(expected, context=context)[1]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    assert (x - z).abs().max() > 1
    torch.testing.assert_close(x, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(log_det, -forward, rtol=tolerance, atol=10 * tolerance)


def test_inverse_costs_the_arithmetic_of_one_pass() -> None:
    network = CausalTransformer(4, 8, 16, channels=16, layers=2, heads=2)
    transform = TokenAutoregressive(network, Affine())
    x = torch.randn(3, 16, 4, generator=Generator().manual_seed(0))
    flops = []
    for work in (lambda: transform(x), lambda: transform.inverse(x), lambda: naive_inverse(transform, x)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        flops.append(counter.get_total_flops())
    forward, inverse, naive = flops
    assert inverse <= 1.01 * forward
    assert naive == 16 * forward


def test_inverse_is_differentiable() -> None:
    transform = prepared(layer(3, 2))
    z = normal(1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: transform.inverse(e), (z,))
    x, _ = transform.inverse(z)
    by_inverse = jacobian(lambda e: transform.inverse(e)[0], z.detach()).reshape(6, 6)
    by_forward = jacobian(lambda e: transform(e)[0], x.detach()).reshape(6, 6)
    torch.testing.assert_close(by_inverse @ by_forward, torch.eye(6).double())


def test_parameters_stand_one_after_another() -> None:
    """Of a token's outputs the first G are shifts and the rest log-scales, each in the order of the entries."""
    transform = layer(1, 3)
    with torch.no_grad():
        transform.network.last[1].bias.copy_(torch.tensor([1.0, 2.0, 3.0, 0.1, 0.2, 0.3]))
    z, log_det = transform(torch.ones(1, 1, 3))
    scales = 2 * (torch.tensor([0.1, 0.2, 0.3]) / 2).tanh()
    torch.testing.assert_close(z[0, 0], scales.exp() + torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(log_det[0], scales.sum())


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [((2, 4, 6), (2, 3), (4, 12)), ((3, 2, 2), (1, 1), (4, 3)), ((6,), (1, 2), (3, 2)), ((1,), (1, 1), (1, 1))],
)
def test_patches(shape: tuple[int, ...], patch: tuple[int, int], expected: tuple[int, int]) -> None:
    patches = Patches(shape, patch)
    assert patches.output_shape(shape) == expected
    check_bijection(patches, normal(2, *shape))


def test_patches_hold_neighbours() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    z, _ = Patches((1, 4, 6), (2, 3))(x)
    assert z[0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]


def test_networks_start_as_zero_and_treat_examples_alone() -> None:
    network = transformer(4, 2, 6, n_context=3)
    x, context = normal(5, 4, 2).float(), normal(5, 3, seed=1).float()
    assert torch.equal(network(x, context), torch.zeros(5, 4, 6))
    randomize(network, 0.3)
    y = network(x, context)
    torch.testing.assert_close(network(x[:1], context[:1]), y[:1])
    assert (network(x, -context) != y).all()
    with pytest.raises(ValueError, match="context"):
        network(x)
    with pytest.raises(ValueError, match="context"):
        network.generate(lambda i, output: output[:, :2], 5)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_density_of_one_variable_integrates_to_one(shape: tuple[int, ...]) -> None:
    flow = small(shape, None)
    randomize(flow, 0.5)
    assert quadrature(flow.double(), half_width=60, points=20_000) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("shape", "std", "half_width"), [((2,), 0.3, 12), ((2,), 0.4, 20), ((1, 1, 2), 0.4, 20), ((1, 2, 1), 0.4, 20)]
)
def test_density_of_two_variables_integrates_to_one(shape: tuple[int, ...], std: float, half_width: float) -> None:
    for seed in (0, 1):
        flow = small(shape, None, patch=1, channels=4)
        randomize(flow, std, seed)
        flow.double()
        x = flow.sample(20_000, generator=Generator().manual_seed(0)).double()
        assert (x.std(0) - 1).abs().max() > 0.1
        assert x.abs().max() < half_width
        assert quadrature(flow, half_width=half_width, points=300) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(2,), (1, 1, 2)])
def test_mass_outside_of_the_data_is_lost_and_never_gained(shape: tuple[int, ...]) -> None:
    # At its start the flow is the identity: 2y - 1 is standard normal, within [-1, 1] with probability 0.683 each.
    flow = small(shape, 4)
    mass, stderr = discrete_mass(flow, draws=4000)
    assert mass == pytest.approx(math.erf(1 / math.sqrt(2)) ** 2, abs=4 * stderr)
    randomize(flow, 0.3)
    z = torch.randn(20_000, 2, generator=Generator().manual_seed(1))
    with torch.no_grad():
        x = z
        for part in reversed(list(flow.transform.children().__next__())[2:]):  # without the scale and the levels
            x = part.inverse(x)[0]
    inside = (x.flatten(1).abs() < 1).all(1).float().mean().item()
    mass, stderr = discrete_mass(flow, draws=4000)
    assert 0.05 < inside < 0.95
    assert mass == pytest.approx(inside, abs=4 * (stderr + math.sqrt(inside * (1 - inside) / 20_000)))


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_codes_are_exact_and_samples_are_data(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 0.15)
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


def test_directions_alternate_and_every_variable_reaches_the_density() -> None:
    flow = small((1, 4, 4), None, blocks=3)
    body = list(flow.transform.children().__next__())
    assert [type(part) for part in body[1:-1]] == [TokenAutoregressive, Permute] * 2 + [TokenAutoregressive]
    assert all(m.order.tolist() == [3, 2, 1, 0] for m in body if isinstance(m, Permute))
    randomize(flow, 0.3)
    x = torch.randn(2, 1, 4, 4, generator=Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(flow.log_weight(x).sum(), x)
    assert (gradient != 0).all()
    # With two blocks every latent depends on every pixel but those of its own patch, which it sees at their place.
    matrix = jacobian(lambda e: flow.transform(e[None])[0][0], x[0].detach()).reshape(16, 16)
    assert (matrix != 0).float().mean() > 0.8


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((1, 28, 28), {"patch": 4}, (49, 16)),
        ((3, 32, 32), {"patch": 4}, (64, 48)),
        ((1, 6, 10), {"patch": 4}, (10, 6)),
        ((1, 5, 7), {"patch": 4}, (35, 1)),
        ((6,), {"group": 1}, (6, 1)),
        ((6,), {"group": 4}, (2, 3)),
    ],
)
def test_patches_follow_from_the_shape(
    shape: tuple[int, ...], sizes: dict[str, int], expected: tuple[int, int]
) -> None:
    flow = small(shape, None, **sizes)
    [network, _] = [m for m in flow.modules() if isinstance(m, CausalTransformer)]
    assert (network.length, network.n_in) == expected


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 8, 8), 256)])
def test_large_parameters_give_no_nan(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 10)
    log_w = flow.log_weight(examples(shape, levels, 64), generator=Generator().manual_seed(0))
    assert log_w.isfinite().all()
    log_w.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    assert not flow.sample(64, generator=Generator().manual_seed(0)).isnan().any()


def test_under_autocast_transforms_stay_float32() -> None:
    transform = layer(5, 3)
    randomize(transform, 0.3)
    x = normal(4, 5, 3).float()
    seen: list[torch.dtype] = []
    transform.network.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    z, _ = transform(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = transform(x)
        back, back_log_det = transform.inverse(z)
    assert seen == [torch.float32, torch.bfloat16]
    assert z16.dtype == log_det16.dtype == back.dtype == back_log_det.dtype == torch.float32
    torch.testing.assert_close(z16, z, rtol=0.1, atol=0.1)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)  # generation is in full precision


@pytest.mark.parametrize(("shape", "levels"), [((1,), None), ((3,), 4), ((1, 8, 8), 8)])
def test_a_conditional_flow_is_a_mixture_over_its_classes(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels, classes=3)
    randomize(flow, 0.2)
    x = examples(shape, levels, 6)
    joint = flow.class_log_weights(x, generator=Generator().manual_seed(0))
    assert (joint[:, 0] != joint[:, 1]).all()
    torch.testing.assert_close(flow.log_weight(x, generator=Generator().manual_seed(0)), joint.logsumexp(1))
    back = flow.decode(flow.encode(x, generator=Generator().manual_seed(0)))
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    flow.training_step((x, torch.arange(6) % 3), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_a_conditional_flow_integrates_to_one_within_each_class() -> None:
    flow = small((1,), None, classes=3)
    randomize(flow, 0.5)
    flow.double()
    x = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) * 60 / 10_000 - 60
    masses = flow.class_log_weights(x).exp().sum(0) * 60 / 10_000
    torch.testing.assert_close(masses, flow.class_logits.softmax(0))


def test_training_finds_a_known_density() -> None:
    """A rotated and scaled normal, of which the best loss is the entropy."""
    torch.manual_seed(0)
    cholesky = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    generator = Generator().manual_seed(0)
    flow = TarFlow((2,), None, functools.partial(torch.optim.Adam, lr=3e-3), blocks=2, layers=1, channels=16, heads=2)
    optimizer = flow.configure_optimizers()
    for step in range(250):
        optimizer.zero_grad()
        flow.training_step((torch.randn(256, 2, generator=generator) @ cholesky.T, None), step).backward()
        optimizer.step()
    with torch.no_grad():
        loss = flow.training_step((torch.randn(20_000, 2, generator=generator) @ cholesky.T, None), 0).item()
    assert loss == pytest.approx(1 + math.log(2 * math.pi), abs=0.05)
    samples = flow.sample(20_000, generator=generator)
    torch.testing.assert_close(samples.T.cov(), cholesky @ cholesky.T, rtol=0.15, atol=0.15)


def test_its_yaml_makes_it_and_mistakes_are_refused() -> None:
    flow = instantiate(OmegaConf.load(MODELS / "tarflow.yaml"), shape=[1, 28, 28], levels=256)
    assert isinstance(flow, TarFlow)
    assert sum(isinstance(m, TokenAutoregressive) for m in flow.modules()) == 4
    assert isinstance(flow.configure_optimizers(), torch.optim.AdamW)
    for mistake, message in (
        (lambda: TarFlow((3, 4), None, ADAM), "vectors"),
        (lambda: TarFlow((2,), None, ADAM, conditional=True), "class labels"),
        (lambda: TarFlow((2,), None, ADAM, blocks=0), "at least 1"),
        (lambda: TarFlow((2,), None, ADAM, channels=8, heads=3), "heads"),
        (lambda: Patches((1, 5, 4), (2, 2)), "tile"),
        (lambda: Patches((1, 4, 4), (2, 2)).output_shape((16,)), "shape"),
        (lambda: TokenAutoregressive(transformer(2, 2, 3), Affine()), "parameters"),
        (lambda: layer(2, 2).output_shape((4,)), "sequences"),
    ):
        with pytest.raises(ValueError, match=message):
            mistake()
