"""Examples for metrics, filled in by hand."""

from typing import Any

import torch
from torch import Tensor

from bench.data.base import ClassifiedModes, Data, Modes, Split
from bench.errors import UnavailableError
from bench.features.base import Classifier, Note, Recipe
from bench.schema import DataSpec
from bench.subjects.base import Origin, Report, Subject, silent
from bench.subjects.examples import Examples

__all__ = ["ALL", "ORIGIN", "FakeClassifier", "FakeRecipe", "examples", "spec"]

EMPTY = torch.zeros(0)
ALL = 10**9
"""As many samples as were given."""
ORIGIN = Origin(
    run_id="toy-model-s0-1", training_key="t0", group="g0", model="model", model_family="flow", checkpoint="best"
)


class FakeClassifier(Classifier):
    """Features of an example: its entries. Probabilities: their softmax."""

    def __init__(self, name: str = "toy-cnn", hash: str = "abc", accuracy: float = 0.99, n_test: int = 500) -> None:
        self.name, self.hash, self.accuracy, self.n_test = name, hash, accuracy, n_test

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()

    def probabilities(self, x: Tensor) -> Tensor:
        return self.features(x).softmax(dim=1)

    def classes(self, x: Tensor) -> Tensor:
        return self.features(x).argmax(dim=1)


class FakeRecipe(Recipe):
    """Gives one classifier for all data."""

    def __init__(self, classifier: Classifier | None = None) -> None:
        self.classifier = FakeClassifier() if classifier is None else classifier

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return self.classifier.name

    def extractor(self, data: Data, note: Note | None = None) -> Classifier:
        return self.classifier


class FakeSubject(Subject):
    """Answers what it was given."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.origin = ORIGIN
        self.given = given
        self.relation = given.get("relation", "exact")
        self.cost_names = given.get("cost_names", ())

    def samples(self, n: int, report: Report = silent) -> Tensor:
        if "samples" not in self.given:
            raise UnavailableError("no samples were given")
        made: Tensor = self.given["samples"][:n]
        return made

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        made: Tensor = self.given["log_weights"]
        return made

    def class_log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        if "class_log_weights" not in self.given:
            raise UnavailableError("no likelihoods of classes were given")
        made: Tensor = self.given["class_log_weights"]
        return made

    def costs(self, x: Tensor, n: int) -> dict[str, float]:
        made: dict[str, float] = self.given.get("costs", {})
        return made


def examples(
    spec: DataSpec,
    *,
    real: Tensor | None = None,
    held_out: Tensor | None = None,
    seed: int = 0,
    modes: Modes | ClassifiedModes | None = None,
    labels: Tensor | None = None,
    **given: Any,
) -> Examples:
    """Examples of a subject that answers ``given``: samples, log_weights, relation, costs, cost_names.

    Arguments:
        real: The test split.
        labels: Of the test split.
        held_out: Validation and test split together, where it differs from ``real``.
    """
    like = given.get("samples", EMPTY)[:0]
    test = like if real is None else real
    val = like if held_out is None else held_out
    data = Data(spec, Split(like), Split(val), Split(test, labels), modes=modes)
    return Examples(FakeSubject(given), data, seed=seed)


def spec(dim: int, levels: int | None = None) -> DataSpec:
    return DataSpec("toy", "0", (dim,), levels, 1000, 500, 500, 10)
