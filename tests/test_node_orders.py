"""Likelihoods of graphs whose order a model can learn, and of graphs in any order: each model says which it has, and
tables rank the two apart."""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers_graph_models import MODELS, THREE, masses, trained
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_graphs

from bench.config.spec import Measurement
from bench.data.base import Data
from bench.data.graphs import stochastic_blocks
from bench.evaluation.evaluate import evaluate
from bench.evaluation.rows import rows_of
from bench.metrics.likelihood import LogLikelihood
from bench.schema import Kind, ResultRow, Status
from bench.subjects.base import Subject
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.own import OwnModel
from bench.subjects.trained import FailedModel, TrainedModel
from bench.tables.aggregate import make_table
from bench.tables.text import to_text
from models.graphs import permute

MEASURED = {"likelihood": LogLikelihood(2)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_whether_another_order_of_the_nodes_has_another_probability(name: str) -> None:
    model = trained(name)
    x = torch.tensor([[1, 1, 2, 1, 1, 0]], dtype=torch.uint8)
    every = torch.cat([permute(x, 3, torch.tensor(order)) for order in itertools.permutations(range(3))]).unique(dim=0)
    mass, variance = masses(model, every, 10_000 if name == "graphnvp" else 2000)
    apart = ((mass.max() - mass.min()) / (2 * variance.mean()).sqrt()).item()
    assert model.likelihood_of == ("any-order" if apart < 5 else "data-order"), f"{apart:.1f} standard errors"


def rows(subject: Subject, data: Data, model: str, family: str = "flow") -> list[ResultRow]:
    subject.origin = replace(ORIGIN, model=model, model_family=family, run_id=model, group=model)
    estimates = evaluate(Examples(subject, data, seed=0), MEASURED)
    return rows_of(estimates, [Measurement("likelihood", {}, "k0")], subject.origin, data.spec)


def of_models(data: Data) -> list[ResultRow]:
    found: list[ResultRow] = []
    for name in ("graphcnf", "graphaf", "graphnvp", "rvae"):
        model = new_model(name, data.spec)
        found += rows(TrainedModel(model, None, 0, ORIGIN), data, name)
    return found


def columns(found: list[ResultRow], metric: str) -> dict[str, set[str]]:
    """The models with a value in each column of a metric."""
    (section,) = make_table(found).sections
    return {
        column.title: {section.lines[line].model for line, place in section.cells if place == number}
        for number, column in enumerate(section.columns)
        if column.part("metric").startswith(metric)
    }


def test_likelihoods_of_graphs_in_any_order_and_in_that_of_the_data_are_ranked_apart() -> None:
    data = small_graphs(THREE, Kind.GRAPHS)
    found = of_models(data)
    for metric, title in (("log_likelihood", "log-likelihood"), ("bits_per_dim", "bits/dim")):
        assert columns(found, metric) == {
            f"{title}, any order of nodes": {"graphcnf", "graphaf"},
            f"{title}, nodes in the data's order": {"graphnvp", "rvae"},
        }
    (section,) = make_table(found).sections
    best = {(section.lines[line].model, place) for (line, place), cell in section.cells.items() if cell.best}
    assert {place for _, place in best} == {0, 1, 2, 3}, "each column has a best of its own"
    assert "any order of nodes" in to_text(make_table(found))
    failed = FailedModel(new_model("graphcnf", data.spec), "diverged", ORIGIN)
    lost = [row for row in rows(failed, data, "lost") if row.status is Status.FAILED]
    assert {row.metric for row in lost} == {"log_likelihood[any-order]", "bits_per_dim[any-order]"}


class Uniform:
    """A model of somebody who knows nothing of this harness."""

    def __init__(self, value: float) -> None:
        self.value = value

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), self.value)


def test_what_does_not_say_which_it_has_is_not_ranked() -> None:
    data = small_graphs(THREE, Kind.GRAPHS)
    found: list[ResultRow] = []
    for name, of in (("silent", None), ("mistaken", "any order]"), ("blind", "any-order")):
        model = Uniform(-9.0 if of != "any-order" else -99.0)
        if of is not None:
            model.likelihood_of = of  # type: ignore[attr-defined]
        found += rows(OwnModel(model, data.spec, 0, ORIGIN), data, name)
    assert columns(found, "log_likelihood") == {
        "log-likelihood": {"silent", "mistaken"}, "log-likelihood, any order of nodes": {"blind"}
    }  # fmt: skip
    (section,) = make_table(found).sections
    said = {section.lines[line].model: cell.unranked for (line, _), cell in section.cells.items()}
    unsaid = "whether the model can learn the order of the nodes is not said (likelihood_of)"
    assert said == {"silent": unsaid, "mistaken": unsaid, "blind": ""}
    random = stochastic_blocks(nodes=4, n_train=8, n_val=8, n_test=20, least=2)
    coloured = small_graphs(THREE, Kind.COLOURINGS)
    for other in (random, coloured):
        assert {row.reason for row in rows(OwnModel(Uniform(-9.0), other.spec, 0, ORIGIN), other, "silent")} == {""}


def test_where_the_order_of_the_data_is_random_all_likelihoods_compare() -> None:
    data = stochastic_blocks(nodes=4, n_train=8, n_val=8, n_test=20, least=2)
    assert data.log_density is not None
    oracle = rows(KnownDensity(data.log_density, ORIGIN), data, "oracle", "data")
    for metric, title in (("log_likelihood", "log-likelihood"), ("bits_per_dim", "bits/dim")):
        assert columns(of_models(data) + oracle, metric) == {
            title: {"graphcnf", "graphaf", "graphnvp", "rvae", "oracle"}
        }
