"""When the generator steps: exact counts for any schedule, best response, and both across a resumption."""

import functools
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import new_model, small_data
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.training.fit import fit
from models.gans.schedule import BestResponse, every, schedule_named, warm_up

DATA = small_data((2,), None, n=64)


def authors_program(n: int, steps: int) -> list[bool]:
    """The loop of Arjovsky, Chintala and Bottou's program: after which critic steps the generator steps."""
    follows: list[bool] = []
    generator_steps = 0
    while len(follows) < steps:
        rounds = 100 if generator_steps < 25 or generator_steps % 500 == 0 else n
        follows += [False] * (rounds - 1) + [True]
        generator_steps += 1
    return follows[:steps]


@pytest.mark.parametrize("n", [1, 2, 5, 100, 130])
def test_the_warm_up_is_that_of_the_authors_program(n: int) -> None:
    steps = 2500 + 1100 * n + 300  # past the second long round
    assert [warm_up(n)(t) for t in range(steps)] == authors_program(n, steps)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 400))
def test_one_generator_step_comes_after_every_n(n: int, steps: int) -> None:
    assert sum(every(n)(t) for t in range(steps)) == steps // n


def train(name: str, folder: Path, steps: int, *overrides: str, batch: int = 4, stop: int | None = None) -> Any:
    """A model after this many steps; with ``stop`` it is interrupted there once, and goes on in another process."""

    class KilledError(Exception):
        pass

    def die(_: Any) -> float:
        raise KilledError

    interval = steps if stop is None else stop
    schedule = Schedule(examples=batch * steps, batch_size=batch, validate_every=batch * interval)
    run = functools.partial(fit, seed=0, folder=folder, config={})
    folder.mkdir(exist_ok=True)
    if stop is not None:
        calls: Iterator[Any] = iter([lambda _: 0.0, die])
        with pytest.raises(KilledError):
            run(new_model(name, DATA.spec, *overrides), DATA, schedule, Hardware(), validate=lambda m: next(calls)(m))
    model = new_model(name, DATA.spec, *overrides, seed=7 if stop is not None else 0)
    run(model, DATA, schedule, Hardware())
    return model


@pytest.mark.parametrize(
    ("name", "key", "n", "schedule"),
    [
        ("wgan", "n_critic", 1, "fixed"),
        ("wgan", "n_critic", 7, "fixed"),
        ("wgan", "n_critic", 3, "warm_up"),
        ("wgan_gp", "n_critic", 4, None),
        ("gan", "n_discriminator", 3, "fixed"),
        ("dcgan", "n_discriminator", 2, "warm_up"),
        ("sngan", "n_discriminator", 5, None),
    ],
)
def test_steps_are_counted_exactly_also_across_a_resumption(
    name: str, key: str, n: int, schedule: str | None, tmp_path: Path
) -> None:
    asked = [f"model.{key}={n}", *([] if schedule is None else [f"model.schedule={schedule}"])]
    steps, stop = (230, 90) if schedule == "warm_up" else (25, 11)
    expected = 2 if schedule == "warm_up" else steps // n
    whole = train(name, tmp_path / "whole", steps, *asked)
    parts = train(name, tmp_path / "parts", steps, *asked, stop=stop)
    for model in (whole, parts):
        assert (int(model.discriminator_steps), int(model.generator_steps)) == (steps, expected)
    first, second = (load_checkpoint(tmp_path / part / "final.ckpt")["state_dict"] for part in ("whole", "parts"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def rounds(losses: list[float], limit: int = 1000) -> list[int]:
    """The steps, from 1, after which the generator steps."""
    response = BestResponse(limit)
    return [t for t, loss in enumerate(losses, 1) if response.reached(torch.tensor(loss))]


def test_best_response_waits_while_windows_of_ten_get_better() -> None:
    windows = [1.0, 0.9, 0.8, 0.795]  # the last is less than one percent below the one before
    assert rounds([loss for window in windows for loss in [window] * 10]) == [40]
    noisy = [loss + (-1) ** t * 0.5 for t, loss in enumerate(w for w in windows for _ in range(10))]
    assert rounds(noisy) == [40], "noise within a window averages out"
    assert rounds([2.0] * 65) == [20, 40, 60], "every round begins anew"
    assert rounds([1.0] * 10 + [1.5] * 30) == [20, 40], "and what a loss was in an earlier round does not count"
    assert rounds([-1.0] * 10 + [-1.1] * 10 + [-1.105] * 10) == [30], "below zero too"


def test_best_response_ends_at_its_limit() -> None:
    falling = [0.9**t for t in range(100)]
    assert rounds(falling) == []
    assert rounds(falling, limit=25) == [25, 50, 75, 100]
    with pytest.raises(ValueError, match="n_discriminator must be at least 20 with schedule=best_response"):
        BestResponse(19)


def test_a_loss_that_is_not_a_number_ends_no_program() -> None:
    assert rounds([math.nan] * 30, limit=30) == [30]


def test_best_response_trains_until_it_settles_and_resumes_in_the_middle_of_a_round(tmp_path: Path) -> None:
    asked = ("model.schedule=best_response", "model.n_discriminator=30")
    whole = train("gan", tmp_path / "whole", 90, *asked)
    assert int(whole.discriminator_steps) == 90
    assert 3 <= int(whole.generator_steps) <= 4
    parts = train("gan", tmp_path / "parts", 90, *asked, stop=37)
    assert int(parts.schedule.steps) == int(whole.schedule.steps)
    first, second = (load_checkpoint(tmp_path / part / "final.ckpt")["state_dict"] for part in ("whole", "parts"))
    assert {"schedule.steps", "schedule.total", "schedule.before"} <= set(first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_generator_answers_a_discriminator_at_rest(tmp_path: Path) -> None:
    """Between two generator steps nothing but the discriminator changes."""
    model: Any = new_model("gan", DATA.spec, "model.schedule=best_response", "model.n_discriminator=40")
    seen: list[tuple[int, Tensor]] = []

    class Watch:
        def step(self, model: Any, progress: Any, outputs: Any) -> None:
            seen.append((int(model.generator_steps), model.generator[0].weight.detach().clone()))

        def validated(self, *_: Any) -> dict[str, float]:
            return {}

    schedule = Schedule(examples=4 * 85, batch_size=4, validate_every=10**6)
    watch: Any = Watch()
    fit(model, DATA, schedule, Hardware(), seed=0, folder=tmp_path, config={}, probes=[watch])
    for (count, weight), (following, moved) in pairwise(seen):
        assert torch.equal(weight, moved) == (count == following)
    assert seen[-1][0] >= 2


def test_there_is_no_other_schedule() -> None:
    with pytest.raises(ValueError, match="schedule 'slow': there are fixed, warm_up, best_response"):
        schedule_named("slow", 1)
