"""Models of the user's own under ``genbench evaluate``: what they must have, what is measured, what is refused."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data

from bench.cli.main import main
from bench.data.toy import two_moons
from bench.evaluation import given
from bench.evaluation.evaluate import evaluate
from bench.metrics.likelihood import LogLikelihood
from bench.rows.store import read_rows
from bench.schema import DataSpec, ResultRow, Status
from bench.subjects.examples import Examples
from bench.subjects.own import OwnModel
from bench.subjects.trained import TrainedModel

SMALL = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "evaluate.n_samples=301"]
NORMAL = torch.distributions.Normal(0.0, 1.5)
CODE = """
import torch
from torch import nn


class Plain:
    def __init__(self, scale):
        self.normal = torch.distributions.Normal(0.0, scale)

    def sample(self, n):
        return self.normal.sample((n, 2))

    def log_prob(self, x):
        return self.normal.log_prob(x).sum(1)


class Net(nn.Module):
    '''Loads its own weights, and refuses to work while training.'''

    def __init__(self, weights, shape):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(()))
        self.drop = nn.Dropout(0.5)
        self.shape = shape
        self.load_state_dict(torch.load(weights, weights_only=True))

    def sample(self, n, generator):
        assert not self.training and not torch.is_grad_enabled()
        return self.drop(torch.randn(n, *self.shape, generator=generator) * self.scale)


class Odd(Plain):
    def sample(self, n):
        return {"many": super().sample(n + 1), "flat": super().sample(n)[:, 0], "list": [1.0] * n}[self.how]

    def log_prob(self, x):
        return super().log_prob(x).mean()

    def __init__(self, how):
        super().__init__(1.0)
        self.how = how


class Drawn(Plain):
    def log_prob(self, x):
        return super().log_prob(x) + 0.1 * torch.randn(len(x))


class Shared(Plain):
    def log_prob(self, x):
        return super().log_prob(x).log_softmax(0)


class Named(Plain):
    def __init__(self, text):
        super().__init__(len(text))


class Nothing:
    pass


def load(scale=1.5):
    return Plain(scale)


def broken():
    raise RuntimeError("no weights here")
