"""Freed memory is kept for the next tensors."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench.memory import keep_freed_memory

CHILD = """
import resource, sys
import torch
from bench.memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()

def step():
    tensors = [torch.ones(10_000_000) for _ in range(5)]  # of 40 MB: glibc's default maps pages for each
    return sum(tensor[-1].item() for tensor in tensors)

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CHILD, how]
    done = subprocess.run(command, env=ours, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_equal_steps_take_their_memory_from_what_the_last_one_freed() -> None:
    fewest = 3 * 5 * 10_000_000 * 4 // (2 << 20)  # pages are of 2 MiB at most
    assert faults("default") > fewest / 2
    assert faults("keep") < fewest / 10


@pytest.mark.parametrize(
    ("largest", "set_to"),
    [(1 << 40, [(-3, 1 << 30), (-1, 1 << 30)]), (1 << 25, [(-3, 1 << 25), (-1, 1 << 30)]), (0, [])],
)
def test_a_glibc_that_refuses_large_blocks_is_never_slowed_down(
    largest: int, set_to: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once anything is set, glibc leaves the size from which blocks get pages of their own at 128 KiB."""
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    accepted: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        accepted.append((parameter, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert accepted == set_to


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.rtld.nns=4:glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_thresholds_of_the_environment_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("mallopt was asked for"))
    keep_freed_memory()
