"""Controls of molecule metrics: samples of which is known what a metric should say.

- ``training_copies``: molecules of the training split. Their novelty is 0.
- ``held_out``: test molecules that nothing is compared with, refused ones included: what a perfect model would get. Its
  validity is the data's own ceiling, below 1 where real molecules are out of reach of the graph vector.
- ``one_carbon_more``: training molecules with a carbon bound to a random atom. Nearly all of them are valid, different
  and new, and no model was needed.
- ``random_graphs``: random trees and rings that keep the valences, of the training split's sizes and atoms. All are
  valid.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import RandomState

from bench.data.base import Data
from bench.data.formats.molecule_facts import MoleculeFacts
from bench.data.formats.smiles import Chemistry, Refused, canonical, from_vector
from bench.data.formats.smiles_files import Line
from bench.seeds import derive_seed

__all__ = ["controls"]

Draw = Callable[[int], Sequence[Line]]

_VALENCES = {"C": 4, "N": 3, "O": 2, "S": 2, "P": 3, "F": 1, "Cl": 1, "Br": 1, "I": 1}
_RINGS = 3  # at most, of those that random trees are closed to
_SEEN = 10_000  # training molecules that sizes and atoms are counted in


def controls(data: Data) -> dict[str, Draw]:
    """Return what draws each control of data that are molecules, by its name. The draws are the data's, not a run's."""
    facts = data.molecules
    assert facts is not None
    return {
        "training_copies": lambda n: _copies(data, facts.chemistry, n),
        "held_out": lambda n: _held_out(data, facts, n),
        "one_carbon_more": lambda n: _grown(data, facts.chemistry, n),
        "random_graphs": lambda n: _random(data, facts.chemistry, n),
    }


def _stream(name: str) -> RandomState:
    return RandomState(derive_seed(0, "molecule controls", name) % 2**32)


def _copies(data: Data, chemistry: Chemistry, n: int) -> list[Line]:
    chosen = _stream("training_copies").permutation(len(data.train))[:n]
    return [canonical(from_vector(data.train.x[int(i)].numpy(), chemistry)) for i in chosen]


def _held_out(data: Data, facts: MoleculeFacts, n: int) -> list[Line]:
    """Refused test molecules are half in this half, too, because the halves are drawn."""
    _, half = facts.halves(len(data.test))
    refused = [reason for reason, count in sorted(facts.refused.items()) for _ in range((count + 1) // 2)]
    chosen = _stream("held_out").permutation(len(half) + len(refused))[:n]
    made: list[Line] = []
    for i in chosen.tolist():
        if i < len(half):
            made.append(canonical(from_vector(data.test.x[int(half[i])].numpy(), facts.chemistry)))
        else:
            made.append(Refused(refused[i - len(half)]))
    return made


def _grown(data: Data, chemistry: Chemistry, n: int) -> list[Line]:
    from rdkit import Chem

    rng = _stream("one_carbon_more")
    made: list[Line] = []
    for i in rng.permutation(len(data.train)).tolist():
        if len(made) == n:
            break
        vector = data.train.x[i].numpy()
        if vector[chemistry.max_atoms - 1]:
            continue  # no place for another atom
        molecule = Chem.RWMol(from_vector(vector, chemistry))
        free = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetTotalNumHs()]
        if not free:
            continue
        Chem.Kekulize(molecule, clearAromaticFlags=True)
        at = molecule.GetAtomWithIdx(free[rng.randint(len(free))])
        at.SetNumExplicitHs(max(0, at.GetNumExplicitHs() - 1))  # pyrrole's hydrogen is written out
        molecule.AddBond(at.GetIdx(), molecule.AddAtom(Chem.Atom(6)), Chem.BondType.SINGLE)
        Chem.SanitizeMol(molecule)
        made.append(canonical(molecule))
    return made


def _random(data: Data, chemistry: Chemistry, n: int) -> list[Line]:
    rng = _stream("random_graphs")
    seen = data.train.x[:_SEEN, : chemistry.max_atoms].numpy()
    sizes = (seen > 0).sum(1)
    valences = np.array([_VALENCES.get(name, 0) for name in chemistry.atoms])  # charged atoms are left out
    weights = np.array([(seen == kind).sum() for kind in range(1, len(valences) + 1)]) * (valences > 0)
    p = weights / weights.sum()
    return [canonical(from_vector(_tree(int(rng.choice(sizes)), p, valences, chemistry, rng), chemistry))
            for _ in range(n)]  # fmt: skip


def _tree(
    n: int, p: "np.ndarray[tuple[int], np.dtype[np.float64]]", valences: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    chemistry: Chemistry, rng: RandomState,
) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":  # fmt: skip
    """Return the vector of a random molecule: a tree whose atoms bind no more than they can, closed to a few rings."""
    nodes = chemistry.max_atoms
    while True:
        kinds = rng.choice(len(p), n, p=p)
        free = valences[kinds].copy()
        bonds = np.zeros((n, n), np.uint8)
        for i in range(1, n):
            open_ends = np.flatnonzero(free[:i])
            if len(open_ends) == 0:
                break
            j = int(rng.choice(open_ends))
            bonds[j, i] = 1
            free[[i, j]] -= 1
        else:
            break  # all atoms are bound; otherwise the first ones took up all valences
    for _ in range(rng.randint(_RINGS + 1)):
        open_ends = np.flatnonzero(free)
        if len(open_ends) < 2:
            break
        i, j = sorted(rng.choice(open_ends, 2, replace=False).tolist())
        if bonds[i, j] < 3:  # a second bond between two atoms makes them closer, not a ring
            bonds[i, j] += 1
            free[[i, j]] -= 1
    vector = np.zeros(chemistry.length, np.uint8)
    vector[:n] = kinds + 1
    full = np.zeros((nodes, nodes), np.uint8)
    full[:n, :n] = bonds
    vector[nodes:] = full[np.triu_indices(nodes, 1)]
    return vector
