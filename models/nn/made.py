"""Masked autoregressive network."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .activation import activation_named
from .context import needed
from .masked import Masked
from .substitution import forward_substitution

__all__ = ["MADE", "MaskedLinear"]

REACH = 10.0  # beyond it inputs look alike to a network; standardized data and logits of pixels are within


class MaskedLinear(nn.Linear, Masked):
    """A linear layer some of whose weights are held at zero.

    Arguments:
        mask: ``(n_out, n_in)``, ones where there are weights. Not stored in checkpoints.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.mask: Tensor
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return linear(x, self.weight * (self.mask if mask is None else mask), self.bias)

    @property
    def n_masked(self) -> int:
        return int((self.mask == 0).sum())


class MADE(nn.Module):
    r"""Masked network: ``(B, D)`` and context ``(B, n_context)`` to P outputs for each input, ``(B, P, D)``.

    Outputs i depend on the inputs before i and on the context alone (Germain, Gregor, Murray, Larochelle 2015, MADE:
    Masked autoencoder for distribution estimation, arXiv:1502.03509). A hidden unit of degree m depends on the first m
    inputs; outputs i read units of degree i at most. The paper draws degrees from 1 .. D-1; here they are spread evenly
    over these, or over 0 .. D-1 where there is a context (or nothing else: D = 1), so that the first outputs depend on
    it too. Units stand in the order of their degrees: those that depend on the first m inputs are a prefix of each
    layer, and ``generate`` computes each unit once.

    Hidden units see x through the soft clamp :math:`10 \tanh(x / 10)`: outputs are bounded whatever the inputs, so that
    inputs made of earlier outputs (``generate``) cannot grow exponentially from one to the next. Data much larger than
    10 should be standardized.

    Arguments:
        n_in: D.
        n_out: P.
        hidden: Units of each hidden layer. With fewer than D some degrees have none, and some dependences are missing.
        depth: Number of hidden layers; 0 is a linear map.
        n_context: Numbers of the context; 0: none is read. A linear map adds it to the first layer's outputs.
        zero_last: Start the last layer at zero, as conditioners of flows want it.
        activation: Of hidden units, a name of ``models.nn.activation``. The outputs, and densities made of them, are as
            smooth as it is.

    Raises:
        ValueError: A number is out of range, or no activation has this name.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        hidden: int,
        depth: int,
        n_context: int = 0,
        zero_last: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        if min(n_in, n_out, hidden) < 1 or depth < 0:
            raise ValueError(f"no network has {n_in} inputs, {n_out} outputs and {depth} layers of {hidden} units")
        self.n_in = n_in
        self.n_out = n_out
        self.n_context = n_context
        self.activation = activation_named(activation)
        lowest = 0 if n_context > 0 or n_in == 1 else 1
        of_units = lowest + torch.arange(hidden) * (n_in - lowest) // hidden
        degrees = [torch.arange(1, n_in + 1), *[of_units] * depth]
        masks = [after[:, None] >= before for before, after in pairwise(degrees)]
        masks.append((torch.arange(n_in)[:, None] >= degrees[-1]).repeat(n_out, 1))  # (P D, hidden)
        self.layers = nn.ModuleList([MaskedLinear(mask) for mask in masks])
        if zero_last:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)
        if n_context > 0:
            self.project = nn.Linear(n_context, len(masks[0]), bias=False)
        # Where units of degree 0 .. D begin and end: group g of ``generate`` is input g-1 with those that it completes.
        ends = torch.searchsorted(of_units, torch.arange(n_in + 1), right=True).tolist()
        self.unit_bounds = [0, *ends]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        order: Tensor | None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """``(B, D)`` to ``(B, P, D)``.

        Arguments:
            context: ``(B, n_context)``.
            order: ``(D,)``, a permutation: the input that is first, second and so on. None: as they stand. A weight
                belongs to the same input and unit in all orders; the order says which weights are masked.
            masks: Those of the order, which ``masks`` gives, where they are known: to make them takes as long as a
                layer does.
        """
        first, *rest = self._layers
        masks = self.masks(order) if masks is None else masks
        h = first(_clamped(x), masks[0])
        if self.n_context > 0:
            h = h + self._projected(context)
        for layer, mask in zip(rest, masks[1:], strict=True):
            h = layer(self.activation(h), mask)
        return h.unflatten(1, (self.n_out, self.n_in))

    def masks(self, order: Tensor | None) -> list[Tensor]:
        """The mask of every layer in an order, or as the inputs stand."""
        masks = [layer.mask for layer in self._layers]
        if order is None:
            return masks
        place = order.argsort()
        if len(masks) == 1:  # no hidden layer: both ends are the inputs
            return [masks[0].unflatten(0, (self.n_out, self.n_in))[:, place][:, :, place].flatten(0, 1)]
        masks[0] = masks[0][:, place]
        masks[-1] = masks[-1].unflatten(0, (self.n_out, self.n_in))[:, place].flatten(0, 1)
        return masks

    def masked_in_all(self, orders: Tensor) -> int:
        """Number of weights that are masked in every one of the orders ``(M, D)``."""
        used = [torch.zeros_like(layer.mask) for layer in self._layers]
        for order in orders:
            for of_layer, mask in zip(used, self.masks(order), strict=True):
                of_layer += mask
        return sum(int((of_layer == 0).sum()) for of_layer in used)

    def generate(
        self,
        emit: Callable[[int, Tensor], Tensor],
        batch: int,
        context: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        """Inputs one after another, each made from its own outputs: ``(B, D)`` x with x_i = emit(i, outputs_i(x)).

        Each unit is computed once, when the inputs it reads are there: D small steps that together multiply every
        weight once. Differentiable. Always in the precision of the weights, also under autocast: an error in one input
        would be carried to all that follow.

        Arguments:
            emit: i and outputs i, ``(B, P)``, to input i, ``(B,)``.
            batch: B.
            context: ``(B, n_context)``.
            order: As in ``forward``. Inputs are then counted, and returned, in this order.
        """
        layers = self._layers
        units = [self.unit_bounds] * (len(layers) - 1)
        inputs = [0, *range(self.n_in + 1)]
        outputs = [self.n_out * i for i in inputs]
        weights: list[Tensor] = [layer.weight for layer in layers]
        with torch.autocast(weights[0].device.type, enabled=False):
            start = [layer.bias[:, None].expand(-1, batch) for layer in layers]
            if self.n_context > 0:
                start[0] = start[0] + self._projected(context).T
            weights[-1], start[-1] = self._by_input(weights[-1], order), self._by_input(start[-1], order)
            if order is not None:
                weights[0] = weights[0].index_select(1, order)
            made: list[Tensor] = []

            def leaf(group: int, blocks: list[Tensor], pending: list[Tensor]) -> list[Tensor]:
                *hidden, read = pending  # read: (P, B), and (0, B) in group 0, which has the units that read no input
                if group > 0:
                    made.append(emit(group - 1, read.T))
                    read = _clamped(made[-1])[None]
                activations = [read]
                for block, p in zip(blocks, hidden, strict=False):
                    activations.append(self.activation(torch.addmm(p, block, activations[-1])))
                return activations

            forward_substitution(leaf, weights, [*units, outputs], [inputs, *units], start)
        return torch.stack(made, 1)

    @property
    def _layers(self) -> list[MaskedLinear]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList forgets the type of its modules

    def _projected(self, context: Tensor | None) -> Tensor:
        return self.project(needed(context, self.n_context).to(self.project.weight.dtype))

    def _by_input(self, rows: Tensor, order: Tensor | None) -> Tensor:
        """Rows that stand as P times D, as D times P, the D in the order."""
        by_input = rows.unflatten(0, (self.n_out, self.n_in)).transpose(0, 1)
        return (by_input if order is None else by_input[order]).flatten(0, 1)


def _clamped(x: Tensor) -> Tensor:
    return REACH * (x / REACH).tanh()
