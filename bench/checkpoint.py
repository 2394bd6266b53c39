"""Checkpoints that are never half-written and never run code.

A checkpoint holds tensors and plain configuration only, so that ``weights_only=True`` loads it and renaming a class
breaks nothing. Writing goes through a temporary file in the same folder and a rename; reading refuses whatever is not
what our own writer makes.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from bench.errors import UserError
from bench.files import durable_write

__all__ = ["DurableCheckpointIO", "load_checkpoint", "load_tensors", "save_checkpoint"]


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write ``payload`` (nested dicts and lists of tensors, numbers and strings) to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    durable_write(path, buffer.getvalue())


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Errors:
        UserError: no such file (or an address instead of a path), not a checkpoint, truncated, compressed entries
            (a small file that unpacks to a large one), a tensor larger than what is stored for it or of a kind that
            genbench never writes (sparse, quantized, without memory), entries that contain themselves, or any object
            beside tensors and plain values.
    """
    path = Path(path)
    payload = load_tensors(path, map_location)
    if not isinstance(payload, dict):
        raise UserError(f"checkpoint {path}: holds a {type(payload).__name__} instead of named entries")
    return payload


def load_tensors(path: Path | str, map_location: Any = "cpu") -> Any:
    """Read a tensor, or dicts and lists of tensors and plain values, without running anything in the file.

    Raises:
        UserError: As ``load_checkpoint``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; give the path of a .ckpt file in a run's folder")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"checkpoint {path}: has compressed entries, which genbench never writes; refused")
        # Explicit: an environment variable can turn the default around, but not the argument.
        payload = torch.load(path, map_location=map_location, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever the unpickler or the archive reader trips over
        # After its first sentence torch advises to load the file with code and all, in bold letters.
        reason = str(error).splitlines()[0].partition(". ")[0][:120] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path}: damaged, or more than tensors and plain values ({reason})") from error
    try:
        tensors = list(_tensors(payload))
    except RecursionError as error:
        raise UserError(f"checkpoint {path}: entries are nested too deeply; refused") from error
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise UserError(f"checkpoint {path}: has a tensor that is sparse, quantized or without memory; refused")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            shape = tuple(tensor.shape)
            raise UserError(f"checkpoint {path}: a tensor of shape {shape} claims more than is stored for it; refused")
    return payload


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item)


class DurableCheckpointIO(CheckpointIO):
    """Lightning's training checkpoints through the same two functions.

    Lightning's own writes to the system's temporary folder and moves the file, without fsync: a kill in the middle of
    a save left 6 of 20 files corrupt and the previous one destroyed. Its loop state is left out: our loader and
    counters say where training stands, and Lightning's replays batches.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(Path(path), {key: value for key, value in checkpoint.items() if key != "loops"})

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
