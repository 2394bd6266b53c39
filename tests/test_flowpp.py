"""Flow++: its couplings and networks, the order of its layers, densities that integrate to 1."""

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from helpers_density import discrete_mass, examples, quadrature, randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Generator, Tensor, nn
from torch.autograd.functional import jacobian

from models.flows.flowpp import FlowPP
from models.nn.gated import GatedConvNet
from models.nn.mlp import MLP
from models.transforms.checkerboard import CheckerboardCoupling
from models.transforms.coupling import Coupling, MaskedCoupling, checkerboard_mask
from models.transforms.dequantize import VariationalDequantization
from models.transforms.logistic_mixture import LogisticMixtureCDF
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine

MODELS = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SHAPES = [((1,), None), ((3,), None), ((2, 4, 4), None), ((1,), 4), ((3,), 4), ((1, 5, 7), 4), ((3, 8, 8), 256)]


def small(shape: tuple[int, ...], levels: int | None, alpha: float = 0.05, classes: int | None = None) -> FlowPP:
    """Normalization stays the identity: it is set by data in training mode."""
    torch.manual_seed(0)
    return FlowPP(
        shape, levels, ADAM, components=2, couplings=4, hidden=8, depth=1, channels=8, blocks=1, heads=2, alpha=alpha,
        classes=classes, conditional=classes is not None,
    ).eval()  # fmt: skip


def network(n_in: int, n_out: int, h: int, w: int, n_context: int = 0, heads: int = 2) -> GatedConvNet:
    return GatedConvNet(n_in, n_out, (h, w), channels=8, blocks=2, heads=heads, n_context=n_context)


@few
@given(c=st.integers(1, 3), h=st.integers(1, 3), half_w=st.integers(1, 2), parity=st.integers(0, 1))
def test_checkerboard_coupling(c: int, h: int, half_w: int, parity: int) -> None:
    conditioner = network(c, 2 * c, h, half_w)
    check_bijection(prepared(CheckerboardCoupling(parity, conditioner, Affine())), normal(2, c, h, 2 * half_w))


@pytest.mark.parametrize("parity", [0, 1])
def test_checkerboard_coupling_of_a_mixture(parity: int) -> None:
    law = LogisticMixtureCDF(3)
    coupling = prepared(CheckerboardCoupling(parity, network(2, 2 * law.n_parameters, 3, 2), law), 0.3)
    check_bijection(coupling, normal(2, 2, 3, 4), inverse_tolerance=1e-9)


@pytest.mark.parametrize("parity", [0, 1])
def test_checkerboard_coupling_keeps_and_moves_what_a_mask_does(parity: int) -> None:
    """A network that sees the same at every position: then the colours as pictures and the mask mean the same."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
            return torch.tensor([0.3, -0.2], dtype=x.dtype)[:, None, None].expand(len(x), 2, *x.shape[2:])

    x = normal(2, 1, 3, 4)
    ours = CheckerboardCoupling(parity, Constant(), Affine())
    masked = MaskedCoupling(checkerboard_mask(3, 4, parity), Constant(), Affine())
    for got, expected in zip(ours(x), masked(x), strict=True):
        torch.testing.assert_close(got, expected)
    for got, expected in zip(ours.inverse(x), masked.inverse(x), strict=True):
        torch.testing.assert_close(got, expected)
    trained = prepared(CheckerboardCoupling(parity, network(1, 2, 3, 2), Affine()))
    keep = checkerboard_mask(3, 4, parity).bool().flatten()
    matrix = jacobian(lambda e: trained(e[None])[0].flatten(), x[0]).reshape(12, 12)
    assert torch.equal(matrix[keep][:, keep], torch.eye(6).double())
    assert matrix[keep][:, ~keep].abs().max() == 0
    moved = matrix[~keep][:, ~keep]
    assert torch.equal(moved, moved.diagonal().diag())
    assert matrix[~keep][:, keep].abs().min() > 0  # attention: every kept position matters to every moved one


def test_pictures_of_the_context_stand_with_their_positions() -> None:
    class First(nn.Module):
        """Shifts by the context's channels, that of parity 0 minus twice that of parity 1."""

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            even, odd = context.split(1, 1)
            return torch.cat([even - 2 * odd, torch.zeros_like(even)], 1)

    context = normal(1, 1, 2, 4)
    z, _ = CheckerboardCoupling(0, First(), Affine())(torch.zeros(1, 1, 2, 4).double(), context=context)
    c = context[0, 0]
    # Row 0 has parity 0 at even columns, row 1 at odd ones; the pairs are those of neighbouring columns.
    expected = [
        [0, c[0, 0] - 2 * c[0, 1], 0, c[0, 2] - 2 * c[0, 3]],
        [c[1, 1] - 2 * c[1, 0], 0, c[1, 3] - 2 * c[1, 2], 0],
    ]
    torch.testing.assert_close(z[0, 0], torch.tensor(expected, dtype=torch.float64))


