"""What VAEs are trained on: the bounds of one draw and of K, against linear-Gaussian models and quadrature."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers_vae import ADAM, POSTERIORS, linear_gaussian, random_vae, seeded, space, weights
from torch import Tensor

from models.vaes.vae import VAE


def test_with_the_exact_posterior_every_draw_is_the_exact_likelihood() -> None:
    model, exact = linear_gaussian(0.0, 1.0)
    x = 2 * torch.randn(5, 3, generator=seeded(0), dtype=torch.float64)
    expected = exact.log_prob(x).expand(20, 5)
    torch.testing.assert_close(weights(model, x, 20, seed=1), expected, rtol=0, atol=1e-9)


def test_importance_weighted_bound_rises_with_k_to_the_exact_likelihood() -> None:
    model, exact = linear_gaussian(0.25, 1.3)
    x = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
    log_w = weights(model, x, 64_000, seed=2)  # (64000, 2)
    truth = exact.log_prob(x)
    gaps = []
    for k in (1, 4, 16, 64):
        bounds = torch.logsumexp(log_w.view(-1, k, 2), 1) - math.log(k)  # (64000 / k, 2)
        stderr = bounds.std(0) / math.sqrt(len(bounds))
        assert (bounds.mean(0) < truth + 4 * stderr).all()
        gaps.append(truth - bounds.mean(0))
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(gaps))
    assert (gaps[0] > 0.2).all()
    assert (gaps[-1].abs() < 0.02).all()
    assert ((torch.logsumexp(log_w, 0) - math.log(len(log_w)) - truth).abs() < 0.01).all()


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (0.002, 1.1)])
def test_a_thousand_draws_give_the_likelihood_of_784_dimensions(shift: float, factor: float) -> None:
    """About 646 nats, as in Wu, Burda, Salakhutdinov, Grosse (2017), arXiv:1611.04273, whose models have 10 codes."""
    columns = torch.linalg.qr(torch.randn(784, 10, generator=seeded(0), dtype=torch.float64))[0]
    model, exact = linear_gaussian(shift, factor, w=11 * columns, s=0.1)
    x = model.sample(8, generator=seeded(1))
    truth = exact.log_prob(x)
    assert float(truth.mean()) == pytest.approx(646, abs=20)
    bound = torch.logsumexp(weights(model, x, 1000, seed=2), 0) - math.log(1000)
    assert float((bound - truth).abs().max()) < (0.2 if shift else 1e-6)
    single = float((weights(model, x, 100, seed=3).mean(0) - truth).mean())
    assert single < -0.05 if shift else abs(single) < 1e-6


def test_the_terms_of_the_bound_are_those_of_the_linear_gaussian() -> None:
    model, exact = linear_gaussian(0.0, 1.0)
    x = exact.sample((5,))
    with torch.no_grad():
        terms = [model.elbo_terms(x, generator=seeded(seed)) for seed in range(2000)]
        posterior = model._posterior(x)[0]
    reconstruction = torch.stack([term.reconstruction for term in terms])  # (2000, 5)
    assert torch.equal(terms[0].code, model.encode(x))
    assert torch.equal(terms[0].code, terms[1].code)
    prior = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    q = torch.distributions.Normal(posterior.mean, posterior.log_scale.exp())
    torch.testing.assert_close(terms[0].kl, torch.distributions.kl_divergence(q, prior).sum(1))
    # With the exact posterior the bound is tight: E log p(x|z) = log p(x) + KL.
    stderr = reconstruction.std(0) / math.sqrt(len(terms))
    assert ((reconstruction.mean(0) - terms[0].kl - exact.log_prob(x)).abs() < 4.5 * stderr).all()


def test_the_terms_of_a_flow_posterior_are_draws_of_the_bound() -> None:
    model = random_vae((2,), 4, latent_dim=1, seed=3, flow=POSTERIORS["planar"])
    x = space((2,), 2)
    with torch.no_grad():
        terms = model.elbo_terms(x, generator=seeded(1))
        other = model.elbo_terms(x, generator=seeded(2))
    torch.testing.assert_close(terms.reconstruction - terms.kl, weights(model, x, 1, seed=1)[0])
    assert (terms.code != other.code).all(), "the mean of a flow's posterior is not known, so its draws are given"


def quadrature_bound(model: VAE, x: Tensor) -> Tensor:
    """The mean bound of two draws of a one-dimensional code, from the decoder and the posterior by Gauss-Hermite."""
    nodes, masses = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(60))
    masses = masses / masses.sum()
    posterior, _ = model._posterior(x)
    z = posterior.mean + posterior.log_scale.exp() * nodes  # (B, 60)
    normal = torch.distributions.Normal(0.0, 1.0)
    conditional = torch.stack([model.likelihood(column[:, None]).log_prob(x) for column in z.T], 1)
    log_w = conditional + normal.log_prob(z) - normal.log_prob(nodes) + posterior.log_scale
    pairs = torch.logaddexp(log_w[:, :, None], log_w[:, None, :]) - math.log(2)  # (B, 60, 60)
    return (pairs * masses[:, None] * masses).sum((1, 2)).mean()


def test_the_loss_of_k_draws_and_its_gradient_are_those_of_the_bound() -> None:
    model = random_vae((2,), None, latent_dim=1, seed=3, draws=2)
    x = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    bound = quadrature_bound(model, x)
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(-bound, list(parameters.values()))
    copies = 2000
    found, losses = [], []
    model.train_generator = seeded(0)
    for _ in range(40):
        loss = model.training_step((x.repeat(copies, 1), None), 0)
        losses.append(loss.detach())
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))]))
    gradients, truth = torch.stack(found), torch.cat([g.flatten() for g in expected])
    stderr = gradients.std(0) / math.sqrt(len(found))
    assert ((gradients.mean(0) - truth).abs() <= 5 * stderr + 1e-9).all()
    assert float(stderr.norm() / truth.norm()) < 0.02
    loss, spread = torch.stack(losses), torch.stack(losses).std() / math.sqrt(40)
    assert abs(float(loss.mean() + bound.detach())) < 4.5 * float(spread)
    elbo = random_vae((2,), None, latent_dim=1, seed=3)
    elbo.train_generator = seeded(0)
    single = elbo.training_step((x.repeat(80_000, 1), None), 0).detach()
    assert float(loss.mean()) < float(single) - 20 * float(spread)


@pytest.mark.parametrize("flow", [None, "planar"])
def test_the_gradient_of_k_draws_weighs_each_by_its_importance(flow: str | None) -> None:
    r"""Burda et al. (2016), eq. 14: the sum over the draws of w_k / sum w times the gradient of log w_k."""
    model = random_vae((3,), 4, seed=5, flow=None if flow is None else POSTERIORS[flow], draws=4)
    x = space((3,), 2)
    model.train_generator = seeded(1)
    parameters = list(model.parameters())
    found = torch.autograd.grad(model.training_step((x, None), 0), parameters)
    log_w = model.log_weight(x.repeat(4, 1), generator=seeded(1)).view(4, len(x))  # the same noise
    loss = -(log_w.softmax(0).detach() * log_w).sum(0).mean() / (3 * math.log(2))
    for one, other in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_beta_weighs_the_kl_term_in_training_only() -> None:
    x = torch.ones(10, 3)
    model = VAE((3,), None, ADAM, latent_dim=2, hidden=4, beta=4, kl_warmup=40)
    plain = VAE((3,), None, ADAM, latent_dim=2, hidden=4)
    plain.load_state_dict(model.state_dict())
    kl = plain._posterior(x)[0].kl_to_standard().mean().item()
    for weight in (0.0, 1.0, 2.0, 3.0, 4.0, 4.0):
        model.train_generator, plain.train_generator = seeded(0), seeded(0)
        more = model.training_step((x, None), 0).item() - plain.training_step((x, None), 0).item()
        assert more == pytest.approx((weight - 1) * kl, abs=1e-4)
    assert torch.equal(model.log_weight(x, generator=seeded(1)), plain.log_weight(x, generator=seeded(1)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"beta": 0}, "beta must be positive"),
        ({"draws": 0}, "draws at least 1"),
        ({"draws": 5, "beta": 2}, "beta and kl_warmup weigh the KL term, which the bound of draws=5 does not have"),
        ({"draws": 5, "kl_warmup": 9}, "beta and kl_warmup weigh the KL term"),
        ({"output": "bernoulli"}, "output: data with 256 levels take logistic or mixture, not bernoulli"),
        ({"output": "mixture", "components": 0}, "components must be at least 1"),
    ],
)
def test_objectives_and_outputs_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VAE((2,), 256, ADAM, **wrong)
