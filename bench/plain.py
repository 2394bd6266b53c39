"""A stranger's text, made harmless for a terminal and for a file of lines."""

import copy
import logging

__all__ = ["PlainFormatter", "plain"]


def plain(text: str) -> str:
    """A text on one line, without characters that act on a terminal: each of them becomes a space.

    These are control characters (ESC, line ends), marks that turn the direction of writing, and what is no character.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


class PlainFormatter(logging.Formatter):
    """Formats a record as its base does, the message on one line and all lines plain."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.msg, record.args = plain(record.getMessage()), ()
        return "\n".join(map(plain, super().format(record).split("\n")))
