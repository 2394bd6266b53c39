"""Models of the colours of given graphs: masses, samples, orders of the nodes, and places without nodes."""

from pathlib import Path

import pytest
import torch
from contract import every_example
from helpers_density import all_examples, randomize, resumed_to_the_same_bits
from helpers_models import new_model, small_graphs
from scipy.stats import chisquare
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.features.pixels import Pixels
from bench.metrics.birthday import Birthday
from bench.metrics.copying import Copying
from bench.schema import GraphSpec, Kind
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from models.base import GenerativeModel, HasLikelihood, SamplesGiven
from models.colouring.base import ColouringModel
from models.colouring.lstm import largest_first
from models.graphs import permute

MODELS = ["colouring_flow", "colouring_lstm", "colouring_vae"]
DATA = small_graphs(GraphSpec(5, 3, 2), Kind.COLOURINGS)
GRAPHS = DATA.train.x[DATA.train.x[:, 4] > 0][:6]  # of five nodes


def made(name: str, nodes: int = 5, seed: int = 0) -> ColouringModel:
    """A model in float64 whose outputs depend on all that they may depend on."""
    data = small_graphs(GraphSpec(nodes, 3, 2), Kind.COLOURINGS, n=1, held_out=1)
    model = new_model(name, data.spec, seed=seed).double().eval()
    assert isinstance(model, ColouringModel)
    if name == "colouring_flow":
        with torch.no_grad():  # activation normalization takes its scales from the first batch that it sees
            model.train().log_weight(DATA.train.x if nodes == 5 else padded(DATA.train.x), generator=Generator())
            model.eval()
            for block in model.flow:
                randomize(block.network, 0.3, seed=1)
    else:
        randomize(model, 0.4, seed=1)
    return model


def padded(x: Tensor) -> Tensor:
    """The same graphs with room for a sixth node."""
    wide = torch.zeros(len(x), 21, dtype=torch.uint8)
    wide[:, :5] = x[:, :5]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    wide[:, [6 + k for k, (_, j) in enumerate(pairs) if j < 5]] = x[:, 5:]
    return wide


def colourings(graph: Tensor) -> Tensor:
    every = all_examples((5,), 3) + 1
    return torch.cat([every, graph[5:].expand(len(every), -1)], 1)


def test_the_lstms_masses_sum_to_one_over_the_colourings_of_each_graph_and_its_samples_have_them() -> None:
    model = made("colouring_lstm")
    with torch.no_grad():
        for graph in GRAPHS:
            assert model.log_weight(colourings(graph)).exp().sum().item() == pytest.approx(1, abs=1e-9)
        x = colourings(GRAPHS[0])
        masses = model.log_weight(x).exp()
        drawn = model.sample_given(GRAPHS[:1].expand(20_000, -1), generator=Generator().manual_seed(0))
    counts = torch.bincount((drawn[:, :5].long() - 1) @ 3 ** torch.arange(4, -1, -1), minlength=243)
    assert chisquare(counts.numpy(), 20_000 * masses.numpy()).pvalue > 1e-3
    assert masses.std() > 0.1 * masses.mean(), "a uniform density would show nothing"


@pytest.mark.parametrize("name", ["colouring_flow", "colouring_vae"])
def test_samples_of_a_bounded_model_have_the_likelihood_it_reports(name: str) -> None:
    data = small_graphs(GraphSpec(3, 3, 1), Kind.COLOURINGS)
    model = new_model(name, data.spec).eval()
    assert isinstance(model, ColouringModel)
    x = every_example("three colours")
    with torch.no_grad():
        model.log_weight(data.train.x, generator=Generator())
        if name == "colouring_vae":  # an untrained posterior far from the prior has weights of huge variance
            for parameter in model.encoder.last.parameters():
                parameter.mul_(0.2)
        draws = model.log_weight(x.repeat(2000, 1), generator=Generator().manual_seed(1)).unflatten(0, (2000, 27))
        drawn = model.sample_given(x[:1].expand(20_000, -1), generator=Generator().manual_seed(0))
    mass = draws.double().exp()
    places = (drawn[:, :3].long() - 1) @ torch.tensor([9, 3, 1])
    counts = torch.bincount(places, minlength=27) / 20_000
    error = (mass.var(0) / 2000 + counts * (1 - counts) / 20_000).sqrt()
    assert ((mass.mean(0) - counts).abs() < 4 * error).all()


@pytest.mark.parametrize("order", [[3, 0, 4, 1, 2], [4, 3, 2, 1, 0]])
def test_permuted_nodes_have_permuted_latents_codes_and_logits(order: list[int]) -> None:
    place, generator = torch.tensor(order), Generator().manual_seed(0)
    flow, vae = made("colouring_flow"), made("colouring_vae")
    z = torch.randn(len(GRAPHS), 5, 2, dtype=torch.float64, generator=generator)
    moved = permute(GRAPHS, 5, place)
    with torch.no_grad():
        (colours, given), (permuted, other) = flow.read(GRAPHS), flow.read(moved)
        assert torch.equal(colours[:, place], permuted)
        (latents, log_det), (same, as_much) = flow.latents(z, given), flow.latents(z[:, place], other)
        logits, alike = vae.decoder(z, given.adjacency), vae.decoder(z[:, place], other.adjacency)
        mean, code = vae._posterior(colours, given).mean, vae._posterior(permuted, other).mean
    for one, two in ((latents[:, place], same), (log_det, as_much), (logits[:, place], alike), (mean[:, place], code)):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(latents, same), "nodes differ"


