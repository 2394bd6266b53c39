"""RealNVP: densities integrate to 1, codes are exact, and what the harness asks of every model."""

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from helpers_density import discrete_mass, examples, quadrature, randomize
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torch import Generator
from torch.utils.data import DataLoader, TensorDataset

from models.flows.base import Flow
from models.flows.realnvp import RealNVP
from models.transforms.base import Chain
from models.transforms.coupling import Coupling, MaskedCoupling
from models.transforms.multiscale import MultiScale
from models.transforms.squeeze import Squeeze

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SHAPES = [((1,), None), ((3,), None), ((2, 4, 4), None), ((1,), 4), ((3,), 4), ((1, 1, 2), 4), ((3, 8, 8), 256)]


def small(shape: tuple[int, ...], levels: int | None, alpha: float = 1e-6) -> RealNVP:
    return RealNVP(shape, levels, ADAM, couplings=4, hidden=16, depth=1, channels=8, blocks=1, alpha=alpha)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_density_of_one_variable_integrates_to_one(shape: tuple[int, ...]) -> None:
    flow = small(shape, None)
    randomize(flow, 0.5)
    flow.double()
    assert quadrature(flow, half_width=60, points=20_000) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("shape", "seed", "half_width", "points"),
    [((2,), 0, 30, 1000), ((2,), 1, 30, 1000), ((1, 1, 2), 0, 15, 400), ((1, 2, 1), 1, 15, 400)],
)
def test_density_of_two_variables_integrates_to_one(
    shape: tuple[int, ...], seed: int, half_width: float, points: int
) -> None:
    flow = small(shape, None)
    randomize(flow, 0.3, seed)
    flow.double()
    # The test means something: the density is far from the base's, and all of it lies in the square.
    x = flow.sample(20_000, generator=Generator().manual_seed(0))
    assert (x.std(0) - 1).abs().max() > 0.1
    assert x.abs().max() < half_width
    assert quadrature(flow, half_width=half_width, points=points) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1), (2,), (1,)])
def test_masses_of_integers_sum_to_one(shape: tuple[int, ...]) -> None:
    flow = small(shape, 4)
    randomize(flow, 0.3)
    mass, stderr = discrete_mass(flow, draws=4000)
    assert 0 < stderr < 0.01
    assert mass == pytest.approx(1, abs=4 * stderr)


def test_a_wide_margin_of_the_logit_loses_mass_and_never_gains_any() -> None:
    # At its start the flow is the identity: y = logit(0.05 + 0.9 x) is standard normal within +-2.944.
    mass, stderr = discrete_mass(small((2,), 4, alpha=0.05), draws=4000)
    kept = math.erf(math.log(0.95 / 0.05) / math.sqrt(2)) ** 2
    assert mass == pytest.approx(kept, abs=4 * stderr)
    assert kept < 0.994


def test_log_weight_of_the_identity_is_the_base_density() -> None:
    flow = small((3,), None)
    x = examples((3,), None, 5)
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_weight(x), expected)


def test_relation_follows_from_the_data() -> None:
    for shape, levels in SHAPES:
        assert small(shape, levels).relation == ("exact" if levels is None else "lower_bound")


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_codes_are_exact_and_samples_are_data(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 0.2)
    x = examples(shape, levels, 6)
    z = flow.encode(x, generator=Generator().manual_seed(0))
    assert z.shape == (6, math.prod(shape))
    back = flow.decode(z)
    assert back.dtype == x.dtype
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    assert flow.log_weight(x, generator=Generator().manual_seed(0)).shape == (6,)

    s = flow.sample(5, generator=Generator().manual_seed(1))
    assert s.shape == (5, *shape)
    assert s.dtype == x.dtype
    assert not s.requires_grad
    assert torch.equal(s, flow.sample(5, generator=Generator().manual_seed(1)))
    if levels is None:
        assert not torch.equal(s, flow.sample(5, generator=Generator().manual_seed(2)))
    else:
        assert s.max().item() < levels
    # At temperature 0 every sample is the image of the origin.
    cold = flow.sample(3, temperature=0.0, generator=Generator().manual_seed(3))
    assert torch.equal(cold, flow.decode(torch.zeros(3, flow.dim)))


