"""Distances up to a turn: against all turns of all pairs, and groups that such pairs join."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from bench.metrics.near_duplicates import closest_pairs
from bench.metrics.registered import registered, registered_shape
from bench.metrics.turned import ANGLES, closest_up_to_a_turn, joined, spread_of_turns, turned, turned_at_random


def pictures(n: int, height: int = 14, width: int = 14, seed: int = 0) -> Tensor:
    """Smooth random pictures that are dark at the border."""
    x = torch.rand(n, 1, height // 2, width // 2, generator=Generator().manual_seed(seed))
    x = functional.interpolate(x, size=(height - 4, width - 4), mode="bilinear")
    return functional.pad(x, (2, 2, 2, 2))


@pytest.mark.parametrize("sides", [(14, 14), (14, 28)])
def test_a_turn_by_a_quarter_is_that_of_the_entries(sides: tuple[int, int]) -> None:
    x = pictures(3, 14, 14)
    wide = functional.pad(x, ((sides[1] - 14) // 2,) * 2)
    made = turned(wide, torch.full((3,), math.pi / 2))
    quarter = functional.pad(x.rot90(1, (2, 3)), ((sides[1] - 14) // 2,) * 2)
    error = min((made - one).abs().max().item() for one in (quarter, quarter.flip(2).flip(3)))
    assert error < 1e-5


def test_a_small_turn_is_taken_back_by_its_opposite() -> None:
    x = functional.interpolate(pictures(5), size=(42, 42), mode="bicubic")
    angle = torch.linspace(-0.3, 0.3, 5)
    assert (turned(turned(x, angle), -angle) - x).abs().mean() < 0.2 * (turned(x, angle) - x).abs().mean()


def test_distances_are_those_of_all_turns_of_all_pairs() -> None:
    x = pictures(12).flatten(1)
    x[6:] = turned(x[:6].view(-1, 1, 14, 14), torch.linspace(-0.3, 0.3, 6)).flatten(1)
    radius = torch.linspace(1, 2, 12).double()
    found = closest_up_to_a_turn(x, (1, 14, 14), radius, 1000)
    assert len(found.i) == 66
    turns = torch.stack(
        [x, *(turned(x.view(-1, 1, 14, 14), torch.full((12,), math.radians(a))).flatten(1) for a in ANGLES)]
    )
    for i, j, distance, plain, angle in zip(found.i, found.j, found.distance, found.plain, found.angle, strict=True):
        all_turns = (turns[:, j] - x[i]).norm(dim=1).double() / (radius[i] * radius[j]).sqrt()
        assert distance.item() == pytest.approx(all_turns.min().item(), rel=1e-5)
        assert plain.item() == pytest.approx(all_turns[0].item(), rel=1e-5)
        assert [0, *ANGLES][int(all_turns.argmin())] == angle
    assert found.distance.diff().min() >= 0
    assert {(i, i + 6) for i in (0, 1, 4, 5)} <= set(zip(found.i[:6].tolist(), found.j[:6].tolist(), strict=True))


def test_only_the_closest_pairs_are_turned() -> None:
    x = pictures(12).flatten(1)
    found = closest_up_to_a_turn(x, (1, 14, 14), torch.ones(12).double(), 5)
    i, j, distance = closest_pairs(x, torch.ones(12).double(), 5)
    assert set(zip(found.i.tolist(), found.j.tolist(), strict=True)) == set(zip(i.tolist(), j.tolist(), strict=True))
    assert torch.allclose(found.plain.sort().values, distance)
    assert len(found.first(2).i) == 2
    assert len(closest_up_to_a_turn(x[:1], (1, 14, 14), torch.ones(1).double(), 5).i) == 0


def test_pairs_join_groups() -> None:
    group = torch.tensor([0, 1, 1, 2, 3, 3, 4])
    assert joined(group, torch.tensor([0, 3]), torch.tensor([2, 4])).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert joined(group, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64)).unique().numel() == 5


def test_the_spread_of_one_picture_is_that_of_a_pair_over_root_two() -> None:
    generator = Generator().manual_seed(0)
    ours = 0.1 * torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    assert spread_of_turns((ours[0] - ours[1]).rad2deg()) == pytest.approx(0.1, rel=0.02)
    assert spread_of_turns(torch.zeros(0)) == 0
    x = pictures(3)
    assert turned_at_random(x, 0.0, generator) is x


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 1, 9)])
def test_the_shape_of_registered_pictures(shape: tuple[int, int, int]) -> None:
    x = torch.rand(2, *shape)
    assert registered(x).shape[1] == math.prod(registered_shape(shape))