def test_odd_widths_have_no_two_colours_of_one_size() -> None:
    with pytest.raises(ValueError, match="even width"):
        CheckerboardCoupling(0, network(1, 2, 3, 1), Affine()).output_shape((1, 2, 3))


def test_block_is_the_papers() -> None:
    """Gated convolution, normalization, gated attention, normalization, written out for one example."""
    net = network(2, 3, 2, 3, n_context=1)
    randomize(net, 0.3)
    net.double()
    x, context = normal(1, 2, 2, 3), normal(1, 1, 2, 3, seed=1)
    h = net.first(x)
    for block in net.blocks:

        def phi(t: Tensor) -> Tensor:
            return torch.where(t > 0, t, t.exp() - 1)

        both = torch.cat([phi(h), phi(-h)], 1)
        inner = block.conv(both) + block.project(torch.cat([phi(context), phi(-context)], 1))
        a, b = block.gate(torch.cat([phi(inner), phi(-inner)], 1)).chunk(2, 1)
        h = h + a * b.sigmoid()

        def norm(t: Tensor, layer: nn.Module) -> Tensor:  # (8, 6)
            centred = t - t.mean(0)
            return centred / (centred.square().mean(0) + 1e-5).sqrt() * layer.weight[:, None] + layer.bias[:, None]

        tokens = norm(h[0].flatten(1), block.norms[0])
        qkv = block.queries_keys_values((tokens + net.positions.T).T).T
        mixed = []
        for head in range(2):
            q, k, v = (part[4 * head : 4 * head + 4] for part in qkv.split(8))
            attention = (q.T @ k / 2).softmax(1)  # over positions of keys; 2 is the root of 4 numbers a head
            mixed.append(v @ attention.T)
        a, b = block.attention_gate(torch.cat(mixed).T).T.chunk(2)
        h = norm(tokens + a * b.sigmoid(), block.norms[1]).reshape(1, 8, 2, 3)
    torch.testing.assert_close(net(x, context), net.last(h))


def test_networks_treat_examples_alone_and_read_their_context() -> None:
    for heads in (0, 2):
        net = network(2, 6, 4, 3, n_context=3, heads=heads)
        x = torch.randn(5, 2, 4, 3, generator=Generator().manual_seed(0))
        context = torch.randn(5, 3, generator=Generator().manual_seed(1))
        y = net(x, context)
        assert y.shape == (5, 6, 4, 3)
        torch.testing.assert_close(net(x[:1], context[:1]), y[:1])
        pictures = context[:, :, None, None].expand(-1, -1, 4, 3)
        torch.testing.assert_close(net(x, pictures), y)
        assert (net(x, -context) != y).any()
        with pytest.raises(ValueError, match="context"):
            net(x)
    with pytest.raises(ValueError, match="heads"):
        GatedConvNet(1, 1, (2, 2), channels=8, blocks=1, heads=3)


def test_networks_start_small() -> None:
    net = GatedConvNet(3, 40, (16, 16), channels=64, blocks=3, heads=4)
    y = net(torch.randn(4, 3, 16, 16, generator=Generator().manual_seed(0)))
    assert 0.05 < y.std().item() < 0.2
    assert (y[:, 0] - y[:, 1]).std() > 0.02  # components of a mixture start apart


def test_published_size() -> None:
    """31,443,440 parameters, as the paper's code for CIFAR-10 counts; ours has fewer scales and shifts."""
    config = OmegaConf.load(MODELS / "flowpp.yaml")
    flow = FlowPP(
        (3, 32, 32), 256, ADAM, components=config.components, channels=config.channels, blocks=config.blocks,
        heads=config.heads,
    )  # fmt: skip
    assert flow.n_parameters == pytest.approx(31_443_440, rel=0.01)


def kinds(flow: FlowPP) -> list[str]:
    names = {Coupling: "channel", CheckerboardCoupling: "checkerboard", MaskedCoupling: "masked", Squeeze: "squeeze"}
    return [names[type(m)] for m in flow.transform.children().__next__() if type(m) in names]


def test_order_of_the_couplings() -> None:
    assert kinds(small((3, 8, 8), None)) == [*["checkerboard"] * 4, "squeeze", *["channel"] * 2, *["checkerboard"] * 3]
    assert kinds(small((1, 6, 6), None)) == [*["checkerboard"] * 4, "squeeze", *["channel"] * 2, *["masked"] * 3]
    assert kinds(small((1, 5, 6), None)) == ["checkerboard"] * 7
    assert kinds(small((1, 6, 5), None)) == ["masked"] * 7
    assert kinds(small((5,), None)) == ["channel"] * 4
    [first] = [m for m in small((3, 8, 8), 256).modules() if isinstance(m, VariationalDequantization)]
    assert sum(isinstance(m, CheckerboardCoupling) for m in first.modules()) == 4


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_density_of_one_variable_integrates_to_one(shape: tuple[int, ...]) -> None:
    for std in (0.2, 0.5):
        flow = small(shape, None)
        randomize(flow, std)
        assert quadrature(flow.double(), half_width=100, points=20_000) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "std", "half_width", "points"),
    [((2,), 0.2, 30, 500), ((2,), 0.3, 30, 500), ((1, 1, 2), 0.2, 12, 150), ((1, 2, 1), 0.2, 12, 150)],
)
def test_density_of_two_variables_integrates_to_one(
    shape: tuple[int, ...], std: float, half_width: float, points: int
) -> None:
    flow = small(shape, None)
    randomize(flow, std)
    flow.double()
    x = flow.sample(5000, generator=Generator().manual_seed(0)).double()
    assert (x.std(0) - 1).abs().max() > 0.1  # far from the base's
    # Tails are those of logistics: what lies outside of the square is counted with samples.
    outside = (x.abs().flatten(1).amax(1) > half_width).double().mean().item()
    mass = quadrature(flow, half_width=half_width, points=points)
    assert mass + outside == pytest.approx(1, abs=4 * math.sqrt(outside / len(x)) + 1e-3)


