"""NICE, the neural spline flow and the elementwise flow: what the contract tests do not ask of every model."""

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

from models.flows.base import Flow
from models.flows.elementwise import ElementwiseFlow
from models.flows.nice import NICE
from models.flows.nsf import NSF
from models.flows.realnvp import RealNVP
from models.transforms.base import Chain, Transform
from models.transforms.coupling import Coupling, MaskedCoupling
from models.transforms.elementwise import Elementwise
from models.transforms.spline import RationalQuadraticSpline
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine, Scaling, Shift, Univariate

CONF = Path(__file__).parent.parent / "conf" / "model"
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the rotations that linear maps start with
    yield
    torch.set_num_threads(before)


def nice(shape: tuple[int, ...], levels: int | None = None, **settings: int) -> NICE:
    return NICE(shape, levels, ADAM, **{"hidden": 16, "depth": 1, **settings})


def nsf(shape: tuple[int, ...], levels: int | None = None, **settings: int | bool) -> NSF:
    small = {"bins": 5, "couplings": 4, "hidden": 16, "depth": 1, "steps": 2, "scales": 2, "channels": 8, "blocks": 1}
    return NSF(shape, levels, ADAM, **{**small, **settings})


def elementwise(shape: tuple[int, ...], levels: int | None = None) -> ElementwiseFlow:
    return ElementwiseFlow(shape, levels, ADAM)


def random(flow: Flow, std: float, seed: int = 0) -> Flow:
    """Random parameters, as after training: normalization does not look at the next batch."""
    randomize(flow, std, seed)
    return flow.eval()


@few
@given(
    univariate=st.sampled_from([Affine(), Shift(), Scaling(), RationalQuadraticSpline(4)]),
    shape=st.sampled_from([(1,), (3,), (2, 3, 1)]),
)
def test_an_elementwise_transform_is_a_bijection(univariate: Univariate, shape: tuple[int, ...]) -> None:
    transform = prepared(Elementwise(univariate, shape))
    x = normal(3, *shape)
    check_bijection(transform, x)
    dim = math.prod(shape)
    matrix = jacobian(lambda e: transform(e[None])[0].flatten(), x[0]).reshape(dim, dim)
    assert torch.equal(matrix, matrix.diagonal().diag())


@pytest.mark.parametrize("make", [nice, nsf, elementwise])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 1, 1), (1, 1, 2), (2, 3, 5), (1, 4, 4), (3, 4, 6)])
def test_every_flow_is_a_bijection_of_vectors_and_images(make: type[Flow], shape: tuple[int, ...]) -> None:
    flow = random(make(shape), 0.2)
    check_bijection(flow.transform.double(), normal(2, *shape))


@pytest.mark.parametrize("std", [0.3, 1.0])
@pytest.mark.parametrize("make", [nice, nsf, elementwise])
@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_density_of_one_variable_integrates_to_one(make: type[Flow], shape: tuple[int, ...], std: float) -> None:
    """On cells of equal width in the latent, wherever on the axis and however narrow the density is."""
    flow = random(make(shape), std).double()
    with torch.no_grad():
        ends = flow.transform.inverse(torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None])[0].flatten()
        widths = ends.diff()
        assert (widths > 0).all() or (widths < 0).all()
        density = flow.log_weight(((ends[1:] + ends[:-1]) / 2).reshape(-1, *shape)).exp()
    assert (density * widths.abs()).sum().item() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("make", [nice, nsf, elementwise])
@pytest.mark.parametrize("shape", [(2,), (1, 1, 2), (2, 1, 1)])
def test_density_of_two_variables_integrates_to_one(make: type[Flow], shape: tuple[int, ...], seed: int) -> None:
    flow = random(make(shape), 0.2, seed).double()
    # The test means something: the density is far from the base's, and all of it lies in the square.
    x = flow.sample(20_000, generator=Generator().manual_seed(0)).flatten(1)
    assert (x.std(0) - 1).abs().max() > 0.02
    assert x.abs().max() < 10
    assert quadrature(flow, half_width=10, points=400) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("make", [nice, nsf, elementwise])
@pytest.mark.parametrize("shape", [(1,), (1, 2, 1)])
def test_masses_of_integers_sum_to_one(make: type[Flow], shape: tuple[int, ...]) -> None:
    flow = random(make(shape, 4), 0.2)
    mass, stderr = discrete_mass(flow, draws=4000)
    assert 0 < stderr < 0.01
    assert mass == pytest.approx(1, abs=4 * stderr)


