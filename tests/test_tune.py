"""Hyperparameters are searched on the validation split, and a search goes on after whatever ended it."""

import json
from pathlib import Path

import pytest
from helpers_cli import genbench
from helpers_sweep import unruly

from bench.checkpoint import Progress, load_checkpoint
from bench.cli.main import main
from bench.cli.run import specs_of
from bench.cli.tune import _told
from bench.config.space import Parameter, space_of
from bench.errors import UserError
from bench.rows.store import read_rows
from bench.runs import run
from bench.runs.folder import Ended, Outcome
from bench.runs.study import State, Study, Trial

pytest.importorskip("optuna")

SEARCH = ["model=gaussian", "model.shrinkage=tag(log,interval(1e-4,1))", "data=two_moons", "data.n_train=64",
          "data.n_val=32", "data.n_test=16", "evaluate.n_samples=8"]  # fmt: skip
NAME = "two_moons-gaussian-tuning"


def trials_of(folder: Path, name: str = NAME) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs" / name / "study.jsonl").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.a=interval(0,1)", {"low": 0.0, "high": 1.0}),
        ("model.a.b=tag(log,interval(1e-4,0.1))", {"low": 1e-4, "high": 0.1, "log": True}),
        ("model.a=int(interval(1,8))", {"low": 1, "high": 8, "step": 1}),
        ("model.a=tag(log,int(interval(1,8)))", {"low": 1, "high": 8, "step": 1, "log": True}),
        ("train.batch_size=range(8,65,8)", {"low": 8, "high": 64, "step": 8}),
        ("model.a=range(0,1,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25}),
        ("model.a=1,null,'x y',[1,2]", {"choices": ("1", "null", "'x y'", "[1,2]")}),
        ("model.a=choice(true,1e-3)", {"choices": ("True", "0.001")}),
    ],
)
def test_hydras_grammar_says_what_is_searched(text: str, expected: dict[str, object]) -> None:
    fixed, (parameter,) = space_of(["seed=1", text])
    assert fixed == ["seed=1"]
    assert parameter == Parameter(text.split("=")[0], text, **expected)  # type: ignore[arg-type]
    assert parameter.has(parameter.first)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([], "nothing to search"),
        (["seed=0,1"], "only keys of the model and of training"),
        (["model=vae,dcgan"], "only keys of the model and of training"),
        (["model.a=interval(2,1)"], "must be less than"),
        (["model.a=tag(log,interval(0,1))"], "greater than 0"),
        (["model.a=range(0,0)"], "has no values"),
        (["model.a=range(0,1000000)"], "at most"),
        (["model.a=1,2", "model.a=3,4"], "searched twice"),
    ],
)
def test_what_cannot_be_searched_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        space_of(overrides)


def test_a_search_goes_on_where_it_was_interrupted(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "peace").mkdir()
    monkeypatch.chdir(workplace / "peace")
    assert main(["tune", "--trials", "3", *SEARCH]) == 0
    said = capsys.readouterr().out
    expected = trials_of(workplace / "peace")
    monkeypatch.chdir(workplace)
    fit, calls = run.fit, []

    def interrupted(*given, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*given, **more)

    monkeypatch.setattr(run, "fit", interrupted)
    assert main(["tune", "--trials", "1", *SEARCH]) == 0
    assert main(["tune", "--trials", "3", *SEARCH]) == 130
    assert trials_of(workplace)[1]["state"] == "asked"
    assert main(["tune", "--trials", "3", *SEARCH]) == 0
    assert trials_of(workplace) == expected
    assert len(calls) == 4, "what was done is not done again"
    runs = [path.parent for path in workplace.glob(f"runs/{NAME}/*/rows.jsonl")]
    assert len(runs) == 3
    assert not (workplace / "results" / "leaderboard").exists(), (
        "a table of the trials would rank them on the test split"
    )
    for path in runs:
        assert all(row.higher_is_better is None or row.rank >= 200 for row in read_rows(path / "rows.jsonl")), "costs"
        (trial,) = [one for one in expected if one["run_id"] == path.name]
        assert trial["score"] == Progress.of(load_checkpoint(path / "best.ckpt")["progress"]).best_score
    best = min(expected, key=lambda one: one["score"])
    assert f"number {best['number'] + 1}, score {best['score']:.6g}" in said
    assert f"model.shrinkage={best['values']['model.shrinkage']}" in said.splitlines()[-1]


def test_the_best_of_a_training_that_diverged_is_no_score(workplace: Path) -> None:
    command = ["model=gaussian", *SEARCH[2:], "metric=[cost]"]
    assert main(["run", *command]) == 0
    (spec,) = specs_of(command, multirun=False)
    trial = Trial(0, {})
    assert _told(trial, spec, Outcome(spec.run_id, Ended.OK)).state is State.SCORED
    (spec.folder / "trained.json").unlink()  # best.ckpt lies there still
    assert _told(trial, spec, Outcome(spec.run_id, Ended.DIVERGED)).state is State.BAD
    assert _told(trial, spec, Outcome(spec.run_id, Ended.KILLED)).state is State.FAILED


