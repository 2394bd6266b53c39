"""The context that a network reads besides its input: vectors or pictures."""

from torch import Tensor

__all__ = ["as_pictures", "needed"]


def needed(context: Tensor | None, n_context: int) -> Tensor:
    """The context given to a network that reads ``n_context`` numbers.

    Raises:
        ValueError: None was given.
    """
    if context is None:
        raise ValueError(f"this network reads a context of {n_context} numbers; none was given")
    return context


def as_pictures(context: Tensor, like: Tensor) -> Tensor:
    """Vectors ``(B, K)`` as pictures of one pixel, which broadcast; pictures ``(B, K, H, W)`` as they are.

    In the dtype of ``like``.
    """
    return (context[:, :, None, None] if context.dim() == 2 else context).to(like.dtype)
