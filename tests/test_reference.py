"""A reference in place of a data set's test split: examples of any kind, or the statistics files of other packages."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.cli.main import main
from bench.data.formats.moments import holds_moments, read_moments, write_moments
from bench.data.reference import read_reference
from bench.data.toy import two_moons
from bench.errors import UserError
from bench.metrics.frechet import frechet_distance, frechet_stderr, frechet_to_moments
from bench.notebook import evaluate
from bench.rows.store import read_rows
from bench.schema import ResultRow, Status
from bench.tables.aggregate import make_table

FID = ["metric=[fid]", "metric.fid.features=pixels"]
SMALL = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64"]


def normal(n: int, dim: int = 2, shift: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1, (n, dim))


def pictures(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 5, 4), dtype=np.uint8)


def measured(*arguments: str) -> dict[str, ResultRow]:
    assert main(["evaluate", *arguments, "out=out.jsonl"]) == 0
    return {row.metric: row for row in read_rows(Path("out.jsonl"))}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


# Examples


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "folder", "last"])
def test_every_kind_of_samples_is_a_reference(kind: str, workplace: Path) -> None:
    real = pictures(40)
    np.save("fake.npy", pictures(30, 1))
    expected = evaluate(pictures(30, 1), reference=real, metrics=["fid"], overrides=FID[1:])["value"].item()
    path = Path(f"real.{kind}")
    if kind == "npy":
        np.save(path, real)
    elif kind == "npz":
        np.savez_compressed(path, samples=real)
    elif kind == "pt":
        torch.save(torch.from_numpy(real), path)
    elif kind == "last":
        path = Path("real.npz")
        np.savez(path, np.moveaxis(real, 1, -1))
    else:
        path.mkdir()
        for number, picture in enumerate(real):
            Image.fromarray(np.moveaxis(picture, 0, -1)).save(path / f"{number:02}.png")
    (row,) = measured("samples=fake.npy", f"reference={path}", *FID).values()
    assert row.value == pytest.approx(expected, rel=1e-9)
    assert (row.n_real, row.n_fake, row.status) == (40, 30, Status.OK)
    assert (row.dataset, row.split) == (f"reference-{title(path)}", "test")


def title(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def test_a_bare_reference_says_what_cannot_be_had_with_it(workplace: Path) -> None:
    np.save("real.npy", pictures(60))
    np.save("fake.npy", pictures(50, 1))
    asked = ["metric=[copying,inception_score,fid,likelihood,cost]", "metric.copying.features=pixels"]
    rows = measured("samples=fake.npy", "reference=real.npy", *asked)
    assert {row.status for row in rows.values()} == {Status.SKIPPED}
    assert "reference-real has no training split" in rows["authenticity[pixels]"].reason
    assert "reference-real has no labelled images" in rows["is[reference-real-cnn]"].reason
    assert all("\n" not in row.reason for row in rows.values())


def test_references_of_one_name_never_share_a_cell(workplace: Path) -> None:
    np.save("fake.npy", normal(50, shift=1))
    rows = []
    for seed in range(2):
        np.save("real.npy", normal(60, seed=seed))
        rows += measured("samples=fake.npy", "reference=real.npy", *FID).values()
    assert len({row.data_revision for row in rows}) == len({row.group for row in rows}) == 2
    (section,) = make_table(rows).sections
    assert len(section.columns) == 2
    assert all(len(cell.seeds) == 1 for cell in section.cells.values())
    np.save("other.npy", normal(60))
    other = measured("samples=fake.npy", "reference=other.npy", *FID)["fid[pixels]"]
    assert (other.data_revision, other.value) == (rows[0].data_revision, rows[0].value)
    assert other.dataset != rows[0].dataset


def test_a_reference_beside_a_data_set_keeps_its_training_split(workplace: Path) -> None:
    data = two_moons(512, 64, 64)
    np.save("fake.npy", data.train.x[:50].numpy())
    np.save("real.npy", two_moons(512, 64, 300).test.x.numpy())
    asked = ["metric=[copying,fid]", "metric.copying.features=pixels", FID[1]]
    rows = measured("samples=fake.npy", "reference=real.npy", *SMALL, *asked)
    assert rows["authenticity[pixels]"].value == 0, "they are copies of the training split"
    assert {(row.dataset, row.split, row.n_real) for row in rows.values()} == {("two_moons", "reference-real", 300)}
    own = measured("samples=fake.npy", *SMALL, *asked)
    assert own["fid[pixels]"].split == "test"
    (section,) = make_table([rows["fid[pixels]"], own["fid[pixels]"]]).sections
    assert len(section.columns) == 2


def test_data_with_a_reference_are_a_revision_of_their_own_for_each(tmp_path: Path) -> None:
    """Rows of two references of one name, and those of the test split, share no cell."""
    data = two_moons(64, 16, 16)
    revisions = {data.spec.revision}
    for seed in range(3):
        np.save(tmp_path / "real.npy", normal(60, seed=seed))
        made = read_reference(tmp_path / "real.npy", data.spec, lambda: data.spec).in_place_of_test(data)
        revisions.add(made.spec.revision)
        assert (made.spec.n_val, made.spec.n_test, len(made.test), len(made.val)) == (0, 60, 60, 0)
        assert made.train is data.train
        assert made.learned is data
        assert made.log_density is None
    assert len(revisions) == 4


def test_a_run_is_compared_with_a_reference_and_keeps_its_rows(workplace: Path) -> None:
    assert main(["run", "model=linear", *SMALL, "train.examples=640", "train.validate_every=320", *FID,
                 "evaluate.n_samples=60"]) == 0  # fmt: skip
    (folder,) = [path.parent for path in workplace.glob("runs/*/*/config.json")]
    before = read_rows(folder / "rows.jsonl")
    np.save("real.npy", two_moons(512, 64, 300).test.x.numpy())
    asked = "metric=[fid,likelihood]"
    rows = measured(str(folder), "reference=real.npy", asked, FID[1])
    assert {(row.split, row.model) for row in rows.values()} == {("reference-real", "linear")}
    assert (rows["fid[pixels]"].n_real, rows["log_likelihood"].n_real) == (300, 300)
    after = read_rows(folder / "rows.jsonl")
    assert [row for row in after if row.split == "test"] == before
    assert not [row for row in after if row.model == "oracle" and row.split != "test"]
    assert rows["fid[pixels]"].measuring_key not in {row.measuring_key for row in before}
    np.save("real.npy", two_moons(512, 64, 200).test.x.numpy())
    again = measured(str(folder), "reference=real.npy", asked, FID[1])
    assert again["fid[pixels]"].measuring_key != rows["fid[pixels]"].measuring_key
    assert again["fid[pixels]"].n_real == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reference=nowhere.npy"], "reference nowhere.npy: no such file or folder"),
        (["reference=text.npy"], "reference text.npy is damaged"),
        (["reference=whole.npy"], r"reference whole.npy: int64 \(9, 2\); wanted are uint8 pictures"),
        (["reference=empty"], "reference empty has no pictures"),
        (["reference=none.npy"], r"reference none.npy has the shape \(9, 0\): its samples have no entries"),
        (["reference=wide.npy"], r"samples fake.npy has the shape \(50, 2\); reference-wide wants \(N, 3\)"),
        (["reference=wide.npy", *SMALL], r"reference wide.npy has the shape \(9, 3\); two_moons wants \(N, 2\)"),
        (["reference=real.npy", "out=real.npy"], "real.npy"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("fake.npy", normal(50))
    np.save("real.npy", normal(50))
    np.save("whole.npy", np.ones((9, 2), int))
    np.save("wide.npy", normal(9, 3))
    np.save("none.npy", normal(9, 0))
    Path("text.npy").write_text("no array")
    Path("empty").mkdir()
    assert re.search(said, refusal(capsys, "samples=fake.npy", *FID, *arguments))
    assert not Path("runs").exists() or not list(Path("runs").rglob("rows.jsonl"))


# Mean and covariance


def statistics(path: Path, x: NDArray[np.float64], **more: Any) -> Path:
    np.savez(path, mu=x.mean(0), sigma=np.cov(x, rowvar=False), **more)
    return path


def test_a_statistics_file_is_a_reference_for_fid_alone(workplace: Path) -> None:
    real, fake = normal(300), normal(200, shift=1, seed=1)
    np.save("fake.npy", fake)
    statistics(Path("theirs.npz"), real)
    asked = ["metric=[fid,kid,birthday,likelihood]", FID[1], "metric.kid.features=pixels"]
    rows = measured("samples=fake.npy", "reference=theirs.npz", *asked)
    fid = rows["fid[pixels]"]
    x = torch.from_numpy(fake).float().double()
    assert fid.value == pytest.approx(
        frechet_distance(*map(torch.from_numpy, (real.mean(0), np.cov(real.T))), x.mean(0), torch.cov(x.T)), rel=1e-9
    )
    assert (fid.n_real, fid.n_fake, fid.stderr_test, fid.dataset) == (None, 200, None, "reference-theirs")
    assert fid.stderr == fid.stderr_draws == pytest.approx(frechet_to_moments(x, *map(torch.from_numpy, (
        real.mean(0), np.cov(real.T))))[1])  # fmt: skip
    assert "standard error of the samples alone" in fid.reason
    others = {row.reason for name, row in rows.items() if name in ("kid[pixels]", "support[pixels]")}
    assert others == {"the reference theirs.npz is a mean and a covariance alone; this metric needs its examples"}
    assert {row.status for row in rows.values()} == {Status.OK, Status.SKIPPED}


def test_another_number_of_features_is_another_extractor(workplace: Path) -> None:
    np.save("fake.npy", normal(50))
    statistics(Path("theirs.npz"), normal(100, 3))
    (row,) = measured("samples=fake.npy", "reference=theirs.npz", *FID).values()
    assert row.status is Status.SKIPPED
    assert row.reason == "pixels has 2 features, and theirs.npz is of 3: it was made with another extractor"


def test_statistics_stand_beside_a_data_set_and_in_notebooks(workplace: Path) -> None:
    fake = two_moons(512, 64, 64).train.x[:50]
    np.save("fake.npy", fake.numpy())
    statistics(Path("theirs.npz"), normal(100))
    (row,) = measured("samples=fake.npy", "reference=theirs.npz", *SMALL, *FID).values()
    again = evaluate(fake, reference="theirs.npz", metrics=["fid"], overrides=FID[1:])
    assert (row.split, row.dataset) == ("reference-theirs", "two_moons")
    assert again["value"].item() == pytest.approx(row.value)


def test_the_error_of_one_side_is_that_of_both_less_the_other() -> None:
    x, y = torch.from_numpy(normal(80, 5)), torch.from_numpy(normal(60, 5, 0.3, seed=1))
    value, error = frechet_to_moments(y, x.mean(0), torch.cov(x.T))
    assert value == pytest.approx(frechet_distance(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)), rel=1e-10)
    assert error == pytest.approx(frechet_stderr(x, y)[1], rel=1e-8)
    few = torch.from_numpy(normal(4, 5, seed=2))  # fewer samples than features
    truth = frechet_distance(x.mean(0), torch.cov(x.T), few.mean(0), torch.cov(few.T))
    assert frechet_to_moments(few, x.mean(0), torch.cov(x.T))[0] == pytest.approx(truth, abs=1e-6)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    x = torch.from_numpy(normal(50, 4))
    write_moments(tmp_path / "ours.npz", x)
    made = read_moments(tmp_path / "ours.npz")
    assert torch.equal(made.mean, x.mean(0))
    assert torch.allclose(made.cov, torch.cov(x.T), rtol=1e-12)
    assert sorted(np.load(tmp_path / "ours.npz")) == ["mu", "sigma"]
    for bad in (x[:1], x * float("nan"), x[0]):
        with pytest.raises(UserError, match="have no statistics"):
            write_moments(tmp_path / "bad.npz", bad)
    assert not (tmp_path / "bad.npz").exists()


def test_only_files_without_the_examples_are_statistics(tmp_path: Path) -> None:
    assert holds_moments(statistics(tmp_path / "a.npz", normal(9)))
    assert not holds_moments(statistics(tmp_path / "b.npz", normal(9), arr_0=normal(9)))
    np.savez(tmp_path / "c.npz", mu=normal(9))
    assert not holds_moments(tmp_path / "c.npz")
    assert not holds_moments(tmp_path)
    assert not holds_moments(tmp_path / "nowhere.npz")


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("mu", "sigma", "said"),
    [
        (np.zeros(2), EYE, r"mu has the shape \(2,\) and sigma \(3, 3\)"),
        (np.zeros(3), np.ones((3, 2)), r"mu has the shape \(3,\) and sigma \(3, 2\)"),
        (np.zeros((3, 1)), EYE, "mu is float64"),
        (np.zeros(3, int), EYE, "mu is int64"),
        (np.array([None] * 3), EYE, "mu is object"),
        (np.zeros(3, np.clongdouble), EYE, "mu is complex256"),
        (np.zeros(0), np.zeros((0, 0)), r"mu has the shape \(0,\)"),
        (np.array([0, np.nan, 0]), EYE, "NaN or infinite"),
        (np.zeros(3), EYE + np.inf, "NaN or infinite"),
        (np.zeros(3), EYE + np.eye(3, k=1), "not symmetric"),
        (np.zeros(3), np.diag([1.0, 1.0, -0.01]), "the eigenvalue -0.01"),
        (np.zeros(9000), np.zeros((1, 1)), "at most 8192 long"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused(mu: Any, sigma: Any, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=said) as caught:
        read_moments(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_rounding_is_no_defect(tmp_path: Path) -> None:
    """A covariance of fewer examples than features, computed in float32."""
    x = normal(20, 60).astype(np.float32)
    centred = x - x.mean(0)
    np.savez(tmp_path / "float32.npz", mu=x.mean(0), sigma=centred.T @ centred / 19)
    made = read_moments(tmp_path / "float32.npz")
    assert made.cov.dtype == torch.float64
    assert torch.equal(made.cov, made.cov.T)


def test_damage_anywhere_is_one_line_or_none(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mu=np.zeros(3), sigma=EYE)
    rng, path, told = np.random.default_rng(0), tmp_path / "damaged.npz", 0
    for _ in range(120):
        content = bytearray(buffer.getvalue())
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content))] if rng.random() < 0.3 else content)
        holds_moments(path)
        said = ""
        try:
            read_moments(path)
        except UserError as error:
            said = str(error)
        told += bool(said)
        assert "\n" not in said
    assert told > 80


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (8000, 8000)})
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("mu.npy", _npy(np.zeros(8000)))
        archive.writestr("sigma.npy", header.getvalue())
    with pytest.raises(UserError, match="sigma has another size than its header says"):
        read_moments(tmp_path / "bad.npz")


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
