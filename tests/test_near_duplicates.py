"""Near-duplicates: the search against plain loops and planted copies, CIFAR-10's list, and what is left out with it."""

import csv
import fnmatch
import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_rows import FAILED, make_row
from torch import Generator, Tensor

import bench
from bench.data import cifar, near_duplicates
from bench.data.bytes.cache import DataFile
from bench.data.cifar import cifar10, listed_near_duplicates
from bench.data.near_duplicates import LIMIT, find, nearest, similarity
from bench.errors import UserError
from bench.schema import Relation
from bench.tables.aggregate import make_table
from bench.tables.certified import certified

LIST = Path(cifar.__file__).with_name("cifar10_near_duplicates.csv")


def photographs(n: int, seed: int, side: int = 32) -> Tensor:
    """Pictures that are smooth as photographs are, ``(n, 3, side, side)`` uint8, and all different."""
    noise = torch.randn(n, 3, side + 8, side + 8, generator=Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.avg_pool2d(noise, 5, stride=1), 5, stride=1)
    grey = smooth.mean(dim=1, keepdim=True) + 0.3 * smooth
    return (128 + 600 * grey).clamp(0, 255).to(torch.uint8)


# The nearest by correlation


@pytest.mark.parametrize("k", [1, 4])
def test_the_nearest_are_those_of_numpys_correlations(k: int) -> None:
    queries, references = photographs(9, 0), photographs(60, 1)
    correlation = np.corrcoef(torch.cat([queries, references]).flatten(1).numpy())[:9, 9:]
    assert nearest(queries, references, k).tolist() == np.argsort(-correlation, axis=1)[:, :k].tolist()


def test_what_float32_cannot_tell_apart_is_compared_again() -> None:
    """Far more references than 2k that differ from the query in the last bits of float32 only."""
    generator = Generator().manual_seed(0)
    query = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=generator)
    steps = 1e-5 * (1 + torch.randperm(50, generator=generator).double())
    direction = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=generator)
    references = query + steps.view(-1, 1, 1, 1) * direction
    assert nearest(query, references, 5)[0].tolist() == steps.argsort()[:5].tolist()


def test_equals_come_in_their_order() -> None:
    references = photographs(30, 1)
    references[[3, 8, 11, 25]] = references[17].clone()
    assert nearest(references[17:18], references, 5)[0].tolist() == [3, 8, 11, 17, 25]
    assert nearest(references[:2], references[2:3].repeat(9, 1, 1, 1), 4).tolist() == [[0, 1, 2, 3]] * 2


# The similarity of a pair


def plain_similarity(x: Tensor, y: Tensor) -> float:
    """The docstring's formula, pixel by pixel."""

    def slopes(picture: Tensor) -> np.ndarray:
        p = picture.double().numpy()
        c, h, w = p.shape
        mean = np.array(
            [[[p[k, i : i + 2, j : j + 2].mean() for j in range(w - 1)] for i in range(h - 1)] for k in range(c)]
        )
        left, up = mean[:, 1:, 1:] - mean[:, 1:, :-1], mean[:, 1:, 1:] - mean[:, :-1, 1:]
        return np.concatenate([left, up])

    a, b = slopes(x), slopes(y)
    h, w = a.shape[1:]
    middle = a[:, 3 : h - 3, 3 : w - 3]
    cosines = []
    for di in range(-3, 4):
        for dj in range(-3, 4):
            window = b[:, 3 + di : h - 3 + di, 3 + dj : w - 3 + dj]
            cosines.append((middle * window).sum() / np.sqrt((middle**2).sum() * (window**2).sum()))
    return float(max(cosines))


def test_similarity_is_that_of_plain_loops() -> None:
    x, y = photographs(4, 0, side=14), photographs(4, 1, side=14)
    expected = [plain_similarity(a, b) for a, b in zip(x, y, strict=True)]
    assert similarity(x, y).tolist() == pytest.approx(expected, abs=1e-12)


def test_what_similarity_does_not_see() -> None:
    wide = photographs(5, 2, side=40)
    x = wide[..., 4:36, 4:36]
    assert similarity(x, x).tolist() == pytest.approx([1] * 5)
    assert similarity(x, x * 0.25 + 40.0).tolist() == pytest.approx([1] * 5), "contrast and brightness"
    tint = torch.tensor([30.0, 0.0, -20.0]).view(1, 3, 1, 1)
    assert similarity(x, x + tint).tolist() == pytest.approx([1] * 5), "a tint"
    for down, right in ((3, -3), (-2, 0), (1, 3)):
        shifted = wide[..., 4 + down : 36 + down, 4 + right : 36 + right]
        assert similarity(x, shifted).tolist() == pytest.approx([1] * 5), "a shift of up to 3 pixels"
    assert similarity(x, wide[..., 8:40, 4:36]).max() < 0.99, "not of 4"
    assert similarity(x, x.flip(3)).max() < 0.9
    flat = torch.full_like(x, 7)
    assert similarity(flat, x).tolist() == similarity(x, flat).tolist() == similarity(flat, flat).tolist() == [0.0] * 5


