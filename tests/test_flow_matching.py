"""Flow matching: fields with a known density, couplings, and the certificate of its likelihood."""

import functools
import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_density import randomize
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_transforms import normal
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.certificate import LIMIT, refusal
from bench.metrics.cost import Cost
from bench.metrics.likelihood import LogLikelihood
from bench.schema import Estimate, Relation, Status
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from bench.training import fit as fit_module
from bench.training.fit import fit
from bench.training.select import validation_score
from models.diffusion.flow_matching import FlowMatching, optimal_pairs
from models.flows.ffjord import FFJORD
from models.nn.timed import TimedUNet, timed_network
from models.transforms.continuous import Continuous, Steps, Tolerance

pytest.importorskip("torchdiffeq")

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
MEAN, STD = 1.5, 0.2


class GaussianVelocity(nn.Module):
    r"""The velocity that flow matching looks for where x ~ N(m, s^2 I) and z ~ N(0, I) independently:

    .. math:: E[z - x | x_s] = -m + \frac{s - (1 - s) \sigma^2}{(1 - s)^2 \sigma^2 + s^2}\,(x_s - (1 - s) m)
    """

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))  # a flow takes its dtype from its parameters

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.dim() - 1))
        gain = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
        return -MEAN + gain * (x - (1 - t) * MEAN)


def gaussian_flow(**options: object) -> FlowMatching:
    flow = FlowMatching((2,), None, ADAM, hidden=2, depth=0, **options)
    flow.transforms[0].dynamics = GaussianVelocity()
    return flow.eval()


def gaussian_data(n: int = 300) -> Data:
    x = MEAN + STD * torch.randn(3 * n, 2, generator=Generator().manual_seed(0))
    spec = small_data((2,), None, n=n, held_out=n).spec
    return Data(spec, Split(x[:n]), Split(x[n : 2 * n]), Split(x[2 * n :]))


def rows(model: FlowMatching | FFJORD, data: Data, draws: int = 4) -> dict[str, Estimate]:
    subject = TrainedModel(model, None, 0, ORIGIN)
    estimates = evaluate(Examples(subject, data, seed=0), {"likelihood": LogLikelihood(draws)})["likelihood"]
    return {estimate.info.name: estimate for estimate in estimates}


# The likelihood of a field whose density is known, with its certificate.


@pytest.mark.parametrize(
    "options", [{"tolerance": (1e-5, 1e-5)}, {"solver": "rk4", "steps": 60}, {"solver": "midpoint", "steps": 200}]
)
def test_the_likelihood_of_a_known_field_is_that_of_its_density(options: dict[str, object]) -> None:
    data = gaussian_data()
    truth = Normal(MEAN, STD).log_prob(data.test.x).sum(1)
    flow = gaussian_flow(**options)
    with torch.no_grad():
        assert (flow.log_weight(data.test.x) - truth).abs().max() < 0.02
    found = rows(flow, data)
    assert found["log_likelihood"].value == pytest.approx(truth.mean().item(), abs=0.02)
    assert found["log_likelihood"].relation is Relation.ESTIMATE
    assert found["log_likelihood"].n_draws == 1
    assert found["ode_change"].value < LIMIT * 2 * math.log(2) < 0.02
    assert found["bits_per_dim"].status is Status.SKIPPED


def test_without_a_certificate_there_is_no_number() -> None:
    """Euler's numbers are far off and grow without limit; none of them is shown."""
    data = gaussian_data()
    truth = Normal(MEAN, STD).log_prob(data.test.x).sum(1).mean().item()
    values = []
    for steps in (1, 2, 4, 8):
        flow = gaussian_flow(solver="euler", steps=steps)
        with torch.no_grad():
            values.append(flow.log_weight(data.test.x).mean().item())
        found = rows(flow, data)
        assert found["log_likelihood"].status is Status.FAILED
        assert found["log_likelihood"].value is None
        assert "too coarse" in found["log_likelihood"].reason
        assert found["ode_change"].value > LIMIT * 2 * math.log(2)
        assert found["bits_per_dim"].status is Status.SKIPPED
    assert max(abs(value - truth) for value in values) > 1


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5])
def test_the_error_is_at_most_about_twice_the_change(tolerance: float) -> None:
    """Also of a solver that chooses its steps."""
    x = gaussian_data(100).test.x.double()
    flow = gaussian_flow(tolerance=(tolerance, tolerance)).double()
    with torch.no_grad():
        error = (flow.log_weight(x) - Normal(MEAN, STD).log_prob(x).sum(1)).abs().mean().item()
    change = TrainedModel(flow, None, 0, ORIGIN).ode_changes(x).abs().mean().item()
    assert error < 2.5 * change
    assert change < 100 * tolerance


