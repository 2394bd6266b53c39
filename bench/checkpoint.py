"""Checkpoints that are never half-written and never run code.

A checkpoint holds tensors and plain configuration only, so that ``weights_only=True`` loads it and renaming a class
breaks nothing. Writing goes through a temporary file in the same folder and a rename; reading refuses whatever is not
what our own writer makes.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import UserError, is_out_of_memory
from bench.files import durable_write
from bench.provenance import git_state

__all__ = ["Progress", "export", "load_checkpoint", "load_tensors", "load_weights", "save_checkpoint", "stored_config"]


@dataclass
class Progress:
    """Where training stands. Part of every checkpoint."""

    steps: int = 0
    examples_seen: int = 0
    train_seconds: float = 0.0
    best_score: float | None = None
    best_examples: int = 0
    validations_since_best: int = 0
    finished: str = ""  # why training ended; empty while it goes on
    device: str = ""  # what it was trained on
    data_revision: str = ""  # what of
    commit: str = ""  # by what code
    dirty: bool | None = None  # whether that differed from the commit, or changed on the way
    history: list[list[float]] = field(default_factory=list)  # [examples_seen, validation score]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Progress":
        """The progress stored in a checkpoint. What a later version stores besides is passed over."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def made_with(self, device: str, data_revision: str) -> None:
        """Note what training goes on with from here. No commit stands for code that changed on the way."""
        commit, dirty = git_state()
        changed = self.commit not in ("", commit)
        self.commit, self.dirty = commit, True if changed or self.dirty else dirty
        self.device, self.data_revision = device, data_revision


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write ``payload`` (nested dicts and lists of tensors, numbers and strings) to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    durable_write(path, buffer.getvalue())


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Raises:
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
            # torch checks no checksum, so a flipped bit would be another weight; an entry marked as a folder (0x10) it
            # reads as memory that nobody filled.
            if any(entry.external_attr & 0x10 for entry in archive.infolist()) or archive.testzip() is not None:
                raise UserError(f"checkpoint {path}: damaged (a checksum does not match); take another copy of it")
        # Explicit: an environment variable can turn the default around, but not the argument.
        payload = torch.load(path, map_location=map_location, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever the unpickler or the archive reader trips over
        if is_out_of_memory(error):
            raise
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


def export(model: nn.Module, path: Path, config: Mapping[str, Any], progress: Progress) -> None:
    """Write weights to be evaluated, with the configuration and the progress that they were made with."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_checkpoint(path, {"state_dict": state, "config": json.dumps(dict(config)), "progress": asdict(progress)})


def load_weights(model: nn.Module, path: Path) -> Progress:
    """Load an exported checkpoint into a fresh model; return the progress stored with it.

    Raises:
        UserError: The file is no checkpoint, or not one of this model.
    """
    payload = load_checkpoint(path)
    try:
        model.load_state_dict(payload["state_dict"])
        return Progress.of(payload["progress"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"checkpoint {path}: does not fit this model ({reason})") from error


def stored_config(path: Path) -> dict[str, Any]:
    """The configuration stored in an exported checkpoint.

    Raises:
        UserError: The file is no checkpoint, or holds no configuration.
    """
    try:
        config = json.loads(load_checkpoint(path)["config"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: holds no run's configuration; give a best.ckpt or final.ckpt") from error
    if not isinstance(config, dict):
        raise UserError(f"checkpoint {path}: holds no run's configuration; give a best.ckpt or final.ckpt")
    return config
