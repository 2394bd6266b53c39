"""What a newcomer types: it works, or one line says what to write instead, and that works."""

import io
import json
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.checkpoint import Progress
from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec, Schedule
from bench.runs.folder import Ended, Outcome
from bench.runs.sweep import Sweep
from bench.training.console import Reporter, duration

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from bench_fuzz import check_line, line_of

TINY = ["data=two_moons", "data.n_train=256", "data.n_val=64", "data.n_test=64", "metric=[likelihood]",
        "train.examples=256", "train.validate_every=128", "evaluate.n_samples=16"]  # fmt: skip


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> list[str]:
    """The ids of the runs that would be trained."""
    runs: list[str] = []

    def execute(spec: RunSpec, stage: object = None) -> Outcome:
        runs.append(spec.run_id)
        return Outcome(spec.run_id, Ended.OK)

    monkeypatch.setattr("bench.runs.run.execute", execute)
    return runs


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("data=ring8 -m model=gaussian metric=[likelihood]", 1),
        ("data=ring8 model=gaussian,vae -m", 2),
        ("model=gaussian --multirun seed=0,1 data=ring8", 2),
        ("-m model=glob(*iaf) data=ring8", 2),
        ("-m model=gaussian seed=range(0,3) data=ring8", 3),
        ("-m model=choice(gaussian,vae) data=ring8", 2),
        ("--run model=gaussian -m data=ring8", 1),
    ],
)
def test_flags_stand_anywhere_and_sweeps_of_hydras_grammar_run(line: str, count: int, ran: list[str]) -> None:
    assert main(["run", *shlex.split(line)]) == 0
    assert len(ran) == count


