"""Calls replayed from graphs: the numbers and the draws of eager ones, or eager ones and a line that says why.

A stand-in replays recorded operations on the CPU (tests/helpers_cuda_graphs.py); tests/gpu/ has the same on a CUDA
device.
"""

import copy
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_models import configuration, new_model, small_data
from torch import Generator, Tensor, nn

from bench import chunks
from bench.chunks import CHUNK, draw_class_log_weights, draw_given, draw_log_weights, draw_samples, growing
from bench.config.spec import Hardware, RunSpec, Schedule
from bench.cuda_graphs import recorder_for
from bench.evaluation.measure import trained_model
from bench.replays import EAGER, Replays
from bench.training.fit import fit
from models.base import GenerativeModel, HasLikelihood, LostSamples, SamplesGiven
from models.flows.base import Flow
from models.transforms.base import Transform

REALS = small_data((4,), None, n=1100)
INTEGERS = small_data((1, 8, 8), 256, n=1100)
CPU = torch.device("cpu")
N = 3 * CHUNK + 100


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("genbench"), "propagate", True)
    caplog.set_level(logging.INFO, "genbench")
    return lambda: [record.getMessage() for record in caplog.records]


def evaluated(name: str, integers: bool = False) -> GenerativeModel:
    model = new_model(name, (INTEGERS if integers else REALS).spec)
    if isinstance(model, Flow):
        model.train()  # layers that set themselves from data do so
        with torch.no_grad():
            model.training_step(((INTEGERS if integers else REALS).train.x[:16], None), 0)
    return model.eval()


def generator(seed: int = 3) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "integers"),
    [("realnvp", False), ("maf", False), ("nsf", False), ("vae", True), ("realnvp_small", True), ("glow", True),
     ("gan", False), ("dcgan", True), ("pixelcnn", True), ("tarflow", True)],
)  # fmt: skip
def test_replayed_samples_are_those_of_eager_calls(name: str, integers: bool, said: Callable[[], list[str]]) -> None:
    model, graphs = evaluated(name, integers), TapeGraphs()
    ours, theirs = generator(), generator()
    wanted = draw_samples(model, N, theirs)
    made = draw_samples(model, N, ours, replays=Replays(graphs))
    assert torch.equal(made, wanted)
    assert torch.equal(ours.get_state(), theirs.get_state())
    assert graphs.recorded == 1, said()
    assert graphs.replays == 2  # the second chunk's comparison, and the third; the last is of another size
    assert said() == ["samples are replayed from a CUDA graph"]


@pytest.mark.parametrize("name", ["vae", "realnvp_small", "glow"])
def test_replayed_draws_of_log_weights_are_those_of_eager_calls(name: str) -> None:
    model, graphs, x = evaluated(name, True), TapeGraphs(), INTEGERS.train.x[:N]
    assert isinstance(model, HasLikelihood)
    ours, theirs, replays = generator(), generator(), Replays(graphs)
    for _ in range(3):
        wanted = draw_log_weights(model, x, CPU, theirs)
        assert torch.equal(draw_log_weights(model, x, CPU, ours, replays), wanted)
    assert graphs.recorded == 2  # whole chunks and the last
    assert graphs.replays == 2 + 3 + 3 + 2


def test_new_weights_in_the_same_place_are_read_by_replays() -> None:
    model, replays = nn.Linear(3, 2), Replays(TapeGraphs())

    def apply(x: Tensor, generator: Generator) -> Tensor:
        return model(x) + torch.rand(2, generator=generator)

    x = torch.randn(5, 3, generator=generator())
    g = generator()
    for _ in range(3):
        replays("outputs", apply, x, generator=g)
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(replays("outputs", apply, 2 * x, generator=generator(8)), apply(2 * x, generator(8)))


def moved(model: GenerativeModel) -> GenerativeModel:
    return model.double().float()


