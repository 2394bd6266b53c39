"""Tables from hand-made rows: what is shown, and what cannot be smuggled in."""

import argparse
import csv
import dataclasses
import doctest
import io
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_rows import FAILED
from helpers_tables import cells, csv_rows, likelihood, only, realistic, run

from bench.cli import table as cli_table
from bench.errors import UserError
from bench.rows.frame import load_rows, read_frame
from bench.rows.store import write_rows
from bench.schema import Relation, ResultRow
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.frame import table as wide_frame
from bench.tables.latex import to_latex
from bench.tables.leaderboard import publish
from bench.tables.markdown import to_markdown
from bench.tables.text import to_text
from bench.tables.view import format_number

# Numbers


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (12.3456, 0.5678, "12.35 ± 0.57"), (12.3456, 0.0996, "12.35 ± 0.10"), (-0.001, 0.21, "0.00 ± 0.21"),
        (12345.6, 234.5, "12_350 ± 230"), (1234567.0, 99.6, "1_234_570 ± 100"), (3.0, 1200.0, "0 ± 1_200"),
        (0.00012346, 0.0000012, "0.0001235 ± 0.0000012"), (5.0, 0.0, "5"), (0.0, None, "0"), (-0.0, None, "0"),
        (1234567.0, None, "1_234_567"), (3.14159, None, "3.142"), (0.999999, None, "1.000"), (-2.5, None, "-2.500"),
        (123456.7, None, "123_500"), (0.000012345, None, "0.00001234"), (1e-9, None, "1.000e-09"),
        (1e15, None, "1.000e+15"), (1e300, 1e299, "1.000e+300 ± 1.0e+299"), (0.5, 1e-12, "5.000e-01 ± 1.0e-12"),
        (-3.4657359, 2e-17, "-3.466"),
    ],
)  # fmt: skip
def test_digits_follow_the_uncertainty(value: float, spread: float | None, text: str) -> None:
    assert format_number(value, spread) == text.replace("_", "\N{NARROW NO-BREAK SPACE}")


def test_csv_has_full_precision() -> None:
    third = 1 / 3
    (row,) = csv_rows([run(value=third, stderr=third / 7, ci_low=-third, ci_high=2 * third)])
    assert [float(row[name]) for name in ("value", "spread", "ci_low", "ci_high")] == [
        third, third / 7, -third, 2 * third,
    ]  # fmt: skip
    assert row["ci_low"] == repr(-third)


# Views


def test_views_depend_on_the_set_of_rows_alone() -> None:
    rows = realistic()
    rows += [dataclasses.replace(row, run_id="again", value=1.0) for row in rows[::7] if row.value is not None]
    rows += [dataclasses.replace(row, value=2.0) for row in rows[::5] if row.value is not None]
    expected = [make(make_table(rows, checkpoint="both")) for make in (to_csv, to_markdown, to_latex, to_text)]
    for seed in range(5):
        shuffled = rows + rows[::3]
        random.Random(seed).shuffle(shuffled)
        found = [make(make_table(shuffled, checkpoint="both")) for make in (to_csv, to_markdown, to_latex, to_text)]
        assert found == expected


def test_rows_and_frames_of_rows_make_the_same_table(tmp_path: Path) -> None:
    rows = realistic()
    write_rows(tmp_path / "rows.jsonl", rows)
    loaded = load_rows([tmp_path])
    for frame in (read_frame([tmp_path]), loaded, loaded.astype("object"), loaded.sample(frac=1, random_state=0)):
        assert to_csv(make_table(frame)) == to_csv(make_table(rows))
        assert to_markdown(make_table(frame)) == to_markdown(make_table(rows))
    assert to_csv(make_table(loaded[loaded["seed"] == 0])) == to_csv(make_table([row for row in rows if row.seed == 0]))
    with pytest.raises(UserError, match="lacks the columns seed"):
        make_table(loaded.drop(columns="seed"))
    with pytest.raises(UserError, match="no rows"):
        make_table(loaded[:0])


def test_a_wide_frame_has_what_the_table_shows() -> None:
    rows = realistic()
    wide = wide_frame(rows)
    made = make_table(rows)
    assert list(wide.index) == [(part.dataset, line.label) for part in made.sections for line in part.lines]
    shown = [cell for section in made.sections for cell in section.cells.values() if cell.value is not None]
    assert wide.xs("value", axis=1, level=1).count().sum() == len(shown)
    assert wide.xs("value", axis=1, level=1).sum().sum() == pytest.approx(sum(cell.value or 0 for cell in shown))
    assert wide.loc[("digits", "maf #group "), ("log-likelihood", "relation")] == "exact"
    assert "FID (500 samples)" in wide.columns.get_level_values(0)
    assert list(wide_frame(rows, metrics=["log_likelihood"]).columns) == [
        ("log-likelihood", part) for part in ("value", "stderr", "stderr_seeds", "stderr_test", "relation")
    ]  # fmt: skip


def test_a_wide_frame_keeps_metrics_of_one_title_apart() -> None:
    wide = wide_frame([run(dataset="one", metric="fid[a]"), run(dataset="two", metric="fid[b]", value=2.0)])
    assert wide["fid[a]"]["value"].count() == wide["fid[b]"]["value"].count() == 1


