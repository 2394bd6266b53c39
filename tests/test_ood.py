"""Out-of-distribution detection: the three measures against scikit-learn and enumeration, their errors, the scores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import configuration, new_model, small_data
from PIL import Image
from torch import Generator, Tensor
from torch.distributions import Normal

from bench.checkpoint import Progress
from bench.cli.main import main
from bench.config.build import build_metrics, checked
from bench.config.spec import Measurement
from bench.data.base import Data, Split
from bench.errors import BrokenError, UnavailableError, UserError
from bench.evaluation.evaluate import evaluate
from bench.metrics.detection import aupr, auroc, fpr95
from bench.metrics.ood import OutOfDistribution, png_lengths, strangeness
from bench.rows.store import read_rows
from bench.schema import DataSpec, Estimate, Relation, Status
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel

MEASURES = (auroc, aupr, fpr95)


def scores(n: int, m: int, shift: float = 1.0, seed: int = 0, step: float = 0.0) -> tuple[Tensor, Tensor]:
    """Normal scores of n negatives and of m positives, shifted; rounded to multiples of a step, so that many tie."""
    g = Generator().manual_seed(seed)
    both = torch.randn(n + m, generator=g, dtype=torch.float64)
    both[n:] += shift
    both = both if step == 0 else (both / step).round() * step
    return both[:n], both[n:]


def by_enumeration(negatives: Tensor, positives: Tensor) -> tuple[float, float, float]:
    minus, plus = negatives.tolist(), positives.tolist()
    area = sum((p > q) + 0.5 * (p == q) for p in plus for q in minus) / len(plus) / len(minus)
    precisions = []
    for t in plus:
        caught, false = sum(p >= t for p in plus), sum(q >= t for q in minus)
        precisions.append(caught / (caught + false))
    enough = [t for t in plus if sum(p >= t for p in plus) >= 0.95 * len(plus) - 1e-9]
    return area, sum(precisions) / len(plus), sum(q >= max(enough) for q in minus) / len(minus)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 5), (30, 20), (25, 40)])
@pytest.mark.parametrize("step", [0.0, 0.5, 3.0])
def test_values_are_those_of_enumeration_and_of_scikit_learn(n: int, m: int, step: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    negatives, positives = scores(n, m, step=step, seed=n)
    found = [measure(negatives, positives)[0] for measure in MEASURES]
    assert found == pytest.approx(by_enumeration(negatives, positives), rel=1e-12)
    truth, both = np.r_[np.zeros(n), np.ones(m)], torch.cat([negatives, positives]).numpy()
    rates = metrics.roc_curve(truth, both, drop_intermediate=False)
    at = np.argmax(rates[1] >= 0.95 - 1e-9)
    theirs = (metrics.roc_auc_score(truth, both), metrics.average_precision_score(truth, both), rates[0][at])
    assert found == pytest.approx(theirs, rel=1e-12)


def test_infinite_scores_order_and_the_two_ends() -> None:
    negatives, positives = torch.tensor([-math.inf, 0.0, 1.0]), torch.tensor([2.0, math.inf, math.inf])
    assert [measure(negatives, positives) for measure in MEASURES] == [(1.0, 0.0), (1.0, 0.0), (0.0, 0.0)]
    assert auroc(positives, negatives)[0] == 0, "nothing is turned round"
    assert fpr95(positives, negatives)[0] == 1
    g = Generator().manual_seed(0)
    negatives, positives = scores(40, 30, step=0.3)
    for measure in MEASURES:
        shuffled = measure(negatives[torch.randperm(40, generator=g)], positives[torch.randperm(30, generator=g)])
        assert shuffled == pytest.approx(measure(negatives, positives), rel=1e-12)


def test_auroc_of_two_normals_is_the_closed_form() -> None:
    negatives, positives = scores(4000, 5000, shift=0.7)
    value, error = auroc(negatives, positives)
    truth = float(Normal(0.0, 1.0).cdf(torch.tensor(0.7 / math.sqrt(2))))
    assert abs(value - truth) < 3 * error
    # DeLong's error equals the plain formula of U-statistics.
    wins = (positives[:, None] > negatives).double()
    plain = math.sqrt(wins.mean(1).var().item() / 5000 + wins.mean(0).var().item() / 4000)
    assert error == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(("shift", "step"), [(1.5, 0.0), (-0.5, 0.0), (1.0, 0.4)])
def test_errors_are_those_of_other_examples(shift: float, step: float) -> None:
    found = {measure: [] for measure in MEASURES}
    for seed in range(200):
        negatives, positives = scores(250, 150, shift, seed, step)
        for measure in MEASURES:
            found[measure].append(measure(negatives, positives))
    for measure, pairs in found.items():
        values, errors = torch.tensor(pairs, dtype=torch.float64).T
        ratio = errors.square().mean().sqrt() / values.std()
        assert 0.85 < ratio < 1.25, measure.__name__


def test_the_error_of_the_threshold_is_that_of_the_bootstrap() -> None:
    negatives, positives = scores(80, 60)
    value, error = fpr95(negatives, positives)
    g = Generator().manual_seed(0)
    drawn = []
    for _ in range(4000):
        one = negatives[torch.randint(80, (80,), generator=g)]
        two = positives[torch.randint(60, (60,), generator=g)].sort().values
        drawn.append((one >= two[3]).double().mean().item())
    assert error == pytest.approx(float(np.std(drawn)), rel=0.05)
    assert 0 < value < 1


# The scores.


def test_scores_are_what_the_papers_say() -> None:
    log_p, lengths = torch.tensor([-3.0, -1.0]), torch.tensor([2.0, 5.0])
    found = strangeness(log_p, 2.0, lengths)
    assert {name: one.tolist() for name, one in found.items()} == {
        "likelihood": [3.0, 1.0], "typicality": [1.0, 1.0], "ratio": [1.0, -4.0]
    }  # fmt: skip
    assert list(strangeness(log_p, None, None)) == ["likelihood"]


def test_noise_takes_a_longer_code_than_a_plain_picture(tmp_path: Path) -> None:
    g = Generator().manual_seed(0)
    for channels in (1, 3):
        noise = torch.randint(0, 256, (1, channels, 9, 7), generator=g, dtype=torch.uint8)
        lengths = png_lengths(torch.cat([noise, torch.full_like(noise, 128)]))
        assert lengths[0] > lengths[1] + 8 * math.log(2) * 20
        assert lengths[0] / (8 * math.log(2)) >= 63 * channels, "no shorter than the noise"
        file = tmp_path / "noise.png"
        pixels = noise[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, optimize=True)
        assert lengths[0].item() == pytest.approx(8 * math.log(2) * file.stat().st_size)


def normal_data(name: str, std: float, n: int = 400, seed: int = 0) -> Data:
    g = Generator().manual_seed(seed)
    val, test = (Split(std * torch.randn(n, 2, generator=g)) for _ in range(2))
    return Data(DataSpec(name, f"revision of {name}", (2,), None, 0, n, n), Split(val.x[:0]), val, test)


def standard(scale: float = 1.0) -> KnownDensity:
    return KnownDensity(lambda x: Normal(0.0, scale).log_prob(x.double()).sum(1), ORIGIN)


def measured(metric: OutOfDistribution, examples: Examples) -> dict[str, Estimate]:
    return {one.info.name.partition("[")[0]: one for one in evaluate(examples, {"ood": metric})["ood"]}


def test_likelihood_is_fooled_by_data_inside_its_own_and_typicality_is_not() -> None:
    """The well-known trap: data that crowd at the mode are likelier than the model's own."""
    metric = OutOfDistribution(normal_data("narrow", 0.05, seed=1), n_draws=3)
    found = measured(metric, Examples(standard(), normal_data("wide", 1.0), seed=0))
    fooled, typical = found["ood_auroc_likelihood"], found["ood_auroc_typicality"]
    assert fooled.value is not None
    assert typical.value is not None
    assert fooled.value < 0.05, "shown as it is"
    # |x|^2 / 2 is exponential: typicality calls |1 - e| strange, which is 1 for the narrow data.
    e = torch.distributions.Exponential(1.0)
    assert typical.value == pytest.approx(float(e.cdf(torch.tensor(2.0))), abs=4 * (typical.stderr or 0))
    assert (fooled.relation, fooled.n_real, fooled.n_draws) == (Relation.EXACT, 800, 1)
    assert fooled.extractor_hash == "revision of narrow"
    assert {found[f"ood_{what}_ratio"].status for what in ("auroc", "aupr", "fpr95")} == {Status.SKIPPED}
    name, picture = metric.picture(Examples(standard(), normal_data("wide", 1.0), seed=0))
    assert name == "ood-narrow"
    assert picture.size[0] > 300
    assert len(picture.getcolors(1 << 20) or ()) > 3, "something is drawn"


