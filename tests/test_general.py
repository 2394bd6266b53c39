"""Which kinds of graphs a model takes, by making and trying it; and the table that shows it beside published words."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data, small_graphs
from helpers_rows import rows_of
from torch import Tensor

from bench.config.build import build_model
from bench.data.formats.smiles import Chemistry, judged
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.metrics.general import General, _few_colourings, _few_molecules
from bench.rows.frame import load_rows
from bench.rows.store import write_rows
from bench.schema import DataSpec, Estimate, GraphSpec, Kind, Source, Status
from bench.subjects.base import Subject
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from bench.tables.properties import properties_of, published_of, to_markdown
from models.base import Batch, GenerativeModel
from models.graph.rvae import RVAE
from models.graph_independent import GraphIndependent
from models.graphs import is_graph, unpack

DATA = small_graphs(GraphSpec(4, 3, 1), Kind.GRAPHS)
COLOURED = small_graphs(GraphSpec(4, 3, 1), Kind.COLOURINGS)
Make = Callable[[DataSpec], GenerativeModel]


def measured(subject: Subject, data: Any = DATA) -> list[Estimate]:
    return evaluate(Examples(subject, data, seed=0), {"it": General()})["it"]


def of_model(make: Make, data: Any = DATA) -> list[Estimate]:
    return measured(TrainedModel(make(data.spec), None, 0, ORIGIN, make=make), data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(name, [1, 1, 1, 0]) for name in ("graph_independent", "graphaf", "graphcnf", "graphnvp", "rvae")]
    + [("colouring_lstm", [0, 0, 0, 1])],
)
def test_models_take_what_their_classes_say(name: str, expected: list[int]) -> None:
    before = torch.get_rng_state()
    found = of_model(partial(new_model, name), DATA if expected[0] else COLOURED)
    assert [one.value for one in found] == expected
    assert all(("is for" in one.reason) == (one.value == 0) for one in found[1:])
    assert torch.equal(before, torch.get_rng_state())


def with_names(spec: DataSpec) -> GenerativeModel:
    """A model that knows its atoms by name."""
    assert spec.graph is not None
    if not spec.graph.node_names:
        raise UserError("model: needs the names of atoms")
    return new_model("rvae", spec)


def test_a_model_that_needs_chemistry_is_not_general() -> None:
    subject = TrainedModel(new_model("rvae", DATA.spec), None, 0, ORIGIN, make=with_names)
    assert [(one.value, one.reason) for one in measured(subject)] == [
        (0, ""), (1, ""), (0, "model: needs the names of atoms"), (0, "model: needs the names of atoms")
    ]  # fmt: skip


class Broken(RVAE):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise ZeroDivisionError("no loss")


def test_what_breaks_is_no_refusal_and_what_cannot_be_tried_is_skipped() -> None:
    model = new_model("rvae", DATA.spec)

    def broken(spec: DataSpec) -> GenerativeModel:
        made = new_model("rvae", spec)
        made.__class__ = Broken
        return made

    found = measured(TrainedModel(model, None, 0, ORIGIN, make=broken))
    assert {(one.status, one.reason) for one in found} == {(Status.FAILED, "ZeroDivisionError: no loss")}
    assert {one.status for one in measured(TrainedModel(model, None, 0, ORIGIN))} == {Status.SKIPPED}
    assert {one.status for one in measured(FailedModel(model, "diverged", ORIGIN))} == {Status.FAILED}
    pictures = small_data((1, 8, 8), 256)
    found = of_model(partial(new_model, "vae"), pictures)
    assert {(one.status, one.reason) for one in found} == {(Status.SKIPPED, "the examples of small are no graphs")}


class Crashing(GraphIndependent):
    """A constructor that breaks where there is one type of edges, and refuses few types of nodes."""

    def __init__(self, shape: Iterable[int], levels: int | None, nodes: int, node_types: int, edge_types: int) -> None:
        super().__init__(shape, levels, nodes=nodes, node_types=node_types, edge_types=edge_types)
        if node_types < 3:
            raise ValueError("needs three types of nodes")
        self.share = 1 / (edge_types - 1)


@pytest.mark.parametrize(
    ("node_types", "error", "said"), [(4, ZeroDivisionError, "by zero"), (2, UserError, "needs three types of nodes")]
)
def test_a_constructor_that_breaks_refuses_nothing(node_types: int, error: type[Exception], said: str) -> None:
    make = partial(build_model, {"_target_": f"{__name__}.Crashing"})
    subject = TrainedModel(new_model("rvae", DATA.spec), None, 0, ORIGIN, make=make)
    with pytest.raises(error, match=said):
        subject.try_on(small_graphs(GraphSpec(4, node_types, 1), Kind.GRAPHS))


class Dropping(RVAE):
    """A model that draws from the global generator, as dropout does."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        torch.nn.functional.dropout(torch.ones(3), 0.5)
        return super().training_step(batch, batch_idx)


