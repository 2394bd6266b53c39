"""Tables: the user's own by our rules, the benchmark's by the published ones, and one clear line for every bad file."""

import gzip
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.random import RandomState

from bench.cli.main import main
from bench.data import uci
from bench.data.base import Data
from bench.data.bytes.cache import DataFile, cache_dir
from bench.data.tabular import CASP_FILE, COVERTYPE_FILE, MAGIC_FILE, casp, covertype, csv, magic
from bench.data.uci import PUBLISHED, bsds300, gas, hepmass, miniboone, power
from bench.errors import UserError

USERS_CACHE = cache_dir()  # before the tests get one of their own


def whole(data: Data) -> np.ndarray:
    """Train, validation and test below each other."""
    return torch.cat([data.train.x, data.val.x, data.test.x]).numpy()


def write(path: Path, values: np.ndarray, names: str = "a,b,c") -> str:
    lines = [",".join(repr(float(cell)) for cell in row) for row in values]
    path.write_text("\n".join([names, *lines]) + "\n")
    return str(path)


def reals(n: int, d: int = 3) -> np.ndarray:
    return RandomState(0).standard_normal((n, d)) * np.arange(1, d + 1) + 5


# A user's own table


def test_splits_are_fixed_disjoint_and_hold_every_row_once(tmp_path: Path) -> None:
    values = reals(207)
    path = write(tmp_path / "t.csv", values)
    data = csv(path)
    spec = data.spec
    assert (spec.name, spec.shape, spec.levels, spec.classes) == ("csv", (3,), None, None)
    assert (spec.n_train, spec.n_val, spec.n_test) == (167, 20, 20) == (len(data.train), len(data.val), len(data.test))
    assert data.train.x.dtype == torch.float32
    # An order within a column survives standardization: it tells which row is which.
    ranks = whole(data)[:, 0].argsort().argsort()
    assert np.array_equal(np.sort(ranks), np.arange(207))
    assert np.array_equal(
        whole(data)[:, 2].argsort().argsort(), values[values[:, 0].argsort()][ranks, 2].argsort().argsort()
    )
    assert not np.array_equal(ranks, values[:, 0].argsort().argsort()), "the rows are shuffled"
    torch.manual_seed(5)
    np.random.seed(5)
    again = csv(path)
    assert np.array_equal(whole(data), whole(again))
    assert spec == again.spec


