"""What all flows share: a transform from data to latents and a standard normal base."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from models.base import Autoencodes, Batch, GenerativeModel, HasLikelihood, Relation
from models.transforms.base import Transform

__all__ = ["Flow", "OptimizerFactory"]

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
"""An optimizer class with all its settings but the parameters."""


class Flow(GenerativeModel, HasLikelihood, Autoencodes):
    r"""A normalizing flow: z = f(x) is standard normal.

    .. math:: \log w = \log N(f(x); 0, I) + \log|\det \partial f / \partial x|

    in nats, exact for real-valued data; with a dequantizer in f, one draw whose mean over its noise is the mass of the
    integers x (Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan 2021, Normalizing flows for probabilistic
    modeling and inference).

    A base class: a flow is a subclass whose constructor builds the transform.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        transform: From data, ``(*shape)`` with integers held as floats, to flat latents ``(D,)``.
        optimizer: Makes the optimizer from the parameters.
    """

    family: ClassVar[str] = "flow"

    def __init__(
        self, shape: Iterable[int], levels: int | None, transform: Transform, optimizer: OptimizerFactory
    ) -> None:
        super().__init__(shape, levels)
        if transform.output_shape(self.shape) != (self.dim,):
            raise ValueError(f"latents must be ({self.dim},), not {transform.output_shape(self.shape)}")
        self.transform = transform
        self.make_optimizer = optimizer

    @property
    def relation(self) -> Relation:
        return self.transform.relation

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        z, log_term = self.transform(x.to(self._float), generator=generator)
        return log_term - 0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """``(B, *shape)`` data to ``(B, D)`` latents. Integer data: those of one dequantization draw."""
        z: Tensor = self.transform(x.to(self._float), generator=generator)[0]
        return z

    def decode(self, z: Tensor) -> Tensor:
        return self.transform.inverse(z)[0].to(self.data_dtype)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        z = torch.randn(n, self.dim, generator=generator, device=self.device, dtype=self._float)
        return self.decode(temperature * z)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean of -log w over the batch: in bits/dim for integer data, in nats for real-valued data."""
        loss = -self.log_weight(batch[0], generator=self.train_generator).mean()
        return loss if self.levels is None else loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @property
    def _float(self) -> torch.dtype:
        """What the flow computes in: float32, or float64 after ``double()``."""
        return next(self.parameters()).dtype
