"""Graphs as vectors, the random graphs whose density is known, the baseline, and who refuses whom."""

import itertools
import math
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from contract import GRAPHS, data_of
from helpers_data import check_data, of_bytes
from helpers_density import all_examples, all_graphs, discrete_mass, sampler_p_value
from helpers_models import new_model, small_data
from numpy.random import RandomState
from scipy.stats import chisquare
from torch import Generator, Tensor, nn

from bench.cli.data import _sizes
from bench.config.spec import Hardware, Schedule
from bench.data.graphs import Blocks, stochastic_blocks
from bench.data.sets import set_shuffling
from bench.errors import UserError
from bench.features.pixels import Pixels
from bench.schema import Kind
from bench.training.fit import fit
from models.base import Batch, ClosedForm, CountsTraining, GenerativeModel, HasLikelihood
from models.graphs import NumberOfNodes, is_graph, pack, pairs, permute, unpack


def test_vectors_that_are_graphs_are_those_that_counting_gives() -> None:
    every = all_examples((6,), 3)
    found = every[is_graph(every, 3, 2, 1)]
    assert {tuple(x) for x in found.tolist()} == {tuple(x) for x in all_graphs(3, 2, 1).tolist()}
    assert len(found) == 1 + 2 + 4 * 2 + 8 * 8
    assert len(all_graphs(3, 2, 2)) == 1 + 2 + 4 * 3 + 8 * 27


def test_a_graph_is_packed_as_it_was_unpacked() -> None:
    x = all_graphs(3, 2, 2)
    types, edges, mask = unpack(x, 3)
    assert torch.equal(pack(types, edges), x)
    assert torch.equal(edges, edges.mT)
    assert torch.equal(mask.sum(1), (x[:, :3] > 0).sum(1))
    assert pairs(4).T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    one = torch.tensor([[2, 1, 1, 5, 6, 7]], dtype=torch.uint8)  # pairs 01, 02, 12
    assert unpack(one, 3).edge_types[0].tolist() == [[0, 5, 6], [5, 0, 7], [6, 7, 0]]
    assert permute(one, 3, torch.tensor([1, 2, 0])).tolist() == [[1, 1, 2, 7, 5, 6]]


class Counting(GenerativeModel, CountsTraining):
    """Counts what it is trained on, and learns one number."""

    family = "test"

    def __init__(self) -> None:
        super().__init__((6,), 3)
        self.weight = nn.Parameter(torch.zeros(()))
        self.number = NumberOfNodes(3)
        self.seen: list[Tensor] = []

    def count(self, batches: Iterable[Tensor]) -> None:
        self.seen += list(batches)
        self.number.count(self.seen)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.seen, "counted before the first step"
        return (self.weight - 1) ** 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        raise NotImplementedError


def test_training_examples_are_counted_once_before_the_first_step(tmp_path: Path) -> None:
    data, model = data_of("three nodes"), Counting()
    fit(model, data, Schedule(examples=32, batch_size=16), Hardware(), seed=0, folder=tmp_path, config={})
    assert torch.equal(torch.cat(model.seen), data.train.x)
    assert model.number.probabilities.sum().item() == pytest.approx(1)
    assert (tmp_path / "final.ckpt").is_file()


def fitted(x: torch.Tensor) -> GenerativeModel:
    model = new_model("graph_independent", data_of("three nodes").spec)
    assert isinstance(model, ClosedForm)
    model.fit(x.split(100))
    return model


