"""The gate: verdicts on rows whose truth is known, its statistics against peers, and planted regressions."""

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers_gate import board, failed, judged, one_of, rows_of
from scipy import stats

from bench.errors import UserError
from bench.gate.compare import p_value, paired, unpaired, upper_bound
from bench.gate.finding import FAILURES, Verdict
from bench.gate.items import items_of
from bench.gate.margins import margins_of
from bench.gate.report import exit_code
from bench.gate.selftest import calibrate, false_alarms_and_power
from bench.gate.sequential import LOOKS, in_turn, spent
from bench.gate.verdict import seeds_needed
from bench.schema import Relation, ResultRow, Source, Status

BASE = [20.1, 19.4, 20.8, 19.9, 20.3]
SAME = [19.8, 20.2, 20.5, 19.6, 20.4]
WORSE = [23.9, 23.1, 24.6, 23.8, 24.2]
FID = "fid[mnist-cnn]"


# Comparisons


def test_the_paired_comparison_is_that_of_scipy() -> None:
    found = paired(WORSE, BASE)
    expected = stats.ttest_rel(WORSE, BASE, alternative="greater")
    assert float(p_value(found)) == pytest.approx(expected.pvalue)
    two_sided = stats.ttest_rel(WORSE, BASE).confidence_interval(0.9)
    assert float(upper_bound(found, 0.05)) == pytest.approx(two_sided.high)


def test_the_comparison_of_as_many_other_seeds_is_welchs() -> None:
    rng = np.random.default_rng(0)
    new, base = 3 * rng.normal(size=(50, 5)) + 1, rng.normal(size=(50, 5))
    expected = stats.ttest_ind(new, base, axis=1, equal_var=False, alternative="greater")
    assert p_value(unpaired(new, base)) == pytest.approx(expected.pvalue)
    assert float(p_value(unpaired(new[0], base[0]), 0.5)) == pytest.approx(
        stats.ttest_ind(new[0] - 0.5, base[0], equal_var=False, alternative="greater").pvalue
    )


def test_few_seeds_against_many_are_no_more_certain_than_welchs() -> None:
    rng = np.random.default_rng(0)
    new, base = rng.normal(size=(200, 3)), rng.normal(size=(200, 8))
    found = unpaired(new, base)
    welch = stats.ttest_ind(new, base, axis=1, equal_var=False)
    assert (found.df <= welch.df + 1e-9).all()
    assert (found.stderr >= np.sqrt(new.var(1, ddof=1) / 3 + base.var(1, ddof=1) / 8) - 1e-12).all()


def test_few_skewed_seeds_against_many_raise_no_more_false_alarms_than_promised() -> None:
    rng = np.random.default_rng(0)
    new, base = 1 - rng.exponential(size=(20_000, 3)), 1 - rng.exponential(size=(20_000, 8))
    welch = stats.ttest_ind(new, base, axis=1, equal_var=False, alternative="greater").pvalue
    assert (welch <= 0.05).mean() > 0.08
    assert (p_value(unpaired(new, base)) <= 0.05).mean() <= 0.06
    assert (p_value(unpaired(base, new)) <= 0.05).mean() <= 0.06


def test_the_printed_effect_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)

    def draw(size: tuple[int, int]) -> "np.ndarray":
        return rng.normal(size=size) * np.where(rng.random(size) < 0.1, 10.0, 1.0)

    alarms, power = false_alarms_and_power(paired, draw, draw, 5, 5, 5000)
    assert alarms <= 0.06
    assert power >= 0.75


def test_a_sample_shows_at_least_the_spread_of_its_own_draws() -> None:
    constant = [1.0, 1.0, 1.0]
    assert float(unpaired(constant, constant).stderr) == 0
    assert float(unpaired(constant, constant, 0.6, 0.8).stderr) == pytest.approx((1 / 3) ** 0.5)


def test_without_spread_a_shift_is_certain() -> None:
    assert float(p_value(paired([2.0, 2.0], [1.0, 1.0]))) == 0
    assert float(p_value(paired([1.0, 1.0], [1.0, 1.0]))) == 1
    assert float(p_value(paired([2.0, 2.0], [1.0, 1.0]), 1.0)) == 1


