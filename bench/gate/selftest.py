r"""What the gate does on a baseline that did not change: false alarms and power, by resampling the baseline itself.

New seeds are drawn from the smoothed bootstrap of B. W. Silverman and G. A. Young (1987): a value of the baseline plus
normal noise of width h, shrunk so that the variance stays :math:`s^2`. Without the noise, three seeds drawn three times
would often be the same seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.gate.compare import Shift, effect, p_value, paired
from bench.gate.finding import LEVEL
from bench.gate.items import Items
from bench.seeds import derive_seed

__all__ = ["Calibration", "calibrate", "false_alarms_and_power", "smoothed", "to_text"]

REPETITIONS = 4000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How often one comparison of a metric, at the level of 5 %, is wrong and right.

    Attributes:
        metric: Its name.
        lines: Models on data sets with at least 3 seeds.
        seeds: The fewest and the most seeds of a line.
        false_alarms, worst: Share of unchanged models that are called worse: the mean over lines, and the largest.
        power, weakest: Share of models worse by the printed detectable effect that are: the mean, and the smallest.
    """

    metric: str
    lines: int
    seeds: tuple[int, int]
    false_alarms: float
    worst: float
    power: float
    weakest: float


def calibrate(base: Items, repetitions: int = REPETITIONS) -> list[Calibration]:
    """Resample each line of the baseline that has at least 3 seeds, as many seeds on both sides."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for line, items in sorted(base.items()):
        for (metric, _), item in items.items():
            if not item.sign or item.is_exact or len(item.values) < 3 or not item.keys:
                continue
            values = item.sign * item.panel(item.seeds, sorted(item.keys)).mean(1)
            rng = np.random.default_rng(derive_seed(0, "gate", "self-test", *line.place, metric))

            def draw(size: tuple[int, int], values: Floats = values, rng: np.random.Generator = rng) -> Floats:
                return smoothed(values, size, rng)

            rates = false_alarms_and_power(paired, draw, draw, len(values), len(values), repetitions)
            found.setdefault(metric, []).append((len(values), *rates))
    made = []
    for metric, all_lines in sorted(found.items()):
        n, alarms, power = (np.array(column) for column in zip(*all_lines, strict=True))
        made.append(
            Calibration(
                metric, len(n), (int(n.min()), int(n.max())), float(alarms.mean()), float(alarms.max()),
                float(power.mean()), float(power.min()),
            )
        )  # fmt: skip
    return made


def false_alarms_and_power(
    test: Callable[[Floats, Floats], Shift],
    draw_base: Callable[[tuple[int, int]], Floats],
    draw_new: Callable[[tuple[int, int]], Floats],
    n: int,
    m: int,
    repetitions: int,
) -> tuple[float, float]:
    """How often ``test`` finds no change worse, and a change by the detectable effect that it printed before.

    The effect is that of one comparison without a change; it is then added to other new values.

    Arguments:
        draw_base, draw_new: Draw values of equal means, of the given shape.
        n, m: Seeds of the new rows and of the baseline.
    """
    base, new, later = draw_base((repetitions, m)), draw_new((repetitions, n)), draw_new((repetitions, n))
    found = test(new, base)
    df = np.round(found.df, 2)
    ratio = {one: effect(1.0, one, LEVEL) for one in np.unique(df)}
    worse = np.array([ratio[one] for one in df]) * found.stderr
    again = test(later + worse[:, None], base)
    return float((p_value(found) <= LEVEL).mean()), float((p_value(again) <= LEVEL).mean())


def to_text(calibrations: list[Calibration]) -> str:
    """A line a metric."""
    lines = [f"{'metric':<28} {'lines':>5} {'seeds':>6} {'false alarms':>13} {'worst':>7} {'power':>7} {'weakest':>8}"]
    for one in calibrations:
        seeds = "-".join(map(str, dict.fromkeys(one.seeds)))
        lines.append(
            f"{one.metric:<28} {one.lines:>5} {seeds:>6} {one.false_alarms:>13.1%} {one.worst:>7.1%} "
            f"{one.power:>7.1%} {one.weakest:>8.1%}"
        )
    return "\n".join(lines) + "\n"


def smoothed(values: Floats, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Draws from the smoothed bootstrap of a few values: their mean, their variance, nearly their shape."""
    mean, spread = values.mean(), values.std(ddof=1)
    width = 1.06 * spread * len(values) ** -0.2
    drawn = rng.choice(values, size) - mean + width * rng.normal(size=size)
    shrunk = np.sqrt(spread**2 / (values.var() + width**2)) if spread > 0 else 1.0
    return np.asarray(mean + shrunk * drawn)
