"""Features are extracted once: for metrics of any number of samples, and of real examples for later commands, too."""

from pathlib import Path

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import small_data
from torch import Tensor

from bench.data.base import Data
from bench.data.reference import Reference
from bench.evaluation.evaluate import evaluate
from bench.features.base import Extractor, Note, Recipe
from bench.features.classifier import Network, TrainedClassifier
from bench.features.pixels import Pixels
from bench.features.stored import stored_features
from bench.metrics.birthday import Birthday
from bench.metrics.frechet import FID
from bench.schema import DataSpec
from bench.subjects.base import Report, Subject, silent
from bench.subjects.examples import Examples


class Counting(Extractor):
    """Entries, slowly."""

    name = "slow"
    hash = "abc"
    is_slow = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def features(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x.flatten(1).float()


class Gives(Recipe):
    """Makes an equal extractor each time, as a recipe does that reads a file."""

    def __init__(self, made: list[Counting], weights: str | None = None) -> None:
        self.made, self.weights = made, weights

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return "slow"

    def extractor(self, data: Data, note: Note | None = None) -> Extractor:
        self.made.append(Counting())
        return self.made[-1]


class Draws(Subject):
    """Levels from a seed, 250 at a time."""

    origin = ORIGIN

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.asked = shape, []

    def samples(self, n: int, report: Report = silent) -> Tensor:
        self.asked.append(n)
        generator = torch.Generator().manual_seed(0)
        chunks = [min(250, n - done) for done in range(0, n, 250)]
        return torch.cat([torch.randint(0, 256, (m, *self.shape), generator=generator) for m in chunks]).to(torch.uint8)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))


def test_metrics_of_equal_recipes_and_different_numbers_share_samples_and_features() -> None:
    data, made = small_data((1, 8, 8), 256, n=40, held_out=30), []
    subject = Draws(data.spec.shape)
    examples = Examples(subject, data, seed=0)
    metrics = {str(n): FID(Gives(made), n) for n in (1000, 500, 750, 1000)}
    together = evaluate(examples, metrics)
    assert subject.asked == [1000]
    assert [n for one in made for n in one.seen] == [30, 250, 250, 250, 250], "the test split, then the samples"
    for n in ("500", "750"):
        alone = evaluate(Examples(Draws(data.spec.shape), data, seed=0), {n: metrics[n]})
        assert alone[n][0].value == together[n][0].value, "whatever else is measured"


class Chunked(Draws):
    """Numbers that tell how many were drawn at once, as a model's may depend on it."""

    def samples(self, n: int, report: Report = silent) -> Tensor:
        self.asked.append(n)
        sizes = [min(250, n - done) for done in range(0, n, 250)]
        return torch.cat([torch.full((m, *self.shape), m, dtype=torch.uint8) for m in sizes])


def test_samples_are_cut_from_more_only_where_they_are_the_same() -> None:
    data = small_data((1, 8, 8), 256)
    subject = Chunked(data.spec.shape)
    examples = Examples(subject, data, seed=0)
    for n in (750, 500, 300):
        assert torch.equal(examples.samples(n), Chunked(data.spec.shape).samples(n)), n
    assert subject.asked == [750, 300]


def test_features_of_the_held_out_examples_stand_in_their_order() -> None:
    data, extractor = small_data((1, 8, 8), 256, n=40, held_out=30), Counting()
    examples = Examples(Draws(data.spec.shape), data, seed=0)
    assert torch.equal(examples.features(extractor, examples.held_out), examples.held_out.flatten(1).float())


def test_recipes_of_two_kinds_with_equal_settings_have_an_extractor_each() -> None:
    class Slow(Pixels):
        def extractor(self, data: Data, note: Note | None = None) -> Extractor:
            return Counting()

    data = small_data((1, 8, 8), 256)
    examples = Examples(Draws(data.spec.shape), data, seed=0)
    made = [examples.extractor(recipe()) for recipe in (Pixels, Slow, Pixels, Slow)]
    assert [one.name for one in made] == ["pixels", "slow", "pixels", "slow"]
    assert made[:2] == made[2:], "once each"


def test_features_of_real_examples_are_kept_for_the_next_command() -> None:
    data = small_data((1, 8, 8), 256, n=40, held_out=30)
    first, second = Counting(), Counting()
    kept = [Examples(Draws(data.spec.shape), data, seed=0).features(one, data.test.x) for one in (first, second)]
    assert torch.equal(*kept)
    assert (first.seen, second.seen) == ([30], [])
    other = Counting()
    other.hash = "another network"
    stored_features(other, data.test.x)
    stored_features(second, data.test.x.flip(0))
    assert (other.seen, second.seen) == ([30], [30]), "another network, other bytes"


def test_a_split_without_examples_is_shown_to_no_network() -> None:
    data = small_data((1, 8, 8), 256, n=40, held_out=30)
    data = Reference("reference", data.spec, data.test.x).in_place_of_test(data)
    extractor, examples = Counting(), Examples(Draws(data.spec.shape), data, seed=0)
    assert torch.equal(examples.features(extractor, examples.held_out), data.test.x.flatten(1).float())
    assert extractor.seen == [30]


def test_the_birthday_test_takes_the_features_that_others_made() -> None:
    made: list[Counting] = []
    data = small_data((1, 8, 8), 256, n=70, held_out=60)
    found = evaluate(
        Examples(Draws(data.spec.shape), data, seed=0),
        {"fid": FID(Gives(made), 250), "birthday": Birthday(Gives(made), 250)},
    )
    assert found["birthday"][0].extractor == "slow"
    seen = [n for one in made for n in one.seen]
    assert seen.count(250) == 1, "the samples once"
    assert seen.count(60) == 2, "the validation and the test split once"


def test_stored_features_that_were_damaged_are_made_again(tmp_path: Path) -> None:
    x = torch.arange(2500, dtype=torch.int32).view(-1, 1)
    before = stored_features(Counting(), x)
    (victim, *_) = sorted(tmp_path.rglob("features.npy"))
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    again = Counting()
    assert torch.equal(stored_features(again, x), before)
    assert torch.equal(before, x.float())
    assert len(again.seen) == 1, "the damaged block alone"


def test_without_a_cache_to_write_everything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "file"))
    x = torch.arange(5.0).view(-1, 1)
    assert torch.equal(stored_features(Counting(), x), x)
    assert "features slow are not kept" in caplog.text


class Weak(Recipe):
    """A classifier of a stated accuracy."""

    def __init__(self, accuracy: float) -> None:
        self.accuracy = accuracy

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return "small-cnn"

    def extractor(self, data: Data, note: Note | None = None) -> Extractor:
        torch.manual_seed(0)
        return TrainedClassifier("small-cnn", "f00", Network(1, 256, 2), self.accuracy, 500)


def test_numbers_of_a_weak_classifier_say_so() -> None:
    data = small_data((1, 8, 8), 256, n=40, held_out=80)
    for accuracy, said in ((0.741, "small-cnn reads only 74 % of the test examples rightly: weak features"), (0.9, "")):
        (row,) = evaluate(Examples(Draws(data.spec.shape), data, seed=0), {"fid": FID(Weak(accuracy), 100)})["fid"]
        assert row.value is not None
        assert row.reason == said