# Verdicts


def test_the_same_rows_pass_exactly() -> None:
    findings = judged(board(), board())
    assert {(one.verdict, one.tier) for one in findings} == {(Verdict.PASS, "exact")}
    assert exit_code(findings) == 0


@pytest.mark.parametrize(("seeds", "tier"), [(range(5), "paired"), (range(5, 10), "seeds")])
def test_worse_better_and_unchanged_are_told_apart(seeds: range, tier: str) -> None:
    verdicts = {}
    for name, values in {"worse": WORSE, "same": SAME, "better": [v - 8 for v in WORSE]}.items():
        found = one_of(judged(rows_of(BASE), rows_of(values, seeds)))
        assert found.tier == tier
        assert found.detectable is not None
        assert found.detectable > 0
        verdicts[name] = found.verdict
    assert verdicts == {"worse": Verdict.REGRESSION, "same": Verdict.PASS, "better": Verdict.IMPROVED}


def test_the_direction_of_a_metric_counts() -> None:
    (found,) = judged(rows_of(BASE, higher_is_better=True), rows_of(WORSE, higher_is_better=True))
    assert found.verdict is Verdict.IMPROVED
    assert (found.base, found.new) == (pytest.approx(np.mean(BASE)), pytest.approx(np.mean(WORSE)))
    assert found.worse == pytest.approx(np.mean(BASE) - np.mean(WORSE))
    assert judged(rows_of(BASE, higher_is_better=None), rows_of(WORSE, higher_is_better=None)) == []


def test_costs_and_quarantined_metrics_are_advisory() -> None:
    for changes in ({"rank": 210}, {"reason": "biased upwards"}, {"model_family": "control"}, {"model_family": "data"}):
        findings = judged(rows_of(BASE, **changes), rows_of(WORSE, **changes))
        assert one_of(findings).verdict is Verdict.REGRESSION
        assert not one_of(findings).blocking
        assert exit_code(findings) == 3, "nothing blocking was compared"


def test_a_margin_asks_both_ways() -> None:
    def verdict(values: list[float], margin: float) -> Verdict:
        return one_of(judged(rows_of(BASE), rows_of(values), margins={FID: margin})).verdict

    assert verdict(WORSE, 0.0) is Verdict.REGRESSION
    assert verdict(WORSE, 2.0) is Verdict.REGRESSION
    assert verdict(WORSE, 3.85) is Verdict.INCONCLUSIVE
    assert verdict(WORSE, 6.0) is Verdict.PASS
    assert verdict(SAME, 2.0) is Verdict.PASS
    assert verdict(SAME, 0.3) is Verdict.INCONCLUSIVE
    assert "seeds a side" in one_of(judged(rows_of(BASE), rows_of(SAME), margins={FID: 0.3})).reason


def test_one_seed_is_inconclusive_unless_it_is_the_same_number() -> None:
    findings = judged(rows_of([20.0]), rows_of([30.0]))
    assert one_of(findings).verdict is Verdict.INCONCLUSIVE
    assert (exit_code(findings), exit_code(findings, allow_inconclusive=True)) == (3, 0)
    assert one_of(judged(rows_of([20.0]), rows_of([20.0 * (1 + 1e-9)]))).verdict is Verdict.PASS


def test_too_few_seeds_for_many_comparisons_are_inconclusive_and_enough_are_said() -> None:
    def verdicts(seeds: int) -> set[Verdict]:
        findings = judged(board(5, seeds), board(5, seeds, stream=1))
        return {one.verdict for one in findings}

    assert verdicts(3) == {Verdict.INCONCLUSIVE}
    reason = judged(board(5, 3), board(5, 3, stream=1))[0].reason
    assert f"for 10 blocking comparisons: {seeds_needed(10)} a side suffice" in reason
    assert verdicts(seeds_needed(10)) <= {Verdict.PASS, Verdict.IMPROVED}


