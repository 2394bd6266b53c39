"""CASP, MAGIC and Covertype: the real tables by the figures that UCI gives, and refused if they only look alike."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_tabular import refused, whole

from bench.data.base import Data
from bench.data.bytes.cache import DataFile, cache_dir
from bench.data.tabular import CASP_FILE, COVERTYPE_FILE, MAGIC_FILE, casp, covertype, magic

pytestmark = pytest.mark.usefixtures("cache")

USERS_CACHE = cache_dir()  # before the tests get one of their own


def cached(name: str, file: str) -> pytest.MarkDecorator:
    missing = not (USERS_CACHE / name / file).is_file()
    return pytest.mark.skipif(missing, reason=f"{name} was never fetched into the cache of this machine")


@cached("casp", CASP_FILE.name)
def test_real_casp() -> None:
    data = casp(str(USERS_CACHE / "casp"))
    raw = pd.read_csv(USERS_CACHE / "casp" / CASP_FILE.name)
    assert raw.shape == (45_730, 10)
    assert len(raw.drop_duplicates()) == 44_019 == len(whole(data))
    assert (len(data.train), len(data.val), len(data.test)) == (35_217, 4_401, 4_401)
    expected = raw.drop_duplicates().corr().to_numpy()
    assert np.allclose(np.corrcoef(whole(data).T.astype(np.float64)), expected, atol=1e-4)
    assert data.spec.revision == "8e8f29fd1b78fcc3"


@cached("magic", MAGIC_FILE.name)
def test_real_magic() -> None:
    data = magic(str(USERS_CACHE / "magic"))
    raw = pd.read_csv(USERS_CACHE / "magic" / MAGIC_FILE.name, header=None)
    assert raw[10].value_counts().to_dict() == {"g": 12_332, "h": 6_688}  # as UCI says
    raw = raw.drop_duplicates()
    assert len(raw) == 18_905 == len(whole(data))
    assert (len(data.train), len(data.val), len(data.test)) == (15_125, 1_890, 1_890)
    labels = torch.cat([data.train.y, data.val.y, data.test.y]).numpy()  # type: ignore[list-item]
    assert data.spec.classes == 2
    for label, letter in enumerate("gh"):
        # Standardization is affine, the same for both classes: their correlations stay.
        expected = raw[raw[10] == letter].iloc[:, :10].corr().to_numpy()
        assert np.allclose(np.corrcoef(whole(data)[labels == label].T.astype(np.float64)), expected, atol=1e-5)
    assert data.spec.revision == "12eab78087b86213"


@cached("covertype", COVERTYPE_FILE.name)
def test_real_covertype() -> None:
    data = covertype(str(USERS_CACHE / "covertype"))
    assert (len(data.train), len(data.val), len(data.test)) == (464_810, 58_101, 58_101)
    assert data.spec.shape == (54,)
    labels = torch.cat([data.train.y, data.val.y, data.test.y])  # type: ignore[list-item]
    assert labels.bincount().tolist() == [211_840, 283_301, 35_754, 2_747, 9_493, 17_367, 20_510]  # as UCI says
    assert data.spec.revision == "9cf93f43790e84f4"


@pytest.mark.parametrize(
    ("make", "file"),
    [(casp, CASP_FILE), (magic, MAGIC_FILE), (covertype, COVERTYPE_FILE)],
    ids=["casp", "magic", "covertype"],
)
def test_bad_pinned_files_are_one_line(make: Callable[[str], Data], file: DataFile, tmp_path: Path) -> None:
    target, packed = tmp_path / file.name, tmp_path / f"{file.name}.gz"
    assert f"has neither {file.name} nor {file.name}.gz" in refused(make, tmp_path)
    target.mkdir()
    assert f"has neither {file.name} nor {file.name}.gz" in refused(make, tmp_path)
    target.rmdir()
    for content in (b"", b"1,2\n"):
        target.write_bytes(content)
        assert f"{file.name} holds other bytes; expected {file.size} bytes with SHA-256 {file.sha256}" in refused(
            make, tmp_path
        )
    with target.open("wb") as stream:
        stream.truncate(file.size)  # the right size and nothing else
    assert "holds other bytes" in refused(make, tmp_path)
    target.unlink()
    packed.write_bytes(gzip.compress(b"1,2\n" * 1000)[:-9])
    assert "cannot be unpacked" in refused(make, tmp_path)
    packed.write_bytes(gzip.compress(b"1,2\n" * 1000))
    assert "unpacks to other bytes" in refused(make, tmp_path)
    packed.write_bytes(b"")
    assert file.name in refused(make, tmp_path)
    assert not list((tmp_path / "cache").rglob("*.*")), "nothing of it enters the cache"
