"""The keys that name a training and a measurement: what they depend on, and what they do not."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_models import small_data

from bench.config.compose import compose_runs
from bench.config.spec import Measurement, RunSpec
from bench.data.base import Data
from bench.evaluation.measure import known_density


def spec(*overrides: str) -> RunSpec:
    return RunSpec.parse(compose_runs(["model=vae", "data=two_moons", *overrides])[0])


@pytest.mark.parametrize(
    "same", ["evaluate.n_samples=7", "metric=[cost]", "name=x", "runs_dir=y", "logger=csv", "probe=[gradient_norm]",
             "rerun=true", "train.batch_size=64", "trust=[a]"],
)  # fmt: skip
def test_what_is_measured_and_kept_is_no_part_of_the_training_key(same: str) -> None:
    assert spec(same).training_key == spec().training_key


@pytest.mark.parametrize(
    "other", ["seed=1", "model.hidden=7", "data.n_train=7", "train.examples=7", "trainer.precision=bf16-mixed",
              "train.ema_decay=0.9"],
)  # fmt: skip
def test_what_training_depends_on_is(other: str) -> None:
    assert spec(other).training_key != spec().training_key
    assert (spec(other).group == spec().group) == (other == "seed=1")


def test_another_file_of_weights_is_another_measurement(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    node = {"features": {"weights": str(weights)}}
    before = Measurement("fid", node, "best").key
    weights.write_bytes(b"two, longer")
    assert Measurement("fid", node, "best").key != before


def test_of_equal_measurements_the_first_is_made_in_the_order_of_the_configuration() -> None:
    one = spec("metric=[likelihood,cost]")
    metrics = {"a": one.metrics["likelihood"], "b": one.metrics["cost"], "c": one.metrics["likelihood"]}
    assert [made.name for made in replace(one, metrics=metrics).measurements] == ["a", "b"]


def test_a_density_is_the_same_whatever_its_entries_are_called() -> None:
    plain = small_data((2,), 4)
    data = Data(plain.spec, plain.train, plain.val, plain.test, log_density=lambda x: x.sum(1).double())

    def key(**node: object) -> str:
        found = known_density("toy", {"_target_": "toy", **node}, data)
        assert found is not None
        return found.origin.training_key

    assert key(as_numbers=True) == key(as_numbers=False) == key() != key(n_test=7)
