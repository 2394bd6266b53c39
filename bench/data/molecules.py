"""Molecules as graphs: MOSES and QM9 from packages, ZINC250k from the user's file.

Every molecule becomes one graph vector (``bench.data.formats.smiles``). A molecule that the vector cannot stand for is
refused by name and counted in the data's notes; refused molecules of the test split stay in the denominator of the
control ``held_out``, which shows how much of the real data a model of these graphs can reach at all. A graph that
repeats an earlier one is left out and counted, too. Splits are fixed by the data set, not by a run's seed.

The files are decoded once into the cache: 175 to 330 µs of one core a molecule, 9 minutes for all of MOSES.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.base import Data, Split
from bench.data.bytes.arrays import Chunks, decoded, revision
from bench.data.bytes.cache import DataFile, cache_dir, sha256
from bench.data.bytes.fetch import Request, announce, fetch
from bench.data.bytes.sources import Package
from bench.data.formats.molecule_facts import MoleculeFacts
from bench.data.formats.smiles import (
    BONDS,
    REFUSALS,
    Chemistry,
    Refused,
    canonical,
    key_of,
    quiet,
    rdkit_version,
    read_molecule,
    to_vector,
)  # fmt: skip
from bench.data.formats.smiles_files import read_column
from bench.errors import UserError
from bench.schema import DataSpec, GraphSpec, Kind
from bench.seeds import derive_seed

__all__ = ["MOSES_FILES", "QM9_FILES", "ZINC_FILE", "moses", "prepared", "qm9", "zinc250k"]

_SEED = 20251127
_VERSION = 1  # increase it when the same bytes give other graphs or splits
_CHUNK = 4096  # molecules
_SECONDS = 350e-6  # of one core, a molecule
_MOST_VALIDATION = 10_000
_LARGEST = 60  # atoms; the vector grows with the square
_ATOM = re.compile(r"\[(?!\d*H[+-]?\])[^\]]*\]|Br|Cl|(?<!\[)[BCNOPSFIbcnops](?![^\[]*\])")

MOSES_FILES = (
    DataFile("train.csv", "cc9d6e8e9534e25a7a36361529ae739ddda8036e9072b2fc5cea6930a0592144", 58_408_794),
    DataFile("test.csv", "0248e682a9c29ca7649184dd88a4edc83f48f0e84af6b923990069c3da4501b6", 6_490_097),
    DataFile("test_scaffolds.csv", "86c298db856515f4b31a90805de16a580c60a6adcc0ad700ae180d88ba0b9bce", 6_551_982),
)
QM9_FILES = (
    DataFile("qm9_part1.csv", "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3", 69_693_764),
    DataFile("qm9_part2.csv", "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61", 76_868_612),
    DataFile("qm9_part3.csv", "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43", 79_083_002),
)
ZINC_FILE = "250k_rndm_zinc_drugs_clean_3.csv"
_ZINC_MOLECULES = 249_455

_MOSES_PACKAGE = Package(
    "pip", "molsets", "0.3.1", "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34", "moses/dataset/data"
)
_QM9_PACKAGE = Package(
    "pip", "qm9pack", "1.0.3", "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0", "qm9pack/data"
)

_log = logging.getLogger("genbench")


def moses(
    path: str | None = None,
    max_atoms: int = 27,
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    scaffolds: bool = False,
) -> Data:
    """Return the molecules of MOSES: neutral, 7 types of atoms, up to 27 heavy atoms; 1,584,663 and 176,074.

    Train and test are the published files, in a fixed random order; validation is every 20th molecule of the training
    file, at most 10,000. All MOSES molecules are neutral and have no stereochemistry. Fewer atoms or molecules make
    another data set, which is named so (``moses-15atoms``).

    Polykovskiy et al. 2020, "Molecular sets (MOSES): a benchmarking platform for molecular generation models" (arXiv
    1811.12823).

    Arguments:
        path: A folder with train.csv, test.csv and test_scaffolds.csv, plain or ``.gz``, or the package's wheel. None:
            the cache, then the package.
        max_atoms: Larger molecules are left out.
        n_train, n_test: Read no more molecules than so many; None: all.
        scaffolds: Whether test is the published set of molecules whose scaffolds are not in train.

    Raises:
        UserError: No source has the files, or they hold other bytes; an argument is out of range; rdkit is missing.
    """
    files = fetch("moses", MOSES_FILES, (_MOSES_PACKAGE,), path)
    test = files[2 if scaffolds else 1]
    source = "Polykovskiy et al. 2020, arXiv 1811.12823; carried by the package molsets"
    return prepared(
        "moses", [file.sha256 for file in MOSES_FILES], Chemistry(max_atoms, ("C", "N", "O", "S", "F", "Cl", "Br")),
        lambda: list(read_column("moses", [files[0]], "SMILES")), lambda: list(read_column("moses", [test], "SMILES")),
        whole=27, limits=(n_train, n_test), kind="scaffolds" if scaffolds else "", licence="MIT", source=source,
    )  # fmt: skip


def qm9(
    path: str | None = None,
    max_atoms: int = 9,
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    charges: bool = False,
) -> Data:
    """Return the molecules of QM9 that pass its own consistency check: 130,831 of up to 9 atoms C, N, O and F.

    A fixed permutation splits them 80/10/10. 0.4 % hold charged atoms (zwitterions) and are refused unless charges are
    types of atoms.

    Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, "Quantum chemistry structures and properties of 134 kilo molecules".

    Arguments:
        path: A folder with qm9_part1.csv to qm9_part3.csv, plain or ``.gz``, or the package's wheel. None: the cache,
            then the package.
        max_atoms, n_train, n_test: As for ``moses``.
        charges: Whether charged atoms are types of their own; another data set, ``qm9-charges``.

    Raises:
        UserError: As for ``moses``.
    """
    files = fetch("qm9", QM9_FILES, (_QM9_PACKAGE,), path)
    atoms = ("C", "N", "O", "F", *(("N+", "O-", "C-", "N-", "O+", "C+") if charges else ()))
    source = "Ramakrishnan et al. 2014, doi 10.1038/sdata.2014.22; carried by the package qm9pack"
    return prepared(
        "qm9", [file.sha256 for file in QM9_FILES], Chemistry(max_atoms, atoms),
        lambda: list(read_column("qm9", files, "SMILES")), None,
        whole=9, limits=(n_train, n_test), kind="charges" if charges else "", licence="MIT", source=source,
    )  # fmt: skip


def zinc250k(
    path: str | None = None,
    max_atoms: int = 38,
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    charges: bool = True,
) -> Data:
    """Return ZINC250k, 249,455 molecules of up to 38 atoms, from the user's file.

    A fixed permutation splits them 80/10/10. About a third hold charged atoms, which are types of their own; without
    them these molecules are refused, and the data set is ``zinc250k-neutral``.

    Gómez-Bombarelli et al. 2018, "Automatic chemical design using a data-driven continuous representation of molecules"
    (arXiv 1610.02415).

    Arguments:
        path: ``250k_rndm_zinc_drugs_clean_3.csv`` or its folder; None: the folder zinc250k of the cache.
        max_atoms, n_train, n_test: As for ``moses``.
        charges: As for ``qm9``.

    Raises:
        UserError: The file is missing or does not hold the published number of molecules; else as for ``moses``.
    """
    place = cache_dir() / "zinc250k" if path is None else Path(path).expanduser()
    file = place if place.suffix == ".csv" else place / ZINC_FILE
    announce(Request("zinc250k", (file,), path=path))
    if not file.is_file():
        raise UserError(f"zinc250k: there is no {file}; put the right file there, the published {ZINC_FILE}, or set "
                        "data.path to it")  # fmt: skip

    def read() -> list[str]:
        lines = list(read_column("zinc250k", [file], "smiles"))
        if len(lines) != _ZINC_MOLECULES:
            raise UserError(f"zinc250k: {file} has {len(lines):,} molecules instead of the published "
                            f"{_ZINC_MOLECULES:,}; another file is another data set")  # fmt: skip
        return lines

    neutral = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
    atoms = (*neutral, *(("N+", "O-", "N-", "S-", "S+", "O+", "C-") if charges else ()))
    source = "Gomez-Bombarelli et al. 2018, arXiv 1610.02415, from ZINC"
    return prepared(
        "zinc250k", [sha256(file)], Chemistry(max_atoms, atoms), read, None,
        whole=38, limits=(n_train, n_test), kind="" if charges else "neutral", licence="as ZINC declares it",
        source=source,
    )  # fmt: skip


def prepared(
    name: str, hashes: Sequence[str], chemistry: Chemistry, read: Callable[[], list[str]],
    read_test: Callable[[], list[str]] | None, *, whole: int, limits: tuple[int | None, int | None], kind: str = "",
    licence: str, source: str,
) -> Data:  # fmt: skip
    """Return the data set of SMILES, decoded once into the cache.

    Arguments:
        name: Of the whole data set; a part of it is named by what it is a part of.
        hashes: Of the files.
        read: Returns the SMILES, those of the test split excepted where they have a file of their own.
        read_test: Returns those of the test split; None: the first tenth of the permuted SMILES.
        whole: Number of atoms with which nothing is left out.
        limits: The largest number of molecules in train and in test; None: all.
        kind: What else makes it another data set.

    Raises:
        UserError: An argument is out of range, or a split is empty.
    """
    nodes, (n_train, n_test) = chemistry.max_atoms, limits
    if not 2 <= nodes <= _LARGEST:
        raise UserError(f"{name}: max_atoms={nodes} must be from 2 to {_LARGEST}")
    for key, limit in (("n_train", n_train), ("n_test", n_test)):
        if limit is not None and limit < 2:
            raise UserError(f"{name}: {key}={limit} must be at least 2, or null for all")
    recipe = revision("molecules", *hashes, str(chemistry), str(limits), kind, str(_SEED), str(_VERSION))
    # Canonical SMILES, and so the keys of molecules, are those of one version of RDKit.
    arrays = decoded(name, revision(recipe, rdkit_version()), lambda: _decode(name, chemistry, read, read_test, limits))
    refused = {split: _counted(arrays[f"{split}_refused"]) for split in ("train", "test")}
    parts = [f"{nodes}atoms"] * (nodes != whole) + [kind] * bool(kind)
    parts += [f"{label}{limit}" for label, limit in (("train", n_train), ("test", n_test)) if limit is not None]
    train, val, test = (Split(torch.from_numpy(arrays[split])) for split in ("train", "val", "test"))
    spec = DataSpec(
        "-".join([name, *parts]), recipe, (chemistry.length,), 1 + max(len(chemistry.atoms), len(BONDS)),
        len(train), len(val), len(test), licence=licence, source=source, kind=Kind.GRAPHS,
        graph=GraphSpec(nodes, len(chemistry.atoms), len(BONDS), chemistry.atoms, BONDS),
    )  # fmt: skip
    # Larger molecules are no part of a data set of small ones; the others are real, and out of reach.
    unreachable = {why: n for why, n in refused["test"].items() if why not in ("too large", _REPEATED)}
    facts = MoleculeFacts(chemistry, np.sort(arrays["train_keys"]), unreachable)
    notes = [
        f"{spec.name}: {split}: left out {', '.join(f'{n:,} {why}' for why, n in left.items())}"
        for split, left in refused.items() if left
    ]  # fmt: skip
    return Data(spec, train, val, test, molecules=facts, notes=tuple(notes))


_REPEATED = "a repetition"
_REASONS = (*REFUSALS, _REPEATED)


def _counted(counts: NDArray[np.int64]) -> dict[str, int]:
    return {reason: n for reason, n in zip(_REASONS, counts.tolist(), strict=True) if n}


def _decode(
    name: str, chemistry: Chemistry, read: Callable[[], list[str]], read_test: Callable[[], list[str]] | None,
    limits: tuple[int | None, int | None],
) -> Chunks:  # fmt: skip
    """Yield the arrays of the splits in pieces: graph vectors, keys of canonical SMILES, counts of refusals.

    Test comes first, so that what repeats one of its graphs is left out of train.
    """
    lines = _permuted(name, "train", read())
    if read_test is None:
        test = lines[: len(lines) // 10]
        lines = lines[len(lines) // 10 :]
        held_out = 9  # of what is left: a tenth of all
    else:
        test, held_out = _permuted(name, "test", read_test()), 20
    n = len(lines) + len(test)
    _log.info("%s: reading %d molecules once, at most %.0f s", name, n, _SECONDS * n)
    seen: set[int] = set()
    yield from _split("test", test, chemistry, limits[1], seen)
    most = len(lines) // held_out if read_test is None else _MOST_VALIDATION
    yield from _split("train", lines, chemistry, limits[0], seen, held_out, most)


def _permuted(name: str, split: str, lines: list[str]) -> list[str]:
    rng = RandomState(derive_seed(_SEED, name, split) % 2**32)
    return [lines[i] for i in rng.permutation(len(lines)).tolist()]


def _split(
    split: str, lines: Iterable[str], chemistry: Chemistry, limit: int | None, seen: set[int], held_out: int = 0,
    most: int = 0,
) -> Chunks:  # fmt: skip
    """Yield a split's arrays; with ``held_out`` every so many-th molecule, at most ``most``, is one of validation."""
    counts = np.zeros(len(_REASONS), np.int64)
    made = {name: _Pieces(name, chemistry.length) for name in ([split, "val"] if held_out else [split])}
    n = kept = 0
    with quiet():
        for line in lines:
            if limit is not None and kept >= limit:
                break
            try:
                if len(_ATOM.findall(line)) > chemistry.max_atoms:  # fifty times as fast as reading it
                    raise Refused("too large")
                molecule = read_molecule(line, chemistry)
                vector, key = to_vector(molecule, chemistry), key_of(canonical(molecule))
            except Refused as refusal:
                counts[_REASONS.index(refusal.reason)] += 1
                continue
            if key in seen:
                counts[-1] += 1
                continue
            seen.add(key)
            n += 1
            of_val = held_out > 0 and n % held_out == 0 and n // held_out <= most
            kept += not of_val
            yield from made["val" if of_val else split].add(vector, key)
    for pieces in made.values():
        yield from pieces.rest()
        if pieces.n < 2:
            raise UserError(f"{pieces.name}: fewer than two molecules are left; raise max_atoms, n_train or n_test")
    yield f"{split}_refused", counts


class _Pieces:
    """Rows of one split, handed on in pieces."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.n, self._length = name, 0, length
        self._vectors: list[NDArray[np.uint8]] = []
        self._keys: list[int] = []

    def add(self, vector: NDArray[np.uint8], key: int) -> Iterator[tuple[str, NDArray[Any]]]:
        self._vectors.append(vector)
        self._keys.append(key)
        self.n += 1
        if len(self._keys) == _CHUNK:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield self.name, np.array(self._vectors, np.uint8).reshape(-1, self._length)
        yield f"{self.name}_keys", np.array(self._keys, np.uint64)
        self._vectors, self._keys = [], []