def test_temperature_scales_the_noise() -> None:
    flow = small((2,), None)  # the identity
    hot = flow.sample(10, temperature=3.0, generator=Generator().manual_seed(0))
    torch.testing.assert_close(hot, 3 * flow.sample(10, generator=Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((1, 28, 28), 3), ((3, 32, 32), 4), ((1, 8, 8), 2), ((1, 5, 8), 1), ((1, 1, 2), 1), ((2, 1, 1), 1)],
)
def test_number_of_scales_follows_from_the_shape(shape: tuple[int, int, int], scales: int) -> None:
    flow = small(shape, 256)
    [multiscale] = [m for m in flow.modules() if isinstance(m, MultiScale)]
    assert len(multiscale.levels) == scales
    assert sum(isinstance(m, Squeeze) for m in flow.modules()) == scales - 1
    assert sum(isinstance(m, Coupling | MaskedCoupling) for m in flow.modules()) == 6 * (scales - 1) + 4


@pytest.mark.parametrize(("shape", "levels"), [((3,), None), ((1, 8, 8), 4)])
def test_every_variable_reaches_the_density(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 0.3)
    body = flow.get_submodule("transform.parts")[-1]
    x = torch.randn(2, *shape, generator=Generator().manual_seed(0), requires_grad=True)
    z, log_det = body(x)
    (gradient,) = torch.autograd.grad((log_det - z.square().sum(1) / 2).sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 8, 8), 256)])
def test_large_parameters_give_no_nan(shape: tuple[int, ...], levels: int | None) -> None:
    flow = RealNVP(shape, levels, ADAM, hidden=128, channels=16, blocks=2)
    for module in flow.modules():
        if isinstance(module, Coupling | MaskedCoupling):
            module.conditioner.layers[-1].reset_parameters()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(10)
    log_w = flow.log_weight(examples(shape, levels, 64), generator=Generator().manual_seed(0))
    assert log_w.isfinite().all()
    log_w.mean().backward()
    assert all(p.grad.isfinite().all() for p in flow.parameters())
    assert not flow.sample(64, generator=Generator().manual_seed(0)).isnan().any()


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_reloaded_weights_give_the_same_numbers_on_another_batch(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 0.3)
    flow.log_weight(examples(shape, levels, 8))
    fresh = small(shape, levels)
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    other = examples(shape, levels, 5, seed=1)
    first, second = (f.log_weight(other, generator=Generator().manual_seed(2)) for f in (flow, fresh))
    assert torch.equal(first, second)


def test_loss_is_bits_per_dim_for_integers_and_nats_for_reals() -> None:
    for shape, levels in [((1, 8, 8), 256), ((3,), None)]:
        flow = small(shape, levels)
        flow.train_generator = Generator().manual_seed(7)
        x = examples(shape, levels, 4)
        loss = flow.training_step((x, None), 0)
        nats = -flow.log_weight(x, generator=Generator().manual_seed(7)).mean()
        torch.testing.assert_close(loss, nats if levels is None else nats / (flow.dim * math.log(2)))


def test_training_finds_a_known_density() -> None:
    # Rotated and scaled normal: the best loss is its entropy.
    torch.manual_seed(0)
    cholesky = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    generator = Generator().manual_seed(0)
    flow = RealNVP((2,), None, functools.partial(torch.optim.Adam, lr=3e-3), couplings=4, hidden=32, depth=1)
    optimizer = flow.configure_optimizers()
    for step in range(400):
        x = torch.randn(256, 2, generator=generator) @ cholesky.T
        optimizer.zero_grad()
        flow.training_step((x, None), step).backward()
        optimizer.step()
    x = torch.randn(20_000, 2, generator=generator) @ cholesky.T
    entropy = 1 + math.log(2 * math.pi)  # the determinant is 1
    with torch.no_grad():
        loss = flow.training_step((x, None), 0).item()
    assert loss == pytest.approx(entropy, abs=0.05)
    torch.testing.assert_close(
        flow.sample(20_000, generator=generator).T.cov(), cholesky @ cholesky.T, rtol=0.15, atol=0.15
    )


@pytest.mark.filterwarnings("ignore:.*(dataloader|num_workers|GPU|TPU|litlogger|LeafSpec).*")
def test_lightning_trains_it(tmp_path: object) -> None:
    flow = small((1, 8, 8), 4)
    flow.train_generator = Generator().manual_seed(0)
    before = copy.deepcopy(flow.state_dict())
    x = examples((1, 8, 8), 4, 8)
    batches = DataLoader(TensorDataset(x, torch.zeros(8, dtype=torch.int64)), batch_size=4)
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(flow, batches)
    assert any(not torch.equal(after, before[name]) for name, after in flow.state_dict().items())


