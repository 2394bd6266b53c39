"""Tests of means other than the gate's, where skew meets unequal spreads: is one sounder?

    python tests/benchmarks/gate_alternatives.py [--repetitions 3000]

The gate's test of different seeds is compared with a permutation of studentized means (Janssen 1997), a bootstrap of t
(Efron and Tibshirani 1993) and Johnson's correction for skew (1978). Means are equal. Printed are false alarms at 5 %,
and the power at five of the larger spread. Takes about two minutes of one core.
"""

import argparse
from itertools import combinations

import numpy as np
from scipy.stats import t as student

from bench.gate.compare import Floats, p_value, unpaired

RNG = np.random.default_rng(0)
LEVEL = 0.05
PERMUTATIONS = 252
RESAMPLES = 200
VALUES = {
    "normal": lambda size: RNG.normal(size=size),
    "skewed to worse": lambda size: RNG.exponential(size=size) - 1,
    "skewed to better": lambda size: 1 - RNG.exponential(size=size),
    "log-normal to worse": lambda size: (np.exp(RNG.normal(size=size)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e),
}


def ours(new: Floats, base: Floats) -> Floats:
    return p_value(unpaired(new, base))


def studentized(new: Floats, base: Floats) -> Floats:
    stderr = np.sqrt(new.var(-1, ddof=1) / new.shape[-1] + base.var(-1, ddof=1) / base.shape[-1])
    return (new.mean(-1) - base.mean(-1)) / np.where(stderr > 0, stderr, 1e-12)


def permutation(new: Floats, base: Floats) -> Floats:
    n, both = new.shape[-1], np.concatenate([new, base], -1)
    ways = list(combinations(range(both.shape[-1]), n))
    if len(ways) > PERMUTATIONS:  # the first is what was seen
        ways = [ways[0], *(ways[way] for way in RNG.choice(len(ways), PERMUTATIONS - 1, replace=False))]
    seen, found = studentized(new, base), 0
    for way in ways:
        rest = [place for place in range(both.shape[-1]) if place not in way]
        found = found + (studentized(both[..., list(way)], both[..., rest]) >= seen - 1e-12)
    return found / len(ways)


def bootstrap(new: Floats, base: Floats) -> Floats:
    seen, found = studentized(new, base), 0
    centred = [values - values.mean(-1, keepdims=True) for values in (new, base)]
    for _ in range(RESAMPLES):
        drawn = [np.take_along_axis(x, RNG.integers(x.shape[-1], size=x.shape), -1) for x in centred]
        found = found + (studentized(*drawn) >= seen)
    return found / RESAMPLES


def johnson(new: Floats, base: Floats) -> Floats:
    n, m = new.shape[-1], base.shape[-1]
    v, w = new.var(-1, ddof=1) / n, base.var(-1, ddof=1) / m
    skew = _third(new) / n**2 - _third(base) / m**2
    seen = studentized(new, base)
    corrected = seen + skew / (v + w) ** 1.5 * (1 / 6 + seen**2 / 3)
    return student.sf(corrected, (v + w) ** 2 / (v**2 / (n - 1) + w**2 / (m - 1)))


def _third(values: Floats) -> Floats:
    """The third central moment, without bias."""
    n = values.shape[-1]
    return ((values - values.mean(-1, keepdims=True)) ** 3).sum(-1) * n / ((n - 1) * (n - 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3000)
    size = parser.parse_args().repetitions
    tests = (ours, permutation, bootstrap, johnson)
    print(f"{'values':20} ratio seeds  " + " ".join(f"{test.__name__:>18}" for test in tests))
    for name, draw in VALUES.items():
        for ratio in (1 / 3, 3.0):
            for n in (3, 5, 8):
                new, base = ratio * draw((size, n)), draw((size, n))
                worse = new + 5 * max(1.0, ratio)
                shown = [
                    f"{np.mean(test(new, base) <= LEVEL):10.3f} ({np.mean(test(worse, base) <= LEVEL):5.3f})"
                    for test in tests
                ]
                print(f"{name:20} {ratio:5.2f} {n:5}  " + " ".join(shown), flush=True)


if __name__ == "__main__":
    main()
