"""A table as CSV, Markdown, LaTeX or terminal text. Views only: they can always be made again from rows, and nothing
reads them back. The same rows give the same bytes."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.files import durable_write
from bench.schema import ResultRow
from bench.tables.aggregate import PROTOCOL, Cell, Column, Line, Table, certified, make_table
from bench.tables.view import ABSENT, THIN, Shown, View, format_number, plain, view_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Table", "certified", "format_number", "make_table", "print_table", "to_csv", "to_latex", "to_markdown", "to_text",
    "write_leaderboard",
]  # fmt: skip


def write_leaderboard(rows: Iterable[ResultRow], folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write ``name.csv``, ``name.md`` and ``name.tex`` into ``folder``, durably.

    Returns:
        The paths written.

    Raises:
        UserError: There are no rows, or the files cannot be written.
    """
    table = make_table(rows)
    views = {".csv": to_csv(table), ".md": to_markdown(table), ".tex": to_latex(table)}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror or error}; choose another") from error
    paths = []
    for suffix, text in views.items():
        paths.append(Path(folder) / (name + suffix))
        durable_write(paths[-1], text)
    return paths


# Markdown

_MARKDOWN = str.maketrans(
    {character: "\\" + character for character in "\\`*_|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def to_markdown(table: Table) -> str:
    """One section a data set: what the numbers share, the table, footnotes and a legend. Best values are bold."""
    return "\n".join(_markdown_section(view_of(section, table.checkpoint)) for section in table.sections)


def _markdown_section(view: View) -> str:
    headings = [*(_escape_markdown(text) for text in view.lead[0]), *(_markdown_head(*head) for head in view.heads)]
    rules = ["---", "---", *["---:"] * (len(headings) - 2)]
    lines = [
        [*(_escape_markdown(text) for text in lead), *(_markdown_cell(cell) for cell in cells)]
        for lead, cells in zip(view.lead[1:], view.cells, strict=True)
    ]
    grid = "\n".join("| " + " | ".join(entries) + " |" for entries in [headings, rules, *lines])
    notes = "".join(f"\n[{number}] {_escape_markdown(note)}  " for number, note in enumerate(view.notes, start=1))
    notes = f"{notes}\n" if notes else ""
    legend = view.legend.replace("{best}", "**bold**")
    return f"## {_escape_markdown(view.title)}\n\n{_escape_markdown(view.facts)}\n\n{grid}\n{notes}\n{legend}\n"


def _markdown_head(title: str, detail: str) -> str:
    return _escape_markdown(title) + (f"<br>{_escape_markdown(detail)}" if detail else "")


def _markdown_cell(cell: Shown) -> str:
    body = f"**{cell.body}**" if cell.best else cell.body
    return " ".join(part for part in (cell.relation, body, cell.note) if part)


def _escape_markdown(text: str) -> str:
    # Brackets alone are text: a link needs the pair.
    return text.translate(_MARKDOWN).replace("](", "]\\(")


# LaTeX

_LATEX = str.maketrans(
    {character: "\\" + character for character in "{}$&#_%"}
    | {
        "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$", "≥": r"$\geq$",
        "≤": r"$\leq$", "≈": r"$\approx$", "=": "$=$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "√": r"$\surd$",
        "·": r"$\cdot$", ABSENT: "--", THIN: r"\,",
    }
)  # fmt: skip


def to_latex(table: Table) -> str:
    """One tabular a data set (package booktabs), with notes below it. Best values are ``\\textbf``."""
    return "% Needs the package booktabs.\n" + "\n".join(
        _latex_section(view_of(section, table.checkpoint)) for section in table.sections
    )


def _latex_section(view: View) -> str:
    headings = [*view.lead[0], *(title for title, _ in view.heads)]
    details = [*[""] * len(view.lead[0]), *(detail for _, detail in view.heads)]
    top = [headings, details] if any(details) else [headings]
    body = [
        [*(_escape_latex(text) for text in lead), *(_latex_cell(cell) for cell in cells)]
        for lead, cells in zip(view.lead[1:], view.cells, strict=True)
    ]
    numbered = [f"{{[}}{number}{{]}} {_escape_latex(note)}" for number, note in enumerate(view.notes, start=1)]
    notes = [_escape_latex(view.facts), *numbered, _escape_latex(view.legend.replace("{best}", "bold"))]
    return "\n".join(
        [
            f"% {_escape_latex(view.title)}",
            rf"\begin{{tabular}}{{ll{'r' * (len(headings) - 2)}}}",
            r"\toprule",
            *(" & ".join(_escape_latex(text) for text in entries) + r" \\" for entries in top),
            r"\midrule",
            *(" & ".join(entries) + r" \\" for entries in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip{\footnotesize " + r"\par ".join(notes) + r"\par}",
            "",
        ]
    )


def _latex_cell(cell: Shown) -> str:
    body = _escape_latex(cell.body)
    # A hyphen is no minus; in words ("n/a") there is none.
    body = body.replace("-", "$-$") if cell.body != ABSENT else body
    body = rf"\textbf{{{body}}}" if cell.best else body
    return " ".join(part for part in (_escape_latex(cell.relation), body, _escape_latex(cell.note)) if part)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)


# Terminal


def to_text(table: Table, width: int = 100) -> str:
    """The table as plain text of at most ``width`` columns; what ``print_table`` prints, without colours."""
    from rich.console import Console

    file = io.StringIO()
    print_table(table, Console(file=file, width=width, force_terminal=False, color_system=None))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def print_table(table: Table, console: "Console") -> None:
    """Print the table, its metrics in as many blocks below each other as the console's width asks for."""
    from rich.text import Text

    for section in table.sections:
        view = view_of(section, table.checkpoint)
        console.print(Text(view.title, style="bold"))
        console.print(Text(view.facts, style="dim"))
        _print_blocks(view, console)
        for number, note in enumerate(view.notes, start=1):
            console.print(Text(f"[{number}] {note}"))
        console.print(Text(view.legend.replace("{best}", "*"), style="dim"))
        console.print()


def _print_blocks(view: View, console: "Console") -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table as Grid
    from rich.text import Text

    # Each column: its heading, then its texts. A gap of three stands between columns: padding and divider.
    lead = [list(texts) for texts in zip(*view.lead, strict=True)]
    metrics = [
        ["\n".join(head), *(_text_cell(line[index]) for line in view.cells)] for index, head in enumerate(view.heads)
    ]
    widths = [max(cell_len(part) for text in texts for part in text.split("\n")) + 3 for texts in metrics]
    names_width = max(cell_len(text) for text in lead[0]) + 3
    room = console.width - sum(max(cell_len(text) for text in texts) + 3 for texts in lead)
    blocks: list[list[int]] = [[]]
    for index, width in enumerate(widths):
        if width > room and blocks[-1]:
            blocks.append([])
            room = console.width - names_width
        blocks[-1].append(index)
        room -= width
    for number, block in enumerate(blocks):
        grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
        columns = (lead if number == 0 else lead[:1]) + [metrics[index] for index in block]
        lead_count = len(columns) - len(block)
        for place, texts in enumerate(columns):
            right = place >= lead_count or texts[0] == "Seeds"
            grid.add_column(Text(texts[0]), justify="right" if right else "left", overflow="fold")
        for line in range(len(view.cells)):
            texts = [column[line + 1] for column in columns]
            best = [False] * lead_count + [view.cells[line][index].best for index in block]
            grid.add_row(*(Text(text, style="bold" if mark else "") for text, mark in zip(texts, best, strict=True)))
        console.print(grid)
        console.print()


def _text_cell(cell: Shown) -> str:
    return " ".join(part for part in (cell.relation, cell.body + "*" * cell.best, cell.note) if part)


# CSV

_CSV_COLUMNS = [
    "dataset", "data_revision", "split", "model", "family", "group", "checkpoint", "metric", "title", "metric_version",
    "unit", "direction", "extractor", "extractor_hash", "n_real", "n_fake", "source", "relation", "n_draws", "value",
    "spread", "spread_kind", "ci_low", "ci_high", "n_seeds", "seeds", "lost_seeds", "best", "status", "reason",
    "device", "budget", "git_commit", "dirty",
]  # fmt: skip


def to_csv(table: Table) -> str:
    """One line a cell, numbers in full precision; texts that a spreadsheet would run as formulas begin with ``'``.

    ``spread_kind`` is ``seeds`` (standard error over the seeds) or ``run`` (standard error within the one run);
    ``direction`` is ``higher``, ``lower`` or empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for section in table.sections:
        for (line, column), cell in section.cells.items():
            record = _csv_record(section.lines[line], section.columns[column], cell)
            writer.writerow([_csv_entry(record[name]) for name in _CSV_COLUMNS])
    return file.getvalue()


def _csv_record(line: Line, column: Column, cell: Cell) -> dict[str, object]:
    return {
        **dict(zip(PROTOCOL, column.protocol, strict=True)),
        "model": line.model,
        "family": line.family,
        "group": line.group,
        "checkpoint": cell.checkpoint,
        "title": column.title,
        "direction": {True: "higher", False: "lower", None: ""}[column.higher_is_better],
        "extractor": column.extractor,
        "relation": str(cell.relation) if cell.relation is not None else "",
        "n_draws": cell.n_draws,
        "value": cell.value,
        "spread": cell.spread,
        "spread_kind": cell.spread_kind,
        "ci_low": cell.ci_low,
        "ci_high": cell.ci_high,
        "n_seeds": len(cell.seeds),
        "seeds": " ".join(str(seed) for seed in cell.seeds),
        "lost_seeds": " ".join(str(seed) for seed in cell.lost),
        "best": cell.best,
        "status": str(cell.status),
        "reason": cell.reason,
        "device": cell.device,
        "budget": cell.budget,
        "git_commit": cell.git_commit,
        "dirty": cell.dirty,
    }


def _csv_entry(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(float(value))
    text = plain(str(value))
    # Spreadsheets skip leading spaces, and read the full-width signs like the others.
    return f"'{text}" if text.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20")) else text
