"""A second device on a machine that has none: tensors that refuse to meet those of the CPU, as tensors of a GPU do.

``Elsewhere`` is a tensor whose device is called "meta" and whose numbers are computed on the CPU. Operations on it and
on a tensor of the CPU raise, except where CUDA allows them: numbers without a dimension, indices, and copies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["ELSEWHERE", "second_device"]

ELSEWHERE = torch.device("meta")
_MAY_MIX = ("aten::copy_", "aten::index.", "aten::index_put", "aten::_index_put_impl_", "aten::_to_copy")


class Elsewhere(Tensor):
    """A tensor of the second device; ``inner`` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=ELSEWHERE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:  # torch refuses it for a class of ours
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor of a GPU has no NumPy array")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Also sees tensors that are made from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside the block there is a second device. Gives what sends a tensor there."""
    with _Mode(), torch.no_grad():
        yield lambda x: x.to(ELSEWHERE)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = [one for one in leaves if isinstance(one, Elsewhere)]
    name = str(func._schema.name) + "." + str(func._schema.overload_name)
    first_is_here = bool(leaves) and not isinstance(leaves[0], Elsewhere)
    mixed = there and any(one.dim() > 0 for one in leaves if not isinstance(one, Elsewhere))
    if mixed and (not name.startswith(_MAY_MIX) or (first_is_here and "index" in name)):
        raise RuntimeError(f"{name}: tensors of two devices")
    wanted = kwargs.get("device")
    lands_there = wanted == ELSEWHERE if wanted is not None else bool(there)
    kwargs = {**kwargs, "device": torch.device("cpu")} if wanted is not None else kwargs
    if "copy_" in name or "index_put" in name:  # they land where they are written
        lands_there = not first_is_here
    made = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if func._schema.is_mutable:  # what was changed in place is returned itself
        return args[0]
    return tree_map(lambda one: Elsewhere(one) if isinstance(one, Tensor) else one, made) if lands_there else made


def _inner(one: Any) -> Any:
    return one.inner if isinstance(one, Elsewhere) else one
