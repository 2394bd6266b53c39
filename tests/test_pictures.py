"""Pictures show the samples they are named after."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from bench.evaluation.pictures import draw_samples, landscape
from bench.tables.pictures import draw_comparison, image_grid
from bench.tables.sequences import sequence_grid


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
    draw_comparison({("one", "d"): tmp_path / "s.npz", ("two", "d"): tmp_path / "s.npz"}, tmp_path / "c.png")
    for name in ("s", "c"):
        picture = Image.open(tmp_path / f"{name}.png").convert("L")
        assert picture.width >= 200
        low, high = picture.getextrema()
        assert low != high, "an empty picture"


def test_no_settings_of_matplotlib_change_a_picture(tmp_path: Path) -> None:
    """A matplotlibrc in the working folder is read when matplotlib is imported, and may be a stranger's."""
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))

    def drawn(name: str) -> list[bytes]:
        draw_samples(points, None, tmp_path / name, real=points, title="points")
        draw_comparison({("one", "d"): tmp_path / f"{name}.npz"}, tmp_path / f"{name}c.png", {("one", "d"): "1"})
        return [(tmp_path / f"{file}.png").read_bytes() for file in (name, f"{name}c")]

    expected = drawn("plain")
    theirs = {"text.usetex": True, "font.size": 30, "axes.facecolor": "black", "savefig.facecolor": "red"}
    with matplotlib.rc_context(theirs):
        assert drawn("other") == expected
        assert all(matplotlib.rcParams[key] == value for key, value in theirs.items())


def test_a_landscape_is_the_density_where_it_is(tmp_path: Path) -> None:
    normal = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))
    x = normal.sample((4000,))
    made = landscape(x, normal.log_prob, lambda x: normal.log_prob(x) + 1)
    left, right, lower, upper = made["extent"]
    assert right - left == pytest.approx(upper - lower)
    assert left < x[:, 0].min()
    assert upper > x[:, 1].max()
    step = (right - left) / made["density"].shape[0]
    assert made["density"].sum() * step**2 == pytest.approx(1, abs=1e-3)
    row, column = np.unravel_index(made["density"].argmax(), made["density"].shape)
    assert left + (column + 0.5) * step == pytest.approx(1, abs=step)
    assert lower + (row + 0.5) * step == pytest.approx(-2, abs=step)
    assert made["truth"] == pytest.approx(made["density"] * np.e, rel=1e-5)


def test_several_data_sets_make_a_matrix_with_the_truth_first(tmp_path: Path) -> None:
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    draw_samples(points, None, tmp_path / "flow", landscape(points, normal.log_prob, normal.log_prob))
    draw_samples(points, None, tmp_path / "gan", landscape(points, None, normal.log_prob))
    files = {(model, data): tmp_path / f"{model}.npz" for model in ("flow", "gan") for data in ("a", "b", "c")}
    draw_comparison(files, tmp_path / "matrix.png")
    picture = Image.open(tmp_path / "matrix.png")
    assert picture.size == (3 * 160, 3 * 150)
    # The truth and the flow's density are the same picture; the GAN has points on white.
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    top, middle, bottom = np.array_split(pixels, 3)
    assert (top[60:120, 60:120].mean() - middle[60:120, 60:120].mean()) == pytest.approx(0, abs=15)
    assert bottom[60:120, 60:120].mean() > middle[60:120, 60:120].mean() + 50


def test_a_comparison_fits_on_a_page_and_shows_the_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, np.ndarray]] = []
    import bench.tables.pictures as pictures

    rendered = pictures.rendered

    def seen(figure: object) -> Image.Image:
        assert hasattr(figure, "axes")
        for axes in figure.axes:
            drawn.append((axes.get_ylabel() or axes.get_title(), np.array([axes.get_xlim(), axes.get_ylim()])))
        return rendered(figure)

    monkeypatch.setattr(pictures, "rendered", seen)
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 3, generator=generator)
    for name, scale in (("narrow", 0.1), ("wide", 100.0)):
        draw_samples(scale * real, None, tmp_path / name, real=real, columns=["a", "b", "c"], title=f"{name} on d")
    drawn.clear()
    models = [f"{name}{index}" for name in ("narrow", "wide") for index in range(11)]
    files = {(model, data): tmp_path / f"{model.rstrip('0123456789')}.npz" for model in models for data in ("d", "e")}
    draw_comparison(files, tmp_path / "page.png", dict.fromkeys(files, "-4.3 nats"))
    with Image.open(tmp_path / "page.png") as picture:
        assert max(picture.size) <= 11.1 * 200
        assert min(picture.size) >= 400
    assert len(drawn) == 2 * 23
    assert drawn[0][0] == "data"
    assert all(np.allclose(limits, drawn[0][1]) for _, limits in drawn), "common axes"


def test_a_runs_own_picture_bears_a_title(tmp_path: Path) -> None:
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    draw_samples(images, 256, tmp_path / "plain")
    draw_samples(images, 256, tmp_path / "titled", title="vae on mnist5k, seed 0, best")
    plain, titled = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("plain", "titled"))
    strip = titled[: titled.shape[0] - plain.shape[0]]
    assert np.array_equal(titled[len(strip) :], plain)
    assert strip.min() < 100 < strip.max(), "letters on white"


def test_each_sequence_of_categories_is_a_row_of_cells_and_a_bar_says_that_it_violates_the_constraint() -> None:
    sequences = np.array([[0, 1, 2], [2, 2, 1], [1, 0, 2]], np.uint8)
    grid = sequence_grid(sequences, 3, np.array([True, False, True]))
    assert grid.shape[2] == 3
    black = (grid == 0).all(2)
    rows, columns = np.nonzero(black)
    assert len(rows), "the second sequence has no bar"
    cells = {tuple(colour) for line in grid.tolist() for colour in line} - {(255, 255, 255), (0, 0, 0)}
    assert len(cells) == 3, "a colour for each category"
    y, x = rows[0], columns.max()
    row = [tuple(colour) for colour in grid[y, x + 1 :].tolist() if tuple(colour) in cells]
    assert row[0] == row[len(row) // 3] != row[-1], "the second sequence is 2, 2, 1"
    assert not (sequence_grid(sequences, 3) == 0).all(2).any()
    many = sequence_grid(np.arange(30 * 30, dtype=np.int64).reshape(30, 30) % 30, 30)
    assert len({tuple(colour) for line in many.tolist() for colour in line}) == 31, "30 categories and the paper"


def test_samples_of_categories_stand_beside_the_data_with_their_violations(tmp_path: Path) -> None:
    samples = torch.tensor([[0, 1], [1, 1], [1, 0]], dtype=torch.uint8)
    real = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    for name, valid in (("v", torch.tensor([True, False, True])), ("all", torch.tensor([True, True, True]))):
        draw_samples(samples, 2, tmp_path / name, real=real, title="t", categories=True, valid=valid)
        draw_comparison({("one", "d"): tmp_path / f"{name}.npz"}, tmp_path / f"{name}c.png")
    with np.load(tmp_path / "v.npz") as stored:
        assert stored["categories"]
        assert stored["valid"].tolist() == [True, False, True]
    for suffix in ("", "c"):
        bars, none = (np.asarray(Image.open(tmp_path / f"{name}{suffix}.png").convert("RGB")) for name in ("v", "all"))
        assert bars.shape[1] > 200
        assert (bars != none).any(), "a violation is not seen"
