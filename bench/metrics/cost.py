"""Costs of a model, measured by its run: parameters, training time, and speed of training and sampling.

Models whose number of network evaluations varies also report that number.
"""

import contextlib

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["Cost"]

INFOS = (
    MetricInfo("parameters", "", None, title="parameters", rank=200),
    # Version 1 of both stopped the clock at the checkpoint that was measured.
    MetricInfo("train_seconds", "s", False, 2, title="train s", rank=210),
    # A run that soon stops getting better has a short time to its best: the order says nothing alone.
    MetricInfo("seconds_to_best", "s", None, title="s to best", rank=215),
    MetricInfo("train_examples_per_second", "1/s", True, 2, title="train ex/s", rank=220),
    MetricInfo("samples_per_second", "1/s", True, title="samples/s", rank=230),
)

OTHERS = {
    "discriminator_parameters": MetricInfo(
        "discriminator_parameters", "", None, title="discriminator parameters", rank=205
    ),
    "nfe_log_weight": MetricInfo("nfe_log_weight", "", None, title="NFE likelihood", rank=240),
    "nfe_sample": MetricInfo("nfe_sample", "", None, title="NFE sampling", rank=250),
    "passes_sample": MetricInfo("passes_sample", "", None, title="passes to sample", rank=255),
    "series_terms": MetricInfo("series_terms", "", None, title="series terms", rank=260),
    "peak_memory_training": MetricInfo("peak_memory_training", "MiB", False, title="training MiB", rank=270),
    # Version 1 counted what other metrics had left on the device.
    "peak_memory_evaluation": MetricInfo("peak_memory_evaluation", "MiB", False, 2, title="evaluation MiB", rank=280),
}


class Cost(Metric):
    """Reports the subject's costs as rows. Times depend on the machine and its load during the run.

    ``train_seconds`` is the time of the whole training and ``seconds_to_best`` that until the best validation score;
    validation and checkpoints count in neither. Times on the CPU carry the ``load`` that they were measured under.

    A model with counts (``models.base.ReportsCost``) adds a row for each: network evaluations (NFE) in one call for a
    batch of test examples or samples, passes to sample such a batch, or terms of a power series. Counts do not depend
    on the machine. They are not ranked, because the networks of different models differ in size. A model with a
    discriminator adds the number of its parameters, which ``parameters`` includes.

    A model on a CUDA device adds the largest memory that tensors took there, in MiB: during the training steps, and
    while 250 samples are drawn and 250 test examples get a likelihood.

    Arguments:
        n_samples: Number of samples drawn to time sampling.
    """

    version = 2

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (*INFOS, *(OTHERS[name] for name in examples.subject.cost_names))

    def compute(self, examples: Examples) -> list[Estimate]:
        with contextlib.suppress(UnavailableError):  # the other costs do not need samples
            examples.samples(self.n_samples)  # shared with other metrics; drawing them is what is timed
        costs, loads = examples.subject.costs(examples.real, self.n_samples), examples.subject.loads(self.n_samples)
        drawn = {"samples_per_second": self.n_samples}  # the first batches cost more than later ones
        return [
            Estimate(info, costs[info.name], load=loads.get(info.name), n_fake=drawn.get(info.name))
            if info.name in costs
            else Estimate(info, status=Status.SKIPPED, reason="was not measured in this run")
            for info in self.infos(examples)
        ]
