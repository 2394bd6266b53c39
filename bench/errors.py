"""Errors that speak to the user."""

__all__ = ["BrokenError", "BusyError", "DivergedError", "UnavailableError", "UserError"]


class UserError(Exception):
    """A mistake or a missing thing that the user can mend. Shown as one line, without a traceback; exit code 2.

    The message says what is wrong, where, and what to do.
    """


class BusyError(UserError):
    """Another process is at work on the same run. Exit code 75, "try again later" (EX_TEMPFAIL of sysexits.h)."""


class DivergedError(Exception):
    """Training produced a NaN or an infinity. The run ends with the row ``failed: diverged at example N``."""

    def __init__(self, examples_seen: int, what: str) -> None:
        super().__init__(f"diverged at example {examples_seen} ({what} is not finite)")
        self.examples_seen = examples_seen


class UnavailableError(Exception):
    """Something does not apply: a GAN has no likelihood, a table of numbers no classifier. Measured is ``skipped``.

    The message says why, in words for a table's footnote.
    """


class BrokenError(Exception):
    """There should be something to measure and there is not, because the run failed. Measured is ``failed``."""
