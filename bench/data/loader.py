"""How batches are made: slices of a tensor that already lives on the device.

Data that fit stay on the device as they are stored (uint8 for images). A batch is one ``index_select`` with a slice of
the epoch's permutation: no worker, no collation, no copy from the host.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.data.base import Split
from bench.seeds import derive_seed

__all__ = ["Batches"]


class Batches:
    """Shuffled batches of a split, without end unless told; where it stands is one integer.

    Epoch e visits the permutation drawn from ``derive_seed(seed, "order", e)``, cut into batches; the remainder that
    does not fill a batch is left out, another one in each epoch. Batch number t is therefore a function of (seed, t)
    alone: starting at ``first_step`` resumes exactly, in the middle of an epoch too.

    Arguments:
        split: Examples and labels. Moved to ``device`` once.
        batch_size: Examples in one batch *of one process*. At most the size of the split.
        seed: Base seed of the order. The same on every process.
        device: Where the data live and the batches come out.
        rank, world_size: This process takes the ``rank``-th of ``world_size`` equal parts of every global batch, so no
            example is seen twice in an epoch.
        first_step: Number of the first batch.
        last_step: Iteration ends before this step, or never.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        last_step: int | None = None,
    ) -> None:
        global_batch = batch_size * world_size
        if not batch_size >= 1 or global_batch > len(split):
            raise ValueError(f"batch size {batch_size} x {world_size} processes does not fit {len(split)} examples")
        self.x = split.x.to(device)
        self.y = None if split.y is None else split.y.to(device)
        self.batch_size = batch_size
        self.global_batch = global_batch
        self.steps_per_epoch = len(split) // global_batch
        self.offset = rank * batch_size
        self.seed = seed
        self.first_step = first_step
        self.last_step = last_step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        order, of_epoch = torch.empty(0), -1
        steps = itertools.count(self.first_step) if self.last_step is None else range(self.first_step, self.last_step)
        for step in steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != of_epoch:
                order, of_epoch = self._order(epoch), epoch
            start = position * self.global_batch + self.offset
            index = order[start : start + self.batch_size]
            yield self.x.index_select(0, index), None if self.y is None else self.y.index_select(0, index)

    def _order(self, epoch: int) -> Tensor:
        # On the CPU, so that every device sees the same order.
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(len(self.x), generator=generator).to(self.x.device)
