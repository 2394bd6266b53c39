"""Two models on the same test examples: the statistics, what is certified, and the command."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers_rows import make_row

from bench.cli.main import main
from bench.errors import UserError
from bench.rows.items import items_path, read_items, write_items
from bench.rows.store import read_rows, write_rows
from bench.runs.sides import Side, two_sides
from bench.schema import Relation, Status
from bench.tables.paired import Difference, paired_difference, verdict

EXACT, LOWER, UPPER, ESTIMATE = Relation.EXACT, Relation.LOWER_BOUND, Relation.UPPER_BOUND, Relation.ESTIMATE


def test_one_seed_each_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=40)
    a, b = hard + rng.normal(size=40) + 0.2, hard + rng.normal(size=40)
    found = paired_difference(a[None], b[None])
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert found.value == pytest.approx((a - b).mean())
    assert found.of_seeds is None
    swapped = paired_difference(b[None], a[None])
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_seeds_alone_are_welchs_interval() -> None:
    """All examples alike within a seed: only training varies."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), 3 * rng.normal(size=8)
    found = paired_difference(np.repeat(a[:, None], 20, 1), np.repeat(b[:, None], 20, 1))
    theirs = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    draws, n, sides = 1500, 30, ((3, 0.2), (4, 0.4))
    held = 0
    for _ in range(draws):
        hard = 3 * rng.normal(size=n)
        a, b = (
            hard + rng.normal(size=n) + spread * rng.normal(size=(m, 1)) + 0.3 * rng.normal(size=(m, n))
            for m, spread in sides
        )
        found = paired_difference(a, b)
        held += found.low < 0 < found.high
    assert 0.93 < held / draws < 0.98


def test_equal_models_and_too_few_examples() -> None:
    one = np.arange(6.0)[None]
    found = paired_difference(one, one)
    assert (found.value, found.stderr, found.low, found.high) == (0, 0, 0, 0)
    assert "no difference" in verdict(found, EXACT, EXACT)
    for a, b in ((one, one[:, :5]), (one[:, :1], one[:, :1])):
        with pytest.raises(UserError, match="same test examples"):
            paired_difference(a, b)


def test_the_verdict_certifies_what_no_truth_can_contradict() -> None:
    """Every relation against every other: what is said is what holds for all truths that the relations allow."""
    places = {"above": (0.5, 1.5), "around": (-0.5, 0.5), "below": (-1.5, -0.5)}
    for a, b, (where, (low, high)) in itertools.product(Relation, Relation, places.items()):
        difference = Difference((low + high) / 2, 0.25, 0.25, None, low, high, 100)
        # How far A's truth less B's may lie below and above the interval.
        may_fall = a in (UPPER, ESTIMATE) or b in (LOWER, ESTIMATE)
        may_rise = a in (LOWER, ESTIMATE) or b in (UPPER, ESTIMATE)
        least, most = -math.inf if may_fall else low, math.inf if may_rise else high
        said = verdict(difference, a, b)
        if least > 0:
            assert said.startswith("A is better"), (a, b, where)
        elif most < 0:
            assert said.startswith("B is better"), (a, b, where)
        elif a is EXACT and b is EXACT:
            assert said.startswith("no difference is seen")
        else:
            assert said.startswith("not certified"), (a, b, where)
        both_exact = a is EXACT and b is EXACT
        assert (", certified" in said) == ("better" in said and not both_exact)


HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x01\x00" + bytes([len(HEADER), 0]) + HEADER, b"\x93NUMPY\x02\x00\x02\0\0\0{}"],
)
def test_files_that_hold_something_else_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "items.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"items\.npy"):
        read_items(tmp_path / "items.npy")


def test_values_come_back_and_only_finite_ones(tmp_path: Path) -> None:
    path = tmp_path / "items.npy"
    values = np.random.default_rng(0).normal(size=7)
    write_items(path, values)
    assert np.array_equal(read_items(path), values)
    assert np.array_equal(np.load(path), values)
    for wrong in (np.array([1.0, math.nan]), np.zeros((2, 2))):
        write_items(path, wrong)
        with pytest.raises(UserError, match=r"items\.npy"):
            read_items(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="does not hold"):
        read_items(path)


def run_folder(root: Path, model: str, seed: int, values: np.ndarray, relation: str = "exact", **changes: Any) -> str:
    """A run as it lies on disk, with the log-likelihoods of its test examples."""
    folder = root / f"toy-{model}-s{seed}"
    folder.mkdir(parents=True)
    row = make_row(
        run_id=folder.name, training_key=f"{model}{seed}", group=model, model=model, model_family="flow", seed=seed,
        measuring_key="k0", metric="log_likelihood", unit="nats", higher_is_better=True, relation=Relation(relation),
        value=float(values.mean()), n_real=len(values), n_fake=None, extractor="", extractor_hash="",
        n_draws=1 if relation == "exact" else 16,
    )  # fmt: skip
    oracle = replace(row, model="oracle", model_family="data", value=0.0)
    write_rows(folder / "rows.jsonl", [oracle, replace(row, **changes)])
    write_items(items_path(folder, "best", "k0"), values)
    return str(folder)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    code = main(["compare", *arguments])
    out = capsys.readouterr()
    assert (code == 0) == (out.err == "")
    assert out.err.count("\n") <= 1, "an error is one line"
    return out.out + out.err


