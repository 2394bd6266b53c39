"""Everything on the device that a training step changes: copied, put back, and compared."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from bench.cuda_graphs import Uncapturable
from bench.rng import rng_state, set_rng_state

__all__ = ["State", "differs"]

MOVEMENT = 1e-3
ROUNDING = 1e-6


class State:
    """A copy of a model's parameters and buffers, the optimizers' state, averaged weights and random generators.

    Arguments:
        model: In training.
        optimizers: Of its parameters.
        averaged: Further tensors that a step changes.
        generator: Of the random numbers of training.

    Raises:
        Uncapturable: An optimizer keeps a number on the host, which a recorded step would not change.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], averaged: Sequence[Tensor], generator: Generator
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._averaged = averaged
        self._generator = generator
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._live()}
        self.random = {"train": generator.get_state(), **rng_state()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, at the same addresses. What an optimizer has added since is removed."""
        for name, tensor in list(self._live()):
            if name in self.tensors:
                tensor.detach().copy_(self.tensors[name])
        for index, optimizer in enumerate(self._optimizers):
            for place, _, state in _states(optimizer):
                for key in [key for key in state if f"{key} {index}.{place}" not in self.tensors]:
                    del state[key]
        self._generator.set_state(self.random["train"])
        set_rng_state(self.random)

    def _live(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._model.named_parameters():
            yield f"weights {name}", parameter
        for name, buffer in self._model.named_buffers():
            yield f"buffers {name}", buffer
        for index, optimizer in enumerate(self._optimizers):
            for place, parameter, state in _states(optimizer):
                for key, value in state.items():
                    if value is None:
                        continue
                    if not isinstance(value, Tensor) or value.device != parameter.device:
                        raise Uncapturable(f"{type(optimizer).__name__} keeps '{key}' on the CPU")
                    yield f"{key} {index}.{place}", value
        for place, tensor in enumerate(self._averaged):
            yield f"averages {place}", tensor


def differs(ours: State, theirs: State, start: State) -> str:
    r"""In what two states differ, both reached from ``start`` by the same steps; empty if in nothing but rounding.

    For all floating-point tensors of a kind together (weights, buffers, averages, an entry of the optimizers' state),
    the distance may be :math:`10^{-3}` of the way that the steps went, plus :math:`10^{-6}` of the tensors' norm, the
    rounding of float32. Integers and random generators are equal. What is NaN or infinite is not compared: training
    will end there.
    """
    if ours.tensors.keys() != theirs.tensors.keys():
        return "the optimizer's state"
    sums: dict[str, list[Tensor]] = {}
    for name, b in theirs.tensors.items():
        a, kind = ours.tensors[name], name.split(" ")[0]
        if not b.is_floating_point():
            if not torch.equal(a, b):
                return name
            continue
        origin = start.tensors.get(name)
        way = b if origin is None else b - origin
        parts = [part.double().nan_to_num(0, 0, 0).square().sum() for part in (a - b, way, b)]
        sums[kind] = [x + y for x, y in zip(sums[kind], parts, strict=True)] if kind in sums else parts
    for kind, squares in sums.items():
        distance, way, size = (float(square) ** 0.5 for square in squares)
        if distance > MOVEMENT * way + ROUNDING * size:
            return f"{kind} (by {distance:.2g} after a way of {way:.2g})"
    return "" if _same(ours.random, theirs.random) else "random numbers (some are drawn on the CPU)"


def _states(optimizer: Optimizer) -> list[tuple[int, nn.Parameter, dict[str, Any]]]:
    """Every parameter of an optimizer that has a state: its place among the parameters, itself, and the state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = optimizer.state
    return [(place, parameter, states[parameter]) for place, parameter in enumerate(parameters) if parameter in states]


def _same(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and plain values are equal."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
