"""Fréchet ChemNet distance: the Fréchet distance of ChemNet's features of molecules.

Preuer, Renz, Unterthiner, Hochreiter, Klambauer 2018, "Fréchet ChemNet distance: a metric for generative models for
molecules in drug discovery" (arXiv 1803.09518). It is of the valid samples, and biased by the numbers of molecules on
both sides, so the number of samples is part of its name: only equal numbers can be compared.
"""

import math
from typing import ClassVar

from bench.features.chemnet import ChemNet
from bench.metrics.base import Metric
from bench.metrics.chemnet_distance import chemnet_distance, chemnet_stderr, kept_features
from bench.metrics.intervals import measured
from bench.metrics.molecule_rules import about_molecules
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["FCD"]


class FCD(Metric):
    """Computes ``fcd[<n>]`` between n samples and at most ``n_real`` test molecules.

    Arguments:
        n_samples: Number of the subject's samples.
        n_real: Test molecules that are compared with, at most half of the test split.
        weights: ChemNet's file, its folder or the wheel that holds it; None: the cache, then the package.
    """

    has_controls: ClassVar[bool] = True

    def __init__(self, n_samples: int, n_real: int, weights: str | None = None) -> None:
        self.n_samples = n_samples
        self.n_real = n_real
        self.weights = weights

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (self._info(self.n_samples),)

    def _info(self, n: int) -> MetricInfo:
        return MetricInfo(f"fcd[{n}]", "", False, self.version, f"FCD[{n}]", rank=32)

    def compute(self, examples: Examples) -> list[Estimate]:
        made, real = examples.molecules(self.n_samples), examples.real_molecules(self.n_real)
        info = self._info(made.n)  # a file may have fewer than are asked for
        if min(len(made.smiles), len(real.smiles)) < 2:
            which = "valid samples" if len(made.smiles) < 2 else "test molecules"
            return [Estimate(info, status=Status.SKIPPED, reason=f"there are fewer than two {which}")]
        network = ChemNet(self.weights)
        of_real = kept_features(network, real.smiles)
        of_samples = network.features(made.smiles)
        value = chemnet_distance(of_real, of_samples)
        test, draws = chemnet_stderr(of_real, of_samples)
        return [
            measured(
                info, value, test=test, draws=draws, within=(0.0, math.inf), n_real=len(of_real), n_fake=made.n,
                **about_molecules(examples, network.name, network.hash),
            )
        ]  # fmt: skip
