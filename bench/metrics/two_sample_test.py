r"""Classifier two-sample test: how often a classifier tells samples from real examples that it was not trained on.

Half of either set trains a logistic regression and a two-layer network on standardized features to tell the two sets
apart; a fifth of that half chooses between them; the other half of either set tests the choice. The share of right
answers, averaged over real examples and samples, whose numbers may differ, is unbiased for the chosen classifier: 1/2
where it finds no difference, 1 where it is always right (Lopez-Paz, Oquab 2017, "Revisiting classifier two-sample
tests", arXiv 1610.06545). It is a lower bound of what the best classifier could do,

.. math:: \sup_f \text{accuracy}(f) = \tfrac12 + \tfrac12 \mathrm{TV}(p, q),

the total variation between the distributions of features. There is no cross-validation: its folds share their training
examples, and its binomial error would be too small by almost half (measured: 0.016 where the spread is 0.028).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import combined_interval, measured, proportion_error, wilson_interval
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["C2ST", "held_out_answers"]

LEAST = 40
CHOICE = 0.2  # of the training half chooses the classifier
HIDDEN = 64
STEPS = 300
BATCH = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2


class C2ST(Metric):
    """Computes ``c2st[<features>]``, the held-out accuracy; lower is better, and 1/2 cannot be told from real.

    Below 1/2 there is only noise, so the value is at least 1/2. Error and interval are those of the mean of two
    independent proportions (Agresti and Coull's errors, Wilson's intervals combined), so they are not 0 where every
    answer is right. They are about the accuracy of the one classifier that was trained: another training half would
    give another, which is part of the spread over seeds and not of this error.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"c2st[{name}]", "", False, self.version, f"C2ST[{name}]", rank=45),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples, least=LEAST)
        generator = Generator().manual_seed(derive_seed(examples.seed, "c2st"))
        on_real, on_fake = held_out_answers(sets.real, sets.fake, generator)
        p, q = on_real.double().mean().item(), on_fake.double().mean().item()
        n, m = len(on_real), len(on_fake)
        low, high = combined_interval((0.5, 0.5), (p, q), (wilson_interval(p, n), wilson_interval(q, m)))
        return [
            measured(
                info, max(0.5, (p + q) / 2), test=proportion_error(p, n) / 2, draws=proportion_error(q, m) / 2,
                ci_low=max(0.5, low), ci_high=max(0.5, high), **sets.about,
            )
        ]  # fmt: skip


def held_out_answers(real: Tensor, fake: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Whether each held-out real example and each held-out fake one was recognized, ``(N/2,)`` and ``(M/2,)`` bool.

    Arguments:
        real, fake: Features ``(N, D)`` and ``(M, D)``, at least 40 of each.
        generator: Of the halves, initial weights and batches.
    """
    parts = [_parts(x, generator) for x in (real, fake)]
    logit = _chosen(parts[0], parts[1], generator)
    return logit(parts[0][2]) <= 0, logit(parts[1][2]) > 0


def _chosen(real: Sequence[Tensor], fake: Sequence[Tensor], generator: Generator) -> Callable[[Tensor], Tensor]:
    """The classifier, ``(N, D)`` features to ``(N,)`` logits of being fake, from parts to train and parts to choose."""
    (train, y_train), (choice, y_choice) = (_labelled(real[i], fake[i]) for i in (0, 1))
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-12)

    def standard(x: Tensor) -> Tensor:
        return ((x - mean) / scale).clamp(-30, 30).float()

    networks = [_trained(standard(train), y_train, hidden, generator) for hidden in (0, HIDDEN)]
    with torch.no_grad():
        best = min(networks, key=lambda network: float(_loss(network(standard(choice)), y_choice)))

    @torch.no_grad()
    def logit(x: Tensor) -> Tensor:
        answer: Tensor = best(standard(x))
        return answer

    return logit


def _parts(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random disjoint parts in float64: to train, to choose, to test."""
    half = len(x) // 2
    first = half - int(CHOICE * half)
    train, choice, test = torch.randperm(len(x), generator=generator).tensor_split([first, half])
    return x[train].double(), x[choice].double(), x[test].double()


def _labelled(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([real, fake]), torch.cat([torch.zeros(len(real)), torch.ones(len(fake))])


class _Network(nn.Module):
    """Features to a logit, through one hidden layer or none, with weights from a generator."""

    def __init__(self, dim: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        sizes = [dim, 1] if hidden == 0 else [dim, hidden, 1]
        self.weights = nn.ParameterList(
            torch.randn(b, a, generator=generator) / math.sqrt(a) for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(b) for b in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = functional.relu(functional.linear(x, weight, bias))
        return functional.linear(x, self.weights[-1], self.biases[-1])[:, 0]


def _trained(x: Tensor, y: Tensor, hidden: int, generator: Generator) -> _Network:
    network = _Network(x.shape[1], hidden, generator)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(STEPS):
            chosen = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
            optimizer.zero_grad()
            _loss(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return network


def _loss(logit: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in which both sets weigh the same, whatever their sizes."""
    share = y.mean().clamp(1e-6, 1 - 1e-6)
    weight = torch.where(y > 0.5, 0.5 / share, 0.5 / (1 - share))
    return functional.binary_cross_entropy_with_logits(logit, y, weight=weight)
