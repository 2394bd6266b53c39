"""Metrics that stream give the numbers of the pure functions, whatever the batches, their order and the processes."""

import doctest
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

import bench.metrics.streaming
from bench.metrics.frechet import frechet_distance, frechet_distance_from_features
from bench.metrics.inception_score import inception_score
from bench.metrics.likelihood import bound_errors, k_draw_bound
from bench.metrics.streaming import FrechetDistance, InceptionScore, MeanLogLikelihood, merge, moments

ROOT = Path(__file__).resolve().parent.parent
DIM, CLASSES = 6, 4

seeds = st.integers(0, 2**31)
sizes = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def normal(*shape: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features around ``shift``, float64."""
    generator = Generator().manual_seed(seed)
    mix = torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) @ mix + shift


def softmaxed(n: int, seed: int) -> Tensor:
    return (3 * torch.randn(n, CLASSES, generator=Generator().manual_seed(seed), dtype=torch.float64)).softmax(dim=1)


def shuffled_parts(x: Tensor, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """All of ``x`` in another order, in batches of the sizes (some may be empty) and a rest."""
    x = x[torch.randperm(len(x), generator=Generator().manual_seed(seed))]
    parts = []
    for size in sizes:
        parts.append(x[:size])
        x = x[size:]
    return [*parts, x]


def close(value: Tensor | float, expected: float, relative: float = 1e-10) -> bool:
    return math.isclose(float(value), expected, rel_tol=relative, abs_tol=1e-12)


# The numbers


@given(seeds, sizes, sizes, st.sampled_from([0.0, 10.0, -1e5]))
@settings(max_examples=50, deadline=None)
def test_frechet_distance_of_any_batches(seed: int, cuts: list[int], other: list[int], shift: float) -> None:
    real, fake = normal(150, DIM, seed=seed, shift=shift), normal(90, DIM, seed=seed + 1, shift=shift + 1)
    metric = FrechetDistance(DIM)
    calls = [(part, True) for part in shuffled_parts(real, cuts, seed)]
    calls += [(part, False) for part in shuffled_parts(fake, other, seed)]
    for index in torch.randperm(len(calls), generator=Generator().manual_seed(seed)).tolist():
        metric.update(*calls[index])
    assert close(metric.compute(), frechet_distance_from_features(real, fake))
    moved = frechet_distance(real.mean(0), torch.cov(real.T), fake.mean(0), torch.cov(fake.T))
    assert close(metric.compute(), moved)
    assert metric.compute().dtype == torch.float64


def test_frechet_distance_agrees_with_that_of_torchmetrics() -> None:
    class Flat(nn.Module):
        num_features = 12

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    theirs = FrechetInceptionDistance(Flat()).set_dtype(torch.float64)
    ours = FrechetDistance(12)
    for seed in range(6):
        x = normal(40, 12, seed=seed, shift=seed % 2)
        theirs.update(x.view(-1, 3, 2, 2), real=seed % 2 == 0)
        ours.update(x, real=seed % 2 == 0)
    assert close(ours.compute(), float(theirs.compute()), 1e-9)


def test_means_far_from_zero_lose_nothing_where_sums_of_squares_would() -> None:
    real, fake = normal(200, 3, seed=0, shift=1e7), normal(200, 3, seed=1, shift=1e7)
    metric = FrechetDistance(3)
    for part, other in zip(real.split(17), fake.split(17), strict=True):
        metric.update(part, real=True)
        metric.update(other, real=False)
    expected = frechet_distance_from_features(real - 1e7, fake - 1e7)
    assert close(metric.compute(), expected, 1e-7)  # what remains of numbers of 1e7 in float64
    squares = (real.T @ real - len(real) * torch.outer(real.mean(0), real.mean(0))) / (len(real) - 1)
    assert not torch.allclose(squares, torch.cov(real.T), rtol=1e-3, atol=0), "the example shows nothing"


def test_fewer_examples_than_dimensions() -> None:
    real, fake = normal(15, 40, seed=0), normal(20, 40, seed=1)
    metric = FrechetDistance(40)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    variance = float(real.var(0).sum() + fake.var(0).sum())
    assert abs(float(metric.compute()) - frechet_distance_from_features(real, fake)) < 1e-7 * variance


@given(seeds, sizes)
@settings(max_examples=50, deadline=None)
def test_inception_score_of_any_batches(seed: int, cuts: list[int]) -> None:
    p = softmaxed(120, seed)
    metric = InceptionScore(CLASSES)
    for part in shuffled_parts(p, cuts, seed):
        metric.update(part)
    score, stderr = metric.compute()
    expected = inception_score(p)
    assert close(score, expected[0])
    assert close(stderr, expected[1])


def test_inception_score_at_its_ends() -> None:
    sure, unsure, absent = InceptionScore(CLASSES), InceptionScore(CLASSES), InceptionScore(CLASSES)
    sure.update(torch.eye(CLASSES))
    assert [float(part) for part in sure.compute()] == [pytest.approx(CLASSES), pytest.approx(0, abs=1e-7)]
    unsure.update(torch.full((5, CLASSES), 1 / CLASSES))
    assert [float(part) for part in unsure.compute()] == [pytest.approx(1), pytest.approx(0, abs=1e-7)]
    p = torch.tensor([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.5, 0.5, 0, 0]])  # nobody predicts two of the classes
    absent.update(p)
    assert [float(part) for part in absent.compute()] == pytest.approx(inception_score(p), rel=1e-10)


@given(seeds, sizes, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_mean_log_likelihood_of_any_batches(seed: int, cuts: list[int], draws: int) -> None:
    log_w = normal(130, draws, seed=seed, shift=-1000.0).T  # (K, N)
    of_draws, of_bounds = MeanLogLikelihood(), MeanLogLikelihood()
    for part in shuffled_parts(log_w.T, cuts, seed):
        of_draws.update(part.T)
        of_bounds.update(k_draw_bound(part.T))
    bound = k_draw_bound(log_w)
    nats, stderr = of_draws.compute()
    assert close(nats, float(bound.mean()))
    assert close(stderr, float(bound.std()) / math.sqrt(130))
    assert draws == 1 or close(stderr, bound_errors(log_w)[0])
    assert all(close(a, float(b)) for a, b in zip(of_bounds.compute(), (nats, stderr), strict=True))


@given(seeds, sizes)
@settings(max_examples=50, deadline=None)
def test_merging_is_the_moments_of_all(seed: int, cuts: list[int]) -> None:
    x = normal(100, DIM, seed=seed, shift=5.0)
    parts = [moments(part) for part in shuffled_parts(x, cuts, seed)]
    at_once, one_by_one = merge(torch.stack(parts)), parts[0]
    for part in parts[1:]:
        one_by_one = merge(torch.stack([one_by_one, part]))
    for merged in (at_once, one_by_one):
        assert torch.allclose(merged, moments(x), rtol=1e-11, atol=1e-9)
        assert torch.allclose(merged, merged.T, rtol=1e-12, atol=1e-10)
    assert float(at_once[0, 0]) == 100


# What torchmetrics asks of a metric

FRECHET: tuple[Callable[[], Any], list[tuple[Any, ...]]] = (
    lambda: FrechetDistance(DIM),
    [(normal(30 + 7 * seed, DIM, seed=seed, shift=seed % 2), seed % 2 == 0) for seed in range(4)],
)
SCORE: tuple[Callable[[], Any], list[tuple[Any, ...]]] = (
    lambda: InceptionScore(CLASSES),
    [(softmaxed(9 + 7 * seed, seed),) for seed in range(4)],
)
LIKELIHOOD: tuple[Callable[[], Any], list[tuple[Any, ...]]] = (
    MeanLogLikelihood,
    [(normal(3, 5 + seed, seed=seed),) for seed in range(4)],
)
ALL = pytest.mark.parametrize(("make", "updates"), [FRECHET, SCORE, LIKELIHOOD], ids=["frechet", "score", "likelihood"])


def result(metric: Any) -> list[float]:
    made = metric.compute()
    return [float(part) for part in (made if isinstance(made, tuple) else (made,))]


def updated(make: Callable[[], Any], updates: Sequence[tuple[Any, ...]]) -> Any:
    metric = make()
    for arguments in updates:
        metric.update(*arguments)
    return metric


@ALL
def test_states_merge(make: Callable[[], Any], updates: list[tuple[Any, ...]]) -> None:
    first, second = updated(make, updates[:3]), updated(make, updates[3:])
    first.merge_state(second)
    assert result(first) == pytest.approx(result(updated(make, updates)), rel=1e-10)
    first = updated(make, updates[:3])
    first.merge_state(make())
    assert result(first) == pytest.approx(result(updated(make, updates[:3])), rel=1e-10), "nothing adds nothing"


@ALL
def test_reset_pickle_clone_and_move(make: Callable[[], Any], updates: list[tuple[Any, ...]]) -> None:
    metric = updated(make, updates)
    whole = result(metric)
    assert result(pickle.loads(pickle.dumps(metric))) == whole
    assert result(metric.clone()) == whole
    assert result(metric.half().float().to("cpu")) == whole, "states stay float64 whatever the model is cast to"
    metric.reset()
    with pytest.raises(ValueError, match="at least 2 examples"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    for arguments in updates:
        metric.update(*arguments)
    assert result(metric) == whole


@ALL
def test_a_model_in_half_precision_keeps_a_metric_in_double(
    make: Callable[[], Any], updates: list[tuple[Any, ...]]
) -> None:
    holder = nn.ModuleDict({"metric": make()}).to(torch.float16)
    for arguments in updates:
        holder["metric"].update(*arguments)
    assert result(holder["metric"]) == result(updated(make, updates))


@ALL
def test_no_gradient_is_kept(make: Callable[[], Any], updates: list[tuple[Any, ...]]) -> None:
    metric = make()
    for x, *rest in updates:
        metric.update(x.clone().requires_grad_(), *rest)
    assert not any(state.requires_grad for state in metric.metric_state.values())


def test_forward_gives_the_batch_and_keeps_all() -> None:
    parts = [softmaxed(20, 1), softmaxed(30, 2)]
    metric = InceptionScore(CLASSES)
    for part in parts:
        assert [float(value) for value in metric(part)] == pytest.approx(inception_score(part), rel=1e-10)
    assert result(metric) == pytest.approx(inception_score(torch.cat(parts)), rel=1e-10)


def test_directions_are_declared() -> None:
    directions = [metric.higher_is_better for metric in (FrechetDistance, InceptionScore, MeanLogLikelihood)]
    assert directions == [False, True, True]


PROCESSES = """
import sys
import torch
from torch import distributed
from test_streaming import FRECHET, LIKELIHOOD, SCORE, result, updated

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for make, updates in (FRECHET, SCORE, LIKELIHOOD):
    metric = updated(make, updates[:3] if rank == 0 else updates[3:])  # unequal shares
    print(*result(metric))
    before = {name: state.clone() for name, state in metric.metric_state.items()}
    metric.update(*updates[0])  # goes on with its own share after a synchronized compute
    print(*[int(state[0, 0] - before[name][0, 0]) for name, state in metric.metric_state.items()])
distributed.destroy_process_group()
"""


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=120) for process in started]
    for process, (output, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors
        lines = [[float(word) for word in line.split()] for line in output.splitlines()]
        for (make, updates), numbers in zip((FRECHET, SCORE, LIKELIHOOD), lines[::2], strict=True):
            assert numbers == pytest.approx(result(updated(make, updates)), rel=1e-10)
        assert lines[1::2] == [[30.0, 0.0], [9.0], [5.0]], "the other process's share is not counted twice"


# What is refused


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: FrechetDistance(3).update(torch.zeros(2, 4), real=True), r"shape \(2, 4\); wanted is \(N, 3\)"),
        (lambda: FrechetDistance(3).update(torch.zeros(3), real=True), r"shape \(3,\)"),
        (lambda: FrechetDistance(1).update(torch.tensor([[math.nan]]), real=False), "NaN or infinity"),
        (lambda: FrechetDistance(1).update(torch.tensor([[math.inf]]), real=False), "NaN or infinity"),
        (lambda: updated(lambda: FrechetDistance(2), [(torch.eye(2), True)]).compute(), "0 were fake"),
        (
            lambda: updated(lambda: FrechetDistance(2), [(torch.eye(2)[:1], True), (torch.eye(2), False)]).compute(),
            "1 was real",
        ),
        (lambda: InceptionScore(3).update(torch.ones(2, 2) / 2), r"wanted is \(N, 3\)"),
        (lambda: InceptionScore(2).update(torch.ones(2, 2)), "sum to 1"),
        (lambda: InceptionScore(2).update(torch.tensor([[1.5, -0.5]])), "not be negative"),
        (lambda: InceptionScore(2).update(torch.tensor([[math.nan, 1.0]])), "NaN"),
        (lambda: updated(lambda: InceptionScore(2), [(torch.eye(2)[:1],)]).compute(), "1 was given"),
        (lambda: MeanLogLikelihood().update(torch.zeros(2, 2, 2)), r"wanted is \(N,\) or \(K, N\)"),
        (lambda: MeanLogLikelihood().update(torch.tensor(1.0)), r"wanted is \(N,\) or \(K, N\)"),
        (lambda: MeanLogLikelihood().update(torch.zeros(0, 3)), r"shape \(0, 3\)"),
        (lambda: MeanLogLikelihood().update(torch.tensor([-math.inf])), "NaN or infinity"),
        (lambda: updated(MeanLogLikelihood, [(torch.zeros(1),)]).compute(), "1 was given"),
    ],
)
def test_what_is_wrong_is_refused(act: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        act()


def test_a_refused_batch_changes_nothing() -> None:
    metric = updated(MeanLogLikelihood, [(torch.tensor([-1.0, -2.0]),)])
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.tensor([-3.0, math.nan]))
    assert result(metric)[0] == -1.5


def test_the_examples_in_the_documentation() -> None:
    results = doctest.testmod(bench.metrics.streaming)
    assert results.attempted >= 15
    assert results.failed == 0


def test_nothing_else_imports_it() -> None:
    """torchmetrics takes seconds to import: only who asks for these metrics waits for it."""
    for file in [*(ROOT / "bench").rglob("*.py"), *(ROOT / "models").rglob("*.py")]:
        if file.name != "streaming.py":
            assert not re.search(
                r"^\s*(import|from) (torchmetrics|bench\.metrics\.streaming)", file.read_text(), re.M
            ), file
