"""The classifier two-sample test: nothing to tell, everything to tell, and the total variation between."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.intervals import proportion_error
from bench.metrics.two_sample_test import C2ST, _chosen, held_out_answers
from bench.schema import Status


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def accuracy(x: Tensor, y: Tensor) -> float:
    right = held_out_answers(x, y, Generator().manual_seed(0))
    assert (len(right[0]), len(right[1])) == (len(x) // 2, len(y) // 2)
    return sum(float(part.double().mean()) for part in right) / 2


def test_one_distribution_cannot_be_told_apart() -> None:
    # The spread is that of two binomial proportions: memory of the training half would show as accuracy.
    found = torch.tensor([accuracy(randn(300, 20, seed=s), randn(200, 20, seed=s + 100)) for s in range(12)])
    error = math.hypot(0.5 / math.sqrt(150), 0.5 / math.sqrt(100)) / 2
    assert abs(float(found.mean()) - 0.5) < 3.5 * error / math.sqrt(12)
    assert 0.5 < float(found.std()) / error < 1.6


def test_a_shift_is_told_as_well_as_it_can_be() -> None:
    x, y = randn(1500, 3, seed=1), randn(1500, 3, seed=2) + torch.tensor([1.0, 0.0, 0.0])
    best = 0.5 + 0.5 * math.erf(0.5 / math.sqrt(2))  # half of the total variation of N(0, 1) and N(1, 1)
    assert accuracy(x, y) == pytest.approx(best, abs=0.03)


def test_a_ring_needs_the_network() -> None:
    x, y = randn(1000, 2, seed=1), 3 * randn(1000, 2, seed=2)  # equal means: a line cannot tell them
    assert accuracy(x, y) > 0.72


def test_unequal_numbers_do_not_count() -> None:
    assert accuracy(randn(900, 3, seed=1), randn(100, 3, seed=2)) == pytest.approx(0.5, abs=0.1)


def test_rows() -> None:
    x = randn(60, 4)
    before = torch.get_rng_state()
    (row,) = evaluate(examples(spec(4), real=x, samples=x + 9), {"it": C2ST(FakeRecipe(), ALL)})["it"]
    assert (row.status, row.value) == (Status.OK, 1.0)
    assert row.ci_low is not None
    assert row.stderr is not None
    assert row.stderr > 0, "30 right answers of 30 do not prove that all are"
    assert 0.85 < row.ci_low < 1 == row.ci_high
    assert torch.equal(before, torch.get_rng_state())
    (row,) = evaluate(examples(spec(4), real=x, samples=x[:39]), {"it": C2ST(FakeRecipe(), ALL)})["it"]
    assert "needs at least 40" in row.reason


def test_the_accuracy_is_the_mean_of_both_sides_whatever_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = torch.ones(20, dtype=torch.bool), torch.arange(80) < 40
    monkeypatch.setattr("bench.metrics.two_sample_test.held_out_answers", lambda *_: answers)
    (row,) = evaluate(examples(spec(4), real=randn(40, 4), samples=randn(160, 4)), {"it": C2ST(FakeRecipe(), ALL)})[
        "it"
    ]
    assert row.value == 0.75
    assert row.stderr_test == proportion_error(1.0, 20) / 2
    assert row.stderr_draws == proportion_error(0.5, 80) / 2


def test_the_classifier_is_chosen_by_examples_that_it_was_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One classifier knows the training examples and is wrong beside them, the other is right there."""
    monkeypatch.setattr(
        "bench.metrics.two_sample_test._trained", lambda x, y, hidden, g: lambda z: (9 if hidden else -9) * z[:, 0]
    )
    left, right = torch.tensor([[-1.0]] * 8), torch.tensor([[1.0]] * 8)
    for side, fake in ((1, right), (-1, left)):
        real = -fake
        logit = _chosen([real, fake], [fake, real], Generator())
        assert float(logit(torch.tensor([[1.0]])).sign()) == -side, "as the second part has it, not the first"
