"""A training step of each GAN against the published losses and algorithms, written out by hand."""

import copy
from typing import Any

import pytest
import torch
from helpers_gans import SGD, Batches, dcgan, fit, gan, seeded, wgan, wgan_gp
from torch import Tensor
from torch.nn import functional

from models.gans.adversarial import Adversarial
from models.gans.objectives import OBJECTIVES


def replay_noise(model: Adversarial, seed: int, draws: int, size: int = 4) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(size, model.latent_dim, generator=generator) for _ in range(draws)]


def test_dcgan_step_equals_the_published_losses_by_hand() -> None:
    model = dcgan(optimizer=SGD)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)

    real = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1
    (z,) = replay_noise(model, 9, 1)
    g, d = reference.generator, reference.discriminator
    fake = g(z)
    loss_d = functional.binary_cross_entropy_with_logits(d(real), torch.ones(4))
    loss_d = loss_d + functional.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(4))
    d_parameters = list(d.parameters())
    with torch.no_grad():
        for p, gradient in zip(d_parameters, torch.autograd.grad(loss_d, d_parameters), strict=True):
            p.sub_(0.1 * gradient)
    loss_g = functional.binary_cross_entropy_with_logits(d(fake), torch.ones(4))
    g_parameters = list(g.parameters())
    with torch.no_grad():
        for p, gradient in zip(g_parameters, torch.autograd.grad(loss_g, g_parameters), strict=True):
            p.sub_(0.1 * gradient)
    for k, expected in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[k], expected, rtol=1e-5, atol=1e-6)
    output = recorder.outputs[0]
    torch.testing.assert_close(output["discriminator_loss"], loss_d.detach())
    torch.testing.assert_close(output["generator_loss"], loss_g.detach())
    assert torch.equal(output["loss"], output["discriminator_loss"])


def test_wgan_steps_equal_algorithm_1_by_hand() -> None:
    model = wgan(optimizer=SGD, clip=0.05, n_critic=2)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 2)

    noise = replay_noise(model, 9, 3)
    g, f = reference.generator, reference.discriminator
    f_parameters, g_parameters = list(f.parameters()), list(g.parameters())
    for step, (x, _) in enumerate(Batches(model, 0, 2)):
        wasserstein = f(x.float() / 127.5 - 1).mean() - f(g(noise[step]).detach()).mean()
        torch.testing.assert_close(recorder.outputs[step]["loss"], -wasserstein.detach(), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for p, gradient in zip(f_parameters, torch.autograd.grad(wasserstein, f_parameters), strict=True):
                p.add_(0.1 * gradient)
                p.clamp_(-0.05, 0.05)
    loss_g = -f(g(noise[2])).mean()
    torch.testing.assert_close(recorder.outputs[1]["generator_loss"], loss_g.detach(), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for p, gradient in zip(g_parameters, torch.autograd.grad(loss_g, g_parameters), strict=True):
            p.sub_(0.1 * gradient)
    for k, expected in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[k], expected, rtol=1e-4, atol=1e-6)


def test_penalized_steps_equal_algorithm_1_by_hand() -> None:
    model = wgan_gp(optimizer=SGD, n_critic=1, penalty=7.0)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)
    g, f, stream = reference.generator, reference.discriminator, seeded(9)
    x = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1
    fake = g(torch.randn(4, 6, generator=stream)).detach()
    mix = torch.rand(4, generator=stream)
    slopes = []
    for i in range(4):  # one example at a time: the norm is over all its entries
        between = (mix[i] * x[i] + (1 - mix[i]) * fake[i])[None].requires_grad_()
        slopes.append(torch.autograd.grad(f(between).sum(), between, create_graph=True)[0].flatten().norm())
    loss = f(fake).mean() - f(x).mean() + 7 * (torch.stack(slopes) - 1).square().mean()
    torch.testing.assert_close(recorder.outputs[0]["loss"], loss.detach())
    # The last bias is in no slope, and its gradient from real and generated examples cancels.
    parameters = list(f.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.detach().sub_(0.1 * gradient)
    for key, expected in f.named_parameters():
        torch.testing.assert_close(dict(model.discriminator.named_parameters())[key], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        expected = -f(g(torch.randn(4, 6, generator=stream))).mean()
    torch.testing.assert_close(recorder.outputs[0]["generator_loss"], expected, rtol=1e-4, atol=1e-6)


def test_a_packed_conditional_step_equals_the_losses_by_hand() -> None:
    model = dcgan(optimizer=SGD, packing=2, classes=3, conditional=True)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)

    batch, y = next(iter(Batches(model, 0, 1)))
    assert y is not None
    assert y.tolist() == [0, 1, 2, 0]
    (z,) = replay_noise(model, 9, 1)
    hot = functional.one_hot(y, 3).float()
    maps = hot[:, :, None, None].expand(4, 3, 8, 8)

    def pairs(x: Tensor) -> Tensor:
        first, second = torch.cat([x[0::2], x[1::2]], 1), torch.cat([maps[0::2], maps[1::2]], 1)
        return torch.cat([first, second], 1)

    fake = reference.generator(torch.cat([z, hot], 1))
    on_real, on_fake = (reference.discriminator(pairs(x)) for x in (batch.float() / 127.5 - 1, fake))
    expected = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
    torch.testing.assert_close(recorder.outputs[0]["discriminator_loss"], expected.detach())
    assert model.class_counts.tolist() == [2, 1, 1]


@pytest.mark.parametrize("objective", ["saturating", "non_saturating", "least_squares", "hinge", "wasserstein"])
def test_the_objective_is_what_both_networks_minimize(objective: Any) -> None:
    model = gan(objective=objective, optimizer=SGD)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)
    real, z = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1, replay_noise(model, 9, 2)
    pair, f, g = OBJECTIVES[objective], reference.discriminator, reference.generator
    loss = pair.discriminator(f(real), f(g(z[0]).detach()))
    torch.testing.assert_close(recorder.outputs[0]["loss"], loss.detach())
    with torch.no_grad():
        for p, gradient in zip(f.parameters(), torch.autograd.grad(loss, list(f.parameters())), strict=True):
            p.sub_(0.1 * gradient)
    torch.testing.assert_close(recorder.outputs[0]["generator_loss"], pair.generator(f(g(z[1]))).detach())
