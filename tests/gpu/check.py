"""Check training on a CUDA device, and time it.

    python tests/gpu/check.py --seconds 240

For each model: a step eager, captured in our Trainer, and captured in a bare loop; agreement of captured with eager
steps; resume to the same bits; likelihoods as on the CPU; evaluation, sampling, peak memory. Then what a recording
that fails leaves behind, NaN, and steps that cannot be captured. Needs nothing but the repository and its
requirements: data are synthetic. Rows are written as they come, and a check that breaks is a row with the reason.
"""

import argparse
import csv
import itertools
import logging
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Generator, Tensor  # noqa: E402

from bench.checkpoint import Progress, load_checkpoint  # noqa: E402
from bench.chunks import draw_log_weights, draw_samples  # noqa: E402
from bench.config.build import build_model  # noqa: E402
from bench.config.compose import compose_runs  # noqa: E402
from bench.config.spec import Hardware, Schedule  # noqa: E402
from bench.data.base import Data, Split  # noqa: E402
from bench.data.loader import Batches  # noqa: E402
from bench.errors import DivergedError  # noqa: E402
from bench.probe import Probe  # noqa: E402
from bench.rng import seeded  # noqa: E402
from bench.schema import DataSpec  # noqa: E402
from bench.training.captured import CapturedSteps  # noqa: E402
from bench.training.fit import fit  # noqa: E402
from bench.training.graphs import CudaGraphs, Uncapturable  # noqa: E402
from models.base import GenerativeModel, HasLikelihood  # noqa: E402
from models.vaes.vae import VAE  # noqa: E402

PLANE = ("realnvp", "nsf", "maf")
IMAGES = ("realnvp_small", "vae", "glow_small", "dcgan", "wgan", "wgan_gp", "sngan")
FIELDS = ("device", "torch", "model", "what", "value", "unit", "status", "note")

Check = Callable[[str], Iterator[tuple[str, float, str, str]]]
"""Yields rows of a model: what, value, unit, note. It raises where something is wrong."""


def data_of(name: str, levels: int | None = 256) -> tuple[Data, int]:
    """Synthetic data of the shape that the model is timed on, and its batch size."""
    generator = Generator().manual_seed(1)
    if name in PLANE:
        shape, levels, n, batch = (2,), None, 20_000, 512
        x = torch.randn(n + 1000, *shape, generator=generator)
    else:
        shape, n, batch = (1, 28, 28), 4000, 64  # type: ignore[assignment]
        x = torch.randn(n + 1000, *shape, generator=generator)
        if levels is not None:
            x = (128 + 40 * x).clamp(0, levels - 1).to(torch.uint8)
    spec = DataSpec("synthetic", "r0", shape, levels, n, 500, 500, None)
    return Data(spec, Split(x[:n], None), Split(x[n : n + 500], None), Split(x[n + 500 :], None)), batch


def new_model(name: str, data: Data) -> GenerativeModel:
    with seeded(3):
        return build_model(compose_runs([f"model={name}"])[0]["model"], data.spec)


class Clock(Probe):
    """Times steps, in milliseconds: the median over stretches of ten of them, each to its end on the device."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.marks: list[float] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        if progress.steps >= self.first and progress.steps % 10 == 0:
            torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        return 100 * statistics.median(b - a for a, b in itertools.pairwise(self.marks))


class Lines(logging.Handler):
    """Keeps what the log says of captured steps."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"    log: {record.getMessage()}", flush=True)
        if "training steps" in record.getMessage():
            self.said = record.getMessage()


LINES = Lines()


def train(
    name: str, steps: int, capture: str = "auto", *, folder: Path | None = None, model: GenerativeModel | None = None,
    probes: Any = (), validate: Any = None, every: int = 10**6, **schedule: Any,
) -> tuple[GenerativeModel, dict[str, Tensor]]:  # fmt: skip
    """Train in our Trainer; return the model, on the CPU, and its final weights."""
    data, batch = data_of(name)
    model = model or new_model(name, data)
    LINES.said = ""
    with tempfile.TemporaryDirectory() as made:
        place = folder or Path(made)
        asked = Schedule(examples=steps * batch, batch_size=batch, validate_every=every * batch, **schedule)
        hardware = Hardware(accelerator="gpu", capture=capture)
        fit(model, data, asked, hardware, seed=0, folder=place, config={}, validate=validate, probes=probes)
        return model, load_checkpoint(place / "final.ckpt")["state_dict"]


