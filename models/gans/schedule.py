"""Schedules of adversarial training: after which discriminator steps the generator takes one.

Every batch is one discriminator step. A schedule by number says from the number of the step alone whether a generator
step follows; best response says it from the discriminator's losses.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..options import at_least

__all__ = ["BestResponse", "ByNumber", "ScheduleName", "every", "schedule_named", "warm_up"]

ScheduleName = Literal["fixed", "warm_up", "best_response"]

ByNumber = Callable[[int], bool]
"""Whether a generator step follows discriminator step number t, from 0."""

WARM_STEPS, WARM_EVERY, LONG = 25, 500, 100
"""The first generator steps, and every how many later ones, come after this many critic steps."""

WINDOW = 10
TOLERANCE = 0.01


def every(n: int) -> ByNumber:
    """A generator step after every n discriminator steps."""
    return lambda t: (t + 1) % n == 0


def warm_up(n: int) -> ByNumber:
    """The schedule of the Wasserstein GAN's authors (their published program; it is not in arXiv:1701.07875).

    Before each of the first 25 generator steps, and before number 500, 1000, ... (from 0), come 100 critic steps; n
    before every other one.
    """
    first = WARM_STEPS * LONG
    period = LONG + (WARM_EVERY - 1) * n  # critic steps for generator steps 500 k to 500 k + 499

    def follows(t: int) -> bool:
        if t < first:
            return (t + 1) % LONG == 0
        # As if the first period had been like all others, in which the long round comes first.
        place = (t - first + LONG + (WARM_STEPS - 1) * n) % period
        return place == LONG - 1 if place < LONG else (place - LONG + 1) % n == 0

    return follows


class BestResponse(nn.Module):
    """Train the discriminator until it stops improving, before each generator step.

    Its losses on fresh batches are averaged over windows of ten steps. It has stopped improving when the mean of a
    window is not below that of the window before by more than one percent of its size. So a round takes at least twenty
    steps, and at most ``limit``. The generator then answers a discriminator that is near its best, as the theory of
    GANs assumes (Goodfellow et al. 2014, arXiv:1406.2661, section 4).

    The counts are buffers, and so are part of a checkpoint. Deciding reads the loss, so the device waits for the host
    at every step: such steps are not recorded as CUDA graphs. With several processes the loss is averaged over all of
    them, so that they decide alike.

    Arguments:
        limit: Largest number of discriminator steps in a round.

    Raises:
        ValueError: ``limit`` is too small for two windows.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        if limit < 2 * WINDOW:
            raise ValueError(
                f"n_discriminator must be at least {2 * WINDOW} with schedule=best_response, where it is the largest"
                f" number of discriminator steps before a generator step; it is {limit}"
            )
        self.limit = limit
        self.steps: Tensor
        self.total: Tensor
        self.before: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # in this round
        self.register_buffer("total", torch.zeros(()))  # of the losses in this window
        self.register_buffer("before", torch.tensor(math.inf))  # mean of the window before

    @torch.no_grad()
    def reached(self, loss: Tensor) -> bool:
        """Note a discriminator step and its loss; return whether the generator steps now, which ends the round."""
        self.steps += 1
        self.total += _over_processes(loss)
        steps, settled = int(self.steps), False
        if steps % WINDOW == 0:
            mean, before = float(self.total) / WINDOW, float(self.before)
            settled = math.isfinite(before) and mean > before - TOLERANCE * abs(before)
            self.before.fill_(mean)
            self.total.zero_()
        ended = settled or steps >= self.limit
        if ended:
            self.steps.zero_()
            self.total.zero_()
            self.before.fill_(math.inf)
        return ended


def schedule_named(name: str, n_discriminator: int) -> ByNumber | BestResponse:
    """The schedule of this name.

    Arguments:
        name: ``fixed``, ``warm_up`` or ``best_response``.
        n_discriminator: Discriminator steps for a generator step: how many (fixed), how many after the warm-up, or how
            many at most (best response).

    Raises:
        ValueError: There is none of this name, or ``n_discriminator`` is out of range.
    """
    at_least(1, n_discriminator=n_discriminator)
    if name == "fixed":
        return every(n_discriminator)
    if name == "warm_up":
        return warm_up(n_discriminator)
    if name == "best_response":
        return BestResponse(n_discriminator)
    raise ValueError(f"schedule {name!r}: there are fixed, warm_up, best_response")


def _over_processes(loss: Tensor) -> Tensor:
    """The mean of a loss over the processes that train together."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return loss
    together = loss.detach().clone()
    torch.distributed.all_reduce(together)
    return together / torch.distributed.get_world_size()
