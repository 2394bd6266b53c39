"""``python -m bench.rows.migrate FILE...``: files of rows of older versions, rewritten as rows of the present version.

For published rows. The rows in a run's folder need no migration, since reading understands every version.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.regular import check_output
from bench.rows.store import read_rows, write_rows

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite each file durably. A file of the present version keeps its bytes.

    Returns:
        0, or 2 after a file that is not a file of rows or cannot be written; it and the files after it stay as they
        are.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.rows.migrate", description="Rewrite files of rows.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    try:
        for file in parser.parse_args(arguments).files:
            check_output("file", file)
            rows = read_rows(file)
            write_rows(file, rows)
            print(f"{file}: {len(rows)} rows")
    except UserError as error:
        print(f"bench.rows.migrate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
