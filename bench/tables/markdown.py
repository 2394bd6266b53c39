"""A table as Markdown. The same rows give the same bytes."""

from bench.tables.model import Table
from bench.tables.view import Shown, View, view_of

__all__ = ["escape_markdown", "to_markdown"]

_MARKDOWN = str.maketrans(
    {character: "\\" + character for character in "\\`*_|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def to_markdown(table: Table) -> str:
    """One section a data set: what the numbers share, the table, footnotes and a legend. Best values are bold."""
    return "\n".join(_markdown_section(view_of(section, table.checkpoint)) for section in table.sections)


def _markdown_section(view: View) -> str:
    headings = [*(escape_markdown(text) for text in view.lead[0]), *(_markdown_head(*head) for head in view.heads)]
    rules = ["---", "---", *["---:"] * (len(headings) - 2)]
    lines = [
        [*(escape_markdown(text) for text in lead), *(_markdown_cell(cell) for cell in cells)]
        for lead, cells in zip(view.lead[1:], view.cells, strict=True)
    ]
    grid = "\n".join("| " + " | ".join(entries) + " |" for entries in [headings, rules, *lines])
    notes = "".join(f"\n[{number}] {escape_markdown(note)}  " for number, note in enumerate(view.notes, start=1))
    notes = f"{notes}\n" if notes else ""
    legend = escape_markdown(view.legend).replace("{best}", "**bold**", 1)
    return f"## {escape_markdown(view.title)}\n\n{escape_markdown(view.facts)}\n\n{grid}\n{notes}\n{legend}\n"


def _markdown_head(title: str, detail: str) -> str:
    return escape_markdown(title) + (f"<br>{escape_markdown(detail)}" if detail else "")


def _markdown_cell(cell: Shown) -> str:
    body = f"**{cell.body}**" if cell.best else cell.body
    return " ".join(part for part in (cell.relation, body, cell.note) if part)


def escape_markdown(text: str) -> str:
    # Brackets alone are text: a link needs the pair.
    return text.translate(_MARKDOWN).replace("](", "]\\(")
