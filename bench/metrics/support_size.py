r"""How many different examples a model can generate, from the duplicates in a batch: estimators without any distance.

A batch of s samples is known by its coinciding pairs (``degrees``) or by its groups of duplicates, which are the
connected components of those pairs. The fingerprint :math:`f_k` counts the groups of k samples: :math:`\sum_k k f_k =
s`, and :math:`D = \sum_k f_k` different examples were seen.
"""

import math
from dataclasses import dataclass

import torch
from scipy import optimize, special
from torch import Tensor

from bench.metrics.intervals import Z975
from bench.schema import Relation

__all__ = [
    "Chao1",
    "Support",
    "chao1",
    "collision_ratio",
    "different_error",
    "fingerprint",
    "half_chance_support",
    "new_examples",
    "new_examples_error",
    "pair_limits",
    "renyi2_support",
    "uniform_support",
    "unseen_mass",
]

Z95 = 1.644854  # one-sided
Z96 = 1.750686
TERMS = 9  # terms of the series for the variance, as in Efron and Thisted's study of Shakespeare's words
HIDDEN = 0.5  # share of the pairs not found that one common example may make; see pair_limits


@dataclass(frozen=True)
class Support:
    """Rényi-2 support with its 95 % interval. If ``relation`` is a lower bound, there is only ``low``."""

    value: float
    relation: Relation
    low: float
    high: float | None
    stderr: float | None
    collisions: int


@dataclass(frozen=True)
class Chao1:
    """Chao's lower bound on the number of different examples, and its 95 % interval."""

    value: float
    low: float
    high: float


def renyi2_support(degrees: Tensor, false_pairs: int, ratio: float = 1.0) -> Support:
    r"""Return N_eff and its interval from the numbers of coincidences ``degrees`` (s,).

    .. math::
        \hat p_2 = C / \tbinom s2, \qquad N_{\text{eff}} = 1 / \hat p_2

    with the limits of ``pair_limits``. The standard error is that of a U-statistic (Hoeffding 1948),

    .. math:: \operatorname{var} \hat p_2 = \frac{2}{s(s-1)} \left[2(s-2) \zeta_1 + \zeta_2\right],

    with :math:`\zeta_1 = \overline{\binom{\deg}{2}} / \binom{s-1}{2} - \hat p_2^2` from coinciding triples and
    :math:`\zeta_2 = \hat p_2 (1 - \hat p_2)`.

    If real examples reach C by chance with a probability above 5 %, the result is the lower bound
    :math:`\binom s2 / U` with the upper limit U, of 95 % on one side; for C = 0 it is s(s-1)/6. The chance distribution
    of C is negative binomial: it counts the pairs of new examples below the m-th smallest distance of others, and that
    distance is random.

    Arguments:
        degrees: ``(s,)`` int64 from ``collision_degrees``.
        false_pairs: m >= 1, the rank of the real distance that is the threshold.
        ratio: Pairs of samples over pairs of the real examples that the threshold comes from.
    """
    s = len(degrees)
    pairs = s * (s - 1) / 2
    collisions = int(degrees.sum()) // 2
    isolated, clustered = _variance(degrees)
    if collisions == 0 or special.nbdtrc(collisions - 1, false_pairs, 1 / (1 + ratio)) > 0.05:
        bound = pairs / pair_limits(collisions, isolated, clustered, pairs, one_sided=True)[1]
        return Support(bound, Relation.LOWER_BOUND, bound, None, None, collisions)
    low, high = pair_limits(collisions, isolated, clustered, pairs)
    value, relative = pairs / collisions, math.sqrt(isolated + clustered) / collisions
    return Support(value, Relation.ESTIMATE, pairs / high, pairs / low, relative * value, collisions)


