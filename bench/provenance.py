"""What a number was made with: code, libraries, machine."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ["config_hash", "device_name", "git_state", "versions"]

_ROOT = Path(__file__).resolve().parent.parent

# These say where things go and who may be trusted, not what is computed.
_NOT_HASHED = ("name", "runs_dir", "results_dir", "logger", "trust", "rerun", "choices")


def config_hash(config: dict[str, Any], *, without_seed: bool = False) -> str:
    """SHA-256 of what a run computes: the resolved configuration less folders, loggers and trust.

    Two runs with one hash would give the same numbers. Without the seed: runs that may be averaged over seeds.
    """
    left_out = (*_NOT_HASHED, "seed") if without_seed else _NOT_HASHED
    kept = {key: value for key, value in config.items() if key not in left_out}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def git_state() -> tuple[str, bool | None]:
    """Commit of the harness's checkout and whether its code differs from it; empty and None outside a checkout.

    Only code and configuration count: a run that writes results does not make the next one dirty.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # A user's own repository may enclose an installed copy: its commit says nothing about our code.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _ROOT:
            return "", None
        changed = git("status", "--porcelain", "--", "bench", "models", "conf", "pyproject.toml")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return "", None


def versions() -> str:
    """Versions of what computes: ``python 3.11.7, torch 2.13.0, ...``."""
    packages = ("torch", "pytorch-lightning", "numpy", "scipy")
    return ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def device_name(accelerator: str, devices: int) -> str:
    """For example ``cpu (2 threads)`` or ``NVIDIA H100``; ``2 x`` in front with several processes."""
    if accelerator != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    elif accelerator != "cpu" and torch.backends.mps.is_available():
        name = "Apple GPU"
    else:
        name = f"cpu ({torch.get_num_threads()} threads)"
    return name if devices == 1 else f"{devices} x {name}"