def study(folder: Path, *overrides: str, fixed: str = "f") -> Study:
    return Study(folder / "study.jsonl", space_of(overrides or ["model.a=interval(0,1)"])[1], fixed, 0)


def test_a_torn_study_keeps_every_whole_trial(tmp_path: Path) -> None:
    made = study(tmp_path)
    for number in range(4):
        made.tell(Trial(number, {"model.a": number / 8}, State.SCORED, float(number), "run"))
    after = made.ask()
    whole = (tmp_path / "study.jsonl").read_bytes()
    head, *ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(head, len(whole), 3):
        (tmp_path / "study.jsonl").write_bytes(whole[:size])
        assert study(tmp_path).trials == made.trials[: sum(end <= size for end in ends)]
    (tmp_path / "study.jsonl").write_bytes(whole[: ends[3] + 7])
    assert study(tmp_path).ask() == after
    (tmp_path / "study.jsonl").write_bytes(whole[: head - 1])
    with pytest.raises(UserError, match="holds another search"):
        study(tmp_path)


def test_a_study_of_another_search_is_not_gone_on_with(tmp_path: Path) -> None:
    study(tmp_path).ask()
    with pytest.raises(UserError, match=r"holds another search \(model.a=interval\(0,1\), or other fixed values\)"):
        study(tmp_path, fixed="g")
    with pytest.raises(UserError, match="holds another search"):
        study(tmp_path, "model.a=interval(0,2)")


@pytest.mark.parametrize(
    "wrong",
    [{"values": {"model.a": 7.0}}, {"values": {}}, {"values": {"model.a": "x"}}, {"number": 3}, {"score": None},
     {"state": "asked"}],
)  # fmt: skip
def test_a_strangers_study_is_checked(wrong: dict[str, object], tmp_path: Path) -> None:
    study(tmp_path).tell(Trial(0, {"model.a": 0.5}, State.SCORED, 1.0, "run"))
    head, line = (tmp_path / "study.jsonl").read_text().splitlines()
    (tmp_path / "study.jsonl").write_text(f"{head}\n{json.dumps({**json.loads(line), **wrong})}\n")
    with pytest.raises(UserError, match="line 2 is no trial of this search"):
        study(tmp_path)


@pytest.mark.parametrize(("searched", "ours", "between"), [("range(8,65,8)", 24, 9), ("range(0.1,0.5,0.1)", 0.3, 0.35)])
def test_a_value_between_two_steps_is_no_trial(searched: str, ours: float, between: float, tmp_path: Path) -> None:
    study(tmp_path, f"model.a={searched}").tell(Trial(0, {"model.a": ours}, State.SCORED, 1.0, "run"))
    assert study(tmp_path, f"model.a={searched}").ask().number == 1
    text = (tmp_path / "study.jsonl").read_text()
    (tmp_path / "study.jsonl").write_text(text.replace(f'"model.a": {ours}', f'"model.a": {between}'))
    with pytest.raises(UserError, match="line 2 is no trial of this search"):
        study(tmp_path, f"model.a={searched}")


def test_the_search_finds_what_is_better(tmp_path: Path) -> None:
    searched = ["model.a=interval(0,1)", "model.b=x,y,z"]
    made = study(tmp_path, *searched)
    while len(made.trials) < 40:
        trial = made.ask()
        if len(made.trials) in (13, 39):  # past the ten random ones: interrupted, and what was asked was not written
            del made.trials[-1]
            made.tell(made.trials[-1])
            made = study(tmp_path, *searched)
            assert made.ask() == trial
        a, b = trial.values["model.a"], trial.values["model.b"]
        if a > 0.7:  # diverges: worse than any score
            made.tell(Trial(trial.number, trial.values, State.BAD))
        else:
            made.tell(Trial(trial.number, trial.values, State.SCORED, (a - 0.6) ** 2 + (b != "y"), "run"))
    assert made.best is not None
    assert made.best.values["model.b"] == "y"
    assert abs(made.best.values["model.a"] - 0.6) < 0.05
    assert sum(trial.state is State.BAD for trial in made.trials[20:]) < 4, "it learns what diverges"


def test_optuna_is_named_where_it_is_missing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tune", *SEARCH]) == 2
    assert "the package optuna is not installed; pip install 'genbench[tune]'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_trials_at_a_time_and_what_fails(workplace: Path) -> None:
    command = ["tune", "--trials", "4", "model.does=nothing,diverge,die", *unruly(workplace), "jobs=2", "name=t"]
    done = genbench(*command, cwd=workplace)
    states = {trial["values"]["model.does"]: trial["state"] for trial in trials_of(workplace, "t")}  # type: ignore[index]
    kinds = {"nothing": "scored", "diverge": "bad", "die": "failed"}
    assert states == {does: kinds[does] for does in states}
    assert len(states) > 1, done.stdout
    assert done.returncode == (1 if "die" in states or "nothing" not in states else 0), done.stderr
    (workplace / "healed").touch()
    assert genbench(*command, cwd=workplace).returncode == 0
    assert all(trial["state"] in ("scored", "bad") for trial in trials_of(workplace, "t"))
