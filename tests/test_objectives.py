"""Adversarial objectives: closed forms, gradients and the divergences that they estimate."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models.gans.objectives import (
    OBJECTIVES,
    hinge_discriminator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    minimax_discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    objective_named,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)

few = settings(max_examples=50, deadline=None, derandomize=True)
# torch's softplus is the identity beyond 20, which is off by exp(-20) = 2e-9.
SOFTPLUS = {"rtol": 1e-12, "atol": 3e-9}
outputs = st.lists(st.floats(-30, 30), min_size=1, max_size=7).map(lambda v: torch.tensor(v, dtype=torch.float64))


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x)[0]


@few
@given(outputs, outputs)
def test_minimax_is_the_cross_entropy_of_real_and_generated(on_real: Tensor, on_fake: Tensor) -> None:
    cross_entropy = functional.binary_cross_entropy_with_logits
    expected = cross_entropy(on_real, torch.ones_like(on_real)) + cross_entropy(on_fake, torch.zeros_like(on_fake))
    torch.testing.assert_close(minimax_discriminator_loss(on_real, on_fake), expected, **SOFTPLUS)
    # The generator has the opposite of the second term: a game of two players and sum 0.
    torch.testing.assert_close(
        minimax_generator_loss(on_fake), -cross_entropy(on_fake, torch.zeros_like(on_fake)), **SOFTPLUS
    )
    torch.testing.assert_close(
        non_saturating_generator_loss(on_fake), cross_entropy(on_fake, torch.ones_like(on_fake)), **SOFTPLUS
    )


def test_of_a_discriminator_that_cannot_tell() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    assert minimax_discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2), abs=1e-15)
    assert minimax_generator_loss(zero).item() == pytest.approx(-math.log(2), abs=1e-15)
    assert non_saturating_generator_loss(zero).item() == pytest.approx(math.log(2), abs=1e-15)


@few
@given(outputs)
def test_gradients_of_the_generator(on_fake: Tensor) -> None:
    on_fake.requires_grad_()
    n = len(on_fake)
    expected = -on_fake.detach().sigmoid() / n
    torch.testing.assert_close(gradient(minimax_generator_loss(on_fake), on_fake), expected, **SOFTPLUS)
    expected = -(-on_fake.detach()).sigmoid() / n
    actual = gradient(non_saturating_generator_loss(on_fake), on_fake)
    torch.testing.assert_close(actual, expected, **SOFTPLUS)
    expected = torch.full_like(on_fake, -1 / n).detach()
    torch.testing.assert_close(gradient(wasserstein_generator_loss(on_fake), on_fake), expected)


@few
@given(outputs, outputs)
def test_gradients_of_the_adversary(on_real: Tensor, on_fake: Tensor) -> None:
    on_real.requires_grad_()
    on_fake.requires_grad_()
    real, fake = torch.autograd.grad(minimax_discriminator_loss(on_real, on_fake), [on_real, on_fake])
    torch.testing.assert_close(real, -(-on_real.detach()).sigmoid() / len(on_real), **SOFTPLUS)
    torch.testing.assert_close(fake, on_fake.detach().sigmoid() / len(on_fake), **SOFTPLUS)
    real, fake = torch.autograd.grad(wasserstein_critic_loss(on_real, on_fake), [on_real, on_fake])
    torch.testing.assert_close(real, torch.full_like(real, -1 / len(real)))
    torch.testing.assert_close(fake, torch.full_like(fake, 1 / len(fake)))


def test_only_the_minimax_loss_saturates_where_the_discriminator_is_sure() -> None:
    sure = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
    assert gradient(minimax_generator_loss(sure), sure).abs() < 1e-8
    assert gradient(non_saturating_generator_loss(sure), sure).abs() > 1 - 1e-8


def test_the_best_discriminator_attains_the_jensen_shannon_divergence() -> None:
    # Frequencies in 16ths, so that a batch of 16 is the distribution itself.
    p, q = torch.tensor([8, 4, 3, 1]), torch.tensor([2, 4, 4, 6])
    best = p.double().log() - q.double().log()

    def loss(f: Tensor) -> Tensor:
        return minimax_discriminator_loss(f.repeat_interleave(p), f.repeat_interleave(q))

    p_mass, q_mass = p.double() / 16, q.double() / 16
    middle = (p_mass + q_mass) / 2
    divergence = ((p_mass * (p_mass / middle).log()).sum() + (q_mass * (q_mass / middle).log()).sum()) / 2
    assert loss(best).item() == pytest.approx(2 * math.log(2) - 2 * divergence.item(), abs=1e-12)
    f = best.clone().requires_grad_()
    assert gradient(loss(f), f).abs().max() < 1e-12
    for i in range(4):
        for step in (-0.1, 0.1):
            assert loss(best + step * functional.one_hot(torch.tensor(i), 4)) > loss(best)


@few
@given(outputs, outputs, st.floats(-10, 10), st.floats(0.1, 10))
def test_wasserstein_ignores_a_constant_and_scales_with_the_critic(
    on_real: Tensor, on_fake: Tensor, constant: float, factor: float
) -> None:
    loss = wasserstein_critic_loss(on_real, on_fake)
    shifted = wasserstein_critic_loss(on_real + constant, on_fake + constant)
    torch.testing.assert_close(shifted, loss, rtol=1e-12, atol=1e-12)
    scaled = wasserstein_critic_loss(factor * on_real, factor * on_fake)
    torch.testing.assert_close(scaled, factor * loss, rtol=1e-12, atol=1e-12)
    swapped = wasserstein_critic_loss(on_fake, on_real)
    torch.testing.assert_close(swapped, -loss, rtol=1e-12, atol=1e-12)


def test_the_best_critic_attains_the_wasserstein_distance() -> None:
    # In one dimension W_1 is the mean distance of the sorted samples.
    real, fake = torch.tensor([3.0, 4.0, 8.0]), torch.tensor([-1.0, 0.0, 2.5])
    distance = (real.sort().values - fake.sort().values).abs().mean()
    assert -wasserstein_critic_loss(real, fake) == distance  # f(x) = x, as every real example is to the right
    for critic in (torch.sin, torch.abs, lambda x: x.clamp(0, 5)):  # others of constant 1
        assert -wasserstein_critic_loss(critic(real), critic(fake)) < distance


def on_states(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A loss of f on four states, with p and q sixteenths of data and model in each; p and q."""
    p, q = torch.tensor([1, 2, 5, 8]), torch.tensor([6, 4, 5, 1])
    return lambda f: loss(f.repeat_interleave(p), f.repeat_interleave(q)), p.double() / 16, q.double() / 16


