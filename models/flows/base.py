"""The base class of flows, and the parts that their constructors share.

A flow is a file in ``models/flows`` whose class builds one transform, from data to flat latents, and hands it to
:class:`Flow`; everything else follows from the transform.
"""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from ..base import (
    Autoencodes,
    Batch,
    ClassConditional,
    ClipsSamples,
    GenerativeModel,
    HasLikelihood,
    OptimizerFactory,
    Relation,
    SamplesClasses,
)
from ..distributions import standard_normal
from ..options import at_least, class_context
from ..transforms.base import Chain, Transform
from ..transforms.dequantize import Dequantization, UniformDequantization
from ..transforms.logit import Logit

__all__ = ["Flow", "OptimizerFactory", "at_least", "class_context", "is_image", "to_reals"]


class Flow(GenerativeModel, HasLikelihood, Autoencodes, ClassConditional, ClipsSamples, SamplesClasses):
    r"""A normalizing flow: z = f(x) is standard normal.

    .. math:: \log w = \log N(f(x); 0, I) + \log|\det \partial f / \partial x|

    in nats. It is exact for real-valued data. With a dequantizer in f it is one draw, and the mean of w over the
    dequantization noise is the mass of the integers x (Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan
    2021, Normalizing flows for probabilistic modeling and inference, arXiv:1912.02762).

    With ``classes`` it is a mixture of flows p(x|y) over a learned p(y); the transform's context is the one-hot y:

    .. math:: \log p(x) = \log \sum_y p(y)\, p(x|y)

    Training maximizes log p(x, y). The model is a distribution over x all the same: its likelihood compares with that
    of any other model.

    A base class: a flow is a subclass whose constructor builds the transform.

    Example:
        >>> import torch
        >>> from models.transforms.actnorm import ActNorm
        >>> from models.transforms.base import Chain
        >>> from models.transforms.flatten import Flatten
        >>> from models.transforms.linear import Conv1x1
        >>> class Mine(Flow):
        ...     def __init__(self, shape, levels, optimizer, *, layers=2, alpha=1e-6):
        ...         at_least(1, layers=layers)
        ...         body = [part for _ in range(layers) for part in (ActNorm(shape[0]), Conv1x1(shape[0]))]
        ...         transform = Chain(*to_reals(levels, alpha), *body, Flatten(shape))
        ...         super().__init__(shape, levels, transform, optimizer)
        >>> flow = Mine((3, 8, 8), 256, torch.optim.Adam)
        >>> flow.relation
        'lower_bound'
        >>> flow.sample(2).shape
        torch.Size([2, 3, 8, 8])

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        transform: From data, ``(*shape)`` with integers held as floats, to flat latents ``(D,)``.
        optimizer: Makes the optimizer from the parameters.
        classes: Number of classes that the transform is conditioned on; 0: none.

    Raises:
        ValueError: The transform does not take examples of this shape, or its latents are not flat.
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
        """One draw of log w, or log p(x) itself where the relation is ``exact``: ``(B, *shape) -> (B,)`` nats."""
        if self.classes == 0:
            return self._log_weight(x, None, generator)
        return self.class_log_weights(x, generator=generator).logsumexp(1)

    def class_log_weights(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """One draw of log p(x, y) for every class y, ``(B, *shape) -> (B, classes)`` nats. Conditional flows only."""
        each = [self._log_weight(x, torch.full((len(x),), y, device=x.device), generator) for y in range(self.classes)]
        return torch.stack(each, 1) + self.class_logits.log_softmax(0)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """``(B, *shape)`` data to ``(B, D)`` latents; for integer data those of one dequantization draw.

        A conditional flow returns ``(B, 1 + D)``: the most probable class, then the latents given that class.
        """
        y = None if self.classes == 0 else self.class_log_weights(x, generator=generator).argmax(1)
        z: Tensor = self.transform(x.to(self._float), context=self._context(y), generator=generator)[0]
        return z if y is None else torch.cat([y[:, None].to(z.dtype), z], 1)

    def decode(self, z: Tensor) -> Tensor:
        """Codes as ``encode`` returns them to data, ``(B, *shape)``.

        Raises:
            ArithmeticError: The inverse of a flow on integer data ran into NaN.
            NotImplementedError: The transform has no inverse (see ``cannot_sample``).
        """
        y = None if self.classes == 0 else z[:, 0].long()
        return self._decode(z if y is None else z[:, 1:], y)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw a class from p(y) where the flow is conditional, z ~ N(0, temperature^2 I), and return the inverse of z.

        Raises:
            ArithmeticError: The inverse of a flow on integer data ran into NaN.
            NotImplementedError: The transform has no inverse (see ``cannot_sample``).
        """
        return self._sample(n, self._draw_classes(n, generator), temperature, generator)

    @torch.no_grad()
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw one example of each of the classes ``(n,)`` int64: ``(n, *shape)``. Conditional flows only."""
        return self._sample(len(y), y, temperature, generator)

    @property
    def clips_samples(self) -> bool:
        """Whether the transform is a chain that begins with a dequantization."""
        return isinstance(self.transform, Chain) and isinstance(self.transform.parts[0], Dequantization)

    @torch.no_grad()
    def outside(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Whether the dequantization at the data's end of the chain clips a sample, ``(n,)`` bool.

        Raises:
            ArithmeticError: The inverse ran into NaN.
            NotImplementedError: The transform has no inverse, or does not begin with a dequantization.
        """
        first, *rest = self.transform.transforms if isinstance(self.transform, Chain) else [self.transform]
        if not isinstance(first, Dequantization):
            raise NotImplementedError("the flow does not begin with a dequantization")
        context = self._context(self._draw_classes(n, generator))
        x = standard_normal((n, self.dim), next(self.parameters()), generator)
        for part in reversed(rest):
            x = part.decode(x, context=context)
        return first.outside(_not_nan(x))

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

    def _draw_classes(self, n: int, generator: Generator | None) -> Tensor | None:
        """Classes from p(y), ``(n,)`` int64; None where the flow is not conditional."""
        if self.classes == 0:
            return None
        return torch.multinomial(self.class_logits.softmax(0), n, replacement=True, generator=generator)

    def _sample(self, n: int, y: Tensor | None, temperature: float, generator: Generator | None) -> Tensor:
        z = standard_normal((n, self.dim), next(self.parameters()), generator)
        return self._decode(temperature * z, y)

    def _decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        x = self.transform.decode(z, context=self._context(y))
        return (x if self.levels is None else _not_nan(x)).to(self.data_dtype)  # integers cannot show a NaN

    def _context(self, y: Tensor | None) -> Tensor | None:
        return None if y is None else one_hot(y, self.classes).to(self._float)

    @property
    def _float(self) -> torch.dtype:
        """What the flow computes in: float32, or float64 after ``double()``."""
        return next(self.parameters()).dtype


def _not_nan(x: Tensor) -> Tensor:
    """Return x itself.

    Raises:
        ArithmeticError: It has an entry that is NaN.
    """
    if bool(x.isnan().any()):
        raise ArithmeticError("the inverse of the flow ran into NaN")
    return x


def to_reals(levels: int | None, alpha: float) -> list[Transform]:
    """The first layers of a flow on the reals: uniform dequantization and a logit for integer data, none for reals.

    Arguments:
        levels: Number of integer levels, or None for real-valued data.
        alpha: Margin of the logit, in (0, 1/2); see :class:`~models.transforms.logit.Logit`.

    Raises:
        ValueError: ``levels`` or ``alpha`` is out of range.
    """
    return [] if levels is None else [UniformDequantization(levels), Logit(alpha)]


def is_image(shape: Sequence[int], model: str) -> bool:
    """Whether examples are images ``(C, H, W)``; if not, they are vectors ``(D,)``.

    Raises:
        ValueError: They are neither; the message names the ``model``.
    """
    if len(shape) not in (1, 3):
        raise ValueError(f"{model} takes vectors (D,) and images (C, H, W), not examples of shape {tuple(shape)}")
    return len(shape) == 3
