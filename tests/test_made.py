"""The masked network: who reads whom, and its evaluation one input after another."""

import itertools

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import few, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.utils.flop_counter import FlopCounterMode

from models.nn.activation import ACTIVATIONS
from models.nn.made import MADE, MaskedLinear
from models.nn.masked import n_masked
from models.nn.substitution import forward_substitution


def network(n_in: int, n_out: int, hidden: int, depth: int, n_context: int = 0) -> MADE:
    made = MADE(n_in, n_out, hidden=hidden, depth=depth, n_context=n_context)
    randomize(made, 0.5)
    return made.double()


def context_for(made: MADE, n: int) -> Tensor | None:
    return normal(n, made.n_context, seed=3) if made.n_context > 0 else None


def squashed_sum(i: int, outputs: Tensor) -> Tensor:
    """Something to make an input of: it depends on all of its outputs, and on which input it is."""
    return (outputs.sum(1) + i).sin() + 0.3 * outputs[:, 0]


def generated_naively(made: MADE, batch: int, context: Tensor | None) -> Tensor:
    """One pass of the whole network for each input."""
    made_so_far: list[Tensor] = []
    for i in range(made.n_in):
        rest = torch.zeros(batch, made.n_in - i, dtype=torch.float64)
        x = torch.cat([torch.stack(made_so_far, 1), rest], 1) if made_so_far else rest
        made_so_far.append(squashed_sum(i, made(x, context)[:, :, i]))
    return torch.stack(made_so_far, 1)


shapes = {
    "n_in": st.integers(1, 7),
    "n_out": st.integers(1, 3),
    "hidden": st.integers(1, 12),
    "depth": st.integers(0, 3),
    "n_context": st.sampled_from([0, 2]),
}


@few
@given(**shapes)
def test_outputs_depend_on_the_inputs_before_theirs_and_on_no_other(
    n_in: int, n_out: int, hidden: int, depth: int, n_context: int
) -> None:
    made = network(n_in, n_out, hidden, depth, n_context)
    c = context_for(made, 1)
    matrix = jacobian(lambda x: made(x[None], c)[0], normal(n_in))  # (P, D, D)
    assert matrix.shape == (n_out, n_in, n_in)
    assert matrix.triu().abs().max() == 0, "exactly zero on the diagonal and above"
    if hidden >= n_in or depth == 0:
        below = torch.ones(n_in, n_in).tril(-1).bool()
        assert (matrix[:, below] != 0).all(), "every dependence that is allowed is there"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("n_in", [1, 2, 5])
def test_every_output_depends_on_the_context_the_first_too(n_in: int, depth: int) -> None:
    made = network(n_in, 2, 8, depth, n_context=3)
    matrix = jacobian(lambda c: made(normal(1, n_in), c[None])[0], normal(3))  # (P, D, K)
    assert (matrix != 0).all()
    with pytest.raises(ValueError, match="context of 3"):
        made(normal(1, n_in))
    with pytest.raises(ValueError, match="context of 3"):
        made.generate(squashed_sum, 1)


def test_one_input_alone_gives_constants() -> None:
    made = network(1, 4, 8, 2)
    outputs = made(normal(6, 1))
    assert torch.equal(outputs, outputs[:1].expand(6, 4, 1))
    assert outputs.unique().numel() == 4


def test_units_are_sorted_by_what_they_read() -> None:
    """Of the units of the first layer those that read the first m inputs or fewer are a prefix, of all sizes alike."""
    for n_in, hidden, n_context in itertools.product([2, 3, 8], [3, 8, 21], [0, 1]):
        first, *_ = MADE(n_in, 1, hidden=hidden, depth=2, n_context=n_context).layers
        assert isinstance(first, MaskedLinear)
        read = first.mask.sum(1)
        assert torch.equal(read, read.sort().values)
        counts = read.unique(return_counts=True)[1]
        assert len(counts) == min(hidden, n_in if n_context else n_in - 1)
        assert counts.max() - counts.min() <= 1


@few
@given(**shapes)
def test_masked_weights_are_counted(n_in: int, n_out: int, hidden: int, depth: int, n_context: int) -> None:
    """They are those that no output depends on; all others matter."""
    made = network(n_in, n_out, hidden, depth, n_context)
    made(normal(4, n_in), context_for(made, 4)).square().sum().backward()
    without_effect = sum(int((layer.weight.grad == 0).sum()) for layer in made.layers)
    assert n_masked(made) == without_effect
    assert n_masked(nn.ModuleList([made, network(2, 1, 3, 1)])) == without_effect + n_masked(network(2, 1, 3, 1))
    assert n_masked(MADE(3, 2, hidden=4, depth=0)) == 2 * (3 + 2 + 1)