def test_what_is_missing_is_said_with_its_reason() -> None:
    base = board()
    other = [row for row in base if row.model == "model0"]
    findings = judged(base, other)
    missing = [one for one in findings if one.verdict is Verdict.MISSING]
    assert {one.line.model for one in missing} == {"model1"}
    assert (exit_code(findings), exit_code(findings, allow_inconclusive=True)) == (3, 0)
    skipped = failed(range(5), "has no likelihood", status="skipped")
    assert "has no likelihood" in one_of(judged(rows_of(BASE), skipped)).reason
    assert one_of(judged(rows_of(BASE), rows_of(BASE, metric="is[mnist-cnn]"))).verdict is Verdict.MISSING


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric_version": 2}, "metric_version 1 -> 2"), ({"extractor_hash": "e9"}, "extractor_hash e0 -> e9"),
        ({"n_fake": 5000}, "n_fake 1000 -> 5000"), ({"data_revision": "d9"}, "data_revision d0 -> d9"),
        ({"unit": "bits"}, "unit none -> bits"), ({"n_draws": 64}, "draws K none -> 64"),
        ({"relation": Relation.LOWER_BOUND}, "relation None -> lower_bound"),
        ({"measuring_key": "k"}, "other settings"),
        ({"higher_is_better": True}, "better is smaller -> larger"),
    ],
)  # fmt: skip
def test_another_protocol_is_never_compared(changes: dict[str, object], said: str) -> None:
    findings = judged(rows_of(BASE), rows_of(WORSE, **changes))
    assert one_of(findings).verdict is Verdict.PROTOCOL_CHANGED
    assert said in one_of(findings).reason
    assert exit_code(findings, allow_inconclusive=True) == 3, "a new baseline is needed"


@pytest.mark.parametrize("other", ["", "k"])
def test_seeds_that_were_measured_unlike_each_other_are_no_pass(other: str) -> None:
    unlike = [row for seed, value in enumerate(WORSE) for row in rows_of([value], [seed], measuring_key=f"k{seed}")]
    for base, new, side in ((rows_of(BASE, measuring_key=other), unlike, "new rows"),
                            (unlike, rows_of(BASE, measuring_key=other), "baseline")):  # fmt: skip
        findings = judged(base, new)
        assert one_of(findings).verdict is Verdict.PROTOCOL_CHANGED
        assert f"in the {side} no settings of the metric" in one_of(findings).reason
        assert exit_code(findings, allow_inconclusive=True) == 3
    assert calibrate(items_of(unlike, "ROWS")) == []