def test_every_number_is_its_measure_of_its_score() -> None:
    data, other = (small_data((1, 8, 8), 256, n=20, held_out=30 + 10 * k) for k in range(2))
    model = new_model("realnvp_small", data.spec)
    examples = Examples(TrainedModel(model, Progress(), 0, ORIGIN), data, seed=0)
    found = measured(OutOfDistribution(other, n_draws=2), examples)
    log_p = [
        (torch.logsumexp(examples.subject.log_weights(x, 2), 0) - math.log(2))
        for x in (data.test.x, other.test.x, data.val.x)
    ]
    entropy = -log_p[2].mean()
    by_hand = {
        "likelihood": (-log_p[0], -log_p[1]),
        "typicality": ((log_p[0] + entropy).abs(), (log_p[1] + entropy).abs()),
        "ratio": (-log_p[0] - png_lengths(data.test.x), -log_p[1] - png_lengths(other.test.x)),
    }
    for measure in MEASURES:
        for score, both in by_hand.items():
            one = found[f"ood_{measure.__name__}_{score}"]
            assert (one.value, one.stderr) == pytest.approx(measure(*both), rel=1e-9)
            assert (one.relation, one.n_draws) == (Relation.ESTIMATE, 2)


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(UserError, match=r"metric\.ood\.data"):
        OutOfDistribution(None, 2)
    wide = normal_data("wide", 1.0)
    with pytest.raises(UnavailableError, match="has shape"):
        OutOfDistribution(small_data((3,), None), 2).compute(Examples(standard(), wide, seed=0))
    nan = KnownDensity(lambda x: torch.full((len(x),), math.nan), ORIGIN)
    with pytest.raises(BrokenError, match="not a number for 400 of 400 examples of wide"):
        OutOfDistribution(wide, 2).compute(Examples(nan, wide, seed=0))
    bounded = KnownDensity(lambda x: torch.where(x[:, 0] > 1, -math.inf, 0.0), ORIGIN)  # as a density can be
    some = measured(OutOfDistribution(wide, 2), Examples(bounded, wide, seed=0))
    assert {one.status for one in some.values()} == {Status.FAILED, Status.SKIPPED}, "the entropy is infinite"
    alone = Data(wide.spec, wide.train, Split(wide.val.x[:0]), wide.test)
    found = measured(OutOfDistribution(wide, 2), Examples(bounded, alone, seed=0))
    assert found["ood_auroc_likelihood"].value == pytest.approx(0.5), "the same examples, infinities and all"
    assert found["ood_auroc_typicality"].status is Status.SKIPPED


