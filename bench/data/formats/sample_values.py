"""The shapes and the values of samples in a data set's own space: what fits is converted, the rest refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["as_levels", "as_reals", "check", "one_line", "views"]

_FEWEST = 2


def views(spec: DataSpec) -> dict[tuple[int, ...], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Return functions that view an array as ``(N, *spec.shape)``, keyed by the array's shape of one example."""
    known: dict[tuple[int, ...], Callable[[NDArray[Any]], NDArray[Any]]] = {}
    if spec.shape[0] == 1:
        known[spec.shape[1:]] = lambda values: values[:, None]
    if spec.is_image:
        known[(*spec.shape[1:], spec.shape[0])] = lambda values: np.moveaxis(values, -1, 1)
    known[spec.shape] = lambda values: values  # last, so that channels first wins if both fit
    return known


def check(shape: tuple[int, ...], dtype: np.dtype[Any], spec: DataSpec, where: str) -> None:
    """Raise UserError if an array of this shape and dtype cannot be samples of the data."""
    kinds = "biuf" if spec.levels == 2 else "iuf"
    if dtype.kind not in kinds:
        wanted = "real numbers" if spec.levels is None else f"levels 0..{spec.levels - 1}"
        raise UserError(f"{where} has entries of type {one_line(str(dtype)[:60])}; {spec.name} wants {wanted}")
    known = views(spec)
    if len(shape) == 0 or shape[1:] not in known:
        wanted = " or ".join("(" + ", ".join(["N", *map(str, view)]) + ")" for view in reversed(known))
        raise UserError(f"{where} has the shape {shape}; {spec.name} wants {wanted}")
    if shape[0] < _FEWEST:
        raise UserError(f"{where} has {shape[0]} samples; bring at least {_FEWEST}, and as many as there are")
    if 0 in shape:
        raise UserError(f"{where} has the shape {shape}: its samples have no entries")


def as_reals(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return the values as float32. Raises UserError if one is not finite."""
    with np.errstate(over="ignore"):
        reals = np.ascontiguousarray(values, dtype=np.float32)
    _finite_range(reals, where)
    return reals


def as_levels(values: NDArray[Any], levels: int, where: str) -> NDArray[np.uint8]:
    """Return the values as uint8. Raises UserError, with what to do, if they are not all levels 0 .. L-1."""
    top = levels - 1
    low, high = _finite_range(values, where)
    stored_as_floats = values.dtype.kind == "f"
    looks_scaled = stored_as_floats and high <= 1 < top
    if low >= 0 and high <= top and not looks_scaled:
        whole = np.ascontiguousarray(values, dtype=np.uint8)
        if not stored_as_floats or bool((whole == values).all()):
            return whole
    given = f"{where} has {values.dtype} values from {low:g} to {high:g}; levels 0..{top} are wanted"
    if not stored_as_floats:
        raise UserError(f"{given}; bring the samples as the data's own levels")
    from_unit, from_symmetric = f"(x * {top}).round()", f"((x + 1) / 2 * {top}).round()"
    if low >= 0 and high <= 1:
        advice = f"store {from_unit} if x are in [0, 1]"
    elif low >= -1 and high <= 1:
        advice = f"store {from_symmetric} if x are in [-1, 1]"
    elif low >= 0 and high <= top:
        advice = "they are not all whole; store x.round() if x are levels"
    else:
        advice = f"store {from_unit} of x in [0, 1], or {from_symmetric} of x in [-1, 1]"
    raise UserError(f"{given}; {advice}")


def _finite_range(values: NDArray[Any], where: str) -> tuple[float, float]:
    """Return the smallest and the largest value. Raises UserError if a value is NaN or infinite."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{where} has NaN or infinite values (or some beyond float32); every value must be finite")
    return low, high


def one_line(text: str) -> str:
    """Return the text on one line, with unprintable characters escaped."""
    return text if text.isprintable() else ascii(text)
