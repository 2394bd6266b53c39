"""Continuous flows: fields with known solutions, traces, gradients, and what the tolerance means."""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_metrics import ORIGIN
from helpers_models import configuration, small_data
from helpers_transforms import check_bijection, normal
from torch import Generator, Tensor, nn

from bench.checkpoint import Progress
from bench.config.build import build_model
from bench.config.spec import Hardware, Schedule
from bench.errors import UserError
from bench.metrics.cost import Cost
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.training.fit import fit
from models.base import ReportsCost
from models.flows.ffjord import FFJORD
from models.nn.dynamics import ConvDynamics, MLPDynamics
from models.transforms import continuous
from models.transforms.base import checkpoint_activations
from models.transforms.continuous import Continuous, Tolerance

odeint = pytest.importorskip("torchdiffeq").odeint

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
LOOSE, FINE, TIGHT = Tolerance(1e-5, 1e-5), Tolerance(1e-10, 1e-10), Tolerance(1e-12, 1e-12)

pytestmark = pytest.mark.usefixtures("fixed_seed")


class Linear(nn.Module):
    """f = g(t) A x, with g = 1 or 2t: both integrate to 1."""

    def __init__(self, matrix: Tensor, *, moving: bool = False) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.moving = moving

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return (2 * t if self.moving else 1) * (x @ self.matrix.T)


def solved(dynamics: nn.Module, dim: int, tolerance: Tolerance = TIGHT, **more: int) -> Continuous:
    """In float64 and evaluation."""
    flow = Continuous(dynamics, dim, train_tolerance=tolerance, eval_tolerance=tolerance, **more)
    flow.double().eval()
    return flow


def random_field(dim: int, std: float = 0.7, tolerance: Tolerance = TIGHT, **more: int) -> Continuous:
    flow = solved(MLPDynamics(dim, hidden=8, depth=1), dim, tolerance, **more)
    randomize(flow, std)
    return flow


def within(draws: Tensor, exact: Tensor | float, errors: float = 4.0) -> None:
    stderr = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() <= errors * stderr + 1e-9).all(), (draws.mean(0), exact, stderr)


# Where the solution is known.


