"""Margins that users declare: ``METRIC=NUMBER``, in the metric's unit."""

import math
from collections.abc import Iterable

from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.gate.items import Items

__all__ = ["margins_of"]


def margins_of(declared: Iterable[str], base: Items) -> dict[str, float]:
    """The tolerated worsening by the metric's name in rows; ``fid`` means ``fid[mnist-cnn]`` and its like, too.

    A unit may follow the number (``bits_per_dim=0.02 bits/dim``), and is then compared with that of the rows.

    Raises:
        UserError: No metric of the baseline has the name, or it has no direction; or the number is none, negative, or
            in another unit.
    """
    rows = {metric: item.row for items in base.values() for (metric, _), item in items.items()}
    margins: dict[str, float] = {}
    for text in declared:
        name, sign, amount = (part.strip() for part in text.partition("="))
        names = [metric for metric in rows if name in (metric, metric.split("[", 1)[0])]
        if not sign or not amount:
            raise UserError(f"--margin {text}: give METRIC=NUMBER, for example fid=1.5")
        if not names:
            short = {metric.split("[", 1)[0] for metric in rows}
            raise UserError(
                f"--margin {text}: the baseline has no metric {name!r}{nearest(name, short)}; "
                f"there are {', '.join(sorted(rows))}"
            )
        number, _, unit = amount.partition(" ")
        for metric in names:
            if rows[metric].higher_is_better is None:
                raise UserError(f"--margin {text}: {metric} has no direction, so it is never better or worse")
            if unit.strip() and unit.strip() != rows[metric].unit:
                raise UserError(
                    f"--margin {text}: {metric} is measured in {rows[metric].unit or 'no unit'}, not in {unit.strip()}"
                )
            margins[metric] = _number(text, number, rows[metric].unit)
    return margins


def _number(text: str, number: str, unit: str) -> float:
    try:
        value = float(number)
    except ValueError:
        said = f"give a number in the metric's unit ({unit or 'it has none'}), and a unit after a space"
        raise UserError(f"--margin {text}: {number!r} is no number; {said}") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"--margin {text}: give a finite number that is not negative: the worsening that is tolerated")
    return value
