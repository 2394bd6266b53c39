"""A section of a table as texts that every reader's view shares, before they are escaped for one of them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.plain import plain
from bench.schema import Relation, Status
from bench.tables.model import REFERENCES, Column, Line, Section
from bench.tables.notes import notes_of, spread_kinds

__all__ = ["ABSENT", "THIN", "Shown", "View", "format_number", "head_of", "view_of"]

THIN = "\N{NARROW NO-BREAK SPACE}"
ABSENT = "\N{EN DASH}"


def format_number(value: float, spread: float | None = None) -> str:
    """A number for a reader: ``12.34 ± 0.56``.

    A spread above 0 is given two significant digits and the value as many decimals. Without one, whole numbers are
    shown as such and others with four significant digits. Thousands are set apart by a narrow space; below 1e-6 and
    from 1e15 the notation is scientific. A spread below 1e-12 of the value is its rounding error, and counts as 0.
    """
    if spread is not None and spread > 1e-12 * abs(value):
        decimals = _decimals(spread, 2)
        if decimals > 9 or max(abs(value), spread) >= 1e15:
            return f"{value:.3e} ± {spread:.1e}"
        return f"{_fixed(value, decimals)} ± {_fixed(spread, decimals)}"
    if value == math.floor(value) and abs(value) < 1e15:
        return _fixed(value, 0)
    decimals = _decimals(value, 4)
    if decimals > 9 or abs(value) >= 1e15:
        return f"{value:.3e}"
    return _fixed(value, decimals)


def _decimals(value: float, digits: int) -> int:
    """Decimals that show ``digits`` significant digits; negative where even tens are beyond them."""
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # of the rounded value: 0.0996 is 0.10
    return digits - 1 - exponent


def _fixed(value: float, decimals: int) -> str:
    text = f"{round(value, min(decimals, 0)) if decimals < 0 else value:,.{max(decimals, 0)}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.removeprefix("-")
    return text.replace(",", THIN)


@dataclass(frozen=True)
class Shown:
    """One cell's texts: relation symbol, number or word, footnote mark; ``best`` for emphasis."""

    relation: str
    body: str
    note: str
    best: bool


@dataclass(frozen=True)
class View:
    """One section as texts.

    Attributes:
        facts: What all numbers of the section share, or the list of what they have.
        lead: Headings and, for each line, texts of the columns that say which model it is.
        heads: Of each metric: title with arrow, and what else identifies it.
        cells: ``[line][column]``.
        notes: Footnotes, the first with the mark [1].
        legend: How to read it.
    """

    title: str
    facts: str
    lead: list[list[str]]
    heads: list[tuple[str, str]]
    cells: list[list[Shown]]
    notes: list[str]
    legend: str


def view_of(section: Section, checkpoint: str) -> View:
    """Columns that apply to no model of the section are named among its facts, and left out where others remain.

    A note that all numbers of a column share stands at its heading.
    """
    kept = _applicable(section)
    draws = _draws(section)
    notes = notes_of(section)
    marks = _Marks()
    heads = []
    for column in kept:
        shared = _shared([notes[key] for key in notes if key[1] == column and _speaks(section, key)])
        title, detail = head_of(section.columns[column])
        heads.append((" ".join([title, *map(marks.of, shared)]), detail))
        for key in notes:
            if key[1] == column:
                notes[key] = [note for note in notes[key] if note not in shared]
    cells = [
        [_shown(section, (line, column), len(draws[column]) > 1, notes, marks) for column in kept]
        for line in range(len(section.lines))
    ]
    return View(
        title=plain(section.dataset),
        facts=_facts(section, checkpoint),
        lead=_lead(section.lines),
        heads=heads,
        cells=cells,
        notes=list(marks.numbers),
        legend=_legend(section),
    )


class _Marks:
    """Footnotes in the order in which they are first needed, the first with the mark [1]."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, note: str) -> str:
        return f"[{self.numbers.setdefault(note, len(self.numbers) + 1)}]"


def _speaks(section: Section, key: tuple[int, int]) -> bool:
    """Whether a cell is one of a model's numbers, and not that of a reference."""
    return section.cells[key].status is Status.OK and section.lines[key[0]].family not in REFERENCES


def _shared(notes: list[list[str]]) -> list[str]:
    """The notes that all cells of a column have, where there are several cells."""
    return [note for note in notes[0] if all(note in other for other in notes)] if len(notes) > 1 else []


def _applicable(section: Section) -> list[int]:
    """The columns in which something was or should have been measured; all, where there are none."""
    kept = sorted({column for (_, column), cell in section.cells.items() if cell.status is not Status.SKIPPED})
    return kept or list(range(len(section.columns)))


def _shown(
    section: Section, key: tuple[int, int], draws_differ: bool, notes: dict[tuple[int, int], list[str]], marks: _Marks
) -> Shown:
    cell = section.cells.get(key)
    if cell is None:
        return Shown("", ABSENT, "", False)
    mark = " ".join(map(marks.of, notes[key]))
    if cell.value is None:
        words = {Status.FAILED: "failed", Status.SKIPPED: "n/a", Status.OK: "no mean"}
        return Shown("", words[cell.status], mark, False)
    body = format_number(cell.value, cell.spread)
    if draws_differ and cell.relation not in (None, Relation.EXACT):
        body += f" (K={cell.n_draws or '?'})"
    return Shown(cell.relation.symbol if cell.relation is not None else "", body, mark, cell.best)


