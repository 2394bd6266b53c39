"""The five benchmark tables of density estimation, with the preprocessing of Papamakarios, Pavlakou, Murray 2017,
"Masked autoregressive flow for density estimation" (MAF), which every published number since is made on.

The protocols are kept as they were published, oddities included, for their numbers to be comparable; each function
says where its own differs from good practice. They read the files that the authors put on Zenodo (record 1161203, one
archive of 800 MB). In all but BSDS300 the last ``int(0.1 * N)`` rows are test (HEPMASS has its own test file) and the
last tenth of the rest is validation.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.base import Data, Split
from bench.data.bytes.cache import cache_dir, sha256
from bench.data.bytes.fetch import Request, announce
from bench.data.tabular import read_table, recipe_hash
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["PUBLISHED", "bsds300", "gas", "hepmass", "miniboone", "power"]

PUBLISHED = {
    "power": (1_659_917, 184_435, 204_928, 6),
    "gas": (852_174, 94_685, 105_206, 8),
    "hepmass": (315_123, 35_013, 174_987, 21),
    "miniboone": (29_556, 3_284, 3_648, 43),
    "bsds300": (1_000_000, 50_000, 250_000, 63),
}
"""Sizes of train, validation and test and the dimension, after preprocessing, as in the paper's table."""

_VERSION = 1  # raised whenever the same bytes would give other numbers
_ARCHIVE = "data.tar.gz of Zenodo record 1161203"
_MIRROR = "preprocessing of Papamakarios et al. 2017, Zenodo record 1161203"
_CORRELATED = 0.98
_REPEATS = 5

_Parts = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def power(path: str | None = None) -> Data:
    """POWER, household electric power: 1,659,917 / 184,435 / 204,928 rows of 6.

    From ``power/data.npy`` ``(N, 8)``. With RandomState(42): shuffle the rows; leave out columns 1 and 3 (reactive
    power, intensity); add U[0, 0.01) to the voltage, U[0, 0.001) to the active power and U[0, 1) to the three meters;
    time gets none. Standardized with mean and standard deviation (1/N) of train and validation together.

    Arguments:
        path: The folder with data.npy, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is not there, cannot be read or is not the published one.
    """
    (file,) = _files("power", path, "power", ["data.npy"])
    x = np.array(_load("power", file, 8), dtype=np.float64)
    rng = RandomState(42)
    rng.shuffle(x)
    x = np.delete(x, [1, 3], axis=1)
    n = len(x)
    # The order of these draws is part of the protocol.
    voltage, active, meters = 0.01 * rng.rand(n, 1), 0.001 * rng.rand(n, 1), rng.rand(n, 3)
    x += np.hstack([active, voltage, meters, np.zeros((n, 1))])
    source = f"Hebrail and Berard 2012, UCI machine learning repository; {_MIRROR}"
    return _make("power", [file], _standardized("power", file, *_tenths(x)), "CC BY 4.0", source)


def gas(path: str | None = None) -> Data:
    """GAS, sensors in mixtures of ethylene and CO: 852,174 / 94,685 / 105,206 rows of 8.

    From ``ethylene_CO.csv``: the table of the archive's ``gas/ethylene_CO.pickle`` with its header Time, Meth, Eth and
    16 sensors. (Opening a pickle can run any code, so genbench does not. UCI's ``ethylene_CO.txt`` is no substitute:
    the published table is a random quarter of it that no seed reproduces.) Time and the two concentrations are left
    out; then, as long as two columns correlate above 0.98, the first of those that do. Standardized with mean and
    standard deviation (1/(N-1)) of all rows, test included, as published.

    Arguments:
        path: The folder with ethylene_CO.csv, or the one that holds the archive's folders. None: its place in the
            cache.

    Raises:
        UserError: The file is not there, cannot be read or is not the published one.
    """
    (file,) = _files(
        "gas", path, "gas", ["ethylene_CO.csv"],
        "; if you trust its pickle, convert it in Python: "
        "pandas.read_pickle('ethylene_CO.pickle').to_csv('ethylene_CO.csv', index=False)",
    )  # fmt: skip
    names, x = read_table("gas", file)
    missing = [name for name in ("Time", "Meth", "Eth") if name not in names]
    if missing or len(names) != 19:
        raise UserError(
            f"gas: {file} has {len(names)} columns{''.join(f', no {name}' for name in missing)}; expected Time, Meth, "
            "Eth and 16 sensors, make it with index=False from the archive's ethylene_CO.pickle"
        )
    x = x[:, [name not in ("Time", "Meth", "Eth") for name in names]]
    _not_constant("gas", file, x)
    correlated = np.asarray(np.corrcoef(x.T)) > _CORRELATED
    kept = list(range(x.shape[1]))
    while True:
        partners = correlated[np.ix_(kept, kept)].sum(0)  # each column is a partner of its own
        if partners.max() <= 1:
            break
        kept.pop(int(np.argmax(partners > 1)))
    x = x[:, kept]
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    source = f"Fonollosa et al. 2015, UCI machine learning repository; {_MIRROR}"
    return _make("gas", [file], _tenths(x), "CC BY 4.0", source)


