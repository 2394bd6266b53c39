"""SMILES and graph vectors, files of SMILES, data sets of molecules. Needs rdkit."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_molecules import CHEMISTRY, TEST, TRAIN, small_molecules

from bench.data.bytes.fetch import request_of
from bench.data.formats import smiles as formats
from bench.data.formats.smiles import (
    BONDS,
    LONGEST,
    Chemistry,
    Refused,
    canonical,
    from_vector,
    judged,
    key_of,
    read_molecule,
    to_vector,
)  # fmt: skip
from bench.data.formats.smiles_files import read_column, read_smiles, sha256_of_lines
from bench.data.molecules import zinc250k
from bench.errors import UserError
from bench.schema import Kind
from models.graphs import is_graph, unpack

Chem = pytest.importorskip("rdkit.Chem")

IONS = Chemistry(9, ("C", "N", "O", "F", "N+", "O-"))


def test_a_vector_by_hand() -> None:
    """Acetonitrile: three atoms, a single and a triple bond, pairs in the order 01 02 03 12 13 23."""
    small = Chemistry(4, ("C", "N"))
    vector = to_vector(read_molecule("CC#N", small), small)
    assert vector.tolist() == [1, 1, 2, 0, *(1, 0, 0, 3, 0, 0)]
    assert canonical(from_vector(vector, small)) == "CC#N"
    assert BONDS[3 - 1] == "triple"


@pytest.mark.parametrize("text", ["c1cc[nH]c1", "C[C@H](O)F", "C/C=C/C", "[H]OC", "C1CC1C#N", "O=c1cc[nH]cc1"])
def test_a_molecule_survives_its_vector(text: str) -> None:
    molecule = read_molecule(text, CHEMISTRY)
    vector = to_vector(molecule, CHEMISTRY)
    assert canonical(from_vector(vector, CHEMISTRY)) == canonical(molecule)
    assert is_graph(torch.from_numpy(vector)[None], 9, 4, 3).item()


def test_charges_are_types_of_atoms_where_the_data_have_them() -> None:
    molecule = read_molecule("C[N+](=O)[O-]", IONS)
    vector = to_vector(molecule, IONS)
    assert sorted(vector[:4].tolist()) == [1, 3, 5, 6]
    assert canonical(from_vector(vector, IONS)) == "C[N+](=O)[O-]"


def test_the_order_of_atoms_is_no_part_of_a_molecule() -> None:
    rng = np.random.RandomState(0)
    for text in TRAIN[::3]:
        vector = to_vector(read_molecule(text, CHEMISTRY), CHEMISTRY)
        types, edges, _ = (part[0] for part in unpack(torch.from_numpy(vector)[None], 9))
        n = int((types > 0).sum())
        order = torch.tensor([*rng.permutation(n), *range(n, 9)])
        moved = torch.cat([types[order], edges[order][:, order][*torch.triu_indices(9, 9, 1)]]).to(torch.uint8).numpy()
        assert canonical(from_vector(moved, CHEMISTRY)) == canonical(from_vector(vector, CHEMISTRY))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), ("   ", "empty"), ("C(", "does not parse"), ("smiles", "does not parse"),
        ("\udcff", "does not parse"),
        ("c1cccc1", "does not parse"), ("C" * (LONGEST + 1), "too long"), ("C" * 10, "too large"),
        ("C" * 500, "too large"), ("C[Si]", "unknown atom"), ("*", "unknown atom"), ("[H][H]", "unknown atom"),
        ("C[NH3+]", "charged"), ("C.C", "disconnected"), ("[13CH4]", "isotope"), ("C[2H]", "isotope"),
        ("[CH3]", "radical"), ("C(C)(C)(C)(C)C", "impossible valence"), ("C$C", "unknown bond"),
    ],
)  # fmt: skip
def test_refusals_have_names(text: str, reason: str) -> None:
    assert judged([text], CHEMISTRY).reasons == (reason,)


def test_vectors_that_are_no_molecules_are_refused_by_name() -> None:
    small = Chemistry(3, ("C", "F"))
    vectors = {
        (0, 0, 0, 0, 0, 0): "empty", (1, 0, 1, 0, 0, 0): "not a graph", (1, 1, 0, 1, 1, 0): "not a graph",
        (1, 1, 0, 0, 0, 0): "disconnected", (3, 0, 0, 0, 0, 0): "unknown atom", (1, 1, 0, 4, 0, 0): "unknown bond",
        (2, 2, 0, 2, 0, 0): "impossible valence", (1, 2, 0, 1, 0, 0): "",
    }  # fmt: skip
    made = judged((np.array(vector, np.uint8) for vector in vectors), small)
    assert made.reasons == tuple(vectors.values())
    assert (made.n, made.smiles, made.refused["not a graph"]) == (8, ["CF"], 2)
    assert made.first(7).smiles == []
    assert made.first(8).smiles == ["CF"]
    with pytest.raises(ValueError, match="6 entries"):
        from_vector(np.zeros(5, np.uint8), small)


def test_a_nitrogen_with_five_bonds_is_not_corrected_to_charges() -> None:
    for chemistry in (CHEMISTRY, IONS):
        vector = np.zeros(chemistry.length, np.uint8)
        vector[:4] = 1, 2, 3, 3
        vector[9:][[0, 8, 9]] = 1, 2, 2  # C-N, and two double bonds of N to O
        assert judged([vector], chemistry).reasons == ("impossible valence",)
    nitro = to_vector(read_molecule("C[N+](=O)[O-]", IONS), IONS)
    assert judged([nitro], IONS).smiles == ["C[N+](=O)[O-]"]


def test_no_input_ends_the_process() -> None:
    rng = np.random.RandomState(1)
    letters = list("CNOFcnos()[]=#@+-123456789%./\\*:$ HBrlSi\x00\xe9\n")
    texts = ["".join(rng.choice(letters, rng.randint(1, 40))) for _ in range(300)]
    dense = "".join(f"C%{10 + i}" for i in range(60)) + "." + "".join(f"C%{10 + i}" for i in range(60))
    texts += ["(" * 1000, "C1" * 900, "[" * 1999, "C%10" * 400, dense, "[" + "9" * 500 + "C]", "C" + "=C" * 900]
    made = judged(texts, CHEMISTRY)
    assert made.n == len(texts)
    assert len(made.molecules) + made.refused.total() == len(texts)


def test_a_file_of_smiles_loses_no_line(tmp_path: Path) -> None:
    file = tmp_path / "mols.smi"
    file.write_bytes(b"smiles\nCCO ethanol\n\nC\xff\r\n" + b"C" * (10 << 20) + b"\nCC\n" + b"C" * LONGEST)
    lines = read_smiles(file)
    assert [line if isinstance(line, str) else line.reason for line in lines] == [
        "CCO", "", "C\ufffd", "too long", "CC", "C" * LONGEST,
    ]  # fmt: skip
    assert sha256_of_lines(lines) != sha256_of_lines(lines[::-1])
    (tmp_path / "one.smi").write_text("C\n")
    with pytest.raises(UserError, match="at least two"):
        read_smiles(tmp_path / "one.smi")
    with pytest.raises(UserError, match="cannot be read"):
        read_smiles(tmp_path / "none.smi")


def test_a_column_may_hold_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "zinc.csv").write_text('smiles,logP\n"CC\n",1\n"CO\n",2\n')
    assert list(read_column("zinc", [tmp_path / "zinc.csv"], "smiles")) == ["CC", "CO"]
    with pytest.raises(UserError, match="no column SMILES"):
        list(read_column("zinc", [tmp_path / "zinc.csv"], "SMILES"))


def test_a_data_set_counts_what_it_leaves_out() -> None:
    extra = ["C[NH3+]", TEST[0], "CCCCCCCCCC", "C.C"]
    data = small_molecules("toy_left_out", extra)
    assert data.molecules is not None
    assert data.spec.kind is Kind.GRAPHS
    assert data.spec.graph is not None
    assert data.spec.graph.node_names == CHEMISTRY.atoms
    assert data.train.x.shape[1:] == data.spec.shape
    assert is_graph(data.train.x, 9, 4, 3).all()
    assert (len(data.test), len(data.train) + len(data.val)) == (len(TEST), len(TRAIN))
    assert dict(data.molecules.refused) == {"charged": 1, "disconnected": 1}  # larger ones are of another data set
    (note,) = data.notes
    assert all(part in note for part in ("1 charged", "1 too large", "1 disconnected", "1 a repetition"))
    known = judged(data.train.x.numpy(), CHEMISTRY).smiles
    assert all(map(data.molecules.is_known, known))
    assert not any(map(data.molecules.is_known, judged(data.test.x.numpy(), CHEMISTRY).smiles))
    assert len(data.molecules.known) == len(known) == len(set(map(key_of, known)))


@pytest.mark.parametrize("n", [2, 7, 40])
def test_the_control_is_the_half_that_is_not_compared_with(n: int) -> None:
    data = small_molecules("toy_halves")
    assert data.molecules is not None
    one, control = data.molecules.halves(n)
    assert (len(one), len(control)) == (n // 2, n - n // 2)
    assert sorted([*one.tolist(), *control.tolist()]) == list(range(n))
    assert all(np.array_equal(*pair) for pair in zip((one, control), data.molecules.halves(n), strict=True))


def test_zinc_is_the_published_file_or_none(tmp_path: Path) -> None:
    request = request_of(lambda: zinc250k(str(tmp_path)))
    assert request is not None
    with pytest.raises(UserError, match="put the right file there"):
        zinc250k(str(tmp_path))
    (tmp_path / "250k_rndm_zinc_drugs_clean_3.csv").write_text('smiles,logP\n"CC\n",1\n')
    with pytest.raises(UserError, match="1 molecules instead of the published 249,455"):
        zinc250k(str(tmp_path))


def test_without_rdkit_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    formats._rdkit.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'genbench\[graphs\]'"):
        read_molecule("C", CHEMISTRY)
    with pytest.raises(UserError, match="rdkit"):
        judged(["C"], CHEMISTRY)
    assert Refused("empty").reason == "empty"
