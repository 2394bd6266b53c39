"""The page of close pairs: what it shows, what it hides, and the way from samples to a judgement."""

import base64
import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from helpers_metrics import FakeClassifier, FakeRecipe
from PIL import Image
from torch import Generator, Tensor

from bench.birthday.page import LARGEST, make_page
from bench.birthday.pairs import Chosen, choose, jittered
from bench.birthday.record import Key, check_answers, read_answers, read_key, sealed
from bench.cli.main import main
from bench.data.base import Data, Split
from bench.data.digits import mnist5k
from bench.errors import UserError
from bench.metrics.turned import turned
from bench.rows.store import read_rows
from bench.schema import DataSpec
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples

ORIGIN = Origin("run", "key", "group", "<script>alert(1)</script>", "samples", "given")


@pytest.fixture(scope="module")
def digits() -> Data:
    return mnist5k()


@pytest.fixture(scope="module")
def planted(digits: Data) -> tuple[Tensor, Tensor]:
    """500 slightly jittered samples of the 4000 training digits, and the digits they are of."""
    generator = Generator().manual_seed(3)
    pick = torch.randint(len(digits.train.x), (500,), generator=generator)
    return jittered(digits.train.x[pick], torch.full((500,), 300.0), 256, generator), pick


def chosen_of(x: Tensor, data: Data, candidates: int = 20, n_samples: int = 1000) -> Chosen:
    return choose(Examples(GivenSamples(x, 0, ORIGIN), data, seed=0), n_samples, candidates)


def key_of(chosen: Chosen, model: str = ORIGIN.model) -> Key:
    return sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model=model, dataset="digits", revision="r", seed=0,
            samples=chosen.samples, pairs=chosen.shown,
        )
    )  # fmt: skip


def data_in(page: bytes) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL)
    content: dict[str, Any] = json.loads(text)
    return content


