"""Inception Score: known values, the delta-method error against simulation; the extractor's accuracy row."""

import math
from statistics import NormalDist

import pytest
import torch
from helpers_metrics import ALL, FakeClassifier, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.errors import BrokenError
from bench.evaluation.evaluate import evaluate
from bench.metrics.extractor import ExtractorAccuracy
from bench.metrics.inception_score import (
    InceptionScore,
    ModifiedInceptionScore,
    inception_score,
    modified_inception_score,
)
from bench.metrics.intervals import wilson_interval
from bench.schema import Status


def random_probabilities(n: int, seed: int) -> Tensor:
    logits = 2 * torch.randn(n, 5, generator=Generator().manual_seed(seed)) + torch.arange(5) / 4
    return logits.softmax(dim=1)


def test_perfect_classifier_on_balanced_classes_gives_their_number() -> None:
    score, stderr = inception_score(torch.eye(10).repeat(500, 1))
    assert score == pytest.approx(10, abs=1e-12)
    assert stderr == pytest.approx(0, abs=1e-12)


def test_undecided_classifier_and_one_class_give_one() -> None:
    assert inception_score(torch.full((50, 10), 0.1))[0] == pytest.approx(1, abs=1e-12)
    assert inception_score(torch.eye(10)[:1].repeat(50, 1))[0] == pytest.approx(1, abs=1e-12)


def test_score_is_the_exponential_of_the_mutual_information() -> None:
    p = random_probabilities(300, 0).double()
    p = p / p.sum(dim=1, keepdim=True)
    marginal = p.mean(dim=0)
    entropy = -(marginal * marginal.log()).sum() + (p * p.log()).sum(dim=1).mean()
    assert inception_score(p)[0] == pytest.approx(math.exp(entropy.item()), rel=1e-12)


def test_standard_error_against_simulation() -> None:
    scores, errors = zip(*(inception_score(random_probabilities(400, seed)) for seed in range(300)), strict=True)
    assert torch.tensor(errors).mean().item() == pytest.approx(torch.tensor(scores).std().item(), rel=0.12)


def test_metric_names_its_extractor_and_keeps_inputs() -> None:
    samples = torch.randn(100, 10, generator=Generator().manual_seed(0))
    before = samples.clone()
    context = examples(spec(10), samples=samples)
    (estimate,) = InceptionScore(FakeRecipe(), ALL).compute(context)
    assert (estimate.info.name, estimate.extractor_hash, estimate.n_fake) == ("is[toy-cnn]", "abc", 100)
    assert (estimate.value, estimate.stderr) == inception_score(samples.softmax(dim=1))
    assert estimate.stderr is not None
    reach = NormalDist().inv_cdf(0.975) * estimate.stderr
    assert estimate.ci_low == pytest.approx(estimate.value - reach, rel=1e-6)
    assert estimate.ci_high == pytest.approx(estimate.value + reach, rel=1e-6)
    assert torch.equal(samples, before)


@pytest.mark.parametrize("samples", [torch.zeros(1, 10), torch.full((5, 10), math.nan)])
def test_one_sample_or_nan_fails_with_a_reason(samples: Tensor) -> None:
    (estimate,) = evaluate(examples(spec(10), samples=samples), {"is": InceptionScore(FakeRecipe(), ALL)})["is"]
    assert estimate.status is Status.FAILED
    assert estimate.reason


def test_accuracy_row_and_wilson_interval() -> None:
    (estimate,) = ExtractorAccuracy(FakeRecipe(FakeClassifier(accuracy=0.9, n_test=50))).compute(examples(spec(2)))
    assert (estimate.info.name, estimate.info.higher_is_better) == ("accuracy[toy-cnn]", None)
    assert (estimate.value, estimate.n_real) == (0.9, 50)
    assert estimate.stderr == pytest.approx(math.sqrt(0.9 * 0.1 / 50))
    # The interval's ends are the p0 whose score test rejects exactly: |p - p0| = z sqrt(p0 (1 - p0) / n).
    for p, n in ((0.9, 50), (1.0, 500), (0.0, 20)):
        for end in wilson_interval(p, n):
            assert abs(p - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-12)


def modified_by_definition(p: Tensor) -> float:
    scores = []
    for c in range(p.shape[1]):
        rows = p[p.argmax(dim=1) == c]
        pairs = [(a * (a / b).log()).sum().item() for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        if pairs:
            scores.append(math.exp(sum(pairs) / len(pairs)))
    return sum(scores) / len(scores)


def test_the_modified_score_is_the_mean_over_classes_and_pairs() -> None:
    p = random_probabilities(60, 0).double()
    assert modified_inception_score(p)[0] == pytest.approx(modified_by_definition(p / p.sum(dim=1, keepdim=True)))
    sure = torch.eye(10).repeat(5, 1)
    assert modified_inception_score(sure) == (1.0, 0.0), "samples of a class that are all alike"


def test_the_modified_scores_standard_error_against_simulation() -> None:
    made = [modified_inception_score(random_probabilities(400, seed)) for seed in range(200)]
    scores, errors = zip(*made, strict=True)
    assert torch.tensor(errors).mean().item() == pytest.approx(torch.tensor(scores).std().item(), rel=0.15)


def test_the_modified_scores_error_is_the_jackknife_over_all_samples() -> None:
    """Of classes of 1, 2 and more samples, by leaving each sample out."""
    p = random_probabilities(12, 1)
    classes = p.argmax(1).bincount().tolist()
    assert 1 in classes
    assert 2 in classes
    _, error = modified_inception_score(p)
    left = torch.tensor([modified_by_definition(torch.cat([p[:i], p[i + 1 :]]).double()) for i in range(12)])
    assert error == pytest.approx(math.sqrt(11 * float(left.var(correction=0))), rel=1e-4)


def test_the_modified_scores_error_is_not_lost_in_a_class_of_few_samples() -> None:
    """A classifier that reads nearly all samples as one class; the others count as much, with a few samples each."""
    made = []
    for seed in range(200):
        logits = 2 * torch.randn(200, 10, generator=Generator().manual_seed(seed))
        logits[:, 0] += 8
        made.append(modified_inception_score(logits.softmax(1)))
    scores, errors = torch.tensor(made, dtype=torch.float64).T
    assert float(errors.mean() / scores.std()) > 0.5, "the delta method's is a tenth"


@pytest.mark.parametrize(
    ("p", "reason"),
    [(torch.eye(3), "no class has two samples"), (torch.tensor([[0.9, 0.1], [1.0, 0.0]]), "probability of 0")],
)
def test_a_modified_score_that_is_not_defined_has_a_reason(p: Tensor, reason: str) -> None:
    with pytest.raises(BrokenError, match=reason):
        modified_inception_score(p)


def test_the_modified_score_is_a_row_beside_the_score() -> None:
    samples = torch.randn(100, 10, generator=Generator().manual_seed(0))
    (estimate,) = ModifiedInceptionScore(FakeRecipe(), ALL).compute(examples(spec(10), samples=samples))
    assert (estimate.info.name, estimate.n_fake) == ("modified_is[toy-cnn]", 100)
    assert (estimate.value, estimate.stderr) == modified_inception_score(samples.softmax(dim=1))
