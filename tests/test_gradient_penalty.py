"""The gradient penalty against finite differences, and what spectral normalization reaches."""

import functools
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from models.gans.penalty import gradient_penalty
from models.gans.wgan_gp import WGANGP
from models.nn import sngan

ADAM = functools.partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.9))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def draws(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Real and generated examples, and how they are mixed."""
    stream = seeded(3)
    real, fake = (torch.randn(*shape, generator=stream, dtype=torch.float64) for _ in range(2))
    return real, fake, torch.rand(shape[0], generator=stream, dtype=torch.float64)


def network(*layers: nn.Module) -> nn.Sequential:
    for i, parameter in enumerate(parameter for layer in layers for parameter in layer.parameters()):
        nn.init.normal_(parameter, 0, 0.7, generator=seeded(i))
    return nn.Sequential(*layers).double()


def smooth() -> nn.Sequential:
    return network(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0))


def pictures() -> nn.Sequential:
    """The critic of a WGAN-GP on images; leaky ReLU has slopes, and no curvature."""
    torch.manual_seed(0)
    critic = WGANGP((2, 8, 8), None, ADAM, ADAM, width=3).discriminator.double()
    assert isinstance(critic, nn.Sequential)
    for i, parameter in enumerate(critic.parameters()):
        nn.init.normal_(parameter, 0, 0.3, generator=seeded(i))
    return critic


CRITICS = {"smooth": (smooth, (4, 3)), "pictures": (pictures, (3, 2, 8, 8))}


def by_differences(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor, h: float = 1e-6) -> float:
    """The penalty with slopes by central differences in every entry."""
    total = 0.0
    for x, y, weight in zip(real, fake, mix, strict=True):
        between = (weight * x + (1 - weight) * y).flatten()
        steps = h * torch.eye(len(between), dtype=torch.float64)
        with torch.no_grad():
            above, below = (critic((between + sign * steps).view(-1, *x.shape)) for sign in (1, -1))
        total += (float(((above - below) / (2 * h)).norm()) - 1) ** 2
    return total / len(real)


@pytest.mark.parametrize("name", list(CRITICS))
def test_the_penalty_is_that_of_finite_differences(name: str) -> None:
    make, shape = CRITICS[name]
    critic, (real, fake, mix) = make(), draws(*shape)
    expected = by_differences(critic, real, fake, mix)
    assert expected > 0.01
    assert gradient_penalty(critic, real, fake, mix).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", list(CRITICS))
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    make, shape = CRITICS[name]
    critic, inputs = make(), draws(*shape)
    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(gradient_penalty(critic, *inputs), parameters, allow_unused=True)
    assert gradients[-1] is None, "no slope depends on the last bias"
    h, checked = 1e-6, 0
    for parameter, gradient in zip(parameters[:-1], gradients, strict=False):
        # Of leaky ReLU networks no slope depends on any bias, as long as no unit changes sides.
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        places = torch.randperm(parameter.numel(), generator=seeded(1))[:12].tolist()
        for place in places:
            entry = parameter.data.view(-1)[place : place + 1]
            values = []
            for step in (h, -2 * h):
                entry += step
                values.append(gradient_penalty(critic, *inputs).item())
            entry += h
            slope = (values[0] - values[1]) / (2 * h)
            assert float(expected.flatten()[place]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
            checked += abs(slope) > 1e-3
    assert checked > 20


def test_the_norm_is_over_all_entries_of_a_picture() -> None:
    """f(x) = the sum of all entries, of slope sqrt(D). A norm for each row or channel would say something else."""
    real, fake, mix = draws(2, 2, 3, 5)
    penalty = gradient_penalty(lambda x: x.flatten(1).sum(1), real, fake, mix)
    assert penalty.item() == pytest.approx((30**0.5 - 1) ** 2, rel=1e-12)


def test_a_critic_without_slope_has_a_finite_gradient() -> None:
    critic = smooth()
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    penalty = gradient_penalty(critic, *draws(4, 3))
    assert penalty.item() == 1
    found = torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in found if gradient is not None)


def test_it_is_in_float32_also_under_autocast() -> None:
    critic, inputs = smooth().float(), [x.float() for x in draws(4, 3)]
    plain = gradient_penalty(critic, *inputs)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(inputs[0]).dtype == torch.bfloat16
        cast = gradient_penalty(critic, *inputs)  # type: ignore[arg-type]
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_a_compiled_critic_is_differentiated_twice() -> None:
    """torch.compile does not differentiate twice, so the penalty goes around it."""

    class Critic(nn.Module):  # torch compiles no nn.Sequential, whose forward is its own code
        def __init__(self, layers: nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    torch.manual_seed(0)
    model = WGANGP((3,), None, ADAM, ADAM, width=2)
    model.discriminator = Critic(model.discriminator)
    real, fake = torch.randn(4, 3), torch.randn(4, 3)

    def gradients() -> list[Tensor]:
        model.train_generator = seeded(0)
        parameters = list(model.discriminator.parameters())[:-1]
        return list(torch.autograd.grad(model._gradient_penalty(real, fake, None), parameters, allow_unused=True))

    expected = gradients()
    compiled: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    model.discriminator.compile(backend=backend)
    found = gradients()
    assert not compiled
    model.discriminator(real)
    assert compiled
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found)
    assert all(a is b or (a is not None and torch.equal(a, b)) for a, b in zip(expected, found, strict=True))


# Spectral normalization


@pytest.mark.parametrize("shape", [(2, 8, 8), (5,)])
def test_layers_reach_singular_value_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    discriminator = sngan.discriminator_network(shape, 4)
    layers = [layer for layer in discriminator if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == 4
    with torch.no_grad():
        for layer in layers:
            layer.parametrizations.weight.original.mul_(3)
    plain = [layer.parametrizations.weight.original.detach().flatten(1) for layer in layers]
    assert all(abs(float(torch.linalg.svdvals(weight)[0]) - 1) > 0.1 for weight in plain)
    with torch.no_grad():
        for _ in range(300):
            discriminator(torch.randn(2, *shape))
    discriminator.eval()
    for layer, weight in zip(layers, plain, strict=True):
        normalized = layer.weight.detach().flatten(1)
        assert float(torch.linalg.svdvals(normalized)[0]) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(normalized, weight / torch.linalg.svdvals(weight)[0], rtol=1e-3, atol=1e-5)


def test_power_iterations_are_buffers_that_evaluation_leaves_alone() -> None:
    torch.manual_seed(0)
    discriminator, x = sngan.discriminator_network((1, 8, 8), 4), torch.randn(3, 1, 8, 8)
    vectors = {name: value for name, value in discriminator.named_buffers() if name[-2:] in ("_u", "_v")}
    assert len(vectors) == 8
    assert set(vectors) <= set(discriminator.state_dict())
    before = {name: value.clone() for name, value in vectors.items()}
    discriminator.eval()
    assert torch.equal(discriminator(x), discriminator(x))
    assert all(torch.equal(value, before[name]) for name, value in discriminator.named_buffers())
    discriminator.train()
    discriminator(x)
    assert any(not torch.equal(value, before[name]) for name, value in discriminator.named_buffers())


def test_the_standard_cnn_is_that_of_the_paper() -> None:
    generator = sngan.generator_network((3, 32, 32), 128, 64, bounded=True)
    discriminator = sngan.discriminator_network((3, 32, 32), 64)
    ups = [(m.in_channels, m.out_channels) for m in generator if isinstance(m, nn.ConvTranspose2d)]
    assert ups == [(512, 256), (256, 128), (128, 64)]
    convolutions = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in discriminator if isinstance(m, nn.Conv2d)]
    assert convolutions == [(64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2), (512, 3, 1)]
    assert all(m.negative_slope == 0.1 for m in discriminator if isinstance(m, nn.LeakyReLU))
    assert discriminator(generator(torch.randn(2, 128))).shape == (2,)
