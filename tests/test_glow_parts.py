"""The parts of Glow: the sigmoid scale, the scale of levels, conditioners that start at zero, conditional priors."""

import math

import pytest
import torch
from helpers_density import randomize
from helpers_glow import settle
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn
from torch.distributions import Normal
from torch.nn import functional

from models.nn.convnet import ConvNet, ZeroConv
from models.transforms.base import Chain
from models.transforms.coupling import Coupling, halves
from models.transforms.elementwise import Elementwise
from models.transforms.linear import Conv1x1
from models.transforms.multiscale import MultiScale
from models.transforms.scale import Scale
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine, SigmoidAffine


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
