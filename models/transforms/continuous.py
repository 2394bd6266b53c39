"""Continuous flows: the solution of a differential equation, and its log-determinant along the way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable

from ..base import Relation
from ..distributions import standard_normal, uniform
from .base import Transform, full_precision
from .jacobian import EXACT_DIM, jacobian

__all__ = ["Continuous", "Noise", "Solver", "Steps", "Tolerance", "halved"]

Noise = Literal["rademacher", "gaussian"]

# Of the interval. The solver's own guess is so careful that it costs a tenth of all evaluations on a trained flow, and
# a third on a smooth one; too long a step is taken back, at the price of one.
FIRST_STEP = 0.1


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of an adaptive solver: the error of a step is at most ``absolute + relative |state|``, in the root mean
    square over a batch.

    The error of the solution is of the same order, as long as the dynamics are not unstable.
    """

    absolute: float
    relative: float

    def halved(self) -> "Tolerance":
        """Of steps of about half the length: 1/32, as the error of a step of order 5 falls with its fifth power.

        Half the tolerance would make steps 13 % shorter, and show a fraction of the error. Below 1e-6 (relative) and
        1e-8 a float32 solver would chase its rounding: from there on it is half.
        """
        return Tolerance(_finer(self.absolute, 1e-8), _finer(self.relative, 1e-6))

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of torchdiffeq."""
        return {"atol": self.absolute, "rtol": self.relative, "method": "dopri5", "options": {"first_step": FIRST_STEP}}


@dataclass(frozen=True)
class Steps:
    """A fixed number of equal steps by a method of Runge and Kutta, whose error is not controlled.

    Arguments:
        method: ``euler`` (order 1, one evaluation a step), ``midpoint`` (2, two) or ``rk4`` (4, four).
        number: Of steps.
    """

    method: Literal["euler", "midpoint", "rk4"]
    number: int

    def halved(self) -> "Steps":
        """Steps of half the length: twice as many."""
        return Steps(self.method, 2 * self.number)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of torchdiffeq."""

        def grid(_field: Any, _start: Any, times: Tensor) -> Tensor:
            fractions = torch.arange(self.number + 1, dtype=times.dtype, device=times.device) / self.number
            return torch.lerp(times[0], times[-1], fractions)

        return {"method": self.method, "options": {"grid_constructor": grid}}


def _finer(tolerance: float, rounding: float) -> float:
    return max(tolerance / 32, min(tolerance / 2, rounding))


Solver = Tolerance | Steps


