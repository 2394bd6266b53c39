"""``python -m bench`` is the command ``genbench``."""

import sys

from bench.cli.main import main

sys.exit(main())
