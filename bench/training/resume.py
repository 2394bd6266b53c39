"""What an interrupted training goes on from, or nothing if its checkpoint is damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.checkpoint import Progress, load_checkpoint
from bench.errors import UserError, is_out_of_memory
from bench.rng import seeded, set_rng_state

__all__ = ["resumable"]


def resumable(
    path: Path, model: nn.Module, key: str, averages: bool, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the supervisor's state in ``last.ckpt``; None if there is no such file or training cannot go on from it.

    ``best.ckpt`` is no substitute: it holds weights to evaluate (averaged ones, with EMA) and neither the optimizers'
    state nor random numbers, so that training would go on to other weights than the same run left in peace. Training
    that starts again comes to the same.

    Arguments:
        path: Of ``last.ckpt``.
        model: The new model.
        key: Of the supervisor among the checkpoint's callbacks.
        averages: Whether training averages weights (EMA).
        say: Called with one line if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return _checked(path, model, key, averages)
    except UserError as error:
        reason = str(error).removeprefix(f"checkpoint {path}: ")
    except Exception as error:  # whatever a wrong content leads to
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    say(f"{path} cannot be gone on from ({reason}): training starts again")
    return None


def _checked(path: Path, model: nn.Module, key: str, averages: bool) -> dict[str, Any]:
    """Read the supervisor's state.

    Raises:
        UserError: The file is no checkpoint, or is not of this training.
        Exception: A part has the wrong type.
    """
    payload = load_checkpoint(path)
    if _shapes(payload["state_dict"]) != _shapes(model.state_dict()):
        raise UserError("is of another model")
    if not all("param_groups" in state for state in payload["optimizer_states"]):
        raise UserError("holds no state of the optimizers")
    state: dict[str, Any] = payload["callbacks"][key]
    Progress.of(state["progress"])
    if (state["ema"] is not None) != averages:
        raise UserError("is of another training")
    for rng in state["rng"]:
        with seeded(0):  # which puts back what was there
            set_rng_state(rng["global"])
        if rng["train"].dtype != torch.uint8:
            raise UserError("holds no state of the random numbers")
    return state


def _shapes(state: dict[str, Any]) -> dict[str, object]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}
