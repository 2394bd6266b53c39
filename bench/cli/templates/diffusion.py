r"""A denoising diffusion model: noise is added in T steps, and a network learns to take it away.

.. math::
    x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon, \quad \epsilon \sim N(0, I), \qquad
    \min_\theta \; E\, |\epsilon - \epsilon_\theta(x_t, t)|^2

.. math::
    x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t}\,\hat x_0
    + \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t + \sqrt{\beta_t}\, z, \qquad
    \hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\epsilon_\theta(x_t, t)}{\sqrt{\bar\alpha_t}}

with :math:`\alpha_t = 1 - \beta_t, \bar\alpha_t = \prod_{s \le t} \alpha_s`.

References:
    Ho, Jain, Abbeel (2020): Denoising Diffusion Probabilistic Models (eqs. 7 and 14). arXiv:2006.11239.
    Salimans, Ho (2022): Progressive Distillation for Fast Sampling of Diffusion Models (what the network gives, v).
    arXiv:2202.00512.

To make it yours, change the network in ``__init__``, the noise in ``betas`` or the steps in ``sample``. The model says
nothing about its likelihood; with ``HasLikelihood`` and a ``log_weight`` it would be measured.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from models.base import Batch, GenerativeModel
from models.distributions import from_symmetric, standard_normal, to_symmetric
from models.nn.mlp import MLP

__all__ = ["Mine"]

FREQUENCIES = 8  # of the waves by which the network sees the time


class Mine(GenerativeModel):
    """Diffusion with a fully connected network; images are flattened. Integer data are seen on [-1, 1].

    Real-valued data should be standardized: the last step is taken for a standard normal.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        steps: T, at least 10. The paper has 1000; the variances beta grow linearly, as there, and by 1000 / T more.
        hidden, depth: Units and hidden layers of the network.

    Raises:
        ValueError: A number is out of range.
    """

    family = "diffusion"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        steps: int = 100,
        hidden: int = 512,
        depth: int = 3,
    ) -> None:
        super().__init__(shape, levels)
        if steps < 10 or hidden < 1 or depth < 0:
            raise ValueError(f"steps must be at least 10, hidden 1 and depth 0, not {steps}, {hidden} and {depth}")
        self.make_optimizer = optimizer
        self.steps = steps
        self.betas: Tensor
        self.remaining: Tensor
        betas = (torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps).clamp(max=0.999)
        self.register_buffer("betas", betas.float(), persistent=False)  # (T,)
        self.register_buffer("remaining", (1 - betas).cumprod(0).float(), persistent=False)  # alpha bar, (T,)
        self.network = MLP(self.dim, self.dim, hidden=hidden, depth=depth, n_context=2 * FREQUENCIES)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean square error of the predicted noise, for a random step of each example."""
        x = to_symmetric(batch[0], self.levels).flatten(1)
        where = self.betas.device if self.train_generator is None else self.train_generator.device
        t = torch.randint(self.steps, (len(x),), generator=self.train_generator, device=where).to(x.device)
        noise = standard_normal(x.shape, x, self.train_generator)
        remaining = self.remaining[t][:, None]
        noisy = remaining.sqrt() * x + (1 - remaining).sqrt() * noise
        return (self._predicted(noisy, t) - noise).square().mean()

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """T steps from noise; ``temperature`` multiplies all of it. The last step adds none.

        For integer data the example that each step foresees is kept within [-1, 1], as in the paper's code.
        """
        x = temperature * standard_normal((n, self.dim), self.betas, generator)
        for step in reversed(range(self.steps)):
            t = torch.full((n,), step, device=x.device)
            beta, now = self.betas[step], self.remaining[step]
            before = now / (1 - beta)  # alpha bar of the step before; 1 for the first
            foreseen = (x - (1 - now).sqrt() * self._predicted(x, t)) / now.sqrt()
            if self.levels is not None:
                foreseen = foreseen.clamp(-1, 1)
            x = (before.sqrt() * beta * foreseen + (1 - beta).sqrt() * (1 - before) * x) / (1 - now)
            if step > 0:
                x = x + temperature * beta.sqrt() * standard_normal(x.shape, x, generator)
        return from_symmetric(x.unflatten(1, self.shape), self.levels)

    def _predicted(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The noise in ``(B, D)`` after the steps ``(B,)``.

        It is :math:`\sqrt{\bar\alpha_t}\,v + \sqrt{1 - \bar\alpha_t}\,x_t` with v from the network, which then need not
        pass x on where that is nearly all noise.
        """
        frequencies = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=x.device) / 2
        angles = (t[:, None] + 0.5) / self.steps * frequencies
        v = self.network(x, torch.cat([angles.sin(), angles.cos()], 1)).to(x.dtype)
        remaining = self.remaining[t][:, None]
        return remaining.sqrt() * v + (1 - remaining).sqrt() * x
