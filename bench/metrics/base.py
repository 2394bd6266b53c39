"""The contract of metrics."""

from abc import ABC, abstractmethod
from typing import ClassVar

from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["Metric"]


class Metric(ABC):
    """A pure function of examples, configured by one YAML in conf/metric. Subclasses are final.

    Everything that its numbers depend on is an argument of its constructor, and so stands in its YAML: the number of
    samples, the draws, the recipe of its features. What it needs of the subject and of the data it asks the examples
    for, which raise UnavailableError where it is not to be had; all its numbers are then ``skipped``.

    Attributes:
        version: Raised whenever the same inputs would give another number, here and in the YAML. Numbers of different
            versions are never ranked together.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        """The numbers this metric makes, in order, known without computing them."""

    def inapplicable(self, examples: Examples) -> dict[str, str]:
        """Why single numbers do not apply to the data, whatever the subject, by name. They are ``skipped`` alone."""
        return {}

    @abstractmethod
    def compute(self, examples: Examples) -> list[Estimate]:
        """One estimate for each info, in that order.

        Raises:
            UnavailableError: The metric does not apply.
            BrokenError: It applies, but the subject's run failed.
        """
