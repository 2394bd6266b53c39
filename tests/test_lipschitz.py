"""Lipschitz layers and networks, held to the singular values of the whole map."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import few, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.autograd.functional import jacobian

from bench.training.ema import EMA
from models.nn.lipschitz import (
    CLipSwish,
    LipschitzConv2d,
    LipschitzDenseNet,
    LipschitzLayer,
    LipschitzLinear,
    LipSwish,
    WeightedConcat,
    lipschitz_convnet,
    lipschitz_mlp,
    tighten,
)

# What is left of the error of sigma when a layer goes to evaluation.
SLACK = 1e-3

pytestmark = pytest.mark.usefixtures("fixed_seed")


def operator_norm(f: Callable[[Tensor], Tensor], *shape: int) -> float:
    """Largest singular value of a map's whole Jacobian, at a random point."""
    matrix = jacobian(lambda x: f(x[None])[0].flatten(), normal(*shape)).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


def ready(module: nn.Module, std: float | None = None) -> nn.Module:
    """In float64, with random parameters of a scale, as it is evaluated."""
    if std is not None:
        randomize(module, std)
    return module.double().train().eval()


@few
@given(n_in=st.integers(1, 9), n_out=st.integers(1, 9), std=st.sampled_from([0.01, 1.0, 10.0]))
def test_linear_maps_are_scaled_to_the_coefficient(n_in: int, n_out: int, std: float) -> None:
    layer = ready(LipschitzLinear(n_in, n_out, coefficient=0.9), std)
    assert isinstance(layer, LipschitzLinear)
    before = torch.linalg.matrix_norm(layer.weight, 2).item()
    norm = operator_norm(layer, n_in)
    assert norm == pytest.approx(min(before, 0.9), rel=SLACK)
    assert norm <= 0.9 * (1 + SLACK)
    if before < 0.9:
        assert torch.equal(layer.normalized_weight(), layer.weight), "what is small enough is left alone"


