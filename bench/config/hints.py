"""Whether a value from a configuration fits the annotation of the argument that it goes to."""

import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["fits", "in_words"]

_SCALARS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    Path: (str, Path),
}
_LISTS = (list, tuple, set, Sequence, Iterable, Collection)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path",
          type(None): "null"}  # fmt: skip


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can go where ``hint`` is annotated. What is not known to be wrong fits.

    >>> fits(3, float), fits("3", float), fits(True, int), fits([1, 2], list[int]), fits(None, int | None)
    (True, False, False, True, True)
    """
    if hint in _SCALARS:
        return isinstance(value, _SCALARS[hint]) and (hint is bool or not isinstance(value, bool))
    if hint is None or hint is type(None):
        return value is None
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        known = any(part in _SCALARS for part in inner)
        scalar = isinstance(value, bool | int | float | str)
        return any(fits(value, part) for part in inner if not (known and scalar and not _is_known(part)))
    if origin is Literal:
        return value in inner
    if origin in _LISTS or hint in _LISTS:
        if not isinstance(value, list | tuple):
            return False
        return len({*inner} - {...}) != 1 or all(fits(item, inner[0]) for item in value)
    if origin is Callable:  # made from a node with a _target_
        return callable(value) or isinstance(value, Mapping)
    return True


def in_words(hint: Any) -> str:
    """What is expected, for a message."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in inner if _is_known(part) or part is type(None)))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in _LISTS or hint in _LISTS:
        return f"a list, each {in_words(inner[0])}" if inner else "a list"
    return _WORDS.get(hint, "keys and values with a _target_" if origin is Callable else str(hint))


def _is_known(hint: Any) -> bool:
    return hint in _SCALARS or get_origin(hint) is Literal or hint in _LISTS or get_origin(hint) in _LISTS
