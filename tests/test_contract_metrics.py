"""What every metric and every extractor promises, for all YAMLs of conf/metric and conf/features.

Equal sets give the ideal value that the metric's YAML declares (``# ideal: 0``, or ``# ideal: precision=1 recall=1``
for some of its numbers; ``# ideal: 0 of independent sets`` of one that is unbiased, and below 0 where both sets are
one), corrupted samples a worse one where it has a direction. The order of examples and the size of batches move no
value beyond its error, and neither inputs nor global generators are touched.
"""

import importlib
import pkgutil
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_metrics import FakeRecipe, FakeSubject
from helpers_models import OURS, configuration, names, small_data
from helpers_quarters import OF_MODELS, N, Quarters, data, draw
from torch import Generator, Tensor

import bench.metrics
from bench.config.build import build_metrics
from bench.config.catalogue import Catalogue
from bench.data.base import Data, Split
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features.base import Classifier
from bench.metrics.base import Metric
from bench.metrics.bins import NDB
from bench.metrics.critic_distance import NeuralNetDistance
from bench.metrics.frechet import FID, FIDInfinity
from bench.metrics.kernel_distance import KID, MMD
from bench.metrics.low_level import LowLevel
from bench.metrics.sliced import MIND
from bench.metrics.two_sample_test import C2ST
from bench.schema import Estimate, Status
from bench.subjects.examples import Examples

FEW = 60
IN_BLOCKS = {"BLOCK": 37, "PIECE": 4000, "PAIRS": 3000}  # constants of metrics that bound their memory


def washed_out(x: Tensor) -> Tensor:
    """Samples that are mostly their mean: every metric of quality with a direction should see it."""
    mean = x.float().mean(dim=0)
    return (mean + 0.3 * (x.float() - mean)).round().to(torch.uint8)


LOG_WEIGHTS = -40 + 3 * torch.randn(1, N, generator=Generator().manual_seed(9), dtype=torch.float64)


def measured(
    metric: Metric, samples: Tensor, of: Data | None = None, log_weights: Tensor = LOG_WEIGHTS
) -> list[Estimate]:
    subject = FakeSubject({"samples": samples, "log_weights": log_weights, "costs": {"parameters": 3.0}})
    return evaluate(Examples(subject, data() if of is None else of, seed=0), {"it": metric})["it"]


@pytest.fixture(params=sorted(set(names("metric")) - OF_MODELS))
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Metric]:
    """A metric's name and the metric, with features that cost nothing."""
    monkeypatch.setattr("bench.metrics.two_sample_test.STEPS", 50)
    name: str = request.param
    config = configuration("gaussian", f"metric=[{name}]", f"evaluate.n_samples={N}")
    metric: Any = build_metrics(config["metric"])[name]
    if hasattr(metric, "recipe"):
        metric.recipe = FakeRecipe(Quarters())
    return name, metric


def values(estimates: list[Estimate]) -> dict[str, Estimate]:
    found = {one.info.name: one for one in estimates}
    assert not [one for one in estimates if one.status is Status.FAILED], estimates
    assert any(one.status is Status.OK for one in estimates), estimates
    return {name: one for name, one in found.items() if one.status is Status.OK}


def ideals(name: str) -> tuple[dict[str, float], bool]:
    """The ideal values that a YAML declares, by the beginning of a number's name; ``""`` for all of them. And whether
    they are those of two sets of one distribution, instead of those of one set twice."""
    text = (OURS / "metric" / f"{name}.yaml").read_text()
    note = re.search(r"^# ideal: (.*?)( of independent sets)?$", text, re.MULTILINE)
    pairs = [one.rpartition("=") for one in note[1].split()] if note else []
    return {number: float(value) for number, _, value in pairs}, note is not None and note[2] is not None


def test_equal_sets_give_the_ideal_value(named: tuple[str, Metric]) -> None:
    name, metric = named
    declared, independent = ideals(name)
    if not declared:
        pytest.skip("declares no ideal")
    found = values(measured(metric, draw(N, 4)[0] if independent else data().test.x.clone()))
    assert all(any(one.split("[")[0] == number or not number for one in found) for number in declared)
    for number, one in found.items():
        ideal = declared.get(number.split("[")[0], declared.get(""))
        if ideal is not None:
            assert one.value is not None
            assert abs(one.value - ideal) <= 1e-8 + 3 * (one.stderr or 0.0), f"{number} is {one.value} ± {one.stderr}"


def test_every_metric_of_two_sets_declares_an_ideal() -> None:
    """Those that call themselves a distance; a metric without an ideal has nothing to be compared with."""
    assert {"fid", "kid", "mind", "c2st", "manifold", "fid_infinity"} <= {
        name for name in names("metric") if ideals(name)[0]
    }


def test_corruption_is_worse_in_the_declared_direction(named: tuple[str, Metric]) -> None:
    _, metric = named
    good = values(measured(metric, draw(N, 4)[0]))
    bad = values(measured(metric, washed_out(draw(N, 4)[0]), log_weights=LOG_WEIGHTS - 1))
    for number, one in good.items():
        if one.info.higher_is_better is None or 200 <= one.info.rank < 300:  # costs
            continue
        assert one.value is not None
        assert bad[number].value is not None
        gain = bad[number].value - one.value if one.info.higher_is_better else one.value - bad[number].value
        assert gain < 0, f"{number}: {one.value} of good samples, {bad[number].value} of bad ones"


