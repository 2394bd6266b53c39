"""Examples pass through a model in chunks: that bounds the memory and changes no number."""

import logging
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from models.base import (
    ClassConditional,
    ClipsSamples,
    GenerativeModel,
    HasLikelihood,
    LostSamples,
    SamplesGiven,
    Unnormalized,
    ValidatedByLoss,
)

__all__ = [
    "CHUNK", "draw_class_log_weights", "draw_given", "draw_log_weights", "draw_outside", "draw_samples", "losses",
]  # fmt: skip

log = logging.getLogger("genbench")

CHUNK = 250
"""Examples at once."""


@torch.no_grad()
def draw_samples(
    model: GenerativeModel, n: int, generator: Generator, report: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Draw n samples of a model, ``(n, *shape)`` on the CPU; fewer where some cannot be computed, which is logged.

    Arguments:
        generator: On the model's device.
        report: Called with the number drawn so far, before every chunk.

    Raises:
        LostSamples: None can be computed.
    """
    chunks: list[Tensor] = []
    lost: LostSamples | None = None
    for done in range(0, n, CHUNK):
        report(done)
        try:
            made = model.sample(min(CHUNK, n - done), generator=generator)
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
def draw_log_weights(likelihood: HasLikelihood, x: Tensor, device: torch.device, generator: Generator) -> Tensor:
    """One draw of log w for each example, ``(N,)`` float64 on the CPU. A normalizer is estimated once for all of them.

    Raises:
        ValueError: ``log_weight`` returned another shape than one number an example.
    """
    chunks: list[Tensor] = []
    log_z = likelihood.log_normalizer(generator=generator) if isinstance(likelihood, Unnormalized) else None
    for part in x.split(CHUNK):
        if isinstance(likelihood, Unnormalized) and log_z is not None:
            log_w = likelihood.log_unnormalized(part.to(device)) - log_z
        else:
            log_w = likelihood.log_weight(part.to(device), generator=generator)
        if log_w.shape != (len(part),):
            made = f"returned shape {tuple(log_w.shape)} for {len(part)} examples"
            raise ValueError(f"log_weight {made}; wanted is one number an example, shape ({len(part)},)")
        chunks.append(log_w.double().cpu())
    return torch.cat(chunks)


@torch.no_grad()
def draw_class_log_weights(model: ClassConditional, x: Tensor, device: torch.device, generator: Generator) -> Tensor:
    """One draw of log p(x, y) for each example and class, ``(N, classes)`` float64 on the CPU."""
    parts = [model.class_log_weights(part.to(device), generator=generator) for part in x.split(CHUNK)]
    return torch.cat([part.double().cpu() for part in parts])


@torch.no_grad()
def losses(model: ValidatedByLoss, x: Tensor, device: torch.device, generator: Generator) -> Tensor:
    """The validation loss of each example, ``(N,)`` float64 on the CPU."""
    parts = [model.validation_loss(part.to(device), generator=generator) for part in x.split(CHUNK)]
    return torch.cat([part.double().cpu() for part in parts])
