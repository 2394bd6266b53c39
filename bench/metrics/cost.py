"""What a model costs: parameters, training time, speed of training and of sampling; evaluations of its networks, where
their number is not fixed. Measured by the run itself."""

import contextlib

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["Cost"]

INFOS = (
    MetricInfo("parameters", "", None, title="parameters", rank=200),
    MetricInfo("train_seconds", "s", False, title="train s", rank=210),
    MetricInfo("train_examples_per_second", "1/s", True, title="train ex/s", rank=220),
    MetricInfo("samples_per_second", "1/s", True, title="samples/s", rank=230),
)

COUNTS = {
    "nfe_log_weight": MetricInfo("nfe_log_weight", "", None, title="NFE likelihood", rank=240),
    "nfe_sample": MetricInfo("nfe_sample", "", None, title="NFE sampling", rank=250),
    "series_terms": MetricInfo("series_terms", "", None, title="series terms", rank=260),
}


class Cost(Metric):
    """The subject's costs, as rows. They hold for the machine and its load at the time.

    A model that counts (``models.base.ReportsCost``) has a row for each of its counts besides: network evaluations
    (NFE) in one call for a batch of test examples or samples, terms of a power series. They hold for every machine, but
    are not ranked: the networks of two models are of different sizes.

    Arguments:
        n_samples: Samples that are drawn to time sampling.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (*INFOS, *(COUNTS[name] for name in examples.subject.cost_names))

    def compute(self, examples: Examples) -> list[Estimate]:
        with contextlib.suppress(UnavailableError):  # other costs are known all the same
            examples.samples(self.n_samples)  # its time is one of the costs
        costs = examples.subject.costs(examples.real)
        return [
            Estimate(info, costs[info.name])
            if info.name in costs
            else Estimate(info, status=Status.SKIPPED, reason="was not measured in this run")
            for info in self.infos(examples)
        ]
