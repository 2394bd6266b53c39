"""Graph colouring: exact counts, uniform draws, and bits a node."""

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from helpers_data import check_data, of_bytes
from helpers_metrics import FakeSubject
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.stats import chisquare

from bench.data.colour_counts import n_colourings
from bench.data.colouring import Colourings, graph_colouring
from bench.errors import UserError
from bench.evaluation.measure import known_density
from bench.metrics.likelihood import LogLikelihood, bound_errors
from bench.metrics.optimum import Optimum
from bench.schema import Kind
from bench.subjects.examples import Examples


def counted(adjacency: NDArray[np.bool_], colours: int) -> int:
    pairs = np.argwhere(np.triu(adjacency))
    every = itertools.product(range(colours), repeat=len(adjacency))
    return sum(all(c[i] != c[j] for i, j in pairs) for c in every)


def test_counts_are_those_of_an_enumeration() -> None:
    rng = RandomState(0)
    for n, colours, p in itertools.product((1, 2, 5, 6), (1, 2, 3), (0.0, 0.3, 0.6, 1.0)):
        upper = np.triu(rng.random_sample((n, n)) < p, 1)
        assert n_colourings(upper | upper.T, colours) == counted(upper | upper.T, colours)


def adjacency_of(nodes: int, edges: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    adjacency = np.zeros((nodes, nodes), dtype=bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = True
    return adjacency


def test_counts_are_the_chromatic_polynomials_of_trees_cycles_and_complete_graphs() -> None:
    rng = RandomState(1)
    for n, k in ((7, 3), (40, 3), (60, 8)):  # 8^60 is far beyond 64 bits
        tree = adjacency_of(n, [(i, rng.randint(i)) for i in range(1, n)])
        assert n_colourings(tree, k) == k * (k - 1) ** (n - 1)
        cycle = adjacency_of(n, [(i, (i + 1) % n) for i in range(n)])
        assert n_colourings(cycle, k) == (k - 1) ** n + (-1) ** n * (k - 1)
    for n, k in ((3, 3), (4, 3), (5, 7)):
        assert n_colourings(adjacency_of(n, itertools.combinations(range(n), 2)), k) == math.perm(k, n)


def test_a_count_that_needs_too_large_a_table_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="must be counted together"):
        n_colourings(adjacency_of(60, itertools.combinations(range(60), 2)), 3)


def test_graphs_and_colourings_have_the_probabilities_they_should() -> None:
    """A graph by its edges and the number of its colourings, and all of these alike: nothing is drawn by counting."""
    made = Colourings(4, 4, 3, 1.9)
    p, place, weights = made.probability(4), {}, []
    ends = list(itertools.combinations(range(4), 2))
    for edges in itertools.product((0, 1), repeat=6):
        joined = [pair for pair, edge in zip(ends, edges, strict=True) if edge]
        reached = {0}
        for _ in range(3):
            reached |= {j for i, j in [*joined, *((j, i) for i, j in joined)] if i in reached}
        for c in itertools.product((1, 2, 3), repeat=4):
            if len(reached) == 4 and all(c[i] != c[j] for i, j in joined):
                place[(*c, *edges)] = len(weights)
                weights.append(p ** len(joined) * (1 - p) ** (6 - len(joined)))
    drawn = made.draw(60_000, RandomState(0))
    assert made.valid(drawn).all()
    counts = np.bincount([place[tuple(x)] for x in drawn.tolist()], minlength=len(weights))
    assert chisquare(counts, 60_000 * np.array(weights) / sum(weights)).pvalue > 1e-3


def test_the_density_is_uniform_over_the_colourings_of_each_graph() -> None:
    made = Colourings(2, 4, 3, 1.0)
    edges = torch.tensor(list(itertools.product((0, 1), repeat=6)), dtype=torch.uint8)
    colours = torch.tensor(list(itertools.product((1, 2, 3), repeat=4)), dtype=torch.uint8)
    x = torch.cat([colours.repeat(len(edges), 1), edges.repeat_interleave(len(colours), 0)], 1)
    masses = made.log_density(x).exp().reshape(len(edges), len(colours)).sum(1)
    assert masses[:-1].tolist() == pytest.approx([1] * 63, abs=1e-12)
    assert masses[-1].item() == 0, "four nodes that all share edges have no colouring of three colours"
    bad = torch.tensor([[1, 1, 0, 0, 1, *[0] * 5], [1, 0, 2, 0, *[0] * 6], [1, 2, 0, 0, 0, 1, *[0] * 4], [0] * 10])
    assert made.valid(bad.to(torch.uint8)).tolist() == [False] * 4  # a conflict, a gap, an edge to nowhere, no node
    assert made.log_density(bad.to(torch.uint8)).tolist() == [-math.inf] * 4


def test_the_data_are_colourings_and_the_same_again() -> None:
    data = graph_colouring(5, 9, n_train=200, n_val=20, n_test=50, degree=2.5)
    assert data.spec.kind == Kind.COLOURINGS
    assert data.spec.graph is not None
    assert data.spec.shape == (9 + 36,)
    assert data.spec.levels == 4
    assert data.valid is not None
    assert data.variables is not None
    for split in (data.train, data.val, data.test):
        assert data.valid(split.x).all()
    assert set(data.variables(data.train.x).tolist()) == {5, 6, 7, 8, 9}
    check_data(graph_colouring(12, 14, n_train=200, n_val=100, n_test=100), "graph_colouring")  # no graph in two splits
    made = graph_colouring(5, 9, degree=2.5, n_train=50, n_val=20, n_test=30)
    assert of_bytes(made) == ("1ae492b9b77a4357", "d2848758f0ca1128"), "other bytes need another _VERSION"
    again = graph_colouring(5, 9, n_train=200, n_val=20, n_test=50, degree=2.5)
    assert torch.equal(data.test.x, again.test.x)
    assert again.spec.revision == data.spec.revision
    assert graph_colouring(5, 9, n_train=200, n_val=20, n_test=50, degree=2.6).spec.revision != data.spec.revision


def test_bits_are_a_node() -> None:
    data = graph_colouring(5, 9, n_train=50, n_val=20, n_test=50, degree=2.5)
    subject = known_density("graph_colouring", {}, data)
    assert subject is not None
    nats, bits = LogLikelihood(1).compute(Examples(subject, data, seed=0))
    assert data.log_density is not None
    assert data.variables is not None
    log_p = data.log_density(data.test.x)
    each = -log_p / data.variables(data.test.x) / math.log(2)
    assert nats.value == pytest.approx(log_p.mean().item())
    assert bits.value == pytest.approx(each.mean().item())
    assert bits.stderr == pytest.approx(each.std().item() / math.sqrt(50))


def test_bits_above_the_optimum_are_a_node_too() -> None:
    data = graph_colouring(5, 9, n_train=50, n_val=20, n_test=50, degree=2.5)
    assert data.log_density is not None
    nodes = (data.test.x[:, :9] > 0).sum(1)
    log_p = -nodes * math.log(3)  # colours without a rule
    subject = FakeSubject({"log_weights": log_p[None], "relation": "exact"})
    (one,) = Optimum(1).compute(Examples(subject, data, seed=0))
    each = math.log2(3) + data.log_density(data.test.x) / nodes / math.log(2)
    assert one.value == pytest.approx(each.mean().item())
    assert one.stderr == pytest.approx(each.std().item() / math.sqrt(50))


def test_errors_are_those_of_the_weighted_bounds() -> None:
    log_w = torch.randn(8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half, whole = bound_errors(log_w, 0.5), bound_errors(log_w)
    assert half == pytest.approx([0.5 * error for error in whole])
    one = torch.zeros(20, dtype=torch.float64)
    one[3] = 20  # the mean is the bound of one example
    alone = torch.stack([log_w[:, 3]] * 2, 1)
    assert bound_errors(log_w, one)[1] == pytest.approx(bound_errors(alone)[1] * math.sqrt(2))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [({"nodes": 61}, "data.nodes=61"), ({"least": 1}, "data.least=1"), ({"colours": 1}, "data.colours=1"),
     ({"degree": 0.0}, "data.degree=0.0"), ({"degree": 6.1}, r"below 6 for graphs of 10 nodes"),
     ({"degree": 0.05}, "data.degree=0.05: hardly any"), ({"n_test": 0}, "data.n_test=0")],
)  # fmt: skip
def test_what_is_out_of_range_is_named(arguments: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        graph_colouring(**arguments)  # type: ignore[arg-type]
