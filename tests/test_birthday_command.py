"""``genbench birthday``: from samples or a run to a page, from answers to a judgement, and mistakes in one line."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers_birthday import chosen_of, key_of
from torch import Tensor

from bench.birthday.record import Key, check_answers, read_answers, read_key, sealed
from bench.cli.main import main
from bench.data.base import Data
from bench.errors import UserError
from bench.rows.store import read_rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: tuple[Tensor, Tensor]) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("fakes.npz", samples=planted[0].numpy())
    return tmp_path


def made(*more: str) -> tuple[Path, Key]:
    assert main(["birthday", "page", "samples=fakes.npz", "label=theirs", "data=mnist5k", *more]) == 0
    (path,) = [*Path("runs").glob("*/*/*.html"), *Path().glob("*.html")]
    return path, read_key(path.with_suffix(".key.json"))


def test_other_features_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["birthday", "page", "samples=fakes.npz", "data=mnist5k", "features=inception"]) == 2
    assert "by pixels or by classifier" in capsys.readouterr().err


def write_answers(path: str, key: Key, session: str = "ab" * 8, **changed: Any) -> None:
    """Answers by the truth; candidates are the same up to the twelfth."""
    candidates = sorted((pair for pair in key.pairs if pair.kind == "candidate"), key=lambda pair: pair.distance)
    near = {pair.hash for pair in candidates[:12]}
    answers = {pair.hash: "y" if pair.kind == "same" or pair.hash in near else "n" for pair in key.pairs}
    content = {"format": "genbench birthday answers 1", "page": key.page, "session": session, "answers": answers}
    Path(path).write_text(json.dumps({**content, **changed}))


def test_from_samples_to_a_judgement(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = made()
    assert path.name == f"birthday-{key.page[:8]}.html"
    assert f"genbench birthday judge ANSWERS.json --key {path.with_suffix('.key.json')}" in capsys.readouterr().out
    write_answers("one.json", key)
    assert main(["birthday", "judge", "one.json"]) == 0
    out = capsys.readouterr().out
    assert "called the same: 12 of 20 close pairs, 20 of 20 controls that are copies, 0 of 20 that are not" in out
    assert "corrected: 12.0 [" in out
    assert f"N_eff: about {500 * 499 / 2 / 12:,.0f} [" in out
    assert "s^2 = 250,000" in out
    assert f"s(s-1)/(2 ln 2) = {500 * 499 / (2 * np.log(2)):,.0f}" in out
    report = json.loads(path.with_name(f"birthday-{key.page[:8]}-abab.report.json").read_text())
    assert report["readings"]["one.json"]["copies"]["value"] == 12
    assert report["source"] == "judged by eye"
    (row,) = read_rows(path.with_name(f"birthday-{key.page[:8]}-abab.jsonl"))
    assert (row.metric, row.n_fake, row.reason) == ("support_judged", 500, "judged by eye by one person")
    assert row.value == pytest.approx(500 * 499 / 2 / 12)
    assert report["judges"]["one.json"]["answers"] == json.loads(Path("one.json").read_text())["answers"]


def test_two_judges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = made("out=here.html")
    write_answers("one.json", key)
    answers = json.loads(Path("one.json").read_text())["answers"]
    changed = key.pairs[7].hash
    answers[changed] = "?"
    write_answers("two.json", key, "cd" * 8, answers=answers)
    assert main(["birthday", "judge", "one.json", "two.json", "--key", "here.key.json"]) == 0
    out = capsys.readouterr().out
    assert "both agree:" in out
    assert re.search(r"Cohen's kappa over all pairs: 0\.9\d \[0\.\d\d, 1\.00\] \(60 pairs\)", out)
    assert "the judges disagree about 1 pairs:" in out
    assert f"{changed}  " in out
    assert path.with_name("here-abab-cdcd.report.json").exists()


def test_two_judges_whose_files_have_one_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = made("out=here.html")
    for session, place in (("ab", "his"), ("cd", "hers")):
        Path(place).mkdir()
        write_answers(f"{place}/mine.json", key, session * 8)
    assert main(["birthday", "judge", "his/mine.json", "hers/mine.json", "--key", "here.key.json"]) == 0
    assert "both agree:" in capsys.readouterr().out
    report = json.loads(path.with_name("here-abab-cdcd.report.json").read_text())
    assert report["judges"].keys() == {"his/mine.json", "hers/mine.json"}


BAD = {
    "not JSON": ("{", "is not the answers that a page exported"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "large": (" " * (2 << 20), "at most 1,048,576 are read"),
    "not text": ("\udcff", "is not the answers"),
    "another kind": ('{"format": "genbench birthday key 1"}', "is not the answers"),
    "a list": ("[]", "is not the answers"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_answers_are_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BAD[name]
    Path("bad.json").write_bytes(text.encode(errors="surrogateescape"))
    assert main(["birthday", "judge", "bad.json"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_answers_that_were_edited_or_are_of_another_page_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, key = made()
    known = key.pairs[0].hash
    cases: list[tuple[dict[str, Any], str]] = [
        ({"answers": {known: "yes"}}, "Invalid enum value 'yes'"),
        ({"answers": {"0" * 16: "y"}}, "which the page does not show"),
        ({"answers": {"../../etc": "y"}}, "is not the answers"),
        ({"answers": {}}, "holds no answer yet"),
        ({"answers": [known]}, "is not the answers"),
        ({"answers": {f"{n:016x}": "y" for n in range(2000)}}, "is not the answers"),
        ({"session": "x"}, "is not the answers"),
        ({"more": 1}, "unknown field"),
        ({"page": "0" * 64}, "there is no birthday-00000000.key.json"),
    ]
    for changed, message in cases:
        write_answers("one.json", key, **changed)
        assert main(["birthday", "judge", "one.json"]) == 2, changed
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1
    write_answers("one.json", key)
    text = Path("one.json").read_text()
    Path("one.json").write_text(text.replace('"answers": {', f'"answers": {{"{known}": "y", '))
    assert main(["birthday", "judge", "one.json"]) == 2
    assert "a key stands twice" in capsys.readouterr().err
    write_answers("one.json", key, page="0" * 64)
    assert main(["birthday", "judge", "one.json", "--key", str(path.with_suffix(".key.json"))]) == 2
    assert "answers page 00000000" in capsys.readouterr().err
    assert not list(path.parent.glob("*.report.json"))


def test_judges_who_cannot_be_compared_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, key = made("out=a.html")
    write_answers("one.json", key)
    write_answers("two.json", key)
    assert main(["birthday", "judge", "one.json", "two.json", "--key", "a.key.json"]) == 2
    assert "are of one judge" in capsys.readouterr().err
    write_answers("two.json", key, "cd" * 8, page="1" * 64)
    assert main(["birthday", "judge", "one.json", "two.json", "--key", "a.key.json"]) == 2
    assert "the judges saw different pages" in capsys.readouterr().err
    assert main(["birthday", "judge", "one.json", "two.json", "one.json"]) == 2
    assert "3 files of answers" in capsys.readouterr().err


def test_a_key_that_was_changed_is_refused(tmp_path: Path, digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    key = key_of(chosen_of(planted[0], digits, candidates=2), model="m")
    path = tmp_path / "a.key.json"
    path.write_bytes(msgspec.json.encode(key))
    assert read_key(path) == key
    path.write_bytes(path.read_bytes().replace(b'"different"', b'"same"', 1))
    with pytest.raises(UserError, match="was changed after"):
        read_key(path)
    candidate = next(pair for pair in key.pairs if pair.kind == "candidate")
    again = (*key.pairs, msgspec.structs.replace(candidate, hash="0" * 16))
    for changed in ({"samples": 2}, {"pairs": again}):
        path.write_bytes(msgspec.json.encode(sealed(msgspec.structs.replace(key, **changed))))
        with pytest.raises(UserError, match="are not different pairs"):
            read_key(path)
    answers = tmp_path / "one.json"
    write_answers(str(answers), key)
    check_answers(answers, read_answers(answers), key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["samples=fakes.npz", "data=mnist5k", "pairs=0"], "pairs=0: must be a whole number from 1 to 200"),
        (["samples=fakes.npz", "data=mnist5k", "pairs=many"], "pairs=many: must be"),
        (["samples=fakes.npz", "data=mnist5k", "out=page.txt"], "a name that ends in .html"),
        (["samples=fakes.npz"], "name the data that they are samples of"),
        (["data=mnist5k"], "give one run's folder"),
        (["nowhere"], "nowhere: is no run"),
        (["samples=fakes.npz", "data=two_moons"], "fakes.npz"),
    ],
)
def test_mistakes_in_the_command(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["birthday", "page", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(folder.rglob("*.html"))


def test_a_run_and_its_checkpoint(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=gaussian", "data=mnist5k", "metric=[cost]", "evaluate.n_samples=400"]) == 0
    (run,) = [path.parent for path in Path("runs").glob("*/*/best.ckpt")]
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["birthday", "page", str(run)]) == 0
    (page,) = run.glob("birthday-*.html")
    key = read_key(page.with_suffix(".key.json"))
    assert (key.model, key.dataset, key.samples) == ("gaussian", "mnist5k", 400)
    assert max(pair.first for pair in key.pairs if pair.kind == "candidate") < 400
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before, "the run's own files are as they were"
    assert main(["birthday", "page", str(run / "final.ckpt"), "evaluate.n_samples=100", "pairs=3", "out=p.html"]) == 0
    assert read_key(Path("p.key.json")).samples == 100
    assert main(["birthday", "page", str(run), "model=maf"]) == 2
    assert "model: a run is judged as it was trained" in capsys.readouterr().err
    (run / "trained.json").unlink()
    (run / "done.json").unlink()
    assert main(["birthday", "page", str(run)]) == 2
    assert "is not trained to its end" in capsys.readouterr().err
