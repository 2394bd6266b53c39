r"""How sure the mean over seeds is: what training seeds and what test examples contribute, and both together.

Seed i of m has the value :math:`v_i` and, of its own run, a standard error with two parts: :math:`t_i` from the test
examples, which all seeds share, and :math:`d_i` from the run's own draws (samples, or draws of a likelihood), which
derive from its seed and are independent of the other seeds' draws. The variance of the mean over new seeds, new draws
and new test examples is

.. math:: \frac{s^2}{m} + \frac1m \sum_i t_i^2, \qquad s^2 = \frac{1}{m-1} \sum_i (v_i - \bar v)^2 \quad (m \ge 2).

:math:`s^2` holds how much training varies and each run's own draws, which therefore are not added again. What test
examples contribute is the same for every seed: :math:`s^2` does not show it, and more seeds do not reduce it. Where
models of different seeds do badly on different examples, a share of :math:`t_i^2` is in :math:`s^2` too, and the sum is
too large rather than too small. The training split is the same for all; what another one would change is in no part.
"""

import functools
import math

import numpy as np
import pandas as pd

__all__ = ["error_parts", "quantile"]

_POWER = 0.7


def error_parts(rows: pd.DataFrame) -> tuple["np.ndarray[tuple[int], np.dtype[np.float64]]", ...]:
    """Of each row's standard error the part of the test examples and the part of its own draws, NaN where unknown.

    Rows of version 1 state neither. What follows from the rest of a row is filled in: a number that used no test
    examples has no error from them, an exact one has no draws, and of the whole and one part the other is known.
    """
    whole, test, draws = (rows[name].to_numpy(np.float64) for name in ("stderr", "stderr_test", "stderr_draws"))
    no_test = rows["n_real"].isna().to_numpy()
    no_draws = (rows["relation"] == "exact").to_numpy()
    test = np.where(np.isnan(test) & no_test, 0.0, test)
    draws = np.where(np.isnan(draws) & no_draws, 0.0, draws)
    with np.errstate(over="ignore", invalid="ignore"):
        rest_of_draws, rest_of_test = (
            np.sqrt(np.maximum(0.0, (whole - part) * (whole + part))) for part in (draws, test)
        )
    return np.where(np.isnan(test), rest_of_draws, test), np.where(np.isnan(draws), rest_of_test, draws)


def quantile(seeds: float, test: float, m: float, n_test: int | None) -> float:
    r"""The factor q of the total standard error in the 95 % interval :math:`\bar v \pm q \sqrt{a + b}`.

    With :math:`a = s^2/m` (m - 1 degrees of freedom), b the variance from n test examples (n - 1), the share
    :math:`g = a / (a + b)`, Student's quantiles :math:`t_f` at 97.5 %, and the degrees of freedom of Welch (1947) and
    Satterthwaite (1946):

    .. math:: q = \max(t_\nu,\; g^{0.7}\, t_{m-1}), \qquad
        \frac1\nu = \frac{g^2}{m-1} + \frac{(1-g)^2}{n-1}.

    So q is Student's where one part is all. Without the second term two seeds cover as little as 87 % at 95 %, because
    a spread that is small by chance makes the degrees of freedom large; with the power 1/2 instead of 0.7 the interval
    would be as long as that of the seeds alone, which for two seeds covers up to 97.7 %. The power was chosen in
    simulation, so that coverage lies between 93 and 97 % for every m and every ratio of a to b
    (``tests/benchmarks/bench_coverage.py``, results/benchmarks/coverage.csv).

    Arguments:
        seeds: sqrt(a).
        test: sqrt(b).
        m: Number of seeds, at least 2; one more than the degrees of freedom of ``seeds``, which need not be whole.
        n_test: n, or None where no test examples were used or their number is unknown: the normal quantile.
    """
    total = math.hypot(seeds, test)
    share = (seeds / total) ** 2 if 0 < total < math.inf else 1.0
    of_test = (1 - share) ** 2 / (n_test - 1) if n_test is not None and n_test > 1 else 0.0
    inverse = share**2 / (m - 1) + of_test
    welch = _t975(1 / inverse if inverse > 0 else math.inf)
    return max(welch, share**_POWER * _t975(m - 1))


@functools.lru_cache(4096)
def _t975(degrees: float) -> float:
    """The 97.5 % quantile of Student's t, of the normal where the degrees of freedom are infinite."""
    # Imported here because a table of single runs has no need of it.
    from scipy.special import ndtri, stdtrit

    return float(ndtri(0.975) if math.isinf(degrees) else stdtrit(degrees, 0.975))
