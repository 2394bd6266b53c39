"""Where the panels of a comparison stand, so that a page can hold them."""

import math
from dataclasses import dataclass

__all__ = ["Layout", "layout_of"]

PAGE = (8.27, 11.0)  # inches: A4 less a margin for the caption; also turned by a right angle
_CAPTION = 0.16  # inches below a panel


@dataclass(frozen=True)
class Layout:
    """A grid of panels.

    Attributes:
        single: Whether there is one data set: models follow each other from left to right.
        lines: Rows of the matrix in one block; a matrix that is too long goes on in a second block beside the first.
        data_sets: Columns of one block.
        cell: Inches of a panel's side, decorations included.
    """

    single: bool
    rows: int
    columns: int
    data_sets: int
    cell: tuple[float, float]

    @property
    def width(self) -> float:
        return self.cell[0] * self.columns

    @property
    def height(self) -> float:
        return self.cell[1] * self.rows

    @property
    def dpi(self) -> int:
        """100, or more where panels are small."""
        return 100 if self.cell[0] > 1.2 else 200

    @property
    def font(self) -> float:
        """Points of a name."""
        return 12.0 if self.single and self.cell[0] > 2.4 else max(4.5, min(9.0, 6 * self.cell[0]))

    def fitting(self, text: str) -> float:
        """Points at which a text is no longer than a panel: a letter is about 0.6 of its size wide."""
        return max(3.0, min(self.font, 72 * 0.85 * min(self.cell) / (0.6 * max(len(text), 1))))

    def place(self, model: int, data_set: int) -> tuple[int, int]:
        """Row and column of a model's panel. Both count from 0."""
        if self.single:
            return divmod(model, self.columns)
        return model % self.rows, model // self.rows * self.data_sets + data_set


def layout_of(models: int, data_sets: int, *, captioned: bool) -> Layout:
    """The grid with the largest panels that fits on a page.

    Arguments:
        models: The data's own line counted.
        captioned: Whether a line of text stands below each panel.
    """
    single = data_sets == 1
    size = (3.2, 3.45) if single else (1.6, 1.5)
    if captioned:
        size = (size[0], size[1] + _CAPTION)
    best: Layout | None = None
    for blocks in range(1, min(models, 7) + 1):
        rows, columns = math.ceil(models / blocks), blocks * data_sets
        for page in (PAGE, PAGE[::-1]):
            shrink = min(1.0, page[0] / (size[0] * columns), page[1] / (size[1] * rows))
            made = Layout(single, rows, columns, data_sets, (size[0] * shrink, size[1] * shrink))
            if best is None or _worth(made) > _worth(best):
                best = made
    assert best is not None
    return best


def _worth(layout: Layout) -> tuple[float, int, int]:
    """Large panels first, then at most three columns for one data set, then few empty places."""
    fewer = -abs(layout.columns - 3) if layout.single else -layout.columns
    return round(layout.cell[0], 2), fewer, -layout.rows * layout.columns
