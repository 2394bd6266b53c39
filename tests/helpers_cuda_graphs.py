"""A stand-in for CUDA graphs on the CPU: operations are recorded, and replayed without running any Python."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bench.cuda_graphs import CudaGraphs

__all__ = ["TapeGraphs"]

_T = TypeVar("_T")

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"}


class TapeGraphs(CudaGraphs):
    """Records and replays as ``CudaGraphs`` does, constants and addresses included.

    Arguments:
        lenient: Let ``.item()`` pass, whose value a recording then holds for ever.

    Attributes:
        recorded: Number of graphs.
        replays: Number of replays.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.device = torch.device("cpu")
        self.lenient = lenient
        self.recorded = 0
        self.replays = 0

    def prepare(self, optimizers: Sequence[Optimizer], *, lr_changes: bool) -> None:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if lr_changes:
                    group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        with _Tape(self.lenient):
            yield

    def record(self, work: Callable[[], _T], generator: Generator) -> tuple[Callable[[], None], _T]:
        with _Tape(self.lenient) as tape:
            made = work()
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay, made


class _Tape(TorchDispatchMode):
    def __init__(self, lenient: bool) -> None:
        super().__init__()
        self.lenient = lenient
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func._schema.name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        # torch.tensor of a list is copied to the device, or used there from the host; a number alone may be an operand.
        from_host = func._schema.name == "aten::lift_fresh" and args[0].dim() > 0
        if not self.lenient and (by_mask or from_host or func._schema.name in WAITS):
            raise RuntimeError(f"called a synchronizing operation ({func._schema.name})")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, *tree_map(_address, (args, kwargs or {})), out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            for new, old in zip(tree_leaves(func(*args, **kwargs)), tree_leaves(out), strict=True):
                # A view of, or the same as, what was written already needs no copy.
                if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():
                    old.detach().copy_(new)


def _address(one: Any) -> Any:
    """A tensor at the same place, which stays there when the other is given another one (``.data =``)."""
    return one.detach() if isinstance(one, Tensor) else one
