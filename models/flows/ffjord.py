"""FFJORD: a continuous flow with free-form dynamics."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import Generator, Tensor

from ..base import Batch, Relation, ReportsCost, SolvesODE
from ..nn.dynamics import ConvDynamics, MLPDynamics
from ..transforms.base import Chain, Transform
from ..transforms.continuous import Continuous, Noise, Tolerance, halved
from ..transforms.jacobian import EXACT_DIM
from ..transforms.multiscale import pyramid
from ..transforms.squeeze import Squeeze, halvings
from .base import Flow, OptimizerFactory, at_least, is_image, to_reals

__all__ = ["FFJORD"]


class FFJORD(Flow, ReportsCost, SolvesODE):
    """Free-form Jacobian of reversible dynamics.

    Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, FFJORD: Free-form continuous dynamics for scalable
    reversible generative models, arXiv:1810.01367.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then follow one or more differential
    equations with fully connected dynamics. Images follow equations with convolutional dynamics at several scales, with
    a squeeze and half of the channels factored out in between, while height and width are even.

    Differs from the paper: every equation is solved from time 0 to 1; the paper learns the end time.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        blocks: Differential equations one after another; for images, at each scale.
        hidden, depth: Units of each hidden layer of the dynamics for vectors; hidden layers, of images too.
        channels, scales: For images: channels of each hidden layer; number of scales at most.
        noise: Distribution of the noise in the trace's estimate, ``rademacher`` or ``gaussian``.
        train_tolerance: Tolerance of the solver in training, absolute and relative.
        vector_tolerance, image_tolerance: Tolerances in evaluation, absolute and relative, for vectors and for images.
        exact_dim: Largest number of variables for which evaluation takes the exact trace.
        alpha: For integer data: the logit's margin.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, a number is out of range, or torchdiffeq is not
            installed.
    """

    cost_names: ClassVar[tuple[str, ...]] = ("nfe_log_weight", "nfe_sample")

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        blocks: int = 1,
        hidden: int = 64,
        depth: int = 2,
        channels: int = 32,
        scales: int = 3,
        noise: Noise = "rademacher",
        train_tolerance: Sequence[float] = (1e-5, 1e-5),
        vector_tolerance: Sequence[float] = (1e-8, 1e-6),
        image_tolerance: Sequence[float] = (1e-5, 1e-5),
        exact_dim: int = EXACT_DIM,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        at_least(1, blocks=blocks, hidden=hidden, channels=channels, scales=scales)
        at_least(0, depth=depth)

        def equations(of: Sequence[int]) -> Transform:
            def one() -> Continuous:
                vector = len(of) == 1
                return Continuous(
                    MLPDynamics(of[0], hidden=hidden, depth=depth)
                    if vector
                    else ConvDynamics(of[0], channels=channels, depth=depth),
                    math.prod(of),
                    train_tolerance=Tolerance(*train_tolerance),
                    eval_tolerance=Tolerance(*(vector_tolerance if vector else image_tolerance)),
                    noise=noise,
                    exact_dim=exact_dim,
                )

            return Chain(*[one() for _ in range(blocks)])

        def squeezed(of: Sequence[int]) -> Transform:
            return Chain(equations(of), Squeeze())

        if is_image(shape, "FFJORD"):
            body: Transform = pyramid(shape, [*[squeezed] * min(scales - 1, halvings(shape)), equations])
        else:
            body = equations(shape)
        super().__init__(shape, levels, Chain(*to_reals(levels, alpha), body), optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # type: ignore[override]
        """The loss, and the evaluations of the dynamics that its forward pass took: they grow with training."""
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "nfe": loss.new_tensor(self._evaluations())}

    @property
    def shown_relation(self) -> Relation:
        """The relation itself: it was trained through the solver, and a certified error of it counts as rounding."""
        return self.relation

    def halved(self) -> AbstractContextManager[None]:
        return halved(self.transform)

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        self.log_weight(x, generator=generator)
        forward = self._evaluations()
        self.sample(len(x), generator=generator)
        return {"nfe_log_weight": forward, "nfe_sample": self._evaluations()}

    def _evaluations(self) -> float:
        """Evaluations of the dynamics in the last pass, summed over the equations."""
        return float(sum(part.evaluations for part in self.transform.modules() if isinstance(part, Continuous)))
