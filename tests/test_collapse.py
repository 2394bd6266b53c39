"""Collapse: noise is not called so, the end of a training that collapsed is."""

import math
import random
from collections.abc import Callable

import pytest

from bench.metrics.collapse import FEWEST, collapse_of


def curve(n: int, noise: float, seed: int, shape: Callable[[float], float]) -> list[float]:
    draw = random.Random(seed)
    return [shape(t / (n - 1)) + draw.gauss(0, noise) for t in range(n)]


def flagged(n: int, noise: float, shape: Callable[[float], float]) -> float:
    found = [collapse_of(curve(n, noise, seed, shape)) for seed in range(400)]
    return sum(one is not None and one.collapsed for one in found) / 400


@pytest.mark.parametrize("n", [6, 12, 50, 200])
def test_noise_is_not_called_collapse(n: int) -> None:
    assert flagged(n, 3.0, lambda t: 10.0) <= 0.03, "scores that never got better: a third of their value is noise"
    assert flagged(n, 3.0, lambda t: 10 + 100 * math.exp(-8 * t)) <= 0.03, "scores that have converged"


def test_the_end_of_a_training_that_collapsed_is() -> None:
    def fell(t: float) -> float:  # as StudioGAN's own DCGAN: 49.0 at a fifth, 137.4 at the end
        return 49 + 200 * math.exp(-25 * t) + 88.4 * max(0.0, (t - 0.3) / 0.7)

    assert flagged(100, 3.0, fell) == 1
    assert flagged(10, 2.0, fell) > 0.8
    found = collapse_of(curve(100, 0.0, 0, fell))
    assert found is not None
    assert found.final == pytest.approx(137.4, abs=0.1)
    assert found.best == pytest.approx(49, abs=1)


def test_what_is_certain_and_small_is_no_collapse() -> None:
    assert flagged(100, 0.0, lambda t: 50 + 5 * t) == 0
    assert flagged(100, 0.0, lambda t: -500 + 100 * t) == 0, "scores may be negative"
    assert flagged(100, 0.0, lambda t: -500 + 300 * t) == 1


def test_too_few_scores_say_nothing() -> None:
    assert collapse_of([1.0, 1.0, 1.0, 99.0]) is None
    found = collapse_of([1.0] * (FEWEST - 1) + [99.0])
    assert found is not None
    assert found.collapsed
