"""Activation checkpointing saves memory and changes no bit of training: of Glow, Real NVP and spline flows."""

import copy
from pathlib import Path

import pytest
import torch
from helpers_density import examples
from helpers_glow import ADAM, final, glow, run, same
from helpers_models import new_model, small_data
from torch import Generator, Tensor, nn

from bench.config.spec import Hardware, typed
from models.flows.base import Flow
from models.flows.realnvp import RealNVP
from models.transforms.base import Chain, checkpoint_activations
from models.transforms.coupling import Coupling, alternating
from models.transforms.univariate import Affine


def saved_bytes(flow: Flow, x: Tensor) -> int:
    """What the graph of one training step holds on to, parameters not counted."""
    own = {parameter.data_ptr() for parameter in flow.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = flow.training_step((x, None), 0)
    assert loss.requires_grad
    return sum(held.values())


def deep(name: str) -> Flow:
    torch.manual_seed(0)
    if name == "realnvp":
        return RealNVP((1, 8, 8), 256, ADAM, channels=8, blocks=2)
    if name == "nsf":
        flow = new_model("nsf", small_data((1, 8, 8), 256).spec)
        assert isinstance(flow, Flow)
        return flow
    return glow((1, 8, 8), 256, steps=6, channels=24)


@pytest.mark.parametrize("name", ["glow", "realnvp", "nsf"])
def test_checkpointing_saves_memory_and_changes_no_bit_of_training(name: str) -> None:
    plain = deep(name)
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    x = examples((1, 8, 8), 256, 16)
    flows = (plain, checkpointed)
    for flow in flows:
        flow.train_generator = Generator().manual_seed(3)
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        for step in range(3):  # the first sets the normalization
            optimizer.zero_grad()
            flow.training_step((x, None), step).backward()
            optimizer.step()
    assert same(plain.state_dict(), checkpointed.state_dict())
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    # The noise of dequantization is drawn once.
    assert torch.equal(plain.train_generator.get_state(), checkpointed.train_generator.get_state())
    assert saved_bytes(checkpointed, x) < saved_bytes(plain, x) / 3
    with torch.no_grad():
        logs = [flow.eval().log_weight(x, generator=Generator().manual_seed(0)) for flow in flows]
    assert torch.equal(*logs)


class _Noisy(nn.Module):
    """A conditioner with dropout, which draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x)


def test_checkpointing_repeats_dropout() -> None:
    torch.manual_seed(0)
    chain = Chain(*[Coupling(*alternating(4, i % 2), _Noisy(), Affine()) for i in range(3)])
    x = torch.randn(32, 4)
    gradients, states = [], []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(chain)
        chain.zero_grad()
        torch.manual_seed(1)
        z, log_det = chain(x)
        (z.square().sum() - log_det.sum()).backward()
        gradients.append([p.grad.clone() for p in chain.parameters()])
        states.append(torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert torch.equal(*states)


def test_the_trainer_has_the_switch(tmp_path: Path) -> None:
    data = small_data((1, 4, 4), 8)
    hardware = typed(Hardware, {"checkpoint_activations": True}, "trainer")
    model = new_model("glow", data.spec)
    run(model, data, tmp_path / "with", hardware)
    run(new_model("glow", data.spec), data, tmp_path / "without")
    assert all(module.checkpointing for module in model.modules() if isinstance(module, Chain))
    assert same(final(tmp_path / "with"), final(tmp_path / "without"))
    gan = new_model("dcgan", data.spec)  # nothing to checkpoint
    run(gan, data, tmp_path / "gan", hardware, examples=32)