# The configuration.


def ood_of(*overrides: str) -> dict[str, Any]:
    config = configuration("gaussian", "metric=[ood]", *overrides)
    checked(config)
    return config["metric"]["ood"]


def test_the_other_data_are_part_of_the_measuring_key(tmp_path: Path) -> None:
    one, two = (ood_of(f"metric.ood.data={name}") for name in ("ring8", "pinwheel"))
    assert one["data"]["_target_"] == "bench.data.toy.ring8"
    assert Measurement("ood", one, "best").key != Measurement("ood", two, "best").key
    file = tmp_path / "t.csv"
    keys = []
    for content in ("a,b\n1,2\n", "a,b\n1,2\n3,4\n"):
        file.write_text(content)
        keys.append(Measurement("ood", {**one, "data": {"path": str(file)}}, "best").key)
    assert keys[0] != keys[1], "the file may change"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("metric.ood.data=rign8", "no such data"),
        ("metric.ood.data=csv", "path has no default"),
        ("metric.ood.data={_target_: os.system}", "not in the packages allowed"),
        ("metric.ood.data={_target_: bench.data.digits.read_idx}", "is not a"),
    ],
)
def test_wrong_data_are_refused_in_one_line(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ood_of(override)


def test_data_are_no_metric() -> None:
    with pytest.raises(UserError, match="not a Metric"):
        build_metrics({"mine": {"_target_": "bench.data.digits.mnist5k"}})


def test_the_command_leaves_numbers_and_a_picture(workplace: Path) -> None:
    run = ["run", "data=eight_gaussians", "data.n_train=200", "data.n_val=50", "data.n_test=60", "model=gaussian",
           "metric=[ood]", "evaluate.n_samples=10"]  # fmt: skip
    assert main([*run, "metric.ood.data=ring8"]) == 0
    (picture,) = workplace.glob("runs/*/*/ood-ring8-best.png")
    Image.open(picture).verify()
    rows = read_rows(picture.parent / "rows.jsonl")
    values = {row.metric: row.value for row in rows if row.model == "gaussian" and row.status is Status.OK}
    assert {name.partition("[")[2] for name in values} == {"ring8]"}
    assert len(values) == 6
    assert any(row.model == "oracle" and row.metric == "ood_auroc_likelihood[ring8]" for row in rows)
    assert main(["evaluate", str(picture.parent)]) == 0, "the run's own metrics are known without naming the data again"
    reference = workplace / "mine.npy"
    np.save(reference, np.random.default_rng(0).normal(size=(50, 2)))
    before, written = picture.read_bytes(), picture.stat().st_mtime_ns
    assert main(["evaluate", str(picture.parent), f"reference={reference}"]) == 0
    assert picture.read_bytes() == before, "a reference has a picture of its own"
    Image.open(picture.with_name("ood-ring8-best-reference-mine.png")).verify()
    assert main([*run, "metric.ood.data=ring8", "evaluate.sampling_seeds=[0,1]"]) == 0
    Image.open(picture.with_name("ood-ring8-best-seed1.png")).verify()
    assert picture.stat().st_mtime_ns == written, "another sampling seed has a picture of its own"
