"""What a model costs: parameters, training time, speed of training and of sampling. Measured by the run itself."""

from bench.metrics.base import Context, Metric
from bench.schema import Estimate, MetricInfo, Status

__all__ = ["Cost"]

INFOS = (
    MetricInfo("parameters", "", None, title="parameters"),
    MetricInfo("train_seconds", "s", False, title="train s"),
    MetricInfo("train_examples_per_second", "1/s", True, title="train ex/s"),
    MetricInfo("samples_per_second", "1/s", True, title="samples/s"),
)


class Cost(Metric):
    """The entries of ``Context.costs``, as rows. They hold for the machine and its load at the time."""

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        return INFOS

    def compute(self, context: Context) -> list[Estimate]:
        return [
            Estimate(info, context.costs[info.name])
            if info.name in context.costs
            else Estimate(info, status=Status.SKIPPED, reason="was not measured in this run")
            for info in self.infos(context)
        ]