"""
count = itertools.count()


@pytest.fixture
def package(workplace: Path) -> str:
    """A module in the working folder, by a name that no test before had: Python imports a name once."""
    name = f"own_models_{next(count)}"
    Path(f"{name}.py").write_text(CODE)
    return name


def measured(package: str, *arguments: str) -> dict[str, ResultRow]:
    assert main(["evaluate", *SMALL, f"trust=[{package}]", *arguments, "out=out.jsonl"]) in (0, 1)
    return {row.metric: row for row in read_rows(Path("out.jsonl"))}


def fid(package: str, target: str, *arguments: str) -> ResultRow:
    return measured(
        package, f"subject._target_={package}.{target}", "metric=[fid]", "metric.fid.features=pixels", *arguments
    )["fid[pixels]"]


def test_an_object_that_samples_and_has_a_likelihood(package: str) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    rows = measured(package, f"subject._target_={package}.Plain", "subject.scale=1.5", "metric=[likelihood,fid,latent]",
                    "metric.fid.features=pixels")  # fmt: skip
    assert torch.equal(state[0], torch.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])
    likelihood = rows["log_likelihood"]
    expected = NORMAL.log_prob(two_moons(512, 64, 64).test.x).sum(1).double().mean().item()
    assert (likelihood.value, likelihood.relation, likelihood.n_draws) == (pytest.approx(expected), "exact", 1)
    assert (rows["fid[pixels]"].n_fake, rows["fid[pixels]"].status) == (301, Status.OK)
    assert (likelihood.model, likelihood.model_family, likelihood.checkpoint) == ("Plain", "own", "given")
    assert rows["elbo"].reason == "the model has no approximate posterior"
    again = fid(package, "Plain", "subject.scale=1.5")
    assert again.value == rows["fid[pixels]"].value, "the same seed gives the same samples"
    assert fid(package, "Plain", "subject.scale=1.5", "seed=1").value != again.value
    assert fid(package, "load", "label=other").value == again.value, "a function may make it"


def test_a_module_with_its_own_weights_is_known_by_them(package: str) -> None:
    rows = []
    for scale in (1.0, 3.0):
        torch.save({"scale": torch.tensor(scale)}, "net.pt")
        rows.append(fid(package, "Net", "subject.weights=net.pt"))
    assert [(row.status, row.n_params) for row in rows] == [(Status.OK, 1)] * 2
    assert rows[0].group != rows[1].group
    assert rows[0].value != rows[1].value
    lacking = measured(package, f"subject._target_={package}.Net", "subject.weights=net.pt", "metric=[likelihood]")
    assert lacking["log_likelihood"].reason == "the model has no likelihood: it has no log_prob(x)"


def test_changed_code_is_measured_again(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fid(package, "load")
    monkeypatch.setattr(sys.modules[package], "load", lambda scale=9.0: sys.modules[package].Plain(9.0))
    monkeypatch.setattr(sys.modules[package].load, "__module__", package)
    after = fid(package, "load")
    assert after.value is not None
    assert before.value is not None
    assert after.value > before.value + 10


@pytest.mark.parametrize(
    ("how", "metric", "reason"),
    [
        ("many", "fid", "ValueError: sample(250) returned 251 samples"),
        ("flat", "fid", "subject: sample(n) has the shape (250,); two_moons wants (N, 2)"),
        ("list", "fid", "TypeError: sample returned a list; wanted is a torch.Tensor"),
        ("many", "likelihood", "ValueError: log_prob returned shape () for 64 examples"),
    ],
)
def test_what_a_model_does_wrong_fails_its_metric(how: str, metric: str, reason: str, package: str) -> None:
    more = ["metric.fid.features=pixels"] if metric == "fid" else []
    rows = measured(package, f"subject._target_={package}.Odd", f"subject.how={how}", f"metric=[{metric}]", *more)
    failed = [row for row in rows.values() if row.status is Status.FAILED]
    assert failed
    assert reason in failed[0].reason


@pytest.mark.parametrize("target", ["Drawn", "Shared"])
def test_a_likelihood_that_chance_or_the_batch_moves_is_not_exact(target: str, package: str) -> None:
    rows = measured(package, f"subject._target_={package}.{target}", "subject.scale=1.5", "metric=[likelihood]")
    assert rows["log_likelihood"].status is Status.FAILED
    assert "log_prob is called exact, but the same examples in another order move" in rows["log_likelihood"].reason


def test_a_bound_that_a_model_calls_exact_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((2,), None)
    model = new_model("vae", data.spec)
    monkeypatch.setattr(type(model), "relation", "exact")
    (nats, _) = evaluate(Examples(TrainedModel(model, None, 0, ORIGIN), data, seed=0), {"l": LogLikelihood(4)})["l"]
    assert nats.status is Status.FAILED
    assert nats.reason.startswith("log_weight is called exact, but")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["subject._target_=PACKAGE.Plain"], "if you trust it, add trust=[PACKAGE]"),
        (["subject._target_=os.system", "subject.command=ls"], "'os.system' is not in the packages allowed there"),
        (["subject._target_=PACKAGE.nn.Linear", "TRUST"], "cannot be imported"),
        (["subject._target_=PACKAGE.torch", "TRUST"], "is not a"),
        (["subject._target_=PACKAGE.Plain", "subject.size=3", "TRUST"], "subject.size: PACKAGE.Plain takes no such"),
        (["subject._target_=PACKAGE.Plain", "TRUST"], "subject: PACKAGE.Plain could not be made"),
        (["subject._target_=PACKAGE.broken", "TRUST"], "subject: PACKAGE.broken could not be made: no weights here"),
        (["subject._target_=PACKAGE.Nothing", "TRUST"], "a Nothing has neither sample(n) nor log_prob(x)"),
        (["subject.weights=x.pt", "TRUST"], "name what makes the model, as in subject._target_=mypkg.Net"),
        (["subject=null"], "name what makes the model"),
        (["subject._target_=PACKAGE.Plain", "samples=x.npy"], "either samples=... or subject=..."),
    ],
)
def test_mistakes_are_one_line_and_strangers_are_not_imported(
    arguments: list[str], said: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [f"trust=[{package}]" if text == "TRUST" else text.replace("PACKAGE", package) for text in arguments]
    assert main(["evaluate", *SMALL, "metric=[likelihood]", *known]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert said.replace("PACKAGE", package) in told
    assert "TRUST" in arguments or package not in sys.modules


class Draws:
    """Samples of a stream whose numbers depend on how many are drawn at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        self.asked.append(n)
        return torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize("more", [501, 600, 1300])
def test_samples_of_one_number_are_the_same_whatever_else_is_measured(more: int) -> None:
    data, model = two_moons(64, 16, 16), Draws()
    alone = Examples(OwnModel(Draws(), data.spec, 0, ORIGIN), data, seed=0).samples(500)
    examples = Examples(OwnModel(model, data.spec, 0, ORIGIN), data, seed=0)
    assert len(examples.samples(more)) == more
    assert torch.equal(examples.samples(500), alone)
    assert min(model.asked) >= 2, "one sample alone is no batch"


def test_rows_name_the_device_that_a_model_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros((), device="meta"))  # stands for a GPU

        def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {}

        def sample(self, n: int) -> torch.Tensor:
            return torch.zeros(n, 2)

    monkeypatch.setattr(given, "device_name", lambda accelerator, devices: f"{devices} {accelerator}")
    about = {"data": {}, "data_name": "d", "spec": DataSpec("d", "r", (2,), None, 1, 1, 1), "revision": "r", "seed": 0}
    for model, device in ((Remote(), "1 meta"), (Draws(), "1 cpu")):
        assert given.given_model(model, {}, "mine", **about).origin.device == device


def test_arguments_that_are_no_paths_are_arguments(package: str) -> None:
    for text in ("a" * 300, "~nobody_is_called_so/x"):
        row = fid(package, "Named", f"subject.text='{text}'")
        assert row.status is Status.OK


def test_a_model_without_data_is_refused(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"subject._target_={package}.load", f"trust=[{package}]"]) == 2
    assert "name the data that it is a model of, as in data=mnist5k" in capsys.readouterr().err
