"""Models of graphs: their likelihood against their own samples, orders of nodes, codes, resumption, costs, refusals."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_density import all_graphs, resumed_to_the_same_bits
from helpers_graph_models import MODELS, THREE, data_of, masses, seeded, trained
from helpers_models import new_model
from scipy.stats import chi2, chisquare
from torch import Generator, Tensor

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.errors import UserError
from bench.replays import Replays
from bench.schema import GraphSpec
from bench.training import fit as fit_module
from models.distributions import log_standard_normal
from models.graph import graphaf
from models.graph.base import GraphModel
from models.graph.graphaf import GraphAF
from models.graph.graphcnf import GraphCNF
from models.graph.graphnvp import GraphNVP
from models.graph.order import breadth_first, log_breadth_first, shuffled
from models.graph.rvae import RVAE, reached
from models.graphs import is_graph, largest_component, pack, permute, unpack
from models.transforms.argmax import argmax_dequantized, log_argmax_density
from models.transforms.graph import Mixed

DRAWS = {"graphcnf": 150, "rvae": 500, "graphaf": 150, "graphnvp": 2500}


@pytest.mark.parametrize("name", [*MODELS, "graphcnf_subgraphs"])
def test_samples_have_the_probabilities_that_the_likelihood_says(name: str) -> None:
    """Those of whole graphs; of "sub-graphs" that of a sample is the sum over the graphs whose largest part it is."""
    model, x, n = trained(name), all_graphs(3, 2, 1), 4000
    mass, variance = masses(model, x, DRAWS.get(name, 150))
    assert mass.sum().item() == pytest.approx(1, abs=0.06)
    place = {tuple(one): k for k, one in enumerate(x.tolist())}
    if name == "graphcnf_subgraphs":
        to = torch.tensor([place[tuple(one)] for one in largest_component(x, 3).tolist()])
        mass, variance = (torch.zeros_like(each).index_add(0, to, each) for each in (mass, variance))
    drawn = [place[tuple(one)] for one in model.sample(n, generator=seeded(3)).tolist()]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(x)).double()
    order = mass.argsort()
    few = int((mass[order].cumsum(0) * n < 10).sum()) + 1  # the rarest together are one cell
    cells = [torch.cat([each[order[:few]].sum()[None], each[order[few:]]]) for each in (counts, n * mass, variance)]
    seen, meant, uncertain = cells
    statistic = ((seen - meant).square() / (meant + n**2 * uncertain)).sum().item()
    assert chi2.sf(statistic, len(seen) - 1) > 1e-3


def test_the_order_of_the_nodes_changes_nothing_for_graphcnf() -> None:
    model = trained("graphcnf")
    assert isinstance(model, GraphCNF)
    x = data_of(THREE).train.x
    full = x[(x[:, :3] > 0).all(1)]
    graphs = model.read(full)
    vectors = model._encoded(graphs, seeded())
    plain = model._weighed(graphs, *vectors)
    for order in (torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2])):
        moved = model.read(permute(full, 3, order))
        pairs = model.ends.place[order[model.ends.first], order[model.ends.second]]
        again = model._weighed(moved, vectors[0][:, order], vectors[1][:, pairs], vectors[2][:, pairs], vectors[3])
        for one, other in zip(plain, again, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        assert not torch.equal(full, permute(full, 3, order))


def test_every_order_of_the_nodes_has_one_probability_for_graphaf() -> None:
    model = trained("graphaf")
    x = torch.tensor([[1, 2, 2, 1, 0, 0]], dtype=torch.uint8)
    found = [masses(model, permute(x, 3, torch.tensor(order)), 3000)[0] for order in itertools.permutations(range(3))]
    assert torch.cat(found).std() < 0.05 * torch.cat(found).mean()


def test_probabilities_of_orders_are_those_of_the_search_and_sum_to_one() -> None:
    x = torch.tensor([[1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0]], dtype=torch.uint8)  # 0-2, 1-2; 3 alone; 4 absent
    _, edges, mask = unpack(x, 5)
    orders = [[*order, 4] for order in itertools.permutations(range(4))]
    adjacent = torch.cat([unpack(permute(x, 5, torch.tensor(order)), 5).edge_types for order in orders]) > 0
    q = log_breadth_first(adjacent, torch.full((24,), 4)).double().exp()
    assert q.sum().item() == pytest.approx(1, abs=1e-6)
    drawn = breadth_first((edges > 0).expand(8000, -1, -1), mask.expand(8000, -1), torch.zeros(()), seeded())
    assert (drawn[:, 4] == 4).all()
    counts = torch.tensor([(drawn == torch.tensor(order)).all(1).sum() for order in orders])
    assert (counts[q == 0] == 0).all()
    assert chisquare(counts[q > 0], 8000 * q[q > 0] / q.sum()).pvalue > 1e-3
    uniform = shuffled(mask.expand(2400, -1), torch.zeros(()), seeded(1))
    counts = torch.tensor([(uniform == torch.tensor(order)).all(1).sum() for order in orders])
    assert chisquare(counts).pvalue > 1e-3


def test_graphaf_in_parts_has_the_same_likelihood_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found, calls = data_of(GraphSpec(5, 2, 2)), [], []
    for at_once in (graphaf.AT_ONCE, 3 * 16 * 5**2 * 2, 1):  # all nodes or pairs together, three, one
        monkeypatch.setattr(graphaf, "AT_ONCE", at_once)
        model = new_model("graphaf", data.spec)
        assert isinstance(model, GraphAF)
        count: list[int] = []
        model.network.register_forward_hook(lambda *_, count=count: count.append(1))
        model.train_generator = seeded()
        loss = model.training_step((data.train.x[:16], None), 0)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        with torch.no_grad():
            log_w = model.log_weight(data.test.x, generator=seeded())
        found.append((loss.detach(), gradient, log_w))
        calls.append(len(count))
    # Of 5 nodes and 10 pairs; in parts the training step computes each twice. The likelihood has two orders.
    assert calls == [2 + 2 * 2, 2 * (2 + 4) + 2 * (2 + 4), 2 * (5 + 10) + 2 * (5 + 10)]
    for parts in found[1:]:
        for one, other in zip(found[0], parts, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["graphaf", "graphnvp"])
def test_codes_of_flows_decode_to_the_graphs_they_are_of(name: str) -> None:
    model, x = trained(name), data_of(THREE).test.x
    assert isinstance(model, GraphAF | GraphNVP)
    with torch.no_grad():
        assert torch.equal(model.decode(model.encode(x, generator=seeded())), x)


def test_blocks_of_graphcnf_are_inverted() -> None:
    model = trained("graphcnf")
    assert isinstance(model, GraphCNF)
    graphs = model.read(data_of(THREE).test.x)
    with torch.no_grad():
        nodes, pairs = (torch.randn(16, 3, 2, dtype=torch.float64, generator=seeded(seed)) for seed in (0, 1))
        adjacency = model._indicators(graphs.edges, nodes)
        for block in model.node_flow:
            moved, _ = block(nodes, graphs.mask, adjacency)
            assert torch.equal(moved[~graphs.mask], nodes[~graphs.mask])
            torch.testing.assert_close(block.inverse(moved, graphs.mask, adjacency), nodes)  # type: ignore[operator]
        for block in (*model.edge_flow, *model.virtual_flow):
            *moved, _ = block(nodes, pairs, graphs.mask, graphs.both)
            assert torch.equal(moved[1][~graphs.both], pairs[~graphs.both])
            again = block.inverse(*moved, graphs.mask, graphs.both)  # type: ignore[operator]
            torch.testing.assert_close(again, (nodes, pairs))


def test_a_process_whose_graphs_have_no_edges_takes_part_in_the_moments_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    y = 3 + 2 * torch.randn(50, 2, generator=seeded())  # what the other process has
    count = torch.tensor([50.0])
    others = [count.squeeze(0), torch.cat([y.sum(0), count]), torch.cat([(y - y.mean(0)).square().sum(0), count])]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(others.pop(0)))
    mixed, x = Mixed(2), torch.randn(4, 3, 2, generator=seeded(1))
    z, log_det = mixed(x, torch.zeros(4, 3, dtype=torch.bool))
    assert others == [], "the other process waits for each of them"
    torch.testing.assert_close(mixed.norm(y)[0].std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(mixed.norm(y)[0].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(z, x)
    assert log_det.tolist() == [0] * 4


def test_log_determinants_of_graphcnf_are_those_of_the_jacobian() -> None:
    model = trained("graphcnf")
    assert isinstance(model, GraphCNF)
    graphs = model.read(torch.tensor([[1, 2, 1, 1, 0, 1]], dtype=torch.uint8))
    start = torch.randn(12, dtype=torch.float64, generator=seeded())

    def latents(vector: Tensor) -> Tensor:
        nodes, pairs = vector[:6].view(1, 3, 2), vector[6:].view(1, 3, 2)
        nodes, pairs, _ = model._forward(graphs, nodes, pairs, pairs)
        return torch.cat([nodes.flatten(), pairs.flatten()])

    nodes, pairs = start[:6].view(1, 3, 2), start[6:].view(1, 3, 2)
    with torch.no_grad():
        _, _, (log_det, _) = model._forward(graphs, nodes, pairs, pairs)
    jacobian = torch.autograd.functional.jacobian(latents, start)
    assert isinstance(jacobian, Tensor)
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_training_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    data = data_of(GraphSpec(4, 2, 2))
    assert resumed_to_the_same_bits(lambda seed: new_model(name, data.spec, seed=seed), data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_training_steps_can_be_captured(name: str, tmp_path: Path) -> None:
    data, states = data_of(GraphSpec(4, 2, 2)), []
    for recorder in (None, TapeGraphs()):
        folder = tmp_path / str(len(states))
        folder.mkdir()
        model = new_model(name, data.spec)
        model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1e-3)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit_module, "recorder_for", lambda device, recorder=recorder: recorder)
            schedule = Schedule(examples=160, batch_size=16, validate_every=160)
            fit_module.fit(model, data, schedule, Hardware(), seed=5, folder=folder, config={})
        states.append(load_checkpoint(folder / "final.ckpt")["state_dict"])
        assert recorder is None or recorder.replays > 0
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", MODELS)
def test_samples_can_be_captured(name: str) -> None:
    model, graphs = new_model(name, data_of(GraphSpec(4, 2, 2)).spec).eval(), TapeGraphs()
    replays = Replays(graphs)
    with torch.no_grad():
        for seed in range(4):
            made = replays("samples", model.sample, 3, generator=Generator().manual_seed(seed))
            assert torch.equal(made, model.sample(3, generator=Generator().manual_seed(seed)))
    assert (graphs.recorded, graphs.replays) == (1, 3)


def test_passes_to_sample_are_counted() -> None:
    found = {name: trained(name).cost_report(torch.zeros(5, 6), generator=seeded()) for name in MODELS}
    passes = {name: report["passes_sample"] for name, report in found.items()}
    assert passes == {"graphcnf": 3, "rvae": 1, "graphaf": 3 + 3, "graphnvp": 3 + 3}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("graph", [GraphSpec(1, 3, 1), GraphSpec(2, 1, 1)])
def test_graphs_of_any_kind_are_taken(name: str, graph: GraphSpec, tmp_path: Path) -> None:
    data = data_of(graph)
    model = new_model(name, data.spec)
    schedule = Schedule(examples=48, batch_size=16, validate_every=1000)
    fit_module.fit(model, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    model.eval()
    assert isinstance(model, GraphModel)
    assert torch.isfinite(model.log_weight(data.test.x, generator=seeded())).all()
    assert is_graph(model.sample(7, generator=seeded()), graph.nodes, graph.node_types, graph.edge_types).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_graph_has_no_probability(name: str) -> None:
    model = trained(name)
    hole, dangling, unknown = [0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 3, 0, 0, 0, 0]
    x = torch.tensor([hole, dangling, unknown, [1, 1, 0, 0, 0, 0]], dtype=torch.uint8)
    log_w = model.log_weight(x, generator=seeded())
    assert log_w[:3].tolist() == [-math.inf] * 3
    assert torch.isfinite(log_w[3])


def test_a_size_that_no_training_example_has_keeps_some_mass() -> None:
    data = data_of(GraphSpec(4, 2, 2))
    model = new_model("rvae", data.spec)
    assert isinstance(model, RVAE)
    seen = data.train.x[(data.train.x[:, :4] > 0).sum(1) > 2]
    model.count([seen])
    n = model.number.probabilities.tolist()
    assert n[:3] == pytest.approx([0, *[0.01 / (len(seen) + 0.04)] * 2], rel=1e-9)
    assert sum(n) == pytest.approx(1)
    assert torch.isfinite(model.log_weight(data.test.x, generator=seeded())).all()


def test_linear_flows_encode_types_too() -> None:
    data = data_of(GraphSpec(4, 2, 2))
    model = new_model("graphcnf", data.spec, "model.encoding=linear_flows")
    assert isinstance(model, GraphCNF)
    loss = model.training_step((data.train.x, None), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    assert torch.isfinite(model.log_weight(data.test.x, generator=seeded())).all()
    assert is_graph(model.sample(9, generator=seeded()), 4, 2, 2).all()


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("graphcnf", "model.edge_dim=1", "edge_dim must be at least 2"),
        ("graphcnf", "model.encoding=one_hot", "encoding must be one of mixture, linear_flows"),
        ("graphcnf", "model.decoder_weight=0.5", "decoder_weight must be at least 1"),
        ("rvae", "model.valence=-1", "valence and connectivity must be at least 0"),
        ("rvae", "model.latent_dim=0", "latent_dim must be at least 1"),
        ("graphaf", "model.noise=0", "noise must be above 0"),
        ("graphnvp", "model.noise=-1", "noise must be positive"),
    ],
)
def test_options_out_of_range_are_named_in_one_line(name: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        new_model(name, data_of(THREE).spec, override)
    assert "\n" not in str(error.value)


def test_the_largest_component_by_hand() -> None:
    edges = torch.zeros(3, 5, 5, dtype=torch.long)
    for graph, i, j, kind in ((0, 0, 3, 2), (0, 3, 4, 1), (0, 1, 2, 1), (1, 0, 1, 1), (1, 2, 3, 2)):
        edges[graph, i, j] = edges[graph, j, i] = kind
    types = torch.tensor([[1, 2, 3, 1, 2], [1, 2, 3, 1, 0], [0, 0, 0, 0, 0]])
    found_types, found_edges, _ = unpack(largest_component(pack(types, edges), 5), 5)
    assert found_types.tolist() == [[1, 1, 2, 0, 0], [1, 2, 0, 0, 0], [0] * 5]
    assert {tuple(edge) for edge in found_edges[0].triu().nonzero().tolist()} == {(0, 1), (1, 2)}
    assert (found_edges[0, 0, 1], found_edges[0, 1, 2], found_edges[1, 0, 1]) == (2, 1, 1)


def test_samples_of_the_subgraph_version_are_connected_and_its_likelihood_says_so() -> None:
    spec = data_of(GraphSpec(5, 2, 1)).spec
    whole, parts = (new_model("graphcnf", spec, f"model.largest_component={value}") for value in ("false", "true"))
    x, y = (model.eval().sample(100, generator=seeded()) for model in (whole, parts))
    assert isinstance(whole, GraphCNF)
    assert isinstance(parts, GraphCNF)
    assert torch.equal(largest_component(x, 5), y)
    assert not torch.equal(x, y)
    assert parts.caveat
    assert not whole.caveat


def test_a_path_joins_what_the_closure_says() -> None:
    joined = (torch.rand(50, 6, 6, generator=seeded()) < 0.15).float().triu(1)
    joined = joined + joined.mT
    paths = torch.matrix_power(torch.eye(6) + joined, 6) > 0
    torch.testing.assert_close(reached(joined), paths.float(), atol=1e-4, rtol=0)
    alone = torch.zeros(1, 9, 9)
    alone[0, 0, 1] = alone[0, 1, 0] = 0.1  # no other edge: that it is there is all that joins its nodes
    torch.testing.assert_close(reached(alone), torch.eye(9)[None] + alone, atol=1e-5, rtol=0)


def test_penalties_are_those_of_the_constraints() -> None:
    data = data_of(GraphSpec(4, 2, 2))
    model = new_model("rvae", data.spec, "model.valence=1", "model.connectivity=0")
    assert isinstance(model, RVAE)
    types, edges, _ = unpack(data.train.x, 4)
    model.count(data.train.x.split(10))
    weights = edges.sum(2)
    assert model.largest.tolist() == [weights[types == k].max().item() for k in (1, 2)]
    with torch.no_grad():  # every pair an edge of type 2, every node of type 1
        for parameter in model.decoder.parameters():
            parameter.zero_()
        bias = model.decoder.layers[-1].bias
        assert isinstance(bias, Tensor)
        bias.copy_(torch.cat([torch.tensor([50.0, 0.0]).repeat(4), torch.tensor([0.0, 0.0, 50.0]).repeat(6)]))
        model.largest.copy_(torch.tensor([3.0, 9.0]))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert model.penalties(mask, seeded()).tolist() == pytest.approx([4 * (6 - 3), 0], abs=1e-4)
    model.valence, model.connectivity = 0.0, 1.0
    assert model.penalties(mask, seeded()).tolist() == pytest.approx([0, 0], abs=1e-4)
    with torch.no_grad():
        bias.copy_(torch.cat([torch.zeros(8), torch.tensor([50.0, 0.0, 0.0]).repeat(6)]))  # no edge
    assert model.penalties(mask, seeded()).tolist() == pytest.approx([3, 1], abs=1e-4)


def test_vectors_of_categories_have_the_density_they_are_drawn_from() -> None:
    category = torch.arange(3).repeat(20_000)[None]
    ones = torch.nn.functional.one_hot(category, 3).double()
    for scale in (0.2, 1.0):
        v = argmax_dequantized(ones, scale, seeded())
        assert torch.equal(v.argmax(2), category)
        broad = argmax_dequantized(ones, 1.0, seeded(1))
        log_q, log_broad = (log_argmax_density(broad, ones, each) for each in (scale, 1.0))
        assert (log_q - log_broad).exp().mean().item() == pytest.approx(1, abs=0.05)  # it integrates to 1
        mean = ones.mul(v).sum(2).mean().item()
        weighed = ((log_q - log_broad).exp() * ones.mul(broad).sum(2)).mean().item()
        assert mean == pytest.approx(weighed, abs=0.05)
    share = (log_standard_normal(v[0]) - log_argmax_density(v, ones, 1.0)[0]).exp().mean().item()
    assert share == pytest.approx(1 / 3, abs=0.01)
