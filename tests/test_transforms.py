"""Every transform in float64: log-det against autograd, both round trips, and the shapes it must take."""

import math

import pytest
import torch
from helpers_density import randomize
from helpers_transforms import check_bijection, few, normal, prepared, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.autograd.functional import jacobian

from models.nn.mlp import MLP
from models.nn.resnet import ResNet
from models.transforms.base import Chain, Transform, weakest_inverse
from models.transforms.coupling import Coupling, MaskedCoupling, alternating, checkerboard_mask, halves
from models.transforms.dequantize import UniformDequantization
from models.transforms.logit import Logit
from models.transforms.multiscale import MultiScale
from models.transforms.squeeze import Squeeze
from models.transforms.univariate import Affine

parity = st.integers(0, 1)
channels = st.sampled_from([1, 3])


def vector_coupling(dim: int, parity: int, n_context: int = 0, **network: bool) -> Coupling:
    kept, moved = alternating(dim, parity)
    conditioner = MLP(len(kept), 2 * len(moved), hidden=8, depth=1, n_context=n_context, **network)
    return Coupling(kept, moved, conditioner, Affine())


def checkerboard_coupling(c: int, h: int, w: int, parity: int, n_context: int = 0) -> MaskedCoupling:
    conditioner = ResNet(c, 2 * c, channels=4, blocks=1, n_context=n_context)
    return MaskedCoupling(checkerboard_mask(h, w, parity), conditioner, Affine())


def channel_coupling(c: int, parity: int) -> Coupling:
    kept, moved = halves(c, parity)
    return Coupling(kept, moved, ResNet(len(kept), 2 * len(moved), channels=4, blocks=1), Affine())


@few
@given(dim=st.integers(1, 7), parity=parity)
def test_vector_coupling(dim: int, parity: int) -> None:
    check_bijection(prepared(vector_coupling(dim, parity)), normal(3, dim))


@few
@given(c=channels, h=st.integers(1, 4), w=st.integers(1, 4), parity=parity)
def test_checkerboard_coupling(c: int, h: int, w: int, parity: int) -> None:
    check_bijection(prepared(checkerboard_coupling(c, h, w, parity)), normal(2, c, h, w))


@few
@given(c=st.integers(1, 5), h=st.integers(1, 3), w=st.integers(1, 3), parity=parity)
def test_channel_coupling(c: int, h: int, w: int, parity: int) -> None:
    check_bijection(prepared(channel_coupling(c, parity)), normal(2, c, h, w))


@few
@given(c=channels, h=st.integers(1, 2), w=st.integers(1, 2))
def test_squeeze(c: int, h: int, w: int) -> None:
    check_bijection(Squeeze(), normal(2, c, 2 * h, 2 * w))


@few
@given(shape=st.sampled_from([(1,), (3,), (1, 2, 3), (3, 2, 2)]), alpha=st.sampled_from([1e-6, 0.05]))
def test_logit(shape: tuple[int, ...], alpha: float) -> None:
    check_bijection(Logit(alpha), uniform(4, *shape))


@few
@given(dim=st.integers(1, 5))
def test_chain_of_vector_couplings(dim: int) -> None:
    check_bijection(prepared(Chain(*[vector_coupling(dim, i % 2) for i in range(3)])), normal(2, dim))


@few
@given(c=channels, h=st.integers(1, 2), w=st.integers(1, 2))
def test_multiscale(c: int, h: int, w: int) -> None:
    shape = (c, 2 * h, 2 * w)
    scales = [
        Chain(
            checkerboard_coupling(c, 2 * h, 2 * w, 0),
            Squeeze(),
            channel_coupling(4 * c, 0),
        ),
        channel_coupling(2 * c, 1),
        channel_coupling(c, 1),
    ]
    check_bijection(prepared(MultiScale(shape, scales)), normal(2, *shape))


def test_multiscale_with_an_odd_number_of_channels() -> None:
    scales = [channel_coupling(5, 0), channel_coupling(2, 0)]
    check_bijection(prepared(MultiScale((5, 1, 2), scales)), normal(2, 5, 1, 2))