def test_the_change_is_of_the_same_noise() -> None:
    """With other noise the change of an estimated likelihood would be the noise of the estimate."""
    data = small_data((3, 1, 1), 4, n=50, held_out=50)
    flow = FlowMatching((3, 1, 1), 4, ADAM, channels=4, multipliers=[1], blocks=1, exact_dim=2, tolerance=(1e-7, 1e-7))
    randomize(flow, 0.1)
    subject = TrainedModel(flow, None, 0, ORIGIN)
    assert subject.relation == subject.shown_relation == "estimate"
    draws = subject.log_weights(data.test.x, 16)
    assert len(draws) == 2, "more draws of an estimate cost more than they say"
    assert (draws[0] - draws[1]).abs().mean() > 0.01
    assert subject.ode_changes(data.test.x).abs().mean() < 1e-3
    assert subject.ode_changes(data.test.x).abs().max() > 0
    names = [info.name for info in LogLikelihood(2).infos(Examples(subject, data, seed=0))]
    assert names == ["log_likelihood", "bits_per_dim", "estimator_stderr", "ode_change"]
    part = flow.transforms[-2]
    assert isinstance(part, Continuous)
    assert part.eval_tolerance == Tolerance(1e-7, 1e-7), "the solver is what it was"


def test_halved_tolerances_and_steps() -> None:
    assert Tolerance(3.2e-3, 3.2e-4).halved() == Tolerance(pytest.approx(1e-4), pytest.approx(1e-5))
    assert Tolerance(1e-8, 1e-6).halved() == Tolerance(5e-9, 5e-7)
    assert Tolerance(1e-5, 1e-5).halved().relative == 1e-6
    assert Steps("rk4", 7).halved() == Steps("rk4", 14)
    assert refusal(2 * math.log(2) * LIMIT * 0.99, 2) == ""
    assert "moves by 0.011 bits" in refusal(2 * math.log(2) * LIMIT * 1.1, 2)
    assert "not finite" in refusal(math.nan, 2)


def test_a_failed_run_has_failed_rows_and_ffjord_has_the_certificate_too() -> None:
    data = gaussian_data(60)
    flow = FFJORD((2,), None, ADAM, hidden=4, depth=1)
    found = rows(flow, data)
    assert found["log_likelihood"].relation is Relation.EXACT
    assert found["ode_change"].value < 1e-3
    failed = Examples(FailedModel(flow, "diverged", ORIGIN), data, seed=0)
    estimates = {one.info.name: one for one in evaluate(failed, {"likelihood": LogLikelihood(2)})["likelihood"]}
    assert estimates["ode_change"].status is estimates["log_likelihood"].status is Status.FAILED
    assert estimates["bits_per_dim"].status is Status.SKIPPED


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_fixed_steps_have_their_order_and_their_cost(method: str, order: int) -> None:
    x = normal(20, 2) * 0.2 + 1.5
    with torch.no_grad():
        exact = gaussian_flow(tolerance=(1e-11, 1e-11)).double().encode(x)
        errors = []
        for steps in (100, 200):
            flow = gaussian_flow(solver=method, sampler=method, steps=steps).double()
            errors.append((flow.encode(x) - exact).abs().max().item())
            part = flow.transforms[0]
            assert isinstance(part, Continuous)
            assert part.evaluations == order * steps
    assert math.log2(errors[0] / errors[1]) > order - 0.2  # for this field the midpoint method has order 3


def test_samples_are_those_of_the_sampler() -> None:
    flow = gaussian_flow(sampler="euler", steps=1)
    z = torch.randn(5, 2, generator=Generator().manual_seed(3))
    sampled = flow.sample(5, generator=Generator().manual_seed(3))
    torch.testing.assert_close(sampled, z - GaussianVelocity()(torch.ones(5), z))
    samples = gaussian_flow().sample(4000, generator=Generator().manual_seed(0))
    assert (samples.mean(0) - MEAN).abs().max() < 4 * STD / math.sqrt(4000)
    assert (samples.std(0) - STD).abs().max() < 4 * STD / math.sqrt(8000)