def test_order_moves_no_value_beyond_its_error(named: tuple[str, Metric]) -> None:
    _, metric = named
    samples, of = draw(N, 4)[0], data()
    first, second = torch.randperm(N, generator=Generator().manual_seed(5)), torch.arange(N).flip(0)
    assert of.train.y is not None
    assert of.test.y is not None
    train, test = Split(of.train.x[second], of.train.y[second]), Split(of.test.x[second], of.test.y[second])
    turned = Data(of.spec, train, of.val, test, modes=of.modes, log_density=of.log_density, valid=of.valid)
    before = values(measured(metric, samples))
    after = values(measured(metric, samples[first], turned, LOG_WEIGHTS[:, second]))
    assert list(before) == list(after)
    for number, one in before.items():
        assert after[number].value == pytest.approx(one.value, rel=1e-9, abs=3 * (one.stderr or 0.0) + 1e-9), number


@pytest.mark.parametrize("kind", [C2ST, FID, FIDInfinity, KID, LowLevel, MIND, MMD, NDB, NeuralNetDistance])
def test_the_side_with_fewer_examples_has_the_larger_part_of_the_error(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds share the part of the test examples, so a table that is told the wrong one is too sure or too unsure."""
    for module in ("critic_distance", "two_sample_test"):
        monkeypatch.setattr(f"bench.metrics.{module}.STEPS", 30)
    metric = kind(N) if kind is LowLevel else kind(FakeRecipe(Quarters()), N)
    of = data()
    few = replace(of, test=Split(of.test.x[:FEW]))
    of_few_samples = both_parts(measured(metric, draw(N, 4)[0][:FEW], of))
    of_few_examples = both_parts(measured(metric, draw(N, 4)[0], few))
    assert of_few_samples
    assert of_few_samples.keys() == of_few_examples.keys()
    for number, (test, draws) in of_few_samples.items():
        assert test < draws, number
        assert of_few_examples[number][0] > of_few_examples[number][1], number


def both_parts(estimates: list[Estimate]) -> dict[str, tuple[float, float]]:
    """The parts of each error that has two."""
    return {one.info.name: (one.stderr_test, one.stderr_draws) for one in estimates
            if one.stderr_test and one.stderr_draws}  # fmt: skip


def test_blocks_move_no_value(named: tuple[str, Metric], monkeypatch: pytest.MonkeyPatch) -> None:
    _, metric = named
    before = values(measured(metric, draw(N, 4)[0]))
    for module in pkgutil.iter_modules(bench.metrics.__path__):
        for constant, small in IN_BLOCKS.items():
            inside = importlib.import_module(f"bench.metrics.{module.name}")
            if hasattr(inside, constant):
                monkeypatch.setattr(inside, constant, small)
    after = values(measured(metric, draw(N, 4)[0]))
    for number, one in before.items():
        assert after[number].value == pytest.approx(one.value, rel=1e-9, abs=1e-12), number


def generators() -> tuple[Any, ...]:
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), torch.get_rng_state().tolist(), keys.tolist(), position  # type: ignore[union-attr]


def test_inputs_and_global_generators_are_untouched(named: tuple[str, Metric]) -> None:
    _, metric = named
    samples, of, log_weights = draw(N, 4)[0], data(), LOG_WEIGHTS.clone()
    inputs = [samples, of.train.x, of.val.x, of.test.x, log_weights]
    copies, state = [x.clone() for x in inputs], generators()
    subject = FakeSubject({"samples": samples, "log_weights": log_weights, "costs": {"parameters": 3.0}})
    examples = Examples(subject, of, seed=0)
    values(evaluate(examples, {"it": metric})["it"])
    assert generators() == state
    assert all(torch.equal(*pair) for pair in zip(inputs, copies, strict=True))
    # Features are shared by all metrics of a subject.
    assert all(torch.equal(kept, Quarters().features(x)) for _, x, kept in examples._features.values())
    assert all(torch.equal(kept, Quarters().probabilities(x)) for _, x, kept in examples._probabilities.values())


@pytest.mark.parametrize("name", names("features"))
def test_features_depend_on_each_example_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.features.classifier.MIN_EXAMPLES", 500)  # a poor one keeps these promises, too
    monkeypatch.setattr("bench.features.classifier.MIN_EPOCHS", 1)
    node = Catalogue.of().stored("features", name)
    assert node is not None
    if "???" in node.values():
        pytest.skip("is completed by the user")
    config = configuration("gaussian", "metric=[fid]", f"metric.fid.features={name}")
    recipe = build_metrics(config["metric"])["fid"].recipe  # type: ignore[attr-defined]
    of = small_data((1, 8, 8), 256, n=200, held_out=40)
    if recipe.lacks(of):
        pytest.skip(recipe.lacks(of))
    try:
        extractor = recipe.extractor(of)
    except UserError as error:
        pytest.skip(f"its weights cannot be had here: {error}")
    x = of.test.x[:30]
    before, state = x.clone(), generators()
    whole = extractor.features(x)
    parts = torch.cat([extractor.features(part) for part in x.split(7)])
    assert whole.shape[0] == 30
    assert whole.ndim == 2
    assert bool(torch.isfinite(whole.float()).all())
    assert torch.allclose(whole.double(), parts.double(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(whole.flip(0).double(), extractor.features(x.flip(0)).double(), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert generators() == state
    assert recipe.extractor(of).hash == extractor.hash
    if isinstance(extractor, Classifier):
        p = extractor.probabilities(x)
        assert torch.allclose(p.sum(dim=1), torch.ones(30), atol=1e-5)
        assert torch.equal(p.argmax(dim=1), extractor.classes(x))