@few
@given(**shapes)
def test_generated_inputs_and_their_gradients_are_those_of_one_pass_each(
    n_in: int, n_out: int, hidden: int, depth: int, n_context: int
) -> None:
    made = network(n_in, n_out, hidden, depth, n_context)
    c = context_for(made, 3)
    if c is not None:
        c.requires_grad_()
    wanted = [*made.parameters()] + ([c] if c is not None else [])
    got, expected = made.generate(squashed_sum, 3, c), generated_naively(made, 3, c)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(made.generate(squashed_sum, 3, c), got, rtol=0, atol=0)
    weight = normal(3, n_in, seed=5)
    gradients = [
        torch.autograd.grad((weight * x).sum(), wanted, materialize_grads=True, allow_unused=True)
        for x in (got, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_generating_costs_no_more_arithmetic_than_one_pass() -> None:
    made = network(64, 2, 128, 2)
    with torch.no_grad():
        with FlopCounterMode(display=False) as one_pass:
            made(normal(8, 64))
        with FlopCounterMode(display=False) as all_steps:
            made.generate(squashed_sum, 8)
    assert one_pass.get_total_flops() > 0
    # Half of the weights are masked, and only a pass multiplies those.
    assert 0.4 < all_steps.get_total_flops() / one_pass.get_total_flops() < 0.6


def test_inputs_are_made_in_order_and_once() -> None:
    seen: list[int] = []

    def emit(i: int, outputs: Tensor) -> Tensor:
        assert outputs.shape == (4, 2)
        seen.append(i)
        return squashed_sum(i, outputs)

    network(9, 2, 16, 1).generate(emit, 4)
    assert seen == list(range(9))


def test_outputs_are_bounded_whatever_the_inputs() -> None:
    made = network(3, 2, 8, 2).float()
    far = made(torch.full((1, 3), 1e30))
    assert far.isfinite().all()
    torch.testing.assert_close(far, made(torch.full((1, 3), 1e4)))
    near = torch.full((1, 3), 1e-3)
    assert not torch.equal(made(near), made(2 * near))


def test_a_zero_last_layer_gives_zeros() -> None:
    made = MADE(4, 3, hidden=8, depth=2, zero_last=True)
    assert made(torch.ones(2, 4)).abs().max() == 0
    assert made.layers[0].weight.abs().max() > 0


def test_autocast_lowers_a_pass_but_never_what_is_made_step_by_step() -> None:
    made = network(6, 2, 16, 1, n_context=2).float()
    c = normal(3, 2).float()
    expected = made.generate(squashed_sum, 3, c)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(expected, c).dtype == torch.bfloat16
        assert torch.equal(made.generate(squashed_sum, 3, c), expected)


def test_mistakes_are_refused() -> None:
    for n_in, n_out, hidden, depth in [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, -1)]:
        with pytest.raises(ValueError, match="no network has"):
            MADE(n_in, n_out, hidden=hidden, depth=depth)


@few
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_forward_substitution_solves_triangular_systems(sizes: list[int]) -> None:
    """With a leaf that solves the block on the diagonal, L x = b is what it solves."""
    bounds = [0, *itertools.accumulate(sizes)]
    n = bounds[-1]
    lower = normal(n, n).tril() + 4 * torch.eye(n, dtype=torch.float64)
    b = normal(n, 3, seed=1)

    def leaf(group: int, blocks: list[Tensor], pending: list[Tensor]) -> list[Tensor]:
        begin, end = bounds[group], bounds[group + 1]
        assert torch.equal(blocks[0], -lower[begin:end, begin:end])
        return [torch.linalg.solve_triangular(-blocks[0], pending[0], upper=False)]

    # What a group brings to later ones is taken away from their right sides.
    [x] = forward_substitution(leaf, [-lower], [bounds], [bounds], [b])
    torch.testing.assert_close(lower @ x, b)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_units_are_of_the_activation_asked_for_in_both_directions(activation: str) -> None:
    made = MADE(4, 2, hidden=9, depth=2, activation=activation)
    randomize(made, 0.5)
    made.double()
    x, h = normal(3, 4), 10 * (normal(3, 4) / 10).tanh()
    first, second, last = made.layers
    for layer in (first, second):
        h = ACTIVATIONS[activation]()(layer(h))
    assert torch.equal(made(x), last(h).unflatten(1, (2, 4)))
    torch.testing.assert_close(made.generate(squashed_sum, 3), generated_naively(made, 3, None))


@pytest.mark.parametrize("name", ["SiLU", "rel", "", None])
def test_an_unknown_activation_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"activation .*: there are relu, silu, elu, gelu, tanh"):
        MADE(4, 2, hidden=9, depth=2, activation=name)
