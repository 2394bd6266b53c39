"""The birthday test in each class, and what judges found as a row."""

import dataclasses
from typing import Any

import msgspec
import pytest
import torch
from helpers_metrics import FakeClassifier, FakeRecipe, FakeSubject, examples, spec
from helpers_rows import make_row
from torch import Tensor

from bench.birthday.record import Key, Shown, sealed
from bench.birthday.row import row_of
from bench.data.base import Data, Split
from bench.data.digits import mnist5k
from bench.errors import UnavailableError, UserError
from bench.features.base import Recipe
from bench.features.classifier import InDomainClassifier
from bench.features.pixels import Pixels
from bench.metrics.support_by_class import SupportByClass
from bench.schema import Estimate, MetricInfo, Relation, Source, Status
from bench.subjects.examples import Examples


class Corner(FakeClassifier):
    """Reads the class from the first pixel."""

    def classes(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0].long()


@pytest.fixture(scope="module")
def two_digits() -> Data:
    """The digits 0 and 1 of mnist5k as the classes 0 and 1, with the class in a corner."""
    torch.set_num_threads(1)
    data = mnist5k()

    def split(whole: Split) -> Split:
        assert whole.y is not None
        x, y = whole.x[whole.y < 2].clone(), whole.y[whole.y < 2]
        x[:, 0, 0, 0] = y.to(torch.uint8)
        return Split(x, y)

    return Data(
        dataclasses.replace(data.spec, classes=2), *(split(whole) for whole in (data.train, data.val, data.test))
    )


def test_a_class_that_repeats_itself_is_told_from_one_that_does_not(two_digits: Data) -> None:
    metric = SupportByClass(Pixels(), FakeRecipe(Corner()), 300)
    zeros, ones = (two_digits.train.x[two_digits.train.y == c] for c in (0, 1))
    repeated = zeros[torch.randint(20, (200,), generator=torch.Generator().manual_seed(0))]
    samples = torch.cat([repeated, ones[:100]])[torch.randperm(300)]
    found = metric.compute(Examples(FakeSubject({"samples": samples}), two_digits, seed=0))
    first, second = found
    assert (first.info.name, second.info.name) == ("support_of_class[pixels,0]", "support_of_class[pixels,1]")
    assert first.value == pytest.approx(20, rel=0.25)
    assert (first.relation, first.n_fake) == (Relation.ESTIMATE, 200)
    assert second.relation is not Relation.ESTIMATE
    (none, few) = metric.compute(Examples(FakeSubject({"samples": ones[:100]}), two_digits, seed=0))
    assert (none.status, none.value) == (Status.SKIPPED, None)
    assert "too few" in none.reason
    assert few.info == second.info


def test_numbers_by_another_classifier_have_another_hash(two_digits: Data) -> None:
    other = Corner(hash="of a GPU")
    ones = two_digits.train.x[two_digits.train.y == 1][:100]
    found = []
    for features, classes in ((Pixels(), Corner()), (Pixels(), other), (FakeRecipe(other), other)):
        metric = SupportByClass(features, FakeRecipe(classes), 100)
        none, few = metric.compute(Examples(FakeSubject({"samples": ones}), two_digits, seed=0))
        assert (none.extractor, none.extractor_hash) == ("", "")
        found.append((few.extractor, few.extractor_hash))
    assert found[0] != found[1]
    assert found[2] == ("toy-cnn", "of a GPU")


def test_features_of_a_classifier_are_those_of_all_classes(two_digits: Data) -> None:
    seen = []

    class Recorded(FakeRecipe):
        def extractor(self, data: Data, note: Any = None) -> Any:
            seen.append(data)
            return super().extractor(data, note)

    metric = SupportByClass(Recorded(Corner()), FakeRecipe(Corner()), 200)
    samples = two_digits.train.x[torch.randperm(len(two_digits.train.x), generator=torch.Generator().manual_seed(0))]
    metric.compute(Examples(FakeSubject({"samples": samples[:200]}), two_digits, seed=0))
    assert seen
    assert all(data is two_digits for data in seen)