@pytest.mark.parametrize(("make", "context"), [(nice, True), (nsf, True)])
@pytest.mark.parametrize(("shape", "levels"), [((1,), None), ((3,), 4), ((1, 4, 4), 8)])
def test_a_conditional_flow_is_a_mixture_over_its_classes(
    make: type[Flow], context: bool, shape: tuple[int, ...], levels: int | None
) -> None:
    flow = random(make(shape, levels, classes=3, conditional=context), 0.3)
    x = examples(shape, levels, 6)
    joint = flow.class_log_weights(x, generator=Generator().manual_seed(0))
    assert (joint[:, 0] != joint[:, 1]).all()
    torch.testing.assert_close(flow.log_weight(x, generator=Generator().manual_seed(0)), joint.logsumexp(1))
    assert flow.sample_class(torch.tensor([2, 0]), generator=Generator().manual_seed(0)).shape == (2, *shape)
    with pytest.raises(ValueError, match="class labels"):
        make(shape, levels, conditional=True)


def test_nice_preserves_volume_but_for_its_last_scaling() -> None:
    flow = random(nice((5,)), 0.5)
    *couplings, scaling = list(flow.transform.parts)
    _, log_det = Chain(*couplings)(examples((5,), None, 8))
    assert torch.equal(log_det, torch.zeros(8))
    _, log_det = flow.transform(examples((5,), None, 8))
    torch.testing.assert_close(log_det, scaling.raw.sum().expand(8))


def test_nice_needs_three_couplings_for_every_variable_to_depend_on_every_other() -> None:
    for couplings, dense in [(2, False), (3, True)]:
        transform = random(nice((4,), couplings=couplings), 1.0).transform.double()
        matrix = jacobian(lambda e, f=transform: f(e[None])[0][0], normal(4))
        assert bool((matrix != 0).all()) == dense


@pytest.mark.parametrize(
    ("shape", "scales", "couplings"),
    [((1, 28, 28), 2, 14), ((3, 32, 32), 3, 21), ((1, 8, 8), 3, 21), ((1, 5, 8), 1, 7), ((3, 5, 5), 1, 7)],
)
def test_nsf_has_the_scales_of_its_docstring(shape: tuple[int, int, int], scales: int, couplings: int) -> None:
    flow = nsf(shape, 256, steps=7, scales=3)
    assert sum(isinstance(m, Squeeze) for m in flow.modules()) == (scales if shape[1] % 2 == 0 else 0)
    assert sum(isinstance(m, Coupling | MaskedCoupling) for m in flow.modules()) == couplings


