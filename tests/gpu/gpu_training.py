"""Checks of training: times of a step, agreement with eager steps, resumption, and what cannot be captured."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_common import (
    CAPTURED,
    HERE,
    LINES,
    Clock,
    Row,
    data_of,
    new_model,
    synchronize,
    train,
    trained_eagerly,
)
from torch import Generator, Tensor

from bench.checkpoint import load_checkpoint
from bench.chunks import draw_log_weights
from bench.cuda_graphs import CudaGraphs
from bench.data.loader import Batches
from bench.errors import DivergedError
from models.base import GenerativeModel, HasLikelihood
from models.vaes.vae import VAE

__all__ = ["agreement", "divergence", "failed_recording", "fallback", "low_precision", "resume", "step_times"]


def step_times(name: str) -> Iterator[Row]:
    """A step in our Trainer, eager and captured, with the peak of memory; and captured in a bare loop."""
    clock = Clock(10)
    train(name, HERE.steps(40), "off", probes=[clock])
    eager = clock.milliseconds
    yield "step, eager", eager, "ms", ""
    clock = Clock(HERE.steps(100) // 2)
    with tempfile.TemporaryDirectory() as made:
        train(name, HERE.steps(250), probes=[clock], folder=Path(made))
        peak = load_checkpoint(Path(made) / "final.ckpt")["progress"]["peak_memory"]
    captured, note = clock.milliseconds, LINES.said
    CAPTURED[name] = captured
    yield "step, captured", captured, "ms", note
    yield "eager / captured", eager / captured, "x", ""
    yield "peak memory of training", (peak or 0) / 2**20, "MiB", "as in the row"
    if HERE.is_cuda and name not in ("dcgan", "wgan", "wgan_gp", "sngan"):
        bare = bare_loop(name)
        yield "step, captured, bare loop", bare, "ms", ""
        yield "Trainer / bare loop", captured / bare, "x", ""
        if name == "realnvp_small":  # many small parameters
            fused = bare_loop(name, fused=True)
            yield "step, captured, bare loop, fused Adam", fused, "ms", "not fused in the Trainer"
    if HERE.is_cuda and "replayed" not in note:
        raise AssertionError(f"not captured: {note}")


def bare_loop(name: str, steps: int = 200, *, fused: bool = False) -> float:
    """Milliseconds of a step captured by hand, with nothing around it."""
    data, size = data_of(name)
    model = new_model(name, data).cuda()
    optimizer: Any = model.configure_optimizers()
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["fused"] = fused or group["fused"]
    batches = Batches(data.train, size, 0, device="cuda")
    batch = batches.buffers()
    feed = batches.into(batch, 0)
    next(feed)

    def step() -> Tensor:
        optimizer.zero_grad()
        made: Any = model.training_step(batch, 0)
        loss: Tensor = made["loss"] if isinstance(made, dict) else made
        loss.backward()
        optimizer.step()
        return loss.detach()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    marks = []
    for number, _ in zip(range(steps + 1), feed, strict=False):
        if number % 10 == 0:
            synchronize()
            marks.append(time.perf_counter())
        graph.replay()
    return 100 * statistics.median(b - a for a, b in itertools.pairwise(marks))


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Distance of two final weights, relative to the way that training went."""
    keys = [key for key, value in theirs.items() if value.is_floating_point()]
    distance = sum(float((ours[key].double() - theirs[key].double()).square().sum()) for key in keys) ** 0.5
    way = sum(float((theirs[key].double() - start[key].double()).square().sum()) for key in keys) ** 0.5
    return distance / way


def agreement(name: str) -> Iterator[Row]:
    """Captured against eager steps, and two eager runs against each other: what rounding does."""
    start = {key: value.clone() for key, value in new_model(name, data_of(name)[0]).state_dict().items()}
    steps = HERE.steps(100)
    eager = trained_eagerly(name, steps)
    captured = train(name, steps)[1]
    said = LINES.said
    distance = apart(captured, eager, start)
    equal = all(torch.equal(captured[key], value) for key, value in eager.items())
    yield f"captured - eager after {steps} steps, relative", distance, "", "equal to the bit" if equal else said
    again = 0.0 if equal else apart(trained_eagerly(name, steps), eager, start)
    if not equal:
        yield f"eager - eager after {steps} steps, relative", again, "", "the same run twice"
    if distance > max(1e-3, 3 * again):
        raise AssertionError(f"captured steps differ from eager ones by {distance:.3g}")


