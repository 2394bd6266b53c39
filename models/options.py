"""Checks of constructor arguments that models of several families share. A message names the argument."""

__all__ = ["at_least", "class_context"]


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
