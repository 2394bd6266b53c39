"""Residual flows: they integrate to one, learn, report what they counted, and compile and checkpoint to the same."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from helpers_density import quadrature, randomize
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_residual import FLOWS
from torch import Generator

from bench.checkpoint import Progress
from bench.config.spec import Hardware, Schedule
from bench.metrics.cost import Cost
from bench.schema import Status
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.training.fit import fit
from models.base import ReportsCost
from models.nn.lipschitz import LipschitzLayer
from models.transforms.base import checkpoint_activations
from models.transforms.residual import Residual

pytestmark = pytest.mark.usefixtures("fixed_seed")


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("dim", "half_width", "points"), [(1, 40, 4000), (2, 20, 400)])
def test_density_integrates_to_one(name: str, dim: int, half_width: float, points: int) -> None:
    for seed, std in enumerate((0.3, 1.0)):
        flow = FLOWS[name]((dim,), None)
        randomize(flow, std, seed)
        for parameter_name, parameter in flow.named_parameters():
            if "log_scale" in parameter_name:  # of activation normalizations: else the mass lies far outside
                parameter.data.mul_(0.3 / std)
        flow.double().eval()
        assert quadrature(flow, half_width=half_width, points=points) == pytest.approx(1, abs=1e-4)


def test_the_roulette_of_evaluation_begins_later_than_that_of_training() -> None:
    flow, x = FLOWS["residual_flow"]((2,), None, exact_terms=3, eval_terms=15, exact_dim=0), torch.randn(8, 2)
    blocks = [part for part in flow.modules() if isinstance(part, Residual)]
    for training, exact in ((True, 3), (False, 15)):
        flow.train(training)
        further: list[int] = []
        for seed in range(40):
            flow.log_weight(x, generator=Generator().manual_seed(seed))
            further += [block.terms - exact for block in blocks]
        assert min(further) == 1
        assert 1.5 < sum(further) / len(further) < 2.5, "two on average"


def test_checkpointed_activations_leave_what_is_drawn_alone() -> None:
    x = torch.randn(8, 2)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        flow = FLOWS["residual_flow"]((2,), None)
        flow.train_generator = Generator().manual_seed(0)
        if checkpointed:
            checkpoint_activations(flow)
        flow.training_step((x, None), 0).backward()
        gradients.append([parameter.grad for parameter in flow.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.slow
def test_compiled_training_is_the_same(tmp_path: Path) -> None:
    """The compiler leaves the blocks alone: what differentiates twice cannot be compiled."""
    data = small_data((2,), None)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        for compiled in (False, True):
            model = new_model("residual_flow", data.spec)
            schedule = Schedule(examples=64, batch_size=16, validate_every=10**6)
            hardware = Hardware(compile=compiled)
            folder = tmp_path / str(compiled)
            folder.mkdir()
            fit(model, data, schedule, hardware, seed=0, folder=folder, config={})
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                scores.append(model.eval().log_weight(data.test.x))
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_learn(name: str, tmp_path: Path) -> None:
    data = small_data((2,), None, n=512, held_out=256)
    wider = {"growth": 32, "depth": 2} if name == "idensenet" else {"hidden": 32, "depth": 2}
    flow = FLOWS[name]((2,), None, **{"blocks": 6, **wider})
    schedule = Schedule(examples=64 * 120, batch_size=64, validate_every=10**6)
    fit(flow, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    with torch.no_grad():
        ours = flow.eval().log_weight(data.test.x).mean().item()
    gaussian = torch.distributions.MultivariateNormal(data.train.x.mean(0), data.train.x.T.cov())
    # Two clusters, 2 apart in each variable, of standard deviation 0.3: log 2 less than one of them.
    truth = -2 * math.log(0.3 * math.sqrt(2 * math.pi * math.e)) - math.log(2)
    normal_score = gaussian.log_prob(data.test.x).mean().item()
    assert normal_score + 0.5 * (truth - normal_score) < ours < truth + 0.2


@pytest.mark.parametrize("name", FLOWS)
def test_flows_report_what_they_counted(name: str) -> None:
    for shape, exact in (((3,), True), ((3, 8, 8), False)):
        flow = FLOWS[name](shape, None).eval()
        assert isinstance(flow, ReportsCost)
        report = flow.cost_report(torch.randn(4, *shape), generator=Generator().manual_seed(0))
        assert tuple(report) == flow.cost_names
        blocks = sum(isinstance(module, Residual) for module in flow.modules())
        assert report["nfe_sample"] >= 2 * blocks
        assert report["series_terms"] == 0 if exact else 21 <= report["series_terms"] < 30


def test_the_harness_shows_the_counts_and_the_error_of_the_estimate() -> None:
    data = small_data((3, 6, 6), 4)
    model = new_model("residual_flow", data.spec, "model.exact_dim=0")
    subject = TrainedModel(model, Progress(examples_seen=1, train_seconds=1.0), 0, ORIGIN)
    context = Examples(subject, data, seed=0)
    rows = {row.info.name: row for row in Cost(8).compute(context)}
    assert [info.name for info in Cost(8).infos(context)] == list(rows)
    assert rows["series_terms"].value >= 21
    assert rows["nfe_sample"].value > 0
    assert "nfe_log_weight" not in rows
    again = {row.info.name: row.value for row in Cost(8).compute(context)}
    assert again["nfe_sample"] == rows["nfe_sample"].value
    # Nothing was validated, so there is no time to the best score.
    assert [name for name, row in rows.items() if row.status is not Status.OK] == ["seconds_to_best"]
    assert context.relation == "estimate"


def test_images_go_through_scales_and_flat_blocks() -> None:
    def widths(name: str) -> list[int]:
        blocks = [module for module in FLOWS[name]((1, 8, 8), 4).modules() if isinstance(module, Residual)]
        layers = [next(layer for layer in b.modules() if isinstance(layer, LipschitzLayer)) for b in blocks]
        return [layer.weight.shape[1] for layer in layers]

    assert widths("residual_flow") == widths("idensenet") == [1, 1, 4, 4, 64], "nothing is factored out; one flat block"
    assert widths("iresnet") == [1, 1, 2, 2], "half of the channels are factored out"


def test_mistakes_are_refused() -> None:
    for make in FLOWS.values():
        with pytest.raises(ValueError, match="takes vectors"):
            make((2, 2), None)
        with pytest.raises(ValueError, match="between 0 and 1"):
            make((2,), None, coefficient=1.0)