def test_evaluations_are_rows() -> None:
    flow = gaussian_flow(sampler="midpoint", steps=5)
    subject = TrainedModel(flow, None, 0, ORIGIN)
    found = {row.info.name: row.value for row in Cost(8).compute(Examples(subject, gaussian_data(20), seed=0))}
    assert found["nfe_sample"] == 10
    assert found["nfe_log_weight"] > 20


# Training.


def test_the_known_field_has_the_least_loss() -> None:
    """Its loss is the variance of z - x given x_s, and any other field adds its squared distance."""
    x = gaussian_data(20_000).train.x
    flow = gaussian_flow(coupling="independent")

    def loss(velocity: nn.Module) -> float:
        flow.transforms[0].dynamics = velocity
        with torch.no_grad():
            return flow.validation_loss(x, generator=Generator().manual_seed(1)).mean().item()

    class Shifted(GaussianVelocity):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return super().forward(t, x) + 0.3

    s = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    least = (STD**2 / ((1 - s) ** 2 * STD**2 + s**2)).mean().item()  # 1 + sigma^2 - cov^2 / var at each time
    assert loss(GaussianVelocity()) == pytest.approx(least, rel=0.03)
    assert loss(Shifted()) - loss(GaussianVelocity()) == pytest.approx(0.09, abs=0.01)


def test_the_path_ends_at_the_noise_and_begins_within_sigma_of_the_data() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(GaussianVelocity):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            seen.append((t, x))
            return torch.zeros_like(x)

    for sigma in (0.0, 0.3):
        flow = gaussian_flow(coupling="independent", sigma_min=sigma)
        flow.transforms[0].dynamics = Watching()
        x = torch.full((50_000, 2), 5.0)
        loss = flow.validation_loss(x, generator=Generator().manual_seed(0))
        t, between = seen[-1]
        deviation = between[:, 0] - (1 - t) * 5
        near_data, near_noise = t < 0.02, t > 0.98
        assert deviation[near_data].std() == pytest.approx(sigma + (1 - sigma) * 0.01, rel=0.3)
        assert deviation[near_noise].std() == pytest.approx(1, rel=0.1)
        assert loss.mean().item() == pytest.approx((1 - sigma) ** 2 + 25, rel=0.01)


def test_integers_are_learned_on_the_interval_that_the_flow_begins_with() -> None:
    """Level 3 of 4 is uniform on (1/2, 1) of (-1, 1); nothing is foreseen, so the loss is E (z - y)^2."""
    flow = FlowMatching((2,), 4, ADAM, hidden=2, depth=0, coupling="independent")
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.full((50_000, 2), 3, dtype=torch.uint8)
    with torch.no_grad():
        loss = flow.validation_loss(x, generator=Generator().manual_seed(0)).mean().item()
    assert loss == pytest.approx(1 + 7 / 12, rel=0.015)


def test_pairs_are_the_best_of_all() -> None:
    x, z = normal(5, 3), normal(5, 3, seed=1)
    best = min(itertools.permutations(range(5)), key=lambda order: (x - z[list(order)]).square().sum().item())
    assert optimal_pairs(x, z).tolist() == list(best)
    images = optimal_pairs(x.reshape(5, 3, 1, 1), z.reshape(5, 3, 1, 1))
    assert images.tolist() == list(best)


def test_flow_matching_learns(tmp_path: Path) -> None:
    data = small_data((2,), None, n=512, held_out=256)
    flow = FlowMatching((2,), None, ADAM, hidden=64, depth=2)
    schedule = Schedule(examples=128 * 150, batch_size=128, validate_every=10**6)
    fit(flow, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    found = rows(flow.eval(), data)
    gaussian = torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov())
    truth = -2 * math.log(0.3 * math.sqrt(2 * math.pi * math.e)) - math.log(2)  # two clusters far apart
    normal_score = gaussian.log_prob(data.test.x).mean().item()
    assert normal_score + 0.5 * (truth - normal_score) < found["log_likelihood"].value < truth + 0.2


def test_checkpoints_are_compared_by_the_loss() -> None:
    data = gaussian_data(100)
    flow = gaussian_flow()
    score = validation_score(data, seed=0)
    assert score(flow) == score(flow)
    with torch.no_grad():
        expected = torch.stack([flow.validation_loss(data.val.x, generator=g(seed)).mean() for seed in range(50)])
    assert abs(score(flow) - expected.mean().item()) < 4 * expected.std().item()