def test_each_class_is_calibrated_on_its_own_examples(two_digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Examples, int]] = []

    def watched(part: Examples, recipe: Recipe, n: int, false_pairs: int, info: MetricInfo) -> Estimate:
        seen.append((part, n))
        return Estimate(info, 1.0)

    monkeypatch.setattr("bench.metrics.support_by_class.measured_support", watched)
    samples = two_digits.train.x[:150]
    metric = SupportByClass(Pixels(), FakeRecipe(Corner()), 150)
    metric.compute(Examples(FakeSubject({"samples": samples}), two_digits, seed=0))
    for c, (part, n) in enumerate(seen):
        drawn, data = part.samples(n), part.data
        assert len(drawn) == n == int((samples[:, 0, 0, 0] == c).sum())
        for whole, x in zip((samples, *(one.x for one in (two_digits.train, two_digits.val, two_digits.test))),
                            (drawn, data.train.x, data.val.x, data.test.x), strict=True):  # fmt: skip
            assert len(x) == int((whole[:, 0, 0, 0] == c).sum()) > 20
            assert x[:, 0, 0, 0].unique().tolist() == [c]
    assert len(seen) == 2


def test_data_without_labels_have_no_classes() -> None:
    metric = SupportByClass(Pixels(), InDomainClassifier(), 60)
    unlabelled = dataclasses.replace(spec(2), classes=None)
    context = examples(unlabelled, samples=torch.zeros(60, 2), held_out=torch.zeros(60, 2))
    assert [info.name for info in metric.infos(context)] == ["support_of_class[pixels,none]"]
    with pytest.raises(UnavailableError, match="no labelled images"):
        metric.compute(context)
    with pytest.raises(UserError, match="at least 1"):
        SupportByClass(Pixels(), FakeRecipe(), 60, 0)


# The row.


def report(**n_eff: Any) -> dict[str, Any]:
    reading = {"n_eff": {"value": None, "low": None, "high": None, "why": "so", **n_eff}}
    return {"readings": {"a": {"n_eff": {"verdict": "other"}}, "both agree": reading},
            "judges": {"a": {"session": "1" * 16}, "b": {"session": "2" * 16}}}  # fmt: skip


KEY = sealed(
    Key(
        format="genbench birthday key 1", page="0" * 64, model="dcgan", dataset="mnist5k", revision="d0", seed=0,
        samples=1000, pairs=(Shown("0" * 16, "candidate", 0, 1, 0.5),), training_key="c0", checkpoint="best",
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("n_eff", "expected"),
    [
        ({"verdict": "supported", "value": 5.0, "low": 3.0, "high": 9.0}, (5.0, 3.0, 9.0, Relation.ESTIMATE)),
        ({"verdict": "at least", "low": 3.0, "high": 3.0}, (3.0, 3.0, None, Relation.LOWER_BOUND)),
        ({"verdict": "at most", "value": 5.0, "high": 9.0}, (9.0, None, 9.0, Relation.UPPER_BOUND)),
        ({"verdict": "inconclusive"}, (None, None, None, None)),
    ],
)
def test_the_row_of_judges_is_of_their_run_and_has_no_direction(n_eff: dict[str, Any], expected: Any) -> None:
    rows = [make_row(training_key="other", model="x"), make_row(checkpoint="final"), make_row(n_params=77)]
    row = row_of(KEY, report(**n_eff), rows)
    assert (row.value, row.ci_low, row.ci_high, row.relation) == expected
    assert (row.status is Status.OK) == (row.value is not None)
    assert (row.metric, row.higher_is_better, row.n_params, row.n_fake) == ("support_judged", None, 77, 1000)
    assert (row.model, row.training_key, row.checkpoint, row.source) == ("dcgan", "c0", "best", Source.MEASURED)
    assert row.reason
    alone = row_of(KEY, report(**n_eff), [])
    assert (alone.model, alone.dataset, alone.source) == ("dcgan", "mnist5k", Source.EXTERNAL_SAMPLES)
    assert alone.measuring_key == row.measuring_key != ""


def test_keys_of_before_the_run_was_named_have_the_same_page() -> None:
    old = msgspec.structs.replace(KEY, training_key="", checkpoint="")
    assert sealed(old).page != KEY.page
    assert b"training_key" not in msgspec.json.encode(old)
    assert b"training_key" in msgspec.json.encode(KEY)
