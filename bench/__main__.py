"""``python -m bench`` is the command ``genbench``."""

import sys

from bench.cli import main

sys.exit(main())
