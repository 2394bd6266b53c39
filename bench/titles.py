"""Titles of data sets of the user's own: they stand in the names of folders, files and tables."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path

__all__ = ["TITLE_RULE", "is_title", "title_of"]

_LONGEST = 60
_TITLE = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.]{{0,{_LONGEST - 1}}}")
TITLE_RULE = f"only letters, digits, _ and ., at most {_LONGEST}, and no . at the beginning"


def is_title(title: object) -> bool:
    """Return whether ``title`` may be part of a file's name: a text as ``TITLE_RULE`` says."""
    return isinstance(title, str) and _TITLE.fullmatch(title) is not None


def title_of(path: str) -> str:
    """Return a title for the data at a path, made from the name of the file (less its ending) or of the folder.

    >>> title_of("/data/Rosé wine (2009).csv")
    'Rose_wine_2009'
    """
    place = Path(os.path.normpath(path))
    name = place.name if place.is_dir() else place.stem
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    title = re.sub(r"[^A-Za-z0-9_.]+", "_", letters).strip("_.")[:_LONGEST]
    # Nothing is left of a name in another script: then its hash tells two files apart.
    return title or hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
