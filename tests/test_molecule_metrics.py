"""Metrics of molecules: by hand on small sets, the controls' values, a file of SMILES as a subject. Needs rdkit."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_metrics import ORIGIN, FakeSubject
from helpers_models import new_model
from helpers_molecules import CHEMISTRY, TEST, TRAIN, SmallChemNet, small_chemnet, small_molecules
from torch import nn

from bench.cli.evaluate import main
from bench.cli.run import main as run
from bench.data.base import Data
from bench.data.formats.smiles import judged, read_molecule, to_vector
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.evaluation.molecule_controls import controls
from bench.features.chemnet import NAME, ChemNet, Network, tokens
from bench.metrics.base import Metric
from bench.metrics.fcd import FCD
from bench.metrics.frechet import frechet_stderr
from bench.metrics.intervals import wilson_interval
from bench.metrics.library_size import LibrarySize
from bench.metrics.molecule_sets import (
    cosine,
    fingerprints,
    fragments,
    internal_diversity,
    nearest_similarity,
    scaffolds,
)  # fmt: skip
from bench.metrics.molecules import Molecules
from bench.rows.frame import load_rows
from bench.rows.quoted import main as write_quoted
from bench.rows.quoted import quoted_rows
from bench.rows.store import read_rows, write_rows
from bench.schema import Estimate, Source, Status
from bench.subjects.base import Subject
from bench.subjects.examples import Examples
from bench.subjects.molecules import ControlMolecules, GivenMolecules
from bench.subjects.trained import TrainedModel
from bench.tables.aggregate import make_table

pytest.importorskip("rdkit")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Data:
    small_chemnet(monkeypatch)
    return small_molecules("toy_metrics", ["C[NH3+]", "C[N+](C)(C)C"])


def found(metric: Metric, subject: Subject, data: Data) -> dict[str, Estimate]:
    estimates = evaluate(Examples(subject, data, seed=0), {"it": metric})["it"]
    assert not [one for one in estimates if one.status is Status.FAILED], estimates
    return {one.info.name: one for one in estimates}


def vectors(*texts: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([to_vector(read_molecule(text, CHEMISTRY), CHEMISTRY) for text in texts]))


def test_similarities_by_hand() -> None:
    bits = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    # T = 1/3 between the first two, 0 to the third, 1 of each with itself and of nothing with nothing.
    assert internal_diversity(bits) == pytest.approx(1 - (3 + 2 / 3) / 9)
    assert nearest_similarity(bits[:1], bits[1:]).tolist() == pytest.approx([1 / 3])
    made = judged(["c1ccccc1C", "CCC", "c1ccc(C2CC2)cc1", "CC1CC1C1CC1"], CHEMISTRY).molecules
    assert scaffolds(made) == {"c1ccc(C2CC2)cc1": 1, "C1CC1C1CC1": 1}  # one ring is no scaffold
    assert fragments(judged(["CCOC"], CHEMISTRY).molecules) == {"[3*]OC": 1, "[4*]CC": 1}
    assert cosine(scaffolds(made), scaffolds(made[2:3]), "scaffolds") == pytest.approx(0.5**0.5)
    assert fingerprints(made).shape == (4, 1024)


def test_shares_are_of_all_samples(data: Data) -> None:
    """Ten samples: a training molecule twice in two orders of its atoms, two new ones, six refused."""
    lines = ["Cc1ccccc1", "c1ccccc1C", "CCOC=C", "FCC", "", "C(", "C.C", "C[NH3+]", "C" * 30, "[U]"]
    assert "Cc1ccccc1" in TRAIN
    made = found(Molecules(10, 1000), GivenMolecules(lines, 0, ORIGIN), data)
    values = {name: one.value for name, one in made.items()}
    assert (values["validity"], values["refused"]) == (0.4, 0.6)
    assert (values["uniqueness"], values["novelty"], values["valid_unique_novel"]) == (0.75, pytest.approx(2 / 3), 0.2)
    assert values["scaffold_similarity"] is None
    assert made["scaffold_similarity"].reason == "one side has no scaffolds"
    assert all(f"1 {why}" in made["refused"].reason for why in ("empty", "does not parse", "charged", "disconnected"))
    assert "temperature 1, no correction" in made["refused"].reason
    assert made["validity"].reason == ""  # a number with a note is not ranked
    assert (made["validity"].n_fake, made["nearest_similarity"].n_fake) == (10, 10)
    assert made["nearest_similarity"].n_real == len(data.test) // 2
    assert "charges refused, no stereo" in made["validity"].extractor
    assert made["validity"].extractor_hash


def test_a_model_of_few_molecules_has_hardly_an_error_of_uniqueness(data: Data) -> None:
    """Two hundred samples of two molecules, one of them new: other samples would be the same two."""
    made = found(Molecules(200, 1000), GivenMolecules(["Cc1ccccc1", "CCOC=C"] * 100, 0, ORIGIN), data)
    for name, value in (("uniqueness", 0.01), ("novelty", 0.5), ("valid_unique_novel", 0.005)):
        one = made[name]
        assert (one.value, one.stderr, one.stderr_draws) == (value, 0.0, 0.0)
        assert (one.ci_low, one.ci_high) == (value, value)
    assert made["validity"].ci_low == wilson_interval(1.0, 200)[0]
    alike = found(Molecules(3, 1000), GivenMolecules(["CC", "CCO", "CO"], 0, ORIGIN), data)["uniqueness"]
    assert (alike.stderr, alike.ci_low) == (0.0, wilson_interval(1.0, 3)[0]), "no duplicate among three is no certainty"


@pytest.mark.parametrize("family", ["samples", "molecule control"])
def test_one_molecule_again_and_again_and_training_molecules_are_told(data: Data, family: str) -> None:
    """Both have the best validity there is."""
    origin = replace(ORIGIN, model_family=family)

    def said(lines: list[str]) -> set[str]:
        made = found(Molecules(60, 1000), GivenMolecules(lines, 0, origin), data)
        assert made["validity"].value == 1
        assert made["fragment_similarity"].reason == made["validity"].reason
        assert made["uniqueness"].reason == made["valid_unique_novel"].reason == ""
        return {made["validity"].reason}

    told = family == "samples"
    assert said(["FCC"] * 60) == {"98 % of the valid samples repeat another one" if told else ""}
    assert said(["FCC", "FCCC"] * 10) == {""}, "too few to tell"
    chains = ["".join(atoms) for atoms in itertools.product("CNO", repeat=4)]
    assert said(chains[:60]) == {""}
    (copies,) = said((TRAIN * 60)[:60])
    assert bool(copies) == told


def test_a_model_is_judged_by_its_vectors(data: Data) -> None:
    x = vectors("CC", "CCO", "CCO")
    broken = x[1].clone()
    broken[9:] = 3
    subject = FakeSubject({"samples": torch.cat([x, broken[None]])})
    made = found(Molecules(4, 1000), subject, data)
    assert (made["validity"].value, made["valid_unique_novel"].value) == (0.75, 0.5)
    again = data.test.x.clone()
    again[0] = x[0]
    subject = FakeSubject({"samples": x, "reconstructions": again})
    subject.reconstructions = lambda x, report=None: again  # type: ignore[method-assign]
    assert found(Molecules(3, 1000), subject, data)["molecule_reconstruction"].value == 1 - 1 / len(data.test)


def test_samples_that_are_largest_components_are_called_so(data: Data) -> None:
    said = []
    for name in ("graphcnf", "graphcnf_subgraphs"):
        subject = TrainedModel(new_model(name, data.spec), None, 0, ORIGIN)
        said.append(found(Molecules(20, 1000), subject, data)["refused"].reason)
    assert "no largest component" in said[0]
    assert "no minimum size, the largest component of each" in said[1]
    assert "disconnected" in said[0]
    assert "disconnected" not in said[1]


def test_of_a_file_of_samples_nothing_is_said_that_is_not_known(data: Data) -> None:
    theirs = replace(ORIGIN, source=Source.EXTERNAL_SAMPLES)
    said = found(Molecules(2, 1000), GivenMolecules(["CC", "C("], 0, theirs), data)["refused"].reason
    assert said == ("temperature, correction, resampling, minimum size and largest component unknown: 1 does not parse")


def test_a_model_is_sampled_once_for_all_metrics_and_pictures(data: Data) -> None:
    subject, calls = FakeSubject({"samples": vectors("CC", "CCO", "CO")}), []
    drawn = subject.samples
    subject.samples = lambda n, report=None: calls.append(n) or drawn(n)  # type: ignore[method-assign, func-returns-value]
    examples = Examples(subject, data, seed=0)
    evaluate(examples, {"molecules": Molecules(3, 10), "fcd": FCD(3, 10)})
    examples.samples(3)
    assert calls == [3]


def test_nothing_valid_is_no_crash(data: Data) -> None:
    made = found(Molecules(3, 10), GivenMolecules(["", "(", "C.C"], 0, ORIGIN), data)
    assert made["validity"].value == made["valid_unique_novel"].value == 0
    assert made["uniqueness"].status is made["novelty"].status is Status.SKIPPED
    assert found(FCD(3, 10), GivenMolecules(["", "(", "C.C"], 0, ORIGIN), data)["fcd[3]"].status is Status.SKIPPED


def test_controls_have_the_values_that_are_known(data: Data) -> None:
    values: dict[str, dict[str, Any]] = {}
    for name, draw in controls(data).items():
        made = found(Molecules(30, 1000), ControlMolecules(draw, ORIGIN), data)
        values[name] = {of: one.value for of, one in made.items()}
        lines = draw(30)
        assert draw(7) == lines[:7] or name == "held_out"
    assert values["training_copies"]["validity"] == values["training_copies"]["uniqueness"] == 1
    assert values["training_copies"]["novelty"] == values["training_copies"]["valid_unique_novel"] == 0
    assert values["one_carbon_more"]["validity"] == values["random_graphs"]["validity"] == 1
    assert values["one_carbon_more"]["novelty"] > 0.5
    assert values["held_out"]["novelty"] == 1
    # The ceiling of the data: two of the test molecules are charged, one of them on this side.
    half = -(-len(TEST) // 2)
    drawn = min(30, half + 2)
    assert values["held_out"]["refused"] == pytest.approx(2 / (half + 2), abs=2 / drawn)


def test_held_out_molecules_are_those_that_nothing_is_compared_with(data: Data) -> None:
    assert data.molecules is not None
    reference = Examples(FakeSubject({}), data, seed=0).real_molecules(1000).smiles
    held_out = judged(controls(data)["held_out"](1000), data.molecules.chemistry).smiles
    assert sorted([*reference, *held_out]) == sorted(judged(data.test.x.numpy(), data.molecules.chemistry).smiles)


def test_fcd_of_equal_sets_is_0_and_its_name_has_n(data: Data) -> None:
    real = Examples(FakeSubject({}), data, seed=0).real_molecules(1000).smiles
    (one,) = found(FCD(len(real), 1000), GivenMolecules(real, 0, ORIGIN), data).values()
    assert one.info.name == f"fcd[{len(real)}]"
    assert one.value == pytest.approx(0, abs=1e-9)
    assert (one.n_real, one.n_fake, one.extractor.split()[0]) == (len(real), len(real), "chemnet")
    (fewer,) = found(FCD(500, 1000), GivenMolecules(real, 0, ORIGIN), data).values()
    assert fewer.info.name == one.info.name  # not of the 500 that were asked for
    (other,) = found(FCD(24, 1000), GivenMolecules(["C" * (1 + i % 8) for i in range(24)], 0, ORIGIN), data).values()
    assert other.value is not None
    assert other.value > 1


def test_numbers_over_n_are_those_of_the_metrics_at_n(data: Data) -> None:
    metric = LibrarySize(40, 1000)
    assert metric.sizes == [10, 20, 40]
    subject = GivenMolecules(TEST[:20] + TRAIN[:20], 0, ORIGIN)
    context = Examples(subject, data, seed=0)
    estimates = {one.info.name: one for one in evaluate(context, {"it": metric})["it"]}
    whole = found(Molecules(20, 1000), subject, data) | found(FCD(20, 1000), subject, data)
    for name in ("uniqueness", "valid_unique_novel", "internal_diversity", "fragment_similarity"):
        assert estimates[f"{name}[20]"].value == pytest.approx(whole[name].value)
    assert estimates["fcd[20]"].value == pytest.approx(whole["fcd[20]"].value)
    name, picture = metric.picture(context) or ("", None)
    assert (name, picture.size[0] > 500) == ("library-size", True)  # type: ignore[union-attr]
    name, picture = Molecules(40, 1000).picture(context) or ("", None)
    assert name == "molecules"
    assert len(picture.getcolors(2**20)) > 10  # type: ignore[union-attr, arg-type]


def test_tokens_of_smiles_by_hand() -> None:
    assert tokens("CCl") == [0, 5, 34]
    assert tokens("[Si]~") == [26, 11, 27, 33, 34]
    assert len(tokens("C" * 1000)) == 350


def test_chemnet_pads_as_its_port_does() -> None:
    """350 places become 175 and then 88; the port's padding is repeated here by its own rule."""
    network, x = Network(), torch.rand(2, 35, 350)
    y = x
    for layer in (network.first, network.second):
        excess = y.shape[2] % 2
        pad = 4 - (excess or 2)
        y = nn.functional.selu(layer(nn.functional.pad(y, (pad // 2, pad - pad // 2))))
    assert y.shape == (2, 32, 88)
    back = network.third(y.transpose(1, 2).flip(1))[0]
    assert torch.equal(network(x), network.fourth(back.flip(1))[1][0][0])


def test_chemnet_takes_pinned_weights_only(tmp_path: Path) -> None:
    (tmp_path / "ChemNet_v0.13_pretrained.pt").write_bytes(b"other")
    with pytest.raises(UserError, match="holds other bytes"):
        ChemNet(str(tmp_path))
    assert SmallChemNet.name == NAME


def test_a_file_of_smiles_is_a_subject_and_the_controls_stand_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def small(path: str | None, max_atoms: int, n_train: int | None, n_test: int | None, charges: bool) -> Data:
        return small_molecules("toy_subject")

    small.__module__ = "bench.data.molecules"
    monkeypatch.setattr("bench.data.molecules.qm9", small)
    (tmp_path / "theirs.smi").write_text("\n".join([*TEST[:10], "", "C(", "C.C"]))
    command = ["samples=theirs.smi", "data=qm9", "metric=[molecules]", "evaluate.n_samples=20"]
    assert main([*command, "out=rows.jsonl"]) == 0
    rows = {row.metric: row for row in read_rows(tmp_path / "rows.jsonl")}
    assert (rows["validity"].value, rows["validity"].n_fake) == (pytest.approx(10 / 13), 13)
    assert "unknown" in rows["refused"].reason
    assert "1 empty" in rows["refused"].reason
    table = capsys.readouterr().out
    assert all(name in table for name in ("training_copies", "held_out", "one_carbon_more", "random_graphs"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/rows.jsonl")}
    assert len(before) == 5
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is measured twice
    with pytest.raises(UserError, match="holds no molecules"):
        main(["samples=theirs.smi", "data=two_moons", "metric=[molecules]"])


def test_a_run_has_its_controls_whenever_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def small(path: str | None, max_atoms: int, n_train: int | None, n_test: int | None, charges: bool) -> Data:
        return small_molecules("toy_subject")

    small.__module__ = "bench.data.molecules"
    monkeypatch.setattr("bench.data.molecules.qm9", small)
    command = ["data=qm9", "model=graph_independent", "train.examples=100", "evaluate.n_samples=20", "name=it"]

    def controls_there() -> int:
        return len(list(tmp_path.glob("runs/it/qm9-*/rows.jsonl"))) - 1

    assert run([*command, "metric=[cost]"]) == 0
    (folder,) = tmp_path.glob("runs/it/qm9-*")
    assert controls_there() == 0
    assert main([str(folder), "metric=[molecules]"]) == 0
    assert controls_there() == 4
    for other in tmp_path.glob("runs/it/qm9-*"):
        if other != folder:
            shutil.rmtree(other)
    (folder / "done.json").unlink()  # as if the command had been stopped among the controls
    assert run([*command, "metric=[cost,molecules]"]) == 0
    assert controls_there() == 4
    before = {path: path.read_bytes() for path in tmp_path.glob("runs/it/qm9-*/rows.jsonl") if path.parent != folder}
    assert run([*command, "metric=[molecules]", "evaluate.sampling_seeds=[0,1]"]) == 0
    assert {path: path.read_bytes() for path in before} == before, "a control has no sampling seeds"


def test_the_committed_quoted_rows_are_made_from_the_published_table() -> None:
    made = quoted_rows(ROOT / "results" / "quoted" / "molecules.csv", "Lippe and Gavves 2021, arXiv 2006.09790")
    assert read_rows(ROOT / "results" / "rows" / "molecules_quoted.jsonl") == made
    assert all(row.reason.startswith("quoted from") for row in made)  # a number with a note is not ranked
    assert {row.source.value for row in made} == {"quoted"}


def test_a_line_that_is_no_published_number_is_named(tmp_path: Path) -> None:
    for value in ("high", "nan"):
        (tmp_path / "some.csv").write_text(f"dataset,model,family,metric,value,note\na,b,c,d,{value},\n")
        with pytest.raises(UserError, match=r"some\.csv:2"):
            quoted_rows(tmp_path / "some.csv", "somebody")


def test_two_sources_may_quote_one_number_and_one_source_may_not_say_two(tmp_path: Path) -> None:
    line = "zinc250k,JT-VAE,VAE,validity,1,\n"
    (tmp_path / "some.csv").write_text(f"dataset,model,family,metric,value,note\n{line}")
    rows = [*quoted_rows(tmp_path / "some.csv", "A 2020"), *quoted_rows(tmp_path / "some.csv", "B 2021")]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert len(load_rows(tmp_path / "rows.jsonl")) == 2
    (section,) = make_table(rows).sections
    assert len(section.lines) == 2
    (tmp_path / "some.csv").write_text(f"dataset,model,family,metric,value,note\n{line}{line}")
    with pytest.raises(UserError, match=r"some\.csv:3: validity of JT-VAE on zinc250k stands in line 2 already"):
        quoted_rows(tmp_path / "some.csv", "A 2020")


def test_wrong_arguments_for_quoted_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_quoted([]) == 2
    assert write_quoted(["somebody", str(tmp_path / "none.csv"), str(tmp_path / "rows.jsonl")]) == 1
    said = capsys.readouterr().err
    assert "usage: python -m bench.rows.quoted SOURCE FILE.csv ROWS.jsonl" in said
    assert "none.csv: cannot be read" in said


def test_blocks_of_fingerprints_move_no_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = (torch.rand(9, 30, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    whole, diversity = nearest_similarity(bits[:4], bits[4:]), internal_diversity(bits)
    monkeypatch.setattr("bench.metrics.molecule_sets._BLOCK", 2)
    assert torch.equal(nearest_similarity(bits[:4], bits[4:]), whole)
    assert internal_diversity(bits) == pytest.approx(diversity)


def test_numbers_over_n_are_of_the_first_n_samples_refused_ones_included(data: Data) -> None:
    lines = [line for pair in zip(TEST[:12], ["C("] * 12, strict=True) for line in pair]
    lines += TRAIN[:16]
    subject = GivenMolecules(lines, 0, ORIGIN)
    estimates = found(LibrarySize(40, 1000), subject, data)
    for n in (10, 20):
        alone = found(Molecules(n, 1000), subject, data) | found(FCD(n, 1000), subject, data)
        assert 0 < (alone["validity"].value or 0) < 1
        for name in ("uniqueness", "valid_unique_novel", "internal_diversity", "fragment_similarity"):
            assert estimates[f"{name}[{n}]"].value == pytest.approx(alone[name].value)
        assert estimates[f"fcd[{n}]"].value == pytest.approx(alone[f"fcd[{n}]"].value)


def test_the_error_of_fcd_has_its_part_from_test_molecules_and_its_part_from_samples(data: Data) -> None:
    subject = GivenMolecules(TRAIN[:14], 0, ORIGIN)
    (one,) = found(FCD(14, 1000), subject, data).values()
    network, context = SmallChemNet(), Examples(subject, data, seed=0)
    real, made = (network.features(side.smiles) for side in (context.real_molecules(1000), context.molecules(14)))
    assert (one.stderr_test, one.stderr_draws) == pytest.approx(frechet_stderr(real, made))
    assert one.stderr_test != pytest.approx(one.stderr_draws)
