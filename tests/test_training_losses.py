"""What models of categories, graphs and colourings are trained on: the bound itself, and what is added to it."""

import math

import pytest
import torch
from helpers_models import new_model, small_graphs
from torch import Generator, Tensor
from torch.distributions import Normal

from bench.data.base import Data
from bench.data.sets import set_shuffling
from bench.schema import GraphSpec, Kind
from models.base import GenerativeModel, HasLikelihood
from models.distributions import standard_normal
from models.graph.base import GraphModel
from models.graph.graphaf import GraphAF
from models.graph.graphnvp import GraphNVP
from models.graph.rvae import RVAE
from models.nn.graph_networks import RelationalGNN
from models.transforms.argmax import argmax_dequantized, log_argmax_density

LN2 = math.log(2)
GRAPHS = small_graphs(GraphSpec(4, 2, 2), Kind.GRAPHS)
COLOURINGS = small_graphs(GraphSpec(5, 3, 2), Kind.COLOURINGS)
FLOWS = {"categorical_flow": set_shuffling(4, 64, 8, 8), "graphcnf": GRAPHS, "colouring_flow": COLOURINGS}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def bits_of(model: GenerativeModel, x: Tensor) -> float:
    """Minus the bound in the unit of the loss, with the noise that a training step of seed 0 draws."""
    assert isinstance(model, HasLikelihood)
    with torch.no_grad():
        log_w = model.log_weight(x, generator=seeded())
        if isinstance(model, GraphModel):  # which is trained on graphs of a given number of nodes
            log_w = log_w - model.log_number(x, log_w)
    size = (x[:, :5] > 0).sum(1) if "colourings" in model.kinds else torch.tensor(model.dim)
    return -(log_w / size).mean().item() / LN2


def loss_of(model: GenerativeModel, x: Tensor) -> float:
    model.train_generator = seeded()
    loss = model.training_step((x, None), 0)
    assert isinstance(loss, Tensor)
    return loss.item()


def ready(name: str, data: Data, *options: str) -> GenerativeModel:
    """A model in training whose activation normalizations have seen their first batch."""
    model = new_model(name, data.spec, *options)
    loss_of(model, data.train.x)
    return model


@pytest.mark.parametrize("name", FLOWS)
def test_the_decoders_term_weighs_more_at_first_and_once_from_the_last_of_its_steps_on(name: str) -> None:
    data = FLOWS[name]
    model, x = ready(name, data, "model.decoder_weight=3", "model.decoder_steps=4"), data.train.x
    model.steps.zero_()  # type: ignore[operator, union-attr]
    losses = [loss_of(model, x) for _ in range(7)]
    bound = bits_of(model, x)
    assert losses[4:] == pytest.approx([bound] * 3, abs=1e-4)
    assert losses[0] > bound + 0.01, "the decoder's term is no 0"
    shares = [(loss - bound) / (losses[0] - bound) for loss in losses[:4]]
    assert shares == pytest.approx([1, 0.75, 0.5, 0.25], abs=5e-3)


def test_the_loss_of_the_colouring_lstm_is_the_mean_over_graphs_of_bits_a_node() -> None:
    model, x = ready("colouring_lstm", COLOURINGS), COLOURINGS.train.x
    assert loss_of(model, x) == pytest.approx(bits_of(model, x), abs=1e-5)


def test_the_loss_of_the_colouring_vae_is_its_bound() -> None:
    """Its KL is known and that of log w is drawn, so they agree in the mean."""
    model, x = ready("colouring_vae", COLOURINGS), COLOURINGS.train.x.repeat(200, 1)
    assert isinstance(model, HasLikelihood)
    nodes = (x[:, :5] > 0).sum(1)
    with torch.no_grad():
        each = -model.log_weight(x, generator=seeded(1)) / nodes / LN2
        loss = loss_of(model, x)
    assert loss == pytest.approx(each.mean().item(), abs=6 * each.std().item() / math.sqrt(len(each)))


def test_the_loss_of_the_regularized_vae_is_its_bound_and_the_penalties() -> None:
    model, x = ready("rvae", GRAPHS, "model.valence=2", "model.connectivity=3"), GRAPHS.train.x.repeat(200, 1)
    assert isinstance(model, RVAE)
    model.count([GRAPHS.train.x])
    with torch.no_grad():
        bias = model.encoder.layers[-1].bias
        assert isinstance(bias, Tensor)
        bias[: model.latent_dim] = 1.5  # far from the prior: there is a KL to miss
        log_w = model.log_weight(x, generator=seeded(1))
        each = -(log_w - model.log_number(x, log_w)) / (model.dim * LN2)
        penalized = loss_of(model, x)
        generator = seeded()
        standard_normal((len(x), model.latent_dim), log_w, generator)  # what the posterior draws
        penalties = model.penalties(x[:, :4] > 0, generator).mean().item() / (model.dim * LN2)
        model.valence = model.connectivity = 0.0
        loss = loss_of(model, x)
    assert loss == pytest.approx(each.mean().item(), abs=6 * each.std().item() / math.sqrt(len(each)))
    assert penalties > 0.01
    assert penalized - loss == pytest.approx(penalties, rel=1e-4)


def test_the_loss_of_graphaf_is_the_density_of_noisy_indicators_where_something_is() -> None:
    """Means start at 0 and scales at 1, so the mean of the squares is all that there is to know."""
    model, x = new_model("graphaf", GRAPHS.spec), GRAPHS.train.x.repeat(100, 1)
    assert isinstance(model, GraphAF)
    n = (x[:, :4] > 0).sum(1).double()

    def nats(categories: int) -> float:
        """Of one category: one entry is 1 + a u and the others are a u, u uniform on [0, 1]."""
        a = model.noise
        squares = 1 + a + a**2 / 3 + (categories - 1) * a**2 / 3
        return 0.5 * squares + 0.5 * categories * math.log(2 * math.pi)

    expected = (n * nats(2) + n * (n - 1) / 2 * nats(3)).mean().item() / (model.dim * LN2)
    with torch.no_grad():
        assert loss_of(model, x) == pytest.approx(expected, rel=5e-3)


def test_the_loss_of_graphnvp_is_the_bound_of_its_noise() -> None:
    """Of flows that do nothing: log q - log N of each category, and nothing where nothing is."""
    model, x = new_model("graphnvp", GRAPHS.spec).eval(), GRAPHS.train.x.repeat(100, 1)
    assert isinstance(model, GraphNVP)
    n = (x[:, :4] > 0).sum(1).double()

    def nats(categories: int) -> float:
        one = torch.eye(categories)[:1].expand(1, 100_000, -1)
        v = argmax_dequantized(one, model.noise, seeded(1))
        return (log_argmax_density(v, one, model.noise) - Normal(0, 1).log_prob(v).sum(2)).mean().item()

    expected = (n * nats(2) + n * (n - 1) / 2 * nats(3)).mean().item() / (model.dim * LN2)
    with torch.no_grad():
        for part in model.node_flow.modules():
            if isinstance(part, RelationalGNN):
                for parameter in part.last.parameters():
                    parameter.zero_()
        assert loss_of(model, x) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("name", ["graphcnf", "rvae"])
def test_codes_keep_the_number_of_nodes(name: str) -> None:
    model, x = ready(name, GRAPHS).eval(), GRAPHS.test.x
    with torch.no_grad():
        decoded = model.decode(model.encode(x, generator=seeded()))  # type: ignore[operator]
    assert torch.equal(decoded[:, :4] > 0, x[:, :4] > 0)
