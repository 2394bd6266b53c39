"""Times in words."""

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """A time in the two largest units that it has.

    >>> duration(8.4), duration(148), duration(8880), duration(200_000)
    ('8 s', '2 min 28 s', '2 h 28 min', '2 d 7 h')
    """
    whole = max(0, round(seconds))
    for size, unit, smaller, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"
