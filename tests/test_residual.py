"""Residual blocks and flows: exact log-determinants, unbiased estimates, inverses to a stated tolerance."""

import copy
import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_transforms import check_bijection, few, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from bench.checkpoint import Progress
from bench.config.spec import Hardware, Schedule
from bench.metrics.cost import Cost
from bench.schema import Status
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.training.fit import fit
from models.base import ReportsCost
from models.flows.base import Flow
from models.flows.idensenet import IDenseNet
from models.flows.iresnet import IResNet
from models.flows.residual_flow import ResidualFlow
from models.nn.lipschitz import LipschitzDenseNet, LipschitzLayer, LipSwish, lipschitz_convnet, lipschitz_mlp
from models.transforms.base import checkpoint_activations
from models.transforms.jacobian import jacobian
from models.transforms.residual import Residual, Roulette, Series, Truncated

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
SIZES = {"optimizer": ADAM, "blocks": 2, "scale_blocks": 2, "depth": 1, "scales": 2}
FLOWS: dict[str, Callable[..., Flow]] = {
    "iresnet": functools.partial(IResNet, **SIZES, hidden=8, channels=4),
    "residual_flow": functools.partial(ResidualFlow, **SIZES, hidden=8, channels=4, flat_blocks=1),
    "idensenet": functools.partial(IDenseNet, **SIZES, growth=8, flat_blocks=1),
}
TWO, TWENTY = Roulette(2), Roulette(20)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def block(branch: nn.Module, dim: int, train: Series = TWO, evaluation: Series = TWENTY, **more: int) -> Residual:
    return Residual(branch, dim, train_series=train, eval_series=evaluation, **more)


def mlp(dim: int, hidden: int = 8) -> nn.Module:
    return lipschitz_mlp(dim, hidden=hidden, depth=1, activation=LipSwish, coefficient=0.95)


def ready(module: nn.Module, std: float = 1.0) -> nn.Module:
    """In float64, with random parameters, as it is evaluated."""
    randomize(module, std)
    return module.double().train().eval()


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(*matrix.shape, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def contraction(dim: int, norm: float) -> Tensor:
    matrix = normal(dim, dim, seed=3)
    return matrix * norm / torch.linalg.matrix_norm(matrix, 2)


def within(draws: Tensor, exact: float | Tensor, errors: float = 4.0) -> None:
    """The mean of draws along dimension 0 is no further from the truth than its standard error allows."""
    stderr = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() <= errors * stderr + 1e-12).all(), (draws.mean(0), exact, stderr)


# The log-determinant where it is exact.


@few
@given(dim=st.integers(1, 5), std=st.sampled_from([0.3, 1.0, 10.0]))
def test_blocks_of_vectors(dim: int, std: float) -> None:
    check_bijection(ready(block(mlp(dim), dim), std), normal(3, dim), inverse_tolerance=1e-11)


@few
@given(c=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), dense=st.booleans())
def test_blocks_of_images(c: int, h: int, w: int, dense: bool) -> None:
    branch = (
        LipschitzDenseNet((c, h, w), growth=4, depth=2, coefficient=0.95)
        if dense
        else lipschitz_convnet((c, h, w), channels=4, activation=nn.ELU, coefficient=0.95, activation_first=True)
    )
    check_bijection(ready(block(branch, c * h * w)), normal(2, c, h, w), inverse_tolerance=1e-11)


@few
@given(name=st.sampled_from(sorted(FLOWS)), shape=st.sampled_from([(1,), (3,), (1, 2, 2), (3, 1, 1), (1, 3, 2)]))
def test_whole_flows(name: str, shape: tuple[int, ...]) -> None:
    flow = ready(FLOWS[name](shape, None), 0.5)
    check_bijection(flow.transform, normal(2, *shape), inverse_tolerance=1e-9)


