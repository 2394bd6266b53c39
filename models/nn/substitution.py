r"""Forward substitution: evaluating a block-triangular network one group of units after another.

In a network whose weights are block lower triangular, the pre-activations of a group depend on groups before it. If
something has to be done with a group before the next can be evaluated (a variable drawn, an equation solved), one
evaluation of the whole network for each group would do, n of them. Here every weight is multiplied once: the first half
of the groups is evaluated, its contribution to the second half added by one matrix product, then the second half; and
so on within the halves, as in the blocked solution of a triangular system.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Leaf", "forward_substitution"]

Leaf = Callable[[int, list[Tensor], list[Tensor]], list[Tensor]]
"""Group i, for each layer its diagonal block ``(rows, columns)`` and what other groups bring to its pre-activations
``(rows, B)``, to the group's activations, those that each layer reads, ``(columns, B)``."""


def forward_substitution(
    leaf: Leaf,
    weights: Sequence[Tensor],
    rows: Sequence[Sequence[int]],
    columns: Sequence[Sequence[int]],
    start: Sequence[Tensor],
) -> list[Tensor]:
    """The activations that each layer reads, of all groups, ``(C_l, B)``. Differentiable; nothing is changed in place.

    Arguments:
        leaf: Evaluates one group. Called for 0 .. n-1 in this order.
        weights: For each layer ``(R_l, C_l)``. Blocks above the diagonal are not read.
        rows, columns: For each layer where the groups begin and end, n+1 increasing numbers from 0 to R_l and to C_l.
            Groups may be empty.
        start: For each layer what is in the pre-activations from the beginning, ``(R_l, B)``: biases, context.
    """
    return _substitute(leaf, 0, len(rows[0]) - 1, weights, rows, columns, start)


def _substitute(
    leaf: Leaf,
    first: int,
    last: int,
    weights: Sequence[Tensor],
    rows: Sequence[Sequence[int]],
    columns: Sequence[Sequence[int]],
    pending: Sequence[Tensor],
) -> list[Tensor]:
    """Groups ``first`` up to ``last``, excluded, whose blocks of the weights these are."""
    if last - first == 1:
        return leaf(first, list(weights), list(pending))
    middle = (first + last) // 2
    upper_left, lower_right, upper, lower, products = [], [], [], [], []
    for weight, row, column, p in zip(weights, rows, columns, pending, strict=True):
        r, c = row[middle] - row[first], column[middle] - column[first]
        top, bottom = weight.split([r, len(weight) - r])
        lower_left, corner = bottom.split([c, weight.shape[1] - c], 1)
        upper_left.append(top[:, :c])
        lower_right.append(corner)
        products.append(lower_left)
        p_upper, p_lower = p.split([r, len(p) - r])
        upper.append(p_upper)
        lower.append(p_lower)
    before = _substitute(leaf, first, middle, upper_left, rows, columns, upper)
    lower = [torch.addmm(p, weight, a) for p, weight, a in zip(lower, products, before, strict=True)]
    after = _substitute(leaf, middle, last, lower_right, rows, columns, lower)
    return [torch.cat(pair) for pair in zip(before, after, strict=True)]
