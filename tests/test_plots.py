"""One number against another over runs: which points a panel holds, and what cannot be drawn."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers_rows import FAILED, make_row
from PIL import Image

from bench.cli.main import main
from bench.errors import UserError
from bench.rows.frame import to_frame
from bench.rows.store import write_rows
from bench.schema import Relation, ResultRow, Source
from bench.tables import plots
from bench.tables.plots import Panel, Point, draw_panels, panels_of


def runs(name: str = "r", **changes: Any) -> list[ResultRow]:
    """Three sizes of a discriminator, two seeds each: its parameters, and a support with its interval."""
    rows = []
    for size in (4, 16, 400):
        for seed in (0, 1):
            known = f"{name}{size}-{seed}"
            run = {
                "run_id": known, "training_key": known, "group": f"g{size}", "seed": seed,
                "config": json.dumps({"model.discriminator_hidden": size, "model.name": "x", "model.wide": True}),
            }  # fmt: skip
            rows += [
                make_row(metric="discriminator_parameters", value=10.0 * size, extractor="", ci_low=None, ci_high=None,
                         n_fake=None, **run),
                make_row(metric="support[pixels]", value=100.0 * size + seed, ci_low=90.0 * size, ci_high=120.0 * size,
                         relation=Relation.ESTIMATE, **run),
            ]  # fmt: skip
    return [dataclasses.replace(row, **changes) for row in rows]


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 300


def only(rows: list[ResultRow], x: str = "discriminator_parameters") -> Panel:
    (panel,) = panels_of(to_frame(rows), x, ["support"])
    return panel


def test_a_point_joins_two_rows_of_one_run() -> None:
    line = only(runs()).lines["dcgan"]
    assert [(point.x, point.seed, point.value) for point in line] == [
        (40, 0, 400), (40, 1, 401), (160, 0, 1600), (160, 1, 1601), (4000, 0, 40000), (4000, 1, 40001),
    ]  # fmt: skip
    assert line[0] == Point(40, 0, 400, 360, 480, "estimate")


def test_the_axis_may_be_a_key_of_the_configuration() -> None:
    assert [point.x for point in only(runs(), "model.discriminator_hidden").lines["dcgan"]] == [4, 4, 16, 16, 400, 400]


@pytest.mark.parametrize("x", ["model.depth", "model.name", "model.wide", "nothing"])
def test_what_no_run_has_as_a_number_is_no_axis(x: str) -> None:
    with pytest.raises(UserError, match=f"--x {x}: no row"):
        only(runs(), x)


def test_runs_without_a_value_are_counted_and_not_drawn(tmp_path: Path) -> None:
    rows = runs()
    rows[1] = dataclasses.replace(rows[1], n_fake=None, **FAILED)
    panel = only(rows)
    assert panel.missing == 1
    draw_panels([panel], tmp_path / "size.png", "discriminator_parameters")
    assert is_picture(tmp_path / "size.png")


def test_two_metrics_of_one_name_on_one_data_set_share_no_axes(tmp_path: Path) -> None:
    first = only(runs())
    sizes = []
    for others in ([], [dataclasses.replace(first, dataset="other")], [dataclasses.replace(first, title="another")]):
        draw_panels([first, *others], tmp_path / "size.png", "x")
        with Image.open(tmp_path / "size.png") as picture:
            sizes.append(picture.size)
    one, beside, below = sizes
    assert beside[0] > one[0]
    assert beside[1] == one[1]
    assert below[0] == one[0]
    assert below[1] > one[1] + 200
    with pytest.raises(UserError, match=r"--x support: .*there are support\[pixels\]"):
        panels_of(to_frame(runs()), "support", ["discriminator_parameters"])


def test_a_model_has_one_colour_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = only([*runs(), *runs("a", model="a gan")])
    second = dataclasses.replace(first, asked="another", lines={"dcgan": first.lines["dcgan"]})
    drawn: list[Any] = []

    def rendered(figure: Any) -> Image.Image:
        drawn.append(figure)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(plots, "rendered", rendered)
    draw_panels([first, second], tmp_path / "size.png", "x")
    found = [{line.get_label(): line.get_color() for line in axes.lines} for axes in drawn[0].axes]
    assert found[0]["dcgan"] == found[1]["dcgan"] != found[0]["a gan"]


def test_configurations_at_one_place_are_not_mixed() -> None:
    with pytest.raises(UserError, match="several configurations at the same place 40"):
        only([*runs(), *runs(group="other", training_key="o", run_id="o")[:2]])


@pytest.mark.parametrize(
    ("part", "value"),
    [("n_fake", 5), ("n_real", 7), ("extractor_hash", "other"), ("metric_version", 2), ("split", "train")],
)
def test_numbers_of_another_protocol_do_not_share_a_panel(part: str, value: object) -> None:
    more = runs(training_key="o", run_id="o")[1]
    more = dataclasses.replace(more, **{part: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"differ in {part} and cannot share a panel"):
        only([*runs(), more])


def test_quoted_numbers_and_data_are_no_runs() -> None:
    rows = [*runs(source=Source.QUOTED), *runs(model_family="data")]
    with pytest.raises(UserError, match="no rows of runs"):
        only(rows)


def test_the_command_draws_a_panel_for_each_metric_and_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "a.jsonl", runs())
    counts = runs("b", dataset="grid25", metric="modes", metric_title="modes", relation=Relation.LOWER_BOUND)
    write_rows(tmp_path / "b.jsonl", counts[1::2])
    out = tmp_path / "size.png"
    asked = ["plot", str(tmp_path), "--x", "model.discriminator_hidden", "--y", "support", "--y", "modes"]
    assert main([*asked, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "on mnist5k: 6 of 6 runs have a value" in printed
    assert "on grid25: 6 of 6 runs have a value" in printed
    assert is_picture(out)
    assert main([*asked, "--out", str(tmp_path / "size.pdf")]) == 2
    assert "ends in .png" in capsys.readouterr().err
    assert main(["plot", str(tmp_path), "--x", "seed", "--y", "modes", "--out", str(tmp_path / "a.jsonl")]) == 2


def test_the_line_joins_the_medians_of_the_seeds() -> None:
    line = [Point(x, seed, value) for x, seed, value in ((4, 0, 1.0), (4, 1, 2.0), (4, 2, 90.0), (9, 0, 5.0))]
    assert plots._medians([*line, Point(16, 0, None)]) == [(4, 2.0), (9, 5.0)]
