"""The court: a sound metric passes, a blind and a fooled one are found; its views."""

import argparse

import pytest
import torch

from bench.cli import court as command
from bench.errors import UserError
from bench.evaluation.court import CHARGES, CLAIMS, Finding, Sees, _finding, hold_court


def finding(series: list[list[float]], must: str, sign: int = -1) -> Finding:
    return _finding("m", Sees.BOTH, sign, "c", must, torch.tensor(series).double())


def test_who_notices() -> None:
    assert finding([[1, 2], [3, 4], [5, 6]], "notice").passed
    assert not finding([[1, 2], [5, 6], [3, 4]], "notice").passed, "it gets better from the first step to the second"
    assert not finding([[1, 4], [2, 5], [3, 6]], "notice").passed, "ideal and worst overlap"
    assert not finding([[1, 2], [3, 4], [5, 6]], "notice", sign=1).passed, "it calls worse better"


def test_who_is_fooled() -> None:
    assert finding([[5, 6], [5, 7]], "not be fooled").passed
    assert not finding([[5, 6], [3, 4], [9, 9]], "not be fooled").passed, "one step is better than all ideal ones"
    assert not finding([[5, 6], [7, 8]], "not be fooled", sign=1).passed
    assert not finding([[0.9, 1.0], [1.0, 1.0]], "not be fooled", sign=1).passed, "it ends at 1"
    assert finding([[1.0, 1.0], [1.0, 1.0]], "not be fooled", sign=1).passed


def test_every_claim_is_charged_and_every_charge_concerns_somebody() -> None:
    for sees, _ in CLAIMS.values():
        assert any(sees in charge.noticed_by for charge in CHARGES), sees
    for charge in CHARGES:
        assert charge.noticed_by | charge.fools, charge.title
        assert not charge.noticed_by & charge.fools


@pytest.mark.slow
def test_known_verdicts() -> None:
    charges = [charge for charge in CHARGES if charge.title in ("all shifted", "training copies behind noise")]
    found = {(one.charge, one.metric): one.passed for one in hold_court(3, charges)}
    assert found["all shifted", "fid"]
    assert found["training copies behind noise", "copies"]
    assert not found["training copies behind noise", "copying_statistic"], "noise hides the copies from it"


def test_views() -> None:
    findings = [
        Finding("fid", Sees.BOTH, "a", (1.0, 2.0), 0.1, "notice", True),
        Finding("fid", Sees.BOTH, "b", (1.0, 2.0), 0.1, "not be fooled", False),
        Finding("recall", Sees.DIVERSITY, "b", (1.0, 0.5), 0.1, "notice", False),
    ]
    assert command.to_markdown(findings).splitlines()[2:] == [
        "| a | pass |  |", "| b | **FAIL**: fooled | **FAIL**: blind |",
    ]  # fmt: skip
    assert command.to_csv(findings).splitlines()[1] == 'fid,both,"a",notice,True,1,2,0.1'


@pytest.mark.parametrize(("options", "reason"), [(["--repetitions", "1"], "at least 2"), (["--out", "x.txt"], ".csv")])
def test_mistakes(options: list[str], reason: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(UserError, match=reason):
        command.main(parser.parse_args(options))