def test_the_wide_frames_example_is_true() -> None:
    import bench.tables.frame

    assert doctest.testmod(bench.tables.frame).attempted > 0
    assert doctest.testmod(bench.tables.frame).failed == 0


def test_a_leaderboard_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "runs" / "all").mkdir(parents=True)
    made = []
    for rows in (realistic(), realistic()[::-1]):
        write_rows(tmp_path / "runs" / "all" / "rows.jsonl", rows)
        publish(tmp_path / "runs", tmp_path / "results", "small", shown=())
        made.append({path.name: path.read_bytes() for path in (tmp_path / "results" / "leaderboard").iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["small.csv", "small.md", "small.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results_dir=.*file: .*; give another folder"):
        publish(tmp_path / "runs", tmp_path / "file", "x")


def test_markdown_says_where_the_numbers_come_from() -> None:
    markdown = to_markdown(make_table(realistic()))
    facts = markdown.split("\n\n")[1]
    for fact in ["revision d0", "split test", "budget 60000 examples", "device cpu", "seeds 0, 1, 2",
                 "commit abc, dirty",
                 "real examples 1\u202f000", "model samples 500, 1\u202f000", "draws K 8, 64", "checkpoint best",
                 "features mnist-cnn #e0"]:  # fmt: skip
        assert fact in facts
    assert "± standard error over new seeds and new test examples, unless noted" in markdown
    assert "] ± over the seeds alone: the rows do not hold the part of the test examples" in markdown
    both = to_markdown(make_table([run("a", stderr=1.0), run("b", 0, 1.0), run("b", 1, 2.0)]))
    assert "± standard error over the seeds, s/√m, without the part of the test examples" in both
    assert "| ≈" not in both
    assert "**1.0 ± 1.0** [1]" in both
    assert "[1] ± within the run: how much training varies is unknown from one seed" in both


def test_every_view_has_every_line_and_cell() -> None:
    table = make_table(realistic())
    assert len(to_csv(table).splitlines()) - 1 == sum(len(section.cells) for section in table.sections)
    for make in (to_markdown, to_latex, to_text):
        for name in ("gaussian", "maf \\#anothe" if make is to_latex else "maf #anothe", "wgan-gp"):
            assert name in make(table)
    for line in to_markdown(table).splitlines():
        assert not line.startswith("|") or line.count("|") in (8, 9)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal_text_fits_its_width_and_keeps_every_number(width: int) -> None:
    table = make_table(realistic())
    text = to_text(table, width)
    assert max(len(line) for line in text.splitlines()) <= width
    words = set(text.split())
    for section in table.sections:
        for cell in section.cells.values():
            if cell.value is not None:
                first = format_number(cell.value, cell.spread).split("\N{NARROW NO-BREAK SPACE}")[0].split(" ")[0]
                assert any(word.startswith(first) for word in words)
    # A number is never broken over two lines: the sign of its spread is followed by digits.
    assert not re.search(r"±\s*$", text.split("[1]")[0], flags=re.MULTILINE)


PAYLOADS = [
    "=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\uff1d1",
    "<script>alert(1)</script>",
    "a|b", "a\nb | c", "![x](http://x)", "[x](javascript:0)", "`x`", "**x**", "__x__", "\\input{/etc/passwd}",
    "a & b % c",
    "$x$ #1 ~^_{}", "\x1b[31mred\x07", "[bold red]x[/]", "\u202eright to left", "] \\\\ [1cm]", "a\\", ":smile:",
    '"q",""',
]  # fmt: skip
STRINGS = [name for name, kind in ResultRow.__annotations__.items() if kind is str]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_can_be_injected_through_any_string(payload: str) -> None:
    harmless = [run("a", stderr=0.5), run("b", value=-2.0), run("c", **FAILED, reason="x", n_fake=None)]
    expected = make_table(harmless)
    commands = set(re.findall(r"\\[A-Za-z]+", to_latex(expected))) | {
        "\\textbackslash", "\\textasciicircum", "\\textasciitilde", "\\textless", "\\textgreater", "\\textbar",
        "\\uparrow",
    }  # fmt: skip
    assert len(STRINGS) >= 18
    for name in [*STRINGS, "all"]:
        change = dict.fromkeys(STRINGS if name == "all" else [name], payload)
        rows = [dataclasses.replace(row, **change) for row in harmless]  # type: ignore[arg-type]
        table = make_table(rows)
        # CSV: the same shape, no cell that a spreadsheet would run; numbers as they are.
        lines = list(csv.reader(io.StringIO(to_csv(table))))
        assert {len(line) for line in lines} == {40}
        numbers = {lines[0].index(one) for one in ("value", "ci_low", "ci_high")}
        assert name == "all" or "-2.0" in {line[lines[0].index("value")] for line in lines}
        for line in lines:
            texts = [text for place, text in enumerate(line) if place not in numbers]
            assert not any(text.lstrip().startswith(tuple("=+-@\uff1d")) for text in texts)
        # Markdown: rows of equal length, no HTML, link, code or emphasis from outside.
        markdown = to_markdown(table)
        grid = [line for line in markdown.splitlines() if line.startswith("| ")]
        assert len(grid) == 2 + sum(len(section.lines) for section in table.sections)
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in grid}) == 1
        assert "<" not in markdown.replace("<br>", "")
        assert "](" not in markdown
        assert not re.search(r"(?<!\\)(?:\\\\)*[`~$_]", markdown)
        # LaTeX: our commands only, and rows of equal length.
        latex = to_latex(table)
        assert set(re.findall(r"\\[A-Za-z]+", latex)) <= commands
        body = latex.split("\\toprule\n")[1].split("\n\\bottomrule")[0].replace("\\midrule\n", "").splitlines()
        assert all(line.endswith(r" \\") and line.count(r"\\") == 1 for line in body)
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
        assert not any(line.startswith("[") for line in body)
        assert not any(re.search(r"(?<!\\)%", line) for line in latex.splitlines() if not line.startswith("% "))
        # Terminal: nothing that acts on it, and no markup.
        text = to_text(table, 300)
        assert all(character.isprintable() or character in "\n\u202f" for character in text)
        if payload == "[bold red]x[/]" and name == "model":
            assert payload in text


