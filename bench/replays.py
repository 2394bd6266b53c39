"""Functions of tensors, replayed from CUDA graphs: a chunk of samples or of log-weights in one launch."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from bench.cuda_graphs import CudaGraphs, Uncapturable, why_not

__all__ = ["EAGER", "Replays"]

log = logging.getLogger("genbench")

Given = Tensor | int
Made = TypeVar("Made", Tensor, tuple[Tensor, ...])
Function = Callable[..., Made]
"""Of tensors, of numbers, and of ``generator=``."""

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Replays:
    """Calls functions of tensors, and replays them where they were called with tensors of the same shapes before.

    To launch the kernels of a small model takes longer on a GPU than to run them. The first call of a function is made
    as it stands: layers that look at their state once do so then. So is the second, which is then recorded, replayed
    and compared. The third and those after it are replays. What cannot be recorded, or gives other numbers, is called
    as it stands, and the log says why, once.

    A replay reads weights where they were when it was recorded. Where they lie somewhere else, because the model was
    moved or given others, its method is recorded anew. Nothing else that a function looks at may change.

    Arguments:
        graphs: Records the calls; None: every call is made as it stands.
    """

    def __init__(self, graphs: CudaGraphs | None) -> None:
        self.graphs = graphs
        self._known: dict[tuple[object, ...], _Recording | None] = {}
        self._refused: set[str] = set()

    def __call__(self, what: str, function: "Function[Made]", *given: Given, generator: Generator) -> Made:
        """``function(*given, generator=generator)``, or the same from a graph.

        Arguments:
            what: Names the function; it is another one for other numbers or shapes in ``given``.
            generator: On the device. A replay draws from it what the call would.
        """
        if self.graphs is None or what in self._refused:
            return function(*given, generator=generator)
        key = (what, *((one.shape, one.dtype) if isinstance(one, Tensor) else one for one in given))
        recording = self._known.get(key)
        if key not in self._known or (recording is not None and not recording.reads(function)):
            self._known[key] = None
            return function(*given, generator=generator)
        if recording is not None:
            return recording(given, generator)
        state = generator.get_state()
        try:
            made, self._known[key] = _recorded(self.graphs, function, given, generator)
        except Exception as error:
            reason = why_not(error)
        else:
            if not any(other[0] == what and found for other, found in self._known.items() if other != key):
                log.info("%s are replayed from a CUDA graph", what)
            return made
        # Here the error is gone, and with it the memory that the recording took.
        log.info("%s are not captured: %s", what, reason)
        self._refused.add(what)
        self._known = {}  # those of others may draw from the device's own generator, which now has a state they lack
        generator.set_state(state)
        return function(*given, generator=generator)


class _Recording:
    """A call that was recorded, with a generator and tensors of its own that replays read."""

    def __init__(self, graphs: CudaGraphs, function: Callable[..., Any], given: tuple[Given, ...]) -> None:
        self.given = [one.clone() if isinstance(one, Tensor) else one for one in given]
        self.generator = Generator(graphs.device)
        work = partial(function, *self.given, generator=self.generator)
        self.replay, self.made = graphs.record(work, self.generator)
        self.model = _model_of(function)
        self.places = [
            (held, name, _address(one))
            for module in ([] if self.model is None else self.model.modules())
            for held in (module._parameters, module._buffers)
            for name, one in held.items()
        ]

    def reads(self, function: Callable[..., Any]) -> bool:
        """Whether the function's weights are those that replays read."""
        same = (_address(held.get(name)) == place for held, name, place in self.places)
        return _model_of(function) is self.model and all(same)

    def __call__(self, given: tuple[Given, ...], generator: Generator) -> Any:
        for mine, new in zip(self.given, given, strict=True):
            if isinstance(mine, Tensor) and isinstance(new, Tensor):
                mine.copy_(new)
        self.generator.set_state(generator.get_state())
        self.replay()
        generator.set_state(self.generator.get_state())
        # Copies, because the next replay writes to the same place.
        return self.made.clone() if isinstance(self.made, Tensor) else tuple(one.clone() for one in self.made)


def _model_of(function: Callable[..., Any]) -> nn.Module | None:
    """The model whose method the function is."""
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _address(one: Tensor | None) -> int | None:
    return None if one is None else one.data_ptr()


def _recorded(
    graphs: CudaGraphs, function: "Function[Made]", given: tuple[Given, ...], generator: Generator
) -> "tuple[Made, _Recording]":
    """What a call returns, and its recording.

    Raises:
        Uncapturable: The recording gives other numbers.
    """
    state = generator.get_state()
    with graphs.aside(), graphs.strict():
        made = function(*given, generator=generator)
    after = generator.get_state()
    generator.set_state(state)
    recording = _Recording(graphs, function, given)
    if not _close(recording(given, generator), made):
        raise Uncapturable("a replay gives other numbers")
    generator.set_state(after)
    return made, recording


def _close(first: Tensor | tuple[Tensor, ...], second: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether two results are the same to rounding; integers to the last."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if not first.is_floating_point():
            return torch.equal(first, second)
        return first.shape == second.shape and torch.allclose(first, second, equal_nan=True, **CLOSE)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    return len(first) == len(second) and all(_close(one, other) for one, other in zip(first, second, strict=True))


EAGER = Replays(None)
"""Makes every call as it stands."""