@few
@given(
    n_in=st.integers(1, 3), n_out=st.integers(1, 3), height=st.integers(1, 5), width=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]), std=st.sampled_from([0.01, 1.0, 10.0]),
)  # fmt: skip
def test_convolutions_are_held_by_the_norm_of_the_whole_map(
    n_in: int, n_out: int, height: int, width: int, kernel: int, std: float
) -> None:
    shape = (n_in, height, width)
    layer = ready(LipschitzConv2d(shape, n_out, kernel=kernel, coefficient=0.9), std)
    assert isinstance(layer, LipschitzConv2d)
    before = operator_norm(lambda x: nn.functional.conv2d(x, layer.weight, padding=kernel // 2), *shape)
    norm = operator_norm(layer, *shape)
    assert norm == pytest.approx(min(before, 0.9), rel=SLACK)
    x, y = normal(1, *shape), normal(1, n_out, height, width, seed=1)
    forward, backward = (layer._map(layer.weight, x) * y).sum(), (layer._adjoint(layer.weight, y) * x).sum()
    torch.testing.assert_close(forward, backward)


def test_the_norm_of_the_reshaped_kernel_would_be_too_small() -> None:
    layer = LipschitzConv2d((1, 12, 12), 1, kernel=3, coefficient=0.9)
    with torch.no_grad():
        layer.weight.fill_(0.3)
    reshaped = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()  # 0.9: it would be left as it is
    assert operator_norm(ready(layer), 1, 12, 12) == pytest.approx(0.9, rel=SLACK)
    assert operator_norm(lambda x: nn.functional.conv2d(x, layer.weight, padding=1), 1, 12, 12) > 2.5 * reshaped


def test_the_gradient_knows_that_the_norm_depends_on_the_weight() -> None:
    layer = ready(LipschitzLinear(4, 3, coefficient=0.9), 2.0)
    assert isinstance(layer, LipschitzLinear)
    layer.tighten(1e-15)
    direction = normal(3, 4, seed=1)
    (ours,) = torch.autograd.grad((layer.normalized_weight() * direction).sum(), layer.weight)
    exact = 0.9 * layer.weight / torch.linalg.matrix_norm(layer.weight, 2)
    (expected,) = torch.autograd.grad((exact * direction).sum(), layer.weight)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def slopes(activation: nn.Module) -> Tensor:
    """Norms of the derivative of an activation of one variable, on a fine grid."""
    x = torch.linspace(-100, 100, 100_001, dtype=torch.float64)[:, None].requires_grad_()
    outputs = activation(x).unbind(1)
    return torch.cat([torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in outputs], 1).norm(dim=1)


@pytest.mark.parametrize("raw_beta", [-3.0, 0.5, 4.0])
@pytest.mark.parametrize("activation", [LipSwish, CLipSwish, nn.ELU])
def test_activations_have_slopes_of_at_most_one(activation: type[nn.Module], raw_beta: float) -> None:
    made = activation().double()
    for parameter in made.parameters():
        nn.init.constant_(parameter, raw_beta)
    steepest = slopes(made).max().item()
    assert 0.999 < steepest <= 1, "and no more is given away than it takes"


def test_clipswish_is_lipswish_of_both_signs() -> None:
    x = normal(3, 2)
    activation = CLipSwish().double()
    swish = x * torch.sigmoid(math.log1p(math.exp(0.5)) * x) / 1.1
    torch.testing.assert_close(activation.swish(x), swish)
    assert activation(x).shape == (3, 4)
    torch.testing.assert_close(activation(x)[:, :2], swish / 1.004)
    torch.testing.assert_close(activation(x)[:, 2:], activation(-x)[:, :2])


@few
@given(first=st.floats(-4, 4), second=st.floats(-4, 4))
def test_concatenations_are_no_steeper_than_the_steeper_part(first: float, second: float) -> None:
    concat = WeightedConcat().double()
    concat.raw.data.copy_(torch.tensor([first, second], dtype=torch.float64))
    norm = operator_norm(lambda x: concat(x, 0.5 * x), 3)
    eta = nn.functional.softplus(torch.tensor([first, second], dtype=torch.float64))
    expected = (eta[0] ** 2 + 0.25 * eta[1] ** 2).sqrt() / eta.norm()
    assert norm == pytest.approx(expected.item(), rel=1e-9)
    assert 0.5 <= norm <= 1


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "mlp": (lambda: lipschitz_mlp(3, hidden=8, depth=2, activation=LipSwish, coefficient=0.95), (3,), 0.95**3),
    "one variable": (lambda: lipschitz_mlp(1, hidden=4, depth=1, activation=nn.ELU, coefficient=0.9), (1,), 0.81),
    "convnet": (
        lambda: lipschitz_convnet((2, 3, 4), channels=4, activation=LipSwish, coefficient=0.95, activation_first=True),
        (2, 3, 4),
        0.95**3,
    ),
    "dense vectors": (lambda: LipschitzDenseNet((3,), growth=6, depth=3, coefficient=0.95), (3,), 0.95),
    "dense images": (lambda: LipschitzDenseNet((2, 3, 4), growth=4, depth=2, coefficient=0.95), (2, 3, 4), 0.95),
}


@pytest.mark.parametrize("std", [0.3, 10.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_their_bound_at_any_scale_of_their_parameters(name: str, std: float) -> None:
    make, shape, bound = NETWORKS[name]
    network = ready(make(), std)
    jacobians = [operator_norm(lambda x, s=scale: network(s * x), *shape) / scale for scale in (0.01, 0.3, 1.0, 5.0)]
    assert max(jacobians) <= bound * (1 + SLACK)
    assert network(normal(2, *shape)).shape == (2, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_contractive_while_they_are_trained(name: str) -> None:
    """In training to a few percent, in evaluation for certain."""
    make, shape, bound = NETWORKS[name]
    network = make().double()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    layers = [layer for layer in network.modules() if isinstance(layer, LipschitzLayer)]
    excess: list[float] = []
    for step in range(40):
        tighten(network)
        for layer in layers:
            norm = operator_norm(lambda x, of=layer: of._map(of.normalized_weight(), x), *layer.v.shape[1:])
            excess.append(norm / layer.coefficient - 1)
        optimizer.zero_grad()
        x = normal(16, *shape, seed=step)
        (network(x) + 3 * x).square().mean().backward()  # asks for a slope of -3
        optimizer.step()
    raw = [operator_norm(lambda x, of=layer: of._map(of.weight, x), *layer.v.shape[1:]) for layer in layers]
    assert max(raw) > 1.2, "the bound was needed"
    assert sorted(excess)[len(excess) // 2] < 0.005
    assert sum(excess) / len(excess) < 0.03
    network.eval()
    for layer in layers:
        norm = operator_norm(lambda x, of=layer: of._map(of.normalized_weight(), x), *layer.v.shape[1:])
        assert norm < layer.coefficient * (1 + SLACK) < 1
    assert operator_norm(network, *shape) <= bound * (1 + SLACK)


def test_the_vectors_of_the_power_iteration_are_saved() -> None:
    network = ready(NETWORKS["mlp"][0](), 2.0)
    other = NETWORKS["mlp"][0]().double()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(normal(4, 3)), network(normal(4, 3)))
    assert {"0.u", "0.v"} <= set(network.state_dict())
    before = copy.deepcopy(network.state_dict())
    network.eval()  # it is there already: nothing moves
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def trained(network: nn.Module, steps: int, validate: bool) -> dict[str, Tensor]:
    """Random steps, with or without a look at the network in evaluation after each."""
    g = Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=g, dtype=parameter.dtype))
        tighten(network)
        if validate:
            network.eval()
            network.train()
    return network.state_dict()


def test_validation_changes_nothing_in_training() -> None:
    network = NETWORKS["mlp"][0]().double()
    once, often = (trained(copy.deepcopy(network), 5, validate) for validate in (False, True))
    assert all(torch.equal(once[key], value) for key, value in often.items())


def test_what_is_loaded_for_evaluation_is_held_as_tightly() -> None:
    """Of weights that grew fast, one round of power iterations knows too little."""
    network = NETWORKS["mlp"][0]().double()
    state = trained(network, 5, validate=False)
    one, other = NETWORKS["mlp"][0]().double().eval(), NETWORKS["mlp"][0]().double()
    one.load_state_dict(state)
    other.load_state_dict(state)
    other.eval()
    torch.testing.assert_close(one(normal(4, 3)), other(normal(4, 3)), rtol=0, atol=0)


def test_averaged_weights_get_norms_of_their_own() -> None:
    network = NETWORKS["mlp"][0]().double()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    average = EMA(network, [optimizer], 0.9)
    g = Generator().manual_seed(0)
    for _ in range(5):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        optimizer.step()
        tighten(network)
    with average.swapped_in():
        stale = operator_norm(network, 3)
        network.eval()
        for layer in (m for m in network if isinstance(m, LipschitzLinear)):
            assert operator_norm(lambda x, of=layer: x @ of.normalized_weight().T, layer.weight.shape[1]) < 0.951
        assert stale != operator_norm(network, 3)


def test_a_weight_of_zeros_comes_back() -> None:
    layer = LipschitzLinear(3, 2, coefficient=0.9)
    with torch.no_grad():
        layer.weight.zero_()
        layer.tighten(1e-3)
        assert torch.equal(layer.normalized_weight(), torch.zeros(2, 3))
        layer.weight.normal_(std=5.0)
    assert operator_norm(ready(layer), 3) == pytest.approx(0.9, rel=SLACK)


def test_normalization_stays_float32_under_autocast() -> None:
    layer = LipschitzConv2d((2, 4, 4), 3, kernel=3, coefficient=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.train().eval()
        assert layer.normalized_weight().dtype == torch.float32
        x = torch.randn(1, 2, 4, 4)
        assert layer._map(layer.weight, x).dtype == torch.bfloat16
    matrix = jacobian(lambda x: layer(x[None])[0].flatten(), x[0]).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() <= 0.5 * (1 + SLACK)


def test_mistakes_are_refused() -> None:
    for mistake in (
        lambda: LipschitzLinear(2, 2, coefficient=1.0),
        lambda: LipschitzLinear(2, 2, coefficient=0.0),
        lambda: LipschitzConv2d((1, 3, 3), 1, kernel=2, coefficient=0.9),
        lambda: LipschitzDenseNet((2,), growth=3, depth=1, coefficient=0.9),
        lambda: LipschitzDenseNet((2,), growth=0, depth=1, coefficient=0.9),
    ):
        with pytest.raises(ValueError, match=r"."):
            mistake()
