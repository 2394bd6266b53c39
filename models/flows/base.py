"""The base class of flows, and the parts that their constructors share.

A flow is a file in ``models/flows`` whose class builds one transform, from data to flat latents, and hands it to
:class:`Flow`; everything else follows from the transform.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from ..base import (
    Autoencodes,
    Batch,
    ChecksInverse,
    ClassConditional,
    ClipsSamples,
    HasLikelihood,
    LostSamples,
    OptimizerFactory,
    Relation,
    SamplesClasses,
    SettlesSamples,
)
from ..distributions import standard_normal
from ..options import at_least, class_context
from ..transforms.base import Chain, Transform
from ..transforms.dequantize import Dequantization, UniformDequantization
from ..transforms.extent import Extent, decode_in_float64
from ..transforms.logit import Logit

__all__ = ["Flow", "OptimizerFactory", "at_least", "class_context", "is_image", "to_reals"]


class Flow(SettlesSamples, HasLikelihood, Autoencodes, ClassConditional, ClipsSamples, SamplesClasses, ChecksInverse):
    r"""A normalizing flow: z = f(x) is standard normal.

    .. math:: \log w = \log N(f(x); 0, I) + \log|\det \partial f / \partial x|

    in nats. It is exact for real-valued data. With a dequantizer in f it is one draw, and the mean of w over the
    dequantization noise is the mass of the integers x (Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan
    2021, Normalizing flows for probabilistic modeling and inference, arXiv:1912.02762).

    With ``classes`` it is a mixture of flows p(x|y) over a learned p(y); the transform's context is the one-hot y:

    .. math:: \log p(x) = \log \sum_y p(y)\, p(x|y)

    Training maximizes log p(x, y). The model is a distribution over x all the same: its likelihood compares with that
    of any other model.

    Samples whose inverse is NaN or infinite in float32 are computed again in float64.

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
            LostSamples: The inverse of a flow on integer data, which cannot show it, ran into NaN also in float64.
            NotImplementedError: The transform has no inverse (see ``cannot_sample``).
        """
        y = None if self.classes == 0 else z[:, 0].long()
        decoded = self._decode(self.transform, z if y is None else z[:, 1:], self._context(y))
        return decoded.x.to(self.data_dtype) if self.levels is None else decoded.whole(self.data_dtype)

    @torch.no_grad()
    def draw(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """Draw a class from p(y) where the flow is conditional, z ~ N(0, temperature^2 I), and return the inverse of z,
        z itself and, of a conditional flow, the context.

        Raises:
            NotImplementedError: The transform has no inverse (see ``cannot_sample``).
        """
        return self._draw(n, self._draw_classes(n, generator), temperature, generator)

    @torch.no_grad()
    def settle(self, *drawn: Tensor) -> Tensor:
        """Samples: inverses that are NaN or infinite are computed again in float64.

        Raises:
            LostSamples: They are so in float64, too.
        """
        x, z, *context = drawn
        return self._settled(self.transform, x, z, context[0] if context else None).whole(self.data_dtype)

    @torch.no_grad()
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw one example of each of the classes ``(n,)`` int64: ``(n, *shape)``. Conditional flows only."""
        return self.settle(*self._draw(len(y), y, temperature, generator))

    @property
    def clips_samples(self) -> bool:
        """Whether the transform is a chain that begins with a dequantization."""
        return isinstance(self.transform, Chain) and isinstance(self.transform.parts[0], Dequantization)

    @torch.no_grad()
    def outside(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Whether the dequantization at the data's end of the chain clips a sample, ``(n,)`` bool.

        Raises:
            LostSamples: The inverse ran into NaN, also in float64.
            NotImplementedError: The transform has no inverse, or does not begin with a dequantization.
        """
        first, *rest = self.transform.transforms if isinstance(self.transform, Chain) else [self.transform]
        if not isinstance(first, Dequantization):
            raise NotImplementedError("the flow does not begin with a dequantization")
        context = self._context(self._draw_classes(n, generator))
        return first.outside(self._decode(Chain(*rest), self._noise(n, generator), context).whole(self._float))

    @torch.no_grad()
    def round_trip(self, x: Tensor, factor: float = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Of a conditional flow that given the most probable class."""
        y = None if self.classes == 0 else self.class_log_weights(x, generator=generator).argmax(1)
        context = self._context(y)
        parts = self.transform.transforms if isinstance(self.transform, Chain) else [self.transform]
        begin = next((place for place, part in enumerate(parts) if not isinstance(part, Dequantization | Logit)), 0)
        reals = x.to(self._float)
        for part in parts[:begin]:
            reals = part(reals, context=context, generator=generator)[0]
        reals = factor * reals
        z = reals
        for part in parts[begin:]:
            z = part(z, context=context, generator=generator)[0]
        for part in reversed(parts[begin:]):
            z = part.decode(z, context=context)
        return (z - reals).abs().flatten(1).amax(1)

    @torch.no_grad()
    def beyond_float32(self, n: int, *, generator: Generator | None = None) -> tuple[Tensor, str]:
        """Samples that are computed in float64, and at which layer how far they go."""
        context = self._context(self._draw_classes(n, generator))
        decoded = self._decode(self.transform, self._noise(n, generator), context)
        return decoded.again, "" if decoded.extent is None else str(decoded.extent)

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

    def _draw(self, n: int, y: Tensor | None, temperature: float, generator: Generator | None) -> tuple[Tensor, ...]:
        z, context = temperature * self._noise(n, generator), self._context(y)
        x = self.transform.decode(z, context=context)
        return (x, z) if context is None else (x, z, context)

    def _noise(self, n: int, generator: Generator | None) -> Tensor:
        return standard_normal((n, self.dim), next(self.parameters()), generator)

    def _decode(self, transform: Transform, z: Tensor, context: Tensor | None) -> "_Decoded":
        """The inverse of z, in float64 for examples that it takes out of float32."""
        return self._settled(transform, transform.decode(z, context=context), z, context)

    def _settled(self, transform: Transform, x: Tensor, z: Tensor, context: Tensor | None) -> "_Decoded":
        """The inverse x of z, computed again in float64 where it left float32."""
        wrong = self._wrong(x)
        if not bool(wrong.any()):
            return _Decoded(x, wrong, wrong, None)
        exact, extent = decode_in_float64(transform, z[wrong], None if context is None else context[wrong])
        x = x.index_put((wrong,), exact.to(x.dtype))
        return _Decoded(x, wrong, self._wrong(x), extent)

    def _wrong(self, x: Tensor) -> Tensor:
        """Which examples are no data: integers are clipped, so an infinite one is at an end. ``(B, ...) -> (B,)``."""
        return (~x.isfinite() if self.levels is None else x.isnan()).flatten(1).any(1)

    def _context(self, y: Tensor | None) -> Tensor | None:
        return None if y is None else one_hot(y, self.classes).to(self._float)

    @property
    def _float(self) -> torch.dtype:
        """What the flow computes in: float32, or float64 after ``double()``."""
        return next(self.parameters()).dtype


@dataclass(frozen=True)
class _Decoded:
    """What latents become.

    Attributes:
        x: ``(B, ...)``.
        again: Which of them were computed in float64, ``(B,)`` bool.
        lost: Which of those are still no data.
        extent: How far those in float64 went; None without any.
    """

    x: Tensor
    again: Tensor
    lost: Tensor
    extent: Extent | None

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Return x.

        Raises:
            LostSamples: Some of it is lost.
        """
        if self.extent is None or not bool(self.lost.any()):
            return self.x.to(dtype)
        what = f"{int(self.lost.sum())} of {len(self.x)} samples are NaN or too large"
        raise LostSamples(f"{what}: the inverse leaves float32 at {self.extent}", self.x[~self.lost].to(dtype))


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