def test_couplings_compile_without_a_graph_break() -> None:
    flow = small((1, 8, 8), 4)
    randomize(flow, 0.3)
    assert isinstance(flow.transform, Chain)
    multiscale = flow.transform.parts[-1]
    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(multiscale, fullgraph=True, backend="eager")
    x = torch.randn(2, 1, 8, 8, generator=Generator().manual_seed(0))
    for got, expected in zip(compiled(x), multiscale(x), strict=True):
        torch.testing.assert_close(got, expected)


def test_its_yaml_makes_the_papers_model() -> None:
    config = OmegaConf.load(MODELS / "realnvp.yaml")
    flow = instantiate(config, shape=[3], levels=None)
    assert isinstance(flow, Flow)
    assert flow.shape == (3,)
    assert sum(isinstance(m, Coupling | MaskedCoupling) for m in flow.modules()) == 8
    optimizer = flow.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    with pytest.raises(ValueError, match="vectors"):
        RealNVP((3, 4), None, ADAM)


def conditional(shape: tuple[int, ...], levels: int | None, classes: int = 3) -> RealNVP:
    return RealNVP(
        shape, levels, ADAM, couplings=4, hidden=16, depth=1, channels=8, blocks=1, classes=classes, conditional=True
    )


@pytest.mark.parametrize(("shape", "levels"), [((1,), None), ((3,), 4), ((1, 8, 8), 8)])
def test_a_conditional_flow_is_a_mixture_over_its_classes(shape: tuple[int, ...], levels: int | None) -> None:
    flow = conditional(shape, levels)
    randomize(flow, 0.3)
    x = examples(shape, levels, 6)
    joint = flow.class_log_weights(x, generator=Generator().manual_seed(0))  # (B, classes)
    assert joint.shape == (6, 3)
    assert (joint[:, 0] != joint[:, 1]).all()
    torch.testing.assert_close(flow.log_weight(x, generator=Generator().manual_seed(0)), joint.logsumexp(1))
    code = flow.encode(x, generator=Generator().manual_seed(0))
    assert code.shape == (6, 1 + math.prod(shape))
    back = flow.decode(code)
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    assert flow.sample_class(torch.tensor([2, 0]), generator=Generator().manual_seed(0)).shape == (2, *shape)
    every = flow.training_step((x, torch.arange(6) % 3), 0)
    every.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_a_conditional_flow_integrates_to_one_and_samples_what_it_says() -> None:
    flow = conditional((1,), None)
    randomize(flow, 0.5)
    flow.double()
    assert quadrature(flow, half_width=60, points=20_000) == pytest.approx(1, abs=1e-8)
    # Within a class as well: p(x, y) integrates to p(y).
    x = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) * 60 / 10_000 - 60
    masses = flow.class_log_weights(x).exp().sum(0) * 60 / 10_000
    torch.testing.assert_close(masses, flow.class_logits.softmax(0))
    n = 40_000
    drawn = flow.sample(n, generator=Generator().manual_seed(0)).double()
    density = flow.log_weight(x).exp() * 60 / 10_000
    mean = (density * x[:, 0]).sum()
    spread = ((density * x[:, 0].square()).sum() - mean**2).sqrt()
    assert abs(drawn.mean() - mean) < 4 * spread / math.sqrt(n)


def test_classes_that_the_data_do_not_have_are_missed() -> None:
    with pytest.raises(ValueError, match="class labels"):
        RealNVP((2,), None, ADAM, conditional=True)
    assert RealNVP((2,), None, ADAM, classes=3).classes == 0


def test_an_inverse_that_fails_is_no_black_picture() -> None:
    flow = small((3,), 256)
    with torch.no_grad():
        next(flow.transform.parameters()).fill_(math.nan)
    with pytest.raises(ArithmeticError, match="NaN"):
        flow.sample(4, generator=Generator().manual_seed(0))


@pytest.mark.parametrize("option", ["couplings", "hidden", "depth"])
def test_options_out_of_range_are_named(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be at least \d, not -1"):
        RealNVP((3,), None, ADAM, **{option: -1})
