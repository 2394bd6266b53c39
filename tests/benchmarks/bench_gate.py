"""How often the gate calls an unchanged model worse, and finds one that is worse by the effect that it printed.

    python tests/benchmarks/bench_gate.py [--out results/benchmarks/gate.csv]

The comparisons at the level of 5 %: on values of known distributions, and on the committed rows, whose seeds are drawn
again by the smoothed bootstrap. The whole gate: on boards of 2 models x 2 metrics, all seeds at once and in turn.

Means are equal in every case. ``ratio`` is the spread of the new values over that of the baseline. Where ``promised``
is no, values are skewed *and* their spreads differ: with few seeds no test of means holds its level there (R. R.
Bahadur, L. J. Savage 1956), because the rare bad seeds that make the one mean are usually not among those that ran.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers_gate import board

from bench.gate.compare import paired, unpaired
from bench.gate.finding import Verdict
from bench.gate.items import items_of
from bench.gate.report import exit_code
from bench.gate.selftest import false_alarms_and_power, smoothed
from bench.gate.sequential import in_turn
from bench.gate.verdict import judge
from bench.rows.store import read_rows

ROOT = Path(__file__).resolve().parents[2]
BOARDS = 2000

Shape = tuple[int, int]
RNG = np.random.default_rng(0)


def outliers(size: Shape) -> "np.ndarray":
    """A tenth of the values has ten times the spread."""
    return RNG.normal(size=size) * np.where(RNG.random(size) < 0.1, 10.0, 1.0)


def bad_seeds(size: Shape) -> "np.ndarray":
    """A tenth of the seeds is worse by ten spreads."""
    return RNG.normal(size=size) + np.where(RNG.random(size) < 0.1, 10.0, 0.0) - 1.0


DRAWS: dict[str, Callable[[Shape], "np.ndarray"]] = {
    "normal": lambda size: RNG.normal(size=size),
    "skewed to worse": lambda size: RNG.exponential(size=size) - 1.0,
    "skewed to better": lambda size: 1.0 - RNG.exponential(size=size),
    "log-normal to worse": lambda size: np.exp(RNG.normal(size=size)) - np.exp(0.5),
    "log-normal to better": lambda size: np.exp(0.5) - np.exp(RNG.normal(size=size)),
    "outliers": outliers,
    "bad seeds": bad_seeds,
}
SYMMETRIC = ("normal", "outliers")
SEEDS = ((3, 3), (5, 5), (8, 8), (3, 5), (3, 8), (5, 8), (8, 5))  # new, baseline


def synthetic(repetitions: int) -> Iterator[dict[str, object]]:
    for (n, m), name, ratio in itertools.product(SEEDS, DRAWS, (1.0, 3.0, 1 / 3)):
        for tier, test in (("paired", paired), ("seeds", unpaired)):
            if tier == "paired" and n != m:
                continue
            draw = DRAWS[name]
            alarms, power = false_alarms_and_power(
                test, draw, lambda size, draw=draw, ratio=ratio: ratio * draw(size), n, m, repetitions
            )
            yield {
                "values": name, "ratio": round(ratio, 3), "tier": tier, "n_new": n, "n_base": m,
                "promised": "yes" if ratio == 1 or name in SYMMETRIC else "no", "repetitions": repetitions,
                "false_alarms": alarms, "power": power,
            }  # fmt: skip


def real(repetitions: int) -> Iterator[dict[str, object]]:
    """By metric, over all lines of the committed rows with 3 seeds."""
    groups: dict[str, list[np.ndarray]] = {}
    for file in sorted((ROOT / "results" / "rows").glob("*.jsonl")):
        for items in items_of(read_rows(file), file.name).values():
            for (metric, _), item in items.items():
                values = item.sign * item.panel(item.seeds, sorted(item.keys)).mean(1) if item.values else np.zeros(1)
                if item.sign and len(values) >= 3 and values.std() > 0:
                    groups.setdefault(metric, []).append(values)
    for (metric, lines), n, (tier, test) in itertools.product(
        sorted(groups.items()), (3, 5), (("paired", paired), ("seeds", unpaired))
    ):
        rates = []
        for values in lines:

            def draw(size: Shape, values: "np.ndarray" = values) -> "np.ndarray":
                return smoothed(values, size, RNG)

            rates.append(false_alarms_and_power(test, draw, draw, n, n, repetitions))
        alarms, power = np.array(rates).T
        yield {
            "values": f"{metric}, {len(lines)} lines of results/rows", "ratio": 1.0, "tier": tier, "n_new": n,
            "n_base": n, "promised": "yes", "repetitions": repetitions * len(lines),
            "false_alarms": float(alarms.mean()), "power": float(power.mean()),
        }  # fmt: skip


def whole() -> Iterator[dict[str, object]]:
    """The whole gate at its level: any of 4 comparisons called a regression. Power is that of all being worse."""
    for tier, start in (("paired", 0), ("seeds", 100)):
        alarms, caught = [], []
        for k in range(BOARDS):
            base = items_of(board(2, 5, stream=3 * k), "A")
            new, worse = (items_of(board(2, 5, by, start, 3 * k + 1), "B") for by in (0.0, 5.0))
            alarms.append(exit_code(judge(base, new)) == 1)
            caught.append(exit_code(judge(base, worse)) == 1)
        yield _line("2 models x 2 metrics, all seeds at once; power at 5 spreads", tier, 5, alarms, caught)
        alarms, caught, seeds = [], [], []
        for k in range(BOARDS):
            base = items_of(board(2, 8, stream=3 * k), "A")
            for by, found in ((0.0, alarms), (3.0, caught)):
                look = in_turn(base, items_of(board(2, 8, by, start, 3 * k + 1), "B"))
                found.append(Verdict.REGRESSION in {one.verdict for one in look.findings})
                if by == 0:
                    seeds.append(look.seeds)
        said = f"2 models x 2 metrics, in turn; unchanged ones took {np.mean(seeds):.1f} seeds; power at 3 spreads"
        yield _line(said, tier, 8, alarms, caught)


def _line(values: str, tier: str, seeds: int, alarms: list[bool], caught: list[bool]) -> dict[str, object]:
    return {
        "values": values, "ratio": 1.0, "tier": tier, "n_new": seeds, "n_base": seeds, "promised": "yes",
        "repetitions": BOARDS, "false_alarms": float(np.mean(alarms)), "power": float(np.mean(caught)),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=40_000)
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/gate.csv")
    arguments = parser.parse_args()
    lines = []
    for line in itertools.chain(synthetic(arguments.repetitions), real(arguments.repetitions // 10), whole()):
        shown = {name: f"{value:.4f}" if name in ("false_alarms", "power") else value for name, value in line.items()}
        lines.append(shown)
        print(*shown.values(), flush=True)
    kept = [line for line in lines if line["promised"] == "yes"]
    print("largest rate of false alarms:", max(line["false_alarms"] for line in kept))
    print("smallest power at the printed effect:", min(line["power"] for line in kept))
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
