"""SMILES to graph vectors and back, with a named refusal for everything that is no molecule of the data.

A molecule is a graph of its heavy atoms: the type of a node is an element with its formal charge (``C``, ``N+``), the
type of an edge is the order of the bond after kekulization (single, double, triple). Hydrogens are not stored; each
atom has as many as its valence leaves. The vector is the types of N places, present atoms first, then the N(N-1)/2 edge
types of the pairs i < j row by row; 0 is no atom or no bond. Atoms keep their order in the SMILES.

- Stereochemistry is dropped: two stereoisomers are one graph.
- Charged atoms are types of their own where the data has them (``Chemistry.atoms``), else refused.
- Isotopes, radicals, hydrogens that the valence does not explain, and bonds of other orders are refused.

Two molecules are equal if their canonical SMILES, made from the graph alone by one version of RDKit, are. RDKit (the
extra ``graphs``) is imported when a molecule is read or written, not before.
"""

import functools
import hashlib
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

__all__ = [
    "BONDS", "LONGEST", "REFUSALS", "Chemistry", "Judged", "Refused", "canonical", "from_vector", "judged", "key_of",
    "quiet", "rdkit_version", "read_molecule", "stated", "to_vector",
]  # fmt: skip

BONDS = ("single", "double", "triple")
LONGEST = 2000
"""Characters of a SMILES; a longer one is refused unread, because writing a chain of 100,000 atoms ends a process."""

REFUSALS = (
    "does not parse", "empty", "too long", "too large", "unknown atom", "unknown bond", "charged", "disconnected",
    "isotope", "radical", "unusual hydrogens", "impossible valence", "not a graph",
)  # fmt: skip
"""All the reasons why there is no molecule."""

_MOST_ATOMS = 400  # hydrogens that are written out included; more are refused before rings are looked for
_INSTALL = "molecules are read by the package rdkit, which is not installed; pip install 'genbench[graphs]'"


class Refused(Exception):  # noqa: N818 - what it says is the refusal
    """There is no molecule; ``reason`` is one of ``REFUSALS``."""

    def __init__(self, reason: str) -> None:
        assert reason in REFUSALS
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Chemistry:
    """Which molecules there are in a data set.

    Attributes:
        max_atoms: The largest number of heavy atoms N.
        atoms: Types of atoms, an element with its charge: ``C``, ``N+``, ``O-``, ``S+2``. Type k is the k-th from 1.
    """

    max_atoms: int
    atoms: tuple[str, ...]

    @property
    def length(self) -> int:
        """Of a graph vector: N + N(N-1)/2."""
        return self.max_atoms * (self.max_atoms + 1) // 2

    @property
    def charged(self) -> bool:
        """Whether some types of atoms are charged."""
        return any(name[-1] in "+-" or name[-1].isdigit() for name in self.atoms)


def rdkit_version() -> str:
    """Return the version of RDKit. Raises UserError where it is not installed."""
    return str(_rdkit("rdkit").__version__)