def test_what_a_model_draws_globally_while_it_is_tried_changes_nothing_else() -> None:
    def dropping(spec: DataSpec) -> GenerativeModel:
        made = new_model("rvae", spec)
        made.__class__ = Dropping
        return made

    before = torch.get_rng_state()
    assert [one.value for one in of_model(dropping)] == [1, 1, 1, 0]
    assert torch.equal(before, torch.get_rng_state())


def test_molecules_to_try_are_connected_and_keep_their_valences() -> None:
    x, graph = _few_molecules().train.x, _few_molecules().spec.graph
    assert graph is not None
    assert is_graph(x, graph.nodes, graph.node_types, graph.edge_types).all()
    found = judged(x.numpy(), Chemistry(5, graph.node_names))
    assert found.refused == {}
    assert len(set(found.smiles)) > 5


def quoted(rows: Iterable[tuple[str, str, float]]) -> list[Any]:
    return [
        replace(rows_of(model, "flow", 0, **{metric: value})[0], source=Source.QUOTED, reason="quoted from a paper")
        for model, metric, value in rows
    ]


def test_properties_show_it_beside_published_words(tmp_path: Any) -> None:
    rows = [
        *rows_of("graphaf", "flow", 0, passes_sample=45.0, general=1.0),
        *rows_of("rvae", "vae", 0, passes_sample=1.0),
        *quoted([("JT-VAE", "parallel", 0.0), ("JT-VAE", "general", 0.0), ("GraphNVP", "parallel", 1.0)]),
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    frame = load_rows(tmp_path / "rows.jsonl")
    table = to_markdown(properties_of(frame), published_of(frame))
    assert "| encoder | passes to sample | general | not" in table
    assert "| graphaf | flow | 0 of 1 | – | – | – | – | – | – | 45 | yes |  |" in table
    assert "| rvae | vae | 0 of 1 | – | – | – | – | – | – | 1 | – |  |" in table
    assert "| JT-VAE | flow | no | no | quoted from a paper |" in table
    assert "| GraphNVP | flow | yes | – | quoted from a paper |" in table


def test_published_words_stand_beside_where_they_are_from_and_none_is_made_up(tmp_path: Any) -> None:
    first, second, third = quoted([("GraphNVP", "general", 1.0), ("GraphNVP", "general", 0.0), ("MRNN", "general", 0)])
    unsaid = replace(quoted([("MRNN", "parallel", 0.0)])[0], value=None, status=Status.SKIPPED)
    second = replace(second, run_id="other", training_key="other", reason="quoted from another paper")
    write_rows(tmp_path / "rows.jsonl", [first, second, third, unsaid])
    found = {(one.model, one.source): (one.parallel, one.general) for one in published_of(load_rows([tmp_path]))}
    assert found == {
        ("GraphNVP", "quoted from a paper"): (None, True), ("GraphNVP", "quoted from another paper"): (None, False),
        ("MRNN", "quoted from a paper"): (None, False),
    }  # fmt: skip


def test_colourings_to_try_are_coloured() -> None:
    types, edges, mask = unpack(_few_colourings().train.x, 5)
    assert mask.sum(1).unique().tolist() == [2, 3, 4, 5]
    assert not ((edges > 0) & (types[:, :, None] == types[:, None])).any()
