"""Baselines and a control for every other model: a Gaussian, independent entries, and the training set itself."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from .base import ClipsSamples, ClosedForm, GenerativeModel, HasLikelihood, Relation

__all__ = ["Gaussian", "Independent", "Resampler", "oracle_approximating_shrinkage"]


class Gaussian(GenerativeModel, HasLikelihood, ClosedForm, ClipsSamples):
    r"""Normal distribution with full covariance, fitted in closed form in one pass, in float64.

    .. math:: \log N(y; \mu, \Sigma) = -\tfrac12 |L^{-1}(y - \mu)|^2 - \textstyle\sum_i \log L_{ii}
        - \tfrac D2 \log 2\pi, \quad \Sigma = L L^T

    The covariance is the sample's, shrunk towards a multiple of the identity,

    .. math:: \Sigma = (1 - \rho) S + \rho \frac{\operatorname{tr} S}{D} I, \quad \rho = \min\Big(1,
        \frac{(1 - 2/D) \operatorname{tr} S^2 + \operatorname{tr}^2 S}
        {(n + 1 - 2/D)(\operatorname{tr} S^2 - \operatorname{tr}^2 S / D)}\Big)

    (Chen, Wiesel, Eldar, Hero 2010, Shrinkage algorithms for MMSE covariance estimation, arXiv:0907.4698: OAS, eq. 23).
    Without shrinkage a pixel that is black in every training image has variance 0, and a test image in which it is lit
    loses thousands of nats. With n much larger than D the shrinkage vanishes.

    Real-valued data: y = x, exact. Integer data: y = x + u with u uniform on the unit cube, in units of levels, so that
    :math:`E_u[w]` is the mass of the cell [x, x + 1). The noise enters the fit in closed form, 1/2 in the mean and 1/12
    in the variances. ``sample`` rounds y down and clips it to 0 .. L-1. The sampler therefore moves the normal's mass
    outside of [0, L) to the end levels. ``log_weight`` counts the mass in the cells alone: its sum over all x is the
    normal's mass in [0, L)^D, less than 1, and it bounds the sampler's log-probability from below. ``outside`` samples
    the rest.

    Memory is D^2 float64 numbers, in the checkpoint too: 5 MB for 28 x 28 pixels, 75 MB for 3 x 32 x 32.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        shrinkage: A fixed rho in [0, 1], 0 for maximum likelihood; None for the formula.
    """

    family: ClassVar[str] = "baseline"

    def __init__(self, shape: Iterable[int], levels: int | None, *, shrinkage: float | None = None) -> None:
        super().__init__(shape, levels)
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], not {shrinkage}")
        self.shrinkage = shrinkage
        self.mean: Tensor
        self.cholesky: Tensor
        self.register_buffer("mean", torch.zeros(self.dim, dtype=torch.float64))
        self.register_buffer("cholesky", torch.eye(self.dim, dtype=torch.float64))  # (D, D), lower triangular

    @property
    def relation(self) -> Relation:
        return "exact" if self.levels is None else "lower_bound"

    @property
    def n_parameters(self) -> int:
        """The numbers of a mean and a symmetric matrix, D + D (D + 1) / 2."""
        return self.dim + self.dim * (self.dim + 1) // 2

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Fit mean and covariance to the training examples, ``(B, *shape)`` at a time, each example once.

        Moments of batches are merged about their own means (Chan, Golub, LeVeque 1983, Algorithms for computing the
        sample variance), so that a mean far from zero costs no digits.

        Raises:
            ValueError: There are no examples, or real-valued examples are all the same.
        """
        n = 0
        mean = torch.zeros_like(self.mean)
        scatter = torch.zeros_like(self.cholesky)  # (D, D) sum of squared deviations from the mean
        for batch in batches:
            y = batch.to(mean).flatten(1)  # (B, D)
            if len(y) == 0:
                continue
            batch_mean = y.mean(0)
            y = y - batch_mean
            gap = batch_mean - mean
            scatter.addmm_(y.T, y).addr_(gap, gap, alpha=n * len(y) / (n + len(y)))
            n += len(y)
            mean += gap * (len(y) / n)
        if n == 0:
            raise ValueError("the Gaussian cannot be fitted to no examples")
        covariance = scatter / n
        mean_variance = covariance.diagonal().mean().item()
        if self.levels is None and mean_variance == 0:
            raise ValueError("the Gaussian cannot be fitted to examples that are all the same")
        rho = oracle_approximating_shrinkage(covariance, n) if self.shrinkage is None else self.shrinkage
        covariance *= 1 - rho
        covariance.diagonal().add_(rho * mean_variance)
        if self.levels is not None:
            mean += 1 / 2
            covariance.diagonal().add_(1 / 12)
        self.mean.copy_(mean)
        self.cholesky.copy_(torch.linalg.cholesky(covariance))

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        y = x.to(self.mean.dtype).flatten(1)  # (B, D)
        if self.levels is not None:
            y = y + torch.rand(y.shape, generator=generator, device=y.device, dtype=y.dtype)
        z = torch.linalg.solve_triangular(self.cholesky, (y - self.mean).T, upper=False)  # (D, B)
        log_scale = self.cholesky.diagonal().log().sum()
        return -0.5 * z.square().sum(0) - log_scale - 0.5 * self.dim * math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        y = self._draw(n, temperature, generator)
        if self.levels is not None:
            y = y.floor().clamp(0, self.levels - 1)
        return y.to(self.data_dtype).unflatten(1, self.shape)

    @property
    def clips_samples(self) -> bool:
        return self.levels is not None

    @torch.no_grad()
    def outside(self, n: int, *, generator: Generator | None = None) -> Tensor:
        if self.levels is None:
            raise NotImplementedError("real-valued data have no range")
        y = self._draw(n, 1.0, generator)
        return ((y < 0) | (y >= self.levels)).any(1)

    def _draw(self, n: int, temperature: float, generator: Generator | None) -> Tensor:
        """Draw y ``(n, D)``, with the standard deviations times ``temperature``."""
        z = torch.randn(n, self.dim, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + temperature * z @ self.cholesky.T


def oracle_approximating_shrinkage(covariance: Tensor, n: int) -> float:
    """The weight rho of the identity for a sample covariance ``(D, D)`` of ``n`` examples, as in ``Gaussian``."""
    dim = len(covariance)
    trace, trace_of_square = covariance.diagonal().sum().item(), covariance.square().sum().item()
    spread = (n + 1 - 2 / dim) * (trace_of_square - trace**2 / dim)
    if spread <= 0:  # already a multiple of the identity: shrinking changes nothing
        return 0.0
    return min(1.0, ((1 - 2 / dim) * trace_of_square + trace**2) / spread)


class Independent(GenerativeModel, HasLikelihood, ClosedForm):
    r"""Every entry by itself: the frequencies of its categories in the training set.

    .. math:: \log p(x) = \sum_i \log \frac{n_{i, x_i} + \alpha}{n + \alpha L}

    with n_{i, k} training examples whose entry i is k. The best of all models in which entries do not know each other.

    Arguments:
        shape: Of one example.
        levels: Number L of categories.
        smoothing: alpha > 0: a category that never occurred in an entry still has some mass there.

    Raises:
        ValueError: The data are real-valued, or the smoothing is not positive.
    """

    family: ClassVar[str] = "baseline"
    kinds: ClassVar[frozenset[str]] = frozenset({"numbers", "categories"})

    def __init__(self, shape: Iterable[int], levels: int | None, *, smoothing: float = 0.5) -> None:
        super().__init__(shape, levels)
        if levels is None:
            raise ValueError("levels: frequencies are counted of integers, and these data are real-valued")
        if not smoothing > 0:
            raise ValueError(f"smoothing must be positive, not {smoothing}")
        self.smoothing = smoothing
        self.log_probs: Tensor
        self.register_buffer("log_probs", torch.full((self.dim, levels), -math.log(levels), dtype=torch.float64))

    @property
    def relation(self) -> Relation:
        return "exact"

    @property
    def n_parameters(self) -> int:
        """The free frequencies, D (L - 1)."""
        return self.log_probs.shape[0] * (self.log_probs.shape[1] - 1)

    def fit(self, batches: Iterable[Tensor]) -> None:
        counts = torch.full_like(self.log_probs, self.smoothing)
        for batch in batches:
            entry = batch.long().flatten(1).T.to(counts.device)  # (D, B)
            counts.scatter_add_(1, entry, torch.ones_like(entry, dtype=counts.dtype))
        self.log_probs.copy_((counts / counts.sum(1, keepdim=True)).log())

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return self.log_probs.gather(1, x.long().flatten(1).T).sum(0)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature changes nothing: what is drawn is the entries themselves, not latent noise."""
        drawn = torch.multinomial(self.log_probs.exp(), n, replacement=True, generator=generator)  # (D, n)
        return drawn.T.to(self.data_dtype).unflatten(1, self.shape)


class Resampler(GenerativeModel, ClosedForm):
    """The training set, sampled with replacement: what perfect memorization scores. A control, never ranked.

    It has no likelihood: it gives all its mass to training examples and none to a new one, whose log-probability would
    be minus infinity; on real-valued data it has no density at all. Temperature changes nothing, because there is no
    latent noise. The checkpoint holds the training set.
    """

    family: ClassVar[str] = "control"
    kinds: ClassVar[frozenset[str]] = frozenset({"numbers", "categories", "graphs", "colourings"})

    def __init__(self, shape: Iterable[int], levels: int | None) -> None:
        super().__init__(shape, levels)
        self.examples: Tensor
        self.register_buffer("examples", torch.empty(0, *self.shape, dtype=self.data_dtype))  # (N, *shape)

    @property
    def n_parameters(self) -> int:
        """The numbers that it stores."""
        return self.examples.numel()

    def fit(self, batches: Iterable[Tensor]) -> None:
        self.examples = torch.cat([batch.to(self.examples) for batch in batches])

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        device = self.examples.device
        return self.examples[torch.randint(len(self.examples), (n,), generator=generator, device=device)]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # How many examples there are is known from the checkpoint alone; torch copies only between equal sizes.
        saved = state_dict.get(f"{prefix}examples")
        if saved is not None:
            self.examples = self.examples.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
