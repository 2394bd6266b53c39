"""A stranger's text, made harmless for a terminal."""

__all__ = ["plain"]


def plain(text: str) -> str:
    """A text on one line, without characters that act on a terminal: each of them becomes a space.

    These are control characters (ESC, line ends), marks that turn the direction of writing, and what is no character.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)
