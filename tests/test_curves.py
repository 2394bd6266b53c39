"""Curves: read as they were written, and drawn with named axes."""

from pathlib import Path
from typing import Any

import pytest
from helpers_diagnostics import width_of

from bench.probe import Panel
from bench.tables.curves import draw_curves, read_curve, write_curve


def test_a_curve_is_read_as_it_was_written_and_nothing_else_is(tmp_path: Path) -> None:
    points = [{"examples_seen": 1.0, "a": 0.1 + 0.2}, {"examples_seen": 2.0, "b": -1e-300}]
    write_curve(tmp_path / "c.csv", points)
    assert read_curve(tmp_path / "c.csv") == points
    for number, text in enumerate(["", "a,b\n1\n", "a\nno number\n", "a\n\x00\n"]):
        (tmp_path / f"{number}.csv").write_text(text)
        assert read_curve(tmp_path / f"{number}.csv") == []
    assert read_curve(tmp_path / "none.csv") == []


def test_a_picture_names_its_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    built = Figure.__init__

    def kept(self: Figure, *arguments: Any, **named: Any) -> None:
        built(self, *arguments, **named)
        figures.append(self)

    monkeypatch.setattr(Figure, "__init__", kept)
    points = [{"x": float(n), "a": n - 1.0, "b": 2.0} for n in range(4)]
    panels = [
        Panel("height [m]", {"a": "first", "b": "second"}, lines={"half": 0.5}, log=True),
        Panel("b [s]", {"b": ""}),
    ]
    draw_curves(points, panels, tmp_path / "p.png", title="A title", x="x", x_label="time [s]")
    (figure,) = figures
    above, below = figure.axes
    assert figure.get_suptitle() == "A title"
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == ("height [m]", "b [s]", "time [s]")
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["first", "second", "half"]  # type: ignore[union-attr]
    assert above.get_yscale() == "log"
    assert above.lines[0].get_xdata().tolist() == [2, 3], "what is not positive is not drawn"  # type: ignore[union-attr]
    assert below.get_legend() is None
    assert width_of(tmp_path / "p.png") == 700