# The search

PLANTED: dict[str, Callable[[Tensor], Tensor]] = {
    "the same": lambda x: x,
    "brighter": lambda x: x * 0.6 + 90,
    "grey": lambda x: x.mean(dim=0, keepdim=True).expand(3, -1, -1),
    "shifted": lambda x: x.roll((2, -1), (1, 2)),
    "mirrored": lambda x: x.flip(2),
    "mirrored and darker": lambda x: x.flip(2) * 0.7,
    "blurred": lambda x: F.avg_pool2d(F.pad(x[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0],
    "noisy": lambda x: x + 4 * torch.randn(x.shape, generator=Generator().manual_seed(0)),
}


def test_planted_copies_are_found_and_nothing_else() -> None:
    references, queries = photographs(400, 3), photographs(60, 4)
    source = {7 * number: 11 * number for number in range(len(PLANTED))}  # query: reference
    for (query, reference), copy in zip(source.items(), PLANTED.values(), strict=True):
        queries[query] = copy(references[reference].float()).round().clamp(0, 255).to(torch.uint8)
    before = queries.clone(), references.clone()
    found = find(queries, references)
    assert {pair.query: pair.reference for pair in found} == source
    assert len(found) == len(source)
    mirrored = [pair.mirrored for pair in found]
    assert mirrored == ["mirrored" in name for name in PLANTED]
    assert found[0].distance == pytest.approx(0, abs=1e-6)
    assert found[0].similarity == pytest.approx(1)
    assert torch.equal(queries, before[0]), "nothing is changed in place"
    assert torch.equal(references, before[1])


def test_distances_are_relative_to_the_tenth_candidate() -> None:
    """Where all pictures are alike, none is a copy: the distance between neighbours is the unit."""
    common = 5 * photographs(1, 5).float()
    alike = (common + 0.4 * photographs(200, 6).float()) / 5.4
    queries, references = alike[:20], alike[20:]
    assert similarity(queries, references[:20]).min() > 0.9
    assert find(queries, references) == []
    everything = find(queries, references, limit=2.0)
    assert all(pair.distance > LIMIT for pair in everything)
    of_first = [pair for pair in everything if pair.query == 0]
    assert [pair.distance for pair in of_first] == sorted(pair.distance for pair in of_first)
    unit = of_first[9]
    for pair in of_first:
        assert pair.distance == pytest.approx(np.sqrt((1 - pair.similarity) / (1 - unit.similarity)))


def test_many_copies_of_one_picture_and_a_picture_of_one_colour() -> None:
    references = photographs(40, 7)
    references[1:15] = references[0].clone()
    queries = torch.cat([references[:1], torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)])
    found = find(queries, references)
    assert [(pair.query, pair.reference) for pair in found] == [(0, index) for index in range(10)]


def test_a_pair_counts_once_even_where_the_picture_is_its_own_mirror_image() -> None:
    half = photographs(50, 8)
    symmetric = torch.cat([half[..., :16], half[..., :16].flip(3)], dim=3)
    found = find(symmetric[:5], symmetric)
    assert [(pair.query, pair.reference) for pair in found] == [(index, index) for index in range(5)]


# The list of CIFAR-10


def rows() -> list[dict[str, str]]:
    with LIST.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_list_is_as_the_documents_say() -> None:
    listed = rows()
    assert list(listed[0]) == ["test", "train", "mirrored", "similarity", "distance"]
    pairs = [(int(row["test"]), int(row["train"])) for row in listed]
    assert len(set(pairs)) == len(pairs) == 655
    assert all(0 <= test < 10_000 and 0 <= train < 50_000 for test, train in pairs)
    keys = [(int(row["test"]), float(row["distance"]), int(row["train"])) for row in listed]
    assert keys == sorted(keys)
    assert all(0 <= float(row["distance"]) <= LIMIT and 0.5 < float(row["similarity"]) <= 1 for row in listed)
    tests = {test for test, _ in pairs}
    assert listed_near_duplicates() == sorted(tests)
    assert len(tests) == 466
    assert len(tests - {int(row["test"]) for row in listed if row["mirrored"] == "0"}) == 43
    head = str(near_duplicates.__doc__)
    for number in ("466", "655", "43 of the\n466"):
        assert number in head
    assert "466" in str(cifar10.__doc__)


def test_everything_beside_the_code_is_in_the_package() -> None:
    root = Path(bench.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    others = [file for file in root.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert LIST in others
    for file in others:
        package = ".".join(("bench", *file.parent.relative_to(root).parts))
        patterns = settings["package-data"].get(package, [])
        assert any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns), f"{file} would not be installed"


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.RandomState(0)
    files = []
    for file in cifar.CIFAR10_FILES:
        records = rng.randint(256, size=(8, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        (tmp_path / file.name).write_bytes(records.tobytes())
        files.append(DataFile(file.name, hashlib.sha256(records.tobytes()).hexdigest(), records.size))
    monkeypatch.setattr(cifar, "CIFAR10_FILES", tuple(files))
    monkeypatch.setattr(cifar, "_VAL", 5)
    monkeypatch.setattr(cifar, "listed_near_duplicates", lambda: [0, 3, 7])
    return str(tmp_path)


def test_near_duplicates_are_left_out_of_test_alone(small_cifar: str) -> None:
    kept, dropped = cifar10(small_cifar), cifar10(small_cifar, near_duplicates="drop")
    assert kept.spec == cifar10(small_cifar, near_duplicates="keep").spec
    assert kept.spec.name == "cifar10"
    assert len(kept.test) == 8
    others = [1, 2, 4, 5, 6]
    assert torch.equal(dropped.test.x, kept.test.x[others])
    assert kept.test.y is not None
    assert dropped.test.y is not None
    assert torch.equal(dropped.test.y, kept.test.y[others])
    for name in ("train", "val"):
        assert torch.equal(getattr(dropped, name).x, getattr(kept, name).x)
    assert dropped.spec.name == "cifar10-deduplicated"
    assert dropped.spec.n_test == len(dropped.test) == 5
    assert cifar10(small_cifar, bits=5, near_duplicates="drop").spec.name == "cifar10-5bit-deduplicated"


def test_the_revision_stands_for_what_was_left_out(small_cifar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = {cifar10(small_cifar).spec.revision, cifar10(small_cifar, near_duplicates="drop").spec.revision}
    monkeypatch.setattr(cifar, "listed_near_duplicates", lambda: [0, 3])
    revisions.add(cifar10(small_cifar, near_duplicates="drop").spec.revision)
    assert len(revisions) == 3


def test_another_word_is_the_users_mistake(small_cifar: str) -> None:
    with pytest.raises(UserError, match=r"kept or dropped, not 'remove'; set data\.near_duplicates to keep or to drop"):
        cifar10(small_cifar, near_duplicates="remove")


# Rows of different data are never ranked together


def test_data_that_differ_are_never_averaged_ranked_or_certified() -> None:
    """One name, two revisions: not even the seeds of one configuration belong together."""
    old = [make_row(seed=seed, value=1.0 + seed, data_revision="d1") for seed in (0, 1)]
    new = [make_row(seed=seed, value=7.0 + seed, data_revision="d2") for seed in (2, 3)]
    rival = [make_row(model="vae", value=5.0, seed=seed, data_revision="d2", group="g1") for seed in (2, 3)]
    broken = make_row(seed=4, data_revision="d1", **FAILED, reason="broke")
    (section,) = make_table([*old, *new, *rival, broken]).sections
    assert sorted(column.part("data_revision") for column in section.columns) == ["d1", "d2"]
    found = {}
    for (line, column), cell in section.cells.items():
        found[section.lines[line].model, section.columns[column].part("data_revision")] = cell
    assert found.keys() == {("dcgan", "d1"), ("dcgan", "d2"), ("vae", "d2")}
    assert (found["dcgan", "d1"].value, found["dcgan", "d1"].seeds, found["dcgan", "d1"].lost) == (1.5, (0, 1), (4,))
    assert (found["dcgan", "d2"].value, found["dcgan", "d2"].seeds, found["dcgan", "d2"].lost) == (9.5, (2, 3), ())
    assert [key for key, cell in found.items() if cell.best] == [("vae", "d2")], "the best of its own data"
    exact = {"relation": Relation.EXACT, "stderr": None, "ci_low": None, "ci_high": None}
    better, worse = make_row(value=1.0, **exact), make_row(value=9.0, **exact)
    assert certified(better, worse)
    assert not certified(better, make_row(value=9.0, data_revision="d1", **exact))


def test_with_and_without_near_duplicates_are_two_sections(small_cifar: str) -> None:
    specs = [cifar10(small_cifar).spec, cifar10(small_cifar, near_duplicates="drop").spec]
    table = make_table([make_row(dataset=spec.name, data_revision=spec.revision) for spec in specs])
    assert [section.dataset for section in table.sections] == ["cifar10", "cifar10-deduplicated"]
    assert not any(cell.best for section in table.sections for cell in section.cells.values())


# The real one: pytest -m slow


@pytest.mark.slow
def test_a_part_of_the_real_list_is_found_again() -> None:
    try:
        data = cifar10()
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")
    listed = rows()
    labels = torch.cat([data.train.y, data.val.y])  # type: ignore[list-item]
    assert data.test.y is not None
    assert all(data.test.y[int(row["test"])] == labels[int(row["train"])] for row in listed), "no pair of two classes"
    chosen = sorted({*listed_near_duplicates()[::4], *range(0, 10_000, 40)})
    found = find(data.test.x[chosen], torch.cat([data.train.x, data.val.x]))
    expected = [row for row in listed if int(row["test"]) in chosen]
    assert len(expected) > 100
    assert [(chosen[pair.query], pair.reference, pair.mirrored) for pair in found] == [
        (int(row["test"]), int(row["train"]), row["mirrored"] == "1") for row in expected
    ]
    assert [pair.distance for pair in found] == pytest.approx([float(row["distance"]) for row in expected], abs=6e-5)
