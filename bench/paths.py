"""One rule for the paths that users name: ``~`` is the home, the rest is relative to where the command starts."""

import os
from pathlib import Path

from bench.errors import UserError

__all__ = ["at_home"]


def at_home(key: str, path: str | os.PathLike[str]) -> Path:
    """A path in which ``~`` and ``~NAME`` are users' homes. Relative ones stay so: no command changes its folder.

    Raises:
        UserError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}={path}: {error}; give the path from / on") from error
