"""Batches for training, cut from a tensor on the device or read ahead by a thread.

Data that fit are moved to the device in their stored dtype (uint8 for images). A batch is then one ``index_select``
with a slice of the epoch's permutation: no workers, no collation, no copy from the host. Larger data stay
memory-mapped, and one thread gathers the next batches while the model trains. Both ways give bit-identical batches.
"""

import itertools
from collections import deque
from collections.abc import Generator as Generated
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from bench.data.base import Split
from bench.seeds import derive_seed

__all__ = ["AHEAD", "HOST_BYTES", "Batches"]

HOST_BYTES = 2**30
"""On a CPU, data up to this size are assumed to fit in memory. For larger data a thread reads ahead."""

AHEAD = 3
"""Number of batches gathered ahead of the current one."""

Batch = tuple[Tensor, Tensor | None]


class Batches:
    """Iterates over shuffled batches of a split, endlessly unless ``last_step`` is given.

    Epoch e uses the permutation drawn from ``derive_seed(seed, "order", e)``, cut into batches. The remainder that does
    not fill a batch is left out; it differs from epoch to epoch. Batch number t therefore depends on (seed, t) alone,
    and starting at ``first_step`` resumes exactly, even in the middle of an epoch. If the split redraws its examples,
    batch t of process r is drawn with ``derive_seed(seed, "redraw", t, r)``.

    Arguments:
        split: Examples and labels. They are moved to ``device`` once, if they are resident.
        batch_size: Number of examples in one batch *of one process*, at most the size of the split.
        seed: Base seed of the order, the same on every process.
        device: Device of the batches.
        rank, world_size: This process takes the ``rank``-th of ``world_size`` equal parts of every global batch, so no
            example is seen twice in an epoch.
        first_step: Number of the first batch.
        last_step: Iteration ends before this step; None: it never ends.
        resident_bytes: Data up to this size are resident. None: half of the free memory on a GPU, ``HOST_BYTES``
            elsewhere.

    Raises:
        ValueError: The global batch is empty or larger than the split.
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
        # Examples are redrawn on the CPU. A thread hides the time of drawing and of copying to another device.
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

    def buffers(self) -> Batch:
        """Tensors of a batch, on the device: zeros, because steps are tried on them, and zeros are valid categories."""
        x, y = self.x, self.y
        size = self.batch_size
        dtype = x.dtype if self.redraw is None else self._gather(0)[0].dtype
        return (
            torch.zeros(size, *x.shape[1:], dtype=dtype, device=self.device),
            None if y is None else torch.zeros(size, *y.shape[1:], dtype=y.dtype, device=self.device),
        )

    def into(self, buffers: Batch, first_step: int) -> Generated[int, None, None]:
        """Write one batch after the other into the same tensors, endlessly; yields the number of the batch.

        The batches are those of ``__iter__``.
        """
        x, y = buffers
        steps = itertools.count(first_step)
        if self.resident and self.redraw is None:
            for step in steps:
                index = self._index(step)
                torch.index_select(self.x, 0, index, out=x)
                if y is not None and self.y is not None:
                    torch.index_select(self.y, 0, index, out=y)
                yield step
        else:
            batches = map(self._gather, itertools.count(first_step)) if self.resident else self._read_ahead(steps)
            for step, (new_x, new_y) in enumerate(batches, first_step):
                x.copy_(new_x)
                if y is not None and new_y is not None:
                    y.copy_(new_y)
                yield step

    def _read_ahead(self, steps: Iterator[int]) -> Iterator[Batch]:
        """Yield the batches of the steps, gathered by a thread that is ``AHEAD`` batches ahead of the loop."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            waiting = deque(thread.submit(self._gather, step) for step in itertools.islice(steps, AHEAD))
            while waiting:
                x, y = waiting.popleft().result()
                waiting.extend(thread.submit(self._gather, step) for step in itertools.islice(steps, 1))
                # A copy from pinned memory overlaps with the GPU's computation.
                yield x.to(self.device, non_blocking=True), None if y is None else y.to(self.device, non_blocking=True)

    def _gather(self, step: int) -> Batch:
        """Return batch number ``step`` on the device of the data, in pinned memory if it goes to a GPU."""
        index = self._index(step)
        y = None if self.y is None else self.y.index_select(0, index)
        if self.redraw is None:
            x = self.x.index_select(0, index)
        else:
            x = self.redraw(index, Generator().manual_seed(derive_seed(self.seed, "redraw", step, self.rank)))
        if self.resident or self.device.type != "cuda":
            return x, y
        with torch.cuda.device(self.device):  # a new thread would pin memory for the first GPU
            return x.pin_memory(), None if y is None else y.pin_memory()

    def _index(self, step: int) -> Tensor:
        """Return which examples batch number ``step`` holds."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch + self.rank * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        """Return the permutation of an epoch. It is kept until another epoch is asked for."""
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
