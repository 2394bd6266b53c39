"""What all flows share: a transform from data to latents, a standard normal base, and how they condition on classes."""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from ..base import Autoencodes, Batch, GenerativeModel, HasLikelihood, OptimizerFactory, Relation
from ..distributions import standard_normal
from ..transforms.base import Transform
from ..transforms.dequantize import UniformDequantization
from ..transforms.logit import Logit

__all__ = ["Flow", "OptimizerFactory", "at_least", "class_context", "is_image", "to_reals"]


class Flow(GenerativeModel, HasLikelihood, Autoencodes):
    r"""A normalizing flow: z = f(x) is standard normal.

    .. math:: \log w = \log N(f(x); 0, I) + \log|\det \partial f / \partial x|

    in nats, exact for real-valued data; with a dequantizer in f, one draw whose mean over its noise is the mass of the
    integers x (Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan 2021, Normalizing flows for probabilistic
    modeling and inference).

    With ``classes`` it is a mixture of flows p(x|y), the one-hot y being the transform's context, over a learned p(y):

    .. math:: \log p(x) = \log \sum_y p(y)\, p(x|y)

    It trains on log p(x, y), and stays a distribution over x: its likelihood compares with that of any other model.

    A base class: a flow is a subclass whose constructor builds the transform.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        transform: From data, ``(*shape)`` with integers held as floats, to flat latents ``(D,)``.
        optimizer: Makes the optimizer from the parameters.
        classes: Number of classes the transform is conditioned on; 0: it is not.
    """

    family: ClassVar[str] = "flow"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        transform: Transform,
        optimizer: OptimizerFactory,
        *,
        classes: int = 0,
    ) -> None:
        super().__init__(shape, levels)
        if transform.output_shape(self.shape) != (self.dim,):
            raise ValueError(f"latents must be ({self.dim},), not {transform.output_shape(self.shape)}")
        self.transform = transform
        self.make_optimizer = optimizer
        self.classes = classes
        if classes > 0:
            self.class_logits = nn.Parameter(torch.zeros(classes))

    @property
    def relation(self) -> Relation:
        return self.transform.relation

    @property
    def cannot_sample(self) -> str:
        return "its transform has no inverse" if self.transform.inverse_kind == "one-way" else ""

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        if self.classes == 0:
            return self._log_weight(x, None, generator)
        return self.class_log_weights(x, generator=generator).logsumexp(1)

    def class_log_weights(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """One draw of log p(x, y) for every class y, ``(B, *shape) -> (B, classes)`` nats. Conditional flows only."""
        each = [self._log_weight(x, torch.full((len(x),), y, device=x.device), generator) for y in range(self.classes)]
        return torch.stack(each, 1) + self.class_logits.log_softmax(0)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """``(B, *shape)`` data to ``(B, D)`` latents; a conditional flow puts the most probable class before them.

        Integer data: latents of one dequantization draw.
        """
        y = None if self.classes == 0 else self.class_log_weights(x, generator=generator).argmax(1)
        z: Tensor = self.transform(x.to(self._float), context=self._context(y), generator=generator)[0]
        return z if y is None else torch.cat([y[:, None].to(z.dtype), z], 1)

    def decode(self, z: Tensor) -> Tensor:
        y = None if self.classes == 0 else z[:, 0].long()
        return self._decode(z if y is None else z[:, 1:], y)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        y = None
        if self.classes > 0:
            y = torch.multinomial(self.class_logits.softmax(0), n, replacement=True, generator=generator)
        return self._sample(n, y, temperature, generator)

    @torch.no_grad()
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """One example of each of the classes ``(n,)`` int64, ``(n, *shape)``. Conditional flows only."""
        return self._sample(len(y), y, temperature, generator)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean of -log w over the batch: in bits/dim for integer data, in nats for real-valued data."""
        x, y = batch
        log_w = self._log_weight(x, None if self.classes == 0 else y, self.train_generator)
        if self.classes > 0:
            log_w = log_w + self.class_logits.log_softmax(0)[y]
        loss = -log_w.mean()
        return loss if self.levels is None else loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def _log_weight(self, x: Tensor, y: Tensor | None, generator: Generator | None) -> Tensor:
        z, log_term = self.transform(x.to(self._float), context=self._context(y), generator=generator)
        return log_term - 0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)

    def _sample(self, n: int, y: Tensor | None, temperature: float, generator: Generator | None) -> Tensor:
        z = standard_normal((n, self.dim), next(self.parameters()), generator)
        return self._decode(temperature * z, y)

    def _decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        x = self.transform.decode(z, context=self._context(y))
        if self.levels is not None and bool(x.isnan().any()):  # which integers cannot show
            raise ArithmeticError("the inverse of the flow ran into NaN")
        return x.to(self.data_dtype)

    def _context(self, y: Tensor | None) -> Tensor | None:
        return None if y is None else one_hot(y, self.classes).to(self._float)

    @property
    def _float(self) -> torch.dtype:
        """What the flow computes in: float32, or float64 after ``double()``."""
        return next(self.parameters()).dtype


def to_reals(levels: int | None, alpha: float) -> list[Transform]:
    """What a flow on the reals needs before its first layer: for integer data uniform dequantization and a logit."""
    return [] if levels is None else [UniformDequantization(levels), Logit(alpha)]


def class_context(classes: int | None, conditional: bool) -> int:
    """The size of the context of a flow that conditions on the data's classes, or 0 for one that does not.

    Raises:
        ValueError: It should, but the data have no classes.
    """
    if conditional and classes is None:
        raise ValueError("a class-conditional model needs data with class labels; these have none")
    return classes if conditional and classes is not None else 0


def is_image(shape: Sequence[int], model: str) -> bool:
    """Whether examples are images ``(C, H, W)``; if not, they are vectors ``(D,)``.

    Raises:
        ValueError: They are neither; the message names the ``model``.
    """
    if len(shape) not in (1, 3):
        raise ValueError(f"{model} takes vectors (D,) and images (C, H, W), not examples of shape {tuple(shape)}")
    return len(shape) == 3


def at_least(least: int, **numbers: int) -> None:
    """ValueError unless the numbers, given by the names of the options, are ``least`` or more."""
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}")
