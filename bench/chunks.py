"""Examples pass through a model in chunks: that bounds the memory and changes no number.

What is drawn is drawn 250 examples at a time on every device, so that the numbers drawn are those of the seed and not
of the device's memory. A chunk can be replayed from a graph (``Replays``). What draws nothing takes more examples on
a GPU.
"""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from bench.memory import room_for_twice
from bench.replays import EAGER, Replays
from models.base import (
    ClassConditional,
    ClipsSamples,
    GenerativeModel,
    HasLikelihood,
    LostSamples,
    SamplesGiven,
    SettlesSamples,
    Unnormalized,
    ValidatedByLoss,
)

__all__ = [
    "CHUNK", "draw_class_log_weights", "draw_given", "draw_log_weights", "draw_outside", "draw_samples", "growing",
    "losses",
]  # fmt: skip

log = logging.getLogger("genbench")

CHUNK = 250
"""Examples at once."""

LARGEST = 4000
"""Examples at once on a GPU, where nothing is drawn: small models are then as fast as their kernels."""


def growing(x: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Cut examples into chunks of 250; on a CUDA device each of twice as many as the one before, up to 4,000, while
    there is memory.

    Not by the clock: the same card should take the same chunks, whose last bits may depend on their size. What is done
    with a chunk must have ended on the device before the next is asked for.
    """
    size, start = CHUNK, 0
    while start < max(1, len(x)):  # no examples are one chunk, as with Tensor.split
        yield x[start : start + size]
        start += size
        if device.type == "cuda" and size < LARGEST and room_for_twice(device):
            size *= 2


@torch.no_grad()
def draw_samples(
    model: GenerativeModel,
    n: int,
    generator: Generator,
    report: Callable[[int], None] = lambda done: None,
    replays: Replays = EAGER,
) -> Tensor:
    """Draw n samples of a model, ``(n, *shape)`` on the CPU; fewer where some cannot be computed, which is logged.

    Arguments:
        generator: On the model's device.
        report: Called with the number drawn so far, before every chunk.
        replays: Of this model.

    Raises:
        LostSamples: None can be computed.
    """
    chunks: list[Tensor] = []
    lost: LostSamples | None = None
    for done in range(0, n, CHUNK):
        report(done)
        try:
            some = min(CHUNK, n - done)
            its_own = getattr(model.sample, "__func__", None) is not SettlesSamples.sample
            if isinstance(model, SettlesSamples) and not its_own:
                made = model.settle(*replays("samples", model.draw, some, generator=generator))
            else:
                made = replays("samples", model.sample, some, generator=generator)
        except LostSamples as error:
            log.warning("samples left out: %s", error)
            lost, made = error, error.kept
        chunks.append(made.cpu())
    drawn = torch.cat(chunks)
    if lost is not None and len(drawn) == 0:
        raise lost
    return drawn


@torch.no_grad()
def draw_given(
    model: SamplesGiven,
    given: Tensor,
    n: int,
    device: torch.device,
    generator: Generator,
    report: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Draw n samples, ``(n, *shape)`` on the CPU: number k given the example k modulo N of ``given``."""
    chunks: list[Tensor] = []
    for done in range(0, n, CHUNK):
        report(done)
        x = given[torch.arange(done, min(done + CHUNK, n)) % len(given)]
        chunks.append(model.sample_given(x.to(device), generator=generator).cpu())
    return torch.cat(chunks)


@torch.no_grad()
def draw_outside(
    model: ClipsSamples, n: int, generator: Generator, report: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Which of the n samples that ``draw_samples`` draws are clipped, ``(n,)`` bool on the CPU; arguments as there."""
    chunks: list[Tensor] = []
    for done in range(0, n, CHUNK):
        report(done)
        chunks.append(model.outside(min(CHUNK, n - done), generator=generator).cpu())
    return torch.cat(chunks)


@torch.no_grad()
def draw_log_weights(
    likelihood: HasLikelihood, x: Tensor, device: torch.device, generator: Generator, replays: Replays = EAGER
) -> Tensor:
    """One draw of log w for each example, ``(N,)`` float64 on the CPU. A normalizer is estimated once for all of them.

    Arguments:
        replays: Of this model.

    Raises:
        ValueError: ``log_weight`` returned another shape than one number an example.
    """
    chunks: list[Tensor] = []
    log_z = likelihood.log_normalizer(generator=generator) if isinstance(likelihood, Unnormalized) else None
    draws = likelihood.relation != "exact" and log_z is None
    for part in x.split(CHUNK) if draws else growing(x, device):
        if isinstance(likelihood, Unnormalized) and log_z is not None:
            log_w = likelihood.log_unnormalized(part.to(device)) - log_z
        elif draws:
            log_w = replays("log-weights", likelihood.log_weight, part.to(device), generator=generator)
        else:
            log_w = likelihood.log_weight(part.to(device), generator=generator)
        if log_w.shape != (len(part),):
            made = f"returned shape {tuple(log_w.shape)} for {len(part)} examples"
            raise ValueError(f"log_weight {made}; wanted is one number an example, shape ({len(part)},)")
        chunks.append(log_w.double().cpu())
    return torch.cat(chunks)


@torch.no_grad()
def draw_class_log_weights(
    model: ClassConditional, x: Tensor, device: torch.device, generator: Generator, replays: Replays = EAGER
) -> Tensor:
    """One draw of log p(x, y) for each example and class, ``(N, classes)`` float64 on the CPU."""
    weigh = model.class_log_weights
    parts = [replays("class log-weights", weigh, part.to(device), generator=generator) for part in x.split(CHUNK)]
    return torch.cat([part.double().cpu() for part in parts])


@torch.no_grad()
def losses(model: ValidatedByLoss, x: Tensor, device: torch.device, generator: Generator) -> Tensor:
    """The validation loss of each example, ``(N,)`` float64 on the CPU."""
    parts = [model.validation_loss(part.to(device), generator=generator) for part in x.split(CHUNK)]
    return torch.cat([part.double().cpu() for part in parts])
