"""The base class of transforms of flows, and the composition of transforms."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..base import Relation

__all__ = [
    "Chain",
    "InverseKind",
    "Transform",
    "checkpoint_activations",
    "full_precision",
    "only_shape",
    "vectors_of",
    "weakest_inverse",
    "weakest_relation",
]

InverseKind = Literal["closed form", "iterative", "one-way"]
"""How ``inverse`` works: in one pass and exact up to rounding; by repeated passes (a fixed point, a root, an ODE, one
variable at a time) to the tolerance the transform states; or not at all (``inverse`` raises NotImplementedError)."""

# From strongest to weakest: a composition is as good as its weakest part.
RELATIONS: tuple[Relation, ...] = ("exact", "lower_bound", "estimate")
INVERSE_KINDS: tuple[InverseKind, ...] = ("closed form", "iterative", "one-way")


class Transform(nn.Module, ABC):
    r"""A map from data to latents, one example at a time, with its term in the change of variables.

    .. math:: \log p_X(x) = \log p_Z(f(x)) + \log|\det \partial f / \partial x|

    Subclasses are final. They keep these rules, so that any of them can be used in any flow:

    - Log-terms have one entry for each example, ``(B,)``, in nats, and the dtype of the transform's floating-point
      input or output, float32 or float64, also under autocast: only conditioner networks may run in low precision,
      and their outputs are cast back before they are used.
    - Nothing they are given, and nothing another module returned, is changed in place.
    - Random numbers are drawn from ``generator`` alone, in ``forward`` alone, on the input's device.
    - Examples are independent: the log-determinant is that of one example's Jacobian.
    - ``context`` is what the map depends on besides x, and is not transformed: vectors ``(B, K)`` (a class, a code) or
      pictures ``(B, K, H, W)`` of the size of x. Conditioner networks made with ``n_context=K`` read it; a transform
      without such networks leaves it alone.

    Attributes:
        inverse_kind: How ``inverse`` works, see :data:`InverseKind`.
    """

    inverse_kind: InverseKind

    @abstractmethod
    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Towards the latents: ``(B, *shape) -> (B, *output_shape(shape))`` and the log-term ``(B,)`` in nats.

        The log-term is :math:`\log|\det \partial z / \partial x|` for a bijection. A dequantizer draws z from q(z|x)
        and returns :math:`-\log q(z|x)`, so that the log-term plus log p(z) is one draw of log w with E[w] = p(x).
        """

    @abstractmethod
    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Towards the data: ``(B, *output_shape(shape)) -> (B, *shape)`` and :math:`\log|\det \partial x/\partial z|`.

        A dequantizer maps back to the integers (as floating-point numbers), many z to one x; its log-term here is 0.
        """

    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        """``inverse`` without its log-term, which costs some transforms more than the inverse itself."""
        return self.inverse(z, context=context)[0]

    @property
    def relation(self) -> Relation:
        """``exact`` for bijections, ``lower_bound`` for dequantizers, ``estimate`` for estimated log-determinants."""
        return "exact"

    @property
    def repeatable(self) -> bool:
        """Whether a second forward pass in training computes the same: nothing is drawn, and no buffer changes."""
        return self.relation == "exact"

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one latent, given that of one example.

        Raises:
            ValueError: The transform does not take examples of this shape.
        """
        return tuple(shape)


class Chain(Transform):
    """Transforms one after another, the first nearest to the data; log-terms add up.

    Its relation and the kind of its inverse are those of the weakest part.

    Arguments:
        parts: At least one transform.

    Raises:
        ValueError: There is none.
    """

    def __init__(self, *parts: Transform) -> None:
        super().__init__()
        if not parts:
            raise ValueError("Chain needs at least one transform")
        self.parts = nn.ModuleList(parts)
        self.inverse_kind = weakest_inverse(parts)
        self._relation = weakest_relation(parts)
        self.checkpointing = False  # see checkpoint_activations
        # Parts that can be computed twice: those that draw nothing, and whose own parts are not computed twice already.
        self._repeatable = [
            all(module.repeatable for module in part.modules() if isinstance(module, Transform))
            and not any(isinstance(module, Chain) for module in part.modules())
            for part in parts
        ]

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        log_terms: list[Tensor] = []
        for part, repeatable in zip(self.parts, self._repeatable, strict=True):
            if self.checkpointing and repeatable and torch.is_grad_enabled():
                x, term = checkpoint(part, x, context=context, use_reentrant=False)
            else:
                x, term = part(x, context=context, generator=generator)
            log_terms.append(term)
        return x, sum(log_terms[1:], start=log_terms[0])

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        last, *rest = reversed(self.transforms)
        z, log_term = last.inverse(z, context=context)
        for part in rest:
            z, term = part.inverse(z, context=context)
            log_term = log_term + term
        return z, log_term

    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        for part in reversed(self.transforms):
            z = part.decode(z, context=context)
        return z

    @property
    def relation(self) -> Relation:
        return self._relation

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        for part in self.transforms:
            shape = part.output_shape(shape)
        return tuple(shape)

    @property
    def transforms(self) -> list[Transform]:
        """The parts, from the data to the latents."""
        return list(self.parts)  # type: ignore[arg-type]  # a ModuleList forgets the type of its modules


def checkpoint_activations(module: nn.Module) -> None:
    """Trade time for memory in every chain within ``module``, from now on: a step costs about one more forward pass.

    Between a forward and its backward pass only the input of each part of a chain is kept; what the part computes from
    it is computed again when its gradient is wanted, to the same bits, random numbers of the global generator (dropout)
    included (Chen, Xu, Zhang, Guestrin 2016, Training deep nets with sublinear memory cost, arXiv:1604.06174). Parts
    that draw from an explicit generator keep everything. State and gradients are the same as without.
    """
    for chain in module.modules():
        if isinstance(chain, Chain):
            chain.checkpointing = True


def weakest_relation(parts: Sequence[Transform]) -> Relation:
    """The relation of a composition of transforms, that of its weakest part."""
    return max((part.relation for part in parts), key=RELATIONS.index)


def weakest_inverse(parts: Sequence[Transform]) -> InverseKind:
    """The kind of inverse of a composition of transforms, that of its weakest part."""
    return max((part.inverse_kind for part in parts), key=INVERSE_KINDS.index)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products stay in the dtype of x: autocast is switched off."""
    kind = x.device.type  # switching off what is not on would take longer than a small layer
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def only_shape(own: tuple[int, ...], shape: Sequence[int]) -> None:
    """Check that examples have the one shape that a transform was made for.

    Raises:
        ValueError: They have another.
    """
    if tuple(shape) != own:
        raise ValueError(f"made for examples of shape {own}, not {tuple(shape)}")


def vectors_of(dim: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The output shape ``(dim,)`` of a transform of vectors.

    Raises:
        ValueError: Examples have another shape than ``(dim,)``.
    """
    if tuple(shape) != (dim,):
        raise ValueError(f"made for vectors of {dim}, not examples of shape {tuple(shape)}")
    return (dim,)
