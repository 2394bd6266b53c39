"""Which process of a run this is: the only one, or one of several that train one model (DDP).

Only this module knows. Environment variables (``LOCAL_RANK``, ``SLURM_PROCID``, ...) may be those of another launcher,
left in the shell.
"""

import os
from dataclasses import dataclass

__all__ = ["Place", "become_worker", "is_worker", "one_of_tasks", "place"]

_TASKS = {"SLURM_PROCID": "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE", "PMI_RANK": "PMI_SIZE",
          "RANK": "WORLD_SIZE"}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The place of a process among those of its run, on one machine.

    Attributes:
        rank: Its number, from 0. The first process writes what there is to write.
        size: How many there are.
        port: Where their parent keeps the store at which they meet, on 127.0.0.1.
    """

    rank: int = 0
    size: int = 1
    port: int = 0


_place: list[Place] = []


def become_worker(place: Place) -> None:
    """Make this process one of several."""
    _place[:] = [place]


def is_worker() -> bool:
    """Return whether this process is one of several that train one model, started by their parent."""
    return bool(_place)


def place() -> Place:
    """Return the place of this process; that of the only one unless it is a worker."""
    return _place[0] if _place else Place()


def one_of_tasks() -> str:
    """Return advice where another launcher, such as srun, seems to have started this command several times, or ""."""
    for rank, size in _TASKS.items():
        if rank in os.environ and os.environ.get(size, "1") not in ("0", "1"):
            return (
                f" ({size}={os.environ[size]}: each task of srun, mpirun or torchrun runs this same command; start it "
                "once, trainer=ddp trainer.devices=N starts the processes itself)"
            )
    return ""
