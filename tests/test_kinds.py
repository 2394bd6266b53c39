"""Every model in conf/model on every kind of data, by changing ``data=`` alone: composed, trained, evaluated, in rows.

The data are files that the test makes, and small; so are the budgets. All of it is slow, by its own command; a few of
each are in the fast suite.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_models import configuration, names
from PIL import Image

from bench.config.build import build_data, build_model, checked
from bench.data import binarized
from bench.data.base import Data, Split
from bench.data.digits import mnist5k
from bench.errors import UserError
from bench.features import classifier
from bench.rows.store import read_rows
from bench.runs.run import execute
from bench.schema import DataSpec, Kind, ResultRow, Status
from models.base import HasLikelihood, SamplesGiven

N = 300  # examples, of which 30 are validation and 30 test
SAMPLES = 55
TINY = [
    "train.examples=64", "train.batch_size=16", "train.validate_every=32", f"evaluate.n_samples={SAMPLES}",
    "evaluate.n_draws=2",
]  # fmt: skip
FAST = {("vae", kind) for kind in ("grey", "colour", "binary", "labelled", "tabular", "toy")}
FAST |= {
    ("realnvp", "grey"),
    ("realnvp", "toy"),
    ("gaussian", "tabular"),
    ("dcgan", "labelled"),
    ("resampler", "binary"),
    ("lstm", "categories"),
    ("graph_independent", "graphs"),
    ("colouring_lstm", "colourings"),
}


def picture(rng: np.random.RandomState, channels: int, bright: bool) -> Image.Image:
    """A blurred blob in one of two tones on noise."""
    y, x = np.mgrid[:16, :16] - rng.uniform(5, 11, size=(2, 1, 1))
    blob = np.exp(-(x**2 + y**2) / 20) * (200 if bright else 90)
    levels = blob[..., None] * rng.uniform(0.5, 1, channels) + rng.uniform(0, 30, (16, 16, channels))
    return Image.fromarray(levels.astype(np.uint8).squeeze(), "RGB" if channels == 3 else "L")


def pictures(folder: Path, channels: int, subfolders: bool) -> list[str]:
    rng = np.random.RandomState(channels + subfolders)
    for number in range(N):
        home = folder / "pictures" / (["dark", "bright"][number % 2] if subfolders else "")
        home.mkdir(parents=True, exist_ok=True)
        picture(rng, channels, number % 2 == 1).save(home / f"{number}.png")
    return ["data=image_folder", f"data.path={folder / 'pictures'}"]


def table(folder: Path) -> list[str]:
    rng = np.random.RandomState(0)
    a, b = rng.standard_normal(N), rng.standard_normal(N)
    lines = [f"{x},{y},{round(3 * x + y)}" for x, y in zip(a, a * b, strict=True)]
    (folder / "table.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    return ["data=csv", f"data.path={folder / 'table.csv'}"]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "grey": lambda folder: pictures(folder, 1, False),
    "colour": lambda folder: pictures(folder, 3, False),
    "labelled": lambda folder: pictures(folder, 1, True),
    "binary": lambda folder: ["data=mnist_dynamic"],
    "tabular": table,
    "toy": lambda folder: ["data=ring8", f"data.n_train={N - 60}", "data.n_val=30", "data.n_test=30"],
    "categories": lambda folder: [
        "data=set_shuffling",
        "data.n=4",
        f"data.n_train={N - 60}",
        "data.n_val=30",
        "data.n_test=30",
    ],
    "graphs": lambda folder: [
        "data=stochastic_blocks",
        "data.least=1",
        "data.nodes=4",
        f"data.n_train={N - 60}",
        "data.n_val=30",
        "data.n_test=30",
    ],
    "colourings": lambda folder: [
        "data=graph_colouring",
        "data.least=4",
        "data.nodes=4",
        "data.degree=1.5",
        f"data.n_train={N - 60}",
        "data.n_val=30",
        "data.n_test=30",
    ],
}
"""What each kind has to give on the command line, and nothing else."""

LIKE: dict[str, Callable[[Data], bool]] = {
    "grey": lambda data: data.spec.shape == (1, 16, 16) and data.spec.levels == 256 and data.spec.classes is None,
    "colour": lambda data: data.spec.shape == (3, 16, 16) and data.spec.levels == 256,
    "labelled": lambda data: data.spec.is_image and data.spec.classes == 2 and data.train.y is not None,
    "binary": lambda data: data.spec.is_image and data.spec.levels == 2 and data.train.redraw is not None,
    "tabular": lambda data: data.spec.shape == (3,) and data.spec.levels is None and data.log_density is None,
    "toy": lambda data: data.spec.shape == (2,) and data.log_density is not None and data.modes is not None,
    "categories": lambda data: data.spec.shape == (4,) and data.spec.kind == Kind.CATEGORIES,
    "graphs": lambda data: data.spec.shape == (10,) and data.spec.kind == Kind.GRAPHS and data.spec.graph is not None,
    "colourings": lambda data: data.spec.kind == Kind.COLOURINGS and data.valid is not None,
}


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST is taken from the digits that travel with a dependency, and the classifier is trained for a moment."""

    def few_digits(path: str | None) -> Data:
        digits = mnist5k()
        train, val, test = (
            Split(part.x[:n, :, ::2, ::2], part.y if part.y is None else part.y[:n])
            for part, n in ((digits.train, N - 60), (digits.val, 30), (digits.test, 30))
        )
        spec = dataclasses.replace(digits.spec, shape=(1, 14, 14), n_train=N - 60, n_val=30, n_test=30)
        return Data(spec, train, val, test)

    monkeypatch.setattr(binarized, "mnist", few_digits)
    monkeypatch.setattr(classifier, "MIN_EXAMPLES", 1000)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The command line's part for each kind, its files made."""
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in KINDS.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in FAST else [pytest.mark.slow])
        for name in names("model")
        for kind in KINDS
    ],
)
def test_every_model_runs_on_every_kind_of_data(
    name: str, kind: str, given: dict[str, list[str]], tmp_path: Path
) -> None:
    config = configuration(name, *TINY, f"runs_dir={tmp_path / 'runs'}", *given[kind])
    spec = checked(config)
    data = build_data(config["data"])
    assert LIKE[kind](data)
    outcome = execute(spec)
    if outcome.exit_code == 2:  # not for data like these, and it says so
        assert outcome.reason.startswith("model: ")
        assert (name, kind) not in FAST
        pytest.skip(outcome.reason)
    assert (outcome.exit_code, outcome.reason) in ((0, "budget spent"), (0, "closed form"))
    rows = {row.metric: row for row in read_rows(spec.folder / "rows.jsonl") if row.model == name}
    check_rows(rows, config, data)
    model = build_model(config["model"], data.spec)
    if not model.cannot_sample or isinstance(model, SamplesGiven):
        with np.load(spec.folder / "samples-best.npz", allow_pickle=False) as stored:
            samples = torch.from_numpy(stored["samples"])
        assert samples.shape == (SAMPLES, *data.spec.shape)
        assert samples.dtype == data.train.x.dtype
        assert data.spec.levels is None or int(samples.max()) < data.spec.levels


