"""genbench: one protocol, one table for flows, GANs, VAEs and other generative models.

For notebooks: ``run``, ``evaluate``, ``load_rows`` and ``table`` (docs/notebooks.md). Importing this package takes the
names ``models`` and ``conf`` for ours and imports nothing else: each of the four is fetched when it is first asked for.
"""

from importlib import import_module
from typing import Any

from bench.ours import claim

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load_rows", "run", "table"]

claim()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("bench.notebook"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
