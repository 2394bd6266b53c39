"""Errors that speak to the user."""

import errno

from bench.plain import plain

__all__ = ["BrokenError", "BusyError", "DivergedError", "UnavailableError", "UserError", "is_out_of_memory"]

_LONGEST = 2000  # characters of a line for the user

# What torch says in a plain RuntimeError: its allocator on the CPU, sizes beyond 64 bits, libraries on the GPU.
_TOO_LARGE = (
    "out of memory", "not enough memory", "can't allocate memory", "Storage size calculation overflowed",
    "_STATUS_ALLOC_FAILED",
)  # fmt: skip


class UserError(Exception):
    """A mistake or a missing thing that the user can mend. Shown as one line, without a traceback; exit code 2.

    The message says what is wrong, where, and what to do. It may quote a stranger's file: characters that act on a
    terminal are taken out of it.
    """

    def __init__(self, message: object) -> None:
        text = plain(str(message))
        half = _LONGEST // 2  # what to do stands at the end
        super().__init__(text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}")


class BusyError(UserError):
    """Another process is at work on the same run. Exit code 75, "try again later" (EX_TEMPFAIL of sysexits.h)."""


class DivergedError(Exception):
    """Training produced a NaN or an infinity. The run ends with the row ``failed: diverged at example N``."""

    def __init__(self, examples_seen: int, what: str) -> None:
        super().__init__(f"diverged at example {examples_seen} ({what} is not finite)")
        self.examples_seen = examples_seen


class UnavailableError(Exception):
    """Something does not apply: a GAN has no likelihood, a table of numbers no classifier. Rows are ``skipped``.

    The message says why, in words for a table's footnote.
    """


class BrokenError(Exception):
    """There should be something to measure and there is not, because the run failed. Rows are ``failed``."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory was too small, the processor's or the GPU's. NumPy's and torch's own errors count."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch.OutOfMemoryError is a RuntimeError; this file imports no torch.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TOO_LARGE)
    )