def given_others(model: GenerativeModel) -> GenerativeModel:
    model.load_state_dict({name: one + 0.1 for name, one in model.state_dict().items()}, assign=True)
    return model


def pointed_at_others(model: GenerativeModel) -> GenerativeModel:
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1
    return model


def replaced(model: GenerativeModel) -> GenerativeModel:
    return pointed_at_others(copy.deepcopy(model))


@pytest.mark.parametrize("change", [moved, given_others, pointed_at_others, replaced])
def test_weights_in_another_place_are_read_there(change: Callable[[GenerativeModel], GenerativeModel]) -> None:
    graphs = TapeGraphs()
    model, replays = evaluated("vae", True), Replays(graphs)
    draw_samples(model, N, generator(), replays=replays)
    assert graphs.recorded == 1
    before = [parameter.data for parameter in model.parameters()]
    model = change(model)
    for one in before:
        one.fill_(torch.nan)  # their memory is somebody else's by now
    wanted = draw_samples(model, N, generator())
    assert torch.equal(draw_samples(model, N, generator(), replays=replays), wanted)
    assert graphs.recorded == 3  # whole chunks once more, and the last


def test_a_buffer_in_another_place_is_read_there() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.zeros(3))
            self.shift: Tensor

        def draw(self, n: int, *, generator: Generator) -> Tensor:
            return torch.rand(n, 3, generator=generator) + self.shift

    model, replays = Shifted(), Replays(TapeGraphs())
    for _ in range(3):
        replays("draws", model.draw, 4, generator=generator())
    model.shift = torch.ones(3)
    assert torch.equal(replays("draws", model.draw, 4, generator=generator()), model.draw(4, generator=generator()))