def g(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("coupling", ["independent", "optimal_transport"])
def test_a_resumed_run_gives_the_bits_of_a_whole_one(coupling: str, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def train(folder: Path, deaths: int) -> dict[str, Tensor]:
        left = iter(range(deaths))

        def validate(model: object) -> float:
            if next(left, None) == deaths - 1:
                raise KilledError
            return 1.0

        model = new_model("flow_matching", data.spec, f"model.coupling={coupling}")
        schedule = Schedule(examples=160, batch_size=16, validate_every=64, ema_decay=0.9)
        fit(model, data, schedule, Hardware(), seed=5, folder=folder, config={}, validate=validate)
        weights: dict[str, Tensor] = load_checkpoint(folder / "final.ckpt")["state_dict"]
        return weights

    data = small_data((4,), 4)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole", 0)
    with pytest.raises(KilledError):
        train(tmp_path / "broken", 2)
    assert all(torch.equal(whole[key], value) for key, value in train(tmp_path / "broken", 0).items())


@pytest.mark.parametrize(("coupling", "captured"), [("independent", True), ("optimal_transport", False)])
def test_steps_with_independent_couplings_can_be_recorded(
    coupling: str, captured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An assignment on the CPU cannot: replayed, it would be that of the recorded batch for ever."""
    graphs = TapeGraphs()
    monkeypatch.setattr(fit_module, "recorder_for", lambda device: graphs)
    data = small_data((4,), None, n=100)
    model = new_model("flow_matching", data.spec, f"model.coupling={coupling}")
    model.make_optimizer = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    schedule = Schedule(examples=160, batch_size=16, validate_every=10**6)
    fit(model, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    assert (graphs.replays >= 9) == captured


# Networks.


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7), (2, 4, 9)])
def test_the_u_net_keeps_the_size_and_examples_apart(shape: tuple[int, ...]) -> None:
    network = TimedUNet(shape[0], 2 * shape[0], channels=4, multipliers=[1, 2, 2], blocks=1)
    randomize(network, 0.2)
    network.double()
    x, t = normal(3, *shape), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    with torch.no_grad():
        y = network(t, x)
        assert y.shape == (3, 2 * shape[0], *shape[1:])
        torch.testing.assert_close(network(t[1:2], x[1:2]), y[1:2])
        torch.testing.assert_close(network(t[1], x[1:2]), y[1:2])
        assert not torch.allclose(network(t[0], x[1:2]), y[1:2])
    x = x.requires_grad_()
    (reach,) = torch.autograd.grad(network(t, x)[0, 0, 0, 0], x)
    assert (reach[0] != 0).all(), "the coarsest scale sees everything"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"coupling": "random"}, "coupling"),
        ({"sigma_min": 1.0}, "sigma_min"),
        ({"steps": 0}, "steps"),
        ({"solver": "heun"}, "solver"),
        ({"sampler": "heun"}, "sampler"),
        ({"tolerance": [1e-5]}, "tolerance"),
        ({"tolerance": [0.0, 1e-5]}, "tolerance"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_mistakes_are_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FlowMatching((2,), None, ADAM, **options)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="multipliers: 4 scales need images of at least 8 x 8 pixels, not 7 x 9"):
        FlowMatching((1, 7, 9), 256, ADAM)
    with pytest.raises(ValueError, match="multipliers"):
        FlowMatching((1, 8, 8), 256, ADAM, multipliers=[])
    with pytest.raises(ValueError, match="shape"):
        timed_network((2, 2), hidden=4, depth=1, channels=4, multipliers=[1], blocks=1)


@pytest.mark.parametrize(
    ("solver", "sampler", "said"),
    [
        ("dopri5", "dopri5", ""), ("rk4", "rk4", ""),
        ("dopri5", "euler", "of the equation solved by dopri5; the samples are of 6 steps of euler"),
        ("rk4", "dopri5", "of the equation solved by 6 steps of rk4; the samples are of dopri5"),
    ],
)  # fmt: skip
def test_a_sampler_other_than_the_likelihoods_solver_is_said(solver: str, sampler: str, said: str) -> None:
    options = (f"model.solver={solver}", f"model.sampler={sampler}", "model.steps=6")
    model = new_model("flow_matching", small_data((2,), None).spec, *options)
    assert isinstance(model, FlowMatching)
    assert model.caveat == said
