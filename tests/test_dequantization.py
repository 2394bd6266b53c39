"""Variational dequantization: cells are never left, log q(u|x) is that of a known density, masses sum to one."""

import functools
import math
from pathlib import Path

import pytest
import torch
from helpers_density import discrete_mass, randomize
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Generator, Tensor, nn

from models.flows.flowpp import FlowPP
from models.flows.realnvp import RealNVP
from models.nn.mlp import MLP
from models.transforms import dequantize
from models.transforms.base import Chain
from models.transforms.coupling import Coupling, alternating
from models.transforms.dequantize import UniformDequantization, VariationalDequantization
from models.transforms.elementwise import Elementwise
from models.transforms.flatten import Flatten
from models.transforms.logit import Logit
from models.transforms.univariate import Affine

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


class Nothing(nn.Module):
    """Features of none of the data."""

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x.new_zeros(len(x), 1)


def logistic_noise(levels: int, dim: int, shift: float = 0.0, log_scale: float = 0.0) -> VariationalDequantization:
    """v = e^s eps + t for every entry, whatever x."""
    flow = Elementwise(Affine(bound=1e6), (dim,))
    with torch.no_grad():
        flow.raw[0], flow.raw[1] = shift, log_scale
    return VariationalDequantization(levels, flow, Nothing())


def drawn_noise(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """eps: normal numbers as quantiles of the standard logistic distribution."""
    normal = torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)
    return torch.logit(torch.special.ndtr(normal))


def conditional_noise(levels: int, dim: int, n_context: int = 0) -> VariationalDequantization:
    couplings = []
    for i in range(2):
        kept, moved = alternating(dim, i)
        couplings.append(
            Coupling(kept, moved, MLP(len(kept), 2 * len(moved), hidden=8, depth=1, n_context=3), Affine())
        )
    features = MLP(dim, 3, hidden=8, depth=1, n_context=n_context)
    return VariationalDequantization(levels, Chain(*couplings), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_scale", [0.0, 3.0])
def test_no_level_of_any_depth_leaves_its_cell(log_scale: float, dtype: torch.dtype) -> None:
    """Also where u is 0 or 1 to the last bit, as about half of them are at a log-scale of 3."""
    for levels in range(2, 257):
        x = torch.arange(levels, dtype=torch.uint8)[:, None].expand(-1, 40)
        transform = logistic_noise(levels, 40, log_scale=log_scale).to(dtype)
        y, log_term = transform(x.to(dtype), generator=Generator().manual_seed(levels))
        assert y.dtype == log_term.dtype == dtype
        assert y.min() > 0
        assert y.max() < 1
        assert torch.equal((y * levels).floor().to(torch.uint8), x)
        assert torch.equal(transform.inverse(y)[0].to(torch.uint8), x)
        assert log_term.isfinite().all()


@pytest.mark.parametrize("shift", [-1e4, -120.0, -17.0, 17.0, 120.0, 1e4])
def test_noise_rounded_to_an_end_of_the_cell_stays_inside(shift: float) -> None:
    for levels in (2, 3, 49, 100, 255, 256):
        x = torch.arange(levels, dtype=torch.uint8)[:, None]
        y, log_term = logistic_noise(levels, 1, shift=shift, log_scale=-30.0)(x, generator=Generator().manual_seed(0))
        assert torch.equal((y * levels).floor().to(torch.uint8), x)
        assert log_term.isfinite().all()


@pytest.mark.parametrize(("shift", "log_scale"), [(0.0, 0.0), (-1.0, 0.7), (2.0, -1.0)])
def test_log_term_is_that_of_logit_logistic_noise(shift: float, log_scale: float) -> None:
    levels, dim = 8, 3
    x = torch.randint(levels, (50, dim), generator=Generator().manual_seed(1)).double()
    transform = logistic_noise(levels, dim, shift, log_scale).double()
    _, log_term = transform(x, generator=Generator().manual_seed(2))
    u = (math.exp(log_scale) * drawn_noise(50, dim, seed=2) + shift).sigmoid()
    logistic = [
        torch.distributions.SigmoidTransform().inv,
        torch.distributions.AffineTransform(shift, math.exp(log_scale)),
    ]
    q = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(dim).double(), torch.ones(dim).double()),
        [*logistic, torch.distributions.SigmoidTransform()],
    )
    torch.testing.assert_close(log_term, -dim * math.log(levels) - q.log_prob(u).sum(1))


