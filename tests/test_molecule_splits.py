"""How molecules are divided: sizes of the splits, what a part of a data set holds, and no molecule twice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_molecules import CHEMISTRY, TEST, TRAIN

from bench.data import molecules
from bench.data.base import Data, Split
from bench.data.formats.smiles import canonical, judged, read_molecule
from bench.data.molecules import moses, prepared

pytest.importorskip("rdkit")
pytestmark = pytest.mark.usefixtures("cache")

ALL = [*TRAIN, *TEST]


def divided(
    lines: Sequence[str], test: Sequence[str] | None, limits: tuple[int | None, int | None] = (None, None)
) -> Data:
    read_test: Callable[[], list[str]] | None = None if test is None else lambda: list(test)
    return prepared(
        "toy", [*lines, "test", *(test or [])], CHEMISTRY, lambda: list(lines), read_test, whole=9, limits=limits,
        licence="none needed", source="made up",
    )  # fmt: skip


def smiles_of(data: Data, split: Split) -> list[str]:
    assert data.molecules is not None
    found = judged(split.x.numpy(), data.molecules.chemistry)
    assert not found.refused
    return found.smiles


def plain(lines: Sequence[str]) -> set[str]:
    return {canonical(read_molecule(line, CHEMISTRY)) for line in lines}


def test_one_file_is_divided_into_tenths() -> None:
    data, n = divided(ALL, None), len(ALL)
    assert len(data.test) == n // 10
    assert len(data.val) == (n - n // 10) // 9
    assert len(data.train) == n - len(data.test) - len(data.val)
    parts = [smiles_of(data, split) for split in (data.train, data.val, data.test)]
    assert len({one for part in parts for one in part}) == n
    # The permutation, fixed for good: another one needs another _VERSION.
    assert [plain([ALL[k]]).pop() for k in (70, 86, 1, 72, 27, 92, 0, 49, 50)] == parts[2]


def test_validation_is_every_twentieth_of_a_training_file_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, test = ALL[:-10], ALL[-10:]
    data = divided(lines, test)
    assert len(data.val) == len(lines) // 20 >= 3
    assert (len(data.train), len(data.test)) == (len(lines) - len(data.val), 10)
    monkeypatch.setattr(molecules, "_MOST_VALIDATION", 2)
    monkeypatch.setattr(molecules, "_VERSION", -1)  # the arrays of the other limit are in the cache
    assert len(divided(lines, test).val) == 2


def test_a_part_holds_as_many_molecules_for_training_and_test_as_it_says() -> None:
    data = divided(ALL[:-20], ALL[-20:], limits=(41, 7))
    assert (len(data.train), len(data.test)) == (41, 7)
    assert len(data.val) == 2
    assert data.spec.name == "toy-train41-test7"
    # A random part of the file and not its beginning, fixed for good.
    assert smiles_of(data, data.test) == [plain([ALL[k]]).pop() for k in (86, 75, 82, 91, 85, 73, 90)]


def test_what_is_in_test_is_not_in_train_also_if_it_is_written_another_way() -> None:
    (same,) = plain(TEST[:1])
    data = divided([*TRAIN, TEST[0], same], TEST)
    assert not set(smiles_of(data, data.test)) & {*smiles_of(data, data.train), *smiles_of(data, data.val)}
    assert len(data.train) + len(data.val) == len(TRAIN)
    assert [note for note in data.notes if "2 a repetition" in note]


@pytest.mark.parametrize("scaffolds", [False, True])
def test_moses_is_measured_on_the_test_file_that_is_asked_for(
    scaffolds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("train.csv", "test.csv", "test_scaffolds.csv")]
    for file, lines in zip(files, (ALL[:-20], ALL[-20:-10], ALL[-10:]), strict=True):
        file.write_text("\n".join(["SMILES,SPLIT", *(f"{line},x" for line in lines)]))

    def fetched(*_: Any) -> list[Path]:
        return files

    monkeypatch.setattr(molecules, "fetch", fetched)
    data = moses(max_atoms=9, scaffolds=scaffolds)
    assert set(smiles_of(data, data.test)) == plain(ALL[-10:] if scaffolds else ALL[-20:-10])
    assert ("scaffolds" in data.spec.name) == scaffolds
