"""Findings as lines for a terminal, as Markdown for a job's summary, and as JUnit XML."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as Xml

from bench.gate.finding import FAILURES, Finding, Verdict
from bench.plain import plain

__all__ = ["exit_code", "to_junit", "to_summary", "to_text", "totals"]

MOST_BYTES = 900_000
"""Of a summary; GitHub shows at most 1 MiB a step."""

_ORDER = list(Verdict)
_FAILING = (Verdict.REGRESSION, Verdict.METRIC_CHANGED)
_OPEN = (Verdict.INCONCLUSIVE, Verdict.MISSING)
_MARKDOWN = str.maketrans({character: "\\" + character for character in "\\`*_|~$@#"} | {
    "<": "&lt;", ">": "&gt;", "&": "&amp;"})  # fmt: skip
_TIERS = {"paired": "same seeds", "seeds": "different seeds", "exact": "exact", "failures": "Fisher's test"}


def exit_code(findings: Iterable[Finding], *, allow_inconclusive: bool = False) -> int:
    """1 after a regression or a changed metric; else 3 where something is open or nothing was compared; else 0.

    Arguments:
        allow_inconclusive: Whether what is inconclusive or missing counts as passed. A changed protocol never does.
    """
    said = {one.verdict for one in findings if one.blocking}
    if said & set(_FAILING):
        return 1
    if Verdict.PROTOCOL_CHANGED in said or not said:
        return 3
    return 3 if said & set(_OPEN) and not allow_inconclusive else 0


def totals(findings: Sequence[Finding]) -> str:
    """How many blocking comparisons had which verdict, and how many advisory ones are worse."""
    counts = Counter(one.verdict for one in findings if one.blocking)
    parts = [f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict]]
    advisory = Counter(one.verdict for one in findings if not one.blocking)
    worse = f"; advisory: {advisory[Verdict.REGRESSION]} worse of {advisory.total()}" if advisory else ""
    return (", ".join(parts) or "nothing blocking was compared") + worse


def to_text(findings: Sequence[Finding]) -> str:
    """A line for each finding, the worst first. Advisory ones are shown where they moved."""
    lines = [
        f"{_word(one):<16}  {one.line.name}: {one.metric}{_numbers(one)}{f'; {one.reason}' if one.reason else ''}"
        for one in _ordered(findings)
        if one.blocking or one.verdict in (Verdict.REGRESSION, Verdict.IMPROVED, Verdict.PROTOCOL_CHANGED)
    ]
    return "\n".join(plain(line) for line in [*lines, totals(findings)]) + "\n"


def to_summary(findings: Sequence[Finding], title: str) -> str:
    """A Markdown table, the worst first, of less than ``MOST_BYTES``; says how many lines it leaves out."""
    head = [
        f"## {_markdown(title)}", "", _markdown(totals(findings)), "",
        "| verdict | model | metric | before | now | worse by | seen in 80 of 100 | seeds | p (adjusted) | why |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    lines, size = [], len("\n".join(head).encode()) + 200
    for place, one in enumerate(_ordered(findings)):
        cells = [
            _word(one), one.line.name, f"{one.metric} {one.unit}".strip(), _number(one.base), _number(one.new),
            _plus_minus(one), _number(one.detectable), _seeds(one), _number(one.p_adjusted), one.reason[:500],
        ]  # fmt: skip
        line = "| " + " | ".join(_markdown(cell) for cell in cells) + " |"
        size += len(line.encode()) + 1
        if size > MOST_BYTES:
            lines.append(f"\n{len(findings) - place} more are left out here; the command's output has them.")
            break
        lines.append(line)
    return "\n".join([*head, *lines]) + "\n"


def to_junit(findings: Sequence[Finding], *, allow_inconclusive: bool = False) -> str:
    """A test case for each blocking finding: regressions are failures, what is open is an error or skipped."""
    blocking = _ordered([one for one in findings if one.blocking])
    kinds = {one: _junit_kind(one.verdict, allow_inconclusive) for one in blocking}
    counts = Counter(kinds.values())
    suite = Xml.Element(
        "testsuite", name="genbench check", tests=str(len(blocking)), failures=str(counts["failure"]),
        errors=str(counts["error"]), skipped=str(counts["skipped"]),
    )  # fmt: skip
    for one in blocking:
        case = Xml.SubElement(suite, "testcase", classname=plain(one.line.name), name=plain(one.metric))
        if kinds[one]:
            said = plain(f"{one.verdict}{_numbers(one)}; {one.reason}".rstrip("; "))
            Xml.SubElement(case, kinds[one], message=said, type=str(one.verdict))
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def _junit_kind(verdict: Verdict, allow_inconclusive: bool) -> str:
    if verdict in _FAILING:
        return "failure"
    if verdict in _OPEN:
        return "skipped" if allow_inconclusive else "error"
    return "error" if verdict is Verdict.PROTOCOL_CHANGED else ""


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda one: (not one.blocking, _ORDER.index(one.verdict), one.line, one.metric))


def _word(one: Finding) -> str:
    if one.blocking:
        return str(one.verdict)
    return f"advisory: {'worse' if one.verdict is Verdict.REGRESSION else one.verdict}"


def _numbers(one: Finding) -> str:
    if one.metric == FAILURES or one.base is None or one.new is None:
        return ""
    unit = f" {one.unit}" if one.unit else ""
    parts = [f" {_number(one.base)} -> {_number(one.new)}{unit}"]
    if one.worse is not None and one.tier != "exact":
        parts.append(f"worse by {_plus_minus(one)}, p {_number(one.p_adjusted)}, {_seeds(one)}")
        margin = f"margin {_number(one.margin)}; " if one.margin else ""
        parts.append(f"{margin}a worsening by {_number(one.detectable)} would be seen in 80 of 100 cases")
    return f"{parts[0]} ({'; '.join(parts[1:])})" if parts[1:] else parts[0]


def _plus_minus(one: Finding) -> str:
    if one.worse is None or one.stderr is None:
        return _number(one.worse)
    return f"{_number(one.worse)} ± {_number(one.stderr)}"


def _seeds(one: Finding) -> str:
    counts = str(one.n_new) if one.n_new == one.n_base else f"{one.n_base} and {one.n_new}"
    return f"{counts} {_TIERS.get(one.tier, '')}".strip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0}f}"


def _markdown(text: str) -> str:
    return plain(text).translate(_MARKDOWN).replace("](", "]\\(")
