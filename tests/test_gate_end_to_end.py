"""Regressions planted into real trainings and metrics: each is caught by ``genbench check``, and named."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import bench.metrics.kernel_distance as kernel_distance
from bench.cli.main import main
from models.transforms.coupling import Coupling

pytestmark = pytest.mark.slow

SWEEP = [
    "run", "-m", "model=realnvp", "model.couplings=4", "model.hidden=32", "model.depth=1", "data=two_moons",
    "train.examples=6400", "train.validate_every=3200", "metric=[likelihood,kid]",
    "metric.kid.features=pixels", "evaluate.n_samples=500", "seed=0,1,2,3", "trainer=cpu",
]  # fmt: skip
GOLDENS = [
    "evaluate", "samples=goldens.npy", "label=goldens", "data=two_moons", "metric=[kid]", "metric.kid.features=pixels",
    "evaluate.n_samples=500",
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows of a sound sweep and of stored samples."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.save("goldens.npy", np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32))
        assert main([*SWEEP, "name=sound"]) == 0
        assert main([*GOLDENS, "out=goldens.jsonl"]) == 0
    return folder


@pytest.fixture
def check(sound: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def checked(*rows: str) -> tuple[int, str]:
        capsys.readouterr()
        baseline = str(workplace / "base.jsonl")
        code = main(["check", *rows, "--baseline", baseline])
        return code, capsys.readouterr().out

    shutil.copy(sound / "goldens.npy", workplace)
    lines = [(sound / "results/rows/sound.jsonl").read_text(), (sound / "goldens.jsonl").read_text()]
    (workplace / "base.jsonl").write_text("".join(lines))
    return checked


def test_the_same_code_gives_the_same_numbers(check: Callable[..., tuple[int, str]]) -> None:
    assert main([*SWEEP, "name=again"]) == 0
    assert main([*GOLDENS, "out=again.jsonl"]) == 0
    code, out = check("results/rows/again.jsonl", "again.jsonl")
    assert code == 0, out
    assert out.count("the same numbers again, on 4 seeds") == 2
    assert "goldens on two_moons, given: kid[pixels]" in out


def test_a_worse_learning_rate_is_caught_and_named(check: Callable[..., tuple[int, str]]) -> None:
    assert main([*SWEEP, "name=slow", "model.optimizer.lr=1e-5"]) == 0
    code, out = check("results/rows/slow.jsonl")
    assert code == 1
    lines = [line for line in out.splitlines() if line.startswith("regression")]
    assert any("realnvp on two_moons: log_likelihood" in line for line in lines)
    assert all("model.optimizer.lr 0.001 -> 1e-05" in line for line in lines)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_a_bug_in_the_log_determinant_of_a_coupling_is_caught(
    check: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    right = Coupling.forward

    def wrong(self: Coupling, x: Tensor, **about: object) -> tuple[Tensor, Tensor]:
        z, log_det = right(self, x, **about)  # type: ignore[arg-type]
        return z, factor * log_det

    monkeypatch.setattr(Coupling, "forward", wrong)
    assert main([*SWEEP, "name=wrong"]) in (0, 1)  # trainings may diverge
    code, out = check("results/rows/wrong.jsonl")
    assert code == 1
    assert any(line.startswith("regression") and "realnvp on two_moons" in line for line in out.splitlines()), out


def test_a_metric_that_changed_is_told_from_a_model_that_changed(
    check: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = kernel_distance.kernel_distance

    def changed(x: Tensor, y: Tensor) -> kernel_distance.KernelDistance:
        found = right(x, y)
        return dataclasses.replace(found, value=found.value * 1.000001)

    monkeypatch.setattr(kernel_distance, "kernel_distance", changed)
    assert main([*SWEEP, "name=again"]) == 0
    assert main([*GOLDENS, "out=again.jsonl"]) == 0
    code, out = check("results/rows/again.jsonl", "again.jsonl")
    assert code == 1
    lines = [line for line in out.splitlines() if line.startswith("metric changed")]
    assert len(lines) == 2
    assert all("kid[pixels]" in line for line in lines)
    assert any("of the same samples" in line for line in lines)
    assert not any(line.startswith("regression") for line in out.splitlines())