# The command


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli_table.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = realistic()
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    write_rows(tmp_path / "runs" / "rows.jsonl", rows[::2])
    write_rows(tmp_path / "runs" / "deep" / "more.jsonl", rows[1::2])
    for name, make in {"csv": to_csv, "markdown": to_markdown, "latex": to_latex, "text": to_text}.items():
        assert cli_table.main(parse(str(tmp_path / "runs"), "--format", name)) == 0
        assert capsys.readouterr().out == make(make_table(rows))
        out = tmp_path / f"table.{name}"
        assert cli_table.main(parse(str(tmp_path / "runs"), "--format", name, "--out", str(out))) == 0
        assert out.read_text() == make(make_table(rows))
        assert capsys.readouterr().out == ""
    options = ["--checkpoint", "final", "--metric", "fid", "--metric", "log_likelihood"]
    cli_table.main(parse(str(tmp_path / "runs" / "*.jsonl"), str(tmp_path / "runs" / "deep"), *options))
    expected = make_table(rows, checkpoint="final", metrics=["fid", "log_likelihood"])
    assert capsys.readouterr().out == to_text(expected)


def test_the_commands_mistakes_are_user_errors(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [run()])
    path = str(tmp_path / "rows.jsonl")
    for arguments in [
        [str(tmp_path / "nothing")],
        [path, "--metric", "x"],
        [path, "--out", str(tmp_path / "no" / "x")],
    ]:
        with pytest.raises(UserError) as caught:
            cli_table.main(parse(*arguments))
        assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit):
        parse(path, "--checkpoint", "last")


COMMAND = """
import argparse, sys, time
from bench.cli import table as cli_table
parser = argparse.ArgumentParser()
cli_table.add_arguments(parser)
assert cli_table.main(parser.parse_args(sys.argv[1:])) == 0
print(sorted({"torch", "matplotlib", "hydra"} & set(sys.modules)), time.process_time(), file=sys.stderr)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_command_is_light_and_speaks_to_any_terminal(tmp_path: Path, encoding: str) -> None:
    write_rows(tmp_path / "rows.jsonl", realistic())
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, str(tmp_path)],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert b"gaussian" in result.stdout
    modules, seconds = result.stderr.decode().split("] ")
    assert modules == "["
    assert float(seconds) < 1.0  # of the processor; 0.4 on a quiet machine, most of it pandas


def test_asking_for_help_does_not_wait_for_pandas() -> None:
    code = "import sys, bench.cli.table; assert not {'pandas', 'numpy', 'scipy', 'rich', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_big_table_is_made_in_a_second_or_two() -> None:
    import time

    rows = [
        run(f"m{model}", seed, value=float(seed + model), metric=f"metric{metric}", metric_title="")
        for model, seed, metric in itertools.product(range(50), range(10), range(20))
    ]
    start = time.process_time()
    table = make_table(rows)
    to_csv(table)
    assert time.process_time() - start < 5
    assert len(table.sections[0].cells) == 1000


def test_seeds_of_a_cell_show_bounds_of_the_same_number_of_draws() -> None:
    """A bound measured again with more draws replaces nothing; it is shown once all seeds have it."""
    few = [
        likelihood("vae", -90.0 - seed, Relation.LOWER_BOUND, 16, seed=seed, measuring_key="k16") for seed in range(3)
    ]
    more = [
        likelihood("vae", -80.0 - seed, Relation.LOWER_BOUND, 256, seed=seed, measuring_key="k256") for seed in range(3)
    ]
    for measured, value, draws in (
        ([*few, more[0]], -91.0, 16),
        ([*few, *more[:2]], -91.0, 16),
        ([*few, *more], -81.0, 256),
    ):
        (cell,) = cells(only(measured)).values()
        assert (cell.value, cell.n_draws, cell.seeds) == (value, draws, (0, 1, 2))
