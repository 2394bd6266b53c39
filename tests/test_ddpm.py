"""Denoising diffusion: posteriors, and bound and samples where the best denoiser is known."""

import functools
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_density import all_examples
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_transforms import normal
from scipy.stats import norm
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.metrics.cost import Cost
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.training import fit as fit_module
from bench.training.fit import fit
from models.diffusion.ddpm import DDPM, remaining, steps_back
from models.diffusion.discretized import DiscretizedGaussian

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
MEAN, STD = 0.7, 0.5


class BestV(nn.Module):
    r"""The network that is best for x ~ N(m, s^2): :math:`v = \sqrt{\bar\alpha}\,\epsilon - \sqrt{1-\bar\alpha}\,x_0`,
    with the conditional means of both given x_t.
    """

    def __init__(self, model: DDPM) -> None:
        super().__init__()
        self.share = torch.tensor(model.share, dtype=torch.float64)
        self.steps = model.steps
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        share = self.share[(t * self.steps).round().long()][:, None]
        start = MEAN + share.sqrt() * STD**2 / (share * STD**2 + 1 - share) * (x - share.sqrt() * MEAN)
        epsilon = (x - share.sqrt() * start) / (1 - share).sqrt()
        return share.sqrt() * epsilon - (1 - share).sqrt() * start


def gaussian_model(**options: object) -> DDPM:
    model = DDPM((1,), None, ADAM, hidden=2, depth=0, **options).double().eval()
    model.network = BestV(model)
    model.signal = torch.tensor(model.share, dtype=torch.float64).sqrt()
    model.noise = (1 - torch.tensor(model.share, dtype=torch.float64)).sqrt()
    return model


def of_samples(model: DDPM) -> Normal:
    """The distribution of its samples: normal, as all steps are linear, with moments that follow from step to step."""
    mean, variance = 0.0, 1.0

    def start(t: int) -> tuple[float, float]:
        """Offset and slope of the data foreseen at step t."""
        share = model.share[t]
        slope = math.sqrt(share) * STD**2 / (share * STD**2 + 1 - share)
        return MEAN - slope * math.sqrt(share) * MEAN, slope

    for t, s in pairwise(model.back[:-1]):
        of_start, of_now, _ = model.posterior(t, s)
        std = model.scale(t, s)
        offset, slope = start(t)
        gain = of_start * slope + of_now
        mean, variance = of_start * offset + gain * mean, gain**2 * variance + std**2
    offset, slope = start(model.back[-2])
    final = offset + slope * mean, slope**2 * variance + 1 - model.share[model.back[-2]]
    return Normal(torch.tensor(final[0]).double(), torch.tensor(math.sqrt(final[1])).double())