def test_the_identity_gives_uniform_noise() -> None:
    transform = logistic_noise(8, 1)
    x = torch.full((200_000, 1), 3, dtype=torch.uint8)
    y, log_term = transform(x, generator=Generator().manual_seed(4))
    torch.testing.assert_close(log_term, torch.full_like(log_term, -math.log(8)), rtol=0, atol=1e-5)
    u = (y * 8 - 3).double()
    assert abs(u.mean().item() - 1 / 2) < 4 * math.sqrt(1 / 12 / 200_000)
    assert abs(u.var().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / 200_000)


def test_log_term_of_a_coupled_flow_against_autograd() -> None:
    """-log q(u|x) from the Jacobian of noise -> u, with neither the flow's nor the sigmoid's log-derivative."""
    levels, dim = 4, 3
    transform = conditional_noise(levels, dim)
    randomize(transform, 0.7)
    transform.double()
    x = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0]], dtype=torch.float64)
    y, log_term = transform(x, generator=Generator().manual_seed(3))
    noise = drawn_noise(2, dim, seed=3)
    features = transform.features(2 * x / 3 - 1, None)
    for i in range(2):
        one = features[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda e, c=one: transform.flow(e[None], context=c)[0][0].sigmoid(), noise[i]
        )
        log_noise = -(noise[i] + 2 * (-noise[i]).exp().log1p()).sum()  # of the logistic distribution
        log_q = log_noise - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_term[i], -dim * math.log(levels) - log_q)
    # Noise moved to the grid is moved by half a cell of it at most.
    u = transform.flow(noise, context=features)[0].sigmoid()
    assert (y * levels - x - u).abs().max() <= 0.5 / dequantize.CELLS + 1e-12


