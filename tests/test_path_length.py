"""Perceptual path length against the closed form of a linear decoder, and what it sees and refuses."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers_metrics import FakeRecipe, FakeSubject, examples, spec
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.path_length import PathLength, on_circle
from bench.schema import DataSpec, Estimate, Status
from bench.subjects.base import Decoder
from bench.subjects.examples import Examples

DIM, CODES = 5, 3


class Decodes(FakeSubject):
    """A decoder and nothing else."""

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        super().__init__({})
        self.mean = mean

    def decoder(self) -> Decoder:
        return Decoder(CODES, self.mean)


def measured(mean: Callable[[Tensor], Tensor], of: DataSpec, n: int = 4000, step: float = 0.01) -> Estimate:
    nothing = Split(torch.zeros(0, *of.shape))
    context = Examples(Decodes(mean), Data(of, nothing, nothing, nothing), seed=0)
    (found,) = evaluate(context, {"it": PathLength(FakeRecipe(), n, step)})["it"]
    return found


@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize("step", [1e-3, 0.25])
def test_a_linear_decoder_has_the_closed_form(levels: int | None, step: float) -> None:
    a = torch.randn(CODES, DIM, generator=Generator().manual_seed(0)) / 10
    found = measured(lambda z: z @ a + 0.1, spec(DIM, levels), step=step)
    unit = 1.0 if levels is None else 127.5
    expected = unit**2 * float(a.double().square().sum()) * (2 - 2 * math.cos(math.pi * step / 2)) / step**2
    assert found.info.name == "path_length[toy-cnn]"
    assert found.info.higher_is_better is None
    assert found.value is not None
    assert found.stderr is not None
    assert abs(found.value - expected) < 4 * found.stderr
    assert found.stderr < 0.03 * expected


def test_pictures_are_measured_in_levels_from_the_lowest_to_the_highest() -> None:
    """The same paths of the same decoder, whose -1 .. 1 stand for 0 .. L - 1."""
    a = torch.randn(CODES, DIM, generator=Generator().manual_seed(0)) / 10
    plain, levels = (measured(lambda z: z @ a, spec(DIM, levels), n=300, step=0.25) for levels in (None, 4))
    assert (levels.value, levels.stderr) == pytest.approx((1.5**2 * plain.value, 1.5**2 * plain.stderr), rel=1e-4)  # type: ignore[operator]


def test_the_error_is_the_spread_over_other_paths() -> None:
    a = torch.randn(CODES, DIM, generator=Generator().manual_seed(0))
    speeds = (math.pi / 2 * torch.randn(4000, CODES, generator=Generator().manual_seed(1)) @ a).square().sum(1)
    found = measured(lambda z: z @ a, spec(DIM), n=4000)
    assert found.stderr == pytest.approx(float(speeds.std()) / math.sqrt(4000), rel=0.1)


def test_points_of_a_path_are_standard_normal() -> None:
    first, second = torch.randn(2, 20_000, CODES, generator=Generator().manual_seed(0))
    assert torch.equal(on_circle(first, second, torch.zeros(20_000)), first)
    middle = on_circle(first, second, torch.full((20_000,), 0.3))
    assert torch.allclose(torch.cov(middle.T), torch.eye(CODES), atol=0.05)


def test_jumps_make_paths_long_and_a_constant_has_none() -> None:
    a = torch.ones(CODES, DIM) / math.sqrt(CODES)
    smooth, jumping = measured(lambda z: z @ a, spec(DIM)), measured(lambda z: (z @ a).sign(), spec(DIM))
    assert smooth.value is not None
    assert jumping.value is not None
    assert jumping.value > 10 * smooth.value
    constant = measured(lambda z: torch.zeros(len(z), DIM), spec(DIM))
    assert (constant.value, constant.stderr) == (0, 0)


def test_the_same_question_has_the_same_answer() -> None:
    before = measured(lambda z: z.repeat(1, 2)[:, :DIM], spec(DIM), n=300)
    assert before == measured(lambda z: z.repeat(1, 2)[:, :DIM], spec(DIM), n=300)


def test_what_has_no_decoder_is_skipped_and_what_breaks_fails() -> None:
    context = examples(spec(DIM), real=torch.zeros(3, DIM))
    (found,) = evaluate(context, {"it": PathLength(FakeRecipe(), 10, 0.1)})["it"]
    assert (found.status, found.reason) == (Status.SKIPPED, "the model has no decoder of standard normal codes")
    found = measured(lambda z: torch.full((len(z), DIM), math.nan), spec(DIM))
    assert (found.status, found.reason) == (Status.FAILED, "features of decoded codes are not finite")
    for n, step in ((1, 0.1), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="must be at least 2 and step between 0 and 1"):
            PathLength(FakeRecipe(), n, step)