# The noise.


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [25, 100, 1000])
def test_schedules_go_from_the_data_to_noise(schedule: str, steps: int) -> None:
    share = remaining(schedule, steps)
    assert share.shape == (steps + 1,)
    assert share[0] == 1
    assert (share.diff() < 0).all()
    assert 0 < share[-1] < 1e-3
    if schedule == "linear" and steps == 1000:
        assert share[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)  # of the published betas
        assert 1 - share[1].item() == pytest.approx(1e-4)
    if schedule == "cosine" and steps == 1000:
        assert share[500].item() == pytest.approx(math.cos((0.508 / 1.008) * math.pi / 2) ** 2, rel=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_model_has_the_schedule_it_is_asked_for(schedule: str) -> None:
    assert (
        DDPM((2,), None, ADAM, steps=50, sampling_steps=5, schedule=schedule).share == remaining(schedule, 50).tolist()
    )


def test_the_posterior_is_that_of_the_joint_normal() -> None:
    """From q(x_s|x_0) and q(x_t|x_s), by conditioning."""
    model = gaussian_model(steps=50, sampling_steps=50)
    for t, s in [(50, 49), (50, 10), (30, 2), (2, 1)]:
        now, then = model.share[t], model.share[s]
        alpha = now / then
        prior, noise = 1 - then, 1 - alpha  # variances of x_s given x_0, and of x_t given x_s
        variance = 1 / (1 / prior + alpha / noise)
        of_start, of_now, std = model.posterior(t, s)
        assert std**2 == pytest.approx(variance, rel=1e-9)
        assert of_start == pytest.approx(variance * math.sqrt(then) / prior, rel=1e-9)
        assert of_now == pytest.approx(variance * math.sqrt(alpha) / noise, rel=1e-9)


def test_noise_in_one_step_has_the_moments_of_noise_step_by_step() -> None:
    betas = 1 - torch.tensor(gaussian_model(steps=40, sampling_steps=40).share).double().unfold(0, 2, 1).prod(1)
    share = remaining("linear", 40)
    mean, variance = 1.0, 0.0
    for t in range(1, 41):
        beta = (1 - share[t] / share[t - 1]).item()
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert mean == pytest.approx(share[t].sqrt().item(), rel=1e-9)
        assert variance == pytest.approx(1 - share[t].item(), rel=1e-9)
    assert len(betas) == 40


def test_steps_back() -> None:
    assert steps_back(30, 30) == list(range(30, -1, -1))
    assert steps_back(1000, 1) == [1000, 0]
    chosen = steps_back(1000, 50)
    assert (chosen[0], chosen[-2], chosen[-1], len(chosen)) == (1000, 1, 0, 51)
    assert chosen == sorted(set(chosen), reverse=True)


# The bound.


@pytest.mark.parametrize(("schedule", "steps"), [("linear", 1), ("linear", 7), ("cosine", 25)])
def test_weights_have_the_density_of_the_samples_as_mean(schedule: str, steps: int) -> None:
    model = gaussian_model(steps=200, sampling_steps=steps, schedule=schedule, variance="small")
    exact = of_samples(model)
    n, x = 40_000, torch.tensor([[-0.5], [0.6], [1.5]], dtype=torch.float64)
    with torch.no_grad():
        log_w = model.log_weight(x.repeat(n, 1), generator=Generator().manual_seed(0)).reshape(n, 3)
    w, stderr = log_w.exp(), log_w.exp().std(0) / math.sqrt(n)
    assert (stderr < 0.05 * w.mean(0)).all()
    assert ((w.mean(0) - exact.log_prob(x[:, 0]).exp()).abs() < 5 * stderr).all()
    assert (log_w.mean(0) < exact.log_prob(x[:, 0])).all()
    samples = model.sample(n, generator=Generator().manual_seed(0)).double()
    assert samples.mean().item() == pytest.approx(exact.mean.item(), abs=5 * exact.stddev.item() / math.sqrt(n))
    assert samples.std().item() == pytest.approx(exact.stddev.item(), rel=5 / math.sqrt(2 * n))


def test_with_many_steps_the_bound_is_the_likelihood() -> None:
    """The gap is the integral of what the variances of q and of the true posterior differ by: it falls with 1/T."""
    x = MEAN + STD * normal(2000, 1)
    truth = Normal(MEAN, STD).log_prob(x[:, 0]).mean().item()
    gaps = []
    for steps in (50, 200, 1000):
        model = gaussian_model(steps=1000, sampling_steps=steps)
        with torch.no_grad():
            gaps.append(truth - model.log_weight(x, generator=Generator().manual_seed(0)).mean().item())
    assert gaps == sorted(gaps, reverse=True)
    assert -0.02 < gaps[-1] < 0.02


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("std", [0.003, 0.1, 2.0])
def test_the_discretized_normal_against_its_definition(levels: int, std: float) -> None:
    means = torch.tensor([-1.0, -0.3, 0.0, 0.77, 1.0])
    x = torch.arange(levels)
    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
        made = torch.stack(
            [DiscretizedGaussian(mean.to(dtype).expand(levels, 1), std, levels).log_prob(x[:, None]) for mean in means]
        )
        y, half = 2 * x.double() / (levels - 1) - 1, 1 / (levels - 1)
        mean = means.double()[:, None]
        upper = torch.where(x == levels - 1, math.inf, y + half)
        lower = torch.where(x == 0, -math.inf, y - half)
        flip = upper + lower > 2 * mean
        z = torch.stack([torch.where(flip, mean - upper, lower - mean), torch.where(flip, mean - lower, upper - mean)])
        expected = torch.from_numpy(norm.logcdf(z[1].numpy() / std)) + torch.log1p(
            -torch.from_numpy(norm.logcdf(z[0].numpy() / std) - norm.logcdf(z[1].numpy() / std)).exp()
        )
        near = expected > -50
        torch.testing.assert_close(made.double()[near], expected[near], rtol=rtol, atol=1e-4 if rtol > 1e-6 else 1e-9)
        assert made.isfinite().all()
        torch.testing.assert_close(made.double().exp().sum(1), torch.ones(5).double(), rtol=1e-4, atol=1e-4)


def test_samples_of_the_discretized_normal_have_its_masses() -> None:
    decoder = DiscretizedGaussian(torch.full((50_000, 1), 0.3), 0.5, 4)
    counts = torch.bincount(decoder.sample(Generator().manual_seed(0)).flatten().long(), minlength=4) / 50_000
    masses = DiscretizedGaussian(torch.full((4, 1), 0.3), 0.5, 4).log_prob(all_examples((1,), 4)).exp()
    assert ((counts - masses).abs() < 5 * (masses / 50_000).sqrt()).all()
    assert decoder.median.unique().tolist() == [2]


# Sampling and training.


def test_ddim_draws_nothing_but_the_first_noise_and_comes_near_the_data() -> None:
    model = gaussian_model(steps=1000, sampling_steps=100, sampler="ddim")
    samples = model.sample(5000, generator=Generator().manual_seed(0)).double()
    noise = torch.randn(5000, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    assert torch.corrcoef(torch.cat([samples, noise], 1).T)[0, 1] > 0.9999
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert samples.std().item() == pytest.approx(STD, rel=0.05)
    assert model.sample(3, temperature=0.0).unique().numel() == 1
    ancestral = gaussian_model(steps=100, sampling_steps=10)
    assert ancestral.sample(3, temperature=0.0).unique().numel() == 1


@pytest.mark.parametrize("levels", [None, 16])
def test_foreseen_integers_lie_within_their_interval(levels: int | None) -> None:
    model = DDPM((2,), levels, ADAM, hidden=2, depth=0, steps=50, sampling_steps=50)
    with torch.no_grad():
        start = model._start(3 * torch.randn(100, 2, generator=Generator().manual_seed(0)), 50)
    assert (start.abs().max() <= 1) == (levels is not None)


def test_variance_is_by_default_that_of_the_posterior_for_integers_and_of_the_noise_for_reals() -> None:
    integers, reals = (DDPM((2,), levels, ADAM, steps=50, sampling_steps=50) for levels in (4, None))
    assert integers.scale(30, 29) == integers.posterior(30, 29)[2]
    assert reals.scale(30, 29) == pytest.approx(math.sqrt(1 - reals.share[30] / reals.share[29]))


def test_the_known_denoiser_has_the_least_loss() -> None:
    model = gaussian_model(steps=100, sampling_steps=10)
    share = torch.tensor(model.share[1:]).double()
    least = (share * STD**2 / (share * STD**2 + 1 - share)).mean().item()  # the variance of epsilon given x_t
    x = (MEAN + STD * torch.randn(50_000, 1, generator=Generator().manual_seed(0))).double()
    with torch.no_grad():
        loss = model.validation_loss(x, generator=Generator().manual_seed(1))
    assert loss.mean().item() == pytest.approx(least, rel=0.03)


def test_it_counts_its_evaluations() -> None:
    data = small_data((2,), None)
    model = new_model("ddpm", data.spec, "model.steps=50", "model.sampling_steps=13")
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    rows = {
        row.info.name: row.value
        for row in Cost(4).compute(Examples(TrainedModel(model, None, 0, ORIGIN), data, seed=0))
    }
    for name, call in (
        ("nfe_sample", lambda: model.sample(2)),
        ("nfe_log_weight", lambda: model.log_weight(data.test.x)),
    ):
        calls.clear()
        call()
        assert rows[name] == len(calls) == 13


def test_a_resumed_run_gives_the_bits_of_a_whole_one_and_so_do_recorded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def train(name: str, deaths: int = 0) -> None:
        left = iter(range(deaths))

        def validate(model: object) -> float:
            if next(left, None) == deaths - 1:
                raise KilledError
            return 1.0

        model = new_model("ddpm", data.spec)
        model.make_optimizer = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
        schedule = Schedule(examples=160, batch_size=16, validate_every=64)
        (tmp_path / name).mkdir(exist_ok=True)
        fit(model, data, schedule, Hardware(), seed=5, folder=tmp_path / name, config={}, validate=validate)

    def weights(name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"]
        return state

    data = small_data((4,), 4, n=100)
    train("whole")
    with pytest.raises(KilledError):
        train("broken", deaths=2)
    train("broken")
    graphs = TapeGraphs()
    monkeypatch.setattr(fit_module, "recorder_for", lambda device: graphs)
    train("recorded")
    assert graphs.replays >= 9
    for name in ("broken", "recorded"):
        assert all(torch.equal(weights("whole")[key], value) for key, value in weights(name).items()), name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 10, "sampling_steps": 5}, "steps"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"steps": 100, "sampling_steps": 101}, "sampling_steps"),
        ({"schedule": "sigmoid"}, "schedule"),
        ({"sampler": "euler"}, "sampler"),
        ({"variance": "learned"}, "variance"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_mistakes_are_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DDPM((2,), None, ADAM, **options)
    with pytest.raises(ValueError, match="multipliers: 4 scales need images of at least 8 x 8"):
        DDPM((1, 4, 4), 2, ADAM)


def test_the_bound_beside_ddim_samples_says_of_what_it_is() -> None:
    spec = small_data((2,), None).spec
    for sampler in ("ancestral", "ddim"):
        model = new_model("ddpm", spec, f"model.sampler={sampler}")
        assert isinstance(model, DDPM)
        assert ("DDIM" in model.caveat) is (sampler == "ddim")
