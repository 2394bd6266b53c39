"""How batches are made: slices of a tensor that lives on the device, or that a thread reads ahead from the disk.

Data that fit stay on the device as they are stored (uint8 for images). A batch is one ``index_select`` with a slice of
the epoch's permutation: no worker, no collation, no copy from the host. Larger data stay where they are, memory-mapped;
one thread gathers the next batches while the model trains. Both ways give the same bits.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from bench.data.base import Split
from bench.seeds import derive_seed

__all__ = ["AHEAD", "HOST_BYTES", "Batches"]

HOST_BYTES = 2**30
"""On a CPU, data up to this size are taken for memory already; a thread reads ahead in larger ones."""

AHEAD = 3
"""Batches gathered ahead of the one that is trained on."""

Batch = tuple[Tensor, Tensor | None]


class Batches:
    """Shuffled batches of a split, without end unless told; where it stands is one integer.

    Epoch e visits the permutation drawn from ``derive_seed(seed, "order", e)``, cut into batches; the remainder that
    does not fill a batch is left out, another one in each epoch. Batch number t is therefore a function of (seed, t)
    alone: starting at ``first_step`` resumes exactly, in the middle of an epoch too. Where examples are drawn anew at
    every visit, batch t of process r is drawn with ``derive_seed(seed, "redraw", t, r)``.

    Arguments:
        split: Examples and labels. Moved to ``device`` once, if they are resident.
        batch_size: Examples in one batch *of one process*. At most the size of the split.
        seed: Base seed of the order. The same on every process.
        device: Where the batches come out.
        rank, world_size: This process takes the ``rank``-th of ``world_size`` equal parts of every global batch, so no
            example is seen twice in an epoch.
        first_step: Number of the first batch.
        last_step: Iteration ends before this step, or never.
        resident_bytes: Size up to which the data are resident. None: half of the memory that is free on a GPU,
            ``HOST_BYTES`` elsewhere.
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
        resident_bytes: int | None = None,
    ) -> None:
        global_batch = batch_size * world_size
        if not batch_size >= 1 or global_batch > len(split):
            raise ValueError(f"batch size {batch_size} x {world_size} processes does not fit {len(split)} examples")
        self.device = torch.device(device)
        # Examples are drawn anew on the CPU; the way to another device is then worth a thread.
        on_host = split.redraw is not None and self.device.type != "cpu"
        limit = _resident_bytes(self.device) if resident_bytes is None else resident_bytes
        self.resident = split.x.nbytes <= limit and not on_host
        self.x = split.x.to(self.device) if self.resident else split.x
        self.y = split.y.to(self.device) if self.resident and split.y is not None else split.y
        self.redraw = split.redraw
        self.batch_size = batch_size
        self.global_batch = global_batch
        self.steps_per_epoch = len(split) // global_batch
        self.rank = rank
        self.seed = seed
        self.first_step = first_step
        self.last_step = last_step
        self._epoch_and_order = (-1, torch.empty(0, dtype=torch.int64))

    def __iter__(self) -> Iterator[Batch]:
        steps = itertools.count(self.first_step) if self.last_step is None else range(self.first_step, self.last_step)
        return map(self._gather, steps) if self.resident else self._read_ahead(iter(steps))

    def _read_ahead(self, steps: Iterator[int]) -> Iterator[Batch]:
        """What ``_gather`` makes of the steps, in a thread that is ``AHEAD`` of the loop."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            waiting = deque(thread.submit(self._gather, step) for step in itertools.islice(steps, AHEAD))
            while waiting:
                x, y = waiting.popleft().result()
                waiting.extend(thread.submit(self._gather, step) for step in itertools.islice(steps, 1))
                # From pinned memory the copy runs beside whatever the GPU still computes.
                yield x.to(self.device, non_blocking=True), None if y is None else y.to(self.device, non_blocking=True)

    def _gather(self, step: int) -> Batch:
        """Batch number ``step``, where the data are; in pinned memory on its way to a GPU."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch + self.rank * self.batch_size
        index = self._order(epoch)[start : start + self.batch_size]
        y = None if self.y is None else self.y.index_select(0, index)
        if self.redraw is None:
            x = self.x.index_select(0, index)
        else:
            x = self.redraw(index, Generator().manual_seed(derive_seed(self.seed, "redraw", step, self.rank)))
        if self.resident or self.device.type != "cuda":
            return x, y
        with torch.cuda.device(self.device):  # a thread of its own would pin for the first GPU
            return x.pin_memory(), None if y is None else y.pin_memory()

    def _order(self, epoch: int) -> Tensor:
        """The permutation of an epoch, drawn once."""
        of, order = self._epoch_and_order
        if of != epoch:
            # On the CPU, so that every device sees the same order.
            generator = Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            self._epoch_and_order = epoch, order
        return order


def _resident_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return HOST_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free // 2
