"""Masked diffusion: likelihood, bound and samples against an enumeration of all orders."""

import functools
import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_density import all_examples, randomize
from helpers_models import new_model, small_data
from scipy.stats import chisquare
from torch import Generator, Tensor

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Split
from bench.data.loader import Batches
from bench.training import fit as fit_module
from bench.training.fit import fit
from models.base import HasLikelihood
from models.diffusion.masked import MaskedDiffusion, gumbel

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
D, L = 3, 3


def random_model(steps: int, shape: tuple[int, ...] = (D,), levels: int = L) -> MaskedDiffusion:
    """With a network whose conditionals do not agree with each other: no order gives what another does."""
    model = MaskedDiffusion(
        shape, levels, ADAM, sampling_steps=steps, hidden=8, depth=1, channels=4, multipliers=[1], blocks=1
    )
    randomize(model, 1.5)
    return model.double().eval()


@torch.no_grad()
def by_order(model: MaskedDiffusion, x: Tensor) -> Tensor:
    """log w of each example for each order, ``(orders, B)``: written from the definition."""
    d = math.prod(model.shape)
    rows = []
    for order in itertools.permutations(range(d)):
        log_w = torch.zeros(len(x), dtype=torch.float64)
        for seen, then in itertools.pairwise(model.revealed):
            masked = torch.tensor([i not in order[:seen] for i in range(d)]).expand(len(x), d).reshape(x.shape)
            blank = torch.where(masked, 0, x.long())  # what is masked cannot matter
            log_probs = model._logits(blank, masked).log_softmax(1).flatten(2)  # (B, L, D)
            for i in order[seen:then]:
                log_w += log_probs[torch.arange(len(x)), x.flatten(1)[:, i].long(), i]
        rows.append(log_w)
    return torch.stack(rows)


