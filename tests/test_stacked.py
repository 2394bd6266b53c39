"""Stacked digits: what is in them, that splits stay apart, and that the digits' classifier counts their modes."""

import hashlib
from pathlib import Path

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model
from torch import Tensor

from bench.checkpoint import Progress
from bench.data import stacked
from bench.data.base import ClassifiedModes, Data, Split
from bench.data.stacked import stack
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features.base import Note
from bench.features.classifier import InDomainClassifier, TrainedClassifier
from bench.metrics.frechet import FID
from bench.metrics.modes import ModeCounts
from bench.schema import Status
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from models.base import GenerativeModel

SIZES = (3000, 500, 600)


@pytest.fixture(scope="module")
def data(digits: Data) -> Data:
    return stack("stacked", digits, SIZES)


def labels_of(x: Tensor, digits: Split) -> Tensor:
    """The labels of the three planes ``(N, 3)``, looked up by their bytes in the split they should come from."""
    assert digits.y is not None
    known = {image.numpy().tobytes(): label for image, label in zip(digits.x, digits.y.tolist(), strict=True)}
    return torch.tensor([[known[plane.numpy().tobytes()] for plane in picture] for picture in x])


def modes_of(data: Data, labels: Tensor) -> Tensor:
    """What the modes would be, read by somebody who knows the planes' labels."""
    assert isinstance(data.modes, ClassifiedModes)
    return data.modes.read(lambda planes: labels.flatten()).assign(torch.zeros(len(labels), 3, 28, 28))


def test_every_plane_is_a_digit_of_the_same_split(data: Data, digits: Data) -> None:
    spec = data.spec
    assert (spec.name, spec.shape, spec.levels, spec.classes) == ("stacked", (3, 28, 28), 256, None)
    assert (spec.n_train, spec.n_val, spec.n_test) == SIZES
    for name, n in zip(("train", "val", "test"), SIZES, strict=True):
        split = getattr(data, name)
        assert split.x.shape == (n, 3, 28, 28)
        assert split.x.dtype == torch.uint8
        assert split.y is None
        labels = labels_of(split.x, getattr(digits, name))  # a KeyError where a digit is of another split
        # Each plane is drawn by itself: every pair of classes of two planes is met, about as often.
        for one, other in ((0, 1), (0, 2), (1, 2)):
            pairs = torch.bincount(10 * labels[:, one] + labels[:, other], minlength=100)
            assert 60 < float((pairs - n / 100).square().sum() / (n / 100)) < 160  # chi-square of 99 degrees


def test_the_run_and_the_global_generators_have_no_part_in_it(digits: Data) -> None:
    torch.manual_seed(1)
    first = stack("stacked", digits, (50, 5, 5))
    torch.manual_seed(2)
    again, longer = stack("stacked", digits, (50, 5, 5)), stack("stacked", digits, (51, 5, 5))
    assert first.spec == again.spec
    assert torch.equal(first.train.x, again.train.x)
    assert first.spec.revision != longer.spec.revision
    # The bytes, fixed for good: another number here needs another _VERSION.
    digest = hashlib.sha256(first.train.x.numpy().tobytes() + first.test.x.numpy().tobytes()).hexdigest()
    assert (first.spec.revision, digest[:16]) == ("90290de0e61c3fd1", "ce944090478707ad")


def test_sizes_below_one_are_refused(digits: Data) -> None:
    with pytest.raises(UserError, match=r"stacked: .*data\.n_train"):
        stack("stacked", digits, (10, 0, 10))


def test_the_mode_is_the_number_that_the_digits_spell_and_its_probability_their_product(data: Data) -> None:
    labels = torch.tensor([[0, 0, 0], [1, 2, 3], [9, 9, 9], [7, 0, 4]])
    assert modes_of(data, labels).tolist() == [0, 123, 999, 704]
    assert isinstance(data.modes, ClassifiedModes)
    modes = data.modes.read(lambda planes: torch.zeros(len(planes)))
    assert modes.n == 1000
    assert modes.probabilities is not None
    torch.testing.assert_close(modes.probabilities, torch.full((1000,), 1e-3, dtype=torch.float64))  # 400 of each digit