def test_the_closest_pairs_are_the_planted_ones(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    x, pick = planted
    subject = GivenSamples(x, 0, ORIGIN)
    samples = subject.samples(500)
    order = torch.tensor([int((x == one).flatten(1).all(1).nonzero()[0]) for one in samples])
    truth = pick[order]
    copied = sum(int((truth[:k] == truth[k]).sum()) for k in range(500))
    chosen = choose(Examples(subject, digits, seed=0), 1000, copied)
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert copied > 20
    assert len(candidates) == copied
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.95
    for pair, pictures in zip(chosen.shown, chosen.pictures, strict=True):
        if pair.kind == "candidate":
            assert torch.equal(pictures, samples[[pair.first, pair.second]])


def test_shifted_copies_are_on_the_page(digits: Data) -> None:
    """Pairs are those that the metric counts: it takes a shift by two pixels back."""
    generator = Generator().manual_seed(3)
    pick = torch.randint(200, (300,), generator=generator)
    moves = torch.randint(-2, 3, (300, 2), generator=generator).tolist()
    shifted = [digits.train.x[one].roll(move, (1, 2)) for one, move in zip(pick.tolist(), moves, strict=True)]
    subject = GivenSamples(torch.stack(shifted), 0, ORIGIN)
    chosen = choose(Examples(subject, digits, seed=0), 300, 100)
    truth = pick[subject.order]
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.9


class RightHalves(FakeClassifier):
    def features(self, x: Tensor) -> Tensor:
        return x[..., 14:].flatten(1).float()


def test_pairs_may_be_close_in_the_features_of_a_network(digits: Data) -> None:
    """Pictures that share their right half alone are far apart in pixels."""
    x = digits.train.x[:300].clone()
    x[200:230, ..., 14:] = x[:30, ..., 14:]
    order = GivenSamples(x, 0, ORIGIN).order
    shared = {frozenset((k, k + 200)) for k in range(30)}

    def found(recipe: FakeRecipe | None) -> int:
        chosen = choose(Examples(GivenSamples(x, 0, ORIGIN), digits, seed=0), 300, 30, recipe)
        pairs = [
            frozenset(order[[pair.first, pair.second]].tolist()) for pair in chosen.shown if pair.kind == "candidate"
        ]
        return len(shared & set(pairs))

    assert found(FakeRecipe(RightHalves())) > 25
    assert found(None) < 10


def test_turned_copies_are_on_the_page(digits: Data) -> None:
    generator = Generator().manual_seed(4)
    pick = torch.randint(200, (300,), generator=generator)
    angle = (2 * torch.rand(300, generator=generator) - 1) * math.radians(10)
    subject = GivenSamples(turned(digits.train.x[pick], angle).round().clamp(0, 255).to(torch.uint8), 0, ORIGIN)
    chosen = choose(Examples(subject, digits, seed=0), 300, 100)
    truth = pick[subject.order]
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.9


def test_decoys_are_what_the_key_says(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits)
    held = torch.cat([digits.val.x, digits.test.x]).double()
    candidates = [kind.kind == "candidate" for kind in chosen.shown]
    left, right = chosen.pictures[candidates].double().unbind(1)
    aim = 1.1 * (left - right).flatten(1).norm(dim=1).max()  # in the samples' contrast, which jitter changes a little
    used: list[int] = []
    for pair, pictures in zip(chosen.shown, chosen.pictures.double(), strict=True):
        if pair.kind == "candidate":
            continue
        originals = held[[pair.first, pair.second]]
        moved = (pictures - originals).flatten(1).norm(dim=1)
        apart = (originals[0] - originals[1]).norm()
        assert (pair.first == pair.second) == (pair.kind == "same")
        assert (moved > 0).all(), "both pictures of every decoy are jittered, so that noise tells nothing"
        used += {pair.first, pair.second}
        if pair.kind == "same":
            assert pair.distance <= aim
        else:
            assert apart > moved.max()
    assert len(used) == len(set(used)) == 60, "20 pairs of 40 examples and 20 single ones"


def test_jitter_has_the_distance_that_is_asked_for(digits: Data) -> None:
    x = digits.test.x[:40]
    for distance in (0.0, 30.0, 300.0, 900.0):
        made = jittered(x, torch.full((40,), distance), 256, Generator().manual_seed(1))
        moved = (made.double() - x.double()).flatten(1).norm(dim=1)
        assert (moved <= distance).all()
        assert (moved >= 0.9 * distance).all()
    two = (x > 127).to(torch.uint8)
    flipped = (jittered(two, torch.full((40,), 4.0), 2, Generator().manual_seed(1)) != two).flatten(1).sum(1)
    assert int(flipped.max()) <= 16
    assert int(flipped.min()) >= 8


def test_neighbours_are_the_nearest_training_examples(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits, candidates=2)
    train = digits.train.x.flatten(1).double()
    for pictures, neighbours in zip(
        chosen.pictures[:5].flatten(0, 1), chosen.neighbours[:5].flatten(0, 1), strict=True
    ):
        nearest = (train - pictures.flatten().double()).square().sum(1).min()
        assert (neighbours.double() - pictures.double()).square().sum() == nearest


def test_the_page_shows_the_pictures_and_hides_the_truth(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits)
    key = key_of(chosen)
    page = make_page(chosen, key, 256, "birthday")
    content = data_in(page)
    assert [row[0] for row in content["pairs"]] == [pair.hash for pair in key.pairs]
    for row, pictures in zip(content["pairs"], chosen.pictures, strict=True):
        for index, picture in zip(row[1:3], pictures, strict=True):
            png = base64.b64decode(content["images"][index].removeprefix("data:image/png;base64,"))
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), picture[0].numpy())
    assert set(content) == {
        "format", "page", "name", "model", "dataset", "samples", "width", "height", "pairs", "images",
    }  # fmt: skip
    assert all(set(map(type, row[1:])) == {int} for row in content["pairs"])
    assert b"candidate" not in page
    assert b"decoy" not in page
    kinds = [pair.kind for pair in key.pairs]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    assert changes > 25, "kinds are mixed: 39 changes are expected of 60 pairs in random order"
    seen = [index for row in content["pairs"] for index in row[1:]]
    assert list(dict.fromkeys(seen)) == list(range(len(content["images"]))), "images are numbered as they are shown"
    assert b"<script>alert" not in page
    assert b"\\u003cscript\\u003ealert(1)" in page
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert policy.encode() in page
    assert not re.search(rb"https?://", page)


