"""A table as LaTeX. The same rows give the same bytes."""

from bench.tables.model import Table
from bench.tables.view import ABSENT, THIN, Shown, View, view_of

__all__ = ["to_latex"]

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
