"""Whether a likelihood that calls itself exact stays the same when it is asked again."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.errors import UserError

__all__ = ["CHECKED", "LIMIT", "check_exact"]

CHECKED = 100
"""Examples that are asked again, evenly spaced."""

LIMIT = 1e-3
"""The largest mean change of log p(x) that counts as rounding, in bits for each entry."""


def check_exact(x: Tensor, log_p: Tensor, ask: Callable[[Tensor], Tensor], method: str) -> None:
    """Ask for some examples again, at most every second one, in the opposite order: in other batches.

    A draw of a bound that is called exact comes out otherwise, and so does what depends on the rest of the batch. What
    is wrong by a constant, or not normalized, does not show here.

    Arguments:
        x: Examples ``(N, *shape)``.
        log_p: What was said of them, ``(N,)`` nats.
        ask: Gives log p(x) of examples ``(B, *shape)``, ``(B,)``.
        method: What the model calls it.

    Raises:
        UserError: The answers differ.
    """
    chosen = torch.linspace(len(x) - 1, 0, min((len(x) + 1) // 2, CHECKED)).round().long()
    change = (ask(x[chosen]) - log_p[chosen]).abs()
    change = change[change.isfinite()]
    nats = change.mean().item() if len(change) else 0.0
    if nats > LIMIT * math.log(2) * math.prod(x.shape[1:]):
        raise UserError(f"{method} is called exact, but the same examples in another order move by {nats:.2g} nats on "
                        "average: it is random, or depends on the rest of the batch")  # fmt: skip
