"""One of several processes of a run: ``python -m bench.runs.worker CONFIG PIPE``, started by ``bench.runs.ddp``."""

import json
import sys
from pathlib import Path

from bench.errors import UserError
from bench.runs.ddp import follow_parent, tell_parent


def main() -> int:
    """Execute the configuration in the file named on the command line, and tell the parent how it ended."""
    follow_parent()  # before anything that takes time
    config, pipe = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
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
    sys.exit(main())
