"""Pictures of graphs: places of the nodes, colours, and conflicts in red."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from bench.evaluation.pictures import draw_samples
from bench.schema import GraphSpec
from bench.tables.graph_pictures import COLOURS, CONFLICT, draw_graphs, positions
from bench.tables.pictures import draw_comparison

# Four places. 1-2, 2-3 of one colour, 1-3; then two nodes that share no edge; then nothing at all.
X = torch.tensor(
    [[1, 2, 2, 0, 1, 1, 0, 1, 0, 0], [3, 3, 0, 0, 0, 0, 0, 0, 0, 0], [0] * 10], dtype=torch.uint8
)  # fmt: skip


def test_nodes_have_places_of_their_own_in_the_unit_square_and_always_the_same() -> None:
    rng = np.random.RandomState(0)
    for n in (0, 1, 2, 3, 9, 20):
        for p in (0.0, 0.2, 1.0):
            upper = np.triu(rng.random_sample((n, n)) < p, 1)
            place = positions(upper | upper.T)
            assert place.shape == (n, 2)
            assert np.isfinite(place).all()
            assert ((place > -1e-9) & (place < 1 + 1e-9)).all()
            assert np.array_equal(place, positions(upper | upper.T))
            distance = np.linalg.norm(place[:, None] - place, axis=2) + 10 * np.eye(n)
            assert n < 2 or distance.min() > 0.02


def test_neighbours_are_nearer_than_others() -> None:
    n = 12
    ring = np.roll(np.eye(n, dtype=bool), 1, 0)
    ring |= ring.T
    place = positions(ring)
    distance = np.linalg.norm(place[:, None] - place, axis=2)
    assert distance[ring].mean() < 0.6 * distance[~ring & ~np.eye(n, dtype=bool)].mean()


def test_parts_that_no_edge_joins_stand_beside_each_other_and_none_is_a_blob() -> None:
    """An edge of a part is as long as that of another, and its boxes do not overlap."""
    parts = [np.roll(np.eye(n, dtype=bool), 1, 0) for n in (6, 3, 1, 1)]
    n = sum(map(len, parts))
    adjacency, boxes, first = np.zeros((n, n), dtype=bool), [], 0
    for part in parts:
        boxes.append(slice(first, first := first + len(part)))
        adjacency[boxes[-1], boxes[-1]] = (part | part.T) & ~np.eye(len(part), dtype=bool)
    place = positions(adjacency)
    lengths = np.linalg.norm(place[:, None] - place, axis=2)[adjacency]
    assert lengths.max() < 2 * lengths.min()
    for k, one in enumerate(boxes):
        for other in boxes[:k]:
            apart = np.maximum(place[one].min(0) - place[other].max(0), place[other].min(0) - place[one].max(0))
            assert apart.max() > 0.5 * lengths.min(), "one is wholly beside or above the other"


def test_edges_of_two_nodes_of_one_colour_are_red_where_they_are_conflicts() -> None:
    for conflicts, red in ((True, 1), (False, 0)):
        axes = Figure().add_subplot()
        draw_graphs(axes, X.numpy(), 4, 2, conflicts=conflicts)
        lines = [tuple(colour) for each in axes.collections[::2] for colour in each.get_colors()]
        assert lines.count(to_rgba(CONFLICT)) == red
        assert len(lines) == 3
        nodes = [tuple(colour) for each in axes.collections[1::2] for colour in each.get_facecolors()]
        assert nodes == [to_rgba(COLOURS[k]) for k in (0, 1, 1, 2, 2)]


def test_samples_that_are_graphs_are_drawn_and_compared(tmp_path: Path) -> None:
    draw_samples(X, 4, tmp_path / "one", real=X, graph=GraphSpec(4, 3, 1), conflicts=True, title="a model")
    draw_samples(X, 4, tmp_path / "plain", real=X, graph=GraphSpec(4, 3, 1), title="a model")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as stored:
        assert stored["graph"].tolist() == [4, 1]
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "plain.png").read_bytes(), "conflicts are seen"
    draw_comparison({("model", "graphs"): tmp_path / "one.npz"}, tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 5000
