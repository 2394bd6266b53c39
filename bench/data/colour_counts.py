r"""How many proper colourings a graph has: no two nodes that share an edge have one colour.

Nodes are eliminated one after another. What a node allows its neighbours becomes a table over their colours: how many
colours it can have, times what the tables that it was in hold. The node with the fewest neighbours goes first. So a
graph of n nodes takes about :math:`n K^{w + 1}` multiplications, with w the most neighbours of a node when it goes, its
tree-width at best, where enumeration takes :math:`K^n` (Dechter 1999, "Bucket elimination: a unifying framework for
reasoning", Artificial Intelligence 113). Counts are whole numbers without rounding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

__all__ = ["n_colourings"]

_LARGEST_TABLE = 2**22  # counts


def n_colourings(adjacency: NDArray[np.bool_], colours: int) -> int:
    """Return the number of proper colourings of a graph, its chromatic polynomial at ``colours``; 0 if there is none.

    Arguments:
        adjacency: ``(n, n)``, symmetric with a diagonal of zeros.
        colours: K, at least 1.

    Raises:
        UserError: A table is too large to be held.
    """
    nodes = len(adjacency)
    whole = np.int64 if colours**nodes < 2**63 else object  # Python's integers have no end
    differ = (1 - np.eye(colours, dtype=np.int64)).astype(whole)
    # Tables by the nodes whose colours they count, in ascending order; all of them together are the constraint.
    tables: list[tuple[tuple[int, ...], NDArray[Any]]] = []
    tables += [((int(i), int(j)), differ) for i, j in np.argwhere(np.triu(adjacency))]
    left = {node: {int(other) for other in np.flatnonzero(row)} for node, row in enumerate(adjacency)}
    alone = 1
    while left:
        node = min(left, key=lambda one: len(left[one]))
        beside = left.pop(node)
        if colours ** (len(beside) + 1) > _LARGEST_TABLE:
            raise UserError(f"graph: the colours of {len(beside) + 1} of its {nodes} nodes must be counted together, "
                            "which are too many; fewer nodes or edges can be counted")  # fmt: skip
        for other in beside:
            left[other] = (left[other] | beside) - {node, other}
        scope = sorted(beside | {node})
        product = np.ones([colours if one == node else 1 for one in scope], dtype=whole)
        for own, table in tables:
            if node in own:
                product = product * table.reshape([colours if one in own else 1 for one in scope])
        tables = [(own, table) for own, table in tables if node not in own]
        summed = product.sum(scope.index(node))
        scope.remove(node)
        if scope:
            tables.append((tuple(scope), summed))
        else:
            alone *= int(summed)
    return alone