def test_seeds_that_are_skipped_now_are_no_pass() -> None:
    skipped = failed([3, 4], reason="it does not apply", status=Status.SKIPPED)
    found = one_of(judged(rows_of(BASE), [*rows_of(SAME[:3]), *skipped]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "no value of seed 3, 4 any more: it does not apply"
    assert one_of(judged(rows_of(BASE), [*rows_of([99.0] * 3), *skipped])).verdict is Verdict.REGRESSION
    assert one_of(judged(rows_of(BASE), rows_of(SAME[:3]))).verdict is Verdict.PASS


def test_better_numbers_with_a_note_that_the_baseline_lacks_are_no_pass() -> None:
    """Copies of training examples have the best distances there are."""
    copies = rows_of([0.5] * 5, reason="100 % of the samples are training examples, value for value")
    found = one_of(judged(rows_of(BASE), copies))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == (
        "seed 0, 1, 2, 3, 4, unlike the baseline: 100 % of the samples are training examples, value for value"
    )
    assert one_of(judged(copies, rows_of([0.4] * 5, reason="100 % of the samples are"))).verdict is not found.verdict
    assert one_of(judged(rows_of(BASE), rows_of([99.0] * 5, reason="a note"))).verdict is Verdict.REGRESSION
    look = in_turn(items_of(rows_of(BASE), "BASE"), items_of(copies[:3], "NEW"))
    assert (one_of(look.findings).verdict, look.seeds, look.wanted) == (Verdict.INCONCLUSIVE, 3, {})
    assert "seed 0, 1, 2, unlike the baseline" in one_of(look.findings).reason
    worse = items_of(rows_of([99.0] * 3, reason="a note"), "NEW")
    assert one_of(in_turn(items_of(rows_of(BASE), "BASE"), worse).findings).verdict is Verdict.REGRESSION


@pytest.mark.parametrize("seeds", [range(3), range(5, 8)])
def test_numbers_beyond_the_range_of_floats_are_no_pass(seeds: range) -> None:
    found = one_of(judged(rows_of([1e308, -1e308, 1e308]), rows_of([1e308, 1.1e308, 1.2e308], seeds)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "the numbers are too large to be compared"


def test_a_file_may_hold_a_metric_under_two_protocols() -> None:
    base = [*rows_of(BASE), *rows_of(BASE, n_fake=5000)]
    findings = judged(base, [*rows_of(WORSE), *rows_of(SAME, n_fake=5000)])
    assert sorted(one.verdict for one in findings) == ["pass", "regression"]


def test_a_changed_configuration_is_compared_and_named() -> None:
    base = rows_of(BASE, group="a", config=json.dumps({"model.lr": 0.001, "train.batch_size": 64}))
    new = rows_of(WORSE, group="b", config=json.dumps({"model.lr": 0.1, "train.batch_size": 64}))
    found = one_of(judged(base, new))
    assert found.verdict is Verdict.REGRESSION
    assert "model.lr 0.001 -> 0.1" in found.reason
    assert "batch_size" not in found.reason
    two = [*base, *rows_of(BASE, group="c")]
    assert {one.verdict for one in judged(two, new)} == {Verdict.MISSING}, "which of the two it replaces is unknown"


def test_failures_are_a_test_of_their_own() -> None:
    def found(before: int, now: int, of: int = 8) -> tuple[Verdict, int]:
        base = [*failed(range(before)), *rows_of(np.linspace(19, 21, of - before), range(before, of))]
        new = [*failed(range(now)), *rows_of(np.linspace(19.1, 21.1, of - now), range(now, of))]
        findings = judged(base, new)
        return one_of(findings, FAILURES).verdict, exit_code(findings)

    assert found(0, 5) == (Verdict.REGRESSION, 1)
    assert found(0, 2) == (Verdict.INCONCLUSIVE, 3)
    assert found(2, 2)[0] is Verdict.PASS
    assert found(2, 1)[0] is Verdict.PASS
    findings = judged(rows_of(BASE), failed(range(5)))
    assert one_of(findings, FAILURES).verdict is Verdict.REGRESSION
    assert "5 of 5 runs failed, 0 of 5 before (diverged at example 640)" in one_of(findings, FAILURES).reason
    assert one_of(findings).verdict is Verdict.MISSING
    assert not any(one.metric == FAILURES for one in judged(rows_of(BASE), rows_of(SAME)))


def test_several_draws_of_a_training_are_no_seeds_of_their_own() -> None:
    rng = np.random.default_rng(0)

    def panel(shared: float, stream: int) -> list:  # type: ignore[type-arg]
        seeds, draws = np.random.default_rng(stream).normal(size=5), shared * rng.normal(size=4)
        rows = []
        for draw in range(4):
            values = 20 + seeds + draws[draw] + 0.1 * rng.normal(size=5)
            rows += rows_of(values, range(10 * stream, 10 * stream + 5), measuring_key=f"m{draw}")
        return rows

    found = one_of(judged(panel(0.0, 0), panel(0.0, 1)))
    assert found.df is not None
    assert 4 <= found.df <= 8, "five seeds a side, not twenty"
    assert (found.n_base, found.n_new) == (5, 5)
    shared = one_of(judged(panel(3.0, 0), panel(3.0, 1)))
    assert shared.stderr is not None
    assert found.stderr is not None
    assert shared.stderr > 1.5 * found.stderr, "all trainings share what a sampling seed does"


# Metrics that changed


def test_stored_samples_tell_a_changed_metric_from_a_changed_model() -> None:
    golden = {"source": Source.EXTERNAL_SAMPLES, "model": "goldens", "group": "s", "checkpoint": "given"}
    base = [*rows_of(BASE), *rows_of([3.25], **golden)]
    fine = judged(base, [*rows_of(WORSE), *rows_of([3.25 * (1 + 1e-10)], **golden)])
    assert {(one.line.model, one.verdict) for one in fine} == {("goldens", "pass"), ("dcgan", "regression")}
    moved = judged(base, [*rows_of(WORSE), *rows_of([3.25 * (1 + 1e-7)], **golden)])
    assert {one.verdict for one in moved} == {Verdict.METRIC_CHANGED}
    assert exit_code(moved, allow_inconclusive=True) == 1
    other = judged(base, [*rows_of(SAME), *rows_of([3.25], **golden | {"group": "t"})])
    assert {one.verdict for one in other if one.line.model == "goldens"} == {Verdict.PROTOCOL_CHANGED}


def test_a_metric_that_moves_alone_on_reproduced_trainings_is_blamed() -> None:
    base = [*rows_of(BASE), *rows_of(SAME, metric="kid[mnist-cnn]")]
    findings = judged(base, [*rows_of(WORSE), *rows_of(SAME, metric="kid[mnist-cnn]")])
    assert one_of(findings).verdict is Verdict.METRIC_CHANGED
    assert "reproduced" in one_of(findings).reason
    assert one_of(findings, "kid[mnist-cnn]").verdict is Verdict.PASS
    # The likelihood of a flow whose inverse broke is the same, and its samples are not: that is the model.
    ll = {"metric": "log_likelihood", "n_fake": None}
    broken = judged([*rows_of(BASE), *rows_of(SAME, **ll)], [*rows_of(WORSE), *rows_of(SAME, **ll)])
    assert one_of(broken).verdict is Verdict.REGRESSION
    # What is the same for all seeds says nothing of the trainings.
    flat = {"metric": "kid[mnist-cnn]"}
    trivial = judged([*rows_of(BASE), *rows_of([1.0] * 5, **flat)], [*rows_of(WORSE), *rows_of([1.0] * 5, **flat)])
    assert one_of(trivial).verdict is Verdict.REGRESSION


def test_a_likelihood_above_that_of_the_datas_own_density_is_a_regression() -> None:
    about = {"metric": "log_likelihood", "higher_is_better": True, "relation": Relation.EXACT, "n_draws": 1}
    oracle = rows_of([-2.4], model="oracle", model_family="data", group="o", stderr=0.01, **about)
    base = [*oracle, *rows_of(np.linspace(-2.8, -2.7, 5), **about)]
    better = judged(base, [*oracle, *rows_of(np.linspace(-2.5, -2.41, 5), **about)])
    assert {one.line.model: one.verdict for one in better} == {"oracle": "pass", "dcgan": "improved"}
    beyond = judged(base, [*oracle, *rows_of(np.linspace(-1.9, -1.8, 5), **about)])
    (found,) = [one for one in beyond if one.line.model == "dcgan"]
    assert found.verdict is Verdict.REGRESSION
    assert "better than the data's own density (-2.4)" in found.reason


# Bad input


def test_rows_that_say_two_things_or_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="has no rows"):
        items_of([], "BASE")
    with pytest.raises(UserError, match="of seed 0 stands there twice"):
        items_of([*rows_of(BASE), *rows_of(WORSE)], "BASE")
    items_of([*rows_of(BASE), *rows_of(BASE)], "BASE")  # the same number twice is one
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="measure it again"):
            items_of(rows_of([1.0, value]), "BASE")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fid", "give METRIC=NUMBER"), ("fid=", "give METRIC=NUMBER"), ("fib=1", "nearest: fid"),
        ("fid=five", "no number"), ("fid=5%", "no number"), ("fid=nan", "finite"), ("fid=-1", "not negative"),
        ("fid=1 nats", "no unit, not in nats"), ("log_likelihood=1 bits/dim", "in nats, not in bits/dim"),
        ("parameters=3", "no direction"),
    ],
)  # fmt: skip
def test_margins_that_make_no_sense_are_refused(text: str, said: str) -> None:
    rows = [*board(), *rows_of(BASE, metric="parameters", higher_is_better=None)]
    with pytest.raises(UserError, match=said):
        margins_of([text], items_of(rows, "BASE"))