def test_the_same_seed_makes_the_same_page_and_another_seed_another(
    digits: Data, planted: tuple[Tensor, Tensor]
) -> None:
    first, again = (chosen_of(planted[0], digits) for _ in range(2))
    assert first.shown == again.shown
    assert torch.equal(first.pictures, again.pictures)
    other = choose(Examples(GivenSamples(planted[0], 0, ORIGIN), digits, seed=1), 1000, 20)
    assert [pair.kind for pair in first.shown] != [pair.kind for pair in other.shown]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    chosen_of(planted[0], digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_collapsed_model_has_pairs_of_its_own(digits: Data) -> None:
    """All samples are equal: pairs of equal pictures keep different names, and copies are shown without jitter."""
    chosen = chosen_of(digits.test.x[:1].repeat(100, 1, 1, 1), digits)
    assert len({pair.hash for pair in chosen.shown}) == len(chosen.shown) == 60
    assert all(pair.distance == 0 for pair in chosen.shown if pair.kind == "candidate")
    constant = chosen_of(torch.zeros((100, 1, 28, 28), dtype=torch.uint8), digits)
    assert len(constant.shown) == 60


def coloured(n: int, side: int) -> Data:
    """Smooth blobs of colour."""
    coarse = torch.rand((n, 3, 4, 4), generator=Generator().manual_seed(0))
    x = (255 * torch.nn.functional.interpolate(coarse, side, mode="bilinear")).to(torch.uint8)
    spec = DataSpec("photographs", "r", (3, side, side), 256, n // 2, n // 4, n // 4)
    return Data(spec, Split(x[: n // 2]), Split(x[n // 2 : 3 * n // 4]), Split(x[3 * n // 4 :]))


def test_large_pictures_are_compressed_and_too_many_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured(200, 32)
    chosen = chosen_of(data.train.x, data, candidates=10)
    key = key_of(chosen)
    whole = make_page(chosen, key, 256, "birthday")
    assert len(whole) <= LARGEST
    sizes = []
    for _ in range(3):
        page = make_page(chosen, key, 256, "birthday")
        kinds = {uri.partition(";")[0] for uri in data_in(page)["images"]}
        assert len(kinds) == 1, "one encoding for all"
        sizes.append((len(page), kinds.pop()))
        monkeypatch.setattr("bench.birthday.page.LARGEST", len(page) - 1)
    assert [kind for _, kind in sizes] == ["data:image/png", "data:image/webp", "data:image/webp"]
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]
    with pytest.raises(UserError, match=r"MB are written; show fewer, as in pairs=5"):
        make_page(chosen, key, 256, "birthday")


def test_other_features_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["birthday", "page", "samples=fakes.npz", "data=mnist5k", "features=inception"]) == 2
    assert "by pixels or by classifier" in capsys.readouterr().err


def test_what_cannot_be_judged_is_refused(digits: Data) -> None:
    points = Split(torch.zeros(100, 2))
    with pytest.raises(UserError, match="only pictures can be judged"):
        chosen_of(torch.zeros(100, 2), Data(DataSpec("toy", "r", (2,), None, 100, 100, 100), points, points, points))
    with pytest.raises(UserError, match=r"49 samples and 1000 different held-out examples; at least 50"):
        chosen_of(digits.test.x[:49], digits)


# The command line.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: tuple[Tensor, Tensor]) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("fakes.npz", samples=planted[0].numpy())
    return tmp_path


def made(*more: str) -> tuple[Path, Key]:
    assert main(["birthday", "page", "samples=fakes.npz", "label=theirs", "data=mnist5k", *more]) == 0
    (path,) = [*Path("runs").glob("*/*/*.html"), *Path().glob("*.html")]
    return path, read_key(path.with_suffix(".key.json"))


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