def trained_eagerly(name: str, steps: int, **schedule: Any) -> dict[str, Tensor]:
    """Final weights after steps of Lightning's loop, with the same optimizers as captured ones."""

    def refuse(*_: Any) -> None:
        raise Uncapturable("eager for comparison")

    kept = CapturedSteps._recorded
    CapturedSteps._recorded = refuse  # type: ignore[assignment,method-assign]
    try:
        return train(name, steps, **schedule)[1]
    finally:
        CapturedSteps._recorded = kept  # type: ignore[method-assign]


def step_times(name: str) -> Iterator[tuple[str, float, str, str]]:
    """A step in our Trainer, eager and captured, with the peak of memory; and captured in a bare loop."""
    clock = Clock(10)
    train(name, 50, "off", probes=[clock])
    eager = clock.milliseconds
    yield "step, eager", eager, "ms", ""
    torch.cuda.reset_peak_memory_stats()
    clock = Clock(100)
    train(name, 400, probes=[clock])
    captured, note = clock.milliseconds, LINES.said
    yield "step, captured", captured, "ms", note
    yield "eager / captured", eager / captured, "x", ""
    yield "peak memory of training", torch.cuda.max_memory_allocated() / 2**20, "MiB", "both kinds of steps"
    if name not in ("dcgan", "wgan", "wgan_gp", "sngan"):
        bare = bare_loop(name)
        yield "step, captured, bare loop", bare, "ms", ""
        yield "Trainer / bare loop", captured / bare, "x", ""
    if "replayed" not in note:
        raise AssertionError(f"not captured: {note}")


def bare_loop(name: str, steps: int = 300) -> float:
    """Milliseconds of a step captured by hand, with nothing around it."""
    data, size = data_of(name)
    model = new_model(name, data).cuda()
    optimizer: Any = model.configure_optimizers()
    for group in optimizer.param_groups:
        group["capturable"] = True
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
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        graph.replay()
    return 100 * statistics.median(b - a for a, b in itertools.pairwise(marks))


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Distance of two final weights, relative to the way that training went."""
    keys = [key for key, value in theirs.items() if value.is_floating_point()]
    distance = sum(float((ours[key].double() - theirs[key].double()).square().sum()) for key in keys) ** 0.5
    way = sum(float((theirs[key].double() - start[key].double()).square().sum()) for key in keys) ** 0.5
    return distance / way


def agreement(name: str) -> Iterator[tuple[str, float, str, str]]:
    """Captured against eager steps, and two eager runs against each other: what rounding does."""
    start = {key: value.clone() for key, value in new_model(name, data_of(name)[0]).state_dict().items()}
    eager = trained_eagerly(name, 100)
    captured = train(name, 100)[1]
    said = LINES.said
    distance = apart(captured, eager, start)
    equal = all(torch.equal(captured[key], value) for key, value in eager.items())
    yield "captured - eager after 100 steps, relative", distance, "", "equal to the bit" if equal else said
    again = 0.0 if equal else apart(trained_eagerly(name, 100), eager, start)
    if not equal:
        yield "eager - eager after 100 steps, relative", again, "", "the same run twice"
    if distance > max(1e-3, 3 * again):
        raise AssertionError(f"captured steps differ from eager ones by {distance:.3g}")


def resume(name: str) -> Iterator[tuple[str, float, str, str]]:
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


def evaluation(name: str) -> Iterator[tuple[str, float, str, str]]:
    """Likelihoods as on the CPU; seconds of likelihoods and samples; peak of memory."""
    data, batch = data_of(name, None if name != "vae" else 256)
    model = new_model(name, data)
    if isinstance(model, HasLikelihood) and model.relation == "exact":
        model.train()  # what sets itself from data does so
        model.training_step((data.train.x[:batch], None), 0)
        model.eval()
        x = data.test.x[:64]
        cpu = draw_log_weights(model, x, torch.device("cpu"), Generator())
        gpu = draw_log_weights(model.cuda(), x, model.device, Generator("cuda"))
        error = float(((gpu - cpu) / cpu.abs().clamp(min=1)).abs().max())
        yield "log-likelihood, GPU - CPU, relative", error, "", "64 examples"
        if not error < 1e-4:
            raise AssertionError(f"likelihoods differ by {error:.3g}")
    data, batch = data_of(name)
    model, _ = train(name, 100)
    model.cuda().eval()
    generator = Generator("cuda").manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    for what, work in {
        "1000 samples": partial(draw_samples, model, 1000, generator),
        "log-weights of 500 examples": partial(draw_log_weights, model, data.test.x, model.device, generator),  # type: ignore[arg-type]
    }.items():
        if what.startswith("log") and not isinstance(model, HasLikelihood):
            continue
        work()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        yield what, 1000 * (time.perf_counter() - start), "ms", ""
    yield "peak memory of evaluation", torch.cuda.max_memory_allocated() / 2**20, "MiB", ""


def failed_recording(_: str) -> Iterator[tuple[str, float, str, str]]:
    """A recording that fails leaves generators and stream as they were."""
    graphs = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
    generator = Generator("cuda").manual_seed(5)
    wanted = torch.rand(3, device="cuda", generator=Generator("cuda").manual_seed(5))

    def work() -> float:
        made = torch.rand(3, device="cuda", generator=generator) + torch.rand(3, device="cuda")
        return float(made.sum())

    stream = torch.cuda.current_stream()
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


def divergence(_: str) -> Iterator[tuple[str, float, str, str]]:
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


def fallback(_: str) -> Iterator[tuple[str, float, str, str]]:
    """A step that reads a value trains eagerly to the end, and the log names the line."""
    model = new_model("vae", data_of("vae")[0])
    model.__class__ = Reading
    train("vae", 30, model=model)
    yield "steps that cannot be captured", 30, "", LINES.said
    if "loss.item()" not in LINES.said:
        raise AssertionError(f"the log does not name the line: {LINES.said}")


def peers(name: str) -> Iterator[tuple[str, float, str, str]]:
    """An eager step of zuko's flow of the same size, where zuko is installed."""
    import zuko

    sizes: dict[str, Any] = {"transforms": 10 if name == "nsf" else 5, "hidden_features": (256, 256)}
    make = zuko.flows.NSF if name == "nsf" else zuko.flows.MAF
    flow = make(2, 0, **sizes).cuda()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    x = data_of(name)[0].train.x[:512].cuda()
    marks = []
    for step in range(31):
        if step % 10 == 0:
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        optimizer.zero_grad()
        (-flow().log_prob(x).mean()).backward()
        optimizer.step()
    yield f"step, zuko {name}, eager", 100 * min(b - a for a, b in itertools.pairwise(marks)), "ms", ""


