r"""Denoising diffusion: noise is added in T steps, and a network learns to take it away.

.. math::
    q(x_t|x_0) = N(\sqrt{\bar\alpha_t}\,x_0, (1 - \bar\alpha_t) I), \qquad
    \min_\theta \; E\,|\epsilon - \epsilon_\theta(x_t, t)|^2, \quad
    \hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\epsilon_\theta(x_t, t)}{\sqrt{\bar\alpha_t}}

The model goes back over some or all of the steps, from :math:`x_T \sim N(0, I)`: from t to s < t by a normal with the
mean of the posterior :math:`q(x_s|x_t, x_0)`, :math:`\hat x_0` in the place of x_0, and from the first of the steps to
the data by a normal around :math:`\hat x_0` of variance :math:`1 - \bar\alpha`, which for integers is discretized.

References:
    Ho, Jain, Abbeel (2020): Denoising diffusion probabilistic models, arXiv:2006.11239.
    Nichol, Dhariwal (2021): Improved denoising diffusion probabilistic models, arXiv:2102.09672 (cosine schedule).
    Song, Meng, Ermon (2021): Denoising diffusion implicit models, arXiv:2010.02502 (DDIM, quadratic steps).
    Salimans, Ho (2022): Progressive distillation for fast sampling of diffusion models, arXiv:2202.00512 (v).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel, HasLikelihood, OptimizerFactory, Relation, ReportsCost, ValidatedByLoss
from ..distributions import DiagonalGaussian, from_symmetric, standard_normal, to_symmetric
from ..nn.timed import timed_network
from .discretized import DiscretizedGaussian

__all__ = ["DDPM", "Schedule", "remaining", "steps_back"]

Schedule = Literal["linear", "cosine"]
Sampler = Literal["ancestral", "ddim"]
Variance = Literal["small", "large"]


class DDPM(GenerativeModel, HasLikelihood, ReportsCost, ValidatedByLoss):
    r"""Denoising diffusion with a perceptron for vectors and a U-Net for images. Integers are seen on [-1, 1].

    Reals should be standardized: the last step is taken for a standard normal.

    The likelihood is a lower bound, that of the variational distribution q: with a path drawn from it, one draw is

    .. math:: w = \frac{p(x_T)\,\prod p(x_s|x_t)\; p(x_0|x_1)}{q(x_T|x_0)\,\prod q(x_s|x_t, x_0)}, \qquad E[w] = p(x_0)

    Its logarithm has the mean of the paper's bound (eq. 5). Samples are draws from p, over the same steps, so that both
    numbers are of one distribution; the noise of the last step, which the paper leaves out, belongs to it. The sampler
    ``ddim`` is another distribution, which has no such bound: the likelihood is then still that of p.

    The network gives v, from which :math:`\epsilon_\theta = \sqrt{\bar\alpha_t}\,v + \sqrt{1 - \bar\alpha_t}\,x_t`, so
    that :math:`\hat x_0` is accurate where x_t is nearly all noise. The loss is the paper's, on epsilon. Checkpoints
    are compared by it.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        steps: T, at least 25: the linear schedule is made for many.
        schedule: ``linear`` or ``cosine``, see :func:`remaining`.
        sampling_steps: Steps on the way back, at most T, for samples and for the likelihood.
        sampler: ``ancestral``, from p; or ``ddim``, without any noise but the first.
        variance: Of a step back: ``small``, that of the posterior, best where the data are one point, or ``large``,
            that of the step of noise, best where they are normal (section 3.2 of the paper); None: small for integers,
            large for reals. With ``large`` and few steps the weights w, not their logarithms, have no variance.
        hidden, depth: For vectors: units of each hidden layer, and hidden layers.
        channels, multipliers, blocks: For images: see :class:`~models.nn.unet.UNet`.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, an image is too small, a number is out of range, or
            a name is unknown.
    """

    family: ClassVar[str] = "diffusion"
    cost_names: ClassVar[tuple[str, ...]] = ("nfe_log_weight", "nfe_sample")

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        steps: int = 1000,
        schedule: Schedule = "linear",
        sampling_steps: int = 1000,
        sampler: Sampler = "ancestral",
        variance: Variance | None = None,
        hidden: int = 256,
        depth: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
    ) -> None:
        super().__init__(shape, levels)
        if steps < 25 or not 1 <= sampling_steps <= steps:
            raise ValueError(
                f"steps must be at least 25 and sampling_steps from 1 to steps, not {steps} and {sampling_steps}"
            )
        if sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be {' or '.join(get_args(Sampler))}, not {sampler}")
        if variance is not None and variance not in get_args(Variance):
            raise ValueError(f"variance must be {' or '.join(get_args(Variance))}, not {variance}")
        self.make_optimizer = optimizer
        self.variance = variance or ("large" if levels is None else "small")
        self.steps = steps
        self.sampler = sampler
        if sampler == "ddim":
            self.caveat = "of the ancestral sampler's distribution; the samples are DDIM's, of another one"
        share = remaining(schedule, steps)
        self.share: list[float] = share.tolist()  # alpha bar of each step, 1 at step 0; in double precision
        self.back = steps_back(steps, sampling_steps)
        self.signal: Tensor
        self.noise: Tensor
        self.register_buffer("signal", share.sqrt().float(), persistent=False)  # (T + 1,)
        self.register_buffer("noise", (1 - share).sqrt().float(), persistent=False)  # (T + 1,)
        self.network = timed_network(
            self.shape, hidden=hidden, depth=depth, channels=channels, multipliers=multipliers, blocks=blocks
        )

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """One draw of log w, ``(B, *shape) -> (B,)`` nats, by one path from x to noise."""
        data = to_symmetric(x, self.levels, self._like.dtype)
        last = self.share[self.back[0]]
        at = math.sqrt(last) * data + math.sqrt(1 - last) * (e := standard_normal(data.shape, data, generator))
        # log N(x_T; 0, I) - log q(x_T|x_0); the constants cancel but for the scale of q.
        log_w = (e.square() - at.square()).flatten(1).sum(1) / 2 + self.dim * math.log(1 - last) / 2
        for t, s in pairwise(self.back[:-1]):
            of_start, of_now, std = self.posterior(t, s)
            wide = self.scale(t, s)
            gap = of_start * (data - self._start(at, t))  # between the means of q and p
            e = standard_normal(data.shape, data, generator)
            of_entries = (e.square() - ((gap + std * e) / wide).square()) / 2 + math.log(std / wide)
            log_w = log_w + of_entries.flatten(1).sum(1)
            at = of_start * data + of_now * at + std * e
        return log_w + self._decoder(at).log_prob(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of epsilon, for an entry."""
        return self.validation_loss(batch[0], generator=self.train_generator).mean()

    def validation_loss(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Mean squared error of epsilon over the entries of each example, at one random step: ``(B,)``."""
        data = to_symmetric(x, self.levels, self._like.dtype)
        where = data.device if generator is None else generator.device
        t = torch.randint(1, self.steps + 1, (len(x),), generator=generator, device=where).to(data.device)
        e = standard_normal(data.shape, data, generator)
        each = t.reshape(-1, *[1] * len(self.shape))
        at = self.signal[each] * data + self.noise[each] * e
        return (self._epsilon(at, t) - e).square().flatten(1).mean(1)

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw from p, or by DDIM. ``temperature`` multiplies all noise."""
        at = temperature * standard_normal((n, *self.shape), self._like, generator)
        for t, s in pairwise(self.back[:-1]):
            start = self._start(at, t)
            if self.sampler == "ddim":
                epsilon = (at - math.sqrt(self.share[t]) * start) / math.sqrt(1 - self.share[t])
                at = math.sqrt(self.share[s]) * start + math.sqrt(1 - self.share[s]) * epsilon
            else:
                of_start, of_now, _ = self.posterior(t, s)
                e = standard_normal(at.shape, at, generator)
                at = of_start * start + of_now * at + temperature * self.scale(t, s) * e
        if self.sampler == "ddim":
            return from_symmetric(self._start(at, self.back[-2]), self.levels)
        return self._decoder(at, temperature).sample(generator).to(self.data_dtype)

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        return dict.fromkeys(self.cost_names, float(len(self.back) - 1))

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        r"""The normal :math:`q(x_s|x_t, x_0)`, s < t: the factors of x_0 and x_t in its mean, and its scale.

        .. math:: \frac{\sqrt{\bar\alpha_s}\,\beta}{1 - \bar\alpha_t}, \quad
            \frac{\sqrt\alpha\,(1 - \bar\alpha_s)}{1 - \bar\alpha_t}, \quad
            \sqrt{\frac{\beta\,(1 - \bar\alpha_s)}{1 - \bar\alpha_t}}, \qquad
            \alpha = \bar\alpha_t / \bar\alpha_s = 1 - \beta
        """
        now, then = self.share[t], self.share[s]
        alpha = now / then
        beta = 1 - alpha
        return (
            math.sqrt(then) * beta / (1 - now),
            math.sqrt(alpha) * (1 - then) / (1 - now),
            math.sqrt(beta * (1 - then) / (1 - now)),
        )

    def scale(self, t: int, s: int) -> float:
        """The scale of the normal p(x_s|x_t)."""
        return self.posterior(t, s)[2] if self.variance == "small" else math.sqrt(1 - self.share[t] / self.share[s])

    def _start(self, at: Tensor, t: int) -> Tensor:
        """The data foreseen from step t; integers within [-1, 1], as in the paper's code."""
        epsilon = self._epsilon(at, torch.full((len(at),), t, device=at.device))
        start = (at - math.sqrt(1 - self.share[t]) * epsilon) / math.sqrt(self.share[t])
        return start if self.levels is None else start.clamp(-1, 1)

    def _epsilon(self, at: Tensor, t: Tensor) -> Tensor:
        """The noise in ``(B, *shape)`` after the steps ``(B,)``."""
        v = self.network(t / self.steps, at).to(at.dtype)
        each = t.reshape(-1, *[1] * len(self.shape))
        made: Tensor = self.signal[each] * v + self.noise[each] * at
        return made

    def _decoder(self, at: Tensor, temperature: float = 1.0) -> DiagonalGaussian | DiscretizedGaussian:
        """p(x_0|x_t) at the first step t."""
        first = self.back[-2]
        mean = self._start(at, first)
        std = temperature * math.sqrt(1 - self.share[first])
        if self.levels is not None:
            return DiscretizedGaussian(mean, std, self.levels)
        return DiagonalGaussian(mean, torch.full_like(mean, math.log(std) if std > 0 else -math.inf))

    @property
    def _like(self) -> Tensor:
        return next(self.parameters())


def remaining(schedule: Schedule, steps: int) -> Tensor:
    r"""The share :math:`\bar\alpha_t` of the data's variance that is left after t = 0 .. T steps: ``(T + 1,)`` float64.

    ``linear``: :math:`\bar\alpha_t = \prod (1 - \beta_t)` with beta from 0.0001 to 0.02 (Ho et al. 2020), times 1000/T.
    ``cosine``: :math:`\bar\alpha_t = f(t) / f(0)` with :math:`f(t) = \cos^2(\frac\pi2 \frac{t/T + 0.008}{1.008})`
    (Nichol, Dhariwal 2021, eq. 17). No beta is above 0.999.

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps
    elif schedule == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = 1 - f[1:] / f[:-1]
    else:
        raise ValueError(f"schedule must be {' or '.join(get_args(Schedule))}, not {schedule}")
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas.clamp(max=0.999)).cumprod(0)])


def steps_back(steps: int, number: int) -> list[int]:
    """``number`` of the steps T .. 1, and 0 at last, denser towards the data (quadratic, Song et al. 2021)."""
    chosen = [0]
    for i in range(1, number + 1):
        chosen.append(max(chosen[-1] + 1, round(steps * (i / number) ** 2)))
    return chosen[::-1]