def test_margins_are_found_by_their_short_name() -> None:
    items = items_of(board(), "BASE")
    assert margins_of(["fid=1.5", "log_likelihood=2 nats"], items) == {FID: 1.5, "log_likelihood": 2.0}


# Seeds in turn


def test_the_looks_spend_no_more_than_alpha() -> None:
    assert sum(spent(look) for look in range(len(LOOKS))) == pytest.approx(0.05)
    assert all(spent(look) > 0 for look in range(len(LOOKS)))


def test_seeds_are_asked_for_in_turn() -> None:
    base = items_of(board(1, 8), "BASE")

    def look(seeds: int, worse: float):  # type: ignore[no-untyped-def]
        return in_turn(base, items_of(board(1, seeds, worse, stream=1), "NEW"))

    assert look(2, 0).wanted == {"mnist5k": {"model0": [2]}}
    first = look(3, 1.0)
    assert (first.seeds, first.wanted) == (3, {"mnist5k": {"model0": [3, 4]}})
    assert look(5, 1.0).wanted == {"mnist5k": {"model0": [5, 6, 7]}}
    last = look(8, 1.0)
    assert (last.seeds, last.wanted) == (8, {})
    good, bad = look(3, -3.0), look(3, 40.0)
    assert (good.seeds, good.wanted, exit_code(good.findings)) == (3, {}, 0)
    assert (bad.seeds, bad.wanted, exit_code(bad.findings)) == (3, {}, 1)