def test_least_squares_are_least_where_f_is_the_share_of_the_data() -> None:
    loss, p, q = on_states(least_squares_discriminator_loss)
    best = (p / (p + q)).requires_grad_()
    assert loss(best).item() == pytest.approx(float((p * q / (p + q)).sum()) / 2, abs=1e-12)
    assert gradient(loss(best), best).abs().max() < 1e-12
    for i in range(4):
        for step in (-0.1, 0.1):
            assert loss(best + step * functional.one_hot(torch.tensor(i), 4)) > loss(best)
    half = torch.full((4,), 0.5, dtype=torch.float64)
    assert loss(half).item() == pytest.approx(0.25, abs=1e-15)
    assert all(loss(half + step) > loss(half) for step in (-0.1, 0.1)), "1/2 is the best constant where p = q in sum"


def test_hinges_are_least_where_f_is_the_sign_and_give_the_total_variation() -> None:
    loss, p, q = on_states(hinge_discriminator_loss)
    best = (p - q).sign()
    total_variation = float((p - q).abs().sum()) / 2
    assert loss(best).item() == pytest.approx(2 * float(torch.minimum(p, q).sum()), abs=1e-12)
    assert loss(best).item() == pytest.approx(2 - 2 * total_variation, abs=1e-12)
    for i in range(4):
        for step in (-0.1, 0.1):
            other = loss(best + step * functional.one_hot(torch.tensor(i), 4))
            # Where p = q, every value from -1 to 1 is as good as any other.
            assert other >= loss(best) - 1e-12
            assert p[i] == q[i] or other > loss(best) + 1e-4
    assert loss(torch.zeros(4, dtype=torch.float64)).item() == 2


@few
@given(outputs, outputs)
def test_gradients_of_least_squares_and_hinges(on_real: Tensor, on_fake: Tensor) -> None:
    on_real.requires_grad_()
    on_fake.requires_grad_()
    real, fake = on_real.detach(), on_fake.detach()
    found = torch.autograd.grad(least_squares_discriminator_loss(on_real, on_fake), [on_real, on_fake])
    torch.testing.assert_close(found, ((real - 1) / len(real), fake / len(fake)))
    torch.testing.assert_close(gradient(least_squares_generator_loss(on_fake), on_fake), (fake - 1) / len(fake))
    found = torch.autograd.grad(hinge_discriminator_loss(on_real, on_fake), [on_real, on_fake])
    expected = (-(real < 1).double() / len(real), (fake > -1).double() / len(fake))
    torch.testing.assert_close(found, expected)


def test_an_objective_is_a_pair_found_by_its_name() -> None:
    pairs = {name: (pair.discriminator, pair.generator) for name, pair in OBJECTIVES.items()}
    assert pairs == {
        "saturating": (minimax_discriminator_loss, minimax_generator_loss),
        "non_saturating": (minimax_discriminator_loss, non_saturating_generator_loss),
        "least_squares": (least_squares_discriminator_loss, least_squares_generator_loss),
        "hinge": (hinge_discriminator_loss, wasserstein_generator_loss),
        "wasserstein": (wasserstein_critic_loss, wasserstein_generator_loss),
    }
    assert objective_named("hinge") is OBJECTIVES["hinge"]
    with pytest.raises(ValueError, match="objective 'log': there are saturating, non_saturating, least_squares"):
        objective_named("log")


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_and_gradients_stay_finite_far_out(size: float) -> None:
    on_real, on_fake = torch.full((3,), -size, requires_grad=True), torch.full((2,), size, requires_grad=True)
    losses = [pair.discriminator(on_real, on_fake) for pair in OBJECTIVES.values()]
    losses += [pair.generator(on_fake) for pair in OBJECTIVES.values()]
    for loss in losses:
        assert loss.dim() == 0
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient(loss, on_fake)).all()
