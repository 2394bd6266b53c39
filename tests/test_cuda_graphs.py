"""What a recording leaves behind, with a stand-in for torch's graphs and allocator."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator

from bench.cuda_graphs import CudaGraphs

POOL = (0, 7)


class Recorder(CudaGraphs):
    """A recorder without a device."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 1)
        self.stream: Any = SimpleNamespace(device=self.device)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def _mend(self, generator: Generator) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torch's allocator is told of the pool of a recording."""
    told: list[str] = []

    class Graph:
        ended = False

        def register_generator_state(self, generator: Generator) -> None:
            pass

        def replay(self) -> None:
            pass

        def pool(self) -> tuple[int, int]:
            if not self.ended:
                raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
            return POOL

    @contextlib.contextmanager
    def recording(graph: Graph, pool: tuple[int, int], stream: object, capture_error_mode: str) -> Iterator[None]:
        assert pool == POOL
        try:
            yield
        except ArithmeticError as error:  # an error of the device, after which a recording cannot be ended
            raise RuntimeError("operation failed due to a previous error during capture") from error
        except BaseException:
            graph.ended = True
            raise
        graph.ended = True

    def note(what: str) -> Any:
        return lambda device, pool: told.append(f"{what} {device} {pool}")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", note("end"), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", note("release"), raising=False)
    return told


def record(error: Exception | None) -> None:
    def work() -> None:
        if error is not None:
            raise error

    Recorder().record(work, Generator())


def test_a_recording_that_cannot_be_ended_returns_its_memory(told: list[str]) -> None:
    with pytest.raises(RuntimeError, match="previous error"):
        record(ArithmeticError("too little memory"))
    assert told == ["end 1 (0, 7)", "release 1 (0, 7)"]


def test_a_recording_that_ends_is_torchs_to_return(told: list[str]) -> None:
    record(None)
    with pytest.raises(KeyError):
        record(KeyError("of the model's own"))
    assert told == []


def test_what_never_began_hides_no_error(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: int, pool: tuple[int, int]) -> None:
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", refuse)
    with pytest.raises(RuntimeError, match="previous error"):
        record(ArithmeticError("no memory to begin with"))
    assert told == []


def test_steps_go_to_the_device_where_an_optimizer_can_count_there() -> None:
    recorder, devices = Recorder(), []
    recorder.device = torch.device("meta")  # stands for the card
    for kind in (torch.optim.Adam, torch.optim.Adagrad):
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = torch.ones(2)
        optimizer = kind([parameter])
        optimizer.step()
        recorder.prepare([optimizer], lr_changes=False)
        devices.append(optimizer.state[parameter]["step"].device.type)
        assert optimizer.param_groups[0].get("capturable", True)
    assert devices == ["meta", "cpu"]
