"""Several processes for one run (DDP), started fresh: each reads the run's configuration from its folder.

Lightning would start the command line again, and with it the whole sweep; here one process is one run.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["is_worker", "run_workers"]


def is_worker() -> bool:
    """Whether this process is one of several that train one model."""
    return "LOCAL_RANK" in os.environ


def run_workers(config: Path, processes: int) -> tuple[int, str]:
    """Start ``processes`` workers on one configuration file and wait for all.

    Returns:
        Exit code (0, or that of the first worker that failed; the others are then ended) and a reason.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    shared["WORLD_SIZE"] = str(processes)
    workers = [
        subprocess.Popen([sys.executable, "-m", "bench.worker", str(config)], env={**shared, "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        while any(worker.poll() is None for worker in workers):
            failed = [worker for worker in workers if worker.returncode not in (None, 0)]
            if failed:
                return max(failed[0].returncode, 1), f"a process ended with code {failed[0].returncode}"
            time.sleep(0.2)
        codes = [worker.returncode for worker in workers if worker.returncode]
        return (max(codes[0], 1), f"a process ended with code {codes[0]}") if codes else (0, "")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
