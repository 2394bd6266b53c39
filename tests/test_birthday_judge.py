"""What the answers of judges say: against enumeration, closed forms and other implementations."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats

from bench.birthday.agreement import cohens_kappa
from bench.birthday.judge import Copies, Tally, Verdict, both, called_same, can_tell, copies, support, tally
from bench.birthday.record import Answer, Key, Kind, Shown, sealed
from bench.metrics.support_size import _variance, pair_limits


def key_of(pairs: Sequence[tuple[Kind, int, int]], samples: int = 1000) -> Key:
    """The farther down the list, the farther apart; pair k has the hash k."""
    shown = tuple(Shown(f"{k:016x}", kind, i, j, float(k)) for k, (kind, i, j) in enumerate(pairs))
    return sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model="m", dataset="d", revision="r", seed=0,
            samples=samples, pairs=shown,
        )
    )  # fmt: skip


def judged(copied: int, candidates: int, decoys: int = 50, samples: int = 1000) -> tuple[Key, dict[str, Answer]]:
    """A judge without a fault, and a list whose first pairs are copies."""
    listed: list[tuple[Kind, int, int]] = [("candidate", 2 * k, 2 * k + 1) for k in range(candidates)]
    key = key_of([*listed, *[("same", 0, 0)] * decoys, *[("different", 0, 1)] * decoys], samples)
    truth = ["y"] * copied + ["n"] * (candidates - copied) + ["y"] * decoys + ["n"] * decoys
    return key, {pair.hash: answer for pair, answer in zip(key.pairs, truth, strict=True)}  # type: ignore[misc]


def test_probabilities_are_those_of_two_beta_binomials() -> None:
    counts = Tally(candidates=7, called=3, same=10, found=8, different=12, mistaken=2)
    p = called_same(4, counts)
    expected = np.zeros(8)
    for a in range(5):
        for b in range(4):
            expected[a + b] += stats.betabinom(4, 8.5, 2.5).pmf(a) * stats.betabinom(3, 2.5, 10.5).pmf(b)
    np.testing.assert_allclose(p, expected, rtol=1e-10)


def test_rogan_and_gladens_estimate() -> None:
    counts = Tally(candidates=100, called=40, same=50, found=45, different=50, mistaken=5)
    assert copies(counts).value == pytest.approx(100 * (0.4 + 0.9 - 1) / (0.9 + 0.9 - 1))
    assert copies(Tally(100, 2, 50, 45, 50, 5)) == Copies(0.0, 0, copies(Tally(100, 2, 50, 45, 50, 5)).high)
    assert copies(Tally(100, 100, 50, 45, 50, 5)).value == 100
    for called in range(101):
        found = copies(Tally(100, called, 50, 45, 50, 5))
        assert 0 <= found.low <= found.value <= found.high <= 100


def test_more_answers_mean_more_copies() -> None:
    found = [copies(Tally(20, called, 20, 19, 20, 1)) for called in range(21)]
    for before, after in itertools.pairwise(found):
        assert before.low <= after.low
        assert before.value <= after.value
        assert before.high <= after.high


def test_the_interval_of_copies_covers() -> None:
    """Every outcome of decoys and candidates is enumerated with its probability."""
    m, n = 8, 10
    held = {
        (found, mistaken, called): copies(Tally(m, called, n, found, n, mistaken))
        for found in range(n + 1) for mistaken in range(n + 1) for called in range(m + 1) if found > mistaken
    }  # fmt: skip
    k = np.arange(n + 1)
    for sensitivity, false_alarm in ((1.0, 0.0), (0.9, 0.1), (0.8, 0.05)):
        p_found, p_mistaken = stats.binom(n, sensitivity).pmf(k), stats.binom(n, false_alarm).pmf(k)
        for t in (0, 2, 5, 8):
            hits = stats.binom(t, sensitivity).pmf(np.arange(t + 1))
            p_called = np.convolve(hits, stats.binom(m - t, false_alarm).pmf(np.arange(m - t + 1)))
            covered = sum(
                p_found[found] * p_mistaken[mistaken] * p_called[called] * (one.low <= t <= one.high)
                for (found, mistaken, called), one in held.items()
            )
            assert covered >= 0.95, (sensitivity, false_alarm, t, covered)


@pytest.mark.parametrize(
    ("found", "mistaken", "tells"),
    [(20, 0, True), (20, 20, False), (10, 10, False), (0, 0, False), (0, 20, False), (12, 9, False), (16, 4, True)],
)
def test_a_judge_who_cannot_tell(found: int, mistaken: int, tells: bool) -> None:
    counts = Tally(20, 10, 20, found, 20, mistaken)
    assert can_tell(counts) == tells
    table = [[found, 20 - found], [mistaken, 20 - mistaken]]
    assert (stats.fisher_exact(table, "greater").pvalue <= 0.05) == tells


def test_the_verdict_of_a_judge_who_cannot_tell_is_inconclusive() -> None:
    key, answers = judged(5, 20)
    always: dict[str, Answer] = dict.fromkeys(answers, "y")
    counts, found, read = support(key, always)
    assert (counts.called, found, read.verdict, read.value) == (20, None, Verdict.INCONCLUSIVE, None)
    assert "50 of 50" in read.why
    assert support(key, {})[2].verdict is Verdict.INCONCLUSIVE


def test_support_of_copies_that_end_before_the_list() -> None:
    key, answers = judged(30, 100)
    _, found, read = support(key, answers)
    assert found is not None
    assert found.value == 30
    assert found.low < 30 < found.high + 1
    assert read.verdict is Verdict.SUPPORTED
    assert read.value == pytest.approx(1000 * 999 / 2 / 30)
    # No two of these pairs share a sample. The limits are wider than Garwood's for a Poisson count.
    assert read.low is not None
    assert read.high is not None
    assert read.low <= 499500 / (stats.chi2.ppf(0.975, 2 * (30 + 1)) / 2)
    assert read.high >= 499500 / (stats.chi2.ppf(0.025, 2 * 30) / 2)
    assert read.low == 499500 / pair_limits(found.high, found.high * (1 - found.high / 499500), 0, 499500)[1]
    assert read.high == 499500 / pair_limits(found.low, found.low * (1 - found.low / 499500), 0, 499500)[0]


def test_support_where_no_copy_is_certain_is_a_lower_bound() -> None:
    _, found, read = support(*judged(0, 100))
    assert found is not None
    assert (found.value, found.low) == (0, 0)
    assert (read.verdict, read.high) == (Verdict.AT_LEAST, None)
    assert found.high == 0
    assert read.value == read.low == pytest.approx(499500 / -np.log(0.025)), "no copy: exp(-mean) is 2.5 %"


def test_support_is_at_most_where_the_list_is_too_short() -> None:
    """Ten pictures among a thousand samples: every pair of the list is a copy, and fifty thousand others are too."""
    _, _, read = support(*judged(20, 20))
    assert (read.verdict, read.low) == (Verdict.AT_MOST, None)
    assert read.value == pytest.approx(499500 / 20)
    assert "pairs=80" in read.why
    _, _, read = support(*judged(200, 200))
    assert "evaluate.n_samples=500" in read.why, "no page shows more than 200 pairs"
    key, answers = judged(0, 20)
    last = key.pairs[19].hash
    assert support(key, {**answers, last: "y"})[2].verdict is Verdict.INCONCLUSIVE


def test_pairs_that_share_a_sample_widen_the_interval() -> None:
    apart: list[tuple[Kind, int, int]] = [("candidate", 2 * k, 2 * k + 1) for k in range(40)]
    clique: list[tuple[Kind, int, int]] = [("candidate", i, j) for i in range(5) for j in range(i)]  # 10 pairs of 5
    decoys: list[tuple[Kind, int, int]] = [("same", 0, 0)] * 50 + [("different", 0, 1)] * 50

    def read(pairs: list[tuple[Kind, int, int]]) -> tuple[float, float]:
        key = key_of([*pairs, *decoys])
        answers: dict[str, Answer] = {
            p.hash: "y" if p.kind == "same" or k < 10 else "n" for k, p in enumerate(key.pairs)
        }
        found = support(key, answers)[2]
        assert found.low is not None
        assert found.high is not None
        return found.low, found.high

    alone, together = read(apart), read([*clique, *apart[:30]])
    assert together[0] < alone[0] < alone[1] < together[1]


def test_the_interval_of_the_support_covers_in_simulation() -> None:
    """Uniform and skewed distributions, with a judge without a fault: 95 % are promised, and the limits are wide."""
    generator = np.random.default_rng(5)
    weights = np.arange(1, 4001, dtype=float) ** -0.5
    for p in (np.full(3000, 1 / 3000), weights / weights.sum()):
        truth, s, covered = 1 / np.square(p).sum(), 300, 0
        for _ in range(100):
            drawn = generator.choice(len(p), s, p=p)
            i, j = np.nonzero(np.triu(drawn[:, None] == drawn, 1))
            others: list[tuple[Kind, int, int]] = [("candidate", 2 * k, 2 * k + 1) for k in range(40)]
            found: list[tuple[Kind, int, int]] = [("candidate", int(a), int(b)) for a, b in zip(i, j, strict=True)]
            decoys: list[tuple[Kind, int, int]] = [("same", 0, 0)] * 50 + [("different", 0, 1)] * 50
            key = key_of([*found, *others, *decoys], s)
            is_copy = [True] * len(found) + [False] * 40 + [True] * 50 + [False] * 50
            answers: dict[str, Answer] = {
                pair.hash: "y" if same else "n" for pair, same in zip(key.pairs, is_copy, strict=True)
            }
            read = support(key, answers)[2]
            assert read.verdict in (Verdict.SUPPORTED, Verdict.AT_LEAST)
            covered += (read.low or 0) <= truth <= (read.high or np.inf)
        assert covered >= 93, covered


def test_no_answer_and_cannot_tell_count_alike() -> None:
    key, answers = judged(5, 20)
    unsure: dict[str, Answer] = {**answers, key.pairs[0].hash: "?", key.pairs[25].hash: "?"}
    missing = {name: answer for name, answer in unsure.items() if answer != "?"}
    assert tally(key.pairs, unsure) == tally(key.pairs, missing) == Tally(20, 4, 50, 49, 50, 0)


def test_two_judges_say_same_where_both_do() -> None:
    first: dict[str, Answer] = {"a": "y", "b": "y", "c": "n", "d": "?"}
    second: dict[str, Answer] = {"a": "y", "b": "n", "c": "y"}
    assert both(first, second) == {"a": "y", "b": "?", "c": "?", "d": "?"}


def test_kappa_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    for _ in range(20):
        first, second = generator.choice(["y", "n", "?"], (2, 40), p=[0.5, 0.4, 0.1])
        second = np.where(generator.random(40) < 0.6, first, second)
        kappa = cohens_kappa(first.tolist(), second.tolist())
        assert kappa.value == pytest.approx(metrics.cohen_kappa_score(first, second), abs=1e-12)


def test_the_error_of_kappa_is_that_of_the_delta_method() -> None:
    """The gradient of kappa by autograd, with the covariance of multinomial frequencies."""
    table = torch.tensor([[20, 3, 1], [4, 15, 2], [0, 2, 6]], dtype=torch.float64)
    n = int(table.sum())
    words = "yn?"
    cells = [(i, j) for i in range(3) for j in range(3) for _ in range(int(table[i, j]))]
    kappa = cohens_kappa([words[i] for i, _ in cells], [words[j] for _, j in cells])
    p = (table / n).requires_grad_()
    expected = p.sum(0) @ p.sum(1)
    value = (p.trace() - expected) / (1 - expected)
    (gradient,) = torch.autograd.grad(value, p)
    flat, frequencies = gradient.flatten(), p.detach().flatten()
    variance = ((frequencies * flat**2).sum() - (frequencies @ flat) ** 2) / n
    assert kappa.value == pytest.approx(value.item())
    assert kappa.stderr == pytest.approx(variance.sqrt().item())
    assert kappa.value is not None
    assert kappa.stderr is not None
    assert kappa.low == pytest.approx(kappa.value - 1.959964 * kappa.stderr)


def test_kappa_of_full_agreement_and_of_one_answer() -> None:
    whole = cohens_kappa("yyn?", "yyn?")
    assert (whole.value, whole.low) == (1.0, None)
    assert cohens_kappa("yyy", "yyy").value is None
    one_sided = cohens_kappa("yyyy", "yyny")
    assert (one_sided.value, one_sided.low) == (0.0, None)  # they agree as often as by chance
    never = cohens_kappa("ynyn", "nyny")
    assert (never.value, never.low) == (-1.0, -1.0)


def test_pairs_of_a_group_count_with_the_variance_of_a_group() -> None:
    """Five samples that are all copies of each other: each is in four pairs, which makes six pairs of pairs."""
    clique: list[tuple[Kind, int, int]] = [("candidate", i, j) for i in range(5) for j in range(i)]
    others: list[tuple[Kind, int, int]] = [("candidate", 2 * k, 2 * k + 1) for k in range(10, 40)]
    key = key_of([*clique, *others, *[("same", 0, 0)] * 50, *[("different", 0, 1)] * 50])
    answers: dict[str, Answer] = {
        pair.hash: "y" if pair.kind == "same" or k < 10 else "n" for k, pair in enumerate(key.pairs)
    }
    _, found, read = support(key, answers)
    assert found is not None
    degrees = torch.zeros(1000, dtype=torch.int64)
    degrees[:5] = 4
    _, grouped = _variance(degrees)  # as the metric computes it from the samples themselves
    assert grouped == pytest.approx(2 * 5 * 6, rel=0.01)
    for limit, count, end in ((read.low, found.high, 1), (read.high, found.low, 0)):
        assert limit == 499500 / pair_limits(count, count * (1 - count / 499500), 60, 499500)[end]
