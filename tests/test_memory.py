"""What is too large for memory leaves rows that say so, whatever was too large."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.cli.main import main
from bench.config import limits
from bench.errors import is_out_of_memory
from bench.rows.store import read_rows
from bench.runs.folder import Ended
from bench.schema import ResultRow, Status

RUN = ["run", "model=gaussian", "data=two_moons", "data.n_train=200", "data.n_val=20", "data.n_test=20",
       "metric=[likelihood,cost]", "evaluate.n_samples=20"]  # fmt: skip
LARGE = 10**14  # numbers: hundreds of terabytes, more than any machine gives
ALLOCATE: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.empty(LARGE),
    "numpy": lambda: np.empty(LARGE),
    "python": lambda: bytearray(LARGE * 8),
    "sizes beyond 64 bits": lambda: torch.empty(1 << 62),
}


def the_run(folder: Path) -> tuple[list[ResultRow], dict[str, Any]]:
    (run,) = [path for path in folder.glob("runs/two_moons/*") if path.is_dir()]
    return read_rows(run / "rows.jsonl"), json.loads((run / "done.json").read_text())


@pytest.mark.parametrize("allocate", ALLOCATE.values(), ids=ALLOCATE)
def test_each_librarys_error_is_known(allocate: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not any(
        map(is_out_of_memory, [None, RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(28)])
    )


@pytest.mark.parametrize(
    "large",
    [["model=realnvp", "model.hidden=10000000"], ["model=vae", "model.hidden=100000000"], [f"data.n_train={LARGE}"],
     [f"data.n_test={LARGE}"]],
)  # fmt: skip
def test_a_model_or_data_set_that_is_too_large_leaves_rows(
    large: list[str], workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limits of configurations would refuse these; smaller ones would be too large for some machines only.
    monkeypatch.setattr(limits, "_largest", lambda *_: None)
    assert main([*RUN, *large, "train.examples=64"]) == 1
    rows, done = the_run(workplace)
    assert done["ended"] == Ended.OUT_OF_MEMORY
    assert {(row.metric, row.status) for row in rows} == {("likelihood", Status.FAILED), ("cost", Status.FAILED)}
    assert all(row.reason.startswith("out of memory (details in ") for row in rows)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "failed: out of memory" in said.err


def test_training_that_is_too_large_leaves_rows(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> None:
        torch.empty(LARGE)

    monkeypatch.setattr("bench.runs.run.fit", allocate)
    assert main(RUN) == 1
    rows, done = the_run(workplace)
    assert done["ended"] == Ended.OUT_OF_MEMORY
    assert "log_likelihood" in {row.metric for row in rows}
    assert {row.reason[:13] for row in rows if row.status is Status.FAILED} == {"out of memory"}


@pytest.mark.parametrize("allocate", ALLOCATE.values(), ids=ALLOCATE)
def test_a_metric_that_is_too_large_fails_alone(
    allocate: Callable[[], object], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as large:
        large.setattr("bench.metrics.cost.Cost.compute", lambda *_: allocate())
        assert main(RUN) == 1
    rows, done = the_run(workplace)
    assert done["ended"] == Ended.OUT_OF_MEMORY
    assert {row.reason for row in rows if row.status is Status.FAILED} == {"out of memory"}
    assert {row.status for row in rows if row.metric == "log_likelihood"} == {Status.OK}
    assert main(RUN) == 0, "what failed is measured again"
