"""Checks of evaluation: likelihoods as on the CPU, inverses, sampling, peak memory, and the quickstart as a whole."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_common import (
    HERE,
    ROOT,
    Row,
    data_of,
    forget_peak,
    milliseconds,
    new_model,
    peak_memory,
    synchronize,
    train,
)
from torch import Generator, Tensor

from bench.chunks import CHUNK, draw_log_weights, draw_samples
from bench.cuda_graphs import recorder_for
from bench.replays import EAGER, Replays
from models.base import ChecksInverse, HasLikelihood, SettlesSamples

__all__ = [
    "SAMPLED", "evaluation", "inverse_of_glow", "inverse_of_maf", "moved", "quickstart", "replayed", "round_trips",
    "tarflow",
]  # fmt: skip

SAMPLED = (
    "realnvp", "nsf", "maf", "realnvp_small", "glow_small", "vae", "dcgan", "pixelcnn_small", "tarflow", "ddpm_small",
)  # fmt: skip
"""Whose chunks are replayed and compared."""
SLOW = ("pixelcnn_small", "ddpm_small")

QUICKSTART_SECONDS = 100


def evaluation(name: str) -> Iterator[Row]:
    """Likelihoods as on the CPU; seconds of likelihoods and samples; peak of memory."""
    data, batch = data_of(name, None if name != "vae" else 256)
    model = new_model(name, data)
    if isinstance(model, HasLikelihood) and model.relation == "exact":
        model.train()  # what sets itself from data does so
        model.training_step((data.train.x[:batch], None), 0)
        model.eval()
        x = data.test.x[:64]
        cpu = draw_log_weights(model, x, torch.device("cpu"), Generator())
        there = draw_log_weights(model.to(HERE.device), x, HERE.device, Generator(HERE.device))
        error = float(((there - cpu) / cpu.abs().clamp(min=1)).abs().max())
        yield "log-likelihood, GPU - CPU, relative", error, "", "64 examples"
        if not error < 1e-4:
            raise AssertionError(f"likelihoods differ by {error:.3g}")
    data, batch = data_of(name)
    model, _ = train(name, HERE.steps(100))
    model.to(HERE.device).eval()
    generator = Generator(HERE.device).manual_seed(0)
    forget_peak()
    yield "1000 samples", milliseconds(partial(draw_samples, model, 1000, generator), 1), "ms", ""
    if isinstance(model, HasLikelihood):
        weigh = partial(draw_log_weights, model, data.test.x, HERE.device, generator)
        yield "log-weights of 500 examples", milliseconds(weigh, 1), "ms", ""
    yield "peak memory of evaluation", peak_memory(), "MiB", ""


def replayed(name: str) -> Iterator[Row]:
    """A chunk of samples and of draws of log-weights, eager and replayed; and ten of them with the recording."""
    data, _ = data_of(name)
    model = new_model(name, data).to(HERE.device).eval()
    replays = Replays(recorder_for(HERE.device))

    def generator() -> Generator:
        return Generator(HERE.device).manual_seed(0)

    def check(ours: Tensor, theirs: Tensor) -> str:
        if not torch.allclose(ours.double(), theirs.double(), rtol=1e-4, atol=1e-4):
            raise AssertionError(f"replays differ by {float((ours.double() - theirs.double()).abs().max()):.3g}")
        return "equal to the bit" if torch.equal(ours, theirs) else "equal to rounding"

    n = HERE.steps(1250 if name in SLOW else 2500)
    with torch.no_grad():
        start = time.perf_counter()
        theirs = draw_samples(model, n, generator())
        eager = time.perf_counter() - start
        start = time.perf_counter()
        ours = draw_samples(model, n, generator(), replays=replays)
        with_recording = time.perf_counter() - start
        yield f"{n} samples, eager", 1000 * eager, "ms", ""
        yield f"{n} samples, replayed", 1000 * with_recording, "ms", f"recording included; {check(ours, theirs)}"
        if HERE.is_cuda:
            draw = model.draw if isinstance(model, SettlesSamples) else model.sample
            g = generator()
            before = milliseconds(partial(draw, CHUNK, generator=g), 1 if name in SLOW else 3)
            after = milliseconds(partial(replays, "samples", draw, CHUNK, generator=g), 3)
            yield "a chunk of samples, eager / replayed", before / after, "x", f"{before:.3g} ms to {after:.3g} ms"
        if isinstance(model, HasLikelihood) and model.relation != "exact":
            x = data.train.x[:n]
            start = time.perf_counter()
            theirs = draw_log_weights(model, x, HERE.device, generator())
            eager = time.perf_counter() - start
            start = time.perf_counter()
            ours = draw_log_weights(model, x, HERE.device, generator(), replays)
            with_recording = time.perf_counter() - start
            yield f"draws of {n} log-weights, eager", 1000 * eager, "ms", ""
            yield f"draws of {n} log-weights, replayed", 1000 * with_recording, "ms", check(ours, theirs)


def moved(_: str) -> Iterator[Row]:
    """Two models by turns, replayed by one recorder, whose weights move: the numbers, and the memory that it takes."""
    models = [new_model(name, data_of(name)[0]).to(HERE.device).eval() for name in ("vae", "realnvp_small")]
    each = [Replays(recorder_for(HERE.device)) for _ in models]
    largest, held = 0.0, []
    with torch.no_grad():
        for seed in range(4):
            theirs, ours = (
                [draw_samples(model, 3 * CHUNK, Generator(HERE.device).manual_seed(seed), replays=with_them)
                 for model, with_them in zip(models, used, strict=True)]
                for used in ([EAGER] * len(models), each)
            )  # fmt: skip
            largest = max(
                largest, *(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))
            )
            before = [parameter.data for model in models for parameter in model.parameters()]
            for model in models:
                for parameter in model.parameters():
                    parameter.data = 1.01 * parameter.data
            for one in before:
                one.fill_(torch.nan)  # the memory is somebody else's now
            if HERE.is_cuda:
                torch.cuda.empty_cache()
                held.append(torch.cuda.memory_reserved() / 2**20)
    yield "samples of moved weights, replayed - eager", largest, "", "two models by turns, moved three times"
    if HERE.is_cuda:
        yield "memory that recordings made anew add", held[-1] - held[0], "MiB", f"to {held[0]:.0f}"
    if not largest < 1e-3:
        raise AssertionError(f"samples of moved weights differ by {largest:.3g}")


def round_trips(name: str) -> Iterator[Row]:
    """Error of a flow's inverse on the data and ten times outside, after a short training."""
    data, _ = data_of(name)
    model, _ = train(name, HERE.steps(100))
    model.to(HERE.device).eval()
    if not isinstance(model, ChecksInverse):
        return
    x = data.test.x[:250].to(HERE.device)
    for what, factor in (("on data", 1.0), ("ten times outside", 10.0)):
        error = model.round_trip(x, factor, generator=Generator(HERE.device).manual_seed(0))
        finite = error[error.isfinite()]
        note = f"{len(error) - len(finite)} of {len(error)} do not come back"
        yield f"inverse error, {what}", float(finite.max()) if len(finite) else float("inf"), "", note


