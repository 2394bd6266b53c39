"""Functions that put flows together: stacks of autoregressive layers, pyramids of images, couplings of vectors."""

from collections.abc import Sequence

import pytest
import torch
from helpers_transforms import check_bijection, normal, prepared
from torch import nn
from torch.autograd.functional import jacobian

from models.flows.base import is_image
from models.nn.mlp import MLP
from models.transforms.actnorm import ActNorm
from models.transforms.autoregressive import Autoregressive, autoregressive_layers
from models.transforms.base import Chain, Transform
from models.transforms.coupling import Coupling, alternating, vector_coupling
from models.transforms.linear import Conv1x1
from models.transforms.multiscale import MultiScale, pyramid
from models.transforms.permute import Permute, with_reversals
from models.transforms.squeeze import Squeeze, halvings
from models.transforms.univariate import Affine, Shift


def test_autoregressive_layers_have_networks_of_their_own_and_read_what_comes_before() -> None:
    layers = autoregressive_layers(4, Affine(), layers=3, hidden=16, depth=1, n_context=2, zero_last=False)
    assert [type(layer) for layer in layers] == [Autoregressive] * 3
    assert len({id(p) for layer in layers for p in layer.parameters()}) == sum(
        1 for x in layers for _ in x.parameters()
    )
    context = normal(1, 2)
    for layer in layers:
        matrix = jacobian(lambda x, f=layer: f(x[None], context=context)[0][0], normal(4).float())
        assert torch.equal(matrix, matrix.tril())
        assert (matrix.tril() != 0).sum() == 10
    stack = prepared(Chain(*with_reversals(layers, 4)))
    check_bijection(stack, normal(3, 4), context=normal(3, 2), inverse_tolerance=1e-8)


@pytest.mark.parametrize("zero_last", [True, False])
def test_layers_start_as_the_identity_if_they_should(zero_last: bool) -> None:
    options = {"hidden": 8, "depth": 1, "n_context": 0, "zero_last": zero_last}
    x = normal(3, 4).float()
    (layer,) = autoregressive_layers(4, Affine(), layers=1, **options)
    coupling = vector_coupling(*alternating(4, 0), Affine(), **options)
    for transform in (layer, coupling):
        assert torch.equal(transform(x)[0], x) == zero_last


def test_no_layers_are_an_empty_stack() -> None:
    assert autoregressive_layers(3, Affine(), layers=0, hidden=4, depth=1, n_context=0) == []
    assert with_reversals([], 3) == []


def test_a_network_of_no_units_is_refused() -> None:
    with pytest.raises(ValueError, match="no network has 3 inputs"):
        autoregressive_layers(3, Affine(), layers=1, hidden=0, depth=1, n_context=0)


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_reversals_stand_between_layers_only(n_layers: int) -> None:
    layers: list[Transform] = [ActNorm(3) for _ in range(n_layers)]
    parts = with_reversals(layers, 3)
    assert parts[::2] == layers
    assert len(parts) == 2 * n_layers - 1
    for part in parts[1::2]:
        assert isinstance(part, Permute)
        assert part.order.tolist() == [2, 1, 0]


@pytest.mark.parametrize("n_context", [0, 2])
def test_a_vector_coupling_keeps_and_moves_by_a_network(n_context: int) -> None:
    coupling = vector_coupling([2, 0], [1, 3, 4], Affine(), hidden=8, depth=2, n_context=n_context, zero_last=False)
    assert isinstance(coupling, Coupling)
    assert isinstance(coupling.conditioner, MLP)
    context = normal(4, n_context) if n_context else None
    x = normal(4, 5)
    check_bijection(prepared(coupling), x, context=context)
    moved = (coupling(x, context=context)[0] != x).all(0)
    assert moved.tolist() == [False, True, False, True, True]


def test_a_vector_coupling_without_anything_kept_is_a_constant_map() -> None:
    check_bijection(
        prepared(vector_coupling([], [0], Shift(), hidden=4, depth=1, n_context=0, zero_last=False)), normal(4, 1)
    )


