"""Pictures of graphs: nodes in the colours of their types, edges of two nodes of one colour in red. Needs no torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_graphs", "positions"]

# After Okabe and Ito 2008, "Color universal design"; without its red, which conflicts have.
COLOURS = ("#0072b2", "#f0e442", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#000000", "#999999")
EDGE, CONFLICT, FRAME = "#8c8c8c", "#d00000", "#dddddd"
ROUNDS = 100  # of the springs
MARGIN = 1.0  # between parts that no edge joins, in lengths of an edge


def positions(adjacency: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a place in the unit square for each node of a graph, ``(n, n)`` to ``(n, 2)``: the same for each graph.

    The parts of a graph that no edge joins stand side by side, in rows, the highest first.
    """
    from scipy.sparse.csgraph import connected_components

    count, part_of = connected_components(adjacency, directed=False)
    parts = [np.flatnonzero(part_of == part) for part in range(count)]
    drawn = [_springs(adjacency[np.ix_(nodes, nodes)]) for nodes in parts]
    boxes = [place.max(0) + MARGIN for place in drawn]
    width = max(max((box[0] for box in boxes), default=0.0), sum(box[0] * box[1] for box in boxes) ** 0.5)
    place = np.zeros((len(adjacency), 2))
    x = y = row = 0.0
    for number in sorted(range(count), key=lambda number: (-boxes[number][1], number)):
        if x > 0 and x + boxes[number][0] > width + 1e-9:
            x, y, row = 0.0, y - row, 0.0
        place[parts[number]] = drawn[number] + (x, y - drawn[number][:, 1].max())
        x, row = x + boxes[number][0], max(row, boxes[number][1])
    low, high = (place.min(0), place.max(0)) if len(place) else (np.zeros(2), np.zeros(2))
    return (place - (low + high) / 2) / max(float((high - low).max()), 1e-9) + 0.5


def _springs(adjacency: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Places of the nodes of a connected graph, from (0, 0) on, with edges of a length of about 1.

    The nodes begin where the second and third eigenvectors of the Laplacian put them, and then move as if edges were
    springs and nodes repelled each other (Fruchterman, Reingold 1991, "Graph drawing by force-directed placement",
    Software: Practice and Experience 21(11)). Parts without an edge between them would fly apart: hence one at a time.
    """
    n = len(adjacency)
    if n < 2:
        return np.zeros((n, 2))
    laplacian = np.diag(adjacency.sum(1).astype(float)) - adjacency
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    place = np.zeros((n, 2))
    vectors = np.linalg.eigh(laplacian)[1][:, 1:3]
    place[:, : vectors.shape[1]] = vectors
    # Nodes that the eigenvectors put on one place are pulled apart; those of one graph always alike.
    place = place / max(float(np.abs(place).max()), 1e-9) + 0.1 * circle
    length = 1.5 / np.sqrt(n)
    for heat in np.linspace(0.2, 0.005, ROUNDS):
        apart = place[:, None] - place[None]
        distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        force = length**2 / distance**2 - adjacency * distance / length
        move = (apart * force[:, :, None]).sum(1)
        place = place + move * np.minimum(1, heat / np.maximum(np.linalg.norm(move, axis=1), 1e-9))[:, None]
    return (place - place.min(0)) / length


def draw_graphs(axes: Any, x: NDArray[np.uint8], nodes: int, side: int, *, conflicts: bool) -> None:
    """Draw the first graphs ``(N, nodes + nodes (nodes - 1) / 2)`` in rows on axes, ``side`` by ``side`` of them.

    Arguments:
        nodes: The largest number of nodes.
        conflicts: Whether edges that join nodes of one type are red.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    upper = np.triu_indices(nodes, 1)
    size = 220 / side / max(4, nodes) ** 0.5
    for k, graph in enumerate(x[: side * side]):
        corner = 1.25 * np.array([k % side, -(k // side)])
        edges = np.zeros((nodes, nodes), dtype=np.int64)
        edges[upper] = graph[nodes:]
        # The frame tells which parts are of one graph.
        axes.add_patch(
            Rectangle((corner[0] - 0.1, corner[1] - 0.1), 1.2, 1.2, fill=False, edgecolor=FRAME, linewidth=0.5)
        )
        n = int((graph[:nodes] > 0).sum())
        if n == 0:
            continue
        types, edges = graph[:n].astype(np.int64), edges[:n, :n]
        place = positions(edges + edges.T > 0) + corner
        ends = np.argwhere(edges)
        clash = [conflicts and types[i] == types[j] for i, j in ends]
        widths = [(2.0 if bad else 0.8) * edges[i, j] for bad, (i, j) in zip(clash, ends, strict=True)]
        lines = LineCollection(
            [place[[i, j]] for i, j in ends], colors=[CONFLICT if bad else EDGE for bad in clash], linewidths=widths
        )
        axes.add_collection(lines)
        shown = [COLOURS[(kind - 1) % len(COLOURS)] for kind in types]
        axes.scatter(place[:, 0], place[:, 1], s=size, c=shown, edgecolors="#333333", linewidths=0.4, zorder=2)
    axes.set(xticks=[], yticks=[], xlim=(-0.15, 1.25 * side - 0.1), ylim=(-1.25 * side + 1.1, 1.15))
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
