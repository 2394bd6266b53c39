"""Pictures show the samples they are named after."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.pictures import draw_comparison, draw_samples, image_grid


@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (3, 32), (2, 2)])
def test_each_image_stands_in_its_place_with_its_brightness(channels: int, levels: int) -> None:
    images = np.zeros((10, channels, 30, 30), np.uint8)
    images[9, 0] = levels - 1
    grid = np.asarray(image_grid(images, levels, columns=4, gap=2))
    assert grid.shape == (3 * 32 + 2, 4 * 32 + 2, 3) or grid.shape[1] >= 200
    scale = grid.shape[1] // (4 * 32 + 2)
    grid = grid[::scale, ::scale]
    assert (grid[2 + 2 * 32 : 32 + 2 * 32, 2 + 32 : 32 + 32, 0] == 255).all(), (
        "the tenth image: third row, second place"
    )
    assert (grid[2:32, 2:32] == 0).all()
    assert (grid[:2] == 128).all(), "the gap is neither black nor white"


@pytest.mark.parametrize(
    ("samples", "levels"),
    [
        (torch.randint(0, 256, (70, 1, 28, 28), dtype=torch.uint8), 256),
        (torch.randint(0, 32, (5, 3, 9, 7), dtype=torch.uint8), 32),
        (torch.randn(50, 2), None),
        (torch.randn(50, 1), None),
        (torch.randn(50, 7), None),
        (torch.randint(0, 4, (9, 2), dtype=torch.uint8), 4),
    ],
    ids=["digits", "colour", "plane", "line", "vectors", "integers"],
)
def test_every_kind_of_data_has_a_picture(samples: torch.Tensor, levels: int | None, tmp_path: Path) -> None:
    draw_samples(samples, levels, tmp_path / "s")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as stored:
        assert np.array_equal(stored["samples"], samples.numpy())
    draw_comparison({"one": tmp_path / "s.npz", "two": tmp_path / "s.npz"}, tmp_path / "c.png")
    for name in ("s", "c"):
        picture = Image.open(tmp_path / f"{name}.png").convert("L")
        assert picture.width >= 200
        low, high = picture.getextrema()
        assert low != high, "an empty picture"