def pair_limits(
    collisions: int, isolated: float, clustered: float, pairs: float, *, one_sided: bool = False
) -> tuple[float, float]:
    r"""Return the 95 % limits of the expected number of coinciding pairs, :math:`\mu = p_2 \binom s2`, given C found.

    The variance of C has a part V of isolated pairs and a part W of groups, which for one example that is drawn
    :math:`\lambda` times on average is :math:`\lambda^3`. The lower limit is :math:`C \exp(-1.75 \sqrt{V + W} / C)`.

    The upper limit is where C lies 1.96 standard deviations below :math:`\mu = C + d`. What was not found may be a
    common example that was drawn seldom by chance, and then W as well was found too small. An example of which d more
    pairs are expected has :math:`\lambda^2 + 2 d` for :math:`\lambda^2`. The share h = 0.5 of d is counted so,
    0.25 for C = 1 and 0 for C = 0:

    .. math:: d = 1.96 \sqrt{(C + d) \left(1 - (C + d) / \tbinom s2\right) + (W^{2/3} + 2 h d)^{3/2}}

    This limit rises with C and with W. With h = 0 it would be too low for one batch in seven if one example has 0.3 or
    1 % of the mass; h = 1 makes intervals of even distributions needlessly wide. As the upper limit is seldom too low,
    the lower one may be too high for 4 % of batches. Coverage by simulation: results/benchmarks/birthday.csv.

    Arguments:
        isolated, clustered: V and W.
        pairs: :math:`\binom s2`.
        one_sided: Give an upper limit of 95 % on its side, and the lower limit 0. It is never below the Poisson limit,
            and for C = 0 it is that limit: three. Then an example that is expected two or three times, and was drawn
            once at most, is not reckoned with.

    On two sides the limits for C = 0 are 0 and the Poisson limit, 3.7; for C > 0 the upper one is beyond it anyway.
    """
    quantile = Z95 if one_sided else Z975
    least = float(special.pdtri(collisions, 0.05 if one_sided else 0.025))
    hidden = HIDDEN * min(1.0, collisions / 2)

    def beyond(d: float) -> float:
        mean = collisions + d
        grouped = (clustered ** (2 / 3) + 2 * hidden * d) ** 1.5
        return d - quantile * math.sqrt(mean * (1 - mean / pairs) + grouped)

    room = pairs - collisions
    upper = collisions + (float(optimize.brentq(beyond, 0.0, room)) if room > 0 and beyond(room) > 0 else room)
    lower = (
        0.0
        if one_sided or collisions == 0
        else collisions * math.exp(-Z96 * math.sqrt(isolated + clustered) / collisions)
    )
    return lower, min(pairs, max(least, upper))


def _variance(degrees: Tensor) -> tuple[float, float]:
    """Return the parts V and W of the estimated variance of C: of isolated pairs, and of groups of three or more."""
    s = len(degrees)
    pairs = s * (s - 1) / 2
    p2 = degrees.sum().item() / 2 / pairs
    degree = degrees.double()
    triples = (degree * (degree - 1) / 2).mean().item() / ((s - 1) * (s - 2) / 2)
    return pairs * p2 * (1 - p2), 2 * (s - 2) * max(triples - p2**2, 0.0) * pairs


def half_chance_support(s: float) -> tuple[float, float]:
    r"""Return :math:`s^2` and the support, if half of the batches of s samples hold a duplicate.

    :math:`s^2` is what Arora, Risteski, Zhang 2018 ("Do GANs learn the distribution? Some theory and empirics") give as
    an upper bound. For N equally likely examples :math:`P = 1 - e^{-s(s-1)/2N}` is 1/2 at :math:`N = s(s-1) / (2 \ln
    2)`, so that :math:`s^2` is too large by 39 %.

    >>> [round(support) for support in half_chance_support(400)]
    [160000, 115127]
    """
    return s**2, s * (s - 1) / (2 * math.log(2))


def collision_ratio(found: int, pairs: int, real: int, real_pairs: int) -> tuple[float, float | None]:
    r"""Return the exact 95 % limits of the ratio of two collision rates, the samples' over that of the real examples.

    Given the sum of both counts, C of the samples is binomial with probability :math:`\theta m / (\theta m + m_0)` for
    the ratio :math:`\theta` and the numbers of pairs m and m_0; its Clopper-Pearson limits give those of the ratio.
    Pairs are taken to be independent, so that the limits are too close where few samples make most pairs. The upper
    limit is None, infinite, where no real examples coincide.

    Raises:
        ValueError: Neither side has a coinciding pair.
    """
    if found + real == 0:
        raise ValueError("neither side has a coinciding pair")
    low = float(special.betaincinv(found, real + 1, 0.025)) if found > 0 else 0.0
    high = float(special.betaincinv(found + 1, real, 0.975)) if real > 0 else 1.0
    odds = real_pairs / pairs
    return low / (1 - low) * odds, None if real == 0 else high / (1 - high) * odds