@pytest.mark.parametrize(("shift", "log_scale"), [(0.0, 0.4), (0.7, 0.5)])
def test_moving_noise_to_the_grid_is_accounted_for(
    shift: float, log_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a grid of four cells the expected weight is the midpoint rule of those four, far from the integral of p."""
    monkeypatch.setattr(dequantize, "CELLS", 4)
    levels, draws = 2, 400_000
    transform = logistic_noise(levels, 1, shift, log_scale).double()

    def density(y: Tensor) -> Tensor:  # nearly nothing but a peak at 1/8 + 1/16, a midpoint
        return (-0.5 * ((y - 0.1875) / 0.01).square()).exp() + 0.1 * y

    y, log_term = transform(torch.zeros(draws, 1, dtype=torch.float64), generator=Generator().manual_seed(0))
    midpoints = (torch.arange(4, dtype=torch.float64) + 0.5) / 4 / levels
    assert set(y.unique().tolist()) == set(midpoints.tolist())
    weights = density(y[:, 0]) * log_term.exp()
    expected = density(midpoints).mean() / levels
    error = weights.std() / math.sqrt(draws)
    assert error < 0.01 * expected
    assert abs(weights.mean() - expected) < 4 * error
    fine = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000 / levels
    assert expected > 2 * density(fine).mean() / levels


def test_gradients_reach_the_noise_as_if_it_had_not_been_moved() -> None:
    transform = conditional_noise(4, 3)
    randomize(transform, 0.5)
    x = torch.tensor([[0, 3, 1]], dtype=torch.uint8)
    y, log_term = transform(x, generator=Generator().manual_seed(0))
    (y.square().sum() + log_term.sum()).backward()
    for name, parameter in transform.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any(), name
    single = logistic_noise(4, 1, 0.3)
    y, _ = single(torch.tensor([[2]], dtype=torch.uint8), generator=Generator().manual_seed(0))
    y.sum().backward()
    u = (drawn_noise(1, 1, seed=0, dtype=torch.float32) + 0.3).sigmoid()
    torch.testing.assert_close(single.flow.raw.grad[0], (u * (1 - u) / 4)[0])


def test_noise_is_seeded_and_depends_on_x_and_on_the_context() -> None:
    transform = conditional_noise(4, 3, n_context=2)
    randomize(transform, 0.7)
    x = torch.tensor([[0, 3, 1]], dtype=torch.uint8)

    def draw(x: Tensor, context: Tensor, seed: int = 0) -> Tensor:
        return transform(x, context=context, generator=Generator().manual_seed(seed))[0] * 4 - x

    first = torch.tensor([[1.0, 0.0]])
    before = torch.get_rng_state()
    assert torch.equal(draw(x, first), draw(x, first))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(draw(x, first), draw(x, first, seed=1))
    assert not torch.equal(draw(x, first), draw(x, first.flip(1)))
    assert not torch.equal(draw(x, first), draw(3 - x, first))
    with pytest.raises(ValueError, match="context"):
        transform(x)


def test_it_is_a_bound_though_its_flow_is_exact() -> None:
    transform = conditional_noise(4, 3)
    assert transform.flow.relation == "exact"
    assert transform.relation == "lower_bound"
    assert Chain(transform, Logit(0.05)).relation == "lower_bound"
    assert transform.inverse_kind == "closed form"
    assert transform.output_shape((3,)) == (3,)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="keep it"):
        VariationalDequantization(4, Flatten((1, 2, 2)), Nothing()).output_shape((1, 2, 2))
    with pytest.raises(ValueError, match="levels"):
        VariationalDequantization(257, Flatten((1,)), Nothing())
    with pytest.raises(ValueError, match="bijection"):
        VariationalDequantization(4, UniformDequantization(4), Nothing())
    with pytest.raises(ValueError, match="uniform or variational"):
        RealNVP((3,), 4, ADAM, dequantization="gaussian")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 2), (2,), (1,)])
@pytest.mark.parametrize("kind", ["realnvp", "flowpp"])
def test_masses_of_integers_sum_to_one(kind: str, shape: tuple[int, ...]) -> None:
    if kind == "realnvp":
        sizes = {"couplings": 2, "hidden": 8, "depth": 1, "channels": 4, "blocks": 1}
        flow = RealNVP(shape, 4, ADAM, **sizes, dequantization="variational")  # type: ignore[arg-type]
        randomize(flow, 0.2)
    else:
        flow = FlowPP(
            shape, 4, ADAM, components=2, couplings=2, hidden=8, depth=1, channels=4, blocks=1, heads=1, alpha=1e-6
        )  # type: ignore[assignment]
        randomize(flow.eval(), 0.1)
    mass, stderr = discrete_mass(flow, draws=2000)
    assert 0 < stderr < 0.02
    assert mass == pytest.approx(1, abs=4 * stderr)


def test_learned_noise_tightens_the_bound() -> None:
    """For p(y) with all its mass in the lower tenth of the cell: uniform noise loses log 10, learned noise little."""
    levels, width = 2, 0.1
    learned = logistic_noise(levels, 1)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    generator = Generator().manual_seed(0)
    x = torch.zeros(256, 1)

    def bound(transform: nn.Module) -> Tensor:
        y, log_term = transform(x, generator=generator)
        u = (y * levels)[:, 0]
        log_density = math.log(levels) - u / width - math.log(width * (1 - math.exp(-1 / width)))
        return (log_density + log_term).mean()  # log p(x) = 0

    for _ in range(300):
        optimizer.zero_grad()
        (-bound(learned)).backward()
        optimizer.step()
    with torch.no_grad():
        assert bound(learned) > -0.15
        assert bound(UniformDequantization(levels)) < -2


def test_realnvp_is_given_it_by_yaml_alone() -> None:
    config = OmegaConf.merge(OmegaConf.load(MODELS / "realnvp.yaml"), OmegaConf.load(MODELS / "realnvp_vardeq.yaml"))
    del config["defaults"]
    overrides = {"channels": 8, "blocks": 1, "couplings": 2}
    for shape, levels in (((1, 8, 8), 256), ((3,), 16), ((3,), None)):
        flow = instantiate(config, shape=list(shape), levels=levels, **overrides)
        found = [m for m in flow.modules() if isinstance(m, VariationalDequantization)]
        assert len(found) == (levels is not None)
        assert not any(isinstance(m, UniformDequantization) for m in flow.modules())
        assert flow.relation == ("exact" if levels is None else "lower_bound")
    conditional = RealNVP(
        (1, 4, 4), 8, ADAM, channels=4, blocks=1, dequantization="variational", classes=3, conditional=True
    )
    randomize(conditional, 0.3)
    x = torch.randint(8, (5, 1, 4, 4), generator=Generator().manual_seed(0)).to(torch.uint8)
    code = conditional.encode(x, generator=Generator().manual_seed(1))
    assert torch.equal(conditional.decode(code), x)