def test_a_linear_branch_has_a_closed_form() -> None:
    a = contraction(4, 0.9)
    residual = block(linear(a), 4).eval()
    expected = torch.linalg.slogdet(torch.eye(4, dtype=torch.float64) + a).logabsdet.expand(3)
    x = normal(3, 4)
    z, log_det = residual(x)
    torch.testing.assert_close(log_det, expected, rtol=1e-13, atol=1e-13)
    solved = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + a, (z - residual.branch.bias).T).T
    torch.testing.assert_close(solved, x)
    torch.testing.assert_close(residual.inverse(z)[1], -expected)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("dim", "half_width", "points"), [(1, 40, 4000), (2, 20, 400)])
def test_density_integrates_to_one(name: str, dim: int, half_width: float, points: int) -> None:
    for seed, std in enumerate((0.3, 1.0)):
        flow = FLOWS[name]((dim,), None)
        randomize(flow, std, seed)
        for parameter_name, parameter in flow.named_parameters():
            if "log_scale" in parameter_name:  # of activation normalizations: else the mass lies far outside
                parameter.data.mul_(0.3 / std)
        flow.double().eval()
        assert quadrature(flow, half_width=half_width, points=points) == pytest.approx(1, abs=1e-4)


# Its estimates.


def draws(residual: Residual, x: Tensor, calls: int) -> Tensor:
    """Mean estimate of each of many calls, which differ in their number of terms, over rows, which do not."""
    g = Generator().manual_seed(5)
    with torch.no_grad():
        return torch.stack([residual(x, generator=g)[1].mean() for _ in range(calls)])


@pytest.mark.parametrize("training", [True, False])
def test_the_roulette_has_no_bias(training: bool) -> None:
    a = contraction(3, 0.7)
    residual = block(linear(a), 3, Roulette(2), Roulette(1, stop=0.3), exact_dim=0).train(training)
    assert residual.relation == "estimate"
    exact = torch.linalg.slogdet(torch.eye(3, dtype=torch.float64) + a).logabsdet.item()
    estimates = draws(residual, normal(400, 3), 1500)
    within(estimates, exact)
    assert estimates.std() / math.sqrt(1500) < 0.01 * abs(exact), "the test can see a bias of a few percent"


def test_a_nonlinear_block_is_estimated_without_bias() -> None:
    residual = ready(block(mlp(3), 3, exact_dim=0), 2.0)
    exact = copy.deepcopy(residual)
    exact.exact = True
    x = normal(2, 3)
    for row in x:
        rows = row.expand(500, 3)
        for training in (True, False):
            within(draws(residual.train(training), rows, 200), exact(rows[:1])[1].item())


def test_a_truncated_series_has_the_bias_it_states() -> None:
    a = contraction(3, 0.8)
    exact = torch.linalg.slogdet(torch.eye(3, dtype=torch.float64) + a).logabsdet.item()
    biases: list[float] = []
    for terms in (1, 2, 4, 8, 16):
        powers = [torch.linalg.matrix_power(a, k).trace().item() for k in range(1, terms + 1)]
        truncated = sum((-1) ** (k + 1) / k * trace for k, trace in enumerate(powers, start=1))
        residual = block(linear(a), 3, Truncated(terms), Truncated(terms), exact_dim=0).eval()
        with torch.no_grad():
            estimates = residual(normal(200_000, 3), generator=Generator().manual_seed(terms))[1]
        within(estimates, truncated)
        assert residual.terms == terms
        biases.append(abs(truncated - exact))
        assert biases[-1] <= 3 * 0.8 ** (terms + 1) / (terms + 1) / (1 - 0.8)
    assert biases[0] > 100 * biases[-1]


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """Of a number, with respect to all parameters it depends on."""
    found = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in found]).double()


@pytest.mark.parametrize("series", [Roulette(2), Truncated(3)], ids=["roulette", "truncated"])
def test_the_neumann_gradient_has_the_mean_of_the_exact_gradient(series: Series) -> None:
    branch = ready(mlp(2, hidden=4), 1.5)
    residual = block(branch, 2, train=series, exact_dim=0).eval()
    x = normal(4, 2)
    inner = x.clone().requires_grad_()
    j = jacobian(branch(inner), inner, create_graph=True)
    if isinstance(series, Truncated):
        powers = [torch.linalg.matrix_power(j, k).diagonal(dim1=1, dim2=2).sum() for k in range(1, series.terms + 1)]
        expected = gradient(sum((-1) ** (k + 1) / k * t for k, t in enumerate(powers, start=1)) / 4, branch)
    else:
        expected = gradient(torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + j).logabsdet.mean(), branch)
    assert expected.abs().max() > 0.02
    residual.training = True  # the branch keeps its vectors
    g = Generator().manual_seed(0)
    many = x.repeat(100, 1)
    gradients = torch.stack([gradient(residual(many, generator=g)[1].mean(), branch) for _ in range(250)])
    within(gradients, expected, errors=4.5)
    assert (gradients.std(0) / math.sqrt(250)).max() < 0.1 * expected.abs().max()


