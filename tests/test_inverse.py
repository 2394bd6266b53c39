"""Inverses in floating point: their error as rows, samples that leave float32, and those that nothing can compute."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_density import randomize
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.chunks import draw_samples
from bench.cli.main import main
from bench.data.base import Data
from bench.errors import UnavailableError
from bench.evaluation.evaluate import evaluate
from bench.features.pixels import Pixels
from bench.metrics.frechet import FID
from bench.metrics.inverse import InverseError, largest
from bench.rng import seeded
from bench.rows.store import read_rows
from bench.schema import Estimate, Status
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import FailedModel, TrainedModel
from models.base import GenerativeModel, LostSamples
from models.flows.base import Flow, to_reals
from models.flows.glow import Glow
from models.flows.realnvp import RealNVP
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain, Transform
from models.transforms.extent import decode_in_float64, layers_of
from models.transforms.flatten import Flatten
from models.transforms.linear import LULinear
from models.transforms.scale import Scale
from models.transforms.squeeze import Squeeze

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


class Scaled(Flow):
    """z = a_n ... a_1 x, layer after layer."""

    def __init__(self, *factors: float, levels: int | None = None) -> None:
        scales: list[Transform] = [Scale(factor, 0.0) for factor in factors]
        super().__init__((2,), levels, Chain(*to_reals(levels, 1e-6), *scales, ActNorm(2)), ADAM)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=Generator().manual_seed(seed))


def rows(model: GenerativeModel, data: Data, n: int = 50, factor: float = 10.0) -> dict[str, Estimate]:
    examples = Examples(TrainedModel(model, None, 0, ORIGIN), data, seed=0)
    return {one.info.name: one for one in evaluate(examples, {"it": InverseError(n, factor)})["it"]}


def test_samples_that_leave_float32_on_the_way_are_computed_in_float64() -> None:
    flow = Scaled(1e30, 1e-25, 1e-25).eval()  # data = noise * 1e20, over 1e50
    made = flow.sample(64, generator=Generator().manual_seed(0))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, (noise(64).double() * 1e20).float(), rtol=1e-6, atol=0)
    beyond, where = flow.beyond_float32(64, generator=Generator().manual_seed(0))
    assert beyond.all()
    largest_entry = float(noise(64).abs().max())
    assert where == f"layer 2 of 4 from the data, Scale, where entries reach {largest_entry * 1e50:.2g}"
    assert flow.transform.parts[0].factor == 1e30
    assert all(parameter.dtype == torch.float32 for parameter in flow.parameters()), "the flow stays as it was"
    assert "decode" not in vars(flow.transform.parts[0])


def test_nothing_changes_for_samples_that_stay_in_float32() -> None:
    flow = Scaled(1e30, 1e-34, 1e-4).eval()  # over 1e38: the one or the other sample is above 3.4e38
    x = noise(400)
    made = flow.sample(400, generator=Generator().manual_seed(0))
    beyond, where = flow.beyond_float32(400, generator=Generator().manual_seed(0))
    assert torch.equal(beyond, (x / 1e-4 / 1e-34).isinf().any(1))
    assert 0 < beyond.sum() < 20
    assert where.startswith("layer 2 of 4")
    assert torch.equal(made[~beyond], (x / 1e-4 / 1e-34 / 1e30)[~beyond])
    torch.testing.assert_close(made[beyond], (x.double() * 1e8).float()[beyond], rtol=1e-6, atol=0)
    none, nowhere = Scaled(0.5).eval().beyond_float32(9, generator=Generator().manual_seed(0))
    assert not none.any()
    assert nowhere == ""


def test_samples_that_cannot_be_computed_are_counted_and_the_others_kept() -> None:
    flow = Scaled(1e-38).eval()  # data above 3.4e38 are no float32
    wanted = noise(250) / 1e-38
    lost = wanted.isinf().any(1)
    assert 0 < lost.sum() < 10
    with pytest.raises(LostSamples, match=rf"^{int(lost.sum())} of 250 samples .* layer 1 of 2 .* Scale") as raised:
        flow.sample(250, generator=Generator().manual_seed(0))
    assert torch.equal(raised.value.kept, wanted[~lost])
    assert flow.decode(noise(250)).isinf().any(1).equal(lost), "real-valued data can show it"


def test_rows_of_the_samples_that_are_left_say_how_many_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    data = small_data((2,), None)
    subject = TrainedModel(Scaled(1e-38), None, 0, ORIGIN)
    n = 1000
    examples = Examples(subject, data, seed=0)
    left = len(examples.samples(n))
    assert 0 < left < n
    assert f"{n - left} of {n} samples are lost" in subject.lost
    assert "samples left out: " in caplog.text
    [fid] = evaluate(examples, {"fid": FID(Pixels(), n)})["fid"]
    assert fid.n_fake == left
    assert f"{n - left} of {n} samples are lost" in fid.reason
    assert len(examples.samples(500)) < 500, "the first of more samples are not these: some are missing between them"
    alive = TrainedModel(Scaled(0.5), None, 0, ORIGIN)
    [fid] = evaluate(Examples(alive, data, seed=0), {"fid": FID(Pixels(), n)})["fid"]
    assert (fid.n_fake, fid.reason) == (n, "")


def test_a_model_without_any_sample_fails_with_the_layer() -> None:
    flow = Scaled(1.0, levels=4)
    with torch.no_grad():
        next(flow.parameters()).fill_(math.nan)
    with pytest.raises(LostSamples, match=r"5 of 5 samples .* NaN .* layer 4 of 4 .* more than float64 holds"):
        draw_samples(flow.eval(), 5, Generator().manual_seed(0))
    with pytest.raises(LostSamples):
        flow.outside(5, generator=Generator().manual_seed(0))
    with pytest.raises(LostSamples):
        flow.decode(torch.zeros(3, 2))


def test_integers_from_float64_are_those_of_the_flow_and_outside_agrees() -> None:
    class Mixed(Flow):
        """An infinite latent is at an end of the integers; the difference of two is NaN."""

        def __init__(self) -> None:
            layers: list[Transform] = [Scale(1e30, 0.0), LULinear(2), Scale(1e-25, 0.0), Scale(1e-25, 0.0)]
            super().__init__((2,), 8, Chain(*to_reals(8, 1e-6), *layers), ADAM)

    with seeded(0):
        flow = Mixed().eval()
    beyond, where = flow.beyond_float32(50, generator=Generator().manual_seed(0))
    assert beyond.all()
    assert where.startswith("layer 5 of 6 from the data, Scale")
    made = flow.sample(50, generator=Generator().manual_seed(0))
    sign = flow.transform.parts[3].decode(noise(50))
    assert torch.equal(made, torch.where(sign > 0, 7, 0).to(torch.uint8))
    assert flow.outside(50, generator=Generator().manual_seed(0)).all()


def test_layers_are_counted_through_chains_and_levels() -> None:
    glow = Glow((1, 8, 8), 256, ADAM, steps=2, scales=2, channels=4)
    kinds = [type(layer).__name__ for layer in layers_of(glow.transform)]
    step = ["ActNorm", "Conv1x1", "Coupling"]
    assert kinds == ["UniformDequantization", "Scale", "Squeeze", *step, *step, "Coupling", "Squeeze", *step, *step]
    x, extent = decode_in_float64(glow.transform, torch.zeros(1, 64), None)
    assert x.shape == (1, 1, 8, 8)
    assert extent.layers == tuple(kinds)
    assert all(size >= 0 for size in extent.sizes)


@pytest.mark.parametrize("model", ["realnvp", "glow", "realnvp_conditional", "maf", "nsf", "residual_flow", "tarflow"])
def test_a_flow_comes_back_on_the_data(model: str) -> None:
    for shape, levels in (((3,), None), ((1, 4, 4), 256)):
        data = small_data(shape, levels)
        flow = new_model(model, data.spec)
        flow.training_step((data.train.x[:32], data.train.y[:32]), 0)
        found = rows(flow, data)
        assert found["inverse_error"].value is not None
        assert found["inverse_error"].value < 1e-3
        assert found["inverse_error"].n_real == 16
        assert found["beyond_float32"].value == 0


def test_the_error_is_the_largest_entry_by_which_examples_come_back_wrong() -> None:
    data = small_data((2,), None)

    class Off(Scale):
        def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
            return super().decode(z) + 0.25 * (z > 8)  # wrong where no example is

    flow = Scaled(2.0)
    flow.transform.parts[0] = Off(2.0, 0.0)
    found = rows(flow, data)
    assert found["inverse_error"].value == 0
    assert found["inverse_error_outside"].value == 0.25
    assert "x10" in found["inverse_error_outside"].info.title
    assert rows(flow, data, factor=2.0)["inverse_error_outside"].value == 0


def test_integers_are_compared_as_reals() -> None:
    flow = RealNVP((3,), 16, ADAM, couplings=2)
    randomize(flow, 0.3)
    x = torch.randint(16, (20, 3), generator=Generator().manual_seed(0)).to(torch.uint8)
    error = flow.round_trip(x, generator=Generator().manual_seed(1))
    assert 0 < error.max() < 1e-3, "rounded to integers they would all be 0"


def test_deep_flows_are_exact_on_the_data_and_not_far_outside() -> None:
    data = small_data((6,), None, held_out=64)
    flow = RealNVP((6,), None, ADAM, couplings=32, hidden=32)
    randomize(flow, 0.35)
    found = rows(flow, replace(data, test=replace(data.test, x=0.1 * data.test.x)), factor=100.0)
    inside, outside = found["inverse_error"].value, found["inverse_error_outside"].value
    assert inside is not None
    assert outside is not None
    assert outside > 100 * inside


def test_examples_that_do_not_come_back_are_counted() -> None:
    assert largest(torch.tensor([1.0, math.nan, 3.0, math.inf])) == (3.0, 2)
    assert largest(torch.tensor([math.nan])) == (None, 1)
    data = small_data((2,), None)
    found = rows(Scaled(1e38), data)
    assert found["inverse_error_outside"].status is Status.SKIPPED, "a finding, no failure"
    assert found["inverse_error_outside"].reason == "16 of 16 examples come back as NaN or infinity"
    flow = Scaled(1.0)
    with torch.no_grad():
        next(flow.parameters()).fill_(math.nan)
    assert rows(flow, data)["inverse_error"].status is Status.FAILED


def test_a_search_that_fails_outside_the_data_is_a_finding() -> None:
    class Searching(Scale):
        def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
            if z.abs().max() > 8:  # where no example is
                raise ArithmeticError("no root found")
            return super().decode(z)

    flow = Scaled(1.0)
    flow.transform.parts[0] = Searching(1.0, 0.0)
    found = rows(flow, small_data((2,), None))
    assert found["inverse_error"].value == 0
    assert found["inverse_error_outside"].status is Status.SKIPPED
    assert found["inverse_error_outside"].reason == (
        "there is no inverse at 10 times the data (ArithmeticError: no root found)"
    )


def test_what_is_no_flow_or_has_no_inverse_is_skipped() -> None:
    data = small_data((2,), None)
    vae = rows(new_model("vae", data.spec), data)
    assert {one.reason for one in vae.values()} == {"the model is no flow"}
    flow = Scaled(1.0)
    flow.transform.inverse_kind = "one-way"
    one_way = rows(flow, data)
    assert {one.reason for one in one_way.values()} == {"its transform has no inverse"}
    assert {one.status for one in (*vae.values(), *one_way.values())} == {Status.SKIPPED}
    with pytest.raises(UnavailableError):
        GivenSamples(data.train.x, 0, ORIGIN).round_trips(data.test.x, 1.0)
    broken = Examples(FailedModel(Scaled(1.0), "diverged", ORIGIN), data, seed=0)
    assert {one.status for one in evaluate(broken, {"it": InverseError(5, 2.0)})["it"]} == {Status.FAILED}


def test_every_flow_has_the_rows_without_being_asked(workplace: Path) -> None:
    sizes = ["data.n_train=64", "data.n_val=32", "data.n_test=32", "train.examples=64", "evaluate.n_samples=32"]
    assert main(["run", "model=realnvp", "model.couplings=2", "model.hidden=8", "data=two_moons", *sizes]) == 0
    (file,) = workplace.glob("runs/*/*/rows.jsonl")
    found = {row.metric: row for row in read_rows(file) if row.model == "realnvp"}
    assert found["inverse_error"].value is not None
    assert found["inverse_error"].value < 1e-4
    assert found["beyond_float32"].value == 0


def test_pictures_in_another_shape_come_back() -> None:
    class Folded(Flow):
        def __init__(self) -> None:
            body = Chain(Squeeze(), ActNorm(4), Flatten((4, 2, 2)))
            super().__init__((1, 4, 4), None, body, ADAM)

    x = torch.randn(3, 1, 4, 4, generator=Generator().manual_seed(0))
    assert Folded().eval().round_trip(x, 3.0).tolist() == [0, 0, 0]