@pytest.mark.parametrize(("steps", "groups"), [(1, [0, 3]), (2, [0, 2, 3]), (3, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_masses_are_those_of_all_orders_and_sum_to_one(steps: int, groups: list[int]) -> None:
    model = random_model(steps)
    assert model.revealed == groups
    x = all_examples((D,), L)
    orders = by_order(model, x)
    masses = orders.exp().mean(0)
    assert masses.sum().item() == pytest.approx(1, abs=1e-12)
    draws = 4000
    with torch.no_grad():
        log_w = model.log_weight(x.repeat(draws, 1), generator=Generator().manual_seed(0)).reshape(draws, -1)
    stderr = log_w.exp().std(0) / math.sqrt(draws)
    assert ((log_w.exp().mean(0) - masses).abs() <= 5 * stderr + 1e-12).all()
    bound = orders.mean(0)
    assert ((log_w.mean(0) - bound).abs() <= 5 * log_w.std(0) / math.sqrt(draws) + 1e-12).all()
    assert (bound <= masses.log() + 1e-12).all(), "the order-agnostic bound is one"
    assert bound.exp().sum() <= 1 + 1e-12
    assert (model.relation == "exact") == (steps == 1) == bool((log_w.std(0) < 1e-12).all())
    if steps > 1:
        assert (masses.log() - bound).max() > 0.1, "orders differ, or there would be nothing to see"


@pytest.mark.parametrize(("shape", "levels", "steps"), [((3,), 3, 1), ((3,), 3, 2), ((3,), 3, 3), ((1, 2, 2), 2, 3)])
def test_samples_have_the_masses_of_the_likelihood(shape: tuple[int, ...], levels: int, steps: int) -> None:
    model = random_model(steps, shape, levels)
    d, n = math.prod(shape), 10_000
    masses = by_order(model, all_examples(shape, levels)).exp().mean(0)
    x = model.sample(n, generator=Generator().manual_seed(0)).flatten(1).long()
    index = (x * torch.tensor([levels ** (d - 1 - i) for i in range(d)])).sum(1)
    counts = torch.bincount(index, minlength=levels**d)
    common = n * masses > 5
    expected = torch.cat([n * masses[common], n * masses[~common].sum(0, keepdim=True)])
    observed = torch.cat([counts[common], counts[~common].sum(0, keepdim=True)])
    keep = expected > 1e-9
    assert chisquare(observed[keep].numpy(), expected[keep].numpy(), sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize(("batch", "seeds"), [(30, 300), (2, 1500)])
def test_the_training_loss_is_the_bound_over_all_orders(batch: int, seeds: int) -> None:
    model = random_model(D)
    x = all_examples((D,), L)[5:6]
    bound = by_order(model, x).mean()
    with torch.no_grad():
        losses = torch.stack(
            [model.validation_loss(x.repeat(batch, 1), generator=Generator().manual_seed(s)) for s in range(seeds)]
        ).mean(1)
    expected = -bound / (D * math.log(2))
    assert abs(losses.mean() - expected) <= 4 * losses.std() / math.sqrt(len(losses))


def test_nothing_is_seen_of_masked_entries() -> None:
    model = random_model(2, (2, 3, 3), 5)
    g = Generator().manual_seed(0)
    x = torch.randint(0, 5, (4, 2, 3, 3), generator=g)
    masked = torch.rand(4, 2, 3, 3, generator=g) < 0.5
    other = torch.where(masked, torch.randint(0, 5, x.shape, generator=g), x)
    with torch.no_grad():
        assert torch.equal(model._logits(x, masked), model._logits(other, masked))
        assert not torch.equal(model._logits(x, masked), model._logits((x + 1) % 5, masked))
        assert model._logits(x, masked).shape == (4, 5, 2, 3, 3)


def test_gumbel_noise_draws_from_the_softmax_and_at_temperature_0_the_mode() -> None:
    logits = torch.tensor([1.0, 0.0, -2.0, 0.5]).expand(100_000, 4)
    drawn = (logits + gumbel(logits, Generator().manual_seed(0))).argmax(1)
    counts = torch.bincount(drawn, minlength=4)
    assert chisquare(counts.numpy(), (100_000 * logits[0].softmax(0)).numpy(), sum_check=False).pvalue > 1e-3
    model = random_model(1)
    cold = model.sample(7, temperature=0.0, generator=Generator().manual_seed(0))
    nothing, masked = torch.zeros(7, D, dtype=torch.long), torch.ones(7, D, dtype=torch.bool)
    assert torch.equal(cold.long(), model._logits(nothing, masked).argmax(1))


def train(folder: Path, deaths: int = 0, steps: int = 10) -> HasLikelihood:
    class KilledError(Exception):
        pass

    left = iter(range(deaths))

    def validate(model: object) -> float:
        if next(left, None) == deaths - 1:
            raise KilledError
        return 1.0

    data = small_data((4,), 4, n=100)
    model = new_model("masked_diffusion", data.spec)
    model.make_optimizer = functools.partial(torch.optim.SGD, lr=1e-1, momentum=0.9)
    schedule = Schedule(examples=16 * steps, batch_size=16, validate_every=64)
    folder.mkdir(exist_ok=True)
    try:
        fit(model, data, schedule, Hardware(), seed=5, folder=folder, config={}, validate=validate)
    except KilledError:
        assert deaths
    assert isinstance(model, HasLikelihood)
    return model


def test_it_learns_that_entries_go_together(tmp_path: Path) -> None:
    data = small_data((4,), 4, n=100)
    model = train(tmp_path, steps=200)
    with torch.no_grad():
        ours = model.log_weight(data.test.x.repeat(50, 1), generator=Generator().manual_seed(0)).mean().item()
    shares = torch.stack([(data.train.x == level).float().mean(0) for level in range(4)])  # (L, D)
    apart = shares.clamp(min=1e-3).log().gather(0, data.test.x.long()).sum(1).mean().item()
    assert ours > apart + 0.3


def test_a_resumed_run_gives_the_bits_of_a_whole_one_and_so_do_recorded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"]
        return state

    train(tmp_path / "whole")
    train(tmp_path / "broken", deaths=2)
    train(tmp_path / "broken")
    graphs = TapeGraphs()
    monkeypatch.setattr(fit_module, "recorder_for", lambda device: graphs)
    train(tmp_path / "recorded")
    assert graphs.replays >= 9
    for name in ("broken", "recorded"):
        assert all(torch.equal(weights("whole")[key], value) for key, value in weights(name).items()), name


@pytest.mark.parametrize(
    ("shape", "levels", "options", "named"),
    [
        ((3,), None, {}, "levels"),
        ((3,), 1, {}, "levels"),
        ((3,), 300, {}, "levels"),
        ((3,), 4, {"sampling_steps": 0}, "sampling_steps"),
        ((3,), 4, {"embedding": 0}, "embedding"),
        ((3,), 4, {"depth": -1}, "depth"),
        ((1, 4, 4), 2, {}, "multipliers: 4 scales need images of at least 8 x 8"),
        ((2, 2), 4, {}, "shape"),
    ],
)
def test_mistakes_are_refused_by_name(
    shape: tuple[int, ...], levels: int | None, options: dict[str, int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        MaskedDiffusion(shape, levels, ADAM, **options)


def test_what_steps_are_tried_on_before_the_first_batch_are_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody wrote holds any number: as an index of an embedding it would end a CUDA context."""
    split = Split(torch.randint(0, 4, (20, 3), dtype=torch.uint8), torch.randint(0, 2, (20,)))
    batches = Batches(split, 5, seed=0)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: torch.full(size, 77, **options))
    x, y = batches.buffers()
    assert y is not None
    assert int(x.max()) < 4
    assert int(y.max()) < 2
