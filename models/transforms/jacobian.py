"""Jacobians of small maps, for log-determinants and traces without an estimate."""

import torch
from torch import Tensor

__all__ = ["EXACT_DIM", "jacobian"]

EXACT_DIM = 64
"""Up to this many variables a whole Jacobian is affordable in evaluation: all of the tabular benchmarks, of which
BSDS300 has the most, 63, and pictures of 8 x 8. It takes D vector-Jacobian products and D^2 numbers an example."""


def jacobian(y: Tensor, x: Tensor, *, create_graph: bool) -> Tensor:
    """``(B, D, D)`` derivatives dy_i / dx_j of each example, entries flattened, one row at a time.

    Arguments:
        y, x: ``(B, *shape)`` each, y computed from x with its graph, one example independent of the others.
        create_graph: Whether the derivatives are to be differentiable themselves.
    """
    columns = y.flatten(1).sum(0)  # examples are independent: the gradient of a sum over them is that of each
    rows = [torch.autograd.grad(dy, x, create_graph=create_graph, retain_graph=True)[0].flatten(1) for dy in columns]
    return torch.stack(rows, 1)
