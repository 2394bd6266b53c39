"""Whether samples satisfy the constraint that all data satisfy, whether they differ, and whether they are new.

All three shares are of all samples drawn, so none can be raised by leaving samples out.
"""

import math

from torch import Tensor

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["Validity", "distinct_and_new"]


class Validity(Metric):
    """Computes ``valid``, ``valid_unique`` and ``valid_unique_novel``, for data with a known constraint.

    ``valid`` is the share of samples that satisfy the constraint, with its binomial error. ``valid_unique`` counts each
    valid sample once, ``valid_unique_novel`` only those that are not in the training set. The last two have no
    direction: they depend on how many valid examples there are, and on how many of them the training set holds, and
    the data themselves may have values far below 1.

    Arguments:
        n_samples: Number of the subject's samples.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (
            MetricInfo("valid", "", True, self.version, "valid", rank=30),
            MetricInfo("valid_unique", "", None, self.version, "valid, unique", rank=300),
            MetricInfo("valid_unique_novel", "", None, self.version, "valid, unique, novel", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        satisfies = examples.data.valid
        if satisfies is None:
            raise UnavailableError(f"{examples.spec.name} has no constraint that samples could violate")
        samples = examples.samples(self.n_samples)
        valid = samples[satisfies(samples)]
        n, p = len(samples), len(valid) / len(samples)
        low, high = wilson_interval(p, n)
        share, *others = self.infos(examples)
        return [
            measured(share, p, draws=math.sqrt(p * (1 - p) / n), ci_low=low, ci_high=high, n_fake=n),
            *(
                measured(info, count / n, n_fake=n)
                for info, count in zip(others, distinct_and_new(valid, examples.train), strict=True)
            ),
        ]


def distinct_and_new(x: Tensor, known: Tensor) -> tuple[int, int]:
    """Return how many different examples ``x`` (N, *shape) holds, and how many of those ``known`` (M, *shape) lacks."""
    made = _rows(x)
    return len(made), len(made - _rows(known)) if made else 0


def _rows(x: Tensor) -> set[bytes]:
    return {row.tobytes() for row in x.flatten(1).contiguous().numpy()}