def fingerprint(group: Tensor) -> Tensor:
    """Return how many groups have k samples, at place k: ``(K + 1,)`` int64, from the group of each sample ``(s,)``."""
    return torch.bincount(torch.bincount(group)).index_fill_(0, torch.tensor(0), 0)


def different_error(counts: Tensor, n: int, weights: Tensor | None = None) -> float:
    r"""Return the standard error of the number of different kinds among n samples, or of a sum of weights over them.

    Let :math:`f_j` be the sum of :math:`w_k^2` over the kinds k that were drawn exactly j times, with w = 1 for a
    number. For Poisson counts with means :math:`\lambda_k` the variance over new sets of n samples is :math:`\sum_k
    w_k^2 e^{-\lambda_k} (1 - e^{-\lambda_k}) = E[f_1 - f_2 + f_3 - \dots]`, which is, for w = 1, the number of further
    kinds that n more samples would hit (Good, Toulmin 1956, "The number of new species, and the increase in population
    coverage, when a sample is increased"). Because n is fixed, :math:`(\sum w_k)^2/n` over the kinds drawn once is
    subtracted:

    .. math:: \operatorname{var} \approx \sum_{j=1}^{9} (-1)^{j+1} P(\operatorname{Bin}(8, \tfrac12) \ge j - 1)\, f_j
              - \frac1n \Big(\sum_{c_k = 1} w_k\Big)^2.

    The probabilities damp the series before its terms become noise (Efron, Thisted 1976, "Estimating the number of
    unseen species: How many words did Shakespeare know?"); the first is 1, as nearly all of :math:`f_1` cancels where
    few samples are alike. As :math:`1 - e^{-\lambda} \le \lambda`, the variance is at most
    :math:`E[f_1]`; so it is 0 where nothing was drawn only once. A bootstrap would be wrong by up to a half in either
    direction, because it lacks the kinds that were not drawn.

    Arguments:
        counts: Number of samples of each kind, ``(kinds,)`` int64.
        n: Number of samples, including those that belong to no kind.
        weights: ``(kinds,)``; None: 1.
    """
    w = torch.ones(len(counts), dtype=torch.float64) if weights is None else weights.double()
    f = torch.zeros(TERMS + 2, dtype=torch.float64).index_add_(0, counts.clamp_max(TERMS + 1), w.square())[1:-1]
    j = torch.arange(1, TERMS + 1)
    kept = torch.from_numpy(special.bdtrc(j.numpy() - 2.0, TERMS - 1, 0.5))
    kept[0] = 1.0
    variance = (kept * (-1.0) ** (j + 1) * f).sum() - w[counts == 1].sum().square() / n
    return math.sqrt(min(max(0.0, variance.item()), f[0].item()))


def _seen(f: Tensor) -> tuple[int, int, float, float]:
    """Return s, D, f_1 and f_2 of a fingerprint."""
    sizes = torch.arange(len(f))
    counts = [float(f[k]) if k < len(f) else 0.0 for k in (1, 2)]
    return int((sizes * f).sum()), int(f.sum()), counts[0], counts[1]


def uniform_support(s: int, distinct: int) -> float | None:
    r"""Return the maximum-likelihood number N of equally likely examples, if s draws gave D different ones.

    N solves :math:`s / N = \psi(N + 1) - \psi(N - D + 1)`; it is D where the likelihood falls from there on. There is
    none (None) without a duplicate, D = s: the likelihood then grows for ever.
    """
    if distinct >= s:
        return None

    def slope(n: float) -> float:
        return float(special.psi(n + 1) - special.psi(n - distinct + 1)) - s / n

    if slope(distinct) <= 0:
        return float(distinct)
    top = 2.0 * distinct
    while slope(top) > 0:
        top *= 2
    return float(optimize.brentq(slope, distinct, top))