@pytest.mark.parametrize(
    ("shape", "above", "times"),
    [
        ((3, 32, 32), 1, 5), ((3, 32, 32), 4, 3), ((1, 28, 28), 1, 2), ((1, 28, 28), 4, 2), ((1, 24, 28), 1, 2),
        ((1, 8, 6), 1, 1), ((1, 5, 8), 1, 0), ((1, 8, 5), 1, 0), ((1, 1, 2), 1, 0), ((1, 4, 64), 4, 0),
    ],
)  # fmt: skip
def test_halvings(shape: tuple[int, ...], above: int, times: int) -> None:
    assert halvings(shape, above=above) == times
    for _ in range(times):
        shape = Squeeze().output_shape(shape)


class ContextConv(nn.Module):
    """A prior's network: it sees the context alone."""

    def __init__(self, kept: int, leaving: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(kept, 2 * leaving, 3, padding=1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.conv(context.to(x.dtype))


class Record:
    """Makes levels and priors, and notes what for."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def squeezed(self, of: Sequence[int]) -> Transform:
        self.calls.append(("level", *of))
        return Chain(Squeeze(), Conv1x1(4 * of[0]))

    def plain(self, of: Sequence[int]) -> Transform:
        self.calls.append(("last", *of))
        return Conv1x1(of[0])

    def prior(self, kept: int, leaving: int) -> Transform:
        self.calls.append(("prior", kept, leaving))
        return Coupling([], range(leaving), ContextConv(kept, leaving), Affine())


def test_a_pyramid_makes_each_level_for_what_the_one_before_leaves() -> None:
    record = Record()
    made = pyramid((3, 8, 12), [record.squeezed, record.squeezed, record.plain], record.prior)
    assert record.calls == [
        ("level", 3, 8, 12),
        ("prior", 6, 6),
        ("level", 6, 4, 6),
        ("prior", 12, 12),
        ("last", 12, 2, 3),
    ]
    assert isinstance(made, MultiScale)
    assert made.kept_shapes == [(6, 4, 6), (12, 2, 3)]
    assert made.latent_shapes == [(6, 4, 6), (12, 2, 3), (12, 2, 3)]
    assert made.output_shape((3, 8, 12)) == (288,)


def test_an_odd_number_of_channels_keeps_the_smaller_half() -> None:
    record = Record()
    made = pyramid((3, 2, 2), [record.plain, record.plain], record.prior)
    assert record.calls == [("last", 3, 2, 2), ("prior", 1, 2), ("last", 1, 2, 2)]
    assert made.latent_shapes == [(2, 2, 2), (1, 2, 2)]


def test_a_pyramid_that_factors_nothing_out_is_one_level() -> None:
    record = Record()
    made = pyramid((2, 4, 4), [record.squeezed, record.squeezed, record.plain], factor_out=False)
    assert record.calls == [("level", 2, 4, 4), ("level", 8, 2, 2), ("last", 32, 1, 1)]
    assert made.kept_shapes == []
    assert made.latent_shapes == [(32, 1, 1)]
    check_bijection(prepared(made, 0.3), normal(3, 2, 4, 4))


def test_a_pyramid_is_a_bijection_with_priors_too() -> None:
    record = Record()
    check_bijection(
        prepared(pyramid((1, 4, 4), [record.squeezed, record.plain], record.prior), 0.3), normal(3, 1, 4, 4)
    )
    check_bijection(prepared(pyramid((1, 4, 4), [record.squeezed, record.plain]), 0.3), normal(3, 1, 4, 4))


def test_pyramids_that_cannot_be_are_refused() -> None:
    record = Record()
    with pytest.raises(ValueError, match="at least one level"):
        pyramid((1, 4, 4), [])
    with pytest.raises(ValueError, match="no half of 1 channel"):
        pyramid((1, 4, 4), [record.plain, Record().plain])


def test_vectors_and_images_are_told_apart() -> None:
    assert is_image((3, 4, 4), "Mine")
    assert not is_image((7,), "Mine")
    for shape in ((), (4, 4), (1, 2, 3, 4)):
        with pytest.raises(
            ValueError, match=r"Mine takes vectors \(D,\) and images \(C, H, W\), not examples of shape"
        ):
            is_image(shape, "Mine")