@pytest.mark.parametrize(("shape", "levels"), [((3,), None), ((1, 8, 8), 4), ((1, 5, 5), 4), ((3, 5, 5), 4)])
def test_every_variable_reaches_the_density_of_nsf(shape: tuple[int, ...], levels: int | None) -> None:
    flow = random(nsf(shape, levels), 0.3)
    body = flow.get_submodule("transform.parts")[-1]
    x = torch.randn(2, *shape, generator=Generator().manual_seed(0), requires_grad=True)
    z, log_det = body(x)
    (gradient,) = torch.autograd.grad((log_det - z.square().sum(1) / 2).sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize(("shape", "levels"), [((8,), None), ((1, 8, 8), 256)])
def test_large_parameters_of_nsf_give_no_nan(shape: tuple[int, ...], levels: int | None) -> None:
    flow = nsf(shape, levels, bins=8)
    for module in flow.modules():
        if isinstance(module, Coupling):
            module.conditioner.layers[-1].reset_parameters()
            with torch.no_grad():
                for parameter in module.conditioner.layers[-1].parameters():
                    parameter.mul_(100)
    log_w = flow.log_weight(examples(shape, levels, 64), generator=Generator().manual_seed(0))
    assert log_w.isfinite().all()
    log_w.mean().backward()
    assert all(p.grad.isfinite().all() for p in flow.parameters() if p.grad is not None)
    sample = flow.eval().sample(64, generator=Generator().manual_seed(0))
    assert not sample.isnan().any()
    if levels is None:
        assert sample.isfinite().all()


def trained(flow: Flow, batch: functools.partial[Tensor], steps: int) -> Flow:
    optimizer = flow.configure_optimizers()
    for step in range(steps):
        optimizer.zero_grad()
        flow.training_step((batch(256), None), step).backward()
        optimizer.step()
    return flow.eval()


def crossed(n: int, generator: Generator) -> Tensor:
    """x standard normal; y = 2 (1 or -1, with even chances) + x + noise of 0.5: bimodal given x."""
    x = torch.randn(n, generator=generator)
    sign = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    return torch.stack([x, 2 * sign + x + 0.5 * torch.randn(n, generator=generator)], 1)


def mixture_entropy(std: float) -> float:
    """In nats, of the even mixture of two normals at -2 and 2, by the midpoint rule."""
    x = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000 * 40 - 20
    logs = torch.stack([-((x - m) ** 2) / (2 * std**2) for m in (-2, 2)])
    log_p = logs.logsumexp(0) - math.log(2 * std * math.sqrt(2 * math.pi))
    return -(log_p.exp() * log_p).sum().item() * 40 / 40_000


def test_nsf_finds_a_known_density_and_the_elementwise_flow_its_marginals() -> None:
    torch.manual_seed(0)
    draw = functools.partial(crossed, generator=Generator().manual_seed(0))
    test = crossed(20_000, Generator().manual_seed(1))
    normal_entropy = 0.5 * math.log(2 * math.pi * math.e)
    joint = normal_entropy + mixture_entropy(0.5)
    marginals = normal_entropy + mixture_entropy(math.sqrt(1.25))
    adam = functools.partial(torch.optim.Adam, lr=5e-3)
    with torch.no_grad():
        flow = NSF((2,), None, adam, couplings=3, hidden=32, depth=1)
        with torch.enable_grad():
            trained(flow, draw, 300)
        assert flow.training_step((test, None), 0).item() == pytest.approx(joint, abs=0.06)
        independent = ElementwiseFlow((2,), None, functools.partial(torch.optim.Adam, lr=3e-2))
        with torch.enable_grad():
            trained(independent, draw, 300)
        assert independent.training_step((test, None), 0).item() == pytest.approx(marginals, abs=0.03)
    assert marginals > joint + 0.4


def test_the_yamls_make_the_published_models() -> None:
    sizes = {"shape": [3, 32, 32], "levels": 256}
    flow = instantiate(OmegaConf.load(CONF / "nsf.yaml"), **sizes)
    assert isinstance(flow, NSF)
    couplings = [m for m in flow.modules() if isinstance(m, Coupling)]
    assert len(couplings) == 21
    assert {m.univariate for m in couplings} == {RationalQuadraticSpline(8, 3.0, 1e-3, 1e-3)}
    flow = instantiate(OmegaConf.load(CONF / "nice.yaml"), shape=[1, 28, 28], levels=256)
    widths = [m.weight.shape for m in flow.modules() if isinstance(m, nn.Linear)]
    assert widths == 4 * [(1000, 392), *4 * [(1000, 1000)], (392, 1000)]
    flow = instantiate(OmegaConf.load(CONF / "elementwise.yaml"), shape=[1, 28, 28], levels=256)
    assert sum(p.numel() for p in flow.parameters()) == 784 * (2 + 3 * 16 - 1)


def test_nsf_compiles_without_a_graph_break() -> None:
    transform = random(nsf((4,), couplings=2), 0.3).transform
    x = examples((4,), None, 8)
    torch.compiler.reset()  # what other tests compiled counts against a limit
    for got, expected in zip(torch.compile(transform, fullgraph=True, backend="eager")(x), transform(x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*`torch.* is deprecated.*")  # torch.compile of torch
@pytest.mark.parametrize("shape", [(6,), (1, 8, 8)])
@pytest.mark.parametrize("model", ["realnvp", "nsf", "nice"])
def test_couplings_compile_as_one_graph_and_give_the_eager_numbers(model: str, shape: tuple[int, ...]) -> None:
    make = {
        "realnvp": lambda s: RealNVP(s, None, ADAM, couplings=2, hidden=16, channels=8, blocks=1),
        "nsf": lambda s: nsf(s, couplings=1, steps=1, scales=1),
        "nice": lambda s: nice(s, couplings=2),
    }[model]
    transform: Transform = random(make(shape), 0.3).transform.double()
    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(transform, fullgraph=True)
    x = normal(16, *shape).requires_grad_()
    results = []
    for side in (transform, compiled):
        z, log_det = side(x)
        gradients = torch.autograd.grad((log_det - z.square().sum(1) / 2).sum(), [x, *transform.parameters()])
        results.append([z, log_det, *gradients])
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    if len(shape) > 1:
        return  # their inverse is made of the same parts, and takes a minute to compile
    z = results[0][0].detach()
    inverse = torch.compile(lambda latent: transform.inverse(latent), fullgraph=True)
    for got, expected in zip(inverse(z), transform.inverse(z), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
