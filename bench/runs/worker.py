"""One of several processes of a run, started by ``bench.runs.ddp``: ``python -m bench.runs.worker CONFIG PIPE PLACE``.

PLACE are the three numbers of ``bench.processes.Place``.
"""

import json
import logging
import os
import sys
from pathlib import Path

from bench.errors import UserError
from bench.processes import Place, become_worker
from bench.runs.ddp import follow_parent, tell_parent


def main() -> int:
    """Execute the configuration in the file named on the command line, and tell the parent how it ended."""
    follow_parent()  # before anything that takes time
    pipe, rank, size, port = map(int, sys.argv[2:])
    become_worker(Place(rank, size, port))
    config = json.loads(Path(sys.argv[1]).read_text())
    from bench.config.build import checked
    from bench.runs.run import execute

    try:
        outcome = execute(checked(config))
    except UserError as error:
        exit_code, reason = 2, str(error)
    else:
        exit_code, reason = outcome.exit_code, outcome.reason
    tell_parent(pipe, exit_code, reason)
    return exit_code


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written. The interpreter's own end would destroy torch's process group while its threads run, and
    # sometimes abort there, so that a run that went well would count as failed.
    os._exit(exit_code)