def test_a_wide_margin_of_the_logit_loses_mass_and_never_gains_any() -> None:
    flow = small((2,), 4)
    randomize(flow, 0.1)
    mass, stderr = discrete_mass(flow, draws=2000)
    assert 0.8 < mass < 1 - 4 * stderr


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_codes_are_exact_and_samples_are_data(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels)
    randomize(flow, 0.1)
    x = examples(shape, levels, 6)
    z = flow.encode(x, generator=Generator().manual_seed(0))
    assert z.shape == (6, math.prod(shape))
    off = (flow.decode(z).double() - x.double()).abs()
    if levels is None:
        assert off.max() < 1e-4
    else:  # an error of 1e-6 takes noise over the edge of a cell that it lies within 1e-6 of
        assert off.max() <= 1
        assert (off > 0).double().mean() < 0.005
    s = flow.sample(5, generator=Generator().manual_seed(1))
    assert s.shape == (5, *shape)
    assert s.dtype == x.dtype
    assert torch.equal(s, flow.sample(5, generator=Generator().manual_seed(1)))
    assert flow.relation == ("exact" if levels is None else "lower_bound")
    fresh = small(shape, levels)
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    other = examples(shape, levels, 5, seed=1)
    first, second = (f.log_weight(other, generator=Generator().manual_seed(2)) for f in (flow, fresh))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 8, 8), 256)])
def test_large_parameters_give_no_nan(shape: tuple[int, ...], levels: int | None) -> None:
    """Raw parameters of the mixtures of scale 4: a coupling can then multiply by 400, and eleven by 10^28."""
    flow = small(shape, levels)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, GatedConvNet):
                module.last.weight.mul_(40)
            elif isinstance(module, MLP):
                module.layers[-1].weight.mul_(10)
    log_w = flow.log_weight(examples(shape, levels, 64), generator=Generator().manual_seed(0))
    assert log_w.isfinite().all()
    log_w.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    assert not flow.sample(64, generator=Generator().manual_seed(0)).isnan().any()


def test_under_autocast_transforms_stay_float32() -> None:
    flow = small((1, 8, 8), 8)
    randomize(flow, 0.05)
    x = examples((1, 8, 8), 8, 5)
    _, log_term = flow.transform(x.float(), generator=Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_term16 = flow.transform(x.float(), generator=Generator().manual_seed(0))
        back, log_det = flow.transform.inverse(z16)
    assert z16.dtype == log_term16.dtype == back.dtype == log_det.dtype == torch.float32
    assert torch.equal(back.to(torch.uint8), x)
    torch.testing.assert_close(log_term16, log_term, rtol=0.02, atol=2.0)


@pytest.mark.parametrize(("shape", "levels"), [((2,), None), ((1, 4, 4), 8), ((1, 5, 5), 4)])
def test_a_conditional_flow_is_a_mixture_over_its_classes(shape: tuple[int, ...], levels: int | None) -> None:
    flow = small(shape, levels, classes=3)
    randomize(flow, 0.15)
    x = examples(shape, levels, 6)
    joint = flow.class_log_weights(x, generator=Generator().manual_seed(0))
    assert (joint[:, 0] != joint[:, 1]).all()
    back = flow.decode(flow.encode(x, generator=Generator().manual_seed(0)))
    assert torch.equal(back, x) if levels is not None else torch.allclose(back, x, atol=1e-4)
    flow.training_step((x, torch.arange(6) % 3), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_its_yaml_makes_it_and_mistakes_are_refused() -> None:
    flow = instantiate(OmegaConf.load(MODELS / "flowpp.yaml"), shape=[3], levels=16)
    assert isinstance(flow, FlowPP)
    [law] = {m.univariate for m in flow.modules() if isinstance(m, Coupling)}
    assert law == LogisticMixtureCDF(32)
    with pytest.raises(ValueError, match="vectors"):
        FlowPP((3, 4), None, ADAM)
    with pytest.raises(ValueError, match="class labels"):
        FlowPP((2,), None, ADAM, conditional=True)