def test_multiscale_puts_the_finest_latents_first() -> None:
    x = normal(2, 4, 1, 1)
    z, _ = MultiScale((4, 1, 1), [Logit(0.1), Logit(0.1), Logit(0.1)])(x.sigmoid())
    once, _ = Logit(0.1)(x.sigmoid())
    torch.testing.assert_close(z[:, :2], once[:, 2:].flatten(1))


def test_partitions_keep_and_move_each_entry_in_turn() -> None:
    for partition in (alternating, halves):
        for n in (2, 3, 4, 7):
            (kept, moved), (other_kept, other_moved) = partition(n, 0), partition(n, 1)
            assert kept == other_moved
            assert moved == other_kept
            assert sorted(kept + moved) == list(range(n))
            assert 0 < len(kept) < n
        assert partition(1, 0) == partition(1, 1) == ([], [0])
    assert alternating(5, 1) == ([1, 3], [0, 2, 4])
    assert halves(5, 0) == ([0, 1], [2, 3, 4])
    for size in (2, 3, 4, 7):
        masks = [checkerboard_mask(size, 3, parity) for parity in (0, 1)]
        torch.testing.assert_close(sum(masks), torch.ones(1, size, 3))
        assert 0 < masks[0].sum() < masks[0].numel()
    assert checkerboard_mask(2, 3, 1).tolist() == [[[0, 1, 0], [1, 0, 1]]]


def test_a_single_variable_is_moved_by_amounts_that_depend_on_nothing() -> None:
    for p in (0, 1):
        coupling = prepared(vector_coupling(1, p))
        z, log_det = coupling(normal(5, 1))
        assert log_det.unique().numel() == 1
        assert log_det[0] != 0
        assert not torch.equal(z, normal(5, 1))


def test_kept_entries_pass_unchanged_and_do_not_see_moved_ones() -> None:
    coupling = prepared(vector_coupling(5, 0))
    x = normal(1, 5)
    assert torch.equal(coupling(x)[0][:, 0::2], x[:, 0::2])
    matrix = jacobian(lambda e: coupling(e[None])[0][0], x[0])
    assert matrix[0::2, 1::2].abs().max() == 0
    moved_block = matrix[1::2, 1::2]
    assert torch.equal(moved_block, moved_block.diagonal().diag())
    assert matrix[1::2, 0::2].abs().min() > 0


def check_context(transform: Transform, x: Tensor, context: Tensor) -> None:
    """Another context is another bijection; without one it cannot be computed."""
    z, log_det = transform(x, context=context)
    torch.testing.assert_close(transform.inverse(z, context=context)[0], x)
    assert (transform(x, context=2 * context)[0] != z).any()
    assert (transform(x, context=2 * context)[1] != log_det).all()
    with pytest.raises(ValueError, match="context"):
        transform(x)


def test_conditioners_read_the_context() -> None:
    for dim in (1, 4):  # a single variable depends on the context alone
        check_context(prepared(Chain(*[vector_coupling(dim, i, 2) for i in (0, 1)])), normal(3, dim), normal(3, 2))
    pictures = prepared(
        MultiScale((3, 4, 4), [checkerboard_coupling(3, 4, 4, 0, 2), checkerboard_coupling(1, 4, 4, 1, 2)])
    )
    check_context(pictures, normal(2, 3, 4, 4), normal(2, 2))
    check_context(pictures, normal(2, 3, 4, 4), normal(2, 2, 4, 4))
    # A vector is the same as a picture that is the same everywhere.
    vector = normal(2, 2)
    everywhere = vector[:, :, None, None].expand(2, 2, 4, 4)
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(pictures(x, context=vector)[0], pictures(x, context=everywhere)[0])


def test_a_zero_last_layer_makes_the_identity() -> None:
    x = torch.randn(3, 4, generator=Generator().manual_seed(0))
    z, log_det = vector_coupling(4, 0, zero_last=True)(x)
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(3))
    image = torch.randn(2, 3, 4, 4, generator=Generator().manual_seed(0))
    network = ResNet(3, 6, channels=8, blocks=2, zero_last=True)
    assert torch.equal(MaskedCoupling(checkerboard_mask(4, 4, 0), network, Affine())(image)[0], image)


