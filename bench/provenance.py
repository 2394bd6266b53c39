"""Code version, library versions and device of a run, recorded with its results."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["device_name", "git_state", "versions"]

_ROOT = Path(__file__).resolve().parent.parent


def git_state() -> tuple[str, bool | None]:
    """Return the commit of genbench's checkout and whether its code was changed since; empty and None without one.

    Only code and configuration are compared, so a run that writes results does not mark the next run as changed.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside the user's own repository, whose commit does not describe our code.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _ROOT:
            return "", None
        changed = git("status", "--porcelain", "--", "bench", "models", "conf", "pyproject.toml")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return "", None


def versions() -> str:
    """Return the versions of Python and the numerical libraries: ``python 3.11.7, torch 2.13.0, ...``."""
    packages = ("torch", "pytorch-lightning", "numpy", "scipy")
    return ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def device_name(accelerator: str, devices: int) -> str:
    """Return the device's name, for example ``cpu (2 threads)``, ``NVIDIA H100``, or ``2 x NVIDIA H100`` for two."""
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    elif accelerator != "cpu" and torch.backends.mps.is_available():
        name = "Apple GPU"
    else:
        name = f"cpu ({torch.get_num_threads()} threads)"
    return name if devices == 1 else f"{devices} x {name}"
