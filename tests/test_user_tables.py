"""A user's own table: what would give a number that misleads is refused or noted by the name of its column."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.data import tabular
from bench.data.base import Data
from bench.data.bytes.cache import cache_dir
from bench.data.columns import check_dependence, check_noise, check_row_numbers
from bench.data.tabular import COVERTYPE_FILE, MAGIC_FILE, csv, prepared
from bench.errors import UserError

USERS_CACHE = cache_dir()  # before the tests get one of their own
N = 400
RNG = RandomState(7)
A, B, C = RNG.standard_normal((3, N)).round(4)
COUNTS = RNG.poisson(3, N).astype(float)


def written(folder: Path, *columns: NDArray[np.float64], names: str | None = None, digits: int = 17) -> str:
    head = names if names is not None else ",".join("abcdefgh"[: len(columns)])
    rows = (",".join(f"{cell:.{digits}g}" for cell in row) for row in zip(*columns, strict=True))
    (folder / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder / "t.csv")


def refusal(path: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        csv(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith("csv: ")
    assert text.isprintable(), "one line"
    return text


def remedied(path: str, text: str) -> Data:
    """The table as the message says to read it."""
    option = re.search(r"\"?(data\.drop=\[[^]]*\])\"?", text)
    assert option is not None
    (config,) = compose_runs(["data=csv", f"data.path={path}", "model=gaussian", "metric=[likelihood]", option[1]])
    return csv(path, drop=config["data"]["drop"])


# Noise


WIDE = {
    "zeros and billions": np.where(RNG.random_sample(N) < 0.9, 0, RNG.randint(1 << 33, size=N)),
    "few values far apart": RNG.randint(0, 5, N) * 10.0**9,
    "few values beyond 2^53": 2.0**60 + 256 * RNG.randint(0, 6, N),
    "near 10^16": 1e16 + RNG.randint(0, 300, N),
    "negative": -np.where(RNG.random_sample(N) < 0.5, 7, RNG.randint(1 << 40, size=N)),
    "one outlier": np.where(np.arange(N) == 5, 1e15, RNG.randint(0, 3, N)),
}


@pytest.mark.parametrize("column", WIDE.values(), ids=WIDE)
def test_columns_whose_noise_is_lost_are_refused(column: NDArray[np.float64], tmp_path: Path) -> None:
    path = written(tmp_path, A, column.astype(float), names="a,count")
    text = refusal(path)
    assert "column 'count' of whole numbers ranges so widely" in text
    assert remedied(path, text).spec.shape == (1,)


@pytest.mark.parametrize(
    "column",
    [
        COUNTS,
        1000 * COUNTS,
        RNG.randint(0, 1 << 18, N),
        RNG.randint(10**6, size=N),
        COUNTS + 10**7,
        RNG.randint(2, size=N),
    ],
)
def test_the_noise_of_other_whole_numbers_is_kept(column: NDArray[np.float64], tmp_path: Path) -> None:
    x = csv(written(tmp_path, A, column.astype(float))).train.x[:, 1]
    assert torch.unique(x, return_counts=True)[1].max() <= 2


# Dependence


PLANES = {
    "repeated": (A, "repeats column 'a'"),
    "multiple": (2.5 * A - 3, "is a linear function of column 'a'"),
    "tiny multiple": (1e-7 * A, "is a linear function of column 'a'"),
    "sum": (A + B, "is a linear combination of columns 'a', 'b'"),
    "rounded sum": ((A + B / 3).round(3), "is a linear combination of columns 'a', 'b'"),
    "shares of 100": (100 - A - 2 * B, "is a linear combination of columns 'a', 'b'"),
    "mean of three": ((A + B + C) / 3, "is a linear combination of columns 'a', 'b', 'c'"),
}


@pytest.mark.parametrize(("column", "said"), PLANES.values(), ids=PLANES)
def test_dependent_columns_are_refused(column: NDArray[np.float64], said: str, tmp_path: Path) -> None:
    path = written(tmp_path, A, B, C, column, COUNTS)
    text = refusal(path)
    assert f"column 'd' {said}" in text
    assert remedied(path, text).spec.shape == (4,)


@pytest.mark.parametrize(
    "column",
    [
        A + 0.01 * B, A**2, np.sin(A), np.abs(A), A + 0.02 * RNG.standard_normal(N), (A + B) * C,
        np.where(np.arange(N) == 9, 5.0, A),
    ],
)  # fmt: skip
def test_columns_that_are_only_related_are_taken(column: NDArray[np.float64], tmp_path: Path) -> None:
    data = csv(written(tmp_path, A, C, column))
    assert data.spec.shape == (3,)
    assert data.notes == ()


def test_whole_numbers_have_noise_of_their_own(tmp_path: Path) -> None:
    hot = np.eye(3)[RNG.randint(3, size=N)].T
    assert csv(written(tmp_path, A, *hot)).notes == ()
    (note,) = csv(written(tmp_path, A, COUNTS, COUNTS)).notes
    assert note == "csv: column 'c' repeats column 'b' and says nothing new; leave it out with data.drop=[c]"


def test_few_rows_and_many_columns_are_noted(tmp_path: Path) -> None:
    data = csv(written(tmp_path, *RandomState(0).standard_normal((8, 12)).tolist()[:8]))
    assert data.notes == ()
    few = [RandomState(k).standard_normal(12) for k in range(12)]
    (note,) = csv(written(tmp_path, *few, names=",".join(f"x{k}" for k in range(12)))).notes
    assert "12 rows and 12 columns" in note


# Row numbers, identifiers, atoms


@pytest.mark.parametrize(
    ("column", "name", "dropped"),
    [
        (np.arange(N), "id", "data.drop=[id]"),
        (np.arange(1, N + 1), "", "\"data.drop=['']\""),
        (np.arange(N)[::-1] + 500, "Unnamed: 0", "\"data.drop=['Unnamed: 0']\""),
        (RNG.permutation(N) + 1, "nr", "data.drop=[nr]"),
    ],
)
def test_row_numbers_are_refused(column: NDArray[np.float64], name: str, dropped: str, tmp_path: Path) -> None:
    path = written(tmp_path, column, A, names=f"{name},a")
    text = refusal(path)
    assert f"column {name!r}" in text
    assert "numbers the rows" in text
    assert text.endswith(f"leave it out with {dropped}")
    assert remedied(path, text).spec.shape == (1,)


@pytest.mark.parametrize(
    ("column", "name", "said"),
    [
        (np.cumsum(RNG.randint(1, 50, N)), "when", "grows from each row to the next"),
        (-np.cumsum(RNG.randint(1, 50, N)), "when", "falls from each row to the next"),
        (np.arange(N) / 10, "seconds", "grows from each row to the next"),
        (RNG.permutation(10 * N)[:N], "customer_id", "has another number in every row"),
    ],
)
def test_what_may_be_an_identifier_is_noted(column: NDArray[np.float64], name: str, said: str, tmp_path: Path) -> None:
    (note,) = csv(written(tmp_path, A, column.astype(float), names=f"a,{name}")).notes
    assert said in note
    assert f"column {name!r}" in note
    assert f"data.drop=[{name}]" in note


def test_measurements_that_are_whole_or_sorted_are_taken(tmp_path: Path) -> None:
    for column in (RNG.permutation(10 * N)[:N], np.sort(A), np.sort(COUNTS), np.sort(RNG.randint(9, size=N))):
        assert csv(written(tmp_path, A + B, column.astype(float))).notes == ()


def test_atoms_among_reals_are_noted(tmp_path: Path) -> None:
    rain = np.where(RNG.random_sample(N) < 0.6, 0, np.abs(B) + 0.00001)
    (note,) = csv(written(tmp_path, A, rain, names="a,rain")).notes
    assert re.search(r"'rain' \(\d\d %\); a model can gain likelihood there without limit", note)


# Headers


def test_names_that_are_numbers(tmp_path: Path) -> None:
    named = csv(written(tmp_path, A, B, C, names="0,1,2"))
    assert sum(map(len, (named.train, named.val, named.test))) == N
    assert "(0, 1, 2, ...) is taken as names; data.header=false" in named.notes[0]
    assert csv(written(tmp_path, A, B, names="0,1")).spec.shape == (2,)
    assert csv(written(tmp_path, A, B, C, names="0,1,2"), drop=["1"]).spec.shape == (2,)
    example = csv(written(tmp_path, A, B, C, names="0,1,2"), header=False)
    assert sum(map(len, (example.train, example.val, example.test))) == N + 1
    assert "(0, 1, 2, ...) is taken as an example; if it holds names, set data.header=true" in example.notes[0]
    for names in ("1990,1991,1992", "0.5,1,7", "0,1,3", "nan,1,2"):
        text = refusal(written(tmp_path, A, B, C, names=names))
        assert "set data.header=false if they are an example; if they are names, write a letter before each" in text
    assert "begins with a row of numbers" in refusal(written(tmp_path, COUNTS, COUNTS % 2, names="0,1")), "both may be"


@pytest.mark.parametrize(
    ("head", "mark", "delimiter"),
    [
        ('"a\nunit",b,c', ",", "comma"),
        ('a,"b (per\r\nhour,\r\nmean)",c', ",", "comma"),
        ('\ufeff"a ""quoted"" name";b;c', ";", "semicolon"),
        ('"a b"  b\t"c\nd"', " ", "whitespace"),
        ("\n  \na\tb\tc", "\t", "tab"),
    ],
)
def test_headers_of_several_lines(head: str, mark: str, delimiter: str, tmp_path: Path) -> None:
    values = np.stack([A, B, C], 1)
    lines = [mark.join(map(repr, row)) for row in values.tolist()]
    (tmp_path / "t.csv").write_text("\n".join([head, *lines]) + "\n", newline="")
    data = csv(str(tmp_path / "t.csv"), delimiter=delimiter)
    assert torch.equal(data.train.x, csv(written(tmp_path, A, B, C)).train.x)


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    for rows in (20, 30_000):  # 30,000 are more than a cell may hold
        (tmp_path / "t.csv").write_text('"a,b\n' + "1.5,2.5\n" * rows)
        assert "a quote that opens on line 1 is not closed" in refusal(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text('"a\nb",c\n1.5,x\n')
    assert "column 'c' is 'x'" in refusal(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text('"a\nb",c\nx,1.5\n')
    assert "column 'a\\nb' is 'x'; every cell must be a finite number, mend the file, or take it out" in refusal(
        str(tmp_path / "t.csv")
    )


# Other ways to write a number


def test_decimal_commas(tmp_path: Path) -> None:
    reference = csv(written(tmp_path, A, B)).train.x
    lines = [f"{a!r};{b!r}".replace(".", ",") for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["a;b", *lines]))
    assert "column 'a' is '" in refusal(str(file), delimiter="semicolon")
    assert "a decimal comma: data.decimal=comma" in refusal(str(file), delimiter="semicolon")
    assert torch.equal(csv(str(file), delimiter="semicolon", decimal="comma").train.x, reference)
    assert "set data.delimiter=semicolon" in refusal(str(file))
    assert "commas cannot be both" in refusal(str(file), decimal="comma")
    assert "no decimal mark ','" in refusal(str(file), decimal=",")
    file.write_text("\n".join(["a,b", *(line.replace(";", ",") for line in lines)]))
    assert "2 names above 4 columns; write numbers with a decimal point" in refusal(str(file))
    file.write_text("a;b\n1.234,5;2,5\n")
    assert "column 'a' is '1.234,5' (a thousands separator)" in refusal(
        str(file), delimiter="semicolon", decimal="comma"
    )


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('"1,234,567"', "is '1,234,567' (a thousands separator)"),
        ('"1,234"', "(a thousands separator, or a decimal comma: data.decimal=comma)"),
        ("1 234.5", "is '1 234.5' (a thousands separator)"),
        ('"2,5"', "(a decimal comma"),
        ("2024-01-31", "(a date or a time)"),
        ("31.1.2024 12:30", "(a date or a time)"),
        ("True", "is 'True' (write 1 and 0)"),
        ("red", "column 'b' is 'red'; every cell must be a finite number, mend the file, or leave it out with"),
        ("", "column 'b' is empty; every cell"),
        ("-inf", "column 'b' is -inf; every cell"),
        ("7f3c-11", "data.drop=[b]"),
    ],
)
def test_cells_that_are_no_numbers_can_be_left_out(cell: str, said: str, tmp_path: Path) -> None:
    path = Path(written(tmp_path, A, B))
    lines = path.read_text().splitlines()
    lines[20] = f"{lines[20].split(',')[0]},{cell}"
    path.write_text("\n".join(lines))
    text = refusal(str(path))
    assert "row 20, " in text
    assert said in text
    data = remedied(str(path), text)
    assert data.spec.shape == (1,)
    assert torch.equal(data.train.x, csv(written(tmp_path, A)).train.x)


def test_leaving_out(tmp_path: Path) -> None:
    path = written(tmp_path, A, B, C)
    all_three, two = csv(path), csv(path, drop=["b"])
    assert torch.equal(two.train.x, all_three.train.x[:, [0, 2]])
    assert len({all_three.spec.revision, two.spec.revision, csv(path, drop=["a"]).spec.revision}) == 3
    assert csv(path, drop=[]).spec.revision == all_three.spec.revision
    assert "data.drop names 'bb', which is no column" in refusal(path, drop=["bb"])
    assert "data.drop leaves out every column" in refusal(path, drop=["a", "b", "c"])
    Path(path).write_text(Path(path).read_text() + "1,2\n")
    assert "2 cells instead of 3" in refusal(path, drop=["c"]), "a short row is not passed over"
    assert "'a' (number 1)" in refusal(written(tmp_path, A, A, C, names="a,a,c")), "names that occur twice"


# What the harness ships


def test_notes_are_shown_and_kept(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(workplace, A, B, C, names="0,1,2")
    assert main(["run", "data=csv", f"data.path={path}", "model=gaussian", "metric=[likelihood]"]) == 0
    note = "csv-t: the first line (0, 1, 2, ...) is taken as names; data.header=false makes it an example"
    assert note in capsys.readouterr().err
    assert any(note in log.read_text() for log in workplace.glob("runs/t/*/run.log"))


@pytest.mark.parametrize("file", [MAGIC_FILE, COVERTYPE_FILE, tabular.CASP_FILE], ids=lambda file: str(file.name))
def test_published_tables_are_not_refused(file: tabular.DataFile) -> None:
    folder = USERS_CACHE / {"magic.dat": "magic", "covtype.csv": "covertype", "CASP.csv": "casp"}[file.name]
    if not (folder / file.name).is_file():
        pytest.skip(f"{file.name} was never fetched into the cache of this machine")
    header = file is not MAGIC_FILE
    data = csv(str(folder / file.name), header=header, drop=[] if header else ["11"])
    assert data.spec.n_train > 10_000


def test_published_tables_have_no_notes() -> None:
    assert prepared("x", ["a"], A[:, None], "", licence="x", source="x").notes == ()


def test_the_checks_alone() -> None:
    """On tables like the published ones: binary columns of which one is 1, coarse decimals, collinear sensors."""
    rng = RandomState(1)
    hot = np.eye(40)[rng.randint(40, size=5000)]
    sensors = rng.standard_normal((5000, 1)) + 0.05 * rng.standard_normal((5000, 8))
    values = np.column_stack([hot, sensors.round(2)])
    names = [str(j) for j in range(48)]
    whole = np.arange(48) < 40
    assert check_row_numbers("x", names, values) == []
    noisy = values + whole * rng.random_sample(values.shape)
    assert check_dependence("x", names, noisy, whole) == []
    std = noisy.std(0)
    check_noise("x", names[:40], hot, ((noisy - noisy.mean(0)) / std)[:, :40].astype(np.float32), std[:40])


# Labels


def test_labels_go_with_their_rows() -> None:
    for repeats in (False, True):  # rows that repeat are dropped, with their labels
        x = RandomState(2).standard_normal((200, 2))
        if repeats:
            x = np.concatenate([x, x[::-1]])
        labels = (x[:, 0] > 0).astype(np.int64) + 2 * (x[:, 1] > 0)
        data = prepared("mine", ["a", "b"], x, "", labels=labels, licence="x", source="x")
        assert data.spec.classes == 4
        assert data.spec.n_train == 160
        for split in (data.train, data.val, data.test):
            assert split.y is not None
            # standardization is affine and keeps the order: labels tell the halves of each column apart
            assert len(split) == len(split.y)
        everything = torch.cat([data.train.x, data.val.x, data.test.x])
        y = torch.cat([part.y for part in (data.train, data.val, data.test) if part.y is not None])
        for column, high in ((0, y % 2 == 1), (1, y >= 2)):
            assert everything[high, column].min() > everything[~high, column].max()


def test_rows_that_repeat_with_another_label_are_no_repetition() -> None:
    x = RandomState(2).standard_normal((50, 2))
    x, labels = np.concatenate([x, x, x[:20]]), np.repeat([0, 1, 1], [50, 50, 20])
    data = prepared("mine", ["a", "b"], x, "", labels=labels, licence="x", source="x")
    y = torch.cat([part.y for part in (data.train, data.val, data.test) if part.y is not None])
    assert y.bincount().tolist() == [50, 50]
