"""trainer.precision=bf16-mixed: conditioner networks run low, densities stay densities, inverses stay inverses."""

from pathlib import Path

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.checkpoint import load_weights
from bench.config.spec import Hardware, Schedule
from bench.training.fit import fit
from models.flows.base import Flow

DATA = small_data((2,), None, n=256, held_out=64)
COUPLINGS = ("realnvp", "glow", "nsf", "realnvp_conditional")
AUTOREGRESSIVE = ("maf", "nsf_ar")


def random_flow(name: str) -> Flow:
    flow = new_model(name, DATA.spec)
    assert isinstance(flow, Flow)
    with torch.no_grad():  # sets normalizations
        flow.training_step((DATA.train.x, DATA.train.y), 0)
    randomize(flow, 0.15)
    return flow.eval()


def lowered() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@torch.no_grad()
@pytest.mark.parametrize("name", COUPLINGS + AUTOREGRESSIVE)
def test_a_density_with_low_conditioners_integrates_to_one(name: str) -> None:
    flow = random_flow(name)
    with lowered():
        low = flow.log_weight(DATA.test.x)
        mass = quadrature(flow, half_width=12, points=160)
    full = flow.log_weight(DATA.test.x)
    assert low.dtype == torch.float32
    assert (low - full).abs().max() > 1e-5, "the networks did run low"
    assert mass == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", COUPLINGS)
def test_log_determinants_are_those_of_the_map_with_low_conditioners(name: str) -> None:
    """No network stands on the diagonal of the triangular Jacobian, so its rounding is not in the determinant."""
    flow = random_flow(name)
    x = DATA.test.x[:8].clone().requires_grad_()
    context = flow._context(torch.zeros(len(x), dtype=torch.long)) if flow.classes else None
    with lowered():
        z, log_det = flow.transform(x, context=context)
    rows = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
    exact = torch.linalg.slogdet(torch.stack(rows, 1).double()).logabsdet
    torch.testing.assert_close(
        log_det.double(), exact, rtol=0, atol=2e-2
    )  # the gradient of a rounded network is rounded


@torch.no_grad()
@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings_with_low_conditioners_are_inverted_to_float32_rounding(name: str) -> None:
    flow, x = random_flow(name), DATA.test.x
    context = flow._context(DATA.test.y) if flow.classes else None
    with lowered():
        z, _ = flow.transform(x, context=context)
        back = flow.transform.decode(z, context=context)
    assert back.dtype == torch.float32
    assert (back - x).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_what_is_made_variable_by_variable_is_made_in_float32(name: str) -> None:
    flow = random_flow(name)

    def samples() -> Tensor:
        return flow.sample(20, generator=Generator().manual_seed(0))

    full = samples()
    with lowered():
        assert torch.equal(samples(), full)


@pytest.mark.parametrize("name", ["realnvp", "glow"])
def test_a_flow_trained_in_mixed_precision_has_float32_weights_and_a_density(name: str, tmp_path: Path) -> None:
    flow = new_model(name, DATA.spec)
    schedule = Schedule(examples=2048, batch_size=64, validate_every=2048)
    fit(flow, DATA, schedule, Hardware(precision="bf16-mixed"), seed=0, folder=tmp_path, config={})
    trained = new_model(name, DATA.spec, seed=1)
    load_weights(trained, tmp_path / "final.ckpt")
    assert all(value.dtype == torch.float32 for value in trained.state_dict().values() if value.is_floating_point())
    before = new_model(name, DATA.spec)
    assert isinstance(trained, Flow)
    assert isinstance(before, Flow)
    with torch.no_grad():
        assert trained.eval().log_weight(DATA.test.x).mean() > before.eval().log_weight(DATA.test.x).mean() + 0.05
        assert trained.round_trip(DATA.test.x).max() < 1e-4
        assert quadrature(trained, half_width=8, points=160) == pytest.approx(1, abs=2e-3)