def _facts(section: Section, checkpoint: str) -> str:
    rows = section.rows
    shown = {cell.checkpoint for cell in section.cells.values()}
    commits = sorted({commit[:10] or "unknown" for commit in rows["git_commit"].unique()})
    if rows["dirty"].fillna(False).any():
        commits.append("dirty")
    features = rows.loc[rows["extractor"] != "", ["extractor", "extractor_hash"]].drop_duplicates()
    without = sorted(set(range(len(section.columns))) - set(_applicable(section)))
    instead = " (where a run has none: the other)" if checkpoint != "both" and shown != {checkpoint} else ""
    facts: dict[str, list[Any]] = {
        "revision": sorted({revision[:10] for revision in rows["data_revision"].unique()}),
        **{name: sorted(rows[name].unique()) for name in ("split", "budget", "device")},
        "seeds": sorted(rows["seed"].unique()),
        "real examples": [format_number(n) for n in sorted(rows["n_real"].dropna().unique())],
        "model samples": [format_number(n) for n in sorted(rows["n_fake"].dropna().unique())],
        "draws K": sorted(set().union(*_draws(section))),
        "features": sorted(
            {f"{name} #{digest[:6]}" if digest else f"{name}" for name, digest in features.itertuples(index=False)}
        ),
        "commit": commits,
        "not applicable": [section.columns[index].title for index in without],
    }
    listed = [f"{name} {_listed(values)}" for name, values in facts.items() if values]
    if section.repeated:
        listed.append(f"{section.repeated} rows of repeated runs left out")
    return _plain_but_thin(f"checkpoint {checkpoint}{instead} · " + " · ".join(listed))


def _draws(section: Section) -> list[set[int]]:
    """The numbers of draws behind the bounds and estimates of each column."""
    draws: list[set[int]] = [set() for _ in section.columns]
    for (_, column), cell in section.cells.items():
        if cell.n_draws is not None and cell.relation not in (None, Relation.EXACT):
            draws[column].add(cell.n_draws)
    return draws


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _lead(lines: tuple[Line, ...]) -> list[list[str]]:
    """Headings, then texts of each line; budget and device only where the lines differ in them."""
    table = [["Model", "Family", "Seeds"]]
    table += [[plain(line.label), plain(line.family), str(len(line.seeds))] for line in lines]
    for heading, texts in {
        "Budget": ["; ".join(line.budgets) for line in lines],
        "Device": ["; ".join(line.devices) for line in lines],
    }.items():
        if len(set(texts)) > 1:
            for entry, text in zip(table, [heading, *texts], strict=True):
                entry.append(plain(text))
    return table


def head_of(column: Column) -> tuple[str, str]:
    """The heading of a column: its title with an arrow, and its unit with what sets it apart from its namesakes."""
    arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    names: dict[str, Callable[[Any], str]] = {
        "data_revision": lambda value: f"revision {value[:10]}",
        "split": lambda value: value,
        "metric_version": lambda value: f"v{value}",
        "unit": lambda _: "",  # is shown anyway
        "extractor_hash": lambda value: f"#{value[:6]}",
        "n_real": lambda value: "real unknown" if value is None else f"{format_number(value)} real",
        "n_fake": lambda value: "samples unknown" if value is None else f"{format_number(value)} samples",
        "source": lambda value: str(value),
    }
    unit = column.part("unit")
    # "samples/s" says its unit, 1/s, already.
    parts = [
        "" if column.title.endswith(unit.removeprefix("1")) else unit,
        *(names[part](column.part(part)) for part in column.differs),
    ]
    return plain(column.title) + arrow, _plain_but_thin(", ".join(part for part in parts if part))


def _legend(section: Section) -> str:
    cells = section.cells.values()
    kinds = spread_kinds(section)
    relations = [one for one in Relation if any(cell.relation is one for cell in cells)]
    meaning = {"exact": "exact", "lower_bound": "lower bound", "upper_bound": "upper bound", "estimate": "estimate"}
    spreads = {
        "total": "over new seeds and new test examples",
        "seeds": "over the seeds, s/√m, without the part of the test examples, which the rows do not hold",
        "run": "within the run: how much training varies is unknown from one seed",
    }
    parts = ["↑ higher is better, ↓ lower is better"]
    if any(cell.best for cell in cells):
        parts.append("{best}: best of the comparable cells (same protocol, relation and K; times: same device)")
    families = {line.family for line in section.lines}
    parts += [f"{name} is not ranked" for family, name in REFERENCES.items() if family in families]
    if relations:
        parts.append("the truth against the value: " + ", ".join(f"{one.symbol} {meaning[one]}" for one in relations))
    if kinds:
        parts.append(f"± standard error {spreads[kinds[0]]}{', unless noted' if len(kinds) > 1 else ''}")
    if len(cells) < len(section.lines) * len(section.columns):
        parts.append(f"{ABSENT} not measured")
    by = "name" if section.sorted_by is None else section.columns[section.sorted_by].title
    return "; ".join([*parts, f"sorted by {plain(by)}"]) + "."


def _plain_but_thin(text: str) -> str:
    return THIN.join(plain(part) for part in text.split(THIN))