def low_precision(name: str) -> Iterator[Row]:
    """Steps with conditioner networks in bfloat16: their time, and the likelihood in float32 of what they trained."""
    data, _ = data_of(name)
    x = data.test.x
    means = {}
    for precision in ("32-true", "bf16-mixed"):
        clock = Clock(HERE.steps(100) // 2)
        model, _ = train(name, HERE.steps(200), probes=[clock], precision=precision)
        if precision != "32-true":
            yield "step, captured, bf16-mixed", clock.milliseconds, "ms", LINES.said
        assert isinstance(model, HasLikelihood)
        model.to(HERE.device).eval()
        generator = Generator(HERE.device).manual_seed(0)
        means[precision] = float(draw_log_weights(model, x, HERE.device, generator).mean())
    apart = (means["bf16-mixed"] - means["32-true"]) / model.dim
    yield "mean log-likelihood, bf16-mixed - float32, of an entry", apart, "nats", "200 steps each"
    if not abs(apart) < 0.05:
        raise AssertionError(f"training in bfloat16 gives {apart:.3g} nats an entry more")


def resume(name: str) -> Iterator[Row]:
    """A run that died after 20 of 60 steps, resumed, against one that did not; with averaging and clipping."""

    class KilledError(Exception):
        pass

    def die(_: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return 0.0

    calls: list[int] = []
    settings: dict[str, Any] = {"every": 20, "ema_decay": 0.99, "clip_norm": 10.0}
    whole = train(name, 60, **settings)[1]
    with tempfile.TemporaryDirectory() as made:
        try:
            train(name, 60, folder=Path(made), validate=die, **settings)
        except KilledError:
            torch.cuda.manual_seed(12345)
        parts = train(name, 60, folder=Path(made), **settings)[1]
    said = LINES.said
    largest = max(float((parts[key].double() - value.double()).abs().max()) for key, value in whole.items())
    equal = all(torch.equal(parts[key], value) for key, value in whole.items())
    how = "equal to the bit" if equal else "differs"
    yield "resumed - whole run, largest difference", largest, "", f"{how}; {said}"
    if not equal:
        again = train(name, 60, **settings)[1]
        same = all(torch.equal(again[key], value) for key, value in whole.items())
        raise AssertionError(f"differs by {largest:.3g}; the same whole run twice is {'' if same else 'not '}equal")


def failed_recording(_: str) -> Iterator[Row]:
    """A recording that fails leaves generators, stream and memory as they were."""
    graphs = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
    generator = Generator("cuda").manual_seed(5)
    wanted = torch.rand(3, device="cuda", generator=Generator("cuda").manual_seed(5))

    def work() -> float:
        made = torch.rand(3, device="cuda", generator=generator) + torch.rand(3, device="cuda")
        return float(made.sum() + torch.zeros(2**26, device="cuda").sum())

    stream = torch.cuda.current_stream()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    try:
        graphs.record(work, generator)
    except Exception as error:
        note = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    else:
        raise AssertionError("a synchronization was recorded")
    if not torch.equal(torch.rand(3, device="cuda", generator=generator), wanted):
        raise AssertionError("the generator is not where it was")
    torch.rand(3, device="cuda")
    if torch.cuda.current_stream() != stream:
        raise AssertionError("the stream is not the one before")
    torch.cuda.empty_cache()
    kept = (torch.cuda.memory_reserved() - held) / 2**20
    yield "memory that a failed recording keeps", kept, "MiB", "of 256"
    if kept > 128:
        raise AssertionError(f"a failed recording keeps {kept:.0f} MiB")
    total = torch.zeros(3, device="cuda")
    replay, _ = graphs.record(lambda: total.add_(torch.rand(3, device="cuda", generator=generator)), generator)
    for _ in range(3):
        replay()
    other = Generator("cuda").manual_seed(5)
    expected = sum(torch.rand(3, device="cuda", generator=other) for _ in range(4)) - wanted
    error = float((total - expected).abs().max())
    yield "draws of replays - eager draws", error, "", note
    if error > 1e-6:
        raise AssertionError("replays draw other numbers")


class Diverging(VAE):
    """Its loss becomes infinite after 70 steps of 64 examples."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        made: Any = super().training_step(batch, batch_idx)
        factor = 1 / (self.examples_trained <= 70 * 64).float()
        return {**made, "loss": made["loss"] * factor} if isinstance(made, dict) else made * factor


class Reading(VAE):
    """It reads its loss at every step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        made: Any = super().training_step(batch, batch_idx)
        loss = made["loss"] if isinstance(made, dict) else made
        return made if loss.item() > -1e30 else None


def divergence(_: str) -> Iterator[Row]:
    """NaN and infinity are found within 50 steps."""
    model = new_model("vae", data_of("vae")[0])
    model.__class__ = Diverging
    try:
        train("vae", 300, model=model)
    except DivergedError as error:
        said = LINES.said
        step = int("".join(letter for letter in str(error).split("(")[0] if letter.isdigit())) // 64
        yield "step at which divergence at step 71 is found", step, "", said
        if not 71 <= step <= 121:
            raise AssertionError("later than 50 steps") from error
    else:
        raise AssertionError("not found")


def fallback(_: str) -> Iterator[Row]:
    """A step that reads a value trains eagerly to the end, and the log names the line."""
    model = new_model("vae", data_of("vae")[0])
    model.__class__ = Reading
    train("vae", 30, model=model)
    yield "steps that cannot be captured", 30, "", LINES.said
    if "loss.item()" not in LINES.said:
        raise AssertionError(f"the log does not name the line: {LINES.said}")