def hepmass(path: str | None = None) -> Data:
    """HEPMASS, simulated particle collisions of mass 1000: 315,123 / 35,013 / 174,987 rows of 21.

    From ``hepmass/1000_train.csv`` and ``1000_test.csv``: a header, the label, 27 features, and in the test file one
    column more, which is left out. Rows with label 1. Standardized with mean and standard deviation (1/(N-1)) of the
    training file (train and validation together); then a feature is left out where the smallest value of the training
    file occurs more than 5 times (meant was any value; the published sizes are made with the smallest).

    Arguments:
        path: The folder with the two files, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: A file is not there, cannot be read or is not the published one.
    """
    files = _files("hepmass", path, "hepmass", ["1000_train.csv", "1000_test.csv"])
    names, learn = read_table("hepmass", files[0])
    test_names, test = read_table("hepmass", files[1], first=len(names))
    if test_names != names:
        raise UserError(
            f"hepmass: the columns of {files[1]} do not begin with those of {files[0]}; take both of {_ARCHIVE}"
        )
    learn, test = (x[x[:, 0] == 1, 1:] for x in (learn, test))
    _not_constant("hepmass", files[0], learn)
    mean, std = learn.mean(0), learn.std(0, ddof=1)
    learn, test = (learn - mean) / std, (test - mean) / std
    kept = (learn == learn.min(0)).sum(0) <= _REPEATS
    learn, test = learn[:, kept], test[:, kept]
    held_out = int(len(learn) * 0.1)
    source = f"Baldi et al. 2016, UCI machine learning repository; {_MIRROR}"
    return _make("hepmass", files, (learn[:-held_out], learn[-held_out:], test), "CC BY 4.0", source)


def miniboone(path: str | None = None) -> Data:
    """MINIBOONE, electron neutrinos and muon neutrinos: 29,556 / 3,284 / 3,648 rows of 43.

    From ``miniboone/data.npy`` ``(N, 43)``, from which the authors had left out outliers and features with many
    repeated values. Standardized with mean and standard deviation (1/N) of train and validation together.

    Arguments:
        path: The folder with data.npy, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is not there, cannot be read or is not the published one.
    """
    (file,) = _files("miniboone", path, "miniboone", ["data.npy"])
    x = np.array(_load("miniboone", file, 43), dtype=np.float64)
    source = f"Roe 2010, UCI machine learning repository; {_MIRROR}"
    return _make("miniboone", [file], _standardized("miniboone", file, *_tenths(x)), "CC BY 4.0", source)


