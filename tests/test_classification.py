"""Classification performance: samples of the right class teach as much as real ones, of the wrong class nothing."""

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.classification import ClassificationAccuracy, right_answers
from bench.schema import DataSpec, Estimate, Status
from bench.subjects.base import Report, Subject, silent
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from models.base import SamplesClasses

SPEC = DataSpec("blobs", "0", (2,), None, 400, 50, 300, 3)
CENTRES = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])


def blobs(y: Tensor, seed: int) -> Tensor:
    return CENTRES[y] + torch.randn(len(y), 2, generator=Generator().manual_seed(seed))


def split(n: int, seed: int) -> Split:
    y = torch.arange(n) % 3
    return Split(blobs(y, seed), y)


DATA = Data(SPEC, split(400, 1), split(50, 2), split(300, 3))


class Sampler(Subject):
    """Samples whose class is the one asked for with a chance, and otherwise the next."""

    def __init__(self, right: float) -> None:
        self.origin, self.right = ORIGIN, right

    def class_samples(self, y: Tensor, report: Report = silent) -> Tensor:
        generator = Generator().manual_seed(4)
        wrong = torch.rand(len(y), generator=generator) >= self.right
        return blobs((y + wrong) % 3, 5)


def scores(subject: Subject, data: Data = DATA) -> list[Estimate]:
    return evaluate(Examples(subject, data, seed=0), {"it": ClassificationAccuracy(300, steps=150)})["it"]


def test_samples_teach_as_much_as_their_classes_are_right() -> None:
    before = torch.get_rng_state()
    perfect, real = scores(Sampler(1.0))
    best = 0.95  # of the Bayes classifier, about
    assert (real.value or 0) > best
    assert perfect.value == pytest.approx(real.value, abs=0.03)
    wrong = scores(Sampler(0.0))[0].value
    assert wrong is not None
    assert wrong < 0.05, "every label is wrong"
    assert torch.equal(before, torch.get_rng_state())
    assert (perfect.n_real, perfect.n_fake, real.n_fake) == (300, 300, None)
    assert perfect.ci_high is not None
    assert perfect.ci_high <= 1


def test_pictures_are_classified_too() -> None:
    spec = DataSpec("bars", "0", (1, 8, 8), 256, 64, 10, 64, 2)
    y = torch.arange(64) % 2
    x = torch.randint(0, 60, (64, 1, 8, 8), generator=Generator().manual_seed(0))
    x[y == 0, :, 3] += 150
    x[y == 1, :, :, 3] += 150
    x = x.to(torch.uint8)
    assert float(right_answers(x[:32], y[:32], x[32:], y[32:], spec, 60, 0).double().mean()) > 0.9


def test_what_has_no_classes_is_skipped() -> None:
    unconditional = TrainedModel(new_model("linear", SPEC), None, 0, ORIGIN)
    for subject, data, reason in (
        (unconditional, DATA, "not class-conditional"),
        (Sampler(1.0), Data(SPEC, Split(DATA.train.x), DATA.val, DATA.test), "no labelled examples"),
    ):
        made = scores(subject, data)
        assert {one.status for one in made} == {Status.SKIPPED}
        assert reason in made[0].reason


def test_autoregressive_models_sample_chosen_classes() -> None:
    """The network is told the classes that are asked for, chunk after chunk."""
    model = new_model("gated_pixelcnn_conditional", DataSpec("toy", "0", (1, 4, 4), 2, 10, 10, 10, 10))
    assert isinstance(model, SamplesClasses)
    y = torch.arange(300) % 10
    subject = TrainedModel(model, None, 0, ORIGIN)
    made = subject.class_samples(y)
    assert made.shape == (300, 1, 4, 4)
    assert torch.equal(made, subject.class_samples(y))
    seen: list[Tensor] = []
    model._context = lambda labels: seen.append(labels) or type(model)._context(model, labels)  # type: ignore[method-assign, func-returns-value, attr-defined]
    subject.class_samples(y)
    assert torch.equal(torch.cat(seen), y)


def test_an_answer_depends_on_its_example_alone_and_no_chance() -> None:
    """Dropout and batch normalization are those of a network that is asked, not trained."""
    spec = DataSpec("bars", "0", (1, 8, 8), 256, 64, 10, 64, 2)
    generator = Generator().manual_seed(0)
    x, y = torch.randint(0, 256, (60, 1, 8, 8), generator=generator).to(torch.uint8), torch.arange(60) % 2
    before = torch.get_rng_state()
    whole = right_answers(x[:30], y[:30], x[30:], y[30:], spec, 20, 0)
    few = right_answers(x[:30], y[:30], x[30:34], y[30:34], spec, 20, 0)
    assert torch.equal(few, whole[:4])
    assert torch.equal(before, torch.get_rng_state())
