"""MADE as a density model: its masses, its samples, and what averaging over orderings may not do."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import all_examples, examples, randomize, resumed_to_the_same_bits, sampler_p_value
from helpers_models import small_data
from torch import Tensor
from torch.autograd.functional import jacobian

from models.autoregressive.made import MADE
from models.distributions import Bernoulli, to_symmetric
from models.nn import made

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def random_made(shape: tuple[int, ...], levels: int | None, **options: Any) -> MADE:
    model = MADE(shape, levels, ADAM, hidden=16, **options)
    randomize(model, 0.7)
    return model.double().eval()


def mass(log_prob: Callable[[Tensor], Tensor], shape: tuple[int, ...], levels: int) -> float:
    with torch.no_grad():
        return float(log_prob(all_examples(shape, levels)).exp().sum())


@pytest.mark.parametrize("output", ["logistic", "categorical", "mixture"])
@pytest.mark.parametrize("orderings", [1, 3])
@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 3), 2), ((3,), 4)])
def test_masses_sum_to_one(shape: tuple[int, ...], levels: int, orderings: int, output: str) -> None:
    model = random_made(shape, levels, orderings=orderings, output=output, components=2)
    assert mass(model.log_weight, shape, levels) == pytest.approx(1, abs=1e-10)


def test_the_mean_of_logits_over_orderings_is_no_distribution_and_the_mean_of_probabilities_is_one() -> None:
    model = random_made((5,), 2, orderings=4)

    def of_mean_logits(x: Tensor) -> Tensor:
        seen = to_symmetric(x, 2, torch.float64)
        logits = torch.stack([model.network(seen, order=order)[:, 0] for order in model.orders]).mean(0)
        return Bernoulli(logits).log_prob(x)

    assert abs(mass(of_mean_logits, (5,), 2) - 1) > 0.01
    assert mass(model.log_weight, (5,), 2) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("output", ["logistic", "categorical", "mixture"])
@pytest.mark.parametrize("orderings", [1, 3])
def test_samples_have_the_masses_of_the_likelihood(orderings: int, output: str) -> None:
    model = random_made((3,), 4, orderings=orderings, output=output, components=2)
    assert sampler_p_value(model, 20_000) > 1e-3
    model = random_made((1, 2, 3), 2, orderings=orderings)
    assert sampler_p_value(model, 20_000) > 1e-3


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_in_an_order_outputs_read_the_inputs_that_come_before(depth: int) -> None:
    network = made.MADE(5, 2, hidden=15, depth=depth)
    randomize(network, 0.5)
    order = torch.tensor([3, 0, 4, 1, 2])
    matrix = jacobian(lambda x: network(x[None], order=order)[0], torch.ones(5))[:, order][:, :, order]
    assert matrix.triu().abs().max() == 0
    assert (matrix[:, torch.ones(5, 5).tril(-1).bool()] != 0).all()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_inputs_generated_in_an_order_have_the_outputs_of_one_pass(depth: int) -> None:
    network = made.MADE(5, 2, hidden=7, depth=depth).double()
    randomize(network, 0.5)
    order = torch.tensor([3, 0, 4, 1, 2])
    seen: list[Tensor] = []

    def emit(i: int, outputs: Tensor) -> Tensor:
        seen.append(outputs)
        return (outputs.sum(1) + i).sin()

    inputs = network.generate(emit, 4, order=order)
    x = torch.empty_like(inputs)
    x[:, order] = inputs
    torch.testing.assert_close(torch.stack(seen, 2), network(x, order=order)[:, :, order])


@pytest.mark.parametrize("levels", [4, None])
def test_the_training_loss_is_in_bits_a_dimension_for_integers_and_in_nats_for_reals(levels: int | None) -> None:
    model, x = random_made((3,), levels), examples((3,), levels, 50)
    with torch.no_grad():
        loss, nats = model.training_step((x, None), 0).item(), -model.log_weight(x).mean().item()
    assert loss == pytest.approx(nats if levels is None else nats / (3 * math.log(2)))


def test_training_takes_the_orderings_in_turn() -> None:
    model = random_made((4,), 2, orderings=3)
    x = all_examples((4,), 2)
    losses = [model.training_step((x, None), 0).item() for _ in range(6)]
    assert len(set(losses[:3])) == 3
    assert losses[:3] == losses[3:]


def test_orderings_use_weights_that_one_alone_masks() -> None:
    one, several = random_made((4,), 2), random_made((4,), 2, orderings=3)
    every = sum(parameter.numel() for parameter in one.parameters())
    assert one.n_parameters < several.n_parameters <= every
    seen = torch.zeros(every)
    for step in range(60):
        several.zero_grad()
        several.training_step((torch.randint(0, 2, (16, 4), generator=torch.Generator().manual_seed(step)), None), 0)
        several.training_step((all_examples((4,), 2), None), 0).backward()
        seen += torch.cat([p.grad.flatten().abs() for p in several.parameters() if p.grad is not None])
    assert int((seen > 0).sum()) <= several.n_parameters


@pytest.mark.parametrize("orderings", [1, 3])
def test_resumed_training_gives_the_same_bits(orderings: int, tmp_path: Path) -> None:
    data = small_data((1, 3, 3), 2)

    def new(seed: int) -> MADE:
        torch.manual_seed(seed)
        return MADE((1, 3, 3), 2, ADAM, hidden=16, orderings=orderings)

    assert resumed_to_the_same_bits(new, data, tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"orderings": 0}, "orderings"), ({"output": "softmax"}, "output"), ({"components": 0}, "components")],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MADE((4,), 4, ADAM, **{"output": "mixture"} | options)


def test_orderings_are_random_but_for_the_first_without_a_seed() -> None:
    in_order = torch.arange(9)
    assert not any(torch.equal(order, in_order) for order in random_made((9,), 2, orderings=3).orders)
    first, *others = random_made((9,), 2, orderings=3, order_seed=None).orders
    assert torch.equal(first, in_order)
    assert not any(torch.equal(order, in_order) for order in others)


def test_the_masks_are_those_of_the_ordering_that_was_loaded() -> None:
    """Of a single ordering they are made once: they follow a checkpoint whose ordering is another."""
    of, other = random_made((9,), 2, order_seed=0), random_made((9,), 2, order_seed=1)
    assert not torch.equal(of.orders, other.orders)
    other.load_state_dict(of.state_dict())
    x = all_examples((9,), 2)
    torch.testing.assert_close(other.log_weight(x), of.log_weight(x), rtol=0, atol=0)
    assert not any(name.startswith("mask") for name in of.state_dict()), "older checkpoints have none"
