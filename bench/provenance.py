"""What a number was made with: code, libraries, machine."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["device_name", "git_state", "versions"]

_ROOT = Path(__file__).resolve().parent.parent


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
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    elif accelerator != "cpu" and torch.backends.mps.is_available():
        name = "Apple GPU"
    else:
        name = f"cpu ({torch.get_num_threads()} threads)"
    return name if devices == 1 else f"{devices} x {name}"