def bsds300(path: str | None = None) -> Data:
    """BSDS300, patches of natural images: 1,000,000 / 50,000 / 250,000 rows of 63.

    From ``BSDS300/BSDS300.hdf5`` as it is: 8 x 8 grey patches with uniform noise, less their mean, without the last
    pixel (the others and the mean determine it). Nothing is standardized. Needs the package h5py.

    Arguments:
        path: The folder with BSDS300.hdf5, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is not there, cannot be read or is not the published one; h5py is not installed.
    """
    (file,) = _files("bsds300", path, "BSDS300", ["BSDS300.hdf5"])
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise UserError(
            "bsds300: its file is read by the package h5py, which is not installed; pip install h5py"
        ) from error
    try:
        with h5py.File(file, "r") as opened:
            train, val, test = (_patches(h5py, opened, key) for key in ("train", "validation", "test"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"bsds300: {file} cannot be read ({_one_line(error)}); take BSDS300.hdf5 of {_ARCHIVE}"
        ) from error
    source = f"Martin et al. 2001, Berkeley segmentation data set; {_MIRROR}"
    return _make("bsds300", [file], (train, val, test), "non-commercial research and education only", source)


def _patches(h5py: Any, opened: Any, key: str) -> NDArray[np.float32]:
    # A link or a virtual data set would read some other file.
    if not isinstance(opened.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is missing or a link")
    found = opened[key]
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external is not None:
        raise ValueError(f"{key} is no plain data set")
    size = PUBLISHED["bsds300"][("train", "validation", "test").index(key)]
    if found.shape != (size, 63) or found.dtype.kind != "f":
        raise ValueError(f"{key} is {found.dtype} {found.shape} instead of floats ({size}, 63)")
    x = np.asarray(found[:], dtype=np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad) > 0:
        raise ValueError(f"{key}, row {bad[0][0] + 1}, column {bad[0][1] + 1} is not finite")
    return x


def _files(name: str, path: str | None, inner: str, wanted: Sequence[str], made: str = "") -> list[Path]:
    home = cache_dir() / name if path is None else Path(path).expanduser()
    folder = home if (home / wanted[0]).is_file() else home / inner
    missing = [file for file in wanted if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name}: {home} has no {' and no '.join(missing)}; unpack {_ARCHIVE} and set data.path to its folder "
            f"{inner}, with {' and '.join(wanted)} in it{made}"
        )
    files = [folder / file for file in wanted]
    announce(Request(name, tuple(files), path=path))
    return files


def _load(name: str, file: Path, columns: int) -> NDArray[Any]:
    """The array of an npy file, mapped; never a pickle or an archive."""
    remedy = f"take data.npy of {_ARCHIVE}, folder {name}"
    try:
        x = np.lib.format.open_memmap(file, mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{name}: {file} cannot be read ({_one_line(error)}); {remedy}") from error
    if x.ndim != 2 or x.shape[1] != columns or x.dtype.kind not in "fiu":
        raise UserError(f"{name}: {file} is {x.dtype} {x.shape} instead of numbers (N, {columns}); {remedy}")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad) > 0:
        raise UserError(f"{name}: {file}, row {bad[0][0] + 1}, column {bad[0][1] + 1} is not finite; {remedy}")
    return x


def _tenths(x: NDArray[np.float64]) -> _Parts:
    """The last tenth is test, the last tenth of the rest validation; rounded as the authors did."""
    test = int(0.1 * len(x))
    learn = x[: len(x) - test]
    val = int(0.1 * len(learn))
    return learn[: len(learn) - val], learn[len(learn) - val :], x[len(x) - test :]


def _standardized(name: str, file: Path, train: NDArray[Any], val: NDArray[Any], test: NDArray[Any]) -> _Parts:
    learn = np.vstack([train, val])
    _not_constant(name, file, learn)
    mean, std = learn.mean(0), learn.std(0)
    return (train - mean) / std, (val - mean) / std, (test - mean) / std


def _not_constant(name: str, file: Path, x: NDArray[np.float64]) -> None:
    if len(x) < 2:
        raise UserError(f"{name}: {file} gives {len(x)} training rows; take the file of {_ARCHIVE}")
    if (x.min(0) == x.max(0)).any():
        raise UserError(f"{name}: {file} has a column that holds one value only; take the file of {_ARCHIVE}")


def _make(name: str, files: Sequence[Path], parts: Sequence[NDArray[Any]], licence: str, source: str) -> Data:
    """Refuses other sizes than the published: no other table goes by this name."""
    found = (*(len(part) for part in parts), parts[0].shape[1])
    if found != PUBLISHED[name]:
        raise UserError(
            f"{name}: {files[0]} gives splits and dimension {found} instead of the published {PUBLISHED[name]}; "
            f"take the files of {_ARCHIVE} as they are"
        )
    train, val, test = (Split(torch.from_numpy(part.astype(np.float32))) for part in parts)
    spec = DataSpec(
        name=name,
        revision=recipe_hash("MAF", name, str(_VERSION), *(sha256(file) for file in files)),
        shape=(found[3],),
        levels=None,
        n_train=found[0],
        n_val=found[1],
        n_test=found[2],
        licence=licence,
        source=source,
    )
    return Data(spec, train, val, test)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:150]
