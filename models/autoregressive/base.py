"""The base class of autoregressive models."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from ..base import (
    Batch,
    ClassConditional,
    GenerativeModel,
    HasLikelihood,
    OptimizerFactory,
    Relation,
    SamplesClasses,
)
from ..distributions import to_symmetric
from ..entries import Entries

__all__ = ["Autoregressive", "Emit", "image_shape"]

Emit = Callable[[int, Tensor], Tensor]
"""Number i of an entry and its outputs, ``(B, P)``, to what the network sees of the entry that they give."""

CHUNK = 250  # examples generated at once, so that memory does not grow with the number of samples


class Autoregressive(GenerativeModel, HasLikelihood, ClassConditional, SamplesClasses):
    r"""Each entry given those before it.

    .. math:: \log p(x) = \sum_i \log p(x_i \mid x_1, \dots, x_{i-1})

    The likelihood is exact and takes one pass of the network; samples are drawn one entry after another. The network
    sees integers on [-1, 1] and reals as they are.

    With ``classes`` it is a mixture of models p(x|y) over a learned p(y); the network's context is the one-hot y.
    Training maximizes log p(x, y), and the likelihood is :math:`\log \sum_y p(y)\, p(x|y)`, which compares with that of
    any other model.

    A base class: a model is a subclass whose constructor makes the network.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        read: How the network's outputs are read.
        classes: Number of classes that the network is conditioned on; 0: none.
    """

    family: ClassVar[str] = "autoregressive"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        read: Entries,
        *,
        classes: int = 0,
    ) -> None:
        super().__init__(shape, levels)
        self.make_optimizer = optimizer
        self.read = read
        self.classes = classes
        if classes > 0:
            self.class_logits = nn.Parameter(torch.zeros(classes))

    @abstractmethod
    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        """What the network gives for the entries it sees: ``(B, *shape)`` to ``(B, P, *shape)``."""

    @abstractmethod
    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        """Call ``emit`` for every entry, in the model's order; entries are counted in the flattened example."""

    @property
    def relation(self) -> Relation:
        return "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x), ``(B, *shape) -> (B,)`` nats."""
        if self.classes == 0:
            return self._log_prob(x, None)
        return self.class_log_weights(x).logsumexp(1)

    def class_log_weights(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x, y) for every class y, ``(B, *shape) -> (B, classes)`` nats. Conditional models only."""
        each = [self._log_joint(x, torch.full((len(x),), y, device=x.device)) for y in range(self.classes)]
        return torch.stack(each, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """-log p(x), or -log p(x, y) with classes: bits/dim for integer data, nats an example for reals.

        Raises:
            ValueError: The model has classes, and the batch no labels.
        """
        x, y = batch
        if self.classes > 0 and y is None:
            raise ValueError("the data have no labels to condition on")
        log_prob = self._log_prob(x, None) if self.classes == 0 or y is None else self._log_joint(x, y)
        return self.scaled(-log_prob.mean())

    def scaled(self, nats: Tensor) -> Tensor:
        """Nats an example as a loss: bits/dim for integer data."""
        return nats if self.levels is None else nats / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Entry after entry. Temperature changes nothing: what is drawn is the entries themselves, not latent noise."""
        parts = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
        return torch.cat([self._sampled(size, None, generator) for size in parts])

    @torch.no_grad()
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw one example of each of the classes ``(n,)`` int64: ``(n, *shape)``. Conditional models only."""
        return torch.cat([self._sampled(len(part), part, generator) for part in y.split(CHUNK)])

    def _sampled(self, n: int, y: Tensor | None, generator: Generator | None) -> Tensor:
        """n examples of the classes y, which are drawn where there are none and the model is conditional."""
        if y is None and self.classes > 0:
            y = self._drawn_classes(n, generator)
        x = torch.empty(n, self.dim, dtype=self.data_dtype, device=self.device)
        self.generate(self.emitter(x, generator), n, None if y is None else self._context(y))
        return x.unflatten(1, self.shape)

    def seen(self, x: Tensor) -> Tensor:
        """What the network sees of entries ``(B, *shape)``, or of one column of them, ``(B,)``."""
        return to_symmetric(x, self.levels, next(self.parameters()).dtype)

    def emitter(self, x: Tensor, generator: Generator | None) -> Emit:
        """Draws entry i from its outputs, and writes it into column i of x, ``(n, D)``."""

        def emit(i: int, outputs: Tensor) -> Tensor:
            x[:, i] = self.read.distribution(outputs[:, :, None]).sample(generator)[:, 0]
            return self.seen(x[:, i])

        return emit

    def _log_joint(self, x: Tensor, y: Tensor) -> Tensor:
        return self._log_prob(x, self._context(y)) + self.class_logits.log_softmax(0)[y]

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.read.distribution(self.outputs(self.seen(x), context)).log_prob(x)

    def _context(self, y: Tensor) -> Tensor:
        return one_hot(y.long(), self.classes).to(self.class_logits.dtype)

    def _drawn_classes(self, n: int, generator: Generator | None) -> Tensor:
        device = self.device if generator is None else generator.device
        weights = self.class_logits.softmax(0).to(device)
        return torch.multinomial(weights, n, replacement=True, generator=generator).to(self.device)


def image_shape(shape: Iterable[int], model: str) -> tuple[int, int, int]:
    """C, H and W.

    Raises:
        ValueError: The examples are not images; ``model`` is named.
    """
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"{model} takes images (C, H, W), not examples of shape {shape}")
    c, h, w = shape
    return c, h, w
