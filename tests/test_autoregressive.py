"""Autoregressive transforms both ways round, the gate, permutations, and MAF, IAF and the autoregressive NSF."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_models import configuration, small_data
from helpers_transforms import check_bijection, check_log_det, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.autograd.functional import jacobian

from bench.config.build import build_model
from bench.errors import UserError
from models.flows.base import Flow
from models.flows.bnaf import BNAF
from models.flows.iaf import IAF
from models.flows.maf import MAF
from models.flows.naf import NAF
from models.flows.nsf_ar import AutoregressiveNSF
from models.nn.activation import ACTIVATIONS
from models.nn.made import MADE
from models.transforms.actnorm import ActNorm
from models.transforms.autoregressive import Autoregressive
from models.transforms.base import Chain, Transform
from models.transforms.dequantize import UniformDequantization
from models.transforms.gate import SigmoidGate, iaf_layers
from models.transforms.inverse import Inverse
from models.transforms.logit import Logit
from models.transforms.permute import Permute, reversal
from models.transforms.residual import Residual, Truncated
from models.transforms.spline import RationalQuadraticSpline
from models.transforms.univariate import Affine, Shift, Univariate

ADAM = functools.partial(torch.optim.Adam, lr=3e-3)
UNIVARIATES: dict[str, Univariate] = {
    "affine": Affine(),
    "gate": SigmoidGate(),
    "spline": RationalQuadraticSpline(4),
}
FLOWS: dict[str, Callable[..., Flow]] = {
    "maf": functools.partial(MAF, layers=3, hidden=16, depth=1),
    "iaf": functools.partial(IAF, layers=3, hidden=16, depth=1),
    "nsf_ar": functools.partial(AutoregressiveNSF, layers=3, hidden=16, depth=1, bins=5),
    "naf": functools.partial(NAF, layers=2, units=4, hidden=16, depth=1),
    "bnaf": functools.partial(BNAF, layers=2, units=4, depth=2),
}


def autoregressive(dim: int, univariate: Univariate, n_context: int = 0, depth: int = 1) -> Autoregressive:
    return Autoregressive(MADE(dim, univariate.n_parameters, hidden=12, depth=depth, n_context=n_context), univariate)


def naive_inverse(transform: Autoregressive, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """D passes of the whole network; after the i-th one variable more is right."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        x, log_derivative = transform.univariate.inverse(z, transform.network(x, context))
    return x, log_derivative.sum(1)


@torch.no_grad()
def integral(flow: Flow) -> float:
    """Of the density of one variable, by trapezoids between points that the flow puts where the mass is."""
    flow.double()
    z = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    x, _ = flow.transform.inverse(z)
    return torch.trapezoid(flow.log_weight(x).exp(), x[:, 0]).item()


@pytest.mark.parametrize("name", list(UNIVARIATES))
@few
@given(dim=st.integers(1, 7), depth=st.integers(0, 2), n_context=st.sampled_from([0, 2]))
def test_bijections(name: str, dim: int, depth: int, n_context: int) -> None:
    transform = prepared(autoregressive(dim, UNIVARIATES[name], n_context, depth))
    context = normal(3, n_context, seed=2) if n_context else None
    x = normal(3, dim)
    check_bijection(transform, x, context=context, inverse_tolerance=1e-9)
    matrix = jacobian(lambda e: transform(e[None], context=None if context is None else context[:1])[0][0], x[0])
    assert matrix.triu(1).abs().max() == 0, "exactly zero above the diagonal"
    assert matrix.diagonal().min() > 0