def plan(names: list[str]) -> list[tuple[str, Check]]:
    """Every check in its order: the mechanics, then times, then agreement, then the rest."""
    return [
        *[("mechanics", check) for check in (failed_recording, fallback, divergence)],
        *[(name, step_times) for name in names],
        *[(name, agreement) for name in names],
        *[(name, resume) for name in names],
        *[(name, evaluation) for name in names],
        *[(name, peers) for name in names if name in ("nsf", "maf")],
    ]


def run(names: list[str], seconds: float, out: Path) -> list[dict[str, Any]]:
    """Do what time allows; write and return the rows."""
    end = time.perf_counter() + seconds
    log = logging.getLogger("genbench")
    log.setLevel(logging.INFO)
    log.addHandler(LINES)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()

        def write(model: str, what: str, value: float | None, unit: str, status: str, note: str) -> None:
            shown = "" if value is None else f"{value:.5g}"
            entries = (torch.cuda.get_device_name(), torch.__version__, model, what, shown, unit, status, note)
            row = dict(zip(FIELDS, entries, strict=True))
            rows.append(row)
            writer.writerow(row)
            stream.flush()
            print(f"{model:14} {what}: {row['value']} {unit} {'' if status == 'ok' else status} {note}", flush=True)

        for name, check in plan(names):
            title = check.__name__.replace("_", " ")
            if time.perf_counter() > end:
                write(name, title, None, "", "skipped", "out of time")
                continue
            start = time.perf_counter()
            try:
                for what, value, unit, note in check(name):
                    write(name, what, value, unit, "ok", note)
            except ImportError as error:
                write(name, title, None, "", "skipped", str(error))
            except Exception as error:
                print(traceback.format_exc(), flush=True)
                write(name, title, None, "", "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            print(f"    {title} of {name} took {time.perf_counter() - start:.1f} s", flush=True)
            torch.cuda.empty_cache()
    log.removeHandler(LINES)
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0, help="begin no check after this time")
    parser.add_argument("--only", default=",".join(PLANE + IMAGES), help="names of models, with commas")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "gpu.csv")
    chosen = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # both as a run sets them
    return run(chosen.only.split(","), chosen.seconds, chosen.out)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    failed = [row for row in main() if row["status"] == "failed"]
    print(f"{len(failed)} checks failed", flush=True)
    sys.exit(bool(failed))
