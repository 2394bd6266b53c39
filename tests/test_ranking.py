"""Which cells are ranked, how lines are sorted and what they are called."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_rows import make_row

from bench.cli import table as cli_table
from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.rows.store import read_rows, write_rows
from bench.schema import Relation, ResultRow
from bench.tables.aggregate import make_table
from bench.tables.markdown import to_markdown
from bench.tables.model import Cell, Section

TIME: dict[str, Any] = {
    "metric": "train_seconds", "metric_title": "train s", "unit": "s", "n_real": None, "n_fake": None, "extractor": "",
    "extractor_hash": "", "device": "cpu (1 threads)", "load": 1.0, "stderr": None, "ci_low": None, "ci_high": None,
}  # fmt: skip


def run(model: str, value: float, **changes: Any) -> ResultRow:
    shared: dict[str, Any] = {"model": model, "group": model, "run_id": model, "value": value}
    return make_row(**{**shared, **changes})


def only(rows: list[ResultRow], **options: Any) -> Section:
    (section,) = make_table(rows, **options).sections
    return section


def cells(rows: list[ResultRow]) -> dict[str, Cell]:
    section = only(rows)
    return {section.lines[line].label: cell for (line, _), cell in section.cells.items()}


def best(rows: list[ResultRow]) -> set[str]:
    return {label for label, cell in cells(rows).items() if cell.best}


def test_the_datas_own_density_is_first_and_never_best() -> None:
    oracle = run("oracle", 0.0, model_family="data")
    rows = [run("a", 2.0), run("b", 1.0), oracle]
    assert best(rows) == {"b"}
    assert [line.label for line in only(rows).lines] == ["oracle", "b", "a"]
    assert best([oracle, run("a", 2.0)]) == set()
    assert "the data's own density is not ranked" in to_markdown(make_table(rows))


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(
    ("relation", "gain", "ranked"),
    [
        ("exact", 2.0, False),
        ("exact", 0.2, True),
        ("exact", -2.0, True),
        ("bound", 2.0, False),
        ("estimate", 2.0, True),
    ],
)
def test_a_likelihood_above_that_of_the_datas_own_density_is_wrong(
    relation: str, gain: float, ranked: bool, higher: bool
) -> None:
    """The error of either is 0.1."""
    sign = 1 if higher else -1
    bound = Relation.LOWER_BOUND if higher else Relation.UPPER_BOUND
    shared = {"higher_is_better": higher, "stderr": 0.1, "ci_low": None, "ci_high": None, "n_draws": 1}
    rows = [
        run("oracle", 1.0, model_family="data", relation=Relation.EXACT, **shared),
        run("a", 1.0 + sign * gain, relation=bound if relation == "bound" else Relation(relation), **shared),
    ]
    said = cells(rows)["a"].unranked
    assert said == ("" if ranked else "better than the data's own density, which no model is: its likelihood is wrong")


def test_a_control_is_never_best_and_stands_below_the_models() -> None:
    control = run("resampler", 0.5, model_family="control")
    rows = [run("a", 2.0), control, run("b", 1.0)]
    assert best(rows) == {"b"}
    assert [line.label for line in only(rows).lines] == ["b", "a", "resampler"]
    assert cells(rows)["resampler"].unranked == "the control (training copies), not a model"
    markdown = to_markdown(make_table(rows))
    assert "the control (training copies) is not ranked" in markdown
    assert "control" not in to_markdown(make_table([run("a", 2.0), run("b", 1.0)]))
    # Nor does a value that is certainly better take the mark from a model.
    bounds = [run(name, value, relation=Relation.LOWER_BOUND) for name, value in (("a", 22.0), ("b", 21.0))]
    exact = replace(control, relation=Relation.EXACT, ci_low=None, ci_high=None)
    assert best([*bounds, exact]) == {"b"}
    assert best([*bounds, replace(exact, model_family="baseline")]) == set()
    assert best([control, run("a", 2.0)]) == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"budget": "one pass"}, "costs of a closed form"), ({"load": 0.89}, "the threads ran 89 % of the time"),
        ({"load": None}, "the load of the machine was not recorded"),
    ],
)  # fmt: skip
def test_times_that_say_nothing_of_the_model_are_not_ranked(change: dict[str, Any], reason: str) -> None:
    rows = [run("a", 2.0, **TIME), run("b", 3.0, **TIME), run("c", 1.0, **{**TIME, **change})]
    found = cells(rows)
    assert best(rows) == {"a"}
    assert reason in found["c"].unranked
    assert f"not ranked: {reason}" in to_markdown(make_table(rows))
    # A cell is as quiet as the worst of its seeds.
    rows.append(run("a", 2.0, **{**TIME, "load": 0.2}, seed=1))
    assert "the threads ran 20 %" in cells(rows)["a"].unranked


def test_times_on_other_devices_need_no_load_and_are_not_mixed() -> None:
    gpu = {**TIME, "device": "NVIDIA H100", "load": None}
    assert best([run("a", 2.0, **gpu), run("b", 3.0, **gpu), run("c", 1.0, **TIME)]) == {"a"}
    mixed = [run("a", 2.0, **gpu), run("a", 2.0, **TIME, seed=1), run("b", 3.0, **gpu), run("c", 4.0, **gpu)]
    assert best(mixed) == {"b"}
    assert cells(mixed)["a"].unranked == "the seeds ran on different devices"


@pytest.mark.parametrize("few", [{"n_real": 49}, {"n_fake": 49}, {"n_real": 2, "n_fake": 10}])
@pytest.mark.parametrize("metric", ["fid[mnist-cnn]", "fid[pixels]", "fid"])
def test_fid_of_few_images_is_marked_and_not_ranked(few: dict[str, Any], metric: str) -> None:
    rows = [run("a", 2.0, metric=metric, **few), run("b", 1.0, metric=metric, **few)]
    assert best(rows) == set()
    assert "FID ↓ [1]" in to_markdown(make_table(rows))
    assert f"FID of fewer than 50 examples ({min(few.values())}) is meaningless" in to_markdown(make_table(rows))
    mind = [run("a", 2.0, metric="mind[pixels]", **few), run("b", 1.0, metric="mind[pixels]", **few)]
    assert best(mind) == set()
    assert "MIND of fewer than 50 examples" in cells(mind)["a"].unranked
    assert best([run("a", 2.0, n_real=50, n_fake=50), run("b", 1.0, n_real=50, n_fake=50)]) == {"b"}


@pytest.mark.parametrize(
    ("metric", "ranked"), [("support[pixels]", False), ("mode_kl", False), ("mode_kl[mnist-cnn]", True)]
)
def test_old_rows_of_metrics_without_direction_are_not_ranked(metric: str, ranked: bool) -> None:
    rows = [run("a", 2.0, metric=metric), run("b", 1.0, metric=metric)]
    assert best(rows) == ({"b"} if ranked else set())


def test_a_note_of_all_cells_stands_at_the_heading() -> None:
    shared = {**TIME, "load": None}
    markdown = to_markdown(make_table([run("a", 1.0, **shared), run("b", 2.0, **shared)]))
    assert "train s ↓ [1]" in markdown
    assert "| 2 |" in markdown
    markdown = to_markdown(make_table([run("a", 1.0, **shared), run("b", 2.0, **TIME)]))
    assert "| 1 [1] |" in markdown
    assert "| 2 |" in markdown


def test_lines_are_sorted_by_the_first_column_of_quality() -> None:
    rows = [run("a", 3.0), run("b", 1.0), run("c", 2.0), run("0", 1.0, metric="kid", metric_title="KID", rank=31)]
    rows += [run(name, value, **TIME) for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True)]
    assert [line.label for line in only(rows).lines] == ["b", "c", "a", "0"]
    assert [line.label for line in only(rows, sort="train s").lines] == ["a", "b", "c", "0"]
    assert [line.label for line in only(rows, sort="train_seconds").lines] == ["a", "b", "c", "0"]
    assert "sorted by FID." in to_markdown(make_table(rows))
    assert "sorted by train s." in to_markdown(make_table(rows, sort="train s"))
    with pytest.raises(UserError, match=r"called 'train_second'; nearest: train_seconds"):
        make_table(rows, sort="train_second")


def test_the_command_sorts_and_selects_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", [run("realnvp", 3.0), run("real", 1.0), run("vae", 2.0)])
    parser = argparse.ArgumentParser()
    cli_table.add_arguments(parser)

    def models(*options: str) -> list[str]:
        cli_table.main(parser.parse_args([str(tmp_path), "--format", "csv", *options]))
        return [line.split(",")[3] for line in capsys.readouterr().out.splitlines()[1:]]

    assert models() == ["real", "vae", "realnvp"]
    assert models("--model", "real*") == ["real", "realnvp"]
    assert models("--model", "vae", "--model", "realnvp", "--sort", "fid") == ["vae", "realnvp"]
    with pytest.raises(UserError, match="'realnpv'; nearest: realnvp"):
        models("--model", "realnpv")
    with pytest.raises(UserError, match="'FDI'; nearest: FID"):
        models("--sort", "FDI")


def configured(number: int, config: dict[str, Any] | None, model: str = "realnvp") -> ResultRow:
    text = "" if config is None else json.dumps(config)
    return run(model, float(number), group=f"{number}abcdef", run_id=str(number), config=text)


@pytest.mark.parametrize(
    ("configs", "labels"),
    [
        ([{"model.hidden": 32, "train.x": 1}, {"model.hidden": 64, "train.x": 1}], ["hidden=32", "hidden=64"]),
        ([{"a.x": 1, "b.x": 1}, {"a.x": 2, "b.x": 2}], ["a.x=1 b.x=1", "a.x=2 b.x=2"]),
        ([{"a": None}, {"a": [1, 2]}, {"a": "t"}], ["a=null", "a=[1,2]", "a=t"]),
        ([{"a": 1}, {"a": 1, "b": 2}], ["", "b=2"]),
        ([{"a": 1}, None], ["", "#1abcde"]),
        ([{"a": 1}, {"a": 1}], ["#0abcde", "#1abcde"]),
        ([{"a": "x" * 99}, {"a": "y" * 99}], ["#0abcde", "#1abcde"]),
        ([None, None], ["#0abcde", "#1abcde"]),
    ],
)
def test_lines_of_one_name_say_which_keys_differ(configs: list[dict[str, Any] | None], labels: list[str]) -> None:
    rows = [configured(number, config) for number, config in enumerate(configs)]
    found = [line.label for line in only(rows).lines]
    assert found == [f"realnvp {label}".strip() for label in labels]
    assert only(rows[:1]).lines[0].label == "realnvp"


def test_a_configuration_that_is_no_json_object_is_passed_over() -> None:
    rows = [run("a", float(n), group=f"{n}abcdef", run_id=str(n), config=text) for n, text in enumerate(["[1]", "{"])]
    assert [line.label for line in only(rows).lines] == ["a #0abcde", "a #1abcde"]


def test_a_rows_configuration_is_flat_and_tells_no_paths() -> None:
    config = {
        "name": "x", "seed": 0, "rerun": False, "choices": {"model": "maf", "data": "mine"}, "logger": None,
        "model": {"_target_": "a.B", "net": {"hidden": 32}}, "data": {"_target_": "c.D", "path": "/home/me/secret.csv"},
        "metric": {"m": {"_target_": "e.F"}}, "probe": {}, "train": {"examples": 10}, "trainer": {},
        "evaluate": {}, "trust": [], "runs_dir": "runs", "results_dir": "results",
    }  # fmt: skip
    flat = json.loads(RunSpec.parse(config).flat)
    assert flat["model.net.hidden"] == 32
    assert flat["train.examples"] == 10
    assert flat["train.batch_size"] == 64
    assert "secret" not in json.dumps(flat)


def test_older_rows_of_training_copies_are_of_a_control(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [run("resampler", 0.5, model_family="baseline"), run("a", 2.0), run("b", 3.0)])
    assert best(read_rows(tmp_path / "rows.jsonl")) == {"a"}


def test_a_caveat_of_some_seeds_says_so() -> None:
    rows = [run("a", 2.0, seed=seed, reason="it collapsed" * (seed == 1)) for seed in range(2)]
    assert cells(rows)["a"].unranked == "for some seeds: it collapsed"
    assert cells([run("a", 2.0, reason="it collapsed")])["a"].unranked == "it collapsed"