def inverse_of_glow(_: str) -> Iterator[Row]:
    """Samples of Glow at its published size after three steps, which leave float32."""
    data, batch = data_of("glow")
    model = new_model("glow", data).to(HERE.device).train()
    optimizer = model.configure_optimizers()
    for step in range(3):
        optimizer.zero_grad()
        loss = model.training_step((data.train.x[batch * step : batch * (step + 1)].to(HERE.device), None), 0)
        loss.backward()
        optimizer.step()
    assert isinstance(model, ChecksInverse)
    beyond, where = model.eval().beyond_float32(16, generator=Generator(HERE.device).manual_seed(0))
    yield "samples beyond float32 after 3 steps, of 16", int(beyond.sum()), "", where
    made = model.sample(16, generator=Generator(HERE.device).manual_seed(0))
    yield "samples that come out, of 16", len(made), "", "those beyond float32 in float64"


def inverse_of_maf(_: str) -> Iterator[Row]:
    """The inverse of one masked autoregressive layer, D = 256, batch 256, against peers with the same weights."""
    import flows_autoregressive as peers

    torch.manual_seed(0)
    layer = peers.Autoregressive(peers.MADE(peers.DIM, 2, hidden=peers.HIDDEN, depth=peers.DEPTH), peers.Affine())
    zuko, nflows = peers._zuko(layer.network), peers._nflows(layer.network)
    for module in (layer, zuko, nflows):
        if isinstance(module, torch.nn.Module):
            module.to(HERE.device)
    x = torch.randn(peers.BATCH, peers.DIM, generator=Generator().manual_seed(0)).to(HERE.device)
    with torch.no_grad():
        ours, theirs = layer.inverse(x)[0], nflows.inverse(x)[0]
        error = float((ours - theirs).abs().max())
        yield "MAF inverse 256 x 256, ours - nflows", error, "", ""
        mine = milliseconds(partial(layer.inverse, x), 3)
        other = milliseconds(partial(nflows.inverse, x), 3)
        replays, g = Replays(recorder_for(HERE.device)), Generator(HERE.device)
        inverse = _without_draws(lambda given: layer.inverse(given)[0])
        for _ in range(3):
            again = replays("inverses", inverse, x, generator=g)
        apart = float((again - ours).abs().max())
        replayed = milliseconds(partial(replays, "inverses", inverse, x, generator=g), 3)
    yield "MAF inverse 256 x 256, ours", mine, "ms", ""
    yield "MAF inverse 256 x 256, ours replayed", replayed, "ms", f"largest difference {apart:.2g}"
    yield "MAF inverse 256 x 256, nflows / ours replayed", other / replayed, "x", ""
    yield "MAF inverse 256 x 256, nflows", other, "ms", ""
    yield "MAF inverse 256 x 256, nflows / ours", other / mine, "x", ""
    if not error < 1e-4:
        raise AssertionError(f"inverses differ by {error:.3g}")