class Continuous(Transform):
    r"""z = x(1), the solution of an ordinary differential equation from x(0) = x.

    .. math:: \frac{dx}{dt} = f(t, x), \qquad \log|\det| = \int_0^1 \operatorname{tr} \frac{\partial f}{\partial x}\,dt

    (Chen, Rubanova, Bettencourt, Duvenaud 2018, Neural ordinary differential equations, arXiv:1806.07366; Grathwohl,
    Chen, Bettencourt, Sutskever, Duvenaud 2019, FFJORD, arXiv:1810.01367.) In training, and where examples have more
    than ``exact_dim`` entries, the trace is estimated by Hutchinson's
    :math:`\epsilon^\top (\partial f/\partial x)\,\epsilon` with one epsilon an example, held fixed within a solve, so
    that the integrand is smooth and the integral without bias. Otherwise it is exact.

    The relation is then ``exact``: evaluation is deterministic, and the solver's error is a numerical one, like
    rounding: it is bounded by a stated tolerance, has no distribution to average over, and goes to 0 with the
    tolerance. Step sizes are chosen for a batch as a whole, so that an example's result depends on the others of its
    batch, within that tolerance.

    Gradients of a solution to a tolerance are those of its own steps, the last of which is cut at the end: each step is
    computed again, from the state at its start, and differentiated (Zhuang, Dvornek, Li, Tatikonda, Papademetris,
    Duncan 2020, Adaptive checkpoint adjoint method for gradient estimation in neural ODE, arXiv:2006.02493). So memory
    is that of one step, and nothing is solved backwards. Those of fixed steps are those of the adjoint equation. With
    more than ``exact_dim`` entries the log-determinant of ``inverse`` is NaN: an estimate needs random numbers, which
    an inverse does not draw.

    Everything is computed in the dtype of x, also under autocast: a solver takes rounding for stiffness. The solver for
    a tolerance is Dormand and Prince's of order 5. Solvers are from torchdiffeq, which is imported when it is needed.

    Arguments:
        dynamics: f, called with t ``()`` and x ``(B, *shape)``. It must treat examples independently.
        dim: Number D of entries of one example.
        train_tolerance, eval_tolerance: Tolerances of the solver in training and in evaluation, or fixed steps.
        decode: Solver of ``decode`` in evaluation; None: the same.
        noise: Distribution of epsilon; both have the identity as covariance.
        exact_dim: Largest D for which evaluation takes the exact trace.

    Raises:
        ValueError: ``noise`` is unknown, or torchdiffeq is not installed.

    Attributes:
        evaluations: Evaluations of f in the last forward pass or inverse, without those of its gradient.
    """

    inverse_kind = "iterative"

    def __init__(
        self,
        dynamics: nn.Module,
        dim: int,
        *,
        train_tolerance: Solver,
        eval_tolerance: Solver,
        decode: Solver | None = None,
        noise: Noise = "rademacher",
        exact_dim: int = EXACT_DIM,
    ) -> None:
        super().__init__()
        if noise not in ("rademacher", "gaussian"):
            raise ValueError(f"the trace's noise must be rademacher or gaussian, not {noise}")
        _solvers()  # now rather than at the first step
        self.dynamics = dynamics
        self.train_tolerance = train_tolerance
        self.eval_tolerance = eval_tolerance
        self.decode_tolerance = decode
        self.noise = noise
        self.exact = dim <= exact_dim
        self.evaluations = 0

    @property
    def relation(self) -> Relation:
        return "exact" if self.exact else "estimate"

    @property
    def repeatable(self) -> bool:
        return False  # training draws probes, whatever evaluation does

    @torch.compiler.disable  # compiled code cannot be differentiated twice
    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.exact and not self.training:
            return self._solve(x, _trace, self._solver, backwards=False)
        draw = standard_normal if self.noise == "gaussian" else _rademacher
        epsilon = draw(x.shape, x, generator)

        def estimate(velocity: Tensor, x: Tensor, create_graph: bool) -> Tensor:
            (product,) = torch.autograd.grad(velocity, x, epsilon, create_graph=create_graph)
            return (product * epsilon).flatten(1).sum(1)

        return self._solve(x, estimate, self._solver, backwards=False)

    @torch.compiler.disable
    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(z, _trace if self.exact else None, self._solver, backwards=True)

    @torch.compiler.disable
    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        of_its_own = None if self.training else self.decode_tolerance
        return self._solve(z, None, of_its_own or self._solver, backwards=True)[0]

    @property
    def _solver(self) -> Solver:
        return self.train_tolerance if self.training else self.eval_tolerance

    def _solve(self, x: Tensor, trace: "Trace | None", solver: Solver, *, backwards: bool) -> tuple[Tensor, Tensor]:
        odeint, odeint_adjoint = _solvers()
        evaluations = 0

        def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            nonlocal evaluations
            evaluations += 1
            x, differentiable = state[0], torch.is_grad_enabled()
            if trace is None:
                return self.dynamics(t, x), torch.zeros_like(state[1])
            with torch.enable_grad():
                x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
                velocity = self.dynamics(t, x)
                divergence = trace(velocity, x, differentiable)
            return (velocity, divergence) if differentiable else (velocity.detach(), divergence.detach())

        settings = solver.settings
        times = torch.tensor([1.0, 0.0] if backwards else [0.0, 1.0], dtype=x.dtype, device=x.device)
        with full_precision(x):
            start = (x, x.new_zeros(len(x)))
            if torch.is_grad_enabled() and isinstance(solver, Tolerance):
                parameters = tuple(p for p in self.dynamics.parameters() if p.requires_grad)

                def solve(x: Tensor, accepted: Callable[..., None]) -> tuple[Tensor, Tensor]:
                    field.callback_accept_step = accepted  # type: ignore[attr-defined]
                    ends, log_dets = odeint(field, (x, x.new_zeros(len(x))), times, **settings)
                    return ends[-1], log_dets[-1]

                ends, log_dets = (part[None] for part in _Retraced.apply(solve, field, times.tolist(), x, *parameters))
            elif torch.is_grad_enabled():
                adjoint = {"adjoint_params": tuple(self.dynamics.parameters()), "adjoint_options": settings["options"]}
                ends, log_dets = odeint_adjoint(field, start, times, **settings, **adjoint)
            else:
                ends, log_dets = odeint(field, start, times, **settings)
        self.evaluations = evaluations
        return ends[-1], log_dets[-1] if trace is not None else torch.full_like(log_dets[-1], torch.nan)


