"""What one or two judges found, as a table for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.birthday.agreement import Kappa, cohens_kappa
from bench.birthday.judge import both, support
from bench.birthday.record import Answer, Answers, Key, Shown
from bench.metrics.support_size import half_chance_support

__all__ = ["report_of", "to_text"]


def report_of(key: Key, judges: Mapping[str, Answers]) -> dict[str, Any]:
    """Return everything that one or two judges found about a page, as plain values.

    Arguments:
        judges: By what they are called here.
    """
    given = {name: one.answers for name, one in judges.items()}
    readings = {name: _reading(key, answers) for name, answers in given.items()}
    report: dict[str, Any] = {
        "format": "genbench birthday report 1", "page": key.page, "model": key.model, "dataset": key.dataset,
        "revision": key.revision, "seed": key.seed, "samples": key.samples, "source": "judged by eye",
        "judges": {name: {"session": one.session, "answers": one.answers} for name, one in judges.items()},
        "readings": readings,
    }  # fmt: skip
    if len(given) == 2:
        first, second = given.values()
        readings["both agree"] = _reading(key, both(first, second))
        candidates = {pair.hash for pair in key.pairs if pair.kind == "candidate"}
        shared = [pair for pair in key.pairs if pair.hash in first and pair.hash in second]
        report["kappa"] = {
            what: asdict(_kappa(first, second, [pair.hash for pair in shared if pair.hash in among]))
            for what, among in (("all pairs", {pair.hash for pair in shared}), ("candidates", candidates))
        }
        report["disagreements"] = [
            {**_described(pair), "answers": [first[pair.hash], second[pair.hash]]}
            for pair in shared if first[pair.hash] != second[pair.hash]
        ]  # fmt: skip
    report["mistakes"] = {
        name: [_described(pair) for pair in key.pairs if _is_mistake(pair.kind, answers.get(pair.hash))]
        for name, answers in given.items()
    }
    return report


def _reading(key: Key, answers: Mapping[str, Answer]) -> dict[str, Any]:
    counts, found, read = support(key, answers)
    squared, corrected = half_chance_support(key.samples) if found is not None and found.low > 0 else (None, None)
    return {
        "unanswered": len(key.pairs) - len(answers),
        "counts": asdict(counts),
        "copies": None if found is None else asdict(found),
        "n_eff": {**asdict(read), "verdict": read.verdict.value},
        "s_squared": squared,
        "s_squared_corrected": corrected,
    }


def _kappa(first: Mapping[str, Answer], second: Mapping[str, Answer], names: Sequence[str]) -> Kappa:
    if not names:
        return Kappa(None, None, None, None, 0)
    return cohens_kappa([first[name] for name in names], [second[name] for name in names])


def _described(pair: Shown) -> dict[str, Any]:
    return {"hash": pair.hash, "kind": pair.kind, "first": pair.first, "second": pair.second}


def _is_mistake(kind: str, answer: Answer | None) -> bool:
    return (kind, answer) in (("same", "n"), ("different", "y"))


def to_text(report: Mapping[str, Any]) -> str:
    """Return the report as lines of text."""
    lines = [
        f"Birthday test judged by eye: {report['model']} on {report['dataset']}, the closest pairs of "
        f"{report['samples']:,} samples", ""
    ]  # fmt: skip
    for name, reading in report["readings"].items():
        lines += [f"{name}:", *(f"  {line}" for line in _lines(reading))]
    for what, kappa in report.get("kappa", {}).items():
        lines.append(f"Cohen's kappa over {what}: {_kappa_text(kappa)}")
    apart = report.get("disagreements", [])
    if apart:
        lines.append(f"the judges disagree about {len(apart)} pairs:")
        lines += [f"  {one['hash']}  {' against '.join(one['answers'])}  {_what(one)}" for one in apart]
    for name, mistakes in report["mistakes"].items():
        if mistakes:
            lines.append(f"controls that {name} got wrong:")
            lines += [f"  {one['hash']}  {_what(one)}" for one in mistakes]
    return "\n".join(lines) + "\n"


def _lines(reading: Mapping[str, Any]) -> list[str]:
    counts, found = reading["counts"], reading["copies"]
    lines = [
        f"called the same: {counts['called']} of {counts['candidates']} close pairs, {counts['found']} of "
        f"{counts['same']} controls that are copies, {counts['mistaken']} of {counts['different']} that are not"
    ]  # fmt: skip
    if reading["unanswered"]:
        lines.append(f'{reading["unanswered"]} pairs have no answer; they count as "cannot tell"')
    if found is not None:
        lines.append(f"copies among the close pairs, corrected: {found['value']:.1f} [{found['low']}, {found['high']}]")
    lines.append(f"N_eff: {_n_eff_text(reading['n_eff'])}")
    if reading["s_squared"] is not None:
        lines.append(
            f"a sample of this size holds copies, so the support is at most about s^2 = {reading['s_squared']:,.0f} "
            f"(Arora and Zhang), or s(s-1)/(2 ln 2) = {reading['s_squared_corrected']:,.0f} if all are equally likely"
        )
    return lines


def _n_eff_text(n_eff: Mapping[str, Any]) -> str:
    verdict, why = n_eff["verdict"], n_eff["why"]
    value, low, high = n_eff["value"], n_eff["low"], n_eff["high"]
    if verdict == "inconclusive":
        return f"inconclusive: {why}"
    if verdict == "at least":
        return f"at least {low:,.0f} ({why})"
    if verdict == "at most":
        return f"at most {high:,.0f}, about {value:,.0f} if there are no more copies ({why})"
    return f"about {value:,.0f} [{low:,.0f}, {high:,.0f}] ({verdict}: {why})"


def _kappa_text(kappa: Mapping[str, Any]) -> str:
    if kappa["value"] is None:
        return f"not defined, because all answers are one and the same ({kappa['n']} pairs)"
    interval = "" if kappa["low"] is None else f" [{kappa['low']:.2f}, {kappa['high']:.2f}]"
    return f"{kappa['value']:.2f}{interval} ({kappa['n']} pairs)"


def _what(pair: Mapping[str, Any]) -> str:
    first, second = pair["first"], pair["second"]
    kinds = {
        "candidate": f"samples {first} and {second}",
        "same": f"control: real example {first} twice",
        "different": f"control: real examples {first} and {second}",
    }
    return kinds[pair["kind"]]
