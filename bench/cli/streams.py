"""What a command prints may find no taker: its reader has gone (``| head``), or the disk is full (``> file``)."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

__all__ = ["OutputLost", "with_output"]


class OutputLost(BaseException):
    """Standard output or error cannot be written.

    Not an ``Exception``, nor an ``OSError``: rich, Hydra and argparse have answers of their own to those.
    """

    def __init__(self, stream: TextIO, error: OSError) -> None:
        super().__init__(str(error))
        self.stream = stream
        self.error = error


def with_output(command: Callable[[], int]) -> int:
    """Run a command, and answer for its output.

    Returns:
        The command's exit code; or 141 = 128 + SIGPIPE, without a word, if the reader has gone, as the shell says of
        any program; or 2 and a line on standard error if there is another reason.
    """
    errors = sys.stderr
    try:
        with redirect_stdout(_checked(sys.stdout)), redirect_stderr(_checked(sys.stderr)):
            try:
                return command()
            finally:
                sys.stdout.flush()  # now: as the interpreter ends, nothing can be said any more
    except OutputLost as lost:
        # What its buffer still holds goes nowhere; the interpreter would try it again and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, lost.stream.fileno())
        os.close(nowhere)
        if isinstance(lost.error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"genbench: cannot write the output: {lost.error.strerror}", file=errors)
        return 2


class _Checked:
    """A text stream that raises ``OutputLost`` where it would raise an ``OSError``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._or_lost():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._or_lost():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputLost(self._stream, error) from error


def _checked(stream: TextIO | None) -> TextIO:
    """``None`` is what Python makes of a stream that was closed before it started (``>&-``): nobody wants it."""
    return cast(TextIO, _Checked(io.StringIO() if stream is None else stream))
