"""A Lightning plugin that writes and reads training checkpoints with ``bench.checkpoint``."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from bench.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["DurableCheckpointIO"]


class DurableCheckpointIO(CheckpointIO):
    """Saves and loads Lightning's training checkpoints with durable writes.

    Lightning's own plugin writes to the system's temporary folder and moves the file without fsync: kills in the middle
    of a save left 6 of 20 files corrupt and destroyed the previous checkpoint. Lightning's loop state is left out,
    because it replays batches; our loader and counters record the position in training.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(Path(path), {key: value for key, value in checkpoint.items() if key != "loops"})

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
