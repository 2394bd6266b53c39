"""The table of properties: what is read from rows, and where it disagrees with the literature."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_rows import rows_of

from bench.cli import properties as command
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.metrics.structure import Structure
from bench.rows.frame import load_rows
from bench.rows.store import write_rows
from bench.schema import ResultRow, Status
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.tables.properties import Properties, properties_of, to_markdown


def failed(one: ResultRow) -> ResultRow:
    return replace(one, value=None, status=Status.FAILED, reason="diverged", relation=None)


def found(rows: list[ResultRow], folder: Path) -> dict[str, Properties]:
    write_rows(folder / "rows.jsonl", rows)
    return {one.model: one for one in properties_of(load_rows(folder / "rows.jsonl"))}


def test_what_is_read_from_rows(tmp_path: Path) -> None:
    rows = [
        *rows_of("nsf", "flow", 0, log_likelihood=-3.0, samples_per_second=1000.0, latent_share=1.0, encoder=1.0),
        *rows_of("nsf", "flow", 1, log_likelihood=-3.1, samples_per_second=3000.0, latent_share=1.0, encoder=1.0),
        *map(failed, rows_of("nsf", "flow", 2, log_likelihood=0.0, samples_per_second=0.0)),
        *rows_of("nsf", "flow", 2, **{"accuracy[cnn]": 0.99}),
        *rows_of("gan", "gan", 0, samples_per_second=1e6, latent_share=0.1, encoder=0.0, collapsed=1.0),
        *rows_of("gan", "gan", 1, samples_per_second=1e6, latent_share=0.1, encoder=0.0, collapsed=0.0),
        *rows_of("oracle", "data", 0, log_likelihood=-2.9),
        *rows_of("resampler", "control", 0, samples_per_second=1e9),
    ]
    one = found(rows, tmp_path)
    assert set(one) == {"nsf", "gan"}
    nsf, gan = one["nsf"], one["gan"]
    assert (nsf.trainings, nsf.failed, nsf.likelihood, nsf.rate, nsf.encoder) == (3, 1, "exact", 2000, True)
    assert nsf.fast is False
    assert (gan.trainings, gan.failed, gan.collapsed, gan.likelihood, gan.fast) == (2, 0, 1, "", True)
    assert nsf.disagreements == ["stable: 1 of 3 failed or collapsed", "fast: it is slow"]
    assert gan.disagreements == [], "an unstable family may collapse, as it does here"


def test_the_spread_is_of_fid_over_seeds(tmp_path: Path) -> None:
    rows = [r for seed, fid in enumerate((90.0, 110.0)) for r in rows_of("gan", "gan", seed, **{"fid[cnn]": fid})]
    assert found(rows, tmp_path)["gan"].spread == pytest.approx(200**0.5 / 100)


def test_fids_of_different_features_are_not_pooled(tmp_path: Path) -> None:
    rows = [
        r for seed in range(2) for r in rows_of("gan", "gan", seed, **{"fid[cnn]": 10.0 + seed, "fid[pixels]": 900.0})
    ]
    assert found(rows, tmp_path)["gan"].spread == pytest.approx(0.5**0.5 / 10.5)


def test_configurations_are_told_apart_and_no_likelihood_is_not_an_unmeasured_one(tmp_path: Path) -> None:
    good = rows_of("vae", "vae", 0, log_likelihood=-1.0)
    other = {"group": "other", "training_key": "other", "run_id": "other"}
    bad = [replace(failed(r), **other) for r in good]
    gan = [replace(failed(r), status=Status.SKIPPED) for r in rows_of("gan", "gan", 0, log_likelihood=-1.0)]
    write_rows(tmp_path / "rows.jsonl", [*good, *bad, *gan])
    one = {(p.model, p.failed, p.likelihood) for p in properties_of(load_rows(tmp_path / "rows.jsonl"))}
    assert one == {("gan", 1, "none"), ("vae", 0, "exact"), ("vae", 1, "")}


def test_times_of_a_busy_machine_and_of_closed_forms_measure_no_speed(tmp_path: Path) -> None:
    busy = [replace(r, load=0.4) for r in rows_of("maf", "flow", 0, samples_per_second=1.0)]
    rows = [
        *busy,
        *rows_of("nsf", "flow", 0, samples_per_second=1e4),
        *rows_of("gaussian", "baseline", 0, samples_per_second=1e9),
    ]
    one = found(rows, tmp_path)
    assert (one["maf"].rate, one["maf"].fast, one["nsf"].fast, one["gaussian"].fast) == (None, None, True, None)


def test_final_checkpoints_stand_in_where_no_other_was_measured(tmp_path: Path) -> None:
    rows = [replace(r, checkpoint="final") for r in rows_of("gan", "gan", 0, samples_per_second=5.0)]
    assert found(rows, tmp_path)["gan"].rate == 5.0


def test_what_was_not_measured_disagrees_with_nothing(tmp_path: Path) -> None:
    one = found(rows_of("mine", "new family", 0, modes=3.0), tmp_path)["mine"]
    assert (one.rate, one.fast, one.collapsed, one.latent_share, one.encoder, one.disagreements) == (
        None, None, None, None, None, [],
    )  # fmt: skip
    assert "| mine | new family | 0 of 1 | – | – | – | – | – | – |  |" in to_markdown([one])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    write_rows(tmp_path / "rows.jsonl", rows_of("vae", "vae", 0, samples_per_second=5.0))
    out = tmp_path / "table.md"
    assert command.main(parser.parse_args([str(tmp_path / "rows.jsonl"), "--out", str(out)])) == 0
    assert capsys.readouterr().out == out.read_text()
    write_rows(tmp_path / "none.jsonl", rows_of("oracle", "data", 0, modes=1.0))
    with pytest.raises(UserError, match="no trained model"):
        command.main(parser.parse_args([str(tmp_path / "none.jsonl")]))


@pytest.mark.parametrize(
    ("name", "share", "encoder"),
    [("realnvp", 1.0, 1.0), ("vae", 2.0, 1.0), ("gan", 2.0, 0.0), ("gan_conditional", 2.0, 0.0), ("made", None, 0.0)],
)
def test_latent_codes_and_encoders_are_asked_of_the_model(name: str, share: float | None, encoder: float) -> None:
    data = small_data((5,), 2 if name == "made" else None)
    size = [] if name in ("realnvp", "made") else ["model.latent_dim=10"]
    subject = TrainedModel(new_model(name, replace(data.spec, classes=3), *size), None, 0, ORIGIN)
    found = evaluate(Examples(subject, data, seed=0), {"it": Structure()})["it"]
    assert [one.value for one in found] == [share, encoder]


def test_a_model_is_fast_beside_the_models_of_its_own_device(tmp_path: Path) -> None:
    gpu = [replace(r, device="NVIDIA H100", load=None) for r in rows_of("dcgan", "gan", 0, samples_per_second=1e6)]
    rows = [
        *gpu, *rows_of("nsf", "flow", 0, samples_per_second=1e3), *rows_of("maf", "flow", 0, samples_per_second=40.0)
    ]  # fmt: skip
    one = found(rows, tmp_path)
    assert (one["dcgan"].fast, one["nsf"].fast, one["maf"].fast) == (True, True, False)


def test_collapses_are_counted_only_where_all_trainings_say(tmp_path: Path) -> None:
    rows = [*rows_of("gan", "gan", 0, collapsed=0.0, modes=8.0), *rows_of("gan", "gan", 1, modes=1.0)]
    one = found(rows, tmp_path)["gan"]
    assert (one.trainings, one.collapsed, one.disagreements) == (2, None, [])
