"""One of several processes of a run: ``python -m bench.worker CONFIG``. Started by ``bench.processes`` alone."""

import json
import sys
from pathlib import Path

from bench.errors import UserError
from bench.job import execute


def main() -> int:
    """Execute the configuration in the file named on the command line."""
    config = json.loads(Path(sys.argv[1]).read_text())
    try:
        outcome = execute(config)
    except UserError as error:
        print(f"genbench: {error}", file=sys.stderr)
        return 2
    if outcome.exit_code:
        print(f"{outcome.run_id}: {outcome.reason}", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
