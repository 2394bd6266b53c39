"""What a model costs: parameters, training time, speed of training and of sampling; evaluations of its networks, where
their number is not fixed. Measured by the run itself."""

from bench.metrics.base import Context, Metric
from bench.schema import Estimate, MetricInfo, Status

__all__ = ["Cost"]

INFOS = (
    MetricInfo("parameters", "", None, title="parameters"),
    MetricInfo("train_seconds", "s", False, title="train s"),
    MetricInfo("train_examples_per_second", "1/s", True, title="train ex/s"),
    MetricInfo("samples_per_second", "1/s", True, title="samples/s"),
)

COUNTS = {
    "nfe_log_weight": MetricInfo("nfe_log_weight", "", None, title="NFE likelihood"),
    "nfe_sample": MetricInfo("nfe_sample", "", None, title="NFE sampling"),
    "series_terms": MetricInfo("series_terms", "", None, title="series terms"),
}


class Cost(Metric):
    """The entries of ``Context.costs``, as rows. They hold for the machine and its load at the time.

    A model that counts (``models.base.ReportsCost``) has a row for each of its counts besides: network evaluations
    (NFE) in one call for a batch of test examples or samples, terms of a power series. They hold for every machine, but
    are not ranked: the networks of two models are of different sizes.
    """

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        return (*INFOS, *(COUNTS[name] for name in context.cost_names))

    def compute(self, context: Context) -> list[Estimate]:
        return [
            Estimate(info, context.costs[info.name])
            if info.name in context.costs
            else Estimate(info, status=Status.SKIPPED, reason="was not measured in this run")
            for info in self.infos(context)
        ]