@pytest.mark.parametrize("moving", [False, True])
def test_a_linear_field_has_a_closed_form(moving: bool) -> None:
    a = normal(3, 3)
    flow = solved(Linear(a, moving=moving), 3)
    x = normal(4, 3, seed=1)
    with torch.no_grad():
        z, log_det = flow(x)
        back, inverse_log_det = flow.inverse(z)
    torch.testing.assert_close(z, x @ torch.linalg.matrix_exp(a).T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det, a.trace().expand(4), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_a_linear_field_has_a_closed_form() -> None:
    a, x = normal(3, 3), normal(4, 3, seed=1)
    for trace_weight in (0.0, 1.0):
        flow = solved(Linear(a), 3)
        z, log_det = flow(x)
        loss = (z * normal(4, 3, seed=2)).sum() + trace_weight * log_det.sum()
        (ours,) = torch.autograd.grad(loss, flow.dynamics.matrix)
        b = a.clone().requires_grad_()
        exact = ((x @ torch.linalg.matrix_exp(b).T) * normal(4, 3, seed=2)).sum() + trace_weight * 4 * b.trace()
        torch.testing.assert_close(ours, torch.autograd.grad(exact, b)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("way", ["training", "evaluation", "inverse"])
def test_gradients_are_those_of_backpropagation_through_the_solver(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = random_field(2).train(way == "training")
    x = normal(5, 2).requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        z, log_det = flow.inverse(x) if way == "inverse" else flow(x, generator=Generator().manual_seed(0))
        return torch.autograd.grad(z.square().sum() - log_det.sum(), [x, *flow.parameters()])

    def through(solve: Callable[..., Any], field: Any, times: Any, x: Tensor, *parameters: Tensor) -> Any:
        return solve(x, lambda *_: None)

    ours = gradients()
    monkeypatch.setattr(continuous._Retraced, "apply", through)
    for own, direct in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(own, direct, rtol=1e-6, atol=1e-7)


def test_gradients_of_fixed_steps_are_those_of_the_adjoint_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = random_field(2, tolerance=continuous.Steps("rk4", 40))
    x = normal(5, 2).requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        z, log_det = flow(x)
        return torch.autograd.grad(z.square().sum() - log_det.sum(), [x, *flow.parameters()])

    def through(*arguments: object, adjoint_params: object, adjoint_options: object, **settings: object) -> object:
        return odeint(*arguments, **settings)

    ours = gradients()
    monkeypatch.setattr(continuous, "_solvers", lambda: (odeint, through))
    for own, direct in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(own, direct, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_fields_of_vectors(dim: int) -> None:
    check_bijection(random_field(dim, tolerance=FINE), normal(2, dim), log_det_tolerance=1e-7, inverse_tolerance=1e-8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 2), (1, 3, 2)])
def test_fields_of_images(shape: tuple[int, ...]) -> None:
    flow = solved(ConvDynamics(shape[0], channels=4, depth=1), math.prod(shape), FINE)
    randomize(flow, 0.4)
    check_bijection(flow, normal(2, *shape), log_det_tolerance=1e-7, inverse_tolerance=1e-8)


@pytest.mark.parametrize(("dim", "half_width", "points"), [(1, 30, 3000), (2, 15, 250)])
def test_density_integrates_to_one(dim: int, half_width: float, points: int) -> None:
    flow = FFJORD((dim,), None, ADAM, blocks=2, hidden=8, depth=1)
    randomize(flow, 0.7)
    flow.double().eval()
    assert quadrature(flow, half_width=half_width, points=points) == pytest.approx(1, abs=1e-4)


# The estimate of the trace.


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_the_estimated_log_determinant_has_no_bias(noise: continuous.Noise) -> None:
    flow = random_field(3, noise=noise, tolerance=Tolerance(1e-8, 1e-8))
    row = normal(1, 3)
    with torch.no_grad():
        exact = flow(row)[1].item()
        flow.train()
        estimates = flow(row.expand(20_000, 3), generator=Generator().manual_seed(0))[1]
    assert estimates.std() > 0.05
    within(estimates, exact)


def test_noise_is_drawn_once_for_a_solve_and_from_the_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    draw = continuous._rademacher

    def watched(shape: torch.Size, like: Tensor, generator: Generator | None) -> Tensor:
        calls.append(shape)
        return draw(shape, like, generator)

    monkeypatch.setattr(continuous, "_rademacher", watched)
    flow = random_field(3, exact_dim=2, tolerance=LOOSE)
    x = normal(4, 3)
    before = torch.get_rng_state()
    with torch.no_grad():
        for training in (True, False):
            flow.train(training)
            first, again, other = (flow(x, generator=Generator().manual_seed(s))[1] for s in (0, 0, 1))
            assert torch.equal(first, again)
            assert not torch.equal(first, other)
    assert calls == [x.shape] * 6
    assert torch.equal(before, torch.get_rng_state())
    signs = draw(torch.Size([40_000]), x, Generator().manual_seed(0))
    assert set(signs.tolist()) == {-1.0, 1.0}
    within(signs, 0.0)


def test_beyond_the_bound_it_is_an_estimate_and_the_inverse_has_no_log_determinant() -> None:
    assert random_field(4, exact_dim=4).relation == "exact"
    flow = random_field(4, exact_dim=3)
    assert flow.relation == "estimate"
    x = normal(3, 4)
    with torch.no_grad():
        z, log_det = flow(x)
        back, unknown = flow.inverse(z)
    assert log_det.isfinite().all()
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    assert unknown.isnan().all()


def test_sampling_computes_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = FFJORD((3,), None, ADAM, blocks=2, hidden=8, depth=1).double().eval()
    z = normal(4, 3)
    with torch.no_grad():
        expected, log_det = flow.transform.inverse(z)
        assert log_det.isfinite().all()
        monkeypatch.setattr(continuous, "_trace", lambda *a: pytest.fail("not asked for"))
        torch.testing.assert_close(flow.transform.decode(z), expected, rtol=1e-5, atol=1e-5)


# The tolerance.


def test_errors_follow_the_tolerance() -> None:
    """What "exact" means: the error goes where the tolerance goes, and at the published one it is far below a nat."""
    x = normal(50, 2)
    with torch.no_grad():
        exact_z, exact = random_field(2, std=1.0)(x)
        errors, evaluations = [], []
        for tolerance in (Tolerance(1e-3, 1e-3), LOOSE, Tolerance(1e-8, 1e-6), Tolerance(1e-9, 1e-9)):
            flow = random_field(2, std=1.0, tolerance=tolerance)
            z, log_det = flow(x)
            errors.append(max((log_det - exact).abs().max().item(), (z - exact_z).abs().max().item()))
            evaluations.append(flow.evaluations)
    assert errors == sorted(errors, reverse=True)
    assert evaluations == sorted(evaluations)
    assert errors[0] < 0.1
    assert errors[1] < 1e-3
    assert errors[2] < 1e-4
    assert errors[3] < 1e-7


def test_training_and_evaluation_have_tolerances_of_their_own() -> None:
    flow = Continuous(MLPDynamics(2, hidden=8, depth=1), 2, train_tolerance=LOOSE, eval_tolerance=TIGHT).double()
    randomize(flow, 1.0)
    counts = []
    for training in (True, False):
        flow.train(training)(normal(3, 2))
        counts.append(flow.evaluations)
    assert counts[1] > 2 * counts[0]


def test_vectors_and_images_are_evaluated_with_tolerances_of_their_own() -> None:
    asked = {"train_tolerance": (1e-3, 2e-3), "vector_tolerance": (1e-8, 2e-8), "image_tolerance": (1e-5, 2e-5)}
    for shape, tolerance in (((2,), Tolerance(1e-8, 2e-8)), ((1, 4, 4), Tolerance(1e-5, 2e-5))):
        parts = [part for part in FFJORD(shape, None, ADAM, **asked).modules() if isinstance(part, Continuous)]
        assert {(part.train_tolerance, part.eval_tolerance) for part in parts} == {(Tolerance(1e-3, 2e-3), tolerance)}
    (part,) = (part for part in FFJORD((2,), None, ADAM, noise="gaussian").modules() if isinstance(part, Continuous))
    assert part.noise == "gaussian"


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_float32_at_the_published_tolerance(std: float) -> None:
    """Rounding is no stiffness: as many evaluations as in float64, and the same numbers."""
    flow = Continuous(
        MLPDynamics(3, hidden=8, depth=1), 3, train_tolerance=LOOSE, eval_tolerance=Tolerance(1e-8, 1e-6)
    ).eval()
    randomize(flow, std)
    x = torch.randn(32, 3)
    with torch.no_grad():
        z, log_det = flow(x)
        few_evaluations = flow.evaluations
        back, _ = flow.inverse(z)
        double_z, double_log_det = flow.double()(x.double())
    assert z.dtype == log_det.dtype == torch.float32
    assert few_evaluations < 1.5 * flow.evaluations
    scale = 1 + z.abs().max().item()
    assert (z.double() - double_z).abs().max() < 1e-4 * scale
    assert (log_det.double() - double_log_det).abs().max() < 1e-3 * scale
    if std < 1:  # a field that contracts a hundredfold cannot be followed backwards
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_the_solver_stays_float32_under_autocast() -> None:
    flow = Continuous(MLPDynamics(2, hidden=8, depth=1), 2, train_tolerance=LOOSE, eval_tolerance=LOOSE).eval()
    x = torch.randn(3, 2)
    z, log_det = flow(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = flow(x)
    assert torch.equal(z16, z)
    assert torch.equal(log_det16, log_det)


# Whole flows.


def test_ffjord_learns(tmp_path: Path) -> None:
    data = small_data((2,), None, n=512, held_out=256)
    flow = FFJORD((2,), None, ADAM, hidden=32, depth=2)
    schedule = Schedule(examples=64 * 60, batch_size=64, validate_every=10**6)
    fit(flow, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    with torch.no_grad():
        ours = flow.eval().log_weight(data.test.x).mean().item()
    gaussian = torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov())
    truth = -2 * math.log(0.3 * math.sqrt(2 * math.pi * math.e)) - math.log(2)  # two clusters far apart
    normal_score = gaussian.log_prob(data.test.x).mean().item()
    assert normal_score + 0.5 * (truth - normal_score) < ours < truth + 0.2


def test_the_training_loss_is_an_unbiased_estimate() -> None:
    flow = FFJORD((2,), None, ADAM, hidden=8, depth=1, train_tolerance=(1e-8, 1e-8))
    randomize(flow, 0.7)
    flow.double().eval()
    x = normal(4, 2)
    with torch.no_grad():
        exact = -flow.log_weight(x).mean().item()
        flow.train()
        flow.train_generator = Generator().manual_seed(0)
        losses = torch.stack([flow.training_step((x.repeat(100, 1), None), 0)["loss"] for _ in range(40)])
    within(losses, exact)


@pytest.mark.parametrize("act", [Continuous.decode, lambda flow, z: flow.inverse(z)[0]])
def test_without_a_trace_there_are_gradients(act: Callable[[Continuous, Tensor], Tensor]) -> None:
    matrix = 0.5 * torch.randn(3, 3, dtype=torch.float64)
    flow = solved(Linear(matrix), 3, exact_dim=2)
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)
    grad_z, grad_matrix = torch.autograd.grad((act(flow, z) * weights).sum(), (z, flow.dynamics.matrix))
    wanted = matrix.clone().requires_grad_()
    exact = (z @ torch.linalg.matrix_exp(-wanted).T * weights).sum()
    torch.testing.assert_close((grad_z, grad_matrix), torch.autograd.grad(exact, (z, wanted)), rtol=1e-8, atol=1e-10)


def test_a_training_step_tells_its_evaluations() -> None:
    flow = FFJORD((2,), None, ADAM, blocks=3, hidden=8, depth=1)
    outputs = flow.training_step((torch.randn(8, 2), None), 0)
    assert outputs["loss"].requires_grad
    parts = [module for module in flow.modules() if isinstance(module, Continuous)]
    assert outputs["nfe"] == sum(part.evaluations for part in parts) >= 3 * 7
    outputs["loss"].backward()
    assert outputs["nfe"] == sum(part.evaluations for part in parts), "those of the backward pass are not counted"


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_evaluations_are_rows(shape: tuple[int, ...]) -> None:
    data = small_data(shape, None)
    flow = FFJORD(shape, None, ADAM, hidden=8, channels=2, depth=1, scales=2, exact_dim=2)
    assert isinstance(flow, ReportsCost)
    subject = TrainedModel(flow, Progress(examples_seen=1, train_seconds=1.0), 0, ORIGIN)
    rows = {row.info.name: row.value for row in Cost(8).compute(Examples(subject, data, seed=0))}
    equations = sum(isinstance(module, Continuous) for module in flow.modules())
    assert rows["nfe_log_weight"] >= 7 * equations
    assert rows["nfe_sample"] >= 7 * equations
    assert (rows["nfe_log_weight"] - equations) % 6 == 0, "Dormand and Prince: one to begin with, six a step"
    assert "series_terms" not in rows


def test_checkpointed_activations_leave_what_is_drawn_alone() -> None:
    x = torch.randn(8, 2)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        flow = FFJORD((2,), None, ADAM, blocks=2, hidden=8, depth=1)
        flow.train_generator = Generator().manual_seed(0)
        if checkpointed:
            checkpoint_activations(flow)
        flow.training_step((x, None), 0)["loss"].backward()
        gradients.append([parameter.grad for parameter in flow.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


def test_without_torchdiffeq_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(UserError) as failure:
        build_model(configuration("ffjord")["model"], small_data((2,), None).spec)
    assert "genbench[ode]" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="rademacher or gaussian"):
        random_field(2, noise="uniform")
    with pytest.raises(ValueError, match="takes vectors"):
        FFJORD((2, 2), None, ADAM)