def check_rows(rows: dict[str, ResultRow], config: dict[str, Any], data: Data) -> None:
    """What applies has a value, what does not says why, and nothing failed."""
    model = build_model(config["model"], data.spec)
    samples = not model.cannot_sample or isinstance(model, SamplesGiven)
    labelled = data.spec.classes is not None and data.spec.is_image
    integers = data.spec.levels is not None
    expected = {
        "log_likelihood": isinstance(model, HasLikelihood),
        "bits_per_dim": isinstance(model, HasLikelihood) and integers,
        "fid": samples and labelled,
        "is": samples and labelled,
        "accuracy": labelled,
        "modes": samples and data.modes is not None,
        "high_quality": samples and data.modes is not None,
        "parameters": True,
    }
    found = {metric.split("[")[0]: row for metric, row in rows.items()}
    for metric, applies in expected.items():
        assert found[metric].status is (Status.OK if applies else Status.SKIPPED), found[metric].reason
        reason, about_likelihood = found[metric].reason, metric in ("log_likelihood", "bits_per_dim")
        said = model.caveat if isinstance(model, HasLikelihood) and about_likelihood else ""
        assert reason == said if applies and "reads only" not in reason else reason  # of a weak classifier
    assert {row.dataset for row in rows.values()} == {data.spec.name}
    assert {row.data_revision for row in rows.values()} == {data.spec.revision}


def test_no_model_refuses_every_kind(given: dict[str, list[str]]) -> None:
    """A model that is built for data is trained on them in the test above."""
    specs = [build_data(configuration("gaussian", *overrides)["data"]).spec for overrides in given.values()]
    for name in names("model"):
        assert any(is_built(configuration(name), spec) for spec in specs), name


def is_built(config: dict[str, Any], spec: DataSpec) -> bool:
    try:
        build_model(config["model"], spec)
    except UserError:
        return False
    return True
