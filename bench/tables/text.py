"""A table as text for the terminal."""

import io
from typing import TYPE_CHECKING

from bench.tables.model import Table
from bench.tables.view import Shown, View, view_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_table", "to_text"]


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
