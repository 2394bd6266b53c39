"""Errors that speak to the user."""

__all__ = ["DivergedError", "UserError"]


class UserError(Exception):
    """A mistake or a missing thing that the user can mend. Shown as one line, without a traceback; exit code 2.

    The message says what is wrong, where, and what to do.
    """


class DivergedError(Exception):
    """Training produced a NaN or an infinity. The run ends with the row ``failed: diverged at example N``."""

    def __init__(self, examples_seen: int, what: str) -> None:
        super().__init__(f"diverged at example {examples_seen} ({what} is not finite)")
        self.examples_seen = examples_seen
