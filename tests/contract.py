"""What every model promises, as functions that anybody's model can be handed to.

``tests/test_contract_models.py`` runs them over every YAML in conf/model, or over those of a package from outside.
"""

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from helpers_density import all_examples, all_graphs, discrete_mass, quadrature, share_outside
from helpers_models import (
    OURS,
    Declared,
    configuration,
    declared,
    new_model,
    refusal,
    small_data,
    small_graphs,
)
from torch import Generator, Tensor

from bench.checkpoint import Progress, load_weights
from bench.config.build import checked
from bench.config.catalogue import describe
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.errors import UserError
from bench.schema import GraphSpec, Kind
from bench.training.fit import fit
from models.base import (
    Autoencodes,
    ClassConditional,
    ClipsSamples,
    ClosedForm,
    CountsTraining,
    GenerativeModel,
    HasDecoder,
    HasDiscriminator,
    HasLikelihood,
    HasPosterior,
    ReportsCost,
    SamplesClasses,
    SamplesGiven,
    SolvesODE,
    ValidatedByLoss,
)
from models.flows.base import Flow

__all__ = [
    "CAPABILITIES",
    "ENUMERABLE",
    "QUADRATURE",
    "SPACES",
    "Candidate",
    "check_capabilities",
    "check_codes",
    "check_configuration",
    "check_covered",
    "check_density",
    "check_description",
    "check_gradients",
    "check_mass",
    "check_relation",
    "check_reload",
    "check_samples",
    "check_spaces",
    "check_streams",
    "data_of",
    "kind_of",
]

GRAPHS = {
    "graphs": GraphSpec(4, 2, 2), "three nodes": GraphSpec(3, 2, 1), "colourings": GraphSpec(4, 3, 1),
    "three colours": GraphSpec(3, 3, 1),
}  # fmt: skip
"""The sizes of the graphs among the spaces."""

SPACES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "image": ((1, 8, 8), 256),
    "colour": ((3, 8, 8), 32),
    "odd": ((1, 5, 7), 4),
    "binary": ((1, 6, 6), 2),
    "integers": ((3,), 16),
    "reals": ((5,), None),
    "one real": ((1,), None),
    "categories": ((4,), 3),
    "graphs": (GRAPHS["graphs"].shape, GRAPHS["graphs"].levels),
    "colourings": (GRAPHS["colourings"].shape, GRAPHS["colourings"].levels),
}
"""Kinds of data that a model takes or says it refuses: shape of one example, and levels."""

ENUMERABLE: dict[str, tuple[tuple[int, ...], int | None]] = {
    "two pixels": ((1, 1, 2), 4),
    "two integers": ((2,), 4),
    "two categories": ((2,), 3),
    "three nodes": (GRAPHS["three nodes"].shape, GRAPHS["three nodes"].levels),
    "three colours": (GRAPHS["three colours"].shape, GRAPHS["three colours"].levels),
}
"""Small enough to sum the masses of all examples."""

QUADRATURE: dict[str, tuple[tuple[int, ...], int | None]] = {"one real": ((1,), None), "two reals": ((2,), None)}
"""Small enough to integrate a density over."""

EVERY_SPACE = {**SPACES, **ENUMERABLE, **QUADRATURE}

KINDS = {
    "categories": Kind.CATEGORIES, "two categories": Kind.CATEGORIES, "graphs": Kind.GRAPHS, "three nodes": Kind.GRAPHS,
    "colourings": Kind.COLOURINGS, "three colours": Kind.COLOURINGS,
}  # fmt: skip
"""The kinds of spaces, numbers where none is said. A space of a kind that a model's class does not name is refused; no
YAML says so again."""

