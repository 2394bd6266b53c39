"""The benchmark's tables against the published steps written out with pandas, and one line for every bad file."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_tabular import reals, refused
from numpy.random import RandomState

from bench.data import uci
from bench.data.base import Data
from bench.data.uci import PUBLISHED, bsds300, gas, hepmass, miniboone, power
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")

# The published protocols, against the published steps written out with pandas


def same(data: Data, *parts: np.ndarray) -> None:
    for split, part in zip((data.train, data.val, data.test), parts, strict=True):
        assert split.x.dtype == torch.float32
        assert split.x.shape == part.shape
        assert np.allclose(split.x.numpy(), part, rtol=1e-5, atol=1e-6)


def test_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "power", (841, 93, 103, 6))
    raw = RandomState(3).gamma(2.0, size=(1037, 8)) * np.arange(1, 9)
    (tmp_path / "power").mkdir()
    np.save(tmp_path / "power" / "data.npy", raw)

    rng = RandomState(42)
    x = raw.copy()
    rng.shuffle(x)
    x = x[:, [0, 2, 4, 5, 6, 7]]
    x[:, 1:2] += 0.01 * rng.rand(1037, 1)
    x[:, 0:1] += 0.001 * rng.rand(1037, 1)
    x[:, 2:5] += rng.rand(1037, 3)
    x = (x - x[:934].mean(0)) / x[:934].std(0)
    data = power(str(tmp_path))
    same(data, x[:841], x[841:934], x[934:])
    assert torch.equal(data.train.x, power(str(tmp_path / "power")).train.x), "the folder itself will do"
    before = data.spec.revision
    raw[0, 0] += 1
    np.save(tmp_path / "power" / "data.npy", raw)
    assert power(str(tmp_path)).spec.revision != before


def test_miniboone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "miniboone", (90, 9, 10, 43))
    x = reals(109, 43)
    np.save(tmp_path / "data.npy", x)
    data = miniboone(str(tmp_path))
    x = (x - x[:99].mean(0)) / x[:99].std(0)
    same(data, x[:90], x[90:99], x[99:])


def test_gas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = RandomState(4)
    sources = rng.standard_normal((500, 8))
    sensors = np.repeat(sources, 2, axis=1) + 0.02 * rng.standard_normal((500, 16))
    # Columns 3 and 5 correlate above 0.98 with 4, but not with each other: the order of removal matters.
    sensors[:, 3:6] = rng.standard_normal((500, 1)) + 0.17 * rng.standard_normal((500, 3)) * [1, 0, 1]
    sensors[:, 15] *= -1  # a correlation of -1 is none above 0.98
    table = pd.DataFrame(sensors, columns=[f"R{j}" for j in range(16)])
    for place, name in ((0, "Time"), (1, "Meth"), (2, "Eth")):
        table.insert(place, name, rng.rand(500))
    table.to_csv(tmp_path / "ethylene_CO.csv", index=False)

    frame = table.drop(columns=["Time", "Meth", "Eth"])
    while True:
        partners = (frame.corr() > 0.98).to_numpy().sum(axis=1)
        if not np.any(partners > 1):
            break
        frame = frame.drop(columns=frame.columns[np.where(partners > 1)[0][0]])
    x = ((frame - frame.mean()) / frame.std()).to_numpy()
    assert list(frame.columns) == ["R1", "R2", "R5", "R7", "R9", "R11", "R13", "R14", "R15"]
    monkeypatch.setitem(PUBLISHED, "gas", (405, 45, 50, x.shape[1]))
    same(gas(str(tmp_path)), x[:405], x[405:450], x[450:])

    table.to_csv(tmp_path / "ethylene_CO.csv")
    with pytest.raises(UserError, match=r"has 20 columns; expected Time, Meth, Eth.*index=False"):
        gas(str(tmp_path))


def test_hepmass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = RandomState(5)
    names = ["# label", *(f"f{j}" for j in range(27))]
    tables: list[pd.DataFrame] = []
    for n in (600, 200):
        x = rng.standard_normal((n, 28))
        x[:, 0] = rng.randint(0, 2, n)
        x[:, 3] = x[:, 3].clip(-0.5)  # the smallest value repeats: out
        x[:, 8] = x[:, 8].clip(None, 0.5)  # the largest repeats: stays, as published
        signal = np.flatnonzero(x[:, 0] == 1)
        x[signal[:5], 13] = -9  # the smallest value five times: stays; six times: out
        x[signal[:6], 18] = -9
        tables.append(pd.DataFrame(x, columns=names))
    learn, test = tables
    learn.to_csv(tmp_path / "1000_train.csv", index=False)
    test.assign(mass=1000.0).to_csv(tmp_path / "1000_test.csv", index=False)

    learn, test = (table[table["# label"] == 1].drop(columns="# label") for table in (learn, test))
    mean, std = learn.mean(), learn.std()
    a, b = ((learn - mean) / std).to_numpy(), ((test - mean) / std).to_numpy()
    kept = [j for j, feature in enumerate(a.T) if sorted(Counter(feature.tolist()).items())[0][1] <= 5]
    assert kept == [j for j in range(27) if j not in (2, 17)]
    held_out = int(len(a) * 0.1)
    monkeypatch.setitem(PUBLISHED, "hepmass", (len(a) - held_out, held_out, len(b), 25))
    same(hepmass(str(tmp_path)), a[:-held_out, kept], a[-held_out:, kept], b[:, kept])

    tables[1].rename(columns={"f3": "g3"}).to_csv(tmp_path / "1000_test.csv", index=False)
    with pytest.raises(UserError, match="do not begin with those of"):
        hepmass(str(tmp_path))


def test_bsds300(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "BSDS300.hdf5"
    parts = {name: reals(n, 63).astype(np.float32) for name, n in (("train", 40), ("validation", 5), ("test", 9))}
    with h5py.File(file, "w") as opened:
        for name, part in parts.items():
            opened[name] = part
    with pytest.raises(UserError, match=r"train is float32 \(40, 63\) instead of floats \(1000000, 63\)"):
        bsds300(str(tmp_path))
    monkeypatch.setitem(PUBLISHED, "bsds300", (40, 5, 9, 63))
    same(bsds300(str(tmp_path)), *parts.values())
    with h5py.File(tmp_path / "other.hdf5", "w") as opened:
        opened["test"] = parts["test"]
    with h5py.File(file, "a") as opened:
        del opened["test"]
        opened["test"] = h5py.ExternalLink("other.hdf5", "test")
    with pytest.raises(UserError, match="test is missing or a link"):
        bsds300(str(tmp_path))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"BSDS300\.hdf5 cannot be read") as caught:
        bsds300(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_bsds300_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "BSDS300.hdf5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="h5py, which is not installed; pip install h5py"):
        bsds300(str(tmp_path))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_missing_files_say_where_to_get_them(tmp_path: Path, name: str) -> None:
    for path in (None, str(tmp_path)):
        with pytest.raises(UserError, match=rf"^{name}: .* has no .*Zenodo record 1161203.*data\.path") as caught:
            getattr(uci, name)(path)
        assert "\n" not in str(caught.value)
    assert len(PUBLISHED) == 5


# What is wrong with a file: nothing there, nothing in it, a folder in its place, cut short, another shape, no numbers


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("power", "data.npy"), ("miniboone", "data.npy"), ("bsds300", "BSDS300.hdf5"), ("gas", "ethylene_CO.csv"),
        ("hepmass", "1000_train.csv"), ("hepmass", "1000_test.csv"),
    ],
)  # fmt: skip
def test_nothing_there_and_nothing_in_it(name: str, file: str, tmp_path: Path) -> None:
    if name == "bsds300":
        pytest.importorskip("h5py")
    make = getattr(uci, name)
    if name == "hepmass":
        for other in ("1000_train.csv", "1000_test.csv"):
            (tmp_path / other).write_text("# label,f0\n" + "".join(f"1,{i}.5\n" for i in range(30)))
        (tmp_path / file).unlink()
    assert f"has no {file}" in refused(make, tmp_path)
    (tmp_path / file).mkdir()
    assert f"has no {file}" in refused(make, tmp_path), "a folder is no file"
    (tmp_path / file).rmdir()
    for content in (b"", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n\x1a\n", b"\xff\xfe,\xff\n1,2\n"):
        (tmp_path / file).write_bytes(content)
        assert refused(make, tmp_path).startswith(f"{name}: {tmp_path / file}")


@pytest.mark.parametrize(("name", "columns"), [("power", 8), ("miniboone", 43)])
def test_bad_arrays_are_one_line(name: str, columns: int, tmp_path: Path) -> None:
    file = tmp_path / "data.npy"
    good = reals(40, columns)
    make = getattr(uci, name)

    def complaint() -> str:
        return refused(make, tmp_path)

    np.save(file, good)
    assert f"instead of the published {PUBLISHED[name]}" in complaint()
    whole = file.read_bytes()
    for end in (len(whole) - 9, 128, 60, 7):  # in the numbers, before them, in the header, in the magic number
        file.write_bytes(whole[:end])
        assert "cannot be read" in complaint()
    promised = f"({10**15}, {columns}), }}".encode()  # more than there is
    assert f"(40, {columns}), }}".encode().ljust(len(promised)) in whole
    file.write_bytes(whole.replace(f"(40, {columns}), }}".encode().ljust(len(promised)), promised))
    assert "cannot be read" in complaint()
    np.save(file, np.array([[{}] * columns]), allow_pickle=True)
    assert "cannot be read" in complaint()
    with file.open("wb") as stream:
        np.savez(stream, good)
    assert "cannot be read" in complaint()
    for other, said in (
        (good[:, :5], "float64 (40, 5)"),
        (good[0], f"float64 ({columns},)"),
        (good[None], f"float64 (1, 40, {columns})"),
        (good.astype(complex), f"complex128 (40, {columns})"),
        (good > 0, f"bool (40, {columns})"),
        (good.astype(str), f"(40, {columns})"),
    ):
        np.save(file, other)
        text = complaint()
        assert said in text
        assert f"instead of numbers (N, {columns})" in text
    np.save(file, np.where(good == good[3, 2], np.nan, good))
    assert "row 4, column 3 is not finite" in complaint()
    np.save(file, np.where(good == good[0, 7], -np.inf, good))
    assert "row 1, column 8 is not finite" in complaint()
    constant = good.copy()
    constant[:, 4 if name == "miniboone" else 7] = 1.0
    np.save(file, constant)
    assert "has a column that holds one value only" in complaint()
    for rows in (0, 1):
        np.save(file, good[:rows])
        assert f"gives {rows} training rows" in complaint()


def write_bad(path: Path, names: str, cells: list[list[str]]) -> None:
    path.write_text("\n".join([names, *map(",".join, cells)]) + "\n")


@pytest.mark.parametrize(
    ("row", "column", "cell", "said"),
    [
        (4, 6, "nan", "row 5, column 'c6' is nan"),
        (4, 6, "inf", "row 5, column 'c6' is inf"),
        (4, 6, "", "row 5, column 'c6' is empty"),
        (0, 3, "red", "row 1, column 'c3' is 'red'"),
        (7, 18, None, "row 8 has 18 cells instead of 19"),
    ],
)
def test_bad_gas_tables_are_one_line(row: int, column: int, cell: str | None, said: str, tmp_path: Path) -> None:
    names = "Time,Meth,Eth," + ",".join(f"c{j}" for j in range(3, 19))
    cells = [[repr(float(x)) for x in line] for line in reals(30, 19)]
    cells[row][column : column + 1] = [] if cell is None else [cell]
    write_bad(tmp_path / "ethylene_CO.csv", names, cells)
    assert said in refused(gas, tmp_path)


def test_gas_tables_of_another_shape_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "ethylene_CO.csv"
    cells = [[repr(float(x)) for x in line] for line in reals(30, 19)]
    names = ["Time", "Meth", "Eth", *(f"c{j}" for j in range(3, 19))]
    write_bad(file, ",".join(names), cells)
    assert "instead of the published (852174, 94685, 105206, 8)" in refused(gas, tmp_path)
    write_bad(file, ",".join(names[1:]), [line[1:] for line in cells])
    assert "has 18 columns, no Time" in refused(gas, tmp_path)
    write_bad(file, ",".join(names), [[*line[:7], "3.5", *line[8:]] for line in cells])
    assert "has a column that holds one value only" in refused(gas, tmp_path)
    write_bad(file, ",".join(names), [])
    assert "has no rows" in refused(gas, tmp_path)


@pytest.mark.parametrize("bad", ["1000_train.csv", "1000_test.csv"])
def test_bad_hepmass_tables_are_one_line(bad: str, tmp_path: Path) -> None:
    cells = [["1", *(repr(float(x)) for x in line)] for line in reals(30, 5)]
    names = "# label,a,b,c,d,e"
    for name in ("1000_train.csv", "1000_test.csv"):
        write_bad(tmp_path / name, names, cells)
    assert "instead of the published (315123, 35013, 174987, 21)" in refused(hepmass, tmp_path)

    def complaint(changed: list[list[str]], header: str = names) -> str:
        write_bad(tmp_path / bad, header, changed)
        return refused(hepmass, tmp_path)

    assert f"{bad}, row 3, column 'b' is nan" in complaint([*cells[:2], ["1", "0.5", "nan", *cells[2][3:]], *cells[3:]])
    assert f"{bad}, row 30, column 'e' is empty" in complaint([*cells[:-1], [*cells[-1][:-1], ""]])
    assert f"{bad} has no rows" in complaint([])
    assert "1000_test.csv do not begin with those of" in complaint(cells, "label,a,b,c,d,e")
    only_background = complaint([["0", *line[1:]] for line in cells])
    learnt = "gives 0 training rows" if bad == "1000_train.csv" else "(27, 3, 0, 5) instead of the published"
    assert learnt in only_background


def test_bad_bsds300_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setitem(PUBLISHED, "bsds300", (40, 5, 9, 63))
    good = {name: reals(n, 63).astype(np.float32) for name, n in (("train", 40), ("validation", 5), ("test", 9))}

    def complaint(key: str, value: np.ndarray) -> str:
        with h5py.File(tmp_path / "BSDS300.hdf5", "w") as opened:
            for name, part in (good | {key: value}).items():
                opened[name] = part
        return refused(bsds300, tmp_path)

    bad = good["validation"].copy()
    bad[2, 60] = np.nan
    assert "validation, row 3, column 61 is not finite" in complaint("validation", bad)
    assert "test is float32 (9, 64) instead of floats (9, 63)" in complaint("test", reals(9, 64).astype(np.float32))
    assert "train is int64 (40, 63) instead of floats" in complaint("train", np.zeros((40, 63), dtype=np.int64))
    assert "train is float32 (0, 63)" in complaint("train", np.zeros((0, 63), dtype=np.float32))