def test_log_scales_are_bounded_and_large_parameters_round_trip() -> None:
    coupling = Coupling(*alternating(6, 1), MLP(3, 6, hidden=16, depth=2), Affine(bound=1.5))
    randomize(coupling, 10.0)
    x = torch.randn(64, 6, generator=Generator().manual_seed(0))
    z, log_det = coupling(x)
    assert log_det.isfinite().all()
    assert log_det.abs().max() <= 3 * 1.5 * (1 + 1e-6)
    assert log_det.abs().max() > 1.5  # the clamp is at work
    back, _ = coupling.inverse(z)
    # The shift is about 1e5, so a float32 entry of z keeps about 1e-2 of x.
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6 * z.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 3, 32, 49, 100, 255, 256])
def test_dequantization_never_leaves_its_cell(levels: int, dtype: torch.dtype) -> None:
    x = torch.arange(levels).to(dtype).repeat(1_000_000 // levels, 1)  # (B, levels), a million entries
    transform = UniformDequantization(levels)
    y, log_term = transform(x, generator=Generator().manual_seed(0))
    assert y.dtype == log_term.dtype == dtype
    assert 0 < y.min() < 0.01 / levels
    assert 1 - 0.01 / levels < y.max() < 1
    assert torch.equal((y * levels).floor(), x)
    back, zero = transform.inverse(y)
    assert torch.equal(back, x)
    assert torch.equal(zero, torch.zeros_like(zero))
    torch.testing.assert_close(log_term, torch.full_like(log_term, -levels * math.log(levels)))


class _ExtremeNoise:
    """torch.rand at its two ends."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, shape: torch.Size, *, dtype: torch.dtype, **_: object) -> Tensor:
        return torch.full(shape, self.value, dtype=dtype)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_dequantization_of_the_extreme_draws(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", _ExtremeNoise(u))
    for levels in range(2, 257):
        x = torch.arange(levels, dtype=torch.uint8)[:, None]
        y, _ = UniformDequantization(levels)(x)
        assert torch.equal((y * levels).floor().to(torch.uint8), x)
        assert y.min() > 0
        assert y.max() < 1


def test_dequantization_noise_is_uniform_and_seeded() -> None:
    x = torch.full((1, 200_000), 3, dtype=torch.uint8)
    transform = UniformDequantization(8)
    y, _ = transform(x, generator=Generator().manual_seed(4))
    u = (y * 8 - 3).double()
    assert abs(u.mean().item() - 1 / 2) < 4 * math.sqrt(1 / 12 / 200_000)
    assert abs(u.var().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / 200_000)
    assert torch.equal(y, transform(x, generator=Generator().manual_seed(4))[0])
    assert not torch.equal(y, transform(x, generator=Generator().manual_seed(5))[0])


def test_dequantization_clips_reals_from_outside() -> None:
    back, _ = UniformDequantization(4).inverse(torch.tensor([[-3.0, -1e-9, 1.0, 7.0]]))
    assert back.tolist() == [[0, 0, 3, 3]]


def test_logit_is_accurate_at_both_ends_in_float32() -> None:
    y = torch.tensor([[2**-22], [1 - 2**-22], [0.5]])
    z, log_det = Logit(1e-6)(y)
    exact_z, exact_log_det = Logit(1e-6)(y.double())
    torch.testing.assert_close(z.double(), exact_z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det.double(), exact_log_det, rtol=1e-6, atol=1e-6)


def test_chain_and_multiscale_derive_relation_and_inverse_from_their_parts() -> None:
    to_reals = [UniformDequantization(4), Logit(0.05)]
    assert Chain(Logit(0.1), Logit(0.1)).relation == "exact"
    assert Chain(*to_reals).relation == "lower_bound"
    assert Chain(Chain(*to_reals), vector_coupling(2, 0)).relation == "lower_bound"
    assert MultiScale((2, 1, 1), [Chain(*to_reals), Logit(0.1)]).relation == "lower_bound"

    class OneWay(Transform):
        inverse_kind = "one-way"

        def forward(self, x: Tensor, *, context=None, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
            return x, x.new_zeros(len(x))

        def inverse(self, z: Tensor, *, context=None) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    assert weakest_inverse([Logit(0.1), OneWay(), Logit(0.1)]) == "one-way"
    assert Chain(Logit(0.1), Chain(OneWay())).inverse_kind == "one-way"


def test_log_terms_add_up_and_inputs_are_left_alone() -> None:
    x = uniform(3, 2)
    before = x.clone()
    chain = prepared(Chain(Logit(0.05), vector_coupling(2, 0), vector_coupling(2, 1)))
    expected, z = torch.zeros(3, dtype=torch.float64), x
    for part in chain.parts:
        z, term = part(z)
        expected = expected + term
    torch.testing.assert_close(chain(x)[1], expected)
    assert torch.equal(x, before)


def test_transforms_stay_float32_under_autocast() -> None:
    scales = [Chain(checkerboard_coupling(3, 4, 4, 0), Squeeze()), channel_coupling(6, 0)]
    chain = Chain(UniformDequantization(8), Logit(0.05), MultiScale((3, 4, 4), scales))
    randomize(chain, 0.5)
    seen: list[torch.dtype] = []
    chain.get_submodule("parts.2.levels.1.conditioner").register_forward_hook(lambda *args: seen.append(args[2].dtype))
    x = torch.randint(8, (5, 3, 4, 4), generator=Generator().manual_seed(0)).to(torch.uint8)
    z, log_term = chain(x, generator=Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_term16 = chain(x, generator=Generator().manual_seed(0))
        back, log_det = chain.inverse(z16)
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert z16.dtype == log_term16.dtype == back.dtype == log_det.dtype == torch.float32
    assert torch.equal(back.to(torch.uint8), x)
    torch.testing.assert_close(log_term16, log_term, rtol=0.02, atol=2.0)
    torch.testing.assert_close(z16, z, rtol=0.1, atol=0.3)


def test_mistakes_are_refused() -> None:
    for mistake in (
        lambda: Chain(),
        lambda: MultiScale((1, 2, 2), []),
        lambda: MultiScale((1, 2, 2), [Logit(0.1), Logit(0.1)]),
        lambda: MultiScale((2, 2, 2), [Logit(0.1)]).output_shape((8,)),
        lambda: Squeeze().output_shape((1, 3, 2)),
        lambda: Logit(0.5),
        lambda: UniformDequantization(1),
        lambda: UniformDequantization(257),
    ):
        with pytest.raises(ValueError, match=r"."):
            mistake()


def test_multiscale_decodes_by_the_decoders_of_its_parts() -> None:
    """Sampling wants no log-determinant; some transforms take whole Jacobians for one."""

    class Dear(Logit):
        def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            raise AssertionError("the log-determinant was not asked for")

        def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
            return super().inverse(z, context=context)[0]

    def made(part: type[Logit]) -> MultiScale:
        return MultiScale((4, 2, 2), [part(0.1), part(0.2), part(0.3)], [part(0.15), part(0.25)])

    z = torch.randn(5, 16, generator=Generator().manual_seed(0))
    assert torch.equal(made(Dear).decode(z), made(Logit).inverse(z)[0])


def test_networks_have_the_layers_they_promise() -> None:
    mlp = MLP(3, 5, hidden=7, depth=2)
    assert [tuple(m.weight.shape) for m in mlp.modules() if isinstance(m, nn.Linear)] == [(7, 3), (7, 7), (5, 7)]
    linear = MLP(3, 5, hidden=7, depth=0)
    assert [tuple(m.weight.shape) for m in linear.modules() if isinstance(m, nn.Linear)] == [(5, 3)]
    resnet = ResNet(2, 6, channels=4, blocks=3)
    assert sum(isinstance(m, nn.Conv2d) for m in resnet.modules()) == 1 + 2 * 3 + 1
    assert resnet(torch.zeros(2, 2, 5, 3)).shape == (2, 6, 5, 3)
    # One example's output is its own.
    x = torch.randn(2, 2, 5, 3, generator=Generator().manual_seed(0))
    torch.testing.assert_close(resnet(x)[:1], resnet(x[:1]))