def test_the_baseline_counts_nodes_and_edges_that_are_there() -> None:
    x = torch.tensor([[1, 2, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.uint8)
    model = fitted(x)
    assert isinstance(model, HasLikelihood)
    assert model.number.probabilities.tolist() == pytest.approx([0, 0.01 / 2.03, 1.01 / 2.03, 1.01 / 2.03])
    assert model.log_nodes.exp().tolist() == pytest.approx([4.5 / 6, 1.5 / 6])
    assert model.log_edges.exp().tolist() == pytest.approx([1.5 / 5, 3.5 / 5])
    expected = math.log(1.01 / 2.03 * (4.5 / 6) * (1.5 / 6) * (3.5 / 5))
    assert model.log_weight(x)[0].item() == pytest.approx(expected)
    smaller = torch.tensor([[2, 0, 0, 0, 0, 0]], dtype=torch.uint8)
    assert model.log_weight(smaller).item() == pytest.approx(math.log(0.01 / 2.03 * (1.5 / 6)))
    assert model.log_weight(torch.tensor([[1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0]])).tolist() == [-math.inf] * 2


def test_the_baselines_masses_sum_to_one_over_graphs_and_over_all_vectors_and_its_samples_have_them() -> None:
    model = fitted(data_of("three nodes").train.x)
    every = all_graphs(3, 2, 1)
    assert discrete_mass(model, draws=2, x=every)[0] == pytest.approx(1, abs=1e-12)
    assert discrete_mass(model, draws=2)[0] == pytest.approx(1, abs=1e-12)
    assert sampler_p_value(model, 20_000, x=every) > 1e-3


def test_parameters_are_the_free_frequencies() -> None:
    """Of 0 to 3 nodes, of two types of nodes, and of an edge or none."""
    assert new_model("graph_independent", data_of("three nodes").spec).n_parameters == 3 + 1 + 1


def test_no_order_of_the_nodes_is_likelier_than_another() -> None:
    x = stochastic_blocks(4, 3, n_train=300, n_val=1, n_test=1).train.x
    x = x[x[:, 3] > 0]
    model = new_model("graph_independent", stochastic_blocks(4, 3, n_train=9, n_val=1, n_test=1).spec)
    assert isinstance(model, ClosedForm)
    assert isinstance(model, HasLikelihood)
    model.fit([x])
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(model.log_weight(permute(x, 4, torch.tensor(order))), model.log_weight(x))


def test_numbers_of_nodes_are_as_frequent_as_in_training() -> None:
    number = NumberOfNodes(3)
    assert number.log_prob(torch.tensor([0, 3])).exp().tolist() == pytest.approx([0.25] * 2)
    number.count([torch.tensor([[1, 0, 0, 0, 0, 0]]), torch.tensor([[1, 2, 0, 0, 0, 0]] * 3)])
    assert number.log_prob(torch.arange(4)).exp().tolist() == [0, 0.25, 0.75, 0]
    drawn = number.sample(8000, Generator().manual_seed(0))
    assert chisquare(torch.bincount(drawn, minlength=4)[1:3].numpy(), [2000, 6000]).pvalue > 1e-3


def test_random_graphs_have_the_density_they_say() -> None:
    for least in (2, 3):
        masses = Blocks(3, 2, 0.7, 0.2, least).log_density(all_graphs(3, 2, 1)).exp()
        assert masses.sum().item() == pytest.approx(1, abs=1e-12)
        assert int((Blocks(3, 2, 0.7, 0.2, least).draw(50, RandomState(0))[:, :3] > 0).sum(1).min()) == least
    made, every = Blocks(3, 2, 0.7, 0.2), all_graphs(3, 2, 1)
    masses = made.log_density(every).exp()
    assert masses.sum().item() == pytest.approx(1, abs=1e-12)
    assert masses[0].item() == 0, "there is a node at least"
    drawn = made.draw(20_000, RandomState(0))
    assert made.valid(drawn).all()
    place = {tuple(x): k for k, x in enumerate(every.tolist())}
    counts = torch.bincount(torch.tensor([place[tuple(x)] for x in drawn.tolist()]), minlength=len(every))[1:]
    assert chisquare(counts.numpy(), 20_000 * masses[1:].numpy()).pvalue > 1e-3


def test_splits_have_streams_of_their_own_and_are_the_same_for_good() -> None:
    check_data(stochastic_blocks(16, n_train=200, n_val=100, n_test=100, least=12), "stochastic_blocks")
    made = stochastic_blocks(9, 3, n_train=50, n_val=20, n_test=30, least=4)
    assert of_bytes(made) == ("326729e4c98c8787", "fd534c2a6390f0fa"), "other bytes need another _VERSION"


def test_the_edges_of_many_graphs_are_not_drawn_in_one_piece() -> None:
    tracemalloc.start()
    try:
        drawn = Blocks(40, 2, 0.7, 0.1).draw(4000, RandomState(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert drawn.shape == (4000, 820)
    assert peak < 60e6, "their random numbers alone would take 51 MB"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [({"nodes": 0}, "data.nodes=0"), ({"blocks": 256}, "data.blocks"), ({"within": 1.0}, "data.within=1.0"),
     ({"n_val": 0}, "data.n_val=0"), ({"least": 17}, "data.least=17")],
)  # fmt: skip
def test_what_is_out_of_range_is_named(arguments: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        stochastic_blocks(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["realnvp", "vae", "dcgan", "made", "gaussian", "lstm", "categorical_flow"])
@pytest.mark.parametrize("space", ["graphs", "colourings"])
def test_models_of_numbers_and_categories_refuse_graphs_in_one_line(model: str, space: str) -> None:
    with pytest.raises(UserError, match=f"the examples of small are {space}: name another model") as error:
        new_model(model, data_of(space).spec)
    assert "\n" not in str(error.value)


def test_models_of_graphs_refuse_everything_else_in_one_line() -> None:
    others = [small_data((1, 8, 8), 256), small_data((5,), None), set_shuffling(4, 10, 5, 5), data_of("colourings")]
    for data in others:
        with pytest.raises(UserError, match=r"GraphIndependent is for graphs; the .* of \w+ are ") as error:
            new_model("graph_independent", data.spec)
        assert "\n" not in str(error.value)


def test_entries_of_graphs_are_compared_by_their_indicators_and_described_in_words() -> None:
    data = stochastic_blocks(3, n_train=5, n_val=2, n_test=2)
    assert data.spec.kind == Kind.GRAPHS
    assert Pixels().name(data.spec) == "one-hot"
    assert "graphs of at most 3 nodes, types of nodes: 2, of edges: 1" in _sizes(data.spec)
    assert GRAPHS["graphs"].shape == (10,)
    assert GRAPHS["graphs"].levels == 3
