"""Classification performance: how well a classifier does on real examples that has only ever seen samples.

A class-conditional model makes one sample for the label of each of n training examples. A small classifier is trained
on these labelled samples and tested on the real test split (Ravuri, Vinyals 2019, "Classification accuracy score for
conditional generative models", arXiv 1905.10887). Beside it stands the same classifier, trained in the same way on the
n training examples themselves: what the samples are compared with. Samples of the wrong class, missing variety within
a class and unnatural samples all lower the score; copies of the training set do not.

Pictures of at least 8 x 8 pixels are classified by a convolutional network, other data by one hidden layer, in steps of
64 examples each, without augmentation. The error is binomial, of the test examples alone: another set of samples and
other initial weights are part of the spread over seeds.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.errors import BrokenError, UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, proportion_error, wilson_interval
from bench.schema import DataSpec, Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["ClassificationAccuracy", "right_answers"]

BATCH = 64
LEARNING_RATE = 4e-3
HIDDEN = 128
SMALLEST = 8
"""Pixels of a side that the convolutional network needs."""


def right_answers(
    x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, spec: DataSpec, steps: int, seed: int
) -> Tensor:
    """Whether a classifier trained on ``(N, *shape)`` with labels ``(N,)`` knows each test example, ``(M,)`` bool.

    Arguments:
        steps: Of training.
        seed: Of initial weights, dropout and batches.
    """
    order = Generator().manual_seed(derive_seed(seed, "order"))
    # Initial weights and dropout draw from the global generator. Its state is restored after training.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "weights"))
        network = _network(spec, x).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(x), (min(BATCH, len(x)),), generator=order)
            loss = functional.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in test_x.split(1000)]) == test_y


def _network(spec: DataSpec, x: Tensor) -> nn.Module:
    """A network from examples in the data's own space to logits."""
    assert spec.classes is not None
    if spec.is_image and spec.levels is not None and min(spec.shape[1:]) >= SMALLEST:
        return nn.Sequential(
            _Scaled(spec.levels), *_block(spec.shape[0], 16), *_block(16, 32), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(32 * 16, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, spec.classes),
        )  # fmt: skip
    flat = x.flatten(1).float()
    return nn.Sequential(
        _Standard(flat.mean(0), flat.std(0).clamp_min(1e-6)), nn.Linear(spec.dim, HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, spec.classes),
    )  # fmt: skip


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)  # the normalization adds a bias
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


class _Scaled(nn.Module):
    """Levels 0 .. L-1 on [-1, 1]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.float() / (self.levels - 1) - 1


class _Standard(nn.Module):
    """Examples as vectors of mean 0 and standard deviation 1, as they are in training."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1).float() - self.mean) / self.scale).clamp(-30, 30)


class ClassificationAccuracy(Metric):
    """Computes ``classification_accuracy``, trained on samples, and ``classification_accuracy_real``.

    Models that are not class-conditional are skipped, and so are data without labels.

    Arguments:
        n_samples: Number of samples and of training examples; all training examples where there are fewer.
        steps: Of the classifier's training.
    """

    def __init__(self, n_samples: int, steps: int = 400) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        self.n_samples = n_samples
        self.steps = steps

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (
            MetricInfo("classification_accuracy", "", True, self.version, "accuracy from samples", rank=44),
            MetricInfo("classification_accuracy_real", "", None, self.version, "accuracy from real", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        train, test, spec = examples.data.train, examples.data.test, examples.spec
        if spec.classes is None or train.y is None or test.y is None or not len(train) or not len(test):
            raise UnavailableError(f"{spec.name} has no labelled examples")
        # The same training examples for all subjects.
        generator = Generator().manual_seed(derive_seed(0, "classification", "examples"))
        chosen = torch.randperm(len(train), generator=generator)[: self.n_samples]
        y = train.y[chosen]
        samples = examples.subject.class_samples(y, examples.report)
        if samples.is_floating_point() and not bool(torch.isfinite(samples).all()):
            raise BrokenError("samples contain NaN or infinity")
        estimates = []
        for info, x in zip(self.infos(examples), (samples, train.x[chosen]), strict=True):
            seed = derive_seed(examples.seed, "classification")
            right = right_answers(x, y, test.x, test.y, spec, self.steps, seed)
            p, n = right.double().mean().item(), len(right)
            low, high = wilson_interval(p, n)
            fake = len(y) if x is samples else None
            estimates.append(
                measured(info, p, test=proportion_error(p, n), ci_low=low, ci_high=high, n_real=n, n_fake=fake)
            )
        return estimates
