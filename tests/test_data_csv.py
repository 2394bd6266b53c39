"""A user's own table: split, dequantized and standardized by our rules, and one clear line for every bad one."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_tabular import reals, whole
from numpy.random import RandomState

from bench.cli.main import main
from bench.data.base import Data
from bench.data.tabular import csv
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def write(path: Path, values: np.ndarray, names: str = "a,b,c") -> str:
    lines = [",".join(repr(float(cell)) for cell in row) for row in values]
    path.write_text("\n".join([names, *lines]) + "\n")
    return str(path)


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
    # The permutation, fixed for good: another one needs another _VERSION.
    few = reals(20)
    ranks = whole(csv(write(tmp_path / "few.csv", few)))[:, 0].argsort().argsort()
    rows = [14, 17, 8, 1, 3, 0, 7, 5, 10, 9, 6, 18, 19, 2, 16, 4, 13, 11, 15, 12]
    assert few[:, 0].argsort()[ranks].tolist() == rows
    torch.manual_seed(5)
    np.random.seed(5)
    again = csv(path)
    assert np.array_equal(whole(data), whole(again))
    assert spec == again.spec


def _train_rows(values: np.ndarray, data: Data) -> np.ndarray:
    """The train split's rows, by the ranks of the first column over all rows."""
    ranks = whole(data)[: len(data.train), 0]
    return np.sort(values[:, 0])[np.sort(whole(data)[:, 0]).searchsorted(ranks)]


def _train_mean(values: np.ndarray, data: Data) -> float:
    return float(_train_rows(values, data).mean())


def _train_std(values: np.ndarray, data: Data) -> float:
    return float(_train_rows(values, data).std())


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
