"""The search for near-duplicates is exact on inputs that are hard for float32."""

import pytest
import torch
from helpers_birthday import brute, generator

from bench.metrics import near_duplicates, pairs
from bench.metrics.near_duplicates import closest_pairs, collision_degrees

HARD = {
    "mean 1e3": lambda x: (x + 1e3).float(),
    "tiny differences": lambda x: 1 + 1e-9 * x,
    "identical rows": lambda x: x[:1].expand(len(x), -1),
    "copies among others": lambda x: torch.cat([x[:30], x[:30] + 1e-12 * x[30:60], x[:40]]),
    "two clusters far apart": lambda x: x + 1e4 * (torch.arange(len(x)) % 2)[:, None],
    "one far outlier": lambda x: torch.cat([x[:-1], 1e25 * x[-1:]]),
    "bytes": lambda x: (20 * x).round().to(torch.uint8),
    "small numbers among large": lambda x: torch.cat([1e-30 * x[:60], x[60:]]),
}


@pytest.mark.parametrize("few", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", HARD)
def test_searches_find_what_float64_finds(kind: str, few: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether blocks are decided by bounds in float32, in float64, or some in each."""
    monkeypatch.setattr(near_duplicates, "BLOCK", 32)
    monkeypatch.setattr(pairs, "PIECE", 2**14)
    monkeypatch.setattr(near_duplicates, "FEW", few)
    x = HARD[kind](torch.randn(100, 5, generator=generator()).double())
    radius = 0.5 + torch.rand(len(x), generator=generator(1)).double()
    distance = brute(x)
    radius *= distance[distance > 0].min() if bool((distance > 0).any()) else 1.0
    scaled = distance / torch.outer(radius, radius).sqrt()
    first, second = torch.triu_indices(len(x), len(x), 1)
    ordered = scaled[first, second].sort().values
    for threshold in (0.0, ordered[20].item() * (1 + 1e-12), ordered[300].item() * (1 + 1e-12), 1e12):
        assert torch.equal(collision_degrees(x, radius, threshold), (scaled <= threshold).sum(dim=1) - 1)
    i, j, found = closest_pairs(x, radius, 50)
    assert torch.allclose(found, ordered[:50], rtol=1e-12, atol=0)
    assert torch.equal(scaled[i, j].sort().values, ordered[:50])


def test_float32_leaves_few_pairs_of_common_features(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(600, 64, generator=generator()) + 1e3
    x[7], x[300] = x[8], x[299] + 1e-3
    monkeypatch.setattr(near_duplicates._Search, "distances", lambda *_: pytest.fail("a block in float64"))
    assert collision_degrees(x, torch.ones(600).double(), 0.5).nonzero()[:, 0].tolist() == [7, 8, 299, 300]