def test_the_gradient_reaches_the_input_and_earlier_layers() -> None:
    branch = ready(mlp(2, hidden=4), 1.5)
    residual = block(branch, 2, exact_dim=0).eval()
    x = normal(3, 2).requires_grad_()
    j = jacobian(branch(x), x, create_graph=True)
    (expected,) = torch.autograd.grad(torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + j).logabsdet.sum(), x)
    residual.training = True
    g = Generator().manual_seed(0)
    many = (2 * (x / 2)).expand(300, 3, 2).reshape(-1, 2)  # as if made by an earlier layer
    gradients = []
    for _ in range(200):
        (found,) = torch.autograd.grad(residual(many, generator=g)[1].sum() / 300, x, retain_graph=True)
        gradients.append(found)
    within(torch.stack(gradients), expected, errors=4.5)


def test_the_value_in_training_is_that_of_the_series_and_not_of_its_gradient() -> None:
    residual = block(linear(contraction(3, 0.7)), 3, Truncated(6), Truncated(6), exact_dim=0)
    x = normal(5, 3)
    with_gradient = residual(x, generator=Generator().manual_seed(2))[1]
    with torch.no_grad():
        without = residual(x, generator=Generator().manual_seed(2))[1]
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.detach(), without)


@pytest.mark.parametrize("name", FLOWS)
def test_the_training_loss_is_an_unbiased_estimate(name: str) -> None:
    """Of the negative log-likelihood in nats, but for the truncation of i-ResNet, whose terms are made many here."""
    more = {"series_terms": 25} if name == "iresnet" else {}
    flow = ready(FLOWS[name]((2,), None, **more), 0.5)
    x = normal(8, 2)
    exact = -flow.log_weight(x).mean().item()
    flow.train()
    for module in flow.modules():
        module.training = isinstance(module, Residual)  # layers keep their vectors
    flow.train_generator = Generator().manual_seed(0)
    batch = (x.repeat(50, 1), None)
    within(torch.stack([flow.training_step(batch, 0).detach() for _ in range(150)]), exact)


def test_weights_of_the_roulette() -> None:
    g, like = Generator().manual_seed(0), torch.zeros(1)
    sizes, totals = [], torch.zeros(4000, 12)
    for i in range(4000):
        weights = Roulette(3, stop=0.4).weights(g, like)
        assert weights[:4] == [1.0] * 4, "the first term after the exact ones is always taken"
        sizes.append(len(weights) - 3)
        totals[i, : min(12, len(weights))] = torch.tensor(weights[:12])
    within(torch.tensor(sizes, dtype=torch.float64), 1 / 0.4)  # geometric on 1, 2, ..
    within(totals, 1.0)
    assert Truncated(3).weights(g, like) == [1.0] * 3


# What every transform promises.


def test_random_numbers_come_from_the_generator_alone() -> None:
    branch = linear(contraction(3, 0.9))  # without layers to be tightened: two training passes are the same
    x = normal(4, 3)
    before = torch.get_rng_state()
    for training in (True, False):
        residual = block(branch, 3, exact_dim=0).train(training)
        first, again, other = (residual(x, generator=Generator().manual_seed(s))[1] for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    exact = block(branch, 3).eval()
    assert torch.equal(exact(x)[1], exact(x)[1])
    assert torch.equal(before, torch.get_rng_state())


def test_beyond_the_bound_it_is_an_estimate_and_the_inverse_has_no_log_determinant() -> None:
    branch = mlp(5)
    assert block(branch, 5, exact_dim=5).relation == "exact"
    residual = block(branch, 5, exact_dim=4).eval()
    assert residual.relation == "estimate"
    x = torch.randn(3, 5)
    z, log_det = residual(x)
    assert log_det.isfinite().all()
    back, unknown = residual.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)
    assert unknown.isnan().all()


