"""The contract between metrics and the evaluator."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from bench.data.base import Modes
from bench.schema import DataSpec, Estimate, MetricInfo

__all__ = ["Context", "Extractor", "Metric", "Need", "classifier_name"]


class Need(StrEnum):
    """What a metric needs from the model or the data; a run without it gets the row ``skipped`` and a reason."""

    SAMPLES = "samples"
    LIKELIHOOD = "a likelihood"
    INTEGER_DATA = "integer-valued data"
    CLASSIFIER = "an in-domain classifier"
    MODES = "known modes"


def classifier_name(spec: DataSpec) -> str:
    """The in-domain classifier of a data set: ``<name>-cnn``; digit sets share ``mnist-cnn``, told apart by its hash.

    Known without a classifier, so that a skipped or failed row bears the same name as a measured one.
    """
    return "mnist-cnn" if spec.name.startswith("mnist") else f"{spec.name}-cnn"


class Extractor(Protocol):
    """What turned examples into features: its name and hash stand in every number made from them."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...

    @property
    def accuracy(self) -> float:
        """Share of the ``n_test`` labelled test examples it classifies rightly."""

    @property
    def n_test(self) -> int: ...


class Context(Protocol):
    """What the evaluator computed once and every metric shares. All tensors are on the CPU."""

    @property
    def spec(self) -> DataSpec: ...

    @property
    def real(self) -> Tensor:
        """The test split, ``(N, *shape)``, in the data's own dtype."""

    @property
    def held_out(self) -> Tensor:
        """Validation and test split together: real examples that no model was trained on."""

    @property
    def samples(self) -> Tensor:
        """Model samples ``(n_samples, *shape)``."""

    @property
    def log_weights(self) -> Tensor:
        """``(K, N)`` float64 draws of the model's ``log_weight`` on ``real``, in nats; K = 1 if it is exact."""

    @property
    def relation(self) -> str:
        """The model's likelihood relation; empty where there is no likelihood."""

    @property
    def extractor(self) -> Extractor:
        """The data set's in-domain classifier."""

    def features(self, x: Tensor) -> Tensor:
        """``(N, F)`` float32 features of examples under the extractor. Computed once for each distinct tensor."""

    def probabilities(self, x: Tensor) -> Tensor:
        """``(N, classes)`` float32 class probabilities under the extractor; rows sum to 1."""

    @property
    def modes(self) -> Modes:
        """The data's modes."""

    @property
    def mode_classifier(self) -> str:
        """Name of the classifier that tells the data's modes apart, known without it; empty where none does."""

    @property
    def mode_extractor(self) -> Extractor | None:
        """That classifier, or None."""

    @property
    def seed(self) -> int:
        """For metrics that draw random numbers: derive from it, never use the global generator."""

    @property
    def cost_names(self) -> tuple[str, ...]:
        """What the model counts besides, known without counting; empty for most."""

    @property
    def costs(self) -> dict[str, float]:
        """``parameters``, ``train_seconds``, ``train_examples_per_second``, ``samples_per_second``; those known. And
        the model's own counts."""


class Metric(ABC):
    """A pure function of a context, configured by one YAML in conf/metric.

    Subclasses are final. ``needs`` is asked before ``compute``; ``compute`` may assume it is met. What single numbers
    need besides, by name, is in ``needs_of``; where that is not met, ``compute`` skips them.
    """

    needs: tuple[Need, ...] = ()
    needs_of: Mapping[str, tuple[Need, ...]] = MappingProxyType({})

    @abstractmethod
    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        """The numbers this metric makes, in order, known without computing them."""

    @abstractmethod
    def compute(self, context: Context) -> list[Estimate]:
        """One estimate for each info, in that order."""