def test_the_command_pairs_examples_and_gathers_seeds(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=60)
    maf = [run_folder(workplace / "runs", "maf", s, hard + 0.1 * rng.normal(size=60)) for s in (0, 1)]
    nsf = [run_folder(workplace / "runs", "nsf", s, hard + 1 + 0.1 * rng.normal(size=60)) for s in (0, 1, 2)]
    vae = run_folder(workplace / "runs", "vae", 0, hard + 2 + 0.1 * rng.normal(size=60), "lower_bound")
    text = said([maf[0], nsf[0]], capsys)
    a, b = two_sides([maf[0], nsf[0]], "best")
    found = paired_difference(a.items, b.items)
    assert f"A - B  {found.value:+.3f} ± {found.stderr:.3f}" in text
    assert found.stderr < 0.05, "what makes an example hard cancels"
    assert "exact; seed 0" in text
    assert "these trained models" in text
    assert "B is better: its exact value exceeds A's exact value" in text
    text = said(["runs/*nsf*", *maf], capsys)
    assert "seeds 0, 1, 2" in text
    assert "of training with other seeds" in text
    assert "A is better" in text
    text = said([vae, maf[0]], capsys)
    assert "lower bound, K = 16; seed 0" in text
    assert "A is better, certified: its lower bound exceeds B's exact value" in text
    low = run_folder(workplace / "low", "iwae", 0, hard - 1 + rng.normal(size=60), "lower_bound")
    assert "not certified: A's bound leaves its truth on either side" in said([low, maf[0]], capsys)
    assert "not certified: both are bounds" in said([low, vae], capsys)
    assert "these runs are of 3" in said(["runs"], capsys)
    assert "these runs are of 1" in said(maf, capsys)


def test_what_a_reader_of_a_likelihood_must_know_stands_below_it(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=9)
    caveat = "log Z is estimated by AIS: the likelihood is biased upwards"
    rbms = [run_folder(workplace / "runs", "rbm", seed, values, "estimate", reason=caveat) for seed in (0, 1)]
    maf = run_folder(workplace / "runs", "maf", 0, values - 1)
    lines = said([*rbms, maf], capsys).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["A", "log", "B", "A"]
    assert lines[2].strip() == caveat


@pytest.mark.parametrize(
    ("given", "whole"),
    [([EXACT, EXACT], EXACT), ([EXACT, LOWER], LOWER), ([LOWER, LOWER], LOWER), ([EXACT, UPPER], ESTIMATE),
     ([LOWER, UPPER], ESTIMATE), ([EXACT, ESTIMATE], ESTIMATE)],
)  # fmt: skip
def test_seeds_together_are_what_each_is(given: list[Relation], whole: Relation) -> None:
    for order in (given, given[::-1]):
        assert Side(tuple(make_row(relation=one) for one in order), np.zeros((2, 3))).relation is whole


def test_the_parts_of_the_error_are_told_apart(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All examples alike within a seed, so that all of the error is that of training."""
    runs = [run_folder(workplace, model, seed, np.full(9, float(seed))) for model in "ab" for seed in (0, 2)]
    assert "± 0.0 of the test examples, 1.4 of training with other seeds" in said(runs, capsys)


def test_what_cannot_be_compared_says_why(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    one, two = (run_folder(workplace / "runs", name, 0, values) for name in ("maf", "nsf"))
    assert "is no run" in said(["nothing", one], capsys)
    assert "no log-likelihood of its final checkpoint" in said(["--checkpoint", "final", one, two], capsys)
    gan = run_folder(
        workplace / "gan", "gan", 0, values, value=None, status=Status.SKIPPED, reason="the model has no likelihood"
    )
    assert "checkpoint: the model has no likelihood" in said([one, gan], capsys)
    other = run_folder(workplace / "other", "vae", 0, values, data_revision="d1")
    assert "same test examples" in said([one, other], capsys)
    blind, knowing = (
        run_folder(workplace / "graphs", f"of-{order}", 0, values, metric=f"log_likelihood[{order}]")
        for order in ("any-order", "data-order")
    )
    assert "[any-order] and log_likelihood[data-order] are not of the same thing" in said([blind, knowing], capsys)
    of_other = run_folder(workplace / "graphs", "of-other", 0, values, dataset="moses", metric="log_likelihood[x]")
    assert "same test examples" in said([blind, of_other], capsys), "whatever their names"
    before = run_folder(workplace / "before", "rvae", 0, values)  # as measured before there were two names
    text = said([before, blind], capsys)
    assert f"{before}: its log_likelihood does not say whether" in text
    assert f"`genbench evaluate {before} metric=[likelihood] rerun=true`" in text
    again = run_folder(workplace / "again", "maf", 0, values)
    assert "same model and seed" in said([one, again, two], capsys)
    write_items(items_path(Path(two), "best", "k0"), values + 1e-6)
    assert "rerun=true" in said([one, two], capsys)
    items_path(Path(two), "best", "k0").unlink()
    assert "keeps no log-likelihoods" in said([one, two], capsys)


def test_a_run_keeps_what_its_mean_is_made_of(workplace: Path) -> None:
    assert main(["run", "model=gaussian", "data=two_moons", "data.n_train=128", "data.n_val=32", "data.n_test=50",
                 "metric=[likelihood]", "evaluate.n_samples=10"]) == 0  # fmt: skip
    (file,) = workplace.glob("runs/*/*/items-best-*.npy")
    folder = file.parent
    (row,) = [
        row for row in read_rows(folder / "rows.jsonl") if (row.model, row.metric) == ("gaussian", "log_likelihood")
    ]
    assert file == items_path(folder, "best", row.measuring_key)
    assert read_items(file).mean() == pytest.approx(row.value, rel=1e-12)
    rows, values = (folder / "rows.jsonl").read_bytes(), file.read_bytes()
    file.unlink()
    assert main(["evaluate", str(folder), "metric=[likelihood]", "rerun=true"]) == 0
    assert (folder / "rows.jsonl").read_bytes() == rows, "the same numbers"
    assert file.read_bytes() == values
