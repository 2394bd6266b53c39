"""Adam computes in one pass on a CPU, with the same numbers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from bench.config.spec import Hardware, Schedule
from bench.data.toy import two_moons
from bench.training.fit import fit
from bench.training.fused import fuse
from models.flows.realnvp import RealNVP


def steps_of(make: Callable[..., Optimizer], *, fused: bool) -> list[Tensor]:
    """Weights after 100 steps of a small regression."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 3)
    optimizer = make(network.parameters())
    if fused:
        fuse([optimizer])
        assert optimizer.param_groups[0]["fused"]
    for _ in range(100):
        optimizer.zero_grad()
        (network(x) - x.sum(1, keepdim=True).sin()).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize(
    "make", [partial(Adam, lr=1e-2, betas=(0.5, 0.999)), partial(AdamW, lr=1e-2, weight_decay=0.1)]
)
def test_fused_steps_equal_plain_ones_to_rounding(make: Callable[..., Optimizer]) -> None:
    torch.testing.assert_close(steps_of(make, fused=True), steps_of(make, fused=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Adam, {"foreach": True}), (Adam, {"fused": False}), (Adam, {"lr": torch.tensor(1e-3)}), (SGD, {})],
)
def test_who_was_told_how_to_compute_stays(kind: type[Optimizer], told: dict[str, Any]) -> None:
    optimizer = kind([nn.Parameter(torch.zeros(2))], **{"lr": 1e-3, **told})
    before = optimizer.param_groups[0]["fused"]
    fuse([optimizer])
    assert optimizer.param_groups[0]["fused"] is before


def slices() -> nn.Parameter:
    return nn.Parameter(torch.linalg.qr(torch.randn(8, 8)).Q[:4])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(slices, id="with gaps"),
        pytest.param(lambda: nn.Parameter(torch.randn(4, 3, dtype=torch.complex64)), id="complex"),
        pytest.param(lambda: nn.Parameter(torch.randn(4, 3).t()), id="transposed"),
        pytest.param(lambda: nn.Parameter(torch.randn(0, 3)), id="empty"),
    ],
)
def test_parameters_of_any_layout_take_the_steps_of_plain_adam(make: Callable[[], nn.Parameter]) -> None:
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        parameter = make()
        optimizer = Adam([parameter], lr=1e-2)
        if fused:
            fuse([optimizer])
        for _ in range(5):
            optimizer.zero_grad()
            (parameter - torch.arange(parameter.numel()).view(parameter.shape)).abs().square().sum().backward()
            optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(weights[1], weights[0])


def test_gradients_that_a_model_sets_itself_may_have_other_strides() -> None:
    weights = []
    for fused in (False, True):
        parameter = nn.Parameter(torch.zeros(4, 3))
        optimizer = Adam([parameter], lr=1e-2)
        if fused:
            fuse([optimizer])
        for _ in range(2):
            parameter.grad = torch.linspace(-1, 1, 12).view(3, 4).t()
            optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(weights[1], weights[0])


def test_a_run_on_a_cpu_is_fused(tmp_path: Path) -> None:
    made: list[Optimizer] = []

    def adam(*given: Any) -> Optimizer:
        made.append(Adam(given[0], lr=1e-3))
        return made[-1]

    data = two_moons(n_train=64, n_val=8, n_test=8)
    model = RealNVP(data.spec.shape, None, adam, couplings=2, hidden=4)
    fit(model, data, Schedule(examples=64, batch_size=32), Hardware(), seed=0, folder=tmp_path, config={})
    assert made[-1].param_groups[0]["fused"]