def chao1(f: Tensor) -> Chao1:
    r"""Return Chao's estimate of a lower bound on the number of different examples from a fingerprint.

    :math:`D + \frac{s-1}{s} \frac{f_1^2}{2 f_2}`, or :math:`D + \frac{s-1}{s} \frac{f_1 (f_1 - 1)}{2}` without a group
    of two. The interval is that of Chao 1987 ("Estimating the population size for capture-recapture data with unequal
    catchability"): the logarithm of the number of unseen examples is taken to be normal. Without a group of two its
    variance is that with one, because that there is none by chance is no certainty.
    """
    s, seen, f1, f2 = _seen(f)
    a = (s - 1) / s
    unseen = a * f1**2 / (2 * f2) if f2 > 0 else a * f1 * (f1 - 1) / 2
    f2 = max(f2, 1.0)
    r = f1 / f2
    variance = f2 * (a / 2 * r**2 + a**2 * r**3 + a**2 / 4 * r**4)
    if unseen <= 0:
        return Chao1(seen, seen, seen)
    factor = math.exp(Z975 * math.sqrt(math.log1p(max(variance, 0.0) / unseen**2)))
    return Chao1(seen + unseen, seen + unseen / factor, seen + unseen * factor)


def unseen_mass(f: Tensor) -> tuple[float, float]:
    r"""Return the probability of what was not seen (Good 1953, Turing), :math:`f_1 / s`, and its standard error.

    The variance is :math:`(f_1 (1 - f_1 / s) + 2 f_2) / s^2` (Esty 1983), and at least :math:`8 / s^2`: that is what it
    is with two pairs, because a batch without any, or without an example that was seen once, does not show that the
    unseen has probability 1, or 0.
    """
    s, _, f1, f2 = _seen(f)
    return f1 / s, math.sqrt(max(8.0, f1 * (1 - f1 / s) + 2 * f2)) / s


def new_examples(f: Tensor, t: float) -> float:
    r"""Return how many new different examples t s further samples will bring (smoothed Good-Toulmin).

    .. math:: U = -\sum_{k \ge 1} (-t)^k f_k \, P(L \ge k)

    with P = 1 for t <= 1, and else L binomial with :math:`\lfloor \frac12 \log_2 \frac{s t^2}{t - 1} \rfloor` trials of
    probability :math:`2 / (t + 2)` (Orlitsky, Suresh, Wu 2016, "Optimal prediction of the number of unseen species").

    Raises:
        ValueError: t is not within (0, ln s]. Further no estimator is consistent.
    """
    s = _seen(f)[0]
    if not 0 < t <= math.log(s):
        raise ValueError(f"t={t}: new examples can be foretold for t in (0, ln s], here ln s = {math.log(s):.3g}")
    k = torch.arange(1, len(f)).double()
    kept = torch.ones_like(k)
    if t > 1:
        trials = math.floor(0.5 * math.log2(s * t**2 / (t - 1)))
        kept = torch.from_numpy(special.bdtrc(k.numpy() - 1, trials, 2 / (t + 2))).nan_to_num(0.0)
        kept[k > trials] = 0.0
    terms = (-t) ** k * f[1:].double() * kept
    return -terms[kept > 0].sum().item()


def new_examples_error(f: Tensor) -> float:
    r"""Return the standard error of ``new_examples(f, 1)`` as a forecast of what s further samples will bring.

    For Poisson counts with means :math:`\lambda` the forecast less the truth has the variance :math:`\sum (1 - e^{-2
    \lambda})`. This is the expected number of different examples in both batches, which D + U estimates; D alone is
    that of the forecast (Efron, Thisted 1976). Because both batches have s samples, :math:`2 c^2 / s` is subtracted,
    with the covariance :math:`c = -\sum_k (-1)^k k f_k` with the number of samples of either. It is at least 24, which
    it is with two pairs: a batch without any does not show that there are none.
    """
    s, seen, _, _ = _seen(f)
    k = torch.arange(len(f)).double()
    c = -((-1.0) ** k * k * f).sum().item()
    new = min(max(0.0, new_examples(f, 1.0)), float(s))
    return math.sqrt(max(24.0, seen + new - 2 * c**2 / s))
