"""Tell Lightning which processes there are. Left alone it guesses, from the variables of several launchers."""

import os
import socket

from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from bench.processes import Place

__all__ = ["OwnProcesses"]


class OwnProcesses(ClusterEnvironment):
    """The processes that ``bench.runs.ddp`` started, all on this machine, or a single one."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
        if place.size > 1:
            # Their parent holds the store: it chose the port while it bound it, so that nobody can take it in between.
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            # Gloo would listen where the machine's name leads, perhaps to a network that is down or behind a firewall.
            for _, name in socket.if_nameindex():
                if name in ("lo", "lo0"):
                    os.environ["GLOO_SOCKET_IFNAME"] = name

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._place.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.size

    def set_world_size(self, size: int) -> None:
        """Lightning computes what is known already."""

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """Lightning computes what is known already."""

    def local_rank(self) -> int:
        return self._place.rank

    def node_rank(self) -> int:
        return 0
