r"""Controls of the birthday test: real examples made as blurred and as noisy as the samples are.

Let P(f) be the mean power of pictures at the frequency f, in units of the power at the lowest frequencies, so that
contrast does not matter. White noise has the same power at all frequencies, so the samples have at most
:math:`\sigma^2 = (\min_f P_{\text{samples}} - \min_f P_{\text{real}})_+` of it. Noise of single frequencies is what
exceeds twice the real power. Real pictures are *matched* to the samples if they get Gaussian noise of the power

.. math:: n(f) = \max\left(\sigma^2, P_{\text{samples}} - 2 P_{\text{real}}\right)

after a filter with the gain :math:`\sqrt{\min(1, (P_{\text{samples}} - n)_+ / P_{\text{real}})}`, which blurs.
On matched pictures the test is tried:

- Negative: different pictures must give no more pairs than chance. Blurred pictures come too close to each other.
- Positive: of planted copies, each with its own noise, the pairs must be found. Copies behind noise are missed.

Where a control fails, a number would say more about the blur or the noise than about copies. Vectors have no
frequencies: they are compared as they are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["Power", "matched", "planted", "power"]

BANDS = 12
LOWEST = 2  # rings that the power is compared in
CHUNK = 2**20  # entries at a time


@dataclass(frozen=True)
class Power:
    """Mean power of pictures in rings of equal frequency, ``(BANDS,)``, in units of ``lowest``.

    Attributes:
        lowest: Power at the lowest frequencies without the constant, where white noise of variance 1 has 1.
    """

    band: Tensor
    lowest: float


def power(x: Tensor) -> Power:
    """Return the power of ``(N, C, H, W)``."""
    mean = x.double().mean().item()
    total = torch.zeros(x.shape[2], x.shape[3] // 2 + 1, dtype=torch.float64)
    for piece in x.split(max(1, CHUNK // x[0].numel())):
        total += torch.fft.rfft2(piece.double() - mean).abs().square().sum(dim=(0, 1))
    total = (total / x.numel()).flatten()[1:]
    ring = (_frequency(x.shape[2], x.shape[3]) * BANDS).long().clamp(max=BANDS - 1).flatten()[1:]
    counted = torch.bincount(ring, minlength=BANDS)
    band = torch.bincount(ring, total, BANDS) / counted.clamp(min=1)
    known = (counted > 0).numpy()
    if not known.any():  # pictures of one pixel
        return Power(band, 0.0)
    rings = np.arange(BANDS)
    band = torch.from_numpy(np.interp(rings, rings[known], band.numpy()[known]))
    lowest = band[:LOWEST].mean().item()
    return Power(band / lowest if lowest > 0 else band, lowest)


def matched(x: Tensor, samples: Power, real: Power, generator: Generator) -> Tensor:
    """Return ``x`` ``(N, C, H, W)`` in float32, made as blurred and as noisy as samples of the power ``samples``.

    Where all pictures on one side are constant there is nothing to match, and x is returned as it is.
    """
    if samples.lowest == 0 or real.lowest == 0:
        return x.float()
    height, width = x.shape[2:]
    white = (samples.band.min() - real.band.min()).clamp_min(0)
    noise = torch.maximum(white, samples.band - 2 * real.band)
    gain = ((samples.band - noise).clamp_min(0) / real.band.clamp_min(1e-300)).clamp(max=1).sqrt()
    gains, noises = (_spread(part, height, width) for part in (gain, (noise * real.lowest).sqrt()))
    mean = x.double().mean().float()
    made = torch.empty(x.shape)
    size = max(1, CHUNK // x[0].numel())
    for target, piece in zip(made.split(size), x.split(size), strict=True):
        draws = torch.randn(piece.shape, generator=generator)
        changed = torch.fft.rfft2(piece.float() - mean) * gains + torch.fft.rfft2(draws) * noises
        target.copy_(torch.fft.irfft2(changed, s=(height, width)) + mean)
    return made


def planted(x: Tensor, generator: Generator) -> tuple[Tensor, int]:
    """Draw N of the first N / 4 of ``x`` (N, ...), with replacement, and count the pairs of copies."""
    index = torch.randint(len(x) // 4, (len(x),), generator=generator)
    size = torch.bincount(index)
    return x[index], int((size * (size - 1) // 2).sum())


def _frequency(height: int, width: int) -> Tensor:
    """Return the frequency of each coefficient of ``rfft2``, from 0 to 1 in the corner ``(H, W // 2 + 1)``."""
    rows, columns = torch.fft.fftfreq(height).double(), torch.fft.rfftfreq(width).double()
    return torch.hypot(rows[:, None], columns) / 0.5**0.5


def _spread(band: Tensor, height: int, width: int) -> Tensor:
    """Interpolate a value for each ring, on the log scale, because steps between rings would make echoes."""
    centres = (np.arange(BANDS) + 0.5) / BANDS
    logs = band.clamp_min(1e-12).log()
    values = np.interp(_frequency(height, width).numpy(), centres, logs.numpy())
    return torch.from_numpy(values).exp().float()
