"""Modules from elsewhere as transforms."""

from typing import Any

from torch import Generator, Tensor, nn

from .base import InverseKind, Transform, full_precision

__all__ = ["Wrapped"]


class Wrapped(Transform):
    r"""An existing module that returns z and its log-determinant, as a transform of a flow.

    .. math:: z, \ell = \mathrm{module}(x), \quad \ell = \log\Big|\det \frac{\partial z}{\partial x}\Big|, \qquad
        x = \mathrm{module.inverse}(z)

    The module takes a batch x, ``(B, *shape)``, and returns a pair: z of the same shape and dtype, and
    :math:`\ell`, ``(B,)`` nats, one number for each example. Only shapes and dtypes are checked. The likelihoods of a
    flow are right if the module also keeps the rules of :class:`~models.transforms.base.Transform`: the log-determinant
    is exact, examples do not influence each other (no batch normalization in training), and nothing is drawn at random
    (no dropout). The context is not passed on.

    The log-determinant of ``inverse`` is that of ``forward`` at x with the opposite sign, at the cost of one more call
    of the module. The module always runs in the dtype of its input, also under autocast.

    Example:
        >>> import math
        >>> import torch
        >>> class Doubling(torch.nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x, x.new_full((len(x),), x[0].numel() * math.log(2))
        ...     def inverse(self, z):
        ...         return z / 2
        >>> transform = Wrapped(Doubling(), inverse_kind="closed form")
        >>> transform.decode(torch.tensor([[2.0, 4.0]]))
        tensor([[1., 2.]])

    Arguments:
        module: Called with x. It needs a method ``inverse``, z to x alone, unless ``inverse_kind`` is "one-way".
        inverse_kind: How the module's ``inverse`` works, see :data:`~models.transforms.base.InverseKind`. "one-way"
            means that there is none: a flow then has likelihoods and refuses to sample.

    Raises:
        ValueError: ``inverse_kind`` is unknown, or the module lacks the ``inverse`` that it promises. Later, when the
            module is called: it returned something else than described above.
    """

    def __init__(self, module: nn.Module, *, inverse_kind: InverseKind = "one-way") -> None:
        super().__init__()
        if inverse_kind not in ("closed form", "iterative", "one-way"):
            raise ValueError(f"inverse_kind is closed form, iterative or one-way, not {inverse_kind}")
        if inverse_kind != "one-way" and not callable(getattr(module, "inverse", None)):
            raise ValueError(f"{type(module).__name__} has no method inverse; without one inverse_kind is one-way")
        self.module = module
        self.inverse_kind = inverse_kind

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            returned = self.module(x)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(f"{self._name} must return a pair (z, log-determinant), not {_described(returned)}")
        z, log_det = returned
        return self._checked("z", z, x, x.shape), self._checked("the log-determinant", log_det, x, x.shape[:1])

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.decode(z)
        return x, -self.forward(x)[1]

    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        if self.inverse_kind == "one-way":
            raise NotImplementedError(f"{self._name} was wrapped as one-way: it has no inverse")
        with full_precision(z):
            x: Any = self.module.inverse(z)  # type: ignore[operator]  # checked in the constructor
        return self._checked("x of inverse", x, z, z.shape)

    @property
    def repeatable(self) -> bool:
        return False  # buffers of the module may move, as those of batch normalization do

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    def _checked(self, what: str, value: Any, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != shape or value.dtype != like.dtype:
            raise ValueError(
                f"{what} of {self._name} must be {tuple(shape)} numbers of {like.dtype}, not {_described(value)}"
            )
        return value


def _described(value: Any) -> str:
    """What somebody returned, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