def stated(chemistry: Chemistry) -> str:
    """Return the rules in words, as they stand beside every number that is made of molecules."""
    charges = "charges as atom types" if chemistry.charged else "charges refused"
    return f"rdkit {rdkit_version()}: {charges}, no stereo, connected, at most {chemistry.max_atoms} atoms, uncorrected"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep RDKit from printing a line for every molecule that does not parse."""
    with _rdkit("rdkit.rdBase").BlockLogs():
        yield


def read_molecule(text: str, chemistry: Chemistry) -> Any:
    """Return the RDKit molecule of a SMILES: sanitized, without stereochemistry, its hydrogens implicit.

    Raises:
        Refused: It is no molecule of these data.
    """
    chem = _rdkit("rdkit.Chem")
    text = text.strip()
    if not text:
        raise Refused("empty")
    if len(text) > LONGEST:
        raise Refused("too long")
    try:
        made = chem.MolFromSmiles(text, sanitize=False)
    except Exception as error:  # Boost has exceptions of its own: lone surrogates
        raise Refused("does not parse") from error
    if made is None:
        raise Refused("does not parse")
    if made.GetNumAtoms() == 0:
        raise Refused("empty")
    if made.GetNumAtoms() > _MOST_ATOMS:
        raise Refused("too large")
    # Before sanitization, which looks for rings: atoms that bind anything could be one dense graph.
    elements = _elements(chemistry)
    if any(atom.GetAtomicNum() not in elements for atom in made.GetAtoms()):
        raise Refused("unknown atom")
    try:
        chem.SanitizeMol(made)
        made = chem.RemoveHs(made) if any(atom.GetAtomicNum() == 1 for atom in made.GetAtoms()) else made
    except Exception as error:
        valence = isinstance(error, chem.AtomValenceException)
        raise Refused("impossible valence" if valence else "does not parse") from error
    chem.RemoveStereochemistry(made)
    _check(made, chemistry)
    return made


def to_vector(molecule: Any, chemistry: Chemistry) -> NDArray[np.uint8]:
    """Return the graph vector ``(N + N(N-1)/2,)`` of a molecule that ``read_molecule`` returned.

    Raises:
        Refused: A hydrogen or a bond is not one that the vector can stand for.
    """
    chem = _rdkit("rdkit.Chem")
    kekulized = chem.Mol(molecule)
    chem.Kekulize(kekulized, clearAromaticFlags=True)
    explicit = [(atom, atom.GetTotalNumHs()) for atom in kekulized.GetAtoms() if atom.GetNoImplicit()]
    for atom, _ in explicit:
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    if explicit:
        kekulized.UpdatePropertyCache(strict=False)
        if any(atom.GetTotalNumHs() != hydrogens for atom, hydrogens in explicit):
            raise Refused("unusual hydrogens")
    nodes, types, orders = chemistry.max_atoms, _types(chemistry), _orders()
    vector = np.zeros(chemistry.length, np.uint8)
    for i, atom in enumerate(kekulized.GetAtoms()):
        vector[i] = types[atom.GetAtomicNum(), atom.GetFormalCharge()]
    for bond in kekulized.GetBonds():
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        order = orders.get(bond.GetBondType())
        if order is None:
            raise Refused("unknown bond")
        vector[nodes + i * (2 * nodes - i - 1) // 2 + j - i - 1] = order
    return vector


def from_vector(vector: NDArray[np.uint8], chemistry: Chemistry) -> Any:
    """Return the molecule of a graph vector, sanitized. Nothing is corrected, and no component is left out.

    Raises:
        Refused: The vector is no molecule.
    """
    chem = _rdkit("rdkit.Chem")
    nodes = chemistry.max_atoms
    if vector.shape != (chemistry.length,):
        raise ValueError(f"a graph vector of {nodes} places has {chemistry.length} entries, not {vector.shape}")
    kinds, edges = vector[:nodes], vector[nodes:]
    n = int((kinds > 0).sum())
    if n == 0:
        raise Refused("empty")
    if kinds.max() > len(chemistry.atoms):
        raise Refused("unknown atom")
    if edges.size and edges.max() > len(BONDS):
        raise Refused("unknown bond")
    i, j = _pairs(nodes)
    bonded = np.flatnonzero(edges)
    if (kinds[:n] == 0).any() or (j[bonded] >= n).any():
        raise Refused("not a graph")  # a gap between atoms, or a bond to no atom
    made, inverse = chem.RWMol(), _inverse(chemistry)
    for kind in kinds[:n].tolist():
        number, charge = inverse[kind]
        atom = chem.Atom(number)
        if charge:
            atom.SetFormalCharge(charge)
        made.AddAtom(atom)
    by_order = _bond_types()
    for first, second, order in zip(i[bonded].tolist(), j[bonded].tolist(), edges[bonded].tolist(), strict=True):
        made.AddBond(first, second, by_order[order])
    if len(chem.GetMolFrags(made)) > 1:
        raise Refused("disconnected")
    try:
        chem.SanitizeMol(made, _uncorrected())
    except Exception as error:
        raise Refused("impossible valence") from error
    if any(atom.GetNumRadicalElectrons() for atom in made.GetAtoms()):
        raise Refused("radical")
    return made.GetMol()


def canonical(molecule: Any) -> str:
    """Return the canonical SMILES without stereochemistry: equal graphs have equal ones."""
    return str(_rdkit("rdkit.Chem").MolToSmiles(molecule, isomericSmiles=False))


def key_of(smiles: str) -> int:
    """Return a canonical SMILES as 64 bits of its hash: two of a million differ with 1 - 3e-8 of probability."""
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Judged:
    """Samples as molecules.

    Attributes:
        reasons: Of each sample why it is no molecule, one of ``REFUSALS``; empty where it is one.
        molecules, smiles: Those that are molecules, in order, and their canonical SMILES.
    """

    reasons: tuple[str, ...]
    molecules: list[Any]
    smiles: list[str]

    @property
    def n(self) -> int:
        """Number of samples, refused ones included."""
        return len(self.reasons)

    @property
    def refused(self) -> Counter[str]:
        """How many are refused for which reason."""
        return Counter(reason for reason in self.reasons if reason)

    def first(self, n: int) -> "Judged":
        """Return the first n of the samples."""
        reasons = self.reasons[:n]
        there = reasons.count("")
        return Judged(reasons, self.molecules[:there], self.smiles[:there])


def judged(samples: Iterable["str | Refused | NDArray[np.uint8]"], chemistry: Chemistry) -> Judged:
    """Return which of the samples (SMILES, graph vectors, or refusals known before) are molecules.

    Nothing is left out: each sample is a molecule or has a reason.
    """
    reasons: list[str] = []
    molecules, smiles = [], []
    with quiet():
        for sample in samples:
            try:
                if isinstance(sample, Refused):
                    raise sample
                if isinstance(sample, str):
                    molecule = read_molecule(sample, chemistry)
                    to_vector(molecule, chemistry)  # refuses what a vector cannot stand for
                else:
                    molecule = from_vector(sample, chemistry)
                smiles.append(canonical(molecule))
                molecules.append(molecule)
                reasons.append("")
            except Refused as refusal:
                reasons.append(refusal.reason)
    return Judged(tuple(reasons), molecules, smiles)


def _check(molecule: Any, chemistry: Chemistry) -> None:
    types = _types(chemistry)
    if molecule.GetNumAtoms() == 0:
        raise Refused("empty")
    for atom in molecule.GetAtoms():
        number, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
        if atom.GetIsotope():
            raise Refused("isotope")
        if (number, charge) not in types:
            raise Refused("charged" if charge and number != 1 else "unknown atom")
        if atom.GetNumRadicalElectrons():
            raise Refused("radical")
    if len(_rdkit("rdkit.Chem").GetMolFrags(molecule)) > 1:
        raise Refused("disconnected")
    if molecule.GetNumAtoms() > chemistry.max_atoms:
        raise Refused("too large")


@functools.cache
def _rdkit(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(_INSTALL) from error


@functools.cache
def _types(chemistry: Chemistry) -> dict[tuple[int, int], int]:
    """The type of each atomic number and charge, from 1."""
    return {pair: kind for kind, pair in _inverse(chemistry).items()}


@functools.cache
def _inverse(chemistry: Chemistry) -> dict[int, tuple[int, int]]:
    """The atomic number and the charge of each type."""
    table = _rdkit("rdkit.Chem").GetPeriodicTable()
    made = {}
    for kind, name in enumerate(chemistry.atoms, start=1):
        element = name.rstrip("+-0123456789")
        charge = name[len(element) :]
        value = 0 if not charge else (1 if charge[0] == "+" else -1) * int(charge[1:] or 1)
        made[kind] = (int(table.GetAtomicNumber(element)), value)
    return made


@functools.cache
def _elements(chemistry: Chemistry) -> frozenset[int]:
    """Atomic numbers that may stand in a SMILES, hydrogen's too."""
    return frozenset({1, *(number for number, _ in _inverse(chemistry).values())})


@functools.cache
def _bond_types() -> dict[int, Any]:
    kinds = _rdkit("rdkit.Chem").BondType
    return {1: kinds.SINGLE, 2: kinds.DOUBLE, 3: kinds.TRIPLE}


@functools.cache
def _uncorrected() -> Any:
    """What sanitization does, but for the step that makes N+ and O- of a nitrogen with five bonds."""
    flags = _rdkit("rdkit.Chem").SanitizeFlags
    return flags.SANITIZE_ALL ^ flags.SANITIZE_CLEANUP ^ flags.SANITIZE_CLEANUP_ORGANOMETALLICS


@functools.cache
def _orders() -> dict[Any, int]:
    return {kind: order for order, kind in _bond_types().items()}


@functools.cache
def _pairs(nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    i, j = np.triu_indices(nodes, 1)
    return i, j
