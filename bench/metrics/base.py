"""The interface of metrics."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Metric"]


class Metric(ABC):
    """A pure function of examples, configured by one YAML in conf/metric. Subclasses are final.

    Everything that its numbers depend on is an argument of its constructor and is listed in its YAML: the number of
    samples, the number of draws, the recipe of its features. It asks the examples for whatever it needs from the
    subject and the data. They raise UnavailableError if they cannot provide it; all numbers of the metric are then
    ``skipped``.

    Attributes:
        version: Increase it, here and in the YAML, when the same inputs give another number. Numbers of different
            versions are never ranked together.
        has_controls: Whether its numbers stand beside those of the data's controls (``bench.runs.controls``).
    """

    version: ClassVar[int] = 1
    has_controls: ClassVar[bool] = False

    @abstractmethod
    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        """Return a description of each number that ``compute`` returns, in order, without computing anything."""

    def inapplicable(self, examples: Examples) -> dict[str, str]:
        """Return, by name, why some of the numbers do not apply to these data. Only those numbers are ``skipped``."""
        return {}

    @abstractmethod
    def compute(self, examples: Examples) -> list[Estimate]:
        """Return one estimate for each info, in the same order.

        Raises:
            UnavailableError: The metric does not apply.
            BrokenError: The metric applies, but the subject's run failed.
        """

    def items(self, examples: Examples) -> Tensor | None:
        """Return the value of each test example, ``(N,)``, the mean of which is the first number; None without any.

        They are kept beside the rows, for paired comparisons. Asked after ``compute``, if the first number has a value:
        the examples then still hold what took long to compute.
        """
        return None

    def picture(self, examples: Examples) -> "tuple[str, Image.Image] | None":
        """Return what its picture is called, as a file's name can begin, and the picture; None without any.

        Asked when ``items`` is.
        """
        return None
