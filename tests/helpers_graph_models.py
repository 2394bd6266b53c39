"""Small models of graphs, trained for a moment, and estimates of the probabilities they give to graphs."""

import functools

import torch
from helpers_models import new_model, small_graphs
from torch import Generator, Tensor

from bench.data.base import Data
from bench.schema import GraphSpec, Kind
from models.base import GenerativeModel, HasLikelihood
from models.graph.base import GraphModel

__all__ = ["MODELS", "THREE", "data_of", "masses", "seeded", "trained"]

MODELS = ("graphcnf", "rvae", "graphaf", "graphnvp")
THREE = GraphSpec(3, 2, 1)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def data_of(graph: GraphSpec, n: int = 96) -> Data:
    return small_graphs(graph, Kind.GRAPHS, n=n)


@functools.cache
def trained(name: str, graph: GraphSpec = THREE) -> GraphModel:
    """A model after 40 steps of training, in float64. No test changes it."""
    data = data_of(graph)
    model = new_model(name, data.spec)
    assert isinstance(model, GraphModel)
    model.count([data.train.x])
    model.train_generator = seeded()
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    for step in range(40):
        loss = model.training_step((data.train.x[:32], None), step)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.double().eval()


@torch.no_grad()
def masses(model: GenerativeModel, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Estimates of the probabilities of graphs, and their variances."""
    assert isinstance(model, HasLikelihood)
    log_w = model.log_weight(x.repeat(draws, 1), generator=seeded(2)).double()
    weights = log_w.exp().unflatten(0, (draws, len(x)))
    return weights.mean(0), weights.var(0) / draws
