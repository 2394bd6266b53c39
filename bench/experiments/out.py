"""Where an experiment writes."""

import argparse
from pathlib import Path

from bench.paths import at_home

__all__ = ["add_out", "folder_of"]


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` to an experiment's arguments."""
    parser.add_argument("--out", metavar="FOLDER", default=".", help="where the CSV and the picture go; default: here")


def folder_of(parser: argparse.ArgumentParser, out: str) -> Path:
    """The folder, made where it is missing. The command ends with one line and code 2 where it cannot be made."""
    folder = Path(at_home("--out", out))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {folder}: {error.strerror or error}; give another folder")
    return folder
