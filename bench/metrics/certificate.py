r"""The certificate of a likelihood that is the solution of a differential equation.

A solver that is too coarse gives any number, often a better one than the truth. So the likelihood of some test
examples is computed again with steps of half the length and the same noise; an adaptive solver gets the tolerance that
halves its steps. A number counts only if the mean absolute change is small. Where the error falls by a factor of 2 or
more, it is at most about twice the change.
"""

import math

import torch

from bench.subjects.examples import Examples

__all__ = ["CHECKED", "LIMIT", "ode_change", "refusal"]

CHECKED = 100
"""Test examples that are computed again, evenly spaced over the split."""

LIMIT = 0.01
"""The largest change of a likelihood that counts, in bits for each entry: it moves the second decimal of bits/dim."""


def ode_change(examples: Examples) -> float:
    """Return the mean absolute change of log w on some of the test examples, in nats; NaN where one is not finite."""
    n = len(examples.real)
    chosen = torch.linspace(0, n - 1, min(n, CHECKED)).round().long()
    return float(examples.subject.ode_changes(examples.real[chosen]).abs().mean())


def refusal(change: float, dim: int) -> str:
    """Return why a likelihood does not count, given the change in nats of examples with ``dim`` entries, or nothing."""
    bits = change / (dim * math.log(2))
    if bits <= LIMIT:
        return ""
    moved = f"moves by {bits:.2g} bits an entry (at most {LIMIT})" if math.isfinite(bits) else "is not finite"
    return f"the solver is too coarse: with steps of half the length the likelihood {moved}; use a finer solver"
