"""Mean and standard deviation of floats, exact until they are rounded once at the end."""

import math
from collections.abc import Sequence

__all__ = ["mean_and_deviation"]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    r"""The mean and the sample standard deviation s of m :math:`\ge 2` finite numbers, each correctly rounded.

    The deviation is None where it is beyond the largest float.

    They equal ``statistics.mean`` and ``statistics.stdev`` in every bit, at a fraction of their time. With
    :math:`v_i = k_i / c` for whole :math:`k_i` and a power of two c, all sums are sums of whole numbers:

    .. math:: \bar v = \frac{\sum_i k_i}{m c}, \qquad
        s^2 = \frac{m \sum_i k_i^2 - (\sum_i k_i)^2}{m (m-1) c^2}
    """
    ratios = [value.as_integer_ratio() for value in values]
    common = max(denominator for _, denominator in ratios)
    wholes = [numerator * (common // denominator) for numerator, denominator in ratios]
    count, total = len(wholes), sum(wholes)
    squares = sum([whole * whole for whole in wholes])
    variance = count * squares - total * total
    # Python divides whole numbers with one correct rounding.
    mean = total / (count * common)
    try:
        return mean, _root(variance, count * (count - 1) * common * common)
    except OverflowError:
        return mean, None


def _root(numerator: int, denominator: int) -> float:
    """The square root of a fraction, correctly rounded."""
    # The fraction times 4**shift has a root of more than 55 bits. A remainder is kept as an odd last bit, so that
    # rounding to 53 bits cannot mistake it for a tie.
    shift = max(0, 57 - (numerator.bit_length() - denominator.bit_length()) // 2)
    scaled = numerator << 2 * shift
    root = math.isqrt(scaled // denominator)
    if root * root * denominator != scaled:
        root |= 1
    return root / (1 << shift)
