"""Write to a standard output that lacks characters or cannot be written: a closed pipe (``| head``), a full disk."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

__all__ = ["OutputLost", "with_output", "write_text"]


class OutputLost(BaseException):
    """Standard output or standard error cannot be written.

    It is a ``BaseException``, because rich, Hydra and argparse catch ``Exception`` and ``OSError`` themselves.
    """

    def __init__(self, stream: TextIO, error: OSError) -> None:
        super().__init__(str(error))
        self.stream = stream
        self.error = error


def with_output(command: Callable[[], int]) -> int:
    """Run a command and handle failures to write its output.

    Returns:
        The command's exit code. If the reader has closed the pipe: 141 = 128 + SIGPIPE, without a message, the code
        that shells report. If the output cannot be written for another reason: 2, with a line on standard error.
    """
    errors = sys.stderr
    try:
        with redirect_stdout(_checked(sys.stdout)), redirect_stderr(_checked(sys.stderr)):
            try:
                return command()
            finally:
                sys.stdout.flush()  # here, because errors can no longer be reported when the interpreter exits
    except OutputLost as lost:
        # Discard the rest of the buffer. The interpreter would try to write it again and print an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, lost.stream.fileno())
        os.close(nowhere)
        if isinstance(lost.error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"genbench: cannot write the output: {lost.error.strerror}", file=errors)
        return 2


def write_text(text: str) -> None:
    """Write to standard output. Characters that its encoding lacks become question marks instead of an error."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


class _Checked:
    """A text stream that raises ``OutputLost`` instead of ``OSError``."""

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
    """Wrap a stream. ``None``, which Python sets for a stream closed before its start (``>&-``), discards output."""
    return cast(TextIO, _Checked(io.StringIO() if stream is None else stream))