def test_standardization_is_fitted_on_train_only(tmp_path: Path) -> None:
    values = reals(300)
    before = csv(write(tmp_path / "a.csv", values))
    train = before.train.x.double()
    assert torch.allclose(train.mean(0), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(train.std(0, correction=0), torch.ones(3).double(), atol=1e-6)
    # Test rows go far away: nothing of train moves.
    first = values[:, 0]
    scaled = (before.test.x[:, 0].double().numpy() * _train_std(values, before)) + _train_mean(values, before)
    rows = [int(np.abs(first - x).argmin()) for x in scaled]
    values[rows] += 1000
    after = csv(write(tmp_path / "b.csv", values))
    assert torch.equal(before.train.x, after.train.x)
    assert torch.equal(before.val.x, after.val.x)
    assert (after.test.x.min(0).values > 100).all()
    assert before.spec.revision != after.spec.revision


def _train_rows(values: np.ndarray, data: Data) -> np.ndarray:
    """The train split's rows, by the ranks of the first column over all rows."""
    ranks = whole(data)[: len(data.train), 0]
    return np.sort(values[:, 0])[np.sort(whole(data)[:, 0]).searchsorted(ranks)]


def _train_mean(values: np.ndarray, data: Data) -> float:
    return float(_train_rows(values, data).mean())


def _train_std(values: np.ndarray, data: Data) -> float:
    return float(_train_rows(values, data).std())


def test_whole_numbers_are_dequantized_with_noise_of_the_unit_interval(tmp_path: Path) -> None:
    rng = RandomState(1)
    n = 4000
    values = np.column_stack([rng.randint(-3, 4, n), rng.standard_normal(n), 2 * rng.randint(0, 2, n)])
    data = csv(write(tmp_path / "t.csv", values))
    got = whole(data)
    for column, levels in ((0, range(-3, 4)), (2, (0, 2))):
        # Undo the unknown affine map: the sorted x + u begins and ends close to the lowest level and the highest + 1.
        x = got[:, column].astype(np.float64)
        low, high = min(levels), max(levels) + 1
        x = low + (x - x.min()) / (x.max() - x.min()) * (high - low)
        counts = Counter(np.floor(x.clip(low, high - 1e-9)).astype(int).tolist())
        true = Counter(values[:, column].astype(int).tolist())
        assert set(counts) == set(true)
        assert all(abs(counts[level] - true[level]) <= 0.01 * n for level in levels)
        noise = x - np.floor(x)
        assert np.histogram(noise, 4, (0, 1))[0].min() > 0.22 * n
    assert len(np.unique(got[:, 0])) > 0.99 * n
    # The column of reals gets no noise: its order and its ratios stay.
    train = np.sort(values[:, 1])[np.argsort(np.argsort(got[:, 1]))]
    assert np.allclose(np.corrcoef(train, got[:, 1])[0, 1], 1, atol=1e-10)
    assert np.array_equal(got, whole(csv(str(tmp_path / "t.csv")))), "the noise is the data set's own"


def test_repeated_rows_of_reals_are_dropped_and_of_whole_numbers_kept(tmp_path: Path) -> None:
    values = reals(100)
    twice = np.concatenate([values, values[::-1]])
    data = csv(write(tmp_path / "a.csv", twice))
    assert (data.spec.n_train, data.spec.n_val, data.spec.n_test) == (80, 10, 10)
    assert len(np.unique(whole(data), axis=0)) == 100
    assert len(whole(csv(write(tmp_path / "b.csv", np.round(twice))))) == 200
    # -0 and 0 are one number.
    quarters = np.arange(15) / 4
    zeros = np.column_stack([[0.0, -0.0] * 15 + [1.0] * 15, np.concatenate([quarters.repeat(2), quarters])])
    assert len(whole(csv(write(tmp_path / "c.csv", zeros, "a,b")))) == 30


def test_header_delimiter_and_title(tmp_path: Path) -> None:
    values = reals(50)
    reference = whole(csv(write(tmp_path / "t.csv", values)))
    cells = [[repr(float(cell)) for cell in row] for row in values]
    for delimiter, mark in (("semicolon", ";"), ("tab", "\t"), ("whitespace", "   ")):
        text = "\n".join(mark.join(row) for row in cells)
        (tmp_path / "bare").write_text(text)
        assert np.array_equal(whole(csv(str(tmp_path / "bare"), header=False, delimiter=delimiter)), reference)
        (tmp_path / "named").write_text("\ufeff" + mark.join(['"a"', "b", "c"]) + "\r\n" + text.replace("\n", "\r\n"))
        assert np.array_equal(whole(csv(str(tmp_path / "named"), delimiter=delimiter)), reference)
    titled = csv(str(tmp_path / "t.csv"), title="wine").spec
    assert titled.name == "csv-wine"
    assert titled.source == "the user's table t.csv", "no folder of the user's"
    with pytest.raises(UserError, match=r"title '\.\./x' may hold only"):
        csv(str(tmp_path / "t.csv"), title="../x")


ROWS = "1.5,2\n" * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"a,b\n{ROWS}1.5,\n", "row 4, column 'b' is empty"),
        (f"a,b\n{ROWS}red,2\n", "row 4, column 'a' is 'red'"),
        (f"a,b\n{ROWS}nan,2\n", "row 4, column 'a' is nan"),
        (f"a,b\n{ROWS}NA,2\n", "row 4, column 'a' is 'NA'"),
        (f"a,b\n{ROWS}1,-inf\n", "row 4, column 'b' is -inf"),
        (f"a,b\n{ROWS}1e999,2\n", "row 4, column 'a' is inf"),
        (f"a,b\n{ROWS}1\n", "row 4 has 1 cells instead of 2"),
        (f"a,b\n{ROWS}1,2,3\n", "row 4 has 3 cells instead of 2"),
        (f"a,b,c\n{ROWS}", "has 3 names above 2 columns"),
        (f"1,2\n{ROWS}", "begins with a row of numbers instead of names; set data.header=false"),
        ("a,b\n", "has no rows"),
        ("", "has no rows"),
        (f"a,b\n{ROWS}", "1 different rows cannot be split"),
        ("a,b\n" + "".join(f"{i}.5,7\n" for i in range(40)), "column 'b' holds one value only"),
        ("a,b\n" + "".join(f"{i}.5,1e{300 + i % 5}\n" for i in range(40)), "column 'b' cannot be standardized"),
        ("a,b\n" + "".join(f"{i}.5,{i}e-300\n" for i in range(40)), "column 'b' cannot be standardized"),
        ("a,b\n1,\xff\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        csv(str(file))
    text = str(caught.value)
    assert said in text
    assert text.startswith("csv: ")
    assert "\n" not in text


def test_bad_paths_and_arguments_are_one_line(
    tmp_path: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read \(No such file or directory\); set data\.path"):
        csv(str(tmp_path / "nowhere.csv"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        csv(str(tmp_path))
    with pytest.raises(UserError, match=r"no delimiter ','; set data\.delimiter to one of: comma, semicolon"):
        csv(write(tmp_path / "t.csv", reals(20)), delimiter=",")
    with pytest.raises(UserError, match="row 1, column '1' is 'a'"):
        csv(str(tmp_path / "t.csv"), header=False)
    assert main(["run", "data=csv", "model=gaussian"]) == 2
    assert "data.path" in capsys.readouterr().err


# What packages carry


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


def test_pinned_files_that_only_look_alike_are_refused(tmp_path: Path) -> None:
    for make, file in ((casp, CASP_FILE), (magic, MAGIC_FILE), (covertype, COVERTYPE_FILE)):
        (tmp_path / file.name).write_bytes(b"1,2\n")
        with pytest.raises(UserError, match=rf"{file.name} holds other bytes.*{file.sha256}"):
            make(str(tmp_path))


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
    assert list(frame.columns) == ["R1", "R2", "R5", "R7", "R9", "R11", "R13", "R15"]
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
        tables.append(pd.DataFrame(x, columns=names))
    learn, test = tables
    learn.to_csv(tmp_path / "1000_train.csv", index=False)
    test.assign(mass=1000.0).to_csv(tmp_path / "1000_test.csv", index=False)

    learn, test = (table[table["# label"] == 1].drop(columns="# label") for table in (learn, test))
    mean, std = learn.mean(), learn.std()
    a, b = ((learn - mean) / std).to_numpy(), ((test - mean) / std).to_numpy()
    kept = [j for j, feature in enumerate(a.T) if sorted(Counter(feature.tolist()).items())[0][1] <= 5]
    assert kept == [j for j in range(27) if j != 2]
    held_out = int(len(a) * 0.1)
    monkeypatch.setitem(PUBLISHED, "hepmass", (len(a) - held_out, held_out, len(b), 26))
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


def refused(make: Callable[[str], Data], folder: Path) -> str:
    """The one line that a data set refuses a folder with."""
    with pytest.raises(UserError) as caught:
        make(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text, "it says where"
    return text


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
    target.write_bytes(b"")
    assert f"holds other bytes; expected {file.size} bytes with SHA-256 {file.sha256}" in refused(make, tmp_path)
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))


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
