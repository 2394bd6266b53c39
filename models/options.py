"""Checks of constructor arguments that models of several families share. A message names the argument."""

from collections.abc import Iterable

__all__ = ["at_least", "class_context", "sequence_of"]


def class_context(classes: int | None, conditional: bool) -> int:
    """Number of classes that a model is conditioned on: those of the data if it is ``conditional``, else 0.

    Raises:
        ValueError: The model is conditional and the data have no classes.
    """
    if conditional and classes is None:
        raise ValueError("a class-conditional model needs data with class labels; these have none")
    return classes if conditional and classes is not None else 0


def at_least(least: int, **numbers: int) -> None:
    """Check that options, given by name, are ``least`` or more.

    Raises:
        ValueError: One is smaller; the message names it.
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}")


def sequence_of(shape: Iterable[int], levels: int | None, model: str) -> tuple[int, int]:
    """D and L.

    Raises:
        ValueError: The examples are no vectors of integers 0 .. L-1, 2 <= L <= 256; ``model`` is named.
    """
    shape = tuple(shape)
    if len(shape) != 1:
        raise ValueError(f"{model} takes sequences (D,), not examples of shape {shape}")
    if levels is None:
        raise ValueError(f"{model} takes categories or integers, and these data are real-valued")
    if not 2 <= levels <= 256:
        raise ValueError(f"levels must be from 2 to 256, not {levels}")
    return shape[0], levels