CAPABILITIES = (
    HasLikelihood, HasPosterior, HasDiscriminator, Autoencodes, HasDecoder, ClosedForm, ClipsSamples, ReportsCost,
    SolvesODE, ValidatedByLoss, ClassConditional, SamplesClasses, SamplesGiven, CountsTraining,
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model under test.

    Attributes:
        name: Of its YAML.
        folder: Of configurations, ``FOLDER/model/NAME.yaml``: conf, or that of a package from outside.
        trust: Packages besides our own that the YAML may name.
    """

    name: str
    folder: Path = OURS
    trust: tuple[str, ...] = ()

    @property
    def declared(self) -> Declared:
        return declared(self.name, self.folder)

    @property
    def file(self) -> Path:
        return self.folder / "model" / f"{self.name}.yaml"

    def accepts(self, space: str) -> bool:
        """Whether class and YAML say so; ``check_spaces`` holds the constructor to it."""
        return kind_of(space) in self.kinds and space not in self.declared.refuses

    @property
    def kinds(self) -> frozenset[str]:
        module, _, name = self.configuration()["model"]["_target_"].rpartition(".")
        found: frozenset[str] = getattr(importlib.import_module(module), name).kinds
        return found

    def configuration(self) -> dict[str, Any]:
        return configuration(self.name, folder=self.folder, trust=self.trust)

    def new(self, data: Data, seed: int = 0) -> GenerativeModel:
        return new_model(self.name, data.spec, seed=seed, folder=self.folder, trust=self.trust)


def data_of(space: str) -> Data:
    if space in GRAPHS:
        return small_graphs(GRAPHS[space], kind_of(space))
    return small_data(*EVERY_SPACE[space], kind=kind_of(space))


def kind_of(space: str) -> Kind:
    return KINDS.get(space, Kind.NUMBERS)


def every_example(space: str) -> Tensor:
    """All examples of an enumerable space, ``(N, *shape)``; of colourings all those of one graph, a path."""
    if kind_of(space) is Kind.GRAPHS:
        graph = GRAPHS[space]
        return all_graphs(graph.nodes, graph.node_types, graph.edge_types)
    if kind_of(space) is Kind.COLOURINGS:
        nodes, colours = GRAPHS[space].nodes, GRAPHS[space].node_types
        coloured = all_examples((nodes,), colours) + 1
        ends = torch.tensor([j == i + 1 for i in range(nodes) for j in range(i + 1, nodes)], dtype=torch.uint8)
        return torch.cat([coloured, ends.expand(len(coloured), -1)], 1)
    shape, levels = EVERY_SPACE[space]
    assert levels is not None
    return all_examples(shape, levels)


def train(model: GenerativeModel, data: Data, folder: Path, steps: int) -> Progress:
    schedule = Schedule(examples=16 * steps, batch_size=16, validate_every=10_000)
    return fit(model, data, schedule, Hardware(), seed=0, folder=folder, config={})


def trained(candidate: Candidate, space: str, folder: Path, steps: int = 2) -> tuple[GenerativeModel, Data]:
    data = data_of(space)
    model = candidate.new(data)
    train(model, data, folder, steps)
    return model.eval(), data


def draw(model: GenerativeModel, n: int, seed: int) -> Tensor:
    with torch.no_grad():
        return model.sample(n, generator=Generator().manual_seed(seed))


def log_weights(model: GenerativeModel, x: Tensor, seed: int = 0) -> Tensor:
    assert isinstance(model, HasLikelihood)
    with torch.no_grad():
        return model.log_weight(x, generator=Generator().manual_seed(seed))


def check_description(file: Path) -> None:
    """A configuration's first comment line is what ``genbench list`` shows."""
    text = describe(file)
    is_note = text.split(":")[0] in ("test", "leaks", "refuses")
    assert len(text) > 5, f"{file.name} does not begin with a one-line description"
    assert not is_note, f"{file.name} begins with a note for its tests instead of a description"


def check_configuration(candidate: Candidate) -> None:
    """It composes, names nothing that is not allowed, and gives no argument that is not taken."""
    checked(candidate.configuration())


def check_spaces(candidate: Candidate) -> dict[str, str]:
    """At least one kind of data is taken; each other one is refused in the constructor, with a reason, and declared.

    Returns:
        The reasons, by the names of the spaces.
    """
    reasons: dict[str, str] = {}
    for space in EVERY_SPACE:
        try:
            candidate.new(data_of(space))
        except UserError as error:
            reasons[space] = refusal(error)
    of_another_kind = {space for space in EVERY_SPACE if kind_of(space) not in candidate.kinds}
    assert of_another_kind <= set(reasons), "data of a kind that the class does not name are taken"
    reasons = {space: reason for space, reason in reasons.items() if space not in of_another_kind}
    assert set(reasons) | of_another_kind != set(EVERY_SPACE), f"{candidate.name} refuses every kind of data: {reasons}"
    said = set(candidate.declared.refuses)
    assert said <= set(EVERY_SPACE), f"# refuses: there are {', '.join(EVERY_SPACE)}; not {said - set(EVERY_SPACE)}"
    line = f"# refuses: {', '.join(reasons)}" if reasons else "no such line"
    assert said == set(reasons), f"{candidate.file.name} should say what is refused ({line}); it refuses {reasons}"
    return reasons


def check_capabilities(candidate: Candidate) -> None:
    """What a model can do is said by its base classes: methods of one that is not a base would never be called."""
    space = next(space for space in EVERY_SPACE if candidate.accepts(space))
    model = candidate.new(data_of(space))
    assert isinstance(model.family, str)
    assert model.family
    for capability in CAPABILITIES:
        methods = sorted(name for name in capability.__abstractmethods__ if hasattr(model, name))
        assert isinstance(model, capability) or not methods, (
            f"{type(model).__name__} has {', '.join(methods)}; it should have the base class {capability.__name__}"
        )
    if isinstance(model, HasLikelihood) and "graphs" in model.kinds:
        assert model.likelihood_of in ("any-order", "data-order"), "whose order of nodes?"
    can = not model.cannot_sample or isinstance(model, HasLikelihood)
    assert can, "a model without samples and without a likelihood has nothing to measure"


def check_gradients(candidate: Candidate, space: str, folder: Path) -> None:
    """Six steps of training give every parameter a finite gradient; a closed form has buffers only."""
    data = data_of(space)
    model = candidate.new(data)
    seen: dict[str, bool] = {}

    def watch(parameter_name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            finite = bool(torch.isfinite(parameter.grad).all())
            seen[parameter_name] = seen.get(parameter_name, True) and finite

        return hook

    parameters = dict(model.named_parameters())
    for parameter_name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(watch(parameter_name))
    progress = train(model, data, folder, steps=6)
    if isinstance(model, ClosedForm):
        assert not parameters, "a model fitted in closed form has buffers only"
        assert progress.examples_seen == len(data.train)
    else:
        assert parameters
        assert {key for key in parameters if not seen.get(key)} == set(), "parameters without a finite gradient"
        assert progress.examples_seen == 96


def check_samples(candidate: Candidate, space: str, folder: Path) -> None:
    """Samples are data: shape, dtype, levels, finite; the same for the same seed and others for another."""
    model, data = trained(candidate, space, folder)
    if model.cannot_sample:
        _raises_not_implemented(lambda: draw(model, 1, 0))
        return
    samples, again, other = draw(model, 9, 3), draw(model, 9, 3), draw(model, 9, 4)
    assert samples.shape == (9, *data.spec.shape)
    assert samples.dtype == model.data_dtype == data.train.x.dtype
    assert torch.isfinite(samples.float()).all()
    if data.spec.levels is not None:
        assert int(samples.max()) < data.spec.levels
    assert torch.equal(samples, again), "the same seed gives the same samples"
    assert not torch.equal(samples, other), "another seed gives other samples"


def check_streams(candidate: Candidate, space: str, folder: Path) -> None:
    """Sampling and likelihood draw from the generator they are handed, never from the global one."""
    model, data = trained(candidate, space, folder)
    before = torch.get_rng_state()
    if not model.cannot_sample:
        draw(model, 5, 0)
    if isinstance(model, HasLikelihood):
        log_weights(model, data.test.x)
    assert torch.equal(before, torch.get_rng_state())


def check_reload(candidate: Candidate, space: str, folder: Path) -> None:
    """Reloaded weights give the same samples, and the same log-weights on another batch."""
    model, data = trained(candidate, space, folder, steps=3)
    reloaded = candidate.new(data, seed=1)
    load_weights(reloaded, folder / "final.ckpt")
    reloaded.eval()
    if not model.cannot_sample:
        assert torch.equal(draw(model, 5, 0), draw(reloaded, 5, 0))
    if isinstance(model, HasLikelihood):
        assert torch.equal(log_weights(model, data.test.x), log_weights(reloaded, data.test.x))


def check_relation(candidate: Candidate, space: str, folder: Path) -> None:
    """``log_weight`` is one finite number an example, deterministic exactly when the relation is ``exact``.

    Where the model has a posterior, the terms of its ELBO add up to the mean of ``log_weight``.
    """
    model, data = trained(candidate, space, folder)
    if not isinstance(model, HasLikelihood):
        return
    first, second = log_weights(model, data.test.x, 0), log_weights(model, data.test.x, 1)
    assert first.shape == (len(data.test),)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second) == (model.relation == "exact")
    if isinstance(model, HasPosterior):
        _check_terms(model, data.test.x)


def check_codes(candidate: Candidate, space: str, folder: Path) -> None:
    """Codes decode to data; those of a flow to the examples they are of."""
    model, data = trained(candidate, space, folder)
    if not isinstance(model, Autoencodes):
        return
    with torch.no_grad():
        codes = model.encode(data.test.x, generator=Generator().manual_seed(0))
        assert codes.shape[0] == len(data.test)
        if model.cannot_sample:
            _raises_not_implemented(lambda: model.decode(codes))
            return
        decoded = model.decode(codes)
    assert decoded.shape == data.test.x.shape
    assert decoded.dtype == model.data_dtype
    if isinstance(model, Flow):
        torch.testing.assert_close(decoded.float(), data.test.x.float(), atol=1e-3, rtol=1e-3)


def check_mass(candidate: Candidate, space: str, folder: Path) -> None:
    """The masses of all examples of an enumerable space sum to 1, or to less where the YAML says why.

    What they lack is the share of samples outside the data's range, where the model reports it.
    """
    model, _ = trained(candidate, space, folder, steps=40)
    if not isinstance(model, HasLikelihood):
        return
    every = every_example(space)
    for numbers in (40_000, 320_000) if kind_of(space) is Kind.GRAPHS else (320_000,):
        mass, stderr = discrete_mass(model, draws=min(20_000, numbers // len(every)), x=every)
        if stderr < 0.01:  # models of graphs take longer, and some of them need fewer
            break
    assert stderr < 0.02, "the estimate is too coarse to say anything"
    if candidate.declared.leaks:
        assert 0.8 < mass < 1 + 4 * stderr
    else:
        assert abs(mass - 1) <= 4 * stderr + 1e-5, f"the masses sum to {mass} +- {stderr}"
    if isinstance(model, Flow):
        assert model.clips_samples, "a flow on integers begins with a dequantization"
    if isinstance(model, ClipsSamples) and model.clips_samples and not model.cannot_sample:
        share, error = share_outside(model, draws=20_000)
        total = f"the masses sum to {mass} +- {stderr} and {share} +- {error} of the samples lie outside"
        assert abs(mass + share - 1) <= 4 * math.hypot(stderr, error) + 1e-5, total


def check_density(candidate: Candidate, space: str, folder: Path) -> None:
    """An exact density integrates to 1. Stochastic likelihoods of real data are held to it in their own tests."""
    model, data = trained(candidate, space, folder, steps=40)
    if not isinstance(model, HasLikelihood) or model.relation != "exact":
        return
    integral = quadrature(model.double().eval(), half_width=10, points=4000 if data.spec.dim == 1 else 400)
    assert abs(integral - 1) <= 2e-3, f"the density integrates to {integral}"


def check_covered(models: Iterable[GenerativeModel]) -> None:
    """Silence is not success: among these models each capability and each relation is met."""
    made = list(models)
    for capability in CAPABILITIES:
        assert any(isinstance(model, capability) for model in made), f"no model is tested as {capability.__name__}"
    relations = {model.relation for model in made if isinstance(model, HasLikelihood)}
    assert {"exact", "lower_bound"} <= relations


def _check_terms(model: GenerativeModel, x: Tensor) -> None:
    """The terms of the ELBO are finite numbers of each example, and their difference has the mean of log w."""
    assert isinstance(model, HasPosterior)
    x = x.repeat(64, *[1] * len(model.shape))
    before = torch.get_rng_state()
    with torch.no_grad():
        terms = model.elbo_terms(x, generator=Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert terms.reconstruction.shape == terms.kl.shape == (len(x),)
    assert terms.code.shape == (len(x), terms.code.shape[1])
    assert all(torch.isfinite(term).all() for term in terms)
    difference = (terms.reconstruction - terms.kl - log_weights(model, x, seed=1)).double()
    stderr = float(difference.std()) / math.sqrt(len(x))
    assert abs(float(difference.mean())) <= 5 * stderr, f"the terms miss log w by {difference.mean()} +- {stderr}"


def _raises_not_implemented(call: Any) -> None:
    try:
        call()
    except NotImplementedError:
        return
    raise AssertionError("a model that says it cannot sample raises NotImplementedError")