@pytest.mark.parametrize(
    "line", ["--cfg job data=ring8 model=vae", "data=ring8 --cfg job model=vae", "model=vae -c job"]
)
def test_the_configuration_is_shown_wherever_the_flag_stands(
    line: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *line.split()]) == 0
    assert "models.vaes.vae.VAE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        ["runs_dir=lr=0.1/runs"], ["name=日本語"], ["name=é"], ["runs_dir=~/x"], ["name=a;b"], ["name='a'b'"],
        ["metric=[likelihood"], ["metric=[likelihood]]"], ["metric=(likelihood)"], ["metric=[likelihood,", "fid]"],
        ["metric=fid,likelihood"], ["train.examples=60,000"], [" seed=1"], ["seed", "=", "1"], ["seed:1"],
        ["train.examples=1e5"], ["seed=interval(0,3)"],
    ],
)  # fmt: skip
def test_the_text_that_is_advised_works(line: list[str], ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = ["model=gaussian", "data=ring8"]
    assert main(["run", *before, *line]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    advised = re.search(r"write (.*)$", said.strip())
    assert advised, said
    assert main(["run", *before, *shlex.split(advised[1])]) == 0, (said, capsys.readouterr().err)
    assert ran


@pytest.mark.parametrize(
    "line",
    ["seed=range(0,3) model=gaussian", "model=gaussian,vae data=ring8", "model=glob(gaussian*)", "name=a,b model=vae",
     "-m model=gaussian,vae data=ring8 --cfg job", "-m model=glob(vae*) --info config"],
)  # fmt: skip
def test_the_command_that_is_advised_works(line: str, ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *line.split()]) == 2
    said = capsys.readouterr().err
    advised = re.search(r"`genbench (run .*?)`", said)
    assert advised, said
    assert main(shlex.split(advised[1])) == 0, (said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["-m", "model=vae", "seed=range(0,1000000000)"], r"1,000,000,000 runs; at most 10,000"),
        (["-m", "model=vae", "seed=range(0,1,0)"], r"has no end"),
        (["-m", "model=vae", "seed=range(3,0)"], r"has no values"),
        (["-m", "model=glob(zzz*)"], r"no model matches"),
        (["model=vae", "seed=foo(1)"], r"there is no function foo"),
        (["model=[vae,wgan]"], r"one model is expected.*-m model=vae,wgan"),
        (["+model=vae"], r"is chosen already.*model=vae"),
        (["model=vae", "~metric"], r"nothing to take away; write metric=\[likelihood\]|metric=\[NAME\]"),
        (["model=vae", "model.latent_dim=abc"], r"model\.latent_dim='abc': a whole number is expected"),
        (["model=vae", "model.optimizer=adam"], r"keys and values with a _target_"),
        (["model=vae", "model.optimizer.lr=fast"], r"model\.optimizer\.lr='fast': a number is expected"),
        (["model=vae", "evaluate=3"], r"evaluate: keys and values are expected; write evaluate\."),
        (["model=vae", ""], r"an argument is empty; leave it out"),
        (["model=vae", "name=a\nb"], r"control character"),
        (["model=vae", "experiment=" + "x" * 300], r"cannot compose|no such experiment"),
        (["model=choice(vae,wgan)", "choices=[1,2]"], r"choices: no such key"),
        (["model=vae", "probe=[a,[b]]"], r"names are expected"),
        (["model=vae", "hydra.verbose=[1,2]"], r"hydra\.verbose: true, false"),
        (["model=vae", "hydra.verbose={}"], r"hydra\.verbose: true, false"),
        (["vae"], r"model is missing; write model=vae"),
        (["-m", "model=gaussian,vae", "model.latent_dim=3"], r"of the sweep only vae can have it"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    line: list[str], said: str, ran: list[str], capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    assert main(["run", *line]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1, printed
    assert re.search(said, printed), printed
    assert not ran
    assert not list(workplace.iterdir())


@pytest.mark.parametrize("line", [[], ["data=ring8"], ["-m", "seed=0,1"]])
def test_a_model_that_nobody_named_is_not_trained(
    line: list[str], ran: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *line]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "realnvp" in said
    assert not list(workplace.iterdir())
    assert main(["run", "model=vae", *line]) == 0, "the advice"


@pytest.mark.parametrize("name", ["[]", "", "a b", "mnist5k,ring8", "glob(*)", "{}"])
def test_a_data_set_is_asked_for_by_its_name(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "where", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_times_are_told_in_hours_and_minutes() -> None:
    told = [duration(seconds) for seconds in (0.4, 59, 60, 148, 3600, 8880, 200_000)]
    assert told == ["0 s", "59 s", "1 min", "2 min 28 s", "1 h", "2 h 28 min", "2 d 7 h"]


def test_a_sweep_tells_where_it_stands_and_no_time_before_a_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("bench.runs.sweep.time.perf_counter", lambda: now[0])
    runs = compose_runs(["model=vae,nice", "seed=0,1", "data=ring8"], multirun=True)
    specs = [RunSpec.parse(config) for config in runs]
    sweep = Sweep(specs, {spec.run_id for spec in specs})
    seen = []
    for spec, took in zip(specs, (10.0, 20.0, 40.0, 80.0), strict=True):
        with sweep.running(spec) as stage:
            assert stage is not None
            seen.append((stage.words, stage.own, stage.rest(30.0)))
            now[0] += took
    assert [words for words, _, _ in seen] == [f"run {number} of 4: " for number in (1, 2, 3, 4)]
    assert seen[0][1:] == (None, None)
    assert seen[1][1:] == (10.0, 2 * 20.0), "no nice has run: both take the mean of 10 and 30"
    assert seen[2][1:] == (None, pytest.approx((10 + 20 + 30) / 3)), "what a VAE took says nothing of the first NICE"
    assert seen[3][1:] == (40.0, 0.0)


def test_without_a_terminal_lines_tell_the_time_left_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("bench.training.console.PLAIN_SECONDS", 0.0)
    file = io.StringIO()
    log = logging.getLogger("test")
    console = Console(file=file, width=400)
    with Reporter("run 2 of 3: x", log, Schedule(examples=1000), console, own=60.0, rest=lambda own: 8820.0) as say:
        say.step(None, Progress(examples_seen=500, train_seconds=60.0), {"loss": torch.tensor(1.0)})  # type: ignore[arg-type]
    assert "starts, about 2 h 28 min left in all" in file.getvalue()
    assert "1 min left (all: about 2 h 28 min)" in file.getvalue()
    assert re.search(r"run 2 of 3: x: done after \d+ s\n$", file.getvalue())


def test_a_failed_run_prints_its_error_and_no_older_table(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=gaussian", *TINY]) == 0
    assert "Written:" in capsys.readouterr().out
    assert main(["run", "model=gaussian", *TINY, "data.n_train=0"]) == 2, "refused"
    assert capsys.readouterr().out == ""
    assert main(["run", "model=realnvp", *TINY, "model.couplings=2", "model.optimizer.lr=1e30"]) == 1, "diverged"
    assert capsys.readouterr().out == ""


def test_what_is_printed_is_of_the_data_that_were_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=gaussian", *TINY, "name=all"]) == 0
    capsys.readouterr()
    assert main(["run", "model=gaussian", *TINY, "name=all", "data=pinwheel"]) == 0
    printed = capsys.readouterr().out
    assert "pinwheel" in printed
    assert "two_moons" not in printed
    assert "two_moons" in (workplace / "results" / "leaderboard" / "all.csv").read_text()


def test_a_logger_on_a_finished_run_gets_the_stored_scores(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "model=realnvp", "model.couplings=2", *TINY]
    assert main(command) == 0
    (run,) = (workplace / "runs" / "two_moons").glob("*-realnvp-*")
    weights = (run / "final.ckpt").read_bytes()
    assert main([*command, "logger=csv"]) == 0
    lines = (run / "curves" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,validation_score"
    assert [line.split(",")[0] for line in lines[1:]] == ["128", "256"]
    assert "2 validation scores are logged now" in capsys.readouterr().err
    assert (run / "final.ckpt").read_bytes() == weights, "nothing is trained again"
    assert main([*command, "logger=csv"]) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().err
    assert json.loads((run / "done.json").read_text())["ended"] == "ok"


def test_a_closed_form_has_no_curves_and_says_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["seed=1"]):
        command = ["run", "model=gaussian", *TINY, *extra]
        if not extra:
            assert main(command) == 0
        assert main([*command, "logger=csv"]) == 0
        assert "it has no curves, because the model is fitted in one pass" in capsys.readouterr().err


@pytest.mark.parametrize("block", range(4))
def test_random_command_lines_end_in_words(block: int, tmp_path: Path) -> None:
    """A hundred of those that tests/benchmarks/bench_fuzz.py draws; it has a command for ten thousand."""
    (tmp_path / "work").mkdir()
    lines = [line_of(index, seed=7) for index in range(100 * block, 100 * block + 100)]
    wrong = {shlex.join(line): said for line in lines for said in [check_line(line, tmp_path / "work")] if said}
    assert not wrong
