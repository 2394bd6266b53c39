"""Which kinds of graphs a model takes: it is made anew for a few small graphs of each kind, and tried.

A model that needs to know chemistry, or what the types of nodes mean, refuses graphs that are no molecules. Published
tables call a model "general" if it does not (Lippe, Gavves 2021, arXiv:2006.09790).
"""

import torch
from torch import Tensor

from bench.data.base import Data, Split
from bench.errors import UnavailableError, UserError
from bench.metrics.base import Metric
from bench.schema import DataSpec, Estimate, GraphSpec, Kind, MetricInfo
from bench.subjects.examples import Examples
from models.graphs import pack

__all__ = ["General"]

FEW = 16  # graphs of each kind, for one step of training
NODES = 5  # of each, at most

INFOS = (
    MetricInfo("general", "", None, title="general", rank=320),
    MetricInfo("takes_molecules", "", None, title="takes molecules", rank=321),
    MetricInfo("takes_random_graphs", "", None, title="takes random graphs", rank=322),
    MetricInfo("takes_colourings", "", None, title="takes colourings", rank=323),
)


class General(Metric):
    """Computes ``takes_molecules``, ``takes_random_graphs`` and ``takes_colourings``: 1 if a model with these options
    can be made for such data, computes a loss with its gradient, and draws examples of their shape; 0 if its
    constructor refuses them, with the reason. And ``general``, 1 if it takes molecules as well as random graphs.

    The data are like ``qm9``, ``stochastic_blocks`` and ``graph_colouring``: a few small graphs of each. Any
    other error is a failure and not a 0.
    """

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return INFOS

    def compute(self, examples: Examples) -> list[Estimate]:
        if examples.spec.graph is None:
            raise UnavailableError(f"the examples of {examples.spec.name} are no graphs")
        general, *infos = INFOS
        refused = [_refusal(examples, made()) for made in (_few_molecules, _few_random_graphs, _few_colourings)]
        estimates = [Estimate(info, float(not why), reason=why) for info, why in zip(infos, refused, strict=True)]
        return [Estimate(general, float(not any(refused[:2]))), *estimates]


def _refusal(examples: Examples, data: Data) -> str:
    """Why the subject's model cannot be made for the data; empty where it can."""
    try:
        examples.subject.try_on(data)
    except UserError as error:
        return str(error)
    return ""


def _few_molecules() -> Data:
    """Chains of 2 to 5 atoms C, N and O, hydrogens left out, some with a double bond at their beginning."""
    edges = _chains()
    edges[::3, 0, 1] = edges[::3, 1, 0] = 2
    graph = GraphSpec(NODES, 4, 3, ("C", "N", "O", "F"), ("single", "double", "triple"))
    return _data("molecules", Kind.GRAPHS, graph, edges)


def _few_random_graphs() -> Data:
    edges = torch.rand(FEW, NODES, NODES, generator=torch.Generator().manual_seed(0)).triu(1) > 0.5
    return _data("random graphs", Kind.GRAPHS, GraphSpec(NODES, 2, 1, random_order=True), (edges | edges.mT).long())


def _few_colourings() -> Data:
    """Chains whose neighbours have two colours."""
    return _data("colourings", Kind.COLOURINGS, GraphSpec(NODES, 3, 1), _chains())


def _chains() -> Tensor:
    """Which nodes are neighbours in chains, ``(FEW, N, N)``."""
    next_to = torch.ones(NODES - 1, dtype=torch.long)
    return (next_to.diag(1) + next_to.diag(-1)).repeat(FEW, 1, 1)


def _data(name: str, kind: Kind, graph: GraphSpec, edges: Tensor) -> Data:
    """Graphs of 2 to N nodes with these edges, between those that are there; types go round."""
    there = torch.arange(NODES) < torch.arange(FEW)[:, None] % (NODES - 1) + 2
    types = (torch.arange(NODES) + torch.arange(FEW)[:, None]) % min(3, graph.node_types) + 1
    split = Split(pack(types * there, edges * (there[:, :, None] & there[:, None])))
    spec = DataSpec(name, "", graph.shape, graph.levels, FEW, FEW, FEW, kind=kind, graph=graph)
    return Data(spec, split, split, split)
