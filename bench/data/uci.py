"""The five standard tables of density estimation, with the preprocessing of the MAF paper.

Papamakarios, Pavlakou, Murray 2017, "Masked autoregressive flow for density estimation" (arXiv 1705.07057). Published
results since then use this preprocessing.

The protocols are kept as published, including their oddities, so that results are comparable. Each function says where
its protocol differs from good practice. The functions read the files that the authors put on Zenodo (record 1161203,
one archive of 800 MB). In all but BSDS300 the last ``int(0.1 * N)`` rows are test (HEPMASS has its own test file) and
the last tenth of the rest is validation.
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
from bench.data.formats.text_table import read_table
from bench.data.tabular import recipe_hash
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
"""Sizes of train, validation and test, and the dimension, after preprocessing, as in the paper's table."""

_VERSION = 1  # increase it when the same bytes give other numbers
_ARCHIVE = "data.tar.gz of Zenodo record 1161203"
_MIRROR = "preprocessing of Papamakarios et al. 2017, Zenodo record 1161203"
_CORRELATED = 0.98
_REPEATS = 5

_Parts = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def power(path: str | None = None) -> Data:
    """Return POWER, household electric power: 1,659,917 / 184,435 / 204,928 rows of 6.

    The source is ``power/data.npy`` ``(N, 8)``. RandomState(42) shuffles the rows; columns 1 and 3 (reactive power and
    intensity) are left out; then U[0, 0.01) is added to the voltage, U[0, 0.001) to the active power and U[0, 1) to the
    three meters, and nothing to the time. The table is standardized with mean and standard deviation (1/N) of train and
    validation together.

    Arguments:
        path: The folder with data.npy, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is missing, cannot be read or is not the published one.
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
    """Return GAS, sensors in mixtures of ethylene and CO: 852,174 / 94,685 / 105,206 rows of 8.

    The source is ``ethylene_CO.csv``: the table in the archive's ``gas/ethylene_CO.pickle`` with its header Time, Meth,
    Eth and 16 sensors. (genbench does not open the pickle, because a pickle can run any code. UCI's ``ethylene_CO.txt``
    cannot replace it: the published table is a random quarter of that file, and no seed reproduces the choice.) Time
    and the two concentrations are left out. Then, as long as two columns correlate above 0.98, the first such column is
    left out. The table is standardized with mean and standard deviation (1/(N-1)) of all rows, including test, as
    published.

    Arguments:
        path: The folder with ethylene_CO.csv, or the one that holds the archive's folders. None: its place in the
            cache.

    Raises:
        UserError: The file is missing, cannot be read or is not the published one.
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
        partners = correlated[np.ix_(kept, kept)].sum(0)  # each column also counts itself
        if partners.max() <= 1:
            break
        kept.pop(int(np.argmax(partners > 1)))
    x = x[:, kept]
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    source = f"Fonollosa et al. 2015, UCI machine learning repository; {_MIRROR}"
    return _make("gas", [file], _tenths(x), "CC BY 4.0", source)


def hepmass(path: str | None = None) -> Data:
    """Return HEPMASS, simulated particle collisions of mass 1000: 315,123 / 35,013 / 174,987 rows of 21.

    The sources are ``hepmass/1000_train.csv`` and ``1000_test.csv``. They have a header, the label and 27 features; the
    test file has one more column, which is left out. Only rows with label 1 are kept. They are standardized with mean
    and standard deviation (1/(N-1)) of the training file (train and validation together). Then a feature is left out if
    its smallest value occurs more than 5 times in the training file. (The authors meant any value, but the published
    sizes result from the smallest.)

    Arguments:
        path: The folder with the two files, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: A file is missing, cannot be read or is not the published one.
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
    """Return MINIBOONE, electron neutrinos and muon neutrinos: 29,556 / 3,284 / 3,648 rows of 43.

    The source is ``miniboone/data.npy`` ``(N, 43)``. The authors have already removed outliers and features with many
    repeated values. The table is standardized with mean and standard deviation (1/N) of train and validation together.

    Arguments:
        path: The folder with data.npy, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is missing, cannot be read or is not the published one.
    """
    (file,) = _files("miniboone", path, "miniboone", ["data.npy"])
    x = np.array(_load("miniboone", file, 43), dtype=np.float64)
    source = f"Roe 2010, UCI machine learning repository; {_MIRROR}"
    return _make("miniboone", [file], _standardized("miniboone", file, *_tenths(x)), "CC BY 4.0", source)


def bsds300(path: str | None = None) -> Data:
    """Return BSDS300, patches of natural images: 1,000,000 / 50,000 / 250,000 rows of 63.

    The source is ``BSDS300/BSDS300.hdf5``, used unchanged: 8 x 8 grey patches with uniform noise, minus their mean,
    without the last pixel (the others and the mean determine it). Nothing is standardized. The package h5py is needed.

    Arguments:
        path: The folder with BSDS300.hdf5, or the one that holds the archive's folders. None: its place in the cache.

    Raises:
        UserError: The file is missing, cannot be read or is not the published one; h5py is not installed.
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
    # A link or a virtual data set would read another file.
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
    """Return the memory-mapped array of an npy file. Pickles and archives are refused."""
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
    """Split off the last tenth as test, then the last tenth of the rest as validation, rounded like the authors."""
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
    """Return the data set. Raises UserError if the sizes differ from the published ones."""
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
