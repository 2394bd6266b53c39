r"""What is measured on sets of molecules: diversity, similarity to a reference, fragments and scaffolds.

The definitions are those of MOSES (Polykovskiy et al. 2020, arXiv 1811.12823). Fingerprints are Morgan's of radius 2,
1024 bits; T is Tanimoto's similarity, the share of common bits among those that either has, and 1 of two without bits.

- Internal diversity: :math:`1 - \frac{1}{n^2}\sum_{x,y} T(x, y)`, each molecule paired with itself as well.
- Similarity to the nearest neighbour (SNN): the mean over samples of the largest T to a reference molecule.
- Fragments (BRICS) and scaffolds (Murcko's, of at least two rings): the cosine of the vectors of counts.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import UnavailableError

__all__ = ["cosine", "fingerprints", "fragments", "internal_diversity", "nearest_similarity", "scaffolds"]

BITS = 1024
RADIUS = 2
LEAST_RINGS = 2
_BLOCK = 1024


def fingerprints(molecules: Sequence[Any]) -> Tensor:
    """Return Morgan fingerprints ``(N, 1024)`` float32 of zeros and ones."""
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    generator = GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    made = torch.zeros(len(molecules), BITS)
    for row, molecule in zip(made, molecules, strict=True):
        row.copy_(torch.from_numpy(generator.GetFingerprintAsNumPy(molecule)))
    return made


def internal_diversity(bits: Tensor) -> float:
    """Return 1 minus the mean similarity of all pairs of ``(N, F)``, N >= 1."""
    total = sum(_tanimoto(x, y).double().sum().item() for x in bits.split(_BLOCK) for y in bits.split(_BLOCK))
    return 1 - total / len(bits) ** 2


def nearest_similarity(bits: Tensor, reference: Tensor) -> Tensor:
    """Return the largest similarity of each of ``(N, F)`` to one of ``(M, F)``: ``(N,)`` float64."""
    found = []
    for x in bits.split(_BLOCK):
        nearest = torch.zeros(len(x))
        for y in reference.split(_BLOCK):
            nearest = torch.maximum(nearest, _tanimoto(x, y).max(dim=1).values)
        found.append(nearest)
    return torch.cat(found).double()


def fragments(molecules: Sequence[Any]) -> Counter[str]:
    """Return how often each BRICS fragment occurs."""
    from rdkit import Chem
    from rdkit.Chem.BRICS import BreakBRICSBonds

    counts: Counter[str] = Counter()
    for molecule in molecules:
        counts.update(Chem.MolToSmiles(BreakBRICSBonds(molecule)).split("."))
    return counts


def scaffolds(molecules: Sequence[Any]) -> Counter[str]:
    """Return how often each Murcko scaffold of at least two rings occurs."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol

    counts: Counter[str] = Counter()
    for molecule in molecules:
        if molecule.GetRingInfo().NumRings() >= LEAST_RINGS:  # a scaffold keeps all rings
            counts[Chem.MolToSmiles(GetScaffoldForMol(molecule))] += 1
    return counts


def cosine(a: Counter[str], b: Counter[str], what: str) -> float:
    """Return the cosine of two vectors of counts.

    Raises:
        UnavailableError: One side counts nothing; ``what`` says of what.
    """
    if not a or not b:
        raise UnavailableError(f"one side has no {what}")
    product = sum(n * b[name] for name, n in a.items() if name in b)
    return product / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def _tanimoto(x: Tensor, y: Tensor) -> Tensor:
    common = x @ y.T
    either = x.sum(dim=1)[:, None] + y.sum(dim=1) - common
    return torch.where(either > 0, common / either.clamp_min(1), torch.ones(()))
