"""The door for notebooks: four functions that do what the commands do, and an import that costs nothing."""

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

import bench
import bench.notebook
from bench.cli.main import main
from bench.data.toy import two_moons
from bench.errors import UserError
from bench.metrics.frechet import FID, frechet_distance_from_features
from bench.rows.store import read_rows
from bench.schema import ResultRow

ROOT = Path(__file__).resolve().parent.parent
SIZES = ["data.n_train=512", "data.n_val=64", "data.n_test=200"]
PIXELS = "metric.fid.features=pixels"
TINY = ["data=two_moons", *SIZES, "metric=[likelihood,fid,birthday]", PIXELS, "train.examples=640",
        "train.validate_every=320", "evaluate.n_samples=200", "name=tiny"]  # fmt: skip


def normal(n: int, dim: int = 2, shift: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1, size=(n, dim))


def pictures(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=(n, 3, 6, 5), dtype=np.uint8)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Any, ...]]:
    """A folder in which ``bench.run`` was called, and what it returned."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, bench.run(["model=gaussian", *TINY])


# What an import costs


def imported_after(statements: str) -> set[str]:
    code = f"import sys\n{statements}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_costs_nothing() -> None:
    slow = {"torch", "hydra", "omegaconf", "pandas", "numpy", "scipy", "rich", "pytorch_lightning", "torchmetrics"}
    assert imported_after("import bench; dir(bench); bench.__version__") & slow == set()
    functions = "bench.run, bench.evaluate, bench.load_rows, bench.table"
    assert imported_after(f"import bench; {functions}") & slow == set(), "nor does naming the functions"


def test_rows_are_read_without_torch(ran: tuple[Path, Any]) -> None:
    found = imported_after(f"import bench; bench.table(bench.load_rows({str(ran[0] / 'runs')!r}))")
    assert found & {"torch", "hydra", "pytorch_lightning"} == set()
    assert "pandas" in found


def test_names_of_the_package() -> None:
    assert {"run", "evaluate", "load_rows", "table", "__version__"} <= set(dir(bench))
    assert bench.run is bench.notebook.run
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        bench.runn  # noqa: B018


# Run


def test_run_does_what_the_command_does(ran: tuple[Path, tuple[Any, ...]], workplace: Path) -> None:
    folder, (outcome,) = ran
    assert (str(outcome.ended), outcome.before) == ("ok", False)
    assert main(["run", "model=gaussian", *TINY]) == 0
    ours, theirs = (
        [(row.metric, row.value, row.measuring_key) for row in read_rows(place / "results" / "rows" / "tiny.jsonl")]
        for place in (folder, workplace)
    )
    assert ours == theirs
    assert (folder / "runs" / "tiny" / outcome.run_id / "rows.jsonl").is_file()


def test_what_is_finished_is_told_and_printed(
    ran: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ran[0])
    arguments = sys.argv
    (outcome,) = bench.run(["model=gaussian", *TINY])
    assert (str(outcome.ended), outcome.before) == ("ok", True)
    printed = capsys.readouterr()
    assert "gaussian" in printed.out
    assert "1 of 1 runs were finished before" in printed.err
    assert sys.argv is arguments


def test_a_sweep_returns_every_run_in_order_and_a_failure_raises_nothing(workplace: Path) -> None:
    outcomes = bench.run(["-m", "model=gaussian,realnvp_small", "train.examples=320,1", *TINY[:-4], "name=sweep"])
    assert len(outcomes) == 4
    assert [outcome.run_id.split("-")[1] for outcome in outcomes] == ["gaussian"] * 2 + ["realnvp_small"] * 2
    assert {str(outcome.ended) for outcome in outcomes} == {"ok"}
    (missing,) = bench.run(["model=gaussian", "data=csv", "data.path=nothing.csv"])
    assert str(missing.ended) == "refused"
    assert "nothing.csv" in missing.reason


# Evaluate


def test_samples_of_a_run_have_the_numbers_of_the_run(ran: tuple[Path, Any]) -> None:
    folder, (outcome,) = ran
    run = folder / "runs" / "tiny" / outcome.run_id
    measured = {row.metric: row for row in read_rows(run / "rows.jsonl") if row.model == "gaussian"}
    file = run / "samples-best.npz"
    values = np.load(file)["samples"]
    for samples in (file, str(file), values, torch.from_numpy(values), values.astype(np.float64)):
        rows = bench.evaluate(samples, data="two_moons", metrics=["fid", "birthday"], overrides=[PIXELS, *SIZES])
        assert list(rows["metric"]) == ["fid[pixels]", "support[pixels]"]
        for row in rows.itertuples():
            theirs = measured[row.metric]
            for name in ("value", "stderr", "ci_low", "ci_high"):
                expected = getattr(theirs, name)
                assert getattr(row, name) == pytest.approx(
                    np.nan if expected is None else expected, rel=1e-8, nan_ok=True
                )
            assert (row.n_real, row.n_fake, row.data_revision) == (200, 200, theirs.data_revision)


def test_the_command_makes_the_same_rows(ran: tuple[Path, Any], workplace: Path) -> None:
    file = next((ran[0] / "runs" / "tiny").glob("*/samples-best.npz"))
    command = ["evaluate", f"samples={file}", "data=two_moons", *SIZES, "metric=[fid,birthday]", PIXELS]
    assert main([*command, "evaluate.n_samples=200", "label=x", "out=rows.jsonl"]) == 0
    theirs = bench.load_rows("rows.jsonl")
    ours = bench.evaluate(file, data="two_moons", label="x", overrides=[PIXELS, *SIZES])
    pd.testing.assert_frame_equal(ours, theirs)


def test_nothing_is_written(workplace: Path) -> None:
    bench.evaluate(normal(60), reference=normal(70), overrides=[PIXELS])
    assert list(workplace.iterdir()) == []


def test_a_reference_is_the_whole_test_split() -> None:
    real, fake = normal(300), normal(200, shift=1.0, seed=1)
    rows = bench.evaluate(fake, reference=real, overrides=[PIXELS]).set_index("metric")
    expected = frechet_distance_from_features(*(torch.from_numpy(x).float() for x in (real, fake)))
    assert rows.loc["fid[pixels]", "value"] == pytest.approx(expected, rel=1e-8)
    assert (rows.loc["fid[pixels]", "n_real"], rows.loc["fid[pixels]", "n_fake"]) == (300, 200)
    assert rows.loc["support[pixels]", "n_real"] == 200
    assert set(rows["source"]) == {"external samples"}
    assert set(rows["dataset"]) == {"reference"}


def test_the_birthday_test_finds_repetitions_against_a_reference() -> None:
    few = normal(20, 8, seed=1)
    fake = few[np.random.default_rng(2).integers(20, size=1000)]
    (row,) = bench.evaluate(fake, reference=normal(2000, 8), metrics="birthday").itertuples()
    assert row.relation == "estimate"
    assert 15 < row.value < 25


def test_pictures_against_pictures() -> None:
    real, fake = pictures(120), pictures(110, seed=1)
    rows = bench.evaluate(fake, reference=real, overrides=[PIXELS])
    assert list(rows["status"]) == ["ok", "ok"]
    last = bench.evaluate(np.moveaxis(fake, 1, -1), reference=torch.from_numpy(real), overrides=[PIXELS])
    assert list(last["value"]) == pytest.approx(list(rows["value"]), rel=1e-10), "channels may be last"


def test_what_needs_labels_or_a_model_is_skipped_with_the_reason() -> None:
    asked = ["fid", "inception_score", "likelihood", "cost", "modes", "extractor"]
    rows = bench.evaluate(pictures(60), reference=pictures(60, seed=1), metrics=asked)
    assert set(rows["status"]) == {"skipped"}
    reasons = rows.set_index("metric")["reason"]
    assert "no labelled images" in reasons["fid[reference-cnn]"]
    assert "no likelihood" in reasons["log_likelihood"]


def test_other_references_are_other_data_and_equal_ones_the_same() -> None:
    fake = normal(60, seed=3)

    def identity(reference: Any) -> tuple[str, str]:
        (row,) = bench.evaluate(fake, reference=reference, metrics=["fid"], overrides=[PIXELS]).itertuples()
        return row.data_revision, row.training_key

    first, other = identity(normal(70)), identity(normal(70, seed=1))
    assert first[0] != other[0]
    assert first[1] != other[1]
    assert identity(torch.from_numpy(normal(70))) == first


def test_all_samples_are_measured_unless_fewer_are_asked_for() -> None:
    fake, real = normal(150, seed=1), normal(100)
    whole, part, again, other = (
        bench.evaluate(fake, reference=real, metrics="fid", overrides=[PIXELS], **more).iloc[0]
        for more in ({}, {"n_samples": 90}, {"n_samples": 90}, {"n_samples": 90, "seed": 1})
    )
    assert (whole["n_fake"], part["n_fake"]) == (150, 90)
    assert part["value"] == again["value"]
    assert part["value"] != other["value"], "the samples are taken at random"


def test_what_metrics_draw_comes_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, compute = [], FID.compute
    monkeypatch.setattr(
        FID, "compute", lambda metric, examples: seen.append(examples.seed) or compute(metric, examples)
    )
    for seed in (0, 5):
        bench.evaluate(normal(20), reference=normal(20, seed=1), metrics="fid", overrides=[PIXELS], seed=seed)
    assert seen == [0, 5]


@pytest.mark.filterwarnings("error")
def test_what_is_given_is_neither_changed_nor_complained_of() -> None:
    real, fake = normal(60), normal(60, seed=1)
    copies = real.copy(), fake.copy()
    for array in (real, fake):
        array.setflags(write=False)
    bench.evaluate(fake[::-1], reference=real, overrides=[PIXELS])
    single = np.asarray(fake, np.float32)
    single.setflags(write=False)
    bench.evaluate(single, reference=torch.from_numpy(copies[0]).requires_grad_(), overrides=[PIXELS])
    assert np.array_equal(real, copies[0])
    assert np.array_equal(fake, copies[1])


# Rows and tables


def test_rows_are_those_of_the_file(ran: tuple[Path, Any]) -> None:
    rows = bench.load_rows(ran[0] / "runs" / "tiny")
    assert list(rows.columns) == ResultRow.columns()
    files = (ran[0] / "runs" / "tiny").glob("*/rows.jsonl")
    stored = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(rows["metric"]) == sorted(row["metric"] for row in stored)


def test_rows_of_runs_and_of_samples_stand_in_one_table(ran: tuple[Path, Any]) -> None:
    rows = bench.load_rows(ran[0] / "runs" / "tiny")
    samples = two_moons(512, 64, 200).train.x[:200]
    theirs = bench.evaluate(samples, data="two_moons", label="train", overrides=[PIXELS, *SIZES])
    assert list(theirs.dtypes) == list(rows.dtypes)
    table = bench.table(pd.concat([rows, theirs]), metrics=["fid"])
    values = table["FID[pixels]"]["value"]
    assert len(values) == 2, "both in one column: one protocol"
    (of_train,) = values[[name.startswith("train") for _, name in values.index]]
    assert of_train == theirs["value"][0]
    assert bench.table(rows).equals(bench.notebook.table(rows, "best", ()))


# Mistakes


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: bench.run("model=vae"), "a list of texts is expected"),
        (lambda: bench.run([5]), "a list of texts is expected"),  # type: ignore[list-item]
        (lambda: bench.run(["--cfg", "job"]), "run --cfg: only KEY=VALUE, and -m for a sweep"),
        (lambda: bench.run(["model=relnvp"]), "nearest: realnvp"),
        (lambda: bench.run(["model=vae,dcgan"]), "add -m"),
        (lambda: bench.run(["seed=a"]), "seed='a'"),
        (lambda: bench.evaluate(normal(9)), "either data=NAME or reference=ARRAY"),
        (
            lambda: bench.evaluate(normal(9), data="two_moons", reference=normal(9, 3), overrides=SIZES),
            r"reference has the shape \(9, 3\); two_moons wants \(N, 2\)",
        ),
        (lambda: bench.evaluate(normal(9), data="tow_moons"), "nearest: two_moons"),
        (lambda: bench.evaluate(normal(9), data="two_moons,grid25"), "is no name"),
        (
            lambda: bench.evaluate(normal(9, 3), data="two_moons", overrides=SIZES),
            r"\(9, 3\); two_moons wants \(N, 2\)",
        ),
        (lambda: bench.evaluate("nowhere.npz", data="two_moons", overrides=SIZES), "no such file"),
        (lambda: bench.evaluate([[1.0]], reference=normal(9)), "samples: a list; give a numpy array"),  # type: ignore[arg-type]
        (lambda: bench.evaluate(normal(9), reference=[[1.0]]), "reference: a list; give a numpy"),  # type: ignore[arg-type]
        (lambda: bench.evaluate(normal(9), reference=np.ones((9, 2), int)), r"reference: int64 \(9, 2\); wanted"),
        (lambda: bench.evaluate(normal(9), reference=normal(9)[:1]), "reference has 1 samples"),
        (lambda: bench.evaluate(normal(9), reference=normal(9) * np.nan), "reference has NaN"),
        (lambda: bench.evaluate(normal(9) * np.inf, reference=normal(9)), "samples has NaN or infinite"),
        (lambda: bench.evaluate(normal(1), reference=normal(9)), "samples has 1 samples"),
        (lambda: bench.evaluate(torch.eye(2).to_sparse(), reference=normal(9)), "cannot become an array"),
        (lambda: bench.evaluate(pictures(9) / 255, reference=pictures(9)), "levels 0..255 are wanted"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), metrics=["fdi"]), "nearest: fid"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), metrics=["fid]"]), "'fid]' is no name"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), metrics=[]), "none is chosen"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), n_samples=1), "n_samples must be at least 2"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), seed=1.5), "seed=1.5"),  # type: ignore[arg-type]
        (lambda: bench.evaluate(normal(9), reference=normal(9), label="a/b"), "label='a/b'"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=PIXELS), "a list of texts"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["metric"]), "'metric' is no KEY=VALUE"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["seed=3"]), "seed cannot be set here"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["out=x"]), "out cannot be set here"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["data.path=x"]), "a reference in its place"),
        (lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["metric.fid.feature=x"]), "no such key"),
        (
            lambda: bench.evaluate(normal(9), reference=normal(9), overrides=["metric.fid._target_=os.system"]),
            r"'os\.system' is not in the packages",
        ),
        (lambda: bench.load_rows("nothing/*.jsonl"), "no such file or folder"),
        (lambda: bench.table([]), "no rows"),
    ],
)
def test_a_mistake_is_one_line(act: Callable[[], object], said: str, workplace: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert list(workplace.iterdir()) == []


def test_the_example_in_the_documentation() -> None:
    results = doctest.testmod(bench.notebook)
    assert (results.attempted, results.failed) == (5, 0)
