r"""An energy-based model: a network gives each example an energy, and Langevin steps from noise make samples.

.. math::
    p(x) \propto e^{-E(x)}, \quad E(x) = \tfrac12 |x|^2 + f(x), \qquad
    x_{k+1} = x_k - \tfrac{s^2}{2} \nabla E(x_k) + s\,\epsilon_k, \qquad
    \min_E \; E_{data}[E(x)] - E_{steps}[E(x)]

x is standardized data. The network f tilts a standard normal; it grows linearly at most, so p can be normalized. The
constant that p lacks is not known, and there is no likelihood.

References:
    Hinton (2002): Training products of experts by minimizing contrastive divergence.
    Xie, Lu, Zhu, Wu (2016): A theory of generative ConvNet (the tilted normal). arXiv:1602.03264.
    Nijkamp, Hill, Zhu, Wu (2019): Learning non-convergent non-persistent short-run MCMC toward energy-based model
    (chains from noise, as long in training as in sampling). arXiv:1904.09770.
    Du, Mordatch (2019): Implicit generation and modeling with energy-based models (the penalty).
    arXiv:1903.08689.

To make it yours, change the network in ``__init__``, the chain in ``_chain`` or the loss in ``training_step``.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from models.base import Batch, GenerativeModel
from models.distributions import from_symmetric, standard_normal, to_symmetric
from models.nn.mlp import MLP

__all__ = ["Mine"]


class Mine(GenerativeModel):
    """An energy by a fully connected network; images are flattened.

    Each entry is standardized by its moments over the training batches, and a chain starts from a standard normal.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        steps: Langevin steps of a chain, in training and in sampling.
        step_size: s above.
        penalty: Weight of the mean of f squared in the loss, which keeps f near 0.
        hidden, depth: Units and hidden layers of the network.

    Raises:
        ValueError: A number is out of range.
    """

    family = "energy"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        steps: int = 40,
        step_size: float = 0.2,
        penalty: float = 0.01,
        hidden: int = 128,
        depth: int = 2,
    ) -> None:
        super().__init__(shape, levels)
        if min(steps, hidden) < 1 or min(depth, penalty) < 0 or step_size <= 0:
            raise ValueError(
                "steps and hidden must be at least 1, depth and penalty at least 0 and step_size above 0, "
                f"not {steps}, {hidden}, {depth}, {penalty} and {step_size}"
            )
        self.make_optimizer = optimizer
        self.steps = steps
        self.step_size = step_size
        self.penalty = penalty
        self.standardize = nn.BatchNorm1d(self.dim, affine=False, momentum=None)
        self.network = MLP(self.dim, 1, hidden=hidden, depth=depth)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean f of data minus that of samples, which measures no fit: it is near 0 where the two are alike."""
        real = self.standardize(to_symmetric(batch[0], self.levels).flatten(1))
        fake = self._chain(len(real), 1.0, self.train_generator)
        # Of the energies' difference only f has gradients.
        on_real, on_fake = self.network(real), self.network(fake)
        size = on_real.square().mean() + on_fake.square().mean()
        return on_real.mean() - on_fake.mean() + self.penalty * size

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """A chain for each example; ``temperature`` multiplies its noise, at the start and in every step."""
        mean, variance = self.standardize.running_mean, self.standardize.running_var
        assert mean is not None
        assert variance is not None
        x = mean + (variance + self.standardize.eps).sqrt() * self._chain(n, temperature, generator)
        return from_symmetric(x.unflatten(1, self.shape), self.levels)

    def _chain(self, n: int, temperature: float, generator: Generator | None) -> Tensor:
        """The ends of n chains, ``(n, D)``."""
        x = temperature * standard_normal((n, self.dim), next(self.parameters()).detach(), generator)
        for _ in range(self.steps):
            with torch.enable_grad():  # of x; the parameters get none from here
                x.requires_grad_()
                (slope,) = torch.autograd.grad(self._energy(x).sum(), x)
            noise = temperature * standard_normal(x.shape, x, generator)
            x = (x - self.step_size**2 / 2 * slope + self.step_size * noise).detach()
        return x

    def _energy(self, x: Tensor) -> Tensor:
        """``(B, D) -> (B,)``."""
        return 0.5 * x.square().sum(1) + self.network(x)[:, 0]
