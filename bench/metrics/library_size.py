"""Molecule metrics as functions of the number of samples, on which nearly all of them depend.

Uniqueness falls with the number of samples, similarities of fragments and scaffolds grow, and the Fréchet ChemNet
distance falls, whatever the model: compare curves, not values at different sizes. Özçelik, Grisoni 2025, "How
evaluation choices distort the outcome of generative drug discovery" (arXiv 2501.05457).
"""

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from bench.errors import UnavailableError
from bench.features.chemnet import ChemNet
from bench.metrics.base import Metric
from bench.metrics.chemnet_distance import chemnet_distance, kept_features
from bench.metrics.intervals import measured
from bench.metrics.molecule_pictures import size_curves
from bench.metrics.molecule_rules import about_molecules, novel
from bench.metrics.molecule_sets import cosine, fingerprints, fragments, internal_diversity, scaffolds
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LibrarySize"]

_NAMES = ("uniqueness", "valid_unique_novel", "internal_diversity", "fragment_similarity", "scaffold_similarity", "fcd")
_SMALLEST = 10


class LibrarySize(Metric):
    """Computes six metrics of the first n/8, n/4 and n/2 samples, and draws them and those of all n as curves.

    The names are those of ``molecules`` and ``fcd`` with the number of samples: ``uniqueness[500]``.

    Arguments:
        n_samples: The largest number n of the subject's samples.
        n_real: Test molecules that are compared with, at most half of the test split.
        weights: As for ``fcd``.
    """

    has_controls: ClassVar[bool] = True

    def __init__(self, n_samples: int, n_real: int, weights: str | None = None) -> None:
        self.n_samples = n_samples
        self.n_real = n_real
        self.weights = weights
        self._curves: dict[str, list[float | None]] = {}

    @property
    def sizes(self) -> list[int]:
        """The numbers of samples, ascending."""
        return [n for n in (self.n_samples // 8, self.n_samples // 4, self.n_samples // 2) if n >= _SMALLEST] + [
            self.n_samples
        ]

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return tuple(
            MetricInfo(f"{name}[{n}]", "", None, self.version, f"{name}[{n}]", 310)
            for name in _NAMES
            for n in self.sizes[:-1]
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        made, real = examples.molecules(self.n_samples), examples.real_molecules(self.n_real)
        if made.n < self.n_samples:
            raise UnavailableError(f"there are {made.n} samples, fewer than {self.n_samples}")
        if not self.sizes[:-1]:
            raise UnavailableError(f"n_samples={self.n_samples} is too small to be divided")
        network = ChemNet(self.weights)
        of_real, of_samples = kept_features(network, real.smiles), network.features(made.smiles)
        counts = {what: count(real.molecules) for what, count in _COUNTED.items()}
        found: dict[str, list[float | None]] = {name: [] for name in _NAMES}
        for n in self.sizes:
            part = made.first(n)
            valid = len(part.smiles)
            different = set(part.smiles)
            found["uniqueness"].append(len(different) / valid if valid else None)
            found["valid_unique_novel"].append(novel(different, examples) / n)
            found["internal_diversity"].append(internal_diversity(fingerprints(part.molecules)) if valid else None)
            for what, count in _COUNTED.items():
                found[f"{what}_similarity"].append(_similar(count(part.molecules), counts[what], what))
            enough = min(valid, len(of_real)) >= 2
            value = chemnet_distance(of_real, of_samples[:valid]) if enough else None
            found["fcd"].append(value)
        self._curves = found
        about = about_molecules(examples, network.name, network.hash)
        values = [(n, value) for name in _NAMES for n, value in zip(self.sizes[:-1], found[name], strict=False)]
        return [
            measured(info, value, n_real=len(real.smiles), n_fake=n, **about)
            if value is not None
            else Estimate(info, status=Status.SKIPPED, reason="too few samples are valid")
            for info, (n, value) in zip(self.infos(examples), values, strict=True)
        ]

    def picture(self, examples: Examples) -> "tuple[str, Image.Image] | None":
        """A panel for each of the six, its value over the number of samples."""
        return "library-size", size_curves(self.sizes, self._curves)


_COUNTED = {"fragment": fragments, "scaffold": scaffolds}


def _similar(a: Counter[str], b: Counter[str], what: str) -> float | None:
    try:
        return cosine(a, b, what)
    except UnavailableError:
        return None
