"""Estimates to rows: each number with where it came from and how it was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from bench.config.spec import Measurement
from bench.schema import DataSpec, Estimate, ResultRow
from bench.subjects.base import Origin

__all__ = ["rows_of"]

_ORIGIN = [item.name for item in fields(Origin)]
_ESTIMATE = [item.name for item in fields(Estimate) if item.name != "info"]


def rows_of(
    estimates: Mapping[str, Sequence[Estimate]],
    measurements: Sequence[Measurement],
    origin: Origin,
    data: DataSpec,
    split: str = "test",
) -> list[ResultRow]:
    """One row for each estimate.

    Arguments:
        estimates: By the name of the measurement that they are of.
        split: What the test examples are.
    """
    return [
        _row(estimate, measurement, origin, data, split)
        for measurement in measurements
        for estimate in estimates[measurement.name]
    ]


def _row(estimate: Estimate, measurement: Measurement, origin: Origin, data: DataSpec, split: str) -> ResultRow:
    info = estimate.info
    return ResultRow(
        **{name: getattr(origin, name) for name in _ORIGIN},
        **{name: getattr(estimate, name) for name in _ESTIMATE},
        dataset=data.name, data_revision=data.revision, split=split,
        measuring_key=measurement.key, sampling_seed=measurement.sampling_seed,
        metric=info.name, metric_title=info.title, metric_version=info.version, rank=info.rank,
        unit=info.unit, higher_is_better=info.higher_is_better,
    )  # fmt: skip
