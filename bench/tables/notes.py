"""The footnotes of cells: why a number is missing, what it leaves out, and why it is not ranked."""

from bench.plain import plain
from bench.schema import Status
from bench.tables.model import REFERENCES, Cell, Line, Section

__all__ = ["notes_of", "spread_kinds"]


def notes_of(section: Section) -> dict[tuple[int, int], list[str]]:
    """The notes of each cell."""
    kinds = spread_kinds(section)
    return {key: _notes(cell, section.lines[key[0]], kinds[0] if kinds else "") for key, cell in section.cells.items()}


def spread_kinds(section: Section) -> list[str]:
    """What ± is in the section, the most complete first. Cells of another kind than the first have a note."""
    found = {cell.spread_kind for cell in section.cells.values() if cell.spread}
    return [kind for kind in ("total", "seeds", "run") if kind in found]


def _notes(cell: Cell, line: Line, usual: str) -> list[str]:
    reason = plain(cell.reason)
    reason = reason if len(reason) <= 160 else reason[:157] + "..."
    if cell.status is not Status.OK:
        return [f"{'failed' if cell.status is Status.FAILED else 'n/a'}: {reason}"]
    if cell.value is None:
        return [reason]
    notes = [plain(cell.caveat)] if cell.caveat and cell.unranked != cell.caveat else []
    if cell.lost:
        notes.append(f"mean without the seeds {', '.join(map(str, cell.lost))} ({reason}); not ranked")
    elif len(cell.seeds) < len(line.seeds):
        notes.append(f"of the seeds {', '.join(map(str, cell.seeds))} only")
    if line.family in REFERENCES:  # is never ranked, as the legend says
        return notes
    if cell.unranked and not cell.lost:
        notes.append(f"not ranked: {plain(cell.unranked)}")
    if cell.spread and cell.spread_kind != usual:
        notes.append(
            "± over the seeds alone: the rows do not hold the part of the test examples"
            if cell.spread_kind == "seeds"
            else "± within the run: how much training varies is unknown from one seed"
        )
    return notes