def test_uneven_digits_have_uneven_modes(digits: Data) -> None:
    assert digits.train.y is not None
    rare = (digits.train.y != 3) | (torch.arange(4000) < 1000)  # a quarter of the threes
    train = Split(digits.train.x[rare], digits.train.y[rare])
    modes = stack("uneven", Data(digits.spec, train, digits.val, digits.test), (20_000, 1, 1))
    assert isinstance(modes.modes, ClassifiedModes)
    probabilities = modes.modes.read(lambda planes: planes).probabilities
    assert probabilities is not None
    assert float(probabilities.sum()) == pytest.approx(1)
    assert float(probabilities[333] / probabilities[444]) == pytest.approx(1 / 64)
    seen = labels_of(modes.train.x, train)
    share = float(probabilities.view(10, 10, 10)[3].sum())
    assert float((seen[:, 0] == 3).double().mean()) == pytest.approx(share, abs=4 * (share / 20_000) ** 0.5)


def test_the_classifier_of_the_digits_counts_the_modes(data: Data, digits: Data) -> None:
    """The test split taken for a model's samples: their modes, read by the classifier, are those of their labels."""
    asked: list[Data] = []

    class Watched(InDomainClassifier):
        """Notes whose classifier is asked for."""

        def extractor(self, data: Data, note: Note | None = None) -> TrainedClassifier:
            asked.append(data)
            return super().extractor(data, note)

    recipe = Watched()

    class Replay(GenerativeModel):
        """Hands out the test split."""

        family = "test"

        def sample(self, n: int, **_: object) -> Tensor:
            start, self.given = self.given, self.given + n
            return data.test.x[start : start + n]

        given = 0

    model = Replay((3, 28, 28), 256)
    subject = TrainedModel(model, Progress(), 0, ORIGIN)
    metrics = {"modes": ModeCounts(recipe, 600), "fid": FID(recipe, 600)}
    estimates = [one for made in evaluate(Examples(subject, data, seed=0), metrics).values() for one in made]
    assert [estimate.info.name for estimate in estimates] == [
        "modes[mnist-cnn]",
        "mode_kl[mnist-cnn]",
        "fid[stacked-cnn]",
    ]
    hit, divergence, fid = estimates
    assert fid.status is Status.SKIPPED
    assert [labelled.spec.name for labelled in asked] == ["mnist5k"]
    true = modes_of(data, labels_of(data.test.x, digits.test))
    assert isinstance(data.modes, ClassifiedModes)
    reader = recipe.extractor(data.modes.labelled)
    assert (
        data.modes.read(reader.classes).assign(data.test.x).eq(true).double().mean() > 0.9
    )  # three digits right, at 98.6 % each
    assert hit.value == pytest.approx(len(true.unique()), abs=25)
    assert hit.stderr is not None
    assert abs(hit.value - 1000 * (1 - 0.999**600)) < 4 * hit.stderr + 10
    assert divergence.value is not None
    assert {(e.extractor, len(e.extractor_hash), e.n_fake) for e in (hit, divergence)} == {("mnist-cnn", 16, 600)}


def test_the_data_set_stacks_mnist(digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths: list[str | None] = []

    def mnist(path: str | None) -> Data:
        paths.append(path)
        return digits

    monkeypatch.setattr(stacked, "mnist", mnist)
    made = stacked.stacked_mnist(str(tmp_path), 40, 20, 10)
    assert paths == [str(tmp_path)]
    assert made.spec.name == "stacked_mnist"
    assert (len(made.train), len(made.val), len(made.test)) == (40, 20, 10)
    assert not torch.equal(made.train.x[:20], stack("stacked", digits, (40, 20, 10)).train.x[:20])
    samples = new_model("dcgan", made.spec).eval().sample(2, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (2, 3, 28, 28)
