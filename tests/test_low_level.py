"""Low-level statistics: pictures whose statistics are known, and errors against simulation."""

import math

import numpy as np
import pytest
import torch
from helpers_metrics import ALL, examples, spec
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.low_level import STATISTICS, LowLevel, low_level_statistics, standardized_difference
from bench.schema import DataSpec, Status

PICTURES = DataSpec("toy", "0", (1, 16, 16), 256, 10, 10, 10)


def noise(n: int, slope: float, seed: int, size: int = 32) -> Tensor:
    """Levels of noise whose power falls as frequency to the power ``slope``."""
    generator = Generator().manual_seed(seed)
    axis = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    radius = (axis[:, None].square() + axis[None].square()).sqrt().clamp_min(1)
    white = torch.fft.fft2(torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64))
    x = torch.fft.ifft2(white * radius ** (slope / 2)).real
    x = 128 + 30 * x / x.std((2, 3), keepdim=True)
    return x.round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("slope", [-2.0, -1.0, 0.0])
def test_the_spectrums_slope(slope: float) -> None:
    found = low_level_statistics(noise(100, slope, 1), 256)[:, 3]
    assert float(found.mean()) == pytest.approx(slope, abs=0.08)


def test_brightness_and_contrast_and_sharpness() -> None:
    x = noise(50, -1.0, 2)
    found = low_level_statistics(x, 256)
    flat = x.double().flatten(1) / 255
    torch.testing.assert_close(found[:, :2], torch.stack([flat.mean(1), flat.std(1)], dim=1))
    blurred = torch.nn.functional.avg_pool2d(x.double(), 3, 1, 1).round().to(torch.uint8)
    other = low_level_statistics(blurred, 256)
    assert bool((other[:, 2] < found[:, 2] - 1).all()), "blur takes sharpness"
    assert bool((other[:, 3] < found[:, 3]).all()), "and steepens the spectrum"
    plain = low_level_statistics(torch.full((2, 3, 9, 12), 7, dtype=torch.uint8), 256)
    assert bool(plain.isfinite().all())
    assert plain[0, 3].item() == pytest.approx(0), "one colour: a flat spectrum"


def test_errors_of_the_difference() -> None:
    generator = Generator().manual_seed(0)
    made = [
        standardized_difference(
            0.5 + 2 * torch.randn(150, generator=generator).double(), torch.randn(100, generator=generator).double()
        )
        for _ in range(1500)
    ]
    values, test, draws = torch.tensor(made).T
    assert float(values.mean()) == pytest.approx(0.5, abs=0.03)
    assert math.hypot(float(test.mean()), float(draws.mean())) == pytest.approx(float(values.std()), rel=0.08)


def test_rows() -> None:
    x = noise(60, -1.0, 3, size=16)
    made = evaluate(examples(PICTURES, real=x, samples=x[:40]), {"it": LowLevel(ALL)})["it"]
    assert [one.info.name for one in made] == list(STATISTICS)
    assert all(abs(one.value or 0) < 3 * (one.stderr or 0) for one in made)
    made = evaluate(examples(PICTURES, real=x, samples=(x // 2)[:40]), {"it": LowLevel(ALL)})["it"]
    assert (made[0].value or 0) < -3
    assert {one.status for one in evaluate(examples(spec(4), real=torch.zeros(9, 4), samples=torch.zeros(9, 4)),
                                           {"it": LowLevel(ALL)})["it"]} == {Status.SKIPPED}  # fmt: skip
    plain = torch.zeros(9, 1, 16, 16, dtype=torch.uint8)
    (row, *_) = evaluate(examples(PICTURES, real=plain, samples=x), {"it": LowLevel(ALL)})["it"]
    assert "the same brightness" in row.reason


def test_the_slope_is_the_least_squares_line_through_rings_by_their_size() -> None:
    x = noise(1, -1.5, 4, size=16)
    grey = x[0, 0].double().numpy() / 255
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2 / 256 + 1 / (12 * 255**2)
    axis = np.fft.fftfreq(16, 1 / 16)
    radius = np.hypot(axis[:, None], axis)
    rings = [np.round(radius) == ring for ring in range(1, 9)]
    t, y = ([np.mean(np.log(radius[ring])) for ring in rings], [np.log(power[ring].mean()) for ring in rings])
    slope = np.polyfit(t, y, 1, w=np.sqrt([ring.sum() for ring in rings]))[0]
    assert low_level_statistics(x, 256)[0, 3].item() == pytest.approx(slope, rel=1e-9)
