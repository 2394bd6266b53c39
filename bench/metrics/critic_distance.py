r"""Neural-net distance: how far a critic, trained from scratch on one half, tells real examples and samples apart.

.. math:: d_F(p, q) = \sup_{f \in F} \big| E_p f(x) - E_q f(y) \big|

over a class F of networks (Arora, Ge, Liang, Ma, Zhang 2017, "Generalization and equilibrium in generative adversarial
nets", arXiv 1703.00573). Two classes are measured:

* *Wasserstein*: networks with Lipschitz constant 1. Every weight matrix is divided by its largest singular value and
  the activations sort pairs of units, which keeps gradients (Anil, Lucas, Grosse 2019, "Sorting out Lipschitz function
  approximation", arXiv 1811.05381). The supremum over all such functions is the Wasserstein-1 distance, in units of the
  features.
* *total variation*: networks with values in [0, 1]. The supremum over all such functions is the total variation.

One half of either set trains the critic; the means over the other halves are unbiased for that critic, and its
distance is a lower bound of d_F, of W_1 and of the total variation. So the value is small for equal distributions, also
below 0 by chance, where a critic evaluated on its own training half finds a distance in noise. Its error is that of the
two means, for the one critic that was trained.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo, Relation
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["NeuralNetDistance", "trained_critic"]

LEAST = 40
HIDDEN = 64
STEPS = 300
BATCH = 256
LEARNING_RATE = 5e-3

Critic = Callable[[Tensor], Tensor]
"""Features ``(N, D)`` to values ``(N,)`` float64."""


class NeuralNetDistance(Metric):
    """Computes ``nn_wasserstein[<features>]`` and ``nn_tv[<features>]``, lower bounds; lower is better.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        return (
            MetricInfo(f"nn_wasserstein{on}", "", False, self.version, f"d_F Wasserstein{on}", rank=47),
            MetricInfo(f"nn_tv{on}", "", False, self.version, f"d_F TV{on}", rank=48),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        sets = two_sets(examples, self.recipe, self.n_samples, least=LEAST)
        generator = Generator().manual_seed(derive_seed(examples.seed, "neural-net distance"))
        (x, real), (y, fake) = (_halves(side, generator) for side in (sets.real, sets.fake))
        estimates = []
        for info, bounded in zip(self.infos(examples), (False, True), strict=True):
            critic = trained_critic(x, y, generator, bounded=bounded)
            of_real, of_fake = critic(real), critic(fake)
            value = (of_real.mean() - of_fake.mean()).item()
            test, draws = (side.std().item() / math.sqrt(len(side)) for side in (of_real, of_fake))
            if not math.isfinite(value + test + draws):
                raise BrokenError("features are too large: the critic overflows")
            estimates.append(measured(info, value, test=test, draws=draws, relation=Relation.LOWER_BOUND, **sets.about))
        return estimates


def trained_critic(x: Tensor, y: Tensor, generator: Generator, *, bounded: bool) -> Critic:
    """A critic whose mean over x ``(N, D)`` is larger than over y ``(M, D)`` by as much as training finds.

    Arguments:
        generator: Of initial weights and batches.
        bounded: Values in [0, 1]; otherwise Lipschitz constant 1 in the features' own units.
    """
    x, y = x.double(), y.double()
    centre = (x.mean(0) + y.mean(0)) / 2
    # One number for all dimensions: the Lipschitz constant of the whole stays known.
    scale = max(float(((x - centre).square().mean() + (y - centre).square().mean()).sqrt() / math.sqrt(2)), 1e-12)

    def standard(features: Tensor) -> Tensor:
        return ((features.double() - centre) / scale).float()

    network = (_Bounded if bounded else _Lipschitz)(x.shape[1], generator)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    parts = [standard(side) for side in (x, y)]
    with torch.enable_grad():
        for _ in range(STEPS):
            batch = [part[torch.randint(len(part), (min(BATCH, len(part)),), generator=generator)] for part in parts]
            of_x, of_y = network(torch.cat(batch)).split([len(part) for part in batch])
            optimizer.zero_grad()
            (of_y.mean() - of_x.mean()).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    unit = 1.0 if bounded else scale

    @torch.no_grad()
    def critic(features: Tensor) -> Tensor:
        return unit * torch.cat([network(standard(part)).double() for part in features.split(4096)])

    return critic


class _Lipschitz(nn.Module):
    """A network whose matrices have norm 1 and whose activations sort pairs of units: 1-Lipschitz.

    While it is trained, norms are those of a power iteration, one step for each step of training (Miyato, Kataoka,
    Koyama, Yoshida 2018, "Spectral normalization", arXiv 1802.05957), because exact ones take most of the time.
    """

    def __init__(self, dim: int, generator: Generator) -> None:
        super().__init__()
        self.weights, self.biases = _parameters(dim, generator)
        self._left = [torch.randn(len(weight), generator=generator) for weight in self.weights]

    def _norm(self, number: int, weight: Tensor) -> Tensor:
        if not self.training:
            return torch.linalg.matrix_norm(weight, 2)
        with torch.no_grad():
            right = nn.functional.normalize(weight.T @ self._left[number], dim=0)
            self._left[number] = left = nn.functional.normalize(weight @ right, dim=0)
        return left @ weight @ right

    def forward(self, x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number > 0:
                pairs = x.unflatten(1, (-1, 2))
                x = torch.stack([pairs.amax(2), pairs.amin(2)], dim=2).flatten(1)
            x = nn.functional.linear(x, weight / self._norm(number, weight), bias)
        return x[:, 0]


class _Bounded(nn.Module):
    """A network with values in [0, 1]."""

    def __init__(self, dim: int, generator: Generator) -> None:
        super().__init__()
        self.weights, self.biases = _parameters(dim, generator)

    def forward(self, x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = nn.functional.linear(nn.functional.relu(x) if number > 0 else x, weight, bias)
        return x[:, 0].sigmoid()


def _parameters(dim: int, generator: Generator) -> tuple[nn.ParameterList, nn.ParameterList]:
    sizes = [dim, HIDDEN, HIDDEN, 1]
    weights = nn.ParameterList(torch.randn(b, a, generator=generator) / math.sqrt(a) for a, b in pairwise(sizes))
    return weights, nn.ParameterList(torch.zeros(b) for b in sizes[1:])


def _halves(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=generator)
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
