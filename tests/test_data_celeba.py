"""CelebA, from an archive and a list of the true formats at small size."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, check_data, complaint, encoded, examples, pinned, zipped
from PIL import Image

from bench.data import celeba
from bench.data.celeba import CELEBA_FILES, CELEBA_SIZES

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def faces(n: int) -> list[bytes]:
    """JPEGs of 178 x 218 with waves of other lengths and directions in each, as smooth as faces."""
    y, x = np.mgrid[:218, :178]
    made = []
    for k in range(n):
        waves = [np.sin((k + 2) * x / 50 + c) + np.cos((2 * k + 1) * y / 70 - c) for c in range(3)]
        made.append(encoded((np.stack(waves) * 60 + 128).astype(np.uint8), "JPEG", quality=95))
    return made


# Not in order of their splits, as the true list is, but it might be otherwise.
PARTITION = "".join(f"{k + 1:06d}.jpg {split}\n" for k, split in enumerate((0, 2, 1, 0, 0, 1, 2, 0, 0, 2)))
FACES = {f"img_align_celeba/{k + 1:06d}.jpg": face for k, face in enumerate(faces(10))}
OF_SPLITS = ((1, 4, 5, 8, 9), (3, 6), (2, 7, 10))


def put_celeba(
    folder: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], partition: str = PARTITION
) -> None:
    contents = {"img_align_celeba.zip": zipped(members), "list_eval_partition.txt": partition.encode()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(celeba, "CELEBA_FILES", tuple(pinned(name, content) for name, content in contents.items()))
    monkeypatch.setattr(celeba, "CELEBA_SIZES", (5, 2, 3))


def triangle_reduced(plane: Bytes, side: int) -> np.ndarray:
    """Antialiased bilinear reduction in float64: a triangle as wide as two of the new pixels, in both directions."""
    scale = len(plane) / side
    centres = (np.arange(side) + 0.5) * scale
    distance = np.abs(np.arange(len(plane)) + 0.5 - centres[:, None]) / scale
    weights = np.maximum(1 - distance, 0)
    weights /= weights.sum(1, keepdims=True)
    reduced: np.ndarray = weights @ plane.astype(np.float64) @ weights.T
    return reduced


def test_celeba_windows_and_splits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_celeba(folder, monkeypatch, FACES)
    monkeypatch.setattr(celeba, "_ROWS", 2)
    for path in (str(folder), None):  # the second time from the decoded arrays
        data = celeba.celeba(path)
        check_data(data, "celeba")
        assert (data.spec.shape, data.spec.levels, data.spec.classes) == ((3, 64, 64), 256, None)
        for split, numbers in zip((data.train, data.val, data.test), OF_SPLITS, strict=True):
            assert len(split) == len(numbers)
            for image, number in zip(split.x, numbers, strict=True):
                with Image.open(io.BytesIO(FACES[f"img_align_celeba/{number:06d}.jpg"])) as whole:
                    window = np.asarray(whole)[40:188, 15:163]  # rows and columns of Real NVP's code
                expected = np.stack([triangle_reduced(window[..., c], 64) for c in range(3)])
                # Pillow rounds to whole levels after each of the two directions.
                assert np.abs(image.numpy() - expected).max() < 1.01


def test_celeba_of_five_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_celeba(folder, monkeypatch, FACES)
    fine, coarse = celeba.celeba(str(folder)), celeba.celeba(str(folder), bits=5)
    check_data(coarse, "celeba-5bit")
    assert coarse.spec.levels == 32
    assert coarse.spec.revision != fine.spec.revision
    assert torch.equal(coarse.train.x, fine.train.x // 8)
    assert "set data.bits to 8 or to 5" in complaint(partial(celeba.celeba, bits=6), folder)


def test_celeba_bad_files_are_refused(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_celeba(folder, monkeypatch, FACES)
    target = folder / "img_align_celeba.zip"
    right = target.read_bytes()
    for bad in (b"", right[:-1], right[:100] + bytes([right[100] ^ 1]) + right[101:]):
        target.write_bytes(bad)
        assert "img_align_celeba.zip holds other bytes" in complaint(celeba.celeba, folder)
    target.write_bytes(right)
    assert "none of the published archives" in complaint(celeba.celeba, target)
    (folder / "list_eval_partition.txt").unlink()
    assert "has neither list_eval_partition.txt" in complaint(celeba.celeba, folder)
    text = complaint(celeba.celeba, None)
    assert "could not get img_align_celeba.zip, list_eval_partition.txt" in text
    assert "data.path" in text
    monkeypatch.setattr(celeba, "CELEBA_FILES", CELEBA_FILES)
    assert "46fb89443c578308" in complaint(celeba.celeba, folder)
    assert cached(cache) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no regular file img_align_celeba/000003.jpg"),
        (b"", "000003.jpg is no readable JPEG"),
        (b"no picture", "000003.jpg is no readable JPEG"),
        (FACES["img_align_celeba/000003.jpg"][:-2000], "000003.jpg is no readable JPEG"),
        (encoded(examples(1, (3, 218, 178), 0)[0][0]), "000003.jpg is no readable JPEG"),
        (encoded(examples(1, (3, 218, 178), 0)[0][0], "JPEG", "L"), "000003.jpg is L (178, 218) instead of RGB"),
        (encoded(examples(1, (3, 178, 218), 0)[0][0], "JPEG"), "000003.jpg is RGB (218, 178) instead of RGB"),
        (bytes(2 << 20), "000003.jpg is longer than 1048576 bytes"),
    ],
)
def test_celeba_bad_members_are_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    members = {name: face for name, face in FACES.items() if not name.endswith("000003.jpg")}
    if content is not None:
        members["img_align_celeba/000003.jpg"] = content
    put_celeba(folder, monkeypatch, members)
    text = complaint(celeba.celeba, folder)
    assert reason in text
    assert "img_align_celeba.zip cannot be decoded" in text
    assert cached(cache) == []


@pytest.mark.parametrize(
    "partition",
    ["", PARTITION[:-13], PARTITION + "000001.jpg 3\n", PARTITION + "000001.jpg\n", PARTITION + "é.jpg 0\n"],
)
def test_celeba_other_lists_are_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    put_celeba(folder, monkeypatch, FACES, partition)
    assert "list_eval_partition.txt cannot be decoded (" in complaint(celeba.celeba, folder)
    assert cached(cache) == []


def test_celeba_is_of_its_published_size() -> None:
    assert sum(CELEBA_SIZES) == 202_599
    assert CELEBA_FILES[1].size == 202_599 * len("000001.jpg 0\n") + 202_599  # lines end in a blank, or in CR LF
