"""The Inception extractor: TensorFlow's resizing, what reaches the network, where the weights come from."""

from pathlib import Path

import pytest
import torch
from helpers_features import Means, stand_in
from helpers_models import small_data
from torch import Tensor

from bench.errors import UserError
from bench.features.inception import Inception, prepared, resized


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return stand_in(tmp_path, monkeypatch)


def by_hand(picture: Tensor, height: int, width: int) -> Tensor:
    """``resize_bilinear`` of TensorFlow 1 for one channel, pixel by pixel in float64."""
    rows, columns = picture.shape
    made = torch.empty(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y, x = i * rows / height, j * columns / width
            a, b = int(y), int(x)
            c, d = min(a + 1, rows - 1), min(b + 1, columns - 1)
            above = picture[a, b] * (1 - (x - b)) + picture[a, d] * (x - b)
            below = picture[c, b] * (1 - (x - b)) + picture[c, d] * (x - b)
            made[i, j] = above * (1 - (y - a)) + below * (y - a)
    return made


@pytest.mark.parametrize("size", [(7, 11), (32, 32), (40, 3), (1, 1)])
def test_pictures_are_resized_as_tensorflow_1_did(size: tuple[int, int]) -> None:
    picture = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0))
    made = resized(picture[None, None].to(torch.uint8), 29, 31)[0, 0]
    torch.testing.assert_close(made.double(), by_hand(picture.double(), 29, 31), rtol=0, atol=1e-3)


def test_a_picture_of_its_own_size_is_left_as_it_is() -> None:
    x = torch.randint(0, 256, (2, 3, 9, 5), dtype=torch.uint8)
    assert torch.equal(resized(x, 9, 5), x.float())


def test_what_reaches_the_network() -> None:
    grey = torch.tensor([0, 3], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 6, 4)
    made = prepared(grey, levels=4)
    assert made.shape == (2, 3, 299, 299), "grey in all three channels, stretched"
    assert torch.equal(made[0], torch.full((3, 299, 299), -1.0)), "the lowest level: (0 - 128) / 128"
    assert torch.equal(made[1], torch.full((3, 299, 299), 127 / 128)), "the highest level counts as 255"


def test_weights_come_from_the_users_file_or_the_cache_and_from_nowhere_unchecked(
    weights: Path, tmp_path: Path
) -> None:
    data = small_data((3, 8, 8), 256, n=40, held_out=30)
    x = data.test.x
    extractor = Inception(str(weights)).extractor(data)
    assert extractor.name == "inception"
    torch.testing.assert_close(extractor.features(x), Means()(prepared(x, 256)))
    torch.testing.assert_close(extractor.features(x)[:7], extractor.features(x[:7]))
    assert Inception(str(weights.parent)).extractor(data).hash == extractor.hash
    with pytest.raises(UserError, match=r"inception: could not get default_1.pt.*set features.weights to it"):
        Inception().extractor(data)
    (tmp_path / "cache" / "inception").mkdir(parents=True, exist_ok=True)
    weights.rename(tmp_path / "cache" / "inception" / weights.name)
    assert Inception().extractor(data).hash == extractor.hash
    other = tmp_path / "default_1.pt"
    other.write_bytes(b"other")
    with pytest.raises(UserError, match=r"none of the published archives; set features\.weights"):
        Inception(str(other)).extractor(data)


def test_what_inception_cannot_see() -> None:
    assert "integer levels" in Inception().lacks(small_data((5,), None))
    assert "integer levels" in Inception().lacks(small_data((5,), 256))
    assert "not 2" in Inception().lacks(small_data((2, 8, 8), 256))
    assert Inception().lacks(small_data((1, 8, 8), 4)) == ""


def test_features_of_other_levels_are_other_features(weights: Path) -> None:
    hashes = {Inception(str(weights)).extractor(small_data((1, 8, 8), levels)).hash for levels in (4, 256)}
    assert len(hashes) == 2