def _without_draws(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The function as ``Replays`` calls it, with a generator that it does not use."""
    return lambda given, generator: function(given)


def tarflow(_: str) -> Iterator[Row]:
    """Samples of TarFlow with keys and values kept, against one pass of the transformer for each patch."""
    import flows_tarflow as both

    for patch, samples in ((4, 16), (2, 4)) if HERE.is_cuda else ((7, 2),):
        flow = both.random_tarflow(patch).to(HERE.device)
        z = torch.randn(samples, flow.dim, generator=Generator().manual_seed(1)).to(HERE.device)
        error = float((both.kept(flow, z) - both.naive(flow, z)).abs().max())
        kept = milliseconds(partial(both.kept, flow, z), 3)
        naive = milliseconds(partial(both.naive, flow, z), 2)
        name = f"TarFlow sampling, {(28 // patch) ** 2} patches"
        replays, g = Replays(recorder_for(HERE.device)), Generator(HERE.device)
        sampler = _without_draws(partial(both.kept, flow))
        for _ in range(3):
            again = replays("samples", sampler, z, generator=g)
        apart = float((again - both.kept(flow, z)).abs().max())
        replayed = milliseconds(partial(replays, "samples", sampler, z, generator=g), 3)
        yield f"{name}, kept", kept, "ms", ""
        yield f"{name}, kept and replayed", replayed, "ms", f"largest difference {apart:.2g}"
        yield f"{name}, re-evaluation / kept", naive / kept, "x", f"largest difference {error:.2g}"
        yield f"{name}, re-evaluation / kept and replayed", naive / replayed, "x", ""
        if not error < 1e-3:
            raise AssertionError(f"samples differ by {error:.3g}")


def quickstart(settings: str) -> Iterator[Row]:
    """Seconds of the whole quickstart with these settings of the command line, in a process of its own.

    Where it fails or is too slow, the row says how far it came.
    """
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "bench", "run", "experiment=quickstart", *settings.split()]
        places = [f"runs_dir={made}/runs", f"results_dir={made}/results"]
        environment = {**os.environ, "GENBENCH_CACHE": os.environ.get("GENBENCH_CACHE", f"{made}/cache")}
        synchronize()
        start = time.perf_counter()
        try:
            ended = subprocess.run(
                [*command, *places], cwd=ROOT, env=environment, capture_output=True, timeout=QUICKSTART_SECONDS,
                check=False,
            )  # fmt: skip
            said, wrong = ended.stderr.decode(errors="replace"), ended.returncode and f"exit code {ended.returncode}"
        except subprocess.TimeoutExpired as late:
            said, wrong = (late.stderr or b"").decode(errors="replace"), f"not done after {QUICKSTART_SECONDS} s"
        seconds = time.perf_counter() - start
    took = re.findall(r"mnist5k-(\w+)-s0-\w+: done after ([^(\n]+)", said)
    runs = ", ".join(f"{model} {spent.strip()}" for model, spent in took)
    if wrong:
        raise AssertionError(f"{wrong}; {runs or 'no run is done'}; {' '.join(said.split())[-150:]}")
    yield f"quickstart, {settings}", seconds, "s", runs