def test_sampling_computes_no_log_determinant(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ready(FLOWS["residual_flow"]((3,), None), 0.5)
    z = normal(4, 3)
    expected, log_det = flow.transform.inverse(z)
    assert log_det.isfinite().all()
    monkeypatch.setattr("models.transforms.residual._log_det", lambda *a, **k: pytest.fail("not asked for"))
    assert torch.equal(flow.transform.decode(z), expected)
    assert torch.equal(flow.decode(z), expected.float())


def test_what_is_no_contraction_is_not_inverted_silently() -> None:
    residual = block(linear(2 * torch.eye(2, dtype=torch.float64)), 2).eval()
    with pytest.raises(ArithmeticError, match="no contraction"):
        residual.inverse(normal(2, 2))


def test_an_inverse_does_not_depend_on_the_other_examples() -> None:
    residual = ready(block(mlp(3), 3), 3.0)
    z = normal(6, 3) * torch.tensor([1, 1, 1, 1, 1, 100.0], dtype=torch.float64)[:, None]
    together = residual.inverse(z)[0]
    alone = torch.cat([residual.inverse(row[None])[0] for row in z])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("biases", [10.0, 0.0])
@pytest.mark.parametrize("name", ["mlp", "convnet", "dense"])
def test_float32_at_a_large_scale_of_parameters(name: str, biases: float) -> None:
    """Norms hold whatever the weights. Large biases move the data far; without any, slopes are as steep as they get."""
    images = {"channels": 8, "activation": nn.ELU, "coefficient": 0.98, "activation_first": True}
    make, shape = {
        "mlp": (lambda: lipschitz_mlp(6, hidden=32, depth=3, activation=LipSwish, coefficient=0.98), (6,)),
        "convnet": (lambda: lipschitz_convnet((3, 4, 4), **images), (3, 4, 4)),
        "dense": (lambda: LipschitzDenseNet((6,), growth=16, depth=3, coefficient=0.98), (6,)),
    }[name]
    residual = block(make(), math.prod(shape))
    randomize(residual, 10.0)
    for parameter_name, parameter in residual.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.data.mul_(biases / 10)
    residual.train().eval()
    x = 3 * torch.randn(64, *shape)
    z, log_det = residual(x)
    back, inverse_log_det = residual.inverse(z)
    again = residual(residual.inverse(x)[0])[0]
    residuals = {"x": (back - x).abs().max().item(), "z": (again - x).abs().max().item()}
    for tensor in (z, log_det, back, inverse_log_det, again):
        assert tensor.isfinite().all()
    scale = 1 + x.flatten(1).norm(dim=1).max().item() + z.flatten(1).norm(dim=1).max().item()
    assert max(residuals.values()) < 2e-6 * scale, residuals
    exact = copy.deepcopy(residual).double()(x.double())[1]
    torch.testing.assert_close(log_det.double(), exact, rtol=1e-4, atol=1e-4)


def test_blocks_stay_float32_under_autocast() -> None:
    residual = block(mlp(4), 4).eval()
    x = torch.randn(3, 4)
    z, log_det = residual(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = residual(x)
        back, inverse_log_det = residual.inverse(z16)
    assert torch.equal(z16, z)
    assert torch.equal(log_det16, log_det)
    assert back.dtype == inverse_log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)


def test_checkpointed_activations_leave_what_is_drawn_alone() -> None:
    x = torch.randn(8, 2)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        flow = FLOWS["residual_flow"]((2,), None)
        flow.train_generator = Generator().manual_seed(0)
        if checkpointed:
            checkpoint_activations(flow)
        flow.training_step((x, None), 0).backward()
        gradients.append([parameter.grad for parameter in flow.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.slow
def test_compiled_training_is_the_same(tmp_path: Path) -> None:
    """The compiler leaves the blocks alone: what differentiates twice cannot be compiled."""
    data = small_data((2,), None)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        for compiled in (False, True):
            model = new_model("residual_flow", data.spec)
            schedule = Schedule(examples=64, batch_size=16, validate_every=10**6)
            hardware = Hardware(compile=compiled)
            folder = tmp_path / str(compiled)
            folder.mkdir()
            fit(model, data, schedule, hardware, seed=0, folder=folder, config={})
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                scores.append(model.eval().log_weight(data.test.x))
    torch.testing.assert_close(*scores)


# Whole flows.


@pytest.mark.parametrize("name", FLOWS)
def test_flows_learn(name: str, tmp_path: Path) -> None:
    data = small_data((2,), None, n=512, held_out=256)
    wider = {"growth": 32, "depth": 2} if name == "idensenet" else {"hidden": 32, "depth": 2}
    flow = FLOWS[name]((2,), None, **{"blocks": 6, **wider})
    schedule = Schedule(examples=64 * 120, batch_size=64, validate_every=10**6)
    fit(flow, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    with torch.no_grad():
        ours = flow.eval().log_weight(data.test.x).mean().item()
    gaussian = torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov())
    # Two clusters, 2 apart in each variable, of standard deviation 0.3: log 2 less than one of them.
    truth = -2 * math.log(0.3 * math.sqrt(2 * math.pi * math.e)) - math.log(2)
    normal_score = gaussian.log_prob(data.test.x).mean().item()
    assert normal_score + 0.5 * (truth - normal_score) < ours < truth + 0.2


@pytest.mark.parametrize("name", FLOWS)
def test_flows_report_what_they_counted(name: str) -> None:
    for shape, exact in (((3,), True), ((3, 8, 8), False)):
        flow = FLOWS[name](shape, None).eval()
        assert isinstance(flow, ReportsCost)
        report = flow.cost_report(torch.randn(4, *shape), generator=Generator().manual_seed(0))
        assert tuple(report) == flow.cost_names
        blocks = sum(isinstance(module, Residual) for module in flow.modules())
        assert report["nfe_sample"] >= 2 * blocks
        assert report["series_terms"] == 0 if exact else 21 <= report["series_terms"] < 30


def test_the_harness_shows_the_counts_and_the_error_of_the_estimate() -> None:
    data = small_data((3, 6, 6), 4)
    model = new_model("residual_flow", data.spec, "model.exact_dim=0")
    subject = TrainedModel(model, Progress(examples_seen=1, train_seconds=1.0), 0, ORIGIN)
    context = Examples(subject, data, seed=0)
    rows = {row.info.name: row for row in Cost(8).compute(context)}
    assert [info.name for info in Cost(8).infos(context)] == list(rows)
    assert rows["series_terms"].value >= 21
    assert rows["nfe_sample"].value > 0
    assert "nfe_log_weight" not in rows
    again = {row.info.name: row.value for row in Cost(8).compute(context)}
    assert again["nfe_sample"] == rows["nfe_sample"].value
    # Nothing was validated, so there is no time to the best score.
    assert [name for name, row in rows.items() if row.status is not Status.OK] == ["seconds_to_best"]
    assert context.relation == "estimate"


def test_images_go_through_scales_and_flat_blocks() -> None:
    def widths(name: str) -> list[int]:
        blocks = [module for module in FLOWS[name]((1, 8, 8), 4).modules() if isinstance(module, Residual)]
        layers = [next(layer for layer in b.modules() if isinstance(layer, LipschitzLayer)) for b in blocks]
        return [layer.weight.shape[1] for layer in layers]

    assert widths("residual_flow") == widths("idensenet") == [1, 1, 4, 4, 64], "nothing is factored out; one flat block"
    assert widths("iresnet") == [1, 1, 2, 2], "half of the channels are factored out"


def test_mistakes_are_refused() -> None:
    for make in FLOWS.values():
        with pytest.raises(ValueError, match="takes vectors"):
            make((2, 2), None)
        with pytest.raises(ValueError, match="between 0 and 1"):
            make((2,), None, coefficient=1.0)
