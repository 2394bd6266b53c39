"""Measure memory and time of a training step of deep Glows, with and without activation checkpointing.

    python tests/benchmarks/bench_memory.py [--steps 8 16 32]

"Kept" is the memory that the graph holds between the forward and the backward pass, without parameters; it is the same
on every machine. "Peak" is the rise of the resident memory of a new process during a step, including gradients.
"""

import argparse
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from torch import Generator, Tensor

from models.flows.glow import Glow
from models.transforms.base import checkpoint_activations

SHAPE, SCALES, WIDTH, BATCH = (3, 32, 32), 3, 64, 16


def model(steps: int, checkpointing: bool) -> Glow:
    torch.manual_seed(0)
    flow = Glow(SHAPE, 256, partial(torch.optim.Adam, lr=1e-3), steps=steps, scales=SCALES, channels=WIDTH)
    if checkpointing:
        checkpoint_activations(flow)
    return flow


def images() -> Tensor:
    return torch.randint(256, (BATCH, *SHAPE), generator=Generator().manual_seed(0)).to(torch.uint8)


def kept_bytes(flow: Glow, x: Tensor) -> int:
    """Return the bytes of all storages that the graph of one step refers to, each counted once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in flow.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = flow.training_step((x, None), 0)
    total = sum(held.values())
    loss.backward()
    return total


def resident_bytes() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def one(steps: int, checkpointing: bool) -> None:
    """Print bytes kept, rise of the peak and milliseconds per step. Run in a process of its own."""
    flow, x = model(steps, checkpointing), images()
    before = resident_bytes()
    flow.training_step((x, None), 0).backward()  # initializes the activation normalization
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    flow.zero_grad()
    kept = kept_bytes(flow, x)
    seconds = []
    for _ in range(3):
        flow.zero_grad()
        start = time.perf_counter()
        flow.training_step((x, None), 0).backward()
        seconds.append(time.perf_counter() - start)
    print(kept, peak, 1000 * sorted(seconds)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        one(arguments.one[0], bool(arguments.one[1]))
        return
    print(f"Glow {SHAPE}, L={SCALES}, width {WIDTH}, batch {BATCH}, float32, one thread")
    print("  K  checkpointing  kept MiB  peak MiB  ms a step")
    for steps in arguments.steps:
        for checkpointing in (0, 1):
            command = [sys.executable, __file__, "--one", str(steps), str(checkpointing)]
            kept, peak, ms = map(
                float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            )
            switch = "yes" if checkpointing else "no"
            print(f"{steps:3d}  {switch:13}  {kept / 2**20:8.1f}  {peak / 2**20:8.1f}  {ms:9.0f}")


if __name__ == "__main__":
    main()
