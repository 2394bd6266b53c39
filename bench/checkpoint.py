"""Checkpoints that are never half-written and never run code.

A checkpoint holds tensors and plain configuration only, so that ``weights_only=True`` loads it and renaming a class
breaks nothing. Writing goes through a temporary file in the same folder and a rename; reading refuses whatever is not
what our own writer makes.
"""

import io
import json
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from bench.errors import UserError, is_out_of_memory
from bench.files import durable_write
from bench.provenance import git_state
from bench.regular import open_regular

__all__ = ["Progress", "export", "load_checkpoint", "load_tensors", "load_weights", "save_checkpoint", "stored_config"]

MOST_VALUES = 10_000_000  # that lists and dicts of a checkpoint may unfold to
LARGEST_PICKLE = 256 << 20  # bytes beside the tensors
LARGEST_TUPLE = 100_000  # tuples in a tuple
LARGEST_CONFIG = 1 << 20  # characters
LONGEST_TEXT = 4096  # characters of a text in the progress


@dataclass
class Progress:
    """Where training stands. Part of every checkpoint."""

    steps: int = 0
    examples_seen: int = 0
    train_seconds: float = 0.0
    cpu_seconds: float | None = 0.0  # of this process in train_seconds; None where an older version began
    threads: int = 0  # of torch while training on the CPU; 0 on other devices
    peak_memory: int | None = None  # bytes of tensors on a CUDA device, of the training steps alone
    best_seconds: float | None = None  # train_seconds at the best score
    best_score: float | None = None
    best_examples: int = 0
    validations_since_best: int = 0
    halved: bool = False  # whether batches are taken in two halves, for want of memory
    finished: str = ""  # why training ended; empty while it goes on
    device: str = ""  # what it was trained on
    data_revision: str = ""  # what of
    commit: str = ""  # by what code
    dirty: bool | None = None  # whether that differed from the commit, or changed on the way
    history: list[list[float]] = field(default_factory=list)  # [examples_seen, validation score]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Progress":
        """The progress stored in a checkpoint. What a later version stores besides is passed over.

        Raises:
            ValueError: A value is of another kind than its field: the checkpoint may be a stranger's.
        """
        known = {entry.name for entry in fields(cls)}
        before = {"cpu_seconds": None} if "train_seconds" in stored else {}
        made = msgspec.convert({name: value for name, value in {**before, **stored}.items() if name in known}, cls)
        for name in ("finished", "device", "data_revision", "commit"):
            if len(getattr(made, name)) > LONGEST_TEXT:
                raise ValueError(f"progress.{name} is longer than {LONGEST_TEXT:,} characters")
        return made

    @property
    def load(self) -> float | None:
        """CPU seconds over (wall seconds x threads) of training on the CPU; None where they were not recorded."""
        if self.cpu_seconds is None or self.threads == 0 or self.train_seconds <= 0:
            return None
        return self.cpu_seconds / (self.train_seconds * self.threads)

    def made_with(self, device: str, data_revision: str) -> None:
        """Note what training goes on with from here. Where the commit has changed since, the code counts as changed."""
        commit, dirty = git_state()
        changed = self.commit not in ("", commit)
        self.commit, self.dirty = commit, True if changed or self.dirty else dirty
        self.device, self.data_revision = device, data_revision
        self.threads = torch.get_num_threads() if "cpu" in device else 0


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
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_entries(path, archive)
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
    tensors: list[torch.Tensor] = []
    try:
        unfolded = _unfolded(payload, tensors, {})
    except RecursionError as error:
        raise UserError(f"checkpoint {path}: entries are nested too deeply; refused") from error
    if unfolded > MOST_VALUES:
        raise UserError(f"checkpoint {path}: shared entries unfold to over {MOST_VALUES:,} values; refused")
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise UserError(f"checkpoint {path}: has a tensor that is sparse, quantized or without memory; refused")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            shape = tuple(tensor.shape)
            raise UserError(f"checkpoint {path}: a tensor of shape {shape} claims more than is stored for it; refused")
    return payload


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that would unpack to more than the file holds, or whose pickle would keep the reader busy."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"checkpoint {path}: has compressed entries, which genbench never writes; refused")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:  # entries that overlap
        raise UserError(f"checkpoint {path}: has entries that claim more than the file holds; refused")
    for entry in entries:
        if entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE:
            raise UserError(f"checkpoint {path}: has more than {LARGEST_PICKLE >> 20} MiB beside its tensors; refused")
        if entry.filename.endswith(".pkl") and _largest_tuple(archive.read(entry)) > LARGEST_TUPLE:
            raise UserError(f"checkpoint {path}: has tuples of tuples that are shared too often; refused")
    # torch checks no checksum, so a flipped bit would be another weight; an entry marked as a folder (0x10) it reads as
    # memory that nobody filled.
    if any(entry.external_attr & 0x10 for entry in entries) or archive.testzip() is not None:
        raise UserError(f"checkpoint {path}: damaged (a checksum does not match); take another copy of it")


def _largest_tuple(pickled: bytes) -> int:
    """The most tuples in any tuple of a pickle, shared ones counted as often as they stand there. Loads nothing.

    A tuple may be the key of a dict, and then the reader computes its hash, which visits shared tuples again and again.
    """
    stack: list[int] = []  # of each object its number of tuples, 0 for what is no tuple
    marks: list[int] = []  # heights of the stack
    memo: dict[Any, int] = {}
    largest = 0
    for operation, argument, _ in pickletools.genops(pickled):
        name, before = operation.name, operation.stack_before
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            continue
        taken: list[int] = []
        if pickletools.markobject in before:
            height = marks.pop()
            taken = stack[height:]
            del stack[height:]
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            taken.append(stack.pop())
        made = 1 + sum(taken) if "TUPLE" in name else 0
        largest = max(largest, made)
        stack += [taken[0] if name == "DUP" else made] * len(operation.stack_after)
    return largest


def _unfolded(value: Any, tensors: list[torch.Tensor], known: dict[int, int]) -> int:
    """How many values there are where shared ones are copies. Each is visited once; tensors are added to a list.

    Raises:
        RecursionError: It is nested too deeply, or in itself.
    """
    if isinstance(value, torch.Tensor) and id(value) not in known:
        tensors.append(value)
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    if id(value) not in known:
        known[id(value)] = -1
        known[id(value)] = 1 + sum(_unfolded(part, tensors, known) for part in parts)
    if known[id(value)] < 0:
        raise RecursionError
    return known[id(value)]


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
        text = load_checkpoint(path)["config"]
        if len(text) > LARGEST_CONFIG:
            raise UserError(f"checkpoint {path}: holds a configuration of {len(text):,} characters, more than any has")
        config = json.loads(text)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: holds no run's configuration; give a best.ckpt or final.ckpt") from error
    if not isinstance(config, dict):
        raise UserError(f"checkpoint {path}: holds no run's configuration; give a best.ckpt or final.ckpt")
    return config
