"""GANs whose discriminator has a size of its own: the published sizes, and the row that states it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import new_model
from torch import nn

from bench.cli.main import main
from bench.rows.store import read_rows
from bench.schema import DataSpec, Source
from models.gans.adversarial import seen_shape
from models.nn.compact_gan import compact_discriminator, compact_generator

ROOT = Path(__file__).resolve().parent.parent


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("width", "parameters"), [(2, 585), (4, 1889)])
def test_the_discriminators_have_the_published_sizes(width: int, parameters: int) -> None:
    assert size(compact_discriminator((3, 28, 28), width)) == parameters
    # Packing adds 9 weights for each further channel and each of the first layer's.
    assert size(compact_discriminator(seen_shape((3, 28, 28), 2, 0), width)) == parameters + 9 * 3 * width


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 5, 7), (2, 1, 9), (1, 16, 33)])
def test_pictures_of_any_size_are_made_and_judged(shape: tuple[int, int, int]) -> None:
    made = compact_generator(shape, 5, bounded=True)(torch.randn(3, 5))
    assert made.shape == (3, *shape)
    assert made.abs().max() <= 1
    assert compact_discriminator(shape, 2)(made).shape == (3,)
    with pytest.raises(ValueError, match="for images"):
        compact_generator((4,), 5, bounded=True)


def spec(shape: tuple[int, ...]) -> DataSpec:
    return DataSpec("toy", "0", shape, 256, 64, 16, 16)


def test_the_discriminator_of_a_dcgan_may_have_a_width_of_its_own() -> None:
    small, large = (new_model("dcgan_small", spec((1, 8, 8)), f"model.discriminator_width={w}") for w in (2, 8))
    assert size(small.generator) == size(large.generator)
    assert size(small.discriminator) < size(large.discriminator) / 2


def test_the_discriminators_parameters_are_a_row_of_a_gan_and_of_no_other_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["data=grid25", "data.n_train=64", "data.n_val=16", "data.n_test=16", "train.examples=64",
              "train.batch_size=32", "evaluate.n_samples=16", "metric=[cost]", "name=x", "seed=0"]  # fmt: skip
    gan = ["model=gan", "model.discriminator_hidden=3", "model.discriminator_depth=1", "model.generator_hidden=4"]
    assert main(["run", *gan, *common]) == 0
    assert main(["run", "model=gaussian", *common]) == 0
    rows = {(row.model, row.metric): row for file in Path("runs/x").glob("*/rows.jsonl") for row in read_rows(file)}
    count = rows["gan", "discriminator_parameters"]
    assert count.value == (2 * 3 + 3) + (3 + 1)
    assert count.higher_is_better is None
    whole = rows["gan", "parameters"].value
    assert whole is not None
    assert whole > count.value
    assert ("gaussian", "discriminator_parameters") not in rows


def test_published_modes_stand_beside_measured_ones_and_are_marked() -> None:
    rows = read_rows(ROOT / "results" / "quoted" / "pacgan_stacked.jsonl")
    found: dict[Any, Any] = {(row.model, row.n_params): row.value for row in rows}
    assert len(found) == len(rows) == 4
    assert {row.source for row in rows} == {Source.QUOTED}
    assert {row.dataset for row in rows} == {"stacked_mnist"}
    assert all(row.reason for row in rows)
