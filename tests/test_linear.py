"""Linear maps: the matrices they say they are, exact log-dets and inverses; the Gaussian a linear flow must find."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from models.flows.linear import LinearFlow
from models.transforms.base import Transform
from models.transforms.flatten import Flatten
from models.transforms.linear import Conv1x1, FullLinear, LULinear

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
VECTORS = [FullLinear, LULinear]


def matrix_of(transform: Transform, n: int) -> Tensor:
    """The columns are the images of the unit vectors, less that of 0."""
    shape = (-1, n, 1, 1) if isinstance(transform, Conv1x1) else (-1, n)
    with torch.no_grad():
        points = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(1, n, dtype=torch.float64)])
        images = transform(points.reshape(shape))[0].reshape(-1, n)
    return (images[:-1] - images[-1]).T


@few
@given(dim=st.integers(1, 7), make=st.sampled_from(VECTORS), fresh=st.booleans(), rows=st.sampled_from([2, 9]))
def test_maps_of_vectors_are_bijections(dim: int, make: type[Transform], fresh: bool, rows: int) -> None:
    transform = make(dim).double() if fresh else prepared(make(dim))
    check_bijection(transform, normal(rows, dim))


@few
@given(c=st.integers(1, 6), h=st.integers(1, 3), w=st.integers(1, 3), fresh=st.booleans())
def test_the_1x1_convolution_is_a_bijection(c: int, h: int, w: int, fresh: bool) -> None:
    check_bijection(Conv1x1(c).double() if fresh else prepared(Conv1x1(c)), normal(2, c, h, w))


@few
@given(shape=st.sampled_from([(1,), (4,), (2, 3, 2)]))
def test_flatten_is_a_bijection(shape: tuple[int, ...]) -> None:
    check_bijection(Flatten(shape), normal(3, *shape))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("make", [LULinear, Conv1x1])
def test_the_matrix_is_the_product_of_its_factors(make: type[LULinear | Conv1x1], n: int) -> None:
    transform = make(n).double()
    state = transform.matrix.state_dict()
    rows, signs = state["rows"].tolist(), state["signs"].tolist()
    assert sorted(rows) == list(range(n))
    assert {abs(sign) for sign in signs} == {1.0}
    entries = (0.7 * normal(n, n)).tolist()
    with torch.no_grad():
        transform.matrix.entries.copy_(torch.tensor(entries, dtype=torch.float64))
    expected = [[0.0] * n for _ in range(n)]
    for i, row in enumerate(rows):
        for j in range(n):
            for k in range(n):
                lower = 1.0 if row == k else entries[row][k] if k < row else 0.0
                upper = signs[k] * math.exp(entries[k][k]) if k == j else entries[k][j] if k < j else 0.0
                expected[i][j] += lower * upper
    matrix = matrix_of(transform, n)
    torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64))
    assert torch.linalg.slogdet(matrix).logabsdet.item() == pytest.approx(sum(entries[i][i] for i in range(n)))
    assert sum(p.numel() for p in transform.matrix.parameters()) == n * n


@pytest.mark.parametrize("make", [FullLinear, LULinear, Conv1x1])
def test_it_starts_as_a_random_rotation(make: type[Transform]) -> None:
    torch.manual_seed(0)
    matrices = [matrix_of(make(6).double(), 6) for _ in range(2)]
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert (matrices[0] - matrices[1]).abs().max() > 0.1


def test_large_and_small_batches_are_mapped_alike() -> None:
    transform = prepared(LULinear(5))
    x = normal(12, 5)
    together, log_det = transform(x)
    for part, expected, term in zip(x.split(2), together.split(2), log_det.split(2), strict=True):
        z, log_det = transform(part)
        torch.testing.assert_close(z, expected)
        torch.testing.assert_close(log_det, term)


@pytest.mark.parametrize("make", [FullLinear, LULinear, Conv1x1])
def test_scale_10_in_float32_gives_no_nan(make: type[Transform]) -> None:
    generator = Generator().manual_seed(0)
    for seed in range(20):
        transform = make(16)
        randomize(transform, 10.0, seed)
        x = torch.randn(32, 16, *[4, 4] if make is Conv1x1 else [], generator=generator).requires_grad_()
        z, log_det = transform(x)
        assert z.isfinite().all()
        assert log_det.isfinite().all()
        (z.sum() + log_det.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in [x, *transform.parameters()])
        exact = make(16).double()
        exact.load_state_dict(transform.state_dict())
        torch.testing.assert_close(log_det.double(), exact(x.detach().double())[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", [FullLinear, LULinear])
def test_an_ill_conditioned_inverse_is_as_good_as_z_allows(make: Callable[[int], Transform]) -> None:
    """W back of x is z up to rounding of the terms that were summed, though x itself may have lost its digits."""
    torch.manual_seed(1)
    transform = make(8)
    with torch.no_grad():  # singular values from 1e-4 to 1e4
        if isinstance(transform, LULinear):
            transform.matrix.entries.add_(torch.linspace(-4, 4, 8).mul(math.log(10)).diag())
        else:
            left, right = (torch.linalg.qr(normal(8, 8, seed=s)).Q for s in (0, 1))
            transform.weight.copy_(left @ torch.logspace(-4, 4, 8, dtype=torch.float64).diag() @ right)
    z = torch.randn(50, 8, generator=Generator().manual_seed(0))
    with torch.no_grad():
        x, log_det = transform.inverse(z)
        again, forward_log_det = transform.double()(x.double())
        matrix = matrix_of(transform, 8)
    assert torch.linalg.cond(matrix) > 1e7
    summed = x.double().abs() @ matrix.abs().T + 1
    assert ((again - z).abs() / summed).max() < 1e-5
    torch.testing.assert_close(log_det.double(), -forward_log_det, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", [FullLinear, LULinear, Conv1x1])
@pytest.mark.parametrize("rows", [3, 20])
def test_autocast_changes_nothing(make: type[Transform], rows: int) -> None:
    transform = make(8)
    x = torch.randn(rows, 8, *[3, 3] if make is Conv1x1 else [], generator=Generator().manual_seed(0))
    expected = [*transform(x), *transform.inverse(x)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = [*transform(x), *transform.inverse(x)]
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [FullLinear, LULinear, Conv1x1])
def test_the_inverse_follows_every_step_and_reload(make: type[Transform]) -> None:
    torch.manual_seed(0)
    transform, other = make(5).double(), make(5).double()
    x = normal(4, 5, *[2, 2] if make is Conv1x1 else [])
    optimizer = torch.optim.SGD(transform.parameters(), lr=0.1)
    for step in range(3):
        torch.testing.assert_close(transform.inverse(transform(x)[0])[0], x)
        z, log_det = transform(x + step)
        (z.square().sum(1).mean() - log_det.mean()).backward()
        optimizer.step()
    assert not torch.equal(transform(x)[0], other(x)[0])
    other.load_state_dict(transform.state_dict())
    for direction in ("forward", "inverse"):
        for a, b in zip(getattr(transform, direction)(x), getattr(other, direction)(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("make", [FullLinear, LULinear, Conv1x1])
def test_both_directions_compile_without_a_graph_break(make: type[Transform]) -> None:
    transform = make(4)
    x = torch.randn(9, 4, *[2, 2] if make is Conv1x1 else [], generator=Generator().manual_seed(0))
    for direction in (transform.forward, transform.inverse):
        torch.compiler.reset()  # what other tests compiled counts against a limit
        compiled = torch.compile(direction, fullgraph=True, backend="eager")
        for got, expected in zip(compiled(x), direction(x), strict=True):
            torch.testing.assert_close(got, expected)


def test_other_shapes_are_refused() -> None:
    for make in VECTORS:
        with pytest.raises(ValueError, match="vectors of 3"):
            make(3).output_shape((4,))
    with pytest.raises(ValueError, match="made for"):
        Flatten((2, 2)).output_shape((4,))


# The flow.


def flow(dim: int, lu: bool, seed: int = 0) -> LinearFlow:
    torch.manual_seed(seed)
    return LinearFlow((dim,), None, ADAM, lu=lu)


@pytest.mark.parametrize("lu", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_its_likelihood_is_the_multivariate_normals(dim: int, lu: bool) -> None:
    model = flow(dim, lu)
    randomize(model, 0.7)
    model.double()
    model.eval()
    matrix = matrix_of(model.transform, dim)
    mean = -torch.linalg.solve(matrix, model.encode(torch.zeros(1, dim).double())[0].detach())
    expected = MultivariateNormal(mean, torch.linalg.inv(matrix.T @ matrix)).log_prob(normal(20, dim))
    torch.testing.assert_close(model.log_weight(normal(20, dim)), expected)
    draws = model.sample(20_000, generator=Generator().manual_seed(0)).double()
    whitened = (draws - mean) @ matrix.T
    torch.testing.assert_close(whitened.T.cov().reshape(dim, dim), torch.eye(dim).double(), rtol=0, atol=0.06)


@pytest.mark.parametrize("lu", [False, True])
def test_gradient_descent_finds_the_likelihood_in_closed_form(lu: bool) -> None:
    data = normal(500, 4) @ (torch.tensor([5.0, 1.0, 0.2, 0.05]).double() * normal(4, 4, seed=3)) + 3
    best = MultivariateNormal(data.mean(0), data.T.cov(correction=0)).log_prob(data).mean().item()
    model = flow(4, lu).double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = model.training_step((data, None), 0)
        value.backward()
        return value

    assert -loss().item() < best - 0.5
    optimizer.step(loss)
    assert -loss().item() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("lu", [False, True])
def test_adam_in_float32_comes_near_it_by_minibatches(lu: bool) -> None:
    data = (normal(4000, 3) @ normal(3, 3, seed=5) + 1).float()
    best = MultivariateNormal(data.mean(0), data.T.cov(correction=0)).log_prob(data).mean().item()
    model = flow(3, lu)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 600)
    for step in range(600):
        batch = data[(step * 200) % 4000 :][:200]
        optimizer.zero_grad()
        model.training_step((batch, None), step).backward()
        optimizer.step()
        schedule.step()
    assert model.log_weight(data).mean().item() == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("lu", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("std", [0.4, 1.0])
def test_the_density_integrates_to_one(dim: int, lu: bool, std: float) -> None:
    model = flow(dim, lu)
    randomize(model, std, seed=2)
    model.double().eval()
    assert quadrature(model, half_width=40, points=1000) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("lu", [False, True])
def test_integers_and_images_are_taken(lu: bool) -> None:
    model = LinearFlow((1, 3, 2), 16, ADAM, lu=lu)
    assert model.relation == "lower_bound"
    x = torch.randint(16, (7, 1, 3, 2), generator=Generator().manual_seed(0)).to(torch.uint8)
    code = model.encode(x, generator=Generator().manual_seed(0))
    assert code.shape == (7, 6)
    assert torch.equal(model.decode(code), x)
