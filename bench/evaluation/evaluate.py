"""Metrics to estimates: one that cannot apply is skipped, one that raises has failed; the others go on."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from bench.errors import BrokenError, UnavailableError, UserError, is_out_of_memory
from bench.metrics.base import Metric
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["evaluate"]

log = logging.getLogger("genbench")


def evaluate(examples: Examples, metrics: Mapping[str, Metric]) -> dict[str, list[Estimate]]:
    """Every metric's estimates, by the name it has in the configuration."""
    return {name: _estimates(name, metric, examples) for name, metric in metrics.items()}


def _estimates(name: str, metric: Metric, examples: Examples) -> list[Estimate]:
    examples.report(name, 0, 0)
    infos = metric.infos(examples)
    try:
        return [_with_caveat(estimate, examples) for estimate in metric.compute(examples)]
    except UnavailableError as lack:
        return [_without_value(info, Status.SKIPPED, str(lack)) for info in infos]
    except BrokenError as failure:
        apart = metric.inapplicable(examples)
        return [
            _without_value(info, Status.SKIPPED, apart[info.name])
            if info.name in apart
            else _without_value(info, Status.FAILED, str(failure))
            for info in infos
        ]
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        log.error("metric %s failed: %s", name, reason)
        log.info("where metric %s failed:", name, exc_info=True)  # for a run's log; nobody else is shown it
        reason = "out of memory" if is_out_of_memory(error) else reason
        return [_without_value(info, Status.FAILED, reason) for info in infos]


def _with_caveat(estimate: Estimate, examples: Examples) -> Estimate:
    """The estimate, with what a reader must know of the features and the samples that it was made from."""
    lost = examples.subject.lost if estimate.n_fake is not None else ""
    directed = estimate.info.higher_is_better is not None  # what is not ranked is often about copies itself
    copies = examples.copies(estimate.n_fake) if directed and estimate.n_fake is not None else ""
    said = [estimate.reason, lost, copies, examples.caveat(estimate.extractor, estimate.extractor_hash)]
    return estimate if estimate.value is None else replace(estimate, reason="; ".join(one for one in said if one))


def _without_value(info: MetricInfo, status: Status, reason: str) -> Estimate:
    return Estimate(info, status=status, reason=" ".join(reason.split()))