def test_places_without_nodes_change_nothing() -> None:
    x = DATA.test.x
    generator = Generator().manual_seed(0)
    for name in MODELS:
        narrow, wide = made(name), made(name, nodes=6)
        wide.load_state_dict(narrow.state_dict())
        with torch.no_grad():
            if name == "colouring_lstm":
                torch.testing.assert_close(narrow.log_weight(x), wide.log_weight(padded(x)))
                continue
            (colours, given), (more, other) = narrow.read(x), wide.read(padded(x))
            z = torch.randn(len(x), 6, 2, dtype=torch.float64, generator=generator)
            if name == "colouring_flow":
                one, two = narrow.latents(z[:, :5], given), wide.latents(z, other)
                torch.testing.assert_close(one[1], two[1])
                torch.testing.assert_close(one[0] * given.mask[..., None], two[0][:, :5] * given.mask[..., None])
            else:
                one, two = narrow._reconstruction(colours, z[:, :5], given), wide._reconstruction(more, z, other)
                torch.testing.assert_close(one, two)
                kl = narrow._posterior(colours, given).kl_to_standard()
                torch.testing.assert_close(kl, wide._posterior(more, other).kl_to_standard())


def test_nodes_with_the_most_neighbours_come_first_and_absent_ones_last() -> None:
    #      0-1, 0-2, 0-3, 1-2 of four nodes; the fifth is not there
    x = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0]], dtype=torch.uint8)
    _, given = made("colouring_lstm").read(x)
    assert given.degrees.tolist() == [[3, 2, 2, 1, 0]]
    assert largest_first(given).tolist() == [[0, 1, 2, 3, 4]]
    _, given = made("colouring_lstm").read(permute(x, 5, torch.tensor([3, 2, 1, 0, 4])))
    assert largest_first(given).tolist() == [[3, 1, 2, 0, 4]]


@pytest.mark.parametrize("name", MODELS)
def test_samples_keep_the_graph_and_do_not_depend_on_the_colours_it_had(name: str) -> None:
    model, x = made(name), DATA.test.x
    drawn = model.sample_given(x, generator=Generator().manual_seed(0))
    assert drawn.dtype == x.dtype
    assert torch.equal(drawn[:, 5:], x[:, 5:])
    assert torch.equal(drawn[:, :5] > 0, x[:, :5] > 0)
    assert int(drawn[:, :5].max()) <= 3
    other = torch.cat([(x[:, :5] > 0).to(torch.uint8), x[:, 5:]], 1)
    assert torch.equal(model.sample_given(other, generator=Generator().manual_seed(0)), drawn)
    with pytest.raises(NotImplementedError, match="colours graphs that are given"):
        model.sample(3)


def test_a_trained_models_samples_colour_the_test_graphs_one_after_another() -> None:
    origin = Origin(run_id="", training_key="", group="", model="", model_family="", checkpoint="best")
    model = new_model("colouring_lstm", DATA.spec)
    assert isinstance(model, GenerativeModel)
    assert isinstance(model, SamplesGiven)
    assert isinstance(model, HasLikelihood)
    samples = TrainedModel(model, None, 0, origin, given=DATA.test.x).samples(300)
    graphs = DATA.test.x[torch.arange(300) % len(DATA.test.x)]
    assert torch.equal(samples[:, 5:], graphs[:, 5:])
    assert torch.equal(samples[:250], TrainedModel(model, None, 0, origin, given=DATA.test.x).samples(250))
    with pytest.raises(Exception, match="colours graphs that are given"):
        TrainedModel(model, None, 0, origin).samples(3)
    with pytest.raises(Exception, match="it broke"):
        FailedModel(model, "it broke", origin).samples(3)


def test_samples_that_have_the_graphs_of_the_test_split_are_not_compared_with_it_as_a_set() -> None:
    origin = Origin(run_id="", training_key="", group="", model="", model_family="", checkpoint="best")
    examples = Examples(
        TrainedModel(new_model("colouring_lstm", DATA.spec), None, 0, origin, given=DATA.test.x), DATA, seed=0
    )
    (support,) = Birthday(Pixels(), 40, 1).compute(examples)
    assert (support.value, support.reason) == (None, "samples are new colours of the test graphs")
    with pytest.raises(UnavailableError, match="new colours of the test graphs"):
        Copying(Pixels(), 40).compute(examples)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    assert resumed_to_the_same_bits(lambda seed: new_model(name, DATA.spec, seed=seed), DATA, tmp_path)
