"""The main job through the real command line, at a tiny budget."""

import csv
import signal
from pathlib import Path

import pytest
from helpers_cli import PATIENCE, command_line, genbench, started, wait_until

from bench.rows.store import read_rows
from bench.schema import Status

QUICK = ["run", "experiment=quickstart", "train.examples=640", "train.validate_every=320", "evaluate.n_samples=100",
         "evaluate.n_draws=2"]  # fmt: skip
MODELS = {"gaussian", "resampler", "realnvp_small", "vae_small", "dcgan", "wgan_small", "pixelcnn_small"}


def test_the_quickstart_makes_its_leaderboard(workplace: Path) -> None:
    done = genbench(*QUICK, cwd=workplace)
    assert done.returncode == 0, done.stderr
    board = workplace / "results" / "leaderboard"
    with (board / "quickstart.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert {cell["model"] for cell in cells} == MODELS
    by_name = {(cell["model"], cell["metric"]): cell for cell in cells}
    metrics = {"log_likelihood", "bits_per_dim", "fid[mnist-cnn]", "is[mnist-cnn]", "support[pixels]", "parameters",
               "train_seconds", "samples_per_second"}  # fmt: skip
    assert metrics <= {cell["metric"] for cell in cells}
    assert not [cell for cell in cells if cell["status"] == "failed"]
    # Likelihood where there is one, with its relation; elsewhere the reason.
    assert by_name["vae_small", "log_likelihood"]["relation"] == "lower_bound"
    assert by_name["vae_small", "bits_per_dim"]["relation"] == "upper_bound"
    assert by_name["dcgan", "log_likelihood"]["status"] == "skipped"
    assert by_name["dcgan", "log_likelihood"]["reason"] == "the model has no likelihood"
    # Copies of the training set have the least FID of all. They are a control: the best is a model.
    fid = {cell["model"]: cell for cell in cells if cell["metric"] == "fid[mnist-cnn]"}
    by_value = sorted(fid, key=lambda name: float(fid[name]["value"]))
    assert by_value[0] == "resampler"
    assert [name for name in by_value if fid[name]["best"] == "true"] == [by_value[1]]
    assert not [cell for cell in cells if cell["model"] == "resampler" and cell["best"] == "true"]
    # The in-domain classifier is good enough to judge.
    accuracy = float(by_name["vae_small", "accuracy[mnist-cnn]"]["value"])
    assert accuracy > 0.97
    # What a user reads.
    assert "| vae" in (board / "quickstart.md").read_text()
    assert "n/a" in done.stdout
    for run in (workplace / "runs" / "quickstart").iterdir():
        if run.is_dir():
            assert (run / "samples-best.png").stat().st_size > 1000
    # Made again from the rows alone, it is the same.
    again = genbench("table", "results/rows/quickstart.jsonl", "--format", "csv", cwd=workplace)
    assert again.stdout.replace("\r\n", "\n") == (board / "quickstart.csv").read_text().replace("\r\n", "\n")
    rows = read_rows(workplace / "results" / "rows" / "quickstart.jsonl")
    assert all(row.status is not Status.OK or row.value is not None for row in rows)
    # And a second call finds everything done.
    before = {path: path.read_bytes() for path in board.iterdir()}
    assert genbench(*QUICK, cwd=workplace).returncode == 0
    assert {path: path.read_bytes() for path in board.iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_run_that_goes_on(number: signal.Signals, workplace: Path) -> None:
    command = ["run", "model=vae", "data=two_moons", "metric=[likelihood]", "train.examples=3000000",
               "train.validate_every=6400", "evaluate.n_samples=16"]  # fmt: skip
    with started(command_line(*command), workplace) as process:
        wait_until(lambda: list(workplace.glob("runs/*/*/last.ckpt")), process)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "interrupted; the same command goes on" in said
    assert "Traceback" not in said
    assert not list(workplace.glob("runs/*/*/done.json"))


@pytest.mark.parametrize("model", ["realnvp", "dcgan"])
def test_two_processes_train_one_model(model: str, workplace: Path) -> None:
    command = ["run", f"model={model}", "data=eight_gaussians", "metric=[likelihood,cost]", "trainer=ddp",
               "trainer.accelerator=cpu", "train.examples=1280", "train.validate_every=640", "evaluate.n_samples=50",
               "data.n_train=2000", "data.n_test=100"]  # fmt: skip
    done = genbench(*command, cwd=workplace)
    assert done.returncode == 0, done.stderr
    rows = read_rows(workplace / "results" / "rows" / "eight_gaussians.jsonl")
    trained = [row for row in rows if row.model == model]
    assert trained
    assert all(row.device.startswith("2 x cpu") and row.examples_seen in (640, 1280) for row in trained)
