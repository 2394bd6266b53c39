"""MADE as a density model."""

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from ..base import Batch, OptimizerFactory
from ..distributions import to_symmetric
from ..entries import entries
from ..nn import made
from ..options import at_least
from .base import Autoregressive, Emit

__all__ = ["MADE"]


class MADE(Autoregressive):
    r"""Masked autoencoder for distribution estimation: one masked network gives all conditionals in one pass.

    Germain, Gregor, Murray, Larochelle 2015, MADE: Masked autoencoder for distribution estimation, arXiv:1502.03509.

    With M orderings the model is the mixture over them, all of one network whose masks differ:

    .. math:: p(x) = \frac1M \sum_{m=1}^M p_m(x)

    Orderings are random, because images are modelled worse row after row: a pixel is most like the one before it, and
    among a few hundred hidden units hardly one has that pixel as the last it reads. Training takes the orderings in
    turn, one a step.
    The likelihood is that of the mixture, which is one normalised model, and takes M passes. (To average the *logits*
    of the orderings instead, as some code does, gives numbers whose sum over all x is not 1.)

    Differs from the paper: degrees of hidden units are spread evenly instead of drawn, and the same in all orderings
    (the paper's connectivity-agnostic training draws them again); no weights lead from the inputs directly to the
    outputs; hidden units see integers on [-1, 1].

    Arguments:
        shape: Of one example; images are flattened.
        levels: Number of integer levels, or None for real-valued data, whose conditionals are normal.
        optimizer: Makes the optimizer from the parameters.
        hidden, depth: Units and hidden layers of the network.
        activation: Of its hidden units, a name of ``models.nn.activation``.
        orderings: M.
        order_seed: Of the random orderings. None: the first is that of the data.
        output: For more than two levels, a name of ``models.entries``. Two levels are Bernoulli.
        components: Of the output ``mixture``.

    Raises:
        ValueError: A number is out of range, or there is no activation or output of this name.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        hidden: int = 500,
        depth: int = 1,
        activation: str = "relu",
        orderings: int = 1,
        order_seed: int | None = 0,
        output: str = "logistic",
        components: int = 5,
    ) -> None:
        read = entries(output, levels, components)
        at_least(1, hidden=hidden, orderings=orderings)
        at_least(0, depth=depth)
        super().__init__(shape, levels, optimizer, read)
        self.network = made.MADE(self.dim, read.n_parameters, hidden=hidden, depth=depth, activation=activation)
        generator = Generator().manual_seed(order_seed or 0)
        orders = [torch.randperm(self.dim, generator=generator) for _ in range(orderings)]
        if order_seed is None:
            orders[0] = torch.arange(self.dim)
        self.orders: Tensor
        self.steps: Tensor
        self.register_buffer("orders", torch.stack(orders))  # (M, D)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # training steps, for their turns
        # Of a single ordering the masks are made once. Of several they would take as much memory as so many networks.
        if orderings == 1:
            for number, mask in enumerate(self.network.masks(self.orders[0])):
                self.register_buffer(f"mask{number}", mask.clone(), persistent=False)
            self.register_load_state_dict_post_hook(_mask_again)

    @property
    def n_parameters(self) -> int:
        every = sum(parameter.numel() for parameter in self.parameters())
        return every - self.network.masked_in_all(self.orders)

    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        """In the first ordering."""
        return self._outputs(seen, self.orders[0])

    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        """In the first ordering."""
        self._generate(emit, batch, self.orders[0])

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x), ``(B, *shape) -> (B,)`` nats."""
        each = [self._log_prob_in(x, order) for order in self.orders]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """-log p(x) in one ordering: bits/dim for integer data, nats an example for reals."""
        # Indexed by a vector, because an index that is a single number would be read, which no captured step may do.
        order = self.orders[(self.steps % len(self.orders)).view(1)][0]
        self.steps += 1
        return self.scaled(-self._log_prob_in(batch[0], order).mean())

    def _sampled(self, n: int, y: Tensor | None, generator: Generator | None) -> Tensor:
        device = self.orders.device if generator is None else generator.device
        which = torch.randint(len(self.orders), (n,), generator=generator, device=device).to(self.orders.device)
        x = torch.empty(n, self.dim, dtype=self.data_dtype, device=self.device)
        for number, order in enumerate(self.orders):
            rows = which == number
            drawn = torch.empty(int(rows.sum()), self.dim, dtype=self.data_dtype, device=self.device)
            self._generate(self.emitter(drawn, generator), len(drawn), order)
            x[rows] = drawn
        return x.unflatten(1, self.shape)

    def _generate(self, emit: Emit, batch: int, order: Tensor) -> None:
        entry = order.tolist()
        self.network.generate(lambda place, outputs: emit(entry[place], outputs), batch, order=order)

    def _log_prob_in(self, x: Tensor, order: Tensor) -> Tensor:
        seen = to_symmetric(x, self.levels, next(self.parameters()).dtype)
        return self.read.distribution(self._outputs(seen, order)).log_prob(x)

    def _outputs(self, seen: Tensor, order: Tensor) -> Tensor:
        return self.network(seen.flatten(1), order=order, masks=self._masks()).unflatten(2, self.shape)

    def _masks(self) -> list[Tensor] | None:
        """Those of the only ordering."""
        if len(self.orders) > 1:
            return None
        return [self.get_buffer(f"mask{number}") for number in range(len(self.network.layers))]


def _mask_again(module: torch.nn.Module, _: object) -> None:
    """The masks are those of the ordering that was loaded."""
    assert isinstance(module, MADE)
    for mask, made_now in zip(module._masks() or [], module.network.masks(module.orders[0]), strict=False):
        mask.copy_(made_now)
