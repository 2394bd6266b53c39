"""Classification by likelihood: against Bayes' rule on classes whose densities are known, and model by model."""

import math

import pytest
import torch
from helpers_metrics import ORIGIN, examples, spec
from helpers_models import new_model, small_data
from torch import Generator, Tensor
from torch.distributions import Normal

from bench.checkpoint import Progress
from bench.errors import BrokenError, UnavailableError
from bench.metrics.class_likelihood import ClassLikelihood, most_probable
from bench.schema import DataSpec, Relation
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from models.base import ClassConditional, HasLikelihood


def two_normals(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels and draws of N(-1, 1) with probability 0.3 and N(1, 1) with 0.7; log p(x, y) of both, (1, N, 2)."""
    g = Generator().manual_seed(0)
    y = (torch.rand(n, generator=g) < 0.7).long()
    x = 2.0 * y - 1 + torch.randn(n, generator=g, dtype=torch.float64)
    joint = torch.stack(
        [Normal(-1.0, 1.0).log_prob(x) + math.log(0.3), Normal(1.0, 1.0).log_prob(x) + math.log(0.7)], 1
    )
    return y, x, joint[None]


def test_the_rule_is_bayes_and_its_accuracy_that_of_the_closed_form() -> None:
    y, x, joint = two_normals(20_000)
    boundary = math.log(0.3 / 0.7) / 2  # log p(x, 1) - log p(x, 0) = 2 x - log(0.3 / 0.7)
    assert torch.equal(most_probable(joint, Relation.EXACT), (x > boundary).long())
    given = examples(spec(1), real=x[:, None], labels=y, class_log_weights=joint)
    (accuracy,) = ClassLikelihood(4).compute(given)
    normal = Normal(0.0, 1.0)
    below = 0.3 * float(normal.cdf(torch.tensor(boundary + 1)))
    bayes = below + 0.7 * (1 - float(normal.cdf(torch.tensor(boundary - 1))))
    assert accuracy.value is not None
    assert accuracy.stderr == pytest.approx(math.sqrt(accuracy.value * (1 - accuracy.value) / 20_000))
    assert abs(accuracy.value - bayes) < 3 * accuracy.stderr
    assert (accuracy.n_real, accuracy.n_draws) == (20_000, 1)
    assert accuracy.ci_low is not None
    assert accuracy.ci_high is not None
    assert accuracy.ci_low < accuracy.value < accuracy.ci_high


def test_draws_are_averaged_as_weights_for_bounds_and_as_logarithms_for_estimates() -> None:
    draws = torch.tensor([[[0.0, -1.0]], [[-9.0, -1.2]]])  # one example, two classes
    assert most_probable(draws, Relation.LOWER_BOUND).tolist() == [0]
    assert most_probable(draws, Relation.ESTIMATE).tolist() == [1]


def test_a_class_may_be_impossible_and_an_example_may_not() -> None:
    joint = torch.tensor([[[0.0, -math.inf], [-math.inf, -3.0]]])
    assert most_probable(joint, Relation.EXACT).tolist() == [0, 1]
    for bad in (-math.inf, math.nan):
        with pytest.raises(BrokenError, match="not finite for 1 of 2"):
            most_probable(torch.tensor([[[bad, bad], [0.0, 1.0]]]), Relation.EXACT)


@pytest.mark.parametrize("name", ["gated_pixelcnn_conditional", "realnvp_conditional"])
def test_every_class_of_a_model_is_asked(name: str) -> None:
    data = small_data((1, 8, 8), 256, n=64, held_out=12)
    model = new_model(name, data.spec)
    assert isinstance(model, ClassConditional)
    assert isinstance(model, HasLikelihood)
    torch.nn.init.normal_(model.class_logits, generator=Generator().manual_seed(1))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1, generator=Generator().manual_seed(parameter.numel()))
    subject = TrainedModel(model, Progress(), 0, ORIGIN)
    log_w = subject.class_log_weights(data.test.x, 3)
    assert log_w.shape == (1 if model.relation == "exact" else 3, 12, model.classes)
    assert torch.equal(log_w, subject.class_log_weights(data.test.x, 3)), "the same draws again"
    if model.relation == "exact":
        together = subject.log_weights(data.test.x, 3)
        assert torch.allclose(log_w.logsumexp(2), together, rtol=1e-6)
    for seen in range(12):  # one example at a time, as its likelihood says
        alone = subject.class_log_weights(data.test.x[seen : seen + 1], 3)
        if model.relation == "exact":
            assert torch.allclose(alone[:, 0], log_w[:, seen], rtol=1e-5)
    (accuracy,) = ClassLikelihood(3).compute(Examples(subject, data, seed=0))
    assert data.test.y is not None
    right = most_probable(log_w, Relation(model.relation)) == data.test.y
    assert accuracy.value == pytest.approx(float(right.double().mean()))


def test_what_has_no_likelihood_of_a_class_is_skipped() -> None:
    data = small_data((1, 8, 8), 256)
    for name in ("realnvp_small", "dcgan_conditional", "vae"):
        model = new_model(name, data.spec)
        for subject in (TrainedModel(model, Progress(), 0, ORIGIN), FailedModel(model, "diverged", ORIGIN)):
            with pytest.raises(UnavailableError, match="no likelihood given a class"):
                ClassLikelihood(2).compute(Examples(subject, data, seed=0))
    failed = FailedModel(new_model("realnvp_conditional", data.spec), "diverged", ORIGIN)
    with pytest.raises(BrokenError, match="diverged"):
        ClassLikelihood(2).compute(Examples(failed, data, seed=0))
    with pytest.raises(UnavailableError, match="no labels"):
        ClassLikelihood(2).compute(examples(DataSpec("t", "0", (2,), None, 1, 1, 1), real=torch.zeros(3, 2)))