def test_what_is_given_goes_round_whatever_the_chunk() -> None:
    class Same(SamplesGiven):
        def sample_given(self, x: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
            return x

    given = torch.arange(7)[:, None]
    made = draw_given(Same(), given, 2 * CHUNK + 3, CPU, generator())
    assert made.flatten().tolist() == [k % 7 for k in range(2 * CHUNK + 3)]


def test_what_a_call_returns_is_not_overwritten_by_the_next() -> None:
    replays, g = Replays(TapeGraphs()), generator()
    made = [replays("draws", lambda n, generator: torch.rand(n, generator=generator), 4, generator=g) for _ in range(6)]
    assert len({tuple(one.tolist()) for one in made}) == 6


def test_a_function_that_reads_a_value_is_called_as_it_stands(said: Callable[[], list[str]]) -> None:
    def reading(x: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(3, generator=generator)
        return x + noise if noise.sum().item() > 0 else x

    graphs = TapeGraphs()
    replays, ours, theirs = Replays(graphs), generator(), generator()
    for k in range(5):
        x = torch.full((3,), float(k))
        assert torch.equal(replays("sums", reading, x, generator=ours), reading(x, theirs))
    assert graphs.recorded == 0
    (line,) = said()
    assert line.startswith("sums are not captured: ")
    assert "synchronizing" in line


def test_a_replay_with_other_numbers_is_not_used(said: Callable[[], list[str]]) -> None:
    calls: list[int] = []

    def counting(x: Tensor, generator: Generator) -> Tensor:
        calls.append(1)
        return x * len(calls)

    replays, x = Replays(TapeGraphs()), torch.ones(3)
    made = [float(replays("products", counting, x, generator=generator())[0]) for _ in range(4)]
    assert said() == ["products are not captured: a replay gives other numbers"]
    assert made == [1, 4, 5, 6]  # calls 2 and 3 were compared, and the second was made again


def test_errors_of_a_call_are_its_own() -> None:
    def failing(n: int, generator: Generator) -> Tensor:
        raise ArithmeticError(f"no {n}")

    replays = Replays(TapeGraphs())
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="no 4"):
            replays("samples", failing, 4, generator=generator())


def test_a_recording_that_failed_leaves_its_memory_to_the_eager_call() -> None:
    taken: list[weakref.ref[Tensor]] = []
    left: list[int] = []

    def large(n: int, generator: Generator) -> Tensor:
        left.append(sum(one() is not None for one in taken))
        scratch = torch.rand(n, generator=generator)
        taken.append(weakref.ref(scratch))
        if len(taken) == 3:  # the recording
            raise torch.OutOfMemoryError("no room for a second copy")
        return scratch.square()

    replays = Replays(TapeGraphs())
    for _ in range(2):
        replays("samples", large, 4, generator=generator())
    assert left[3] == 0  # the call that is made again


def test_recordings_of_a_function_that_is_given_up_are_forgotten() -> None:
    taken: list[weakref.ref[Tensor]] = []

    def sometimes_reading(x: Tensor, generator: Generator) -> Tensor:
        scratch = x + 1
        taken.append(weakref.ref(scratch))
        return scratch.square() if len(x) == 3 or scratch.sum().item() > 0 else x

    graphs = TapeGraphs()
    replays = Replays(graphs)
    for n in (3, 3, 3, 5):
        replays("sums", sometimes_reading, torch.ones(n), generator=generator())
    assert graphs.recorded == 1
    assert any(one() is not None for one in taken)  # what the recording writes to
    replays("sums", sometimes_reading, torch.ones(5), generator=generator())
    assert not any(one() is not None for one in taken)


def test_recordings_of_others_are_made_anew_after_one_that_failed() -> None:
    def draw(n: int, generator: Generator) -> Tensor:
        return torch.rand(n, generator=generator)

    def reading(n: int, generator: Generator) -> Tensor:
        return torch.ones(n) * torch.rand(n, generator=generator).sum().item()

    graphs = TapeGraphs()
    replays = Replays(graphs)
    for what, function in [("draws", draw)] * 3 + [("sums", reading)] * 2 + [("draws", draw)] * 2:
        replays(what, function, 3, generator=generator())
    assert graphs.recorded == 2


def test_a_number_of_numpy_is_a_number() -> None:
    model, replays = evaluated("realnvp"), Replays(TapeGraphs())
    sizes = [len(draw_samples(model, n, generator(), replays=replays)) for n in np.array([100, 100, 30, 30])]
    assert sizes == [100, 100, 30, 30]


def test_samples_that_are_lost_are_lost_in_replays_too() -> None:
    class Losing(Transform):
        """The identity, whose inverse is NaN for some, also in float64."""

        inverse_kind = "closed form"

        def forward(self, x: Tensor, **given: object) -> tuple[Tensor, Tensor]:
            return x, x.new_zeros(len(x))

        def inverse(self, z: Tensor, **given: object) -> tuple[Tensor, Tensor]:
            return torch.where(z[:, :1] > 1, torch.nan, z), z.new_zeros(len(z))

    class Lossy(Flow):
        def __init__(self) -> None:
            super().__init__((4,), None, Losing(), torch.optim.Adam)
            self.weight = nn.Parameter(torch.zeros(1))

    model = Lossy()
    made = draw_samples(model, N, generator())
    again = draw_samples(model, N, generator(), replays=Replays(TapeGraphs()))
    assert 0 < len(made) < N
    assert torch.equal(made, again)


def test_all_models_on_a_device_are_recorded_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Stream", streams.append)
    recorder_for.cache_clear()
    assert recorder_for(CPU) is None
    for _ in range(3):
        assert recorder_for(torch.device("cuda", 0)) is not None
    recorder_for.cache_clear()  # the recorder without a stream
    assert streams == [torch.device("cuda", 0)]


@pytest.mark.parametrize(("capture", "recorded"), [("auto", 1), ("off", 0)])
def test_capture_off_is_for_samples_as_well(
    capture: str, recorded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, data = TapeGraphs(), small_data((2,), None)
    monkeypatch.setattr("bench.subjects.trained.recorder_for", lambda _: graphs)
    spec = RunSpec.parse(configuration("nice", "data=two_moons", "metric=[likelihood]", f"trainer.capture={capture}"))
    schedule = Schedule(examples=16, batch_size=16)
    fit(new_model("nice", data.spec), data, schedule, Hardware(), seed=0, folder=tmp_path, config=spec.config)
    trained_model(spec, data, "final", tmp_path / "final.ckpt").samples(3 * CHUNK)
    assert graphs.recorded == recorded


def test_draws_without_graphs_are_made_as_they_stand() -> None:
    model = evaluated("vae", True)
    assert torch.equal(draw_samples(model, 300, generator(), replays=EAGER), draw_samples(model, 300, generator()))


def test_chunks_of_exact_likelihoods_grow_while_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(n: int, room: int = 10**9) -> list[int]:
        last = [0]
        monkeypatch.setattr(chunks, "room_for_twice", lambda _: last[0] < room)
        made = []
        for part in growing(torch.arange(n), torch.device("cuda")):
            last[0] = len(part)
            made.append(part)
        assert torch.equal(torch.cat(made), torch.arange(n))
        return [len(part) for part in made]

    assert sizes(20_000) == [250, 500, 1000, 2000, 4000, 4000, 4000, 4000, 250]
    assert sizes(20_000, room=900) == [250, 500, *[1000] * 19, 250]
    assert sizes(0) == [0]
    assert {len(part) for part in growing(torch.arange(1000), CPU)} == {CHUNK}


def test_exact_likelihoods_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = evaluated("realnvp"), REALS.train.x[:1000]
    assert isinstance(model, HasLikelihood)
    small = draw_log_weights(model, x, CPU, generator())

    def whole(x: Tensor, device: torch.device) -> Iterator[Tensor]:
        yield x

    monkeypatch.setattr(chunks, "growing", whole)
    torch.testing.assert_close(draw_log_weights(model, x, CPU, generator()), small, rtol=1e-5, atol=1e-5)


def test_log_weights_of_classes_are_replayed() -> None:
    class Classes(nn.Module):
        classes = 3

        def class_log_weights(self, x: Tensor, *, generator: Generator) -> Tensor:
            return x[:, :3] + torch.rand(len(x), 3, generator=generator)

    graphs, x = TapeGraphs(), torch.randn(4 * CHUNK, 4, generator=generator())
    model: object = Classes()
    wanted = draw_class_log_weights(model, x, CPU, generator())  # type: ignore[arg-type]
    made = draw_class_log_weights(model, x, CPU, generator(), Replays(graphs))  # type: ignore[arg-type]
    assert torch.equal(made, wanted)
    assert graphs.replays == 3


def test_a_flow_that_draws_settles_what_it_drew() -> None:
    model = evaluated("realnvp_small", True)
    g, h = generator(), generator()
    drawn = model.draw(20, temperature=0.5, generator=g)  # type: ignore[operator]
    assert torch.equal(model.settle(*drawn), model.sample(20, temperature=0.5, generator=h))  # type: ignore[operator]
    x, z = drawn
    with pytest.raises(LostSamples, match="20 of 20"):
        model.settle(torch.full_like(x, torch.nan), torch.full_like(z, torch.nan))  # type: ignore[operator]


def test_a_flow_with_samples_of_its_own_is_sampled_with_them() -> None:
    model = evaluated("realnvp")

    class Own(type(model)):  # type: ignore[misc]
        def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
            return torch.full((n, 4), 7.0)

    model.__class__ = Own
    assert bool((draw_samples(model, 600, generator(), replays=Replays(TapeGraphs())) == 7).all())


def test_a_flow_whose_samples_were_replaced_is_sampled_with_the_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = evaluated("realnvp")
    monkeypatch.setattr(model, "sample", lambda n, *, generator: torch.full((n, 4), 7.0))
    assert bool((draw_samples(model, 600, generator()) == 7).all())
