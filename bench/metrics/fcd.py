"""Fréchet ChemNet distance: the Fréchet distance of ChemNet's features of molecules.

Preuer, Renz, Unterthiner, Hochreiter, Klambauer 2018, "Fréchet ChemNet distance: a metric for generative models for
molecules in drug discovery" (arXiv 1803.09518). It is of the valid samples, and biased by the numbers of molecules on
both sides, so the number of samples is part of its name: only equal numbers can be compared.
"""

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from bench.data.bytes.arrays import Arrays, decoded, revision
from bench.errors import UserError
from bench.features.chemnet import ChemNet
from bench.metrics.base import Metric
from bench.metrics.frechet import frechet_distance_from_features, frechet_stderr
from bench.metrics.intervals import measured
from bench.metrics.molecules import about_molecules
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["FCD", "kept_features"]

_BLOCK = 1000  # SMILES that are kept in one file


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
        name = f"fcd[{self.n_samples}]"
        return (MetricInfo(name, "", False, self.version, f"FCD[{self.n_samples}]", rank=32),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        made, real = examples.molecules(self.n_samples), examples.real_molecules(self.n_real)
        if min(len(made.smiles), len(real.smiles)) < 2:
            which = "valid samples" if len(made.smiles) < 2 else "test molecules"
            return [Estimate(info, status=Status.SKIPPED, reason=f"there are fewer than two {which}")]
        network = ChemNet(self.weights)
        of_real = kept_features(network, real.smiles)
        of_samples = network.features(made.smiles)
        value = max(0.0, frechet_distance_from_features(of_real, of_samples))
        test, draws = frechet_stderr(of_real, of_samples)
        return [
            measured(
                info, value, test=test, draws=draws, within=(0.0, math.inf), n_real=len(of_real), n_fake=made.n,
                **about_molecules(examples, network.name, network.hash),
            )
        ]  # fmt: skip


def kept_features(network: ChemNet, smiles: list[str]) -> Tensor:
    """Return the features ``(N, 512)`` of real molecules, from the cache as far as they lie there."""
    parts = []
    for start in range(0, len(smiles), _BLOCK):
        block = smiles[start : start + _BLOCK]
        key = revision(network.hash, *block)
        try:
            kept = decoded(f"features/{network.name}", key, partial(_arrays, network, block))
            parts.append(torch.from_numpy(kept["x"]))
        except UserError:  # the cache is not ours to write
            parts.append(network.features(block))
    return torch.cat(parts) if parts else network.features([])


def _arrays(network: ChemNet, smiles: list[str]) -> Arrays:
    return {"x": network.features(smiles).numpy()}
