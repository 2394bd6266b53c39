r"""Flow matching: a continuous flow whose velocity is learned by regression, without solving its equation.

.. math::
    x_s = (1 - s)\,x + (\sigma + (1 - \sigma) s)\,z, \quad z \sim N(0, I), \qquad
    \min_\theta \; E\, \Big| v_\theta(s, x_s) - \frac{dx_s}{ds} \Big|^2, \quad \frac{dx_s}{ds} = (1 - \sigma) z - x

The time s runs from the data, s = 0, to the noise, s = 1, as for every flow here; papers count the other way.

References:
    Lipman, Chen, Ben-Hamu, Nickel, Le (2023): Flow matching for generative modeling, arXiv:2210.02747 (eqs. 20 to 23).
    Tong, Fatras, Malkin, Huguet, Zhang, Rector-Brooks, Wolf, Bengio (2024): Improving and generalizing flow-based
    generative models with minibatch optimal transport, arXiv:2302.00482 (OT-CFM; sigma = 0 there in the code).
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor

from ..base import Batch, OptimizerFactory, ReportsCost, SolvesODE, ValidatedByLoss
from ..distributions import standard_normal, uniform
from ..flows.base import Flow, at_least
from ..nn.timed import timed_network
from ..transforms.base import Chain, Transform
from ..transforms.continuous import Continuous, Noise, Solver, Steps, Tolerance, halved
from ..transforms.dequantize import UniformDequantization
from ..transforms.flatten import Flatten
from ..transforms.jacobian import EXACT_DIM
from ..transforms.scale import Scale

__all__ = ["FlowMatching", "optimal_pairs"]

Coupling = Literal["optimal_transport", "independent"]
Method = Literal["dopri5", "euler", "midpoint", "rk4"]


class FlowMatching(Flow, ReportsCost, SolvesODE, ValidatedByLoss):
    """A continuous flow trained by flow matching, with a perceptron for vectors and a U-Net for images.

    Integer data are dequantized with uniform noise and scaled to (-1, 1). Reals should be standardized.

    With the coupling ``optimal_transport`` the noise of a batch is assigned to its examples so that the sum of squared
    distances is least: paths then cross less and are straighter, which saves steps of the solver. The assignment is
    computed on the CPU, so that a training step is not recorded as a CUDA graph; with ``independent`` it is.

    The likelihood is that of the flow, by the solution of its equation. It is shown as an estimate, with the change
    under steps of half the length. Above ``exact_dim`` entries the trace is estimated as well, and two draws of it
    are taken: they are unbiased, and more of them cost a solution for each test example.

    Checkpoints are compared by the training loss.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        coupling: ``optimal_transport`` or ``independent``.
        sigma_min: sigma, in [0, 1), in the unit of the networks: the data's, or that of (-1, 1) for integers.
        hidden, depth: For vectors: units of each hidden layer, and hidden layers.
        channels, multipliers, blocks: For images: see :class:`~models.nn.unet.UNet`.
        solver, sampler: How the equation is solved for the likelihood and for samples: ``dopri5`` (to a tolerance),
            ``euler``, ``midpoint`` or ``rk4`` (in fixed steps).
        tolerance: Of dopri5, absolute and relative.
        steps: Number of steps of the other methods.
        noise: Distribution of the noise in the trace's estimate, ``rademacher`` or ``gaussian``.
        exact_dim: Largest number of variables for which evaluation takes the exact trace.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, an image is too small, a number is out of range, a
            name is unknown, or torchdiffeq is not installed.
    """

    family: ClassVar[str] = "diffusion"
    cost_names: ClassVar[tuple[str, ...]] = ("nfe_log_weight", "nfe_sample")

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        coupling: Coupling = "optimal_transport",
        sigma_min: float = 0.0,
        hidden: int = 256,
        depth: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        solver: Method = "dopri5",
        sampler: Method = "dopri5",
        tolerance: Sequence[float] = (1e-5, 1e-5),
        steps: int = 50,
        noise: Noise = "rademacher",
        exact_dim: int = EXACT_DIM,
    ) -> None:
        shape = tuple(shape)
        if coupling not in get_args(Coupling):
            raise ValueError(f"coupling must be {' or '.join(get_args(Coupling))}, not {coupling}")
        if not 0 <= sigma_min < 1:
            raise ValueError(f"sigma_min must lie in [0, 1), not {sigma_min}")
        at_least(1, steps=steps)
        velocity = timed_network(
            shape, hidden=hidden, depth=depth, channels=channels, multipliers=multipliers, blocks=blocks
        )
        of_likelihood = _solver("solver", solver, tolerance, steps)
        continuous = Continuous(
            velocity, _size(shape), train_tolerance=of_likelihood, eval_tolerance=of_likelihood,
            decode=_solver("sampler", sampler, tolerance, steps), noise=noise, exact_dim=exact_dim,
        )  # fmt: skip
        to_interval: list[Transform] = [] if levels is None else [UniformDequantization(levels), Scale(2.0, -1.0)]
        super().__init__(shape, levels, Chain(*to_interval, continuous, Flatten(shape)), optimizer)
        if sampler != solver:
            by_solver, by_sampler = (
                method if method == "dopri5" else f"{steps} steps of {method}" for method in (solver, sampler)
            )
            self.caveat = f"of the equation solved by {by_solver}; the samples are of {by_sampler}"
        self.coupling = coupling
        self.examples_meet = coupling == "optimal_transport"
        self.sigma_min = sigma_min
        self.enough_draws = 2 if self.relation == "estimate" else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of the velocity, for an entry."""
        return self.validation_loss(batch[0], generator=self.train_generator).mean()

    def validation_loss(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Mean squared error of the velocity over the entries of each example, at one random time: ``(B,)``.

        Noise is assigned to examples within the batch.
        """
        *to_interval, continuous, _ = self.transforms
        y = x.to(self._float)
        for part in to_interval:
            y, _ = part(y, generator=generator)
        z = standard_normal(y.shape, y, generator)
        if self.coupling == "optimal_transport":
            z = z[optimal_pairs(y, z)]
        s = uniform((len(y),), y, generator)
        each = s.reshape(-1, *[1] * (y.dim() - 1))
        between = (1 - each) * y + (self.sigma_min + (1 - self.sigma_min) * each) * z
        velocity = continuous.dynamics(s, between)  # type: ignore[operator]
        return (velocity - ((1 - self.sigma_min) * z - y)).square().flatten(1).mean(1)

    def halved(self) -> AbstractContextManager[None]:
        return halved(self.transform)

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        continuous = self.transforms[-2]
        assert isinstance(continuous, Continuous)
        self.log_weight(x, generator=generator)
        forward = continuous.evaluations
        self.sample(len(x), generator=generator)
        return {"nfe_log_weight": float(forward), "nfe_sample": float(continuous.evaluations)}

    @property
    def transforms(self) -> list[Transform]:
        """From the data to the latents: what takes integers to the interval, the equation, the flattening."""
        assert isinstance(self.transform, Chain)
        return self.transform.transforms


def optimal_pairs(x: Tensor, z: Tensor) -> Tensor:
    r"""The permutation ``(B,)`` that minimizes :math:`\sum_i |x_i - z_{\pi(i)}|^2`, of ``(B, *shape)`` each.

    Exact, by the Hungarian method on the CPU: B^3 operations at most.
    """
    # Imported here because it is slow to import and needed only in training.
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(x.detach().flatten(1).double(), z.flatten(1).double()).square()
    _, columns = linear_sum_assignment(distances.cpu().numpy())
    return torch.from_numpy(columns).to(x.device)


def _solver(argument: str, method: Method, tolerance: Sequence[float], steps: int) -> Solver:
    if method not in get_args(Method):
        raise ValueError(f"{argument} must be one of {', '.join(get_args(Method))}, not {method}")
    if len(tolerance) != 2 or min(tolerance) <= 0:
        raise ValueError(f"tolerance must be two positive numbers, absolute and relative, not {list(tolerance)}")
    return Tolerance(*tolerance) if method == "dopri5" else Steps(method, steps)


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
