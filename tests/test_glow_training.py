"""Glow in training: resumed, reloaded, under autocast and compiled, its normalization is set once and kept."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import examples
from helpers_glow import ADAM, SPACES, body_of, final, glow, run, same, settle
from helpers_models import new_model, small_data
from torch import Generator, nn

from bench.config.spec import Hardware, Schedule
from bench.training.fit import fit
from models.base import GenerativeModel
from models.flows.glow import Glow
from models.nn.convnet import ConvNet
from models.transforms.actnorm import ActNorm
from models.transforms.base import checkpoint_activations
from models.transforms.coupling import Coupling
from models.transforms.linear import Conv1x1
from models.transforms.multiscale import MultiScale


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """It does not set its normalization again, nor its moving average."""
    data = small_data((1, 4, 4), 8)
    run(new_model("glow", data.spec), data, tmp_path / "whole", ema_decay=0.9)

    class KilledError(Exception):
        pass

    def die(model: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return 0.0

    calls: list[int] = []
    schedule = Schedule(examples=160, batch_size=16, validate_every=64, ema_decay=0.9)
    (tmp_path / "parts").mkdir()
    with pytest.raises(KilledError):
        fit(
            new_model("glow", data.spec), data, schedule, Hardware(), seed=5, folder=tmp_path / "parts", config={},
            validate=die,
        )  # fmt: skip
    run(new_model("glow", data.spec, seed=9), data, tmp_path / "parts", ema_decay=0.9)
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))


@pytest.mark.parametrize(("shape", "levels"), SPACES)
def test_reloaded_weights_give_the_same_numbers_on_another_batch(shape: tuple[int, ...], levels: int | None) -> None:
    flow = glow(shape, levels)
    flow.training_step((examples(shape, levels, 16), None), 0)
    torch.manual_seed(9)
    fresh = Glow(shape, levels, ADAM, steps=2, scales=2, channels=8, hidden=16, depth=1)
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    other = examples(shape, levels, 5, seed=1)
    for mode in (True, False):
        first, second = (
            f.train(mode).log_weight(other, generator=Generator().manual_seed(2)) for f in (flow, fresh)
        )  # fmt: skip
        assert torch.equal(first, second)
    assert torch.equal(*(f.sample(5, generator=Generator().manual_seed(0)) for f in (flow, fresh)))
    assert same(flow.state_dict(), fresh.state_dict())


def test_only_conditioners_run_in_bfloat16_under_autocast() -> None:
    flow = glow((3, 8, 8), 32)
    x = examples((3, 8, 8), 32, 16)
    seen: dict[str, set[torch.dtype]] = {"conditioner": set(), "transform": set()}

    def note(kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen[kind] |= {tensor.dtype for tensor in outputs}

        return hook

    for module in flow.modules():
        if isinstance(module, ConvNet):
            module.register_forward_hook(note("conditioner"))
        if isinstance(module, ActNorm | Conv1x1 | Coupling | MultiScale):
            module.register_forward_hook(note("transform"))
    flow.log_weight(x, generator=Generator().manual_seed(0))
    settle(flow, 0.05)
    expected = flow.log_weight(x, generator=Generator().manual_seed(0))
    for kind in seen:
        seen[kind].clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_w = flow.log_weight(x, generator=Generator().manual_seed(0))
        code = flow.encode(x, generator=Generator().manual_seed(0))
        back = flow.decode(code)
    assert seen == {"conditioner": {torch.bfloat16}, "transform": {torch.float32}}
    assert log_w.dtype == code.dtype == torch.float32
    assert torch.equal(back, x)
    torch.testing.assert_close(log_w, expected, rtol=0.01, atol=0.01)
    log_w.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in flow.parameters())


def test_normalization_set_under_autocast_is_that_of_float32() -> None:
    flows = [glow((3, 8, 8), 32) for _ in range(2)]
    x = examples((3, 8, 8), 32, 64)
    for flow, enabled in zip(flows, (False, True), strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            flow.log_weight(x, generator=Generator().manual_seed(0))
    first, second = (flow.state_dict() for flow in flows)
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 5), (4,)])
def test_it_compiles_without_a_graph_break(shape: tuple[int, ...]) -> None:
    flow = glow(shape, None, steps=1)
    body = body_of(flow)
    x = examples(shape, None, 8)
    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(body, fullgraph=True, backend="eager")
    compiled(x)  # sets the normalization
    settle(flow)
    for got, expected in zip(compiled(x), body(x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*`torch.* is deprecated.*")  # torch.compile of torch
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_steps_are_one_graph_and_have_the_eager_gradients(checkpointing: bool) -> None:
    plain, body = (body_of(glow((3, 8, 8), None, steps=1)) for _ in range(2))
    if checkpointing:
        checkpoint_activations(body)
    compiled = body  # the first step is eager, as in training
    for step in range(3):
        x = examples((3, 8, 8), None, 8, seed=step)
        for side in (plain, compiled):
            side.zero_grad()
            z, log_det = side(x)
            (z.square().sum(1) / 2 - log_det).mean().backward()
        for (name, p), q in zip(plain.named_parameters(), body.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4, msg=name)
        if step == 0:
            settle(plain, 0.1)
            settle(body, 0.1)
            torch.compiler.reset()  # what other tests compiled counts against a limit
            compiled = torch.compile(body, fullgraph=True)


def test_compiled_runs_set_their_normalization_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the eager backend, as one graph, with activation checkpointing: the weights of a plain run."""
    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(nn.Module.compile, fullgraph=True, backend="eager")
    )
    data = small_data((3,), None)
    flows = [Glow((3,), None, ADAM, steps=2, hidden=8, depth=1) for _ in range(2)]
    flows[1].load_state_dict(flows[0].state_dict())
    run(flows[0], data, tmp_path / "plain")
    run(flows[1], data, tmp_path / "compiled", Hardware(compile=True, checkpoint_activations=True))
    plain, compiled = final(tmp_path / "plain"), final(tmp_path / "compiled")
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, msg=name)