@few
@given(dim=st.integers(1, 5), n_context=st.sampled_from([0, 2]))
def test_the_other_way_round(dim: int, n_context: int) -> None:
    inner = autoregressive(dim, Affine(), n_context)
    transform = prepared(Inverse(inner))
    context = normal(3, n_context, seed=2) if n_context else None
    check_bijection(transform, normal(3, dim), context=context)
    x = normal(3, dim)
    for one, other in zip(transform(x, context=context), inner.inverse(x, context=context), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(transform.inverse(x, context=context), inner(x, context=context), strict=True):
        assert torch.equal(one, other)


def test_only_bijections_can_be_swapped() -> None:
    with pytest.raises(ValueError, match="bijection"):
        Inverse(UniformDequantization(4))
    with pytest.raises(ValueError, match="swapped already"):
        Inverse(Chain(Inverse(Logit(0.1))))
    with pytest.raises(ValueError, match="draws in training"):
        Inverse(Residual(nn.Identity(), 3, train_series=Truncated(2), eval_series=Truncated(2)))
    assert Inverse(Logit(0.1)).output_shape((3,)) == (3,)
    with pytest.raises(ValueError, match="vectors of 2"):
        Inverse(autoregressive(2, Shift())).output_shape((3,))
    with pytest.raises(ValueError, match="takes 2 parameters, not 3"):
        Autoregressive(MADE(2, 3, hidden=4, depth=1), Affine())


@pytest.mark.parametrize("name", list(UNIVARIATES))
@pytest.mark.parametrize("n_context", [0, 2])
def test_gradients_of_the_inverse_are_those_of_one_pass_for_each_variable(name: str, n_context: int) -> None:
    transform = prepared(autoregressive(4, UNIVARIATES[name], n_context, depth=2))
    z = normal(3, 4).requires_grad_()
    context = normal(3, n_context, seed=2).requires_grad_() if n_context else None
    wanted = [z, *transform.parameters()] + ([context] if n_context else [])
    weight = normal(3, 4, seed=5)
    gradients = []
    for x, log_det in (transform.inverse(z, context=context), naive_inverse(transform, z, context)):
        gradients.append(torch.autograd.grad((weight * x).sum() + log_det.square().sum(), wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        for one, other in zip(transform.inverse(z, context=context), naive_inverse(transform, z, context), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_gate_is_the_papers() -> None:
    """z = sigma x + (1 - sigma) m, between x and m; at zero it keeps sigmoid(2) of x; open, it is the identity."""
    gate = SigmoidGate(floor=0.0)
    x, m, s = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)
    z, log_derivative = gate.forward(x, torch.stack([m, s], 1))
    sigma = (s + 2).sigmoid()
    torch.testing.assert_close(z, sigma * x + (1 - sigma) * m)
    torch.testing.assert_close(log_derivative, nn.functional.logsigmoid(s + 2))
    assert ((z - x) * (z - m) <= 0).all()
    at_zero, _ = SigmoidGate().forward(x, torch.zeros(5, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(at_zero, 0.881 * x, rtol=1e-3, atol=0)
    torch.testing.assert_close(gate.forward(x, torch.stack([m, 0 * s + 50], 1))[0], x)
    closed = torch.stack([m, 0 * s - 1e4], 1)
    back, _ = SigmoidGate().inverse(SigmoidGate().forward(x, closed)[0], closed)
    torch.testing.assert_close(back, x)


@few
@given(dim=st.integers(1, 6), layers=st.integers(1, 3))
def test_a_posteriors_layers_read_the_encoder(dim: int, layers: int) -> None:
    chain = prepared(iaf_layers(dim, 3, layers=layers, hidden=16))
    z0, h = normal(4, dim), normal(4, 3, seed=1)
    check_bijection(chain, z0, context=h, inverse_tolerance=1e-9)
    alone = torch.cat([chain(z0[i : i + 1], context=h[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(chain(z0, context=h)[0], alone)
    assert (chain(z0, context=h)[0] != chain(z0, context=2 * h)[0]).any(1).all()
    with pytest.raises(ValueError, match="context"):
        chain(z0)
    assert sum(isinstance(part, Permute) for part in chain.parts) == layers - 1


def test_a_posterior_can_be_trained_to_a_correlated_normal() -> None:
    """Minimizing KL(q || p) over the flow alone: q's start is a standard normal, p has correlation 0.8."""
    torch.manual_seed(0)
    chain = iaf_layers(2, layers=2, hidden=16)
    target = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    optimizer = torch.optim.Adam(chain.parameters(), lr=1e-2)
    generator = Generator().manual_seed(0)

    def kl(n: int) -> Tensor:
        z0 = torch.randn(n, 2, generator=generator)
        z, log_det = chain(z0)
        log_q = -0.5 * z0.square().sum(1) - math.log(2 * math.pi) - log_det
        return (log_q - target.log_prob(z)).mean()

    before = kl(10_000).item()
    for _ in range(200):
        optimizer.zero_grad()
        kl(256).backward()
        optimizer.step()
    with torch.no_grad():
        assert abs(kl(10_000).item()) < 0.03 < 0.4 < before


@few
@given(order=st.permutations(range(5)))
def test_permutations(order: list[int]) -> None:
    check_bijection(Permute(order), normal(3, 5))
    assert Permute(order)(torch.arange(5.0)[None])[0].tolist() == [[float(i) for i in order]]


def test_permutations_of_channels_come_back_with_the_weights() -> None:
    check_bijection(Permute([2, 0, 1]), normal(2, 3, 2, 2))
    other = Permute([0, 1, 2])
    other.load_state_dict(Permute([2, 0, 1]).state_dict())
    assert other(torch.arange(3.0)[None])[0].tolist() == [[2.0, 0.0, 1.0]]
    assert other.inverse(torch.arange(3.0)[None])[0].tolist() == [[1.0, 2.0, 0.0]]
    assert reversal(4).order.tolist() == [3, 2, 1, 0]
    for mistake in ([], [1], [0, 0], [0, 2]):
        with pytest.raises(ValueError, match="permutation"):
            Permute(mistake)


@pytest.mark.parametrize("std", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("name", list(FLOWS))
def test_densities_of_one_variable_integrate_to_one(name: str, std: float) -> None:
    flow = FLOWS[name]((1,), None, ADAM)
    randomize(flow, std)
    assert integral(flow) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("std", [0.15, 0.3])
@pytest.mark.parametrize("name", list(FLOWS))
def test_densities_of_two_variables_integrate_to_one(name: str, std: float) -> None:
    flow = FLOWS[name]((2,), None, ADAM)
    randomize(flow, std, seed=1)
    flow.double()
    x = flow.sample(4000, generator=Generator().manual_seed(0)).double()
    half_width = 1.8 * x.abs().max().item()
    # The test means something: the density is not the base's.
    assert (flow.log_weight(x) + 0.5 * x.square().sum(1)).std() > 0.1
    assert quadrature(flow, half_width=half_width, points=400) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("name", list(FLOWS))
def test_flows_with_all_their_layers_are_exact(name: str) -> None:
    """The Jacobian of the whole, in three variables: layers see each other's order."""
    flow = FLOWS[name]((3,), None, ADAM)
    randomize(flow, 0.4)
    x = normal(3, 3)
    flow.double()
    z = check_log_det(flow.transform, x)
    torch.testing.assert_close(flow.decode(z), x.float(), rtol=1e-5, atol=1e-5)
    assert flow.relation == "exact"


@pytest.mark.parametrize("name", list(FLOWS))
def test_masses_can_depend_on_the_class(name: str) -> None:
    flow = FLOWS[name]((1,), None, ADAM, classes=3, conditional=True)
    randomize(flow, 0.2)
    flow.double()
    assert quadrature(flow, half_width=40, points=40_000) == pytest.approx(1, abs=1e-4)
    joint = flow.class_log_weights(normal(5, 1))
    assert (joint[:, 0] != joint[:, 1]).all()
    assert flow.sample_class(torch.tensor([2, 0]), generator=Generator().manual_seed(0)).shape == (2, 1)
    with pytest.raises(ValueError, match="class labels"):
        FLOWS[name]((2,), None, ADAM, conditional=True)


@pytest.mark.parametrize("name", ["maf", "iaf"])
def test_training_finds_a_known_density(name: str) -> None:
    """Trained by maximum likelihood, IAF too: gradients go through its steps. The best loss is the entropy."""
    torch.manual_seed(0)
    cholesky = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    generator = Generator().manual_seed(0)
    flow = FLOWS[name]((2,), None, functools.partial(torch.optim.Adam, lr=1e-2))
    optimizer = flow.configure_optimizers()
    for step in range(200):
        x = torch.randn(256, 2, generator=generator) @ cholesky.T
        optimizer.zero_grad()
        flow.training_step((x, None), step).backward()
        optimizer.step()
    x = torch.randn(20_000, 2, generator=generator) @ cholesky.T
    entropy = 1 + math.log(2 * math.pi)  # the determinant is 1
    with torch.no_grad():
        assert flow.training_step((x, None), 0).item() == pytest.approx(entropy, abs=0.05)
    sampled = flow.sample(20_000, generator=generator).T.cov()
    torch.testing.assert_close(sampled, cholesky @ cholesky.T, rtol=0.15, atol=0.15)


@pytest.mark.parametrize("name", ["affine", "gate"])
def test_raw_parameters_of_any_size_are_inverted_in_float32(name: str) -> None:
    """200 batches of raw parameters ten times a standard normal; splines have the same test of their own."""
    univariate = UNIVARIATES[name]
    generator = Generator().manual_seed(0)
    for _ in range(200):
        parameters = 10 * torch.randn(64, 2, 8, generator=generator)
        y = 3 * torch.randn(64, 8, generator=generator)
        x, log_dx = univariate.inverse(y, parameters)
        again, log_dz = univariate.forward(x, parameters)
        assert x.isfinite().all()
        assert (again - y).abs().max() <= 1e-5
        torch.testing.assert_close(log_dz, -log_dx)


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 4, 4), 256)])
@pytest.mark.parametrize("name", list(FLOWS))
def test_large_weights_give_no_nan(name: str, shape: tuple[int, ...], levels: int | None) -> None:
    """All parameters ten times as large as at the start, the zeros of last layers drawn: numbers stay numbers, in
    float32, both ways and backwards."""
    torch.manual_seed(0)
    flow = FLOWS[name](shape, levels, ADAM)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, MADE):
                module.layers[-1].reset_parameters()
            if isinstance(module, ActNorm):
                module.initialized.fill_(True)
        for parameter in flow.parameters():
            parameter.mul_(10)
    generator = Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(64, *shape, generator=generator)
        if levels is not None:
            x = torch.randint(levels, (64, *shape), generator=generator).to(torch.uint8)
        log_w = flow.log_weight(x, generator=generator)
        assert log_w.isfinite().all()
        flow.zero_grad()
        log_w.mean().backward()
        assert all(p.grad.isfinite().all() for p in flow.parameters())
        assert flow.sample(64, generator=generator).float().isfinite().all()


def test_samples_of_many_variables_do_not_grow_without_bound() -> None:
    """Each of 256 variables is made from those before it: with unbounded networks each could be a multiple of them."""
    torch.manual_seed(0)
    transform = autoregressive(256, Affine())
    for parameter in transform.parameters():
        parameter.data.mul_(10)
    z = torch.randn(16, 256, generator=Generator().manual_seed(0))
    with torch.no_grad():
        x, _ = transform.inverse(z)
        assert x.abs().max() < 1e5
        # Seen against the largest number that is added up, rounding is all there is.
        assert (transform(x)[0] - z).abs().max() < 1e-5 * transform.network(x)[:, 0].abs().max()


@pytest.mark.parametrize("name", ["maf", "nsf_ar", "naf", "bnaf"])
def test_layers_compile_without_a_graph_break(name: str) -> None:
    flow = FLOWS[name]((5,), None, ADAM)
    randomize(flow, 0.3)
    flow.eval()
    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(flow.transform, fullgraph=True, backend="eager")
    x = torch.randn(4, 5, generator=Generator().manual_seed(0))
    for got, expected in zip(compiled(x), flow.transform(x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", list(FLOWS))
def test_transforms_stay_float32_under_autocast(name: str) -> None:
    flow = FLOWS[name]((4,), None, ADAM)
    randomize(flow, 0.2)
    x = torch.randn(5, 4, generator=Generator().manual_seed(0))
    z, log_det = flow.transform(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = flow.transform(x)
        back, inverse_log_det = flow.transform.inverse(z)
    assert z16.dtype == log_det16.dtype == back.dtype == inverse_log_det.dtype == torch.float32
    torch.testing.assert_close(z16, z, rtol=0.1, atol=0.1)
    torch.testing.assert_close(log_det16, log_det, rtol=0.1, atol=0.1)
    if name != "iaf":  # whose inverse is the pass that may be lowered
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_shape_and_what_is_masked_is_no_parameter() -> None:
    for name, make in FLOWS.items():
        flow = make((2, 3, 1), 4, ADAM)
        body = [part for part in flow.transform.parts if isinstance(part, Autoregressive | Inverse)]
        assert len(body) == {"maf": 3, "iaf": 3, "nsf_ar": 3, "naf": 2, "bnaf": 0}[name]
        assert sum(isinstance(part, Permute) for part in flow.transform.parts) == {"naf": 1, "bnaf": 1}.get(name, 2)
        with pytest.raises(ValueError, match="layers must be at least 1"):
            make((2,), None, ADAM, layers=0)
    # A linear MADE of 3 variables has 3 weights below the diagonal and a bias for each output.
    assert MAF((3,), None, ADAM, layers=2, depth=0).n_parameters == 2 * (2 * 3 + 2 * 3)
    assert NAF((3,), None, ADAM, layers=2, units=4, depth=0).n_parameters == 2 * (12 * 3 + 12 * 3)
    # One unit for each of 2 variables: 2 + 1 weights, 2 scales and 2 biases in each of 2 layers; and the gate.
    assert BNAF((2,), None, ADAM, layers=1, units=1, depth=1).n_parameters == 2 * (3 + 2 + 2) + 1


def test_layers_read_the_variables_in_turns_from_either_end() -> None:
    """The first variable of the data is moved by amounts that depend on nothing in one layer, on all others in two."""
    flow = FLOWS["maf"]((4,), None, ADAM)
    randomize(flow, 0.4)
    chain = flow.double().transform
    one, two = (Chain(*chain.parts[:n]) for n in (2, 4))
    x = normal(4)

    def moved(transform: Transform) -> Tensor:
        return jacobian(lambda e: transform(e[None])[0][0], x) != 0

    assert torch.equal(moved(one), torch.ones(4, 4).tril().bool())
    assert moved(two).all()


@pytest.mark.parametrize(("model", "recommended"), [("maf", "relu"), ("iaf", "relu"), ("nsf_ar", "relu"),
                                                    ("naf", "silu"), ("vae_iaf", "silu")])  # fmt: skip
def test_a_model_stored_before_activations_had_names_is_built_with_silu(model: str, recommended: str) -> None:
    data = small_data((6,), None)
    node = configuration(model)["model"]
    options = node["flow"] if model == "vae_iaf" else node
    assert options["activation"] == recommended
    assert activations(build_model(node, data.spec)) == {ACTIVATIONS[recommended]}
    del options["activation"]  # as in a checkpoint that was trained with SiLU
    assert activations(build_model(node, data.spec)) == {ACTIVATIONS["silu"]}


def activations(model: nn.Module) -> set[type[nn.Module]]:
    return {type(network.activation) for network in model.modules() if isinstance(network, MADE)}


@pytest.mark.parametrize("model", ["maf", "iaf", "nsf_ar", "naf"])
def test_an_activation_that_does_not_exist_is_refused_in_one_line(model: str) -> None:
    node = configuration(model, "model.activation=rellu")["model"]
    with pytest.raises(UserError, match="activation 'rellu': there are relu") as caught:
        build_model(node, small_data((6,), None).spec)
    assert "\n" not in str(caught.value)
