"""Record work on a CUDA device once, and replay it with a single launch.

A CUDA graph repeats the kernels that were launched while it was recorded, with the same addresses and the same
constants. Python does not run again. So what changes from replay to replay must be a tensor on the device.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

import torch
from torch import Generator
from torch.optim import Optimizer

__all__ = ["CudaGraphs", "Uncapturable", "recorder_for", "why_not"]

HERE = Path(__file__).parent

_T = TypeVar("_T")


class Uncapturable(Exception):  # noqa: N818 - it is a finding, not a fault
    """Why work cannot be recorded, or why a recording is not used."""


class CudaGraphs:
    """Records work on one CUDA device, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def prepare(self, optimizers: Sequence[Optimizer], *, lr_changes: bool) -> None:
        """Let optimizers count their steps on the device, and keep learning rates there if they change."""
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
                if lr_changes:
                    group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
            if not all("capturable" in group for group in optimizer.param_groups):
                continue  # it reads its steps on the host, and would wait for each of them
            for state in optimizer.state.values():
                if isinstance(state.get("step"), torch.Tensor):  # a checkpoint of an eager run has it on the CPU
                    state["step"] = state["step"].to(self.device, torch.float32)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work inside the block runs on the stream on which it will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    @contextmanager
    def strict(self) -> Iterator[None]:
        """Inside the block, what waits for the device raises RuntimeError. A recording could not contain it."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(before)

    def record(self, work: Callable[[], _T], generator: Generator) -> tuple[Callable[[], None], _T]:
        """Record ``work``. Returns a function that replays it, and what ``work`` returned: tensors that every replay
        fills.

        Arguments:
            work: Called once. Its kernels are recorded and do not run.
            generator: Random numbers drawn from it, and from the device's own generator, go on with every replay.
        """
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(self.device)
        try:
            # Other threads may allocate pinned memory for the next batches meanwhile.
            with self.aside(), torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local"):
                made = work()
        except BaseException:
            self._release(graph, pool)
            self._mend(generator)
            raise
        return graph.replay, made

    def _release(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """Return the memory of a recording that failed.

        Where the recording's end raised, torch (2.10 to 2.13, ``CUDAGraph::capture_end``) has not told its allocator,
        which then keeps the recording's memory for ever, and gives no cached memory back when there is too little.
        """
        try:
            graph.pool()
        except RuntimeError:  # it has no end
            with suppress(RuntimeError):  # or no beginning
                torch._C._cuda_endAllocateToPool(self.stream.device.index, pool)
                torch._C._cuda_releasePool(self.stream.device.index, pool)

    def _mend(self, generator: Generator) -> None:
        """After a recording that failed, a generator still waits for its end, and refuses to draw anything else."""
        torch.cuda.synchronize(self.device)
        own = torch.cuda.default_generators[torch.cuda.current_device()]
        for broken in (generator, own):
            state = broken.get_state()
            broken.graphsafe_set_state(Generator(device=self.device))
            broken.set_state(state)


@functools.cache  # torch keeps a workspace of cuBLAS for each stream, 32 MiB on an H100, until the process ends
def recorder_for(device: torch.device) -> CudaGraphs | None:
    """What records work on a device, the same for all; None where nothing can."""
    return CudaGraphs(device) if device.type == "cuda" else None


def why_not(error: BaseException) -> str:
    """What failed and where, in one line: the innermost line of code, not torch's, Lightning's or ours."""
    while error.__context__ is not None and "captur" in str(error):  # a failed recording raises again at its end
        error = error.__context__
    frames = [frame for frame in extract_tb(error.__traceback__) if "-packages" not in frame.filename]
    said = " ".join(str(error).split())[:160] or type(error).__name__
    if not frames or Path(frames[-1].filename).parent in (HERE, HERE / "training"):
        return said
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, `{frames[-1].line}`: {said}"