def test_the_seeds_to_run_next_are_those_of_the_baseline() -> None:
    """Only the same seeds can be compared in pairs; where the baseline has no more of them, any are taken."""
    base = items_of(board(1, 4, start=10), "BASE")
    wanted = [in_turn(base, items_of(board(1, n, start=10, stream=1), "NEW")).wanted for n in (1, 3)]
    assert wanted == [{"mnist5k": {"model0": [11, 12]}}, {"mnist5k": {"model0": [0, 13]}}]


# Planted regressions


def test_a_worse_learning_rate_is_caught_among_many_models() -> None:
    base, new = board(4, 5), board(4, 5, stream=1)
    rng = np.random.default_rng(2)
    planted = [
        dataclasses.replace(row, group="slow", value=row.value - 40 + rng.normal()) if row.model == "model2"
        and row.metric == "log_likelihood" and row.value is not None
        else dataclasses.replace(row, group="slow") if row.model == "model2" else row
        for row in new
    ]  # fmt: skip
    findings = judged(base, planted)
    caught = [(one.line.model, one.metric) for one in findings if one.verdict is Verdict.REGRESSION]
    assert caught == [("model2", "log_likelihood")]
    assert exit_code(findings) == 1
    assert exit_code(judged(base, new)) == 0


def test_draws_of_a_training_make_its_mean_surer() -> None:
    """Four draws with an error of 1 each: a training's mean has 1/2, and that of three trainings 1/2 / sqrt 3."""

    def rows(value: float, seeds: range) -> list[ResultRow]:
        panel = [rows_of([value] * 3, seeds, measuring_key=f"m{draw}", stderr_draws=1.0) for draw in range(4)]
        return [row for draw in panel for row in draw]

    found = one_of(judged(rows(20.0, range(3)), rows(20.5, range(3, 6))))
    assert found.stderr == pytest.approx(math.sqrt(2 / 3) / 2)


def test_what_a_sampling_seed_does_to_all_trainings_is_in_the_error() -> None:
    """v = a + b: three trainings of variance 1, two draws of variance 2 that all trainings share."""

    def rows(shift: float, seeds: range) -> list[ResultRow]:
        panel = [rows_of([20 + shift + a + b for a in (0.0, 1.0, 2.0)], seeds, measuring_key=f"m{b}") for b in (-1, 1)]
        return [row for draw in panel for row in draw]

    found = one_of(judged(rows(0.0, range(3)), rows(0.1, range(3, 6))))
    assert found.stderr == pytest.approx(math.sqrt(2 * 1 / 3 + 2 * 2 / 2))