# Dormand and Prince's method of order 5: when its stages are, and of what.
TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
RESULT = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)


class _Retraced(torch.autograd.Function):
    """The solution of an equation, whose gradient is that of the steps of its solver, one after another."""

    @staticmethod
    def forward(
        ctx: Any, solve: Callable[..., tuple[Tensor, Tensor]], field: "Field", times: list[float], x: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        starts: list[tuple[float, Tensor]] = []
        ends = solve(x, lambda t, state, dt: starts.append((float(t), state[0])))
        ctx.field, ctx.times, ctx.starts = field, times, starts
        ctx.save_for_backward(*parameters)
        return ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        parameters = ctx.saved_tensors
        grads: list[Tensor] = [torch.zeros_like(parameter) for parameter in parameters]
        end = ctx.times[1]
        for t, x in reversed(ctx.starts):
            with torch.enable_grad(), full_precision(x):
                x = x.detach().requires_grad_()
                ends = _dormand_prince(ctx.field, x, t, end - t)
            end = t
            # Without a trace, or where it is a constant, nothing leads to the log-determinant.
            led = [(at, grad) for at, grad in zip(ends, (grad_x, grad_log_det), strict=True) if at.requires_grad]
            made = torch.autograd.grad(
                [at for at, _ in led], (x, *parameters), [grad for _, grad in led], allow_unused=True
            )
            grad_x = made[0]
            grads = [grad if more is None else grad + more for grad, more in zip(grads, made[1:], strict=True)]
        return None, None, None, grad_x, *grads


def _dormand_prince(field: "Field", x: Tensor, t: float, dt: float) -> tuple[Tensor, Tensor]:
    """x after one step, and by how much the log-determinant moved."""
    velocities: list[Tensor] = []
    log_det = zero = x.new_zeros(len(x))
    for time, shares, part in zip(TIMES, STAGES, RESULT, strict=True):
        now = torch.tensor(t + time * dt, dtype=x.dtype, device=x.device)
        velocity, divergence = field(now, (_moved(x, velocities, shares, dt), zero))
        velocities.append(velocity)
        log_det = log_det.add(divergence, alpha=part * dt) if part else log_det
    return _moved(x, velocities, RESULT, dt), log_det


def _moved(x: Tensor, velocities: Sequence[Tensor], shares: Sequence[float], dt: float) -> Tensor:
    for velocity, share in zip(velocities, shares, strict=True):
        x = x.add(velocity, alpha=share * dt) if share else x
    return x


@contextmanager
def halved(module: nn.Module) -> Iterator[None]:
    """Every continuous part of ``module`` is evaluated with steps of half the length inside the block."""
    parts = [part for part in module.modules() if isinstance(part, Continuous)]
    before = [part.eval_tolerance for part in parts]
    try:
        for part in parts:
            part.eval_tolerance = part.eval_tolerance.halved()
        yield
    finally:
        for part, solver in zip(parts, before, strict=True):
            part.eval_tolerance = solver


Field = Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]
"""From a time and a state (x and its log-determinant) to their velocities."""
Trace = Callable[[Tensor, Tensor, bool], Tensor]
"""From a velocity and its point, ``(B, *shape)`` each, the divergence ``(B,)``; whether it is to be differentiable."""


def _trace(velocity: Tensor, x: Tensor, create_graph: bool) -> Tensor:
    return jacobian(velocity, x, create_graph=create_graph).diagonal(dim1=1, dim2=2).sum(1)


def _rademacher(shape: torch.Size, like: Tensor, generator: Generator | None) -> Tensor:
    """1 or -1 with equal probability."""
    return 2 * (uniform(shape, like, generator) < 0.5).to(like.dtype) - 1


def _solvers() -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., tuple[Tensor, Tensor]]]:
    try:
        from torchdiffeq import odeint, odeint_adjoint
    except ImportError as error:
        raise ValueError("continuous flows need torchdiffeq: pip install 'genbench[ode]'") from error
    return odeint, odeint_adjoint
