"""Diagnostics of training: what each probe measures, the curve and the picture that it leaves, and no changed bit."""

import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_models import new_model, small_data
from PIL import Image
from test_bigan import Kill, KilledError
from torch import Generator, Tensor

from bench.checkpoint import Progress, load_checkpoint
from bench.cli.main import main
from bench.config.spec import Hardware, Schedule
from bench.data.base import ClassifiedModes, Data, Modes
from bench.data.toy import ring8
from bench.errors import DivergedError
from bench.metrics.collapse import FEWEST, collapse_of
from bench.probe import Panel, Probe
from bench.rows.store import read_rows
from bench.tables.curves import draw_curves, read_curve, write_curve
from bench.training.diagnostics import Diagnostics
from bench.training.fit import fit
from bench.training.probes import (
    ActiveUnits,
    ClippedWeights,
    Collapse,
    Discriminator,
    GeneratorGradient,
    GradientNorm,
    ModesOverTime,
    accuracy,
)
from models.base import Autoencodes, Batch, GenerativeModel, HasDiscriminator
from models.gans.adversarial import Adversarial
from models.gans.bigan import BiGAN
from models.gans.wgan import WGAN

IMAGES = small_data((1, 8, 8), 256)
VECTORS = small_data((3,), None)
POINTS = ring8(400, 100, 100)


def silent(text: str) -> None:
    """A line that nobody reads."""


def every_probe() -> dict[str, Probe]:
    return {
        "gradient_norm": GradientNorm(), "generator_gradient": GeneratorGradient(),
        "discriminator": Discriminator(50), "clipped_weights": ClippedWeights(), "modes_over_time": ModesOverTime(50),
        "active_units": ActiveUnits(50), "collapse": Collapse(),
    }  # fmt: skip


def train(
    model: GenerativeModel, data: Data, folder: Path, *probes: Probe, steps: int = 8, scores: Any = None
) -> Progress:
    folder.mkdir(exist_ok=True)
    schedule = Schedule(examples=16 * steps, batch_size=16, validate_every=32, ema_decay=0.9)
    validate = None if scores is None else lambda _: next(scores)
    return fit(
        model, data, schedule, Hardware(), seed=0, folder=folder, config={}, validate=validate, probes=probes
    )  # fmt: skip


def diagnosed(
    model: GenerativeModel, data: Data, folder: Path, probes: dict[str, Probe], *others: Probe, **kw: Any
) -> list[str]:
    """Train with probes; return what was said of those that were passed over."""
    said: list[str] = []
    with Diagnostics(probes, folder, "title") as diagnostics:
        diagnostics.start(model, data, said.append, silent)
        train(model, data, folder, diagnostics, *others, **kw)
    return said


def column(folder: Path, probe: str, name: str) -> list[float]:
    with (folder / f"probe-{probe}.csv").open(newline="") as file:
        return [float(line[name]) for line in csv.DictReader(file)]


# No changed bit


@pytest.mark.parametrize(
    ("name", "data"), [("bigan", IMAGES), ("ali", POINTS), ("wgan", IMAGES), ("dcgan", POINTS), ("vae", VECTORS)]
)
def test_all_probes_together_change_no_bit_of_training(name: str, data: Data, tmp_path: Path) -> None:
    diagnosed(new_model(name, data.spec), data, tmp_path / "with", every_probe())
    train(new_model(name, data.spec), data, tmp_path / "without")
    final, last = (
        [load_checkpoint(tmp_path / place / file) for place in ("with", "without")]
        for file in ("final.ckpt", "last.ckpt")
    )
    assert same(final[0]["state_dict"], final[1]["state_dict"])
    for part in ("state_dict", "optimizer_states"):
        assert same(last[0][part], last[1][part])
    assert same(last[0]["callbacks"]["supervisor"]["rng"], last[1]["callbacks"]["supervisor"]["rng"])
    assert list((tmp_path / "with").glob("probe-*.csv")), "some were asked"


def width_of(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.width


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Careless(Probe):
    """Draws from every global generator, and leaves the model in another mode."""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert not model.training
        model.train()
        if isinstance(model, HasDiscriminator):
            model.verdicts((IMAGES.val.x, None))
        return {"noise": float(torch.rand(())) + random.random() + np.random.rand()}


def test_what_a_careless_probe_changes_is_put_back(tmp_path: Path) -> None:
    train(new_model("bigan", IMAGES.spec), IMAGES, tmp_path / "with", Careless())
    train(new_model("bigan", IMAGES.spec), IMAGES, tmp_path / "without")
    states, last = (
        [load_checkpoint(tmp_path / place / f"{name}.ckpt") for place in ("with", "without")]
        for name in ("final", "last")
    )
    assert same(states[0]["state_dict"], states[1]["state_dict"])
    assert any(key.endswith("running_mean") for key in states[0]["state_dict"]), "there is what a forward changes"
    assert same(last[0]["callbacks"]["supervisor"]["rng"], last[1]["callbacks"]["supervisor"]["rng"])


# What they measure


def test_accuracy_is_the_share_of_pairs_in_order() -> None:
    generator = Generator().manual_seed(0)
    real = torch.randint(0, 5, (40,), generator=generator).float()
    fake = torch.randint(0, 5, (30,), generator=generator).float()
    pairs = [float(r > f) + 0.5 * float(r == f) for r in real for f in fake]
    assert accuracy(real, fake) == pytest.approx(sum(pairs) / len(pairs))
    assert accuracy(torch.tensor([2.0]), torch.tensor([1.0])) == 1
    assert accuracy(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5


class Verdicts(HasDiscriminator):
    """Says of real examples their first entry, and of generated ones what it is told."""

    device = torch.device("cpu")
    family = "gan"

    def __init__(self, on_fake: float) -> None:
        self.on_fake = on_fake

    def train(self) -> None:
        """As a module's."""

    def verdicts(self, batch: Batch, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        return batch[0][:, 0], torch.full((len(batch[0]),), self.on_fake)


def test_the_discriminator_is_asked_about_validation_and_training_examples() -> None:
    probe, model = Discriminator(10), Verdicts(-0.5)
    assert probe.begin(model, VECTORS, silent) == ""  # type: ignore[arg-type]
    for loss in (1.0, 2.0):
        losses = {"discriminator_loss": torch.tensor(loss), "generator_loss": torch.tensor(2 * loss)}
        probe.step(model, Progress(), losses)  # type: ignore[arg-type]
    numbers = probe.validated(model, Progress(), None)  # type: ignore[arg-type]
    for name, split in (("", VECTORS.val), ("_train", VECTORS.train)):
        first = split.x[:10, 0]
        assert numbers[f"discriminator_gap{name}"] == pytest.approx(float(first.mean()) + 0.5, rel=1e-6)
        assert numbers[f"discriminator_accuracy{name}"] == pytest.approx(float((first > -0.5).float().mean()))
    assert (numbers["discriminator_loss_mean"], numbers["generator_loss_mean"]) == (1.5, 3.0)
    assert "discriminator_loss_mean" not in probe.validated(model, Progress(), None), "counted from anew"  # type: ignore[arg-type]


def test_verdicts_of_a_bigan_are_those_of_its_pairs() -> None:
    model = new_model("bigan", IMAGES.spec).eval()
    assert isinstance(model, BiGAN)
    on_real, on_fake = model.verdicts((IMAGES.val.x, None), generator=Generator().manual_seed(3))
    z = torch.randn(len(IMAGES.val), model.latent_dim, generator=Generator().manual_seed(3))
    assert torch.equal(on_fake, model.discriminator(model.generator(z), z))
    assert torch.equal(on_real, model.discriminator(IMAGES.val.x / 127.5 - 1, model.encode(IMAGES.val.x)))


@pytest.mark.parametrize("name", ["wgan", "dcgan_conditional", "pacdcgan"])
def test_verdicts_of_a_gan_are_those_of_its_discriminator(name: str) -> None:
    """On whole packs; generated examples have the real ones' classes, and nothing is counted or drawn elsewhere."""
    model = new_model(name, IMAGES.spec).eval()
    assert isinstance(model, Adversarial)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, y = IMAGES.val.x[:7], IMAGES.val.y
    assert y is not None
    m = model.packing
    n = 7 // m * m
    on_real, on_fake = model.verdicts((x, y[:7]), generator=Generator().manual_seed(3))
    z = torch.randn(n, model.latent_dim, generator=Generator().manual_seed(3))
    real = x[:n] / 127.5 - 1
    if model.classes > 0:
        labels = torch.nn.functional.one_hot(y[:n], model.classes).float()
        fake = model.generator(torch.cat([z, labels], 1))
        planes = labels[:, :, None, None].expand(-1, -1, 8, 8)
        real, fake = torch.cat([real, planes], 1), torch.cat([fake, planes], 1)
    else:
        fake = model.generator(z)
    for found, seen in ((on_real, real), (on_fake, fake)):
        packed = seen.reshape(n // m, m * seen.shape[1], 8, 8)
        torch.testing.assert_close(found, model.discriminator(packed))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Norms(Probe):
    """Norms of the generator's gradient at every step, by hand."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        gradients = [p.grad for name, p in model.named_parameters() if name.startswith("generator.")]
        self.norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None)))


def test_the_gradient_that_reaches_the_generator(tmp_path: Path) -> None:
    norms = Norms()
    diagnosed(new_model("dcgan", IMAGES.spec), IMAGES, tmp_path, {"g": GeneratorGradient()}, norms)
    pairs = [norms.norms[start : start + 2] for start in range(0, 8, 2)]
    assert column(tmp_path, "g", "generator_gradient_mean") == pytest.approx(
        [sum(pair) / 2 for pair in pairs], rel=1e-5
    )
    assert column(tmp_path, "g", "generator_gradient_largest") == pytest.approx(list(map(max, pairs)), rel=1e-5)


def test_the_share_of_clipped_weights() -> None:
    model = new_model("wgan", VECTORS.spec)
    assert isinstance(model, WGAN)
    assert model.clip is not None
    clip, parameters = model.clip, list(model.discriminator.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(0.9 * clip)
        first, last = parameters[0], parameters[-1]
        last.fill_(3 * clip)
        first.view(-1)[:3] = torch.tensor([-2 * clip, -clip, 2 * clip])
        for parameter in parameters:
            parameter.clamp_(-clip, clip)
    numbers = ClippedWeights().validated(model, Progress(), None)
    whole = sum(parameter.numel() for parameter in parameters)
    assert numbers["clipped_weights"] == pytest.approx((3 + last.numel()) / whole)
    assert (numbers["clipped_weights_lowest"], numbers["clipped_weights_highest"]) == (0, 1)


class Fixed:
    """A model with these samples and codes."""

    device = torch.device("cpu")
    cannot_sample = ""
    family = "vae"

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        return self.x[:n]


def test_modes_are_those_that_samples_lie_in() -> None:
    means = POINTS.test.x.new_tensor([[math.cos(a), math.sin(a)] for a in (0, math.pi / 4)])
    assert isinstance(POINTS.modes, Modes)
    assert (POINTS.modes.assign(means) >= 0).all(), "the modes are where this test looks for them"
    model: Any = Fixed(torch.cat([means, means, torch.full((6, 2), 50.0)]))
    probe = ModesOverTime(10)
    assert probe.begin(model, POINTS, silent) == ""
    assert probe.validated(model, Progress(), None) == {"modes_hit": 2, "modes_quality": 0.4}
    assert len(probe.panels()) == 2


def test_modes_that_a_classifier_assigns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        classes = staticmethod(lambda x: x.flatten(1)[:, 0].long())

    recipe = "bench.training.probes.InDomainClassifier"
    monkeypatch.setattr(f"{recipe}.lacks", lambda self, data: "")
    monkeypatch.setattr(f"{recipe}.extractor", lambda self, data, note: Told())
    data = Data(
        IMAGES.spec, IMAGES.train, IMAGES.val, IMAGES.test,
        modes=ClassifiedModes(IMAGES, lambda classify: Modes(256, classify)),
    )  # fmt: skip
    model: Any = Fixed(torch.tensor([0, 3, 3, 9], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8))
    probe = ModesOverTime(4)
    assert probe.begin(model, data, silent) == ""
    assert probe.validated(model, Progress(), None) == {"modes_hit": 3}
    assert len(probe.panels()) == 1
    monkeypatch.setattr(f"{recipe}.lacks", lambda self, data: "too small")
    assert ModesOverTime(4).begin(model, data, silent) == "too small"


class Codes(Fixed, Autoencodes):
    """Codes that vary as they are told: by a factor on the first entries of the examples."""

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return x @ self.x

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError


def test_active_units_vary_more_than_a_hundredth_between_examples() -> None:
    x = VECTORS.val.x.double()
    spread = x.std(0)
    factors = torch.diag(torch.tensor([1.1, 0.9, 0.0]).double() * 0.1 / spread)  # standard deviations 0.11, 0.09, 0
    model: Any = Codes(factors.float())
    probe = ActiveUnits(1000)
    assert probe.begin(model, VECTORS, silent) == ""
    numbers = probe.validated(model, Progress(), None)
    assert numbers["active_units"] == 1
    found = [numbers[f"code_variance_{name}"] for name in ("largest", "median", "smallest")]
    assert found == pytest.approx([0.0121, 0.0081, 0.0], rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("model", "data", "passed_over"),
    [
        ("vae", VECTORS, {"generator_gradient": "no generator", "discriminator": "no discriminator",
                          "clipped_weights": "clips no weights", "modes_over_time": "modes of small are not known"}),
        ("realnvp", POINTS, {"generator_gradient": "no generator", "discriminator": "no discriminator",
                             "clipped_weights": "clips no weights", "active_units": "is a bijection"}),
        ("bigan", POINTS, {"clipped_weights": "clips no weights"}),
        ("gaussian", POINTS, dict.fromkeys(every_probe(), "fitted in one pass")),
    ],
)  # fmt: skip
def test_a_probe_that_does_not_apply_is_passed_over_with_a_line(
    model: str, data: Data, passed_over: dict[str, str], tmp_path: Path
) -> None:
    said: list[str] = []
    diagnostics = Diagnostics(every_probe(), tmp_path, "title")
    diagnostics.start(new_model(model, data.spec), data, said.append, silent)
    assert set(diagnostics.probes) == set(every_probe()) - set(passed_over)
    assert len(said) == len(passed_over)
    for name, reason in passed_over.items():
        (line,) = [text for text in said if text.startswith(f"probe {name} is passed over: ")]
        assert reason in line


# Collapse


def curve(n: int, noise: float, seed: int, shape: Callable[[float], float]) -> list[float]:
    draw = random.Random(seed)
    return [shape(t / (n - 1)) + draw.gauss(0, noise) for t in range(n)]


def flagged(n: int, noise: float, shape: Callable[[float], float]) -> float:
    found = [collapse_of(curve(n, noise, seed, shape)) for seed in range(400)]
    return sum(one is not None and one.collapsed for one in found) / 400


@pytest.mark.parametrize("n", [6, 12, 50, 200])
def test_noise_is_not_called_collapse(n: int) -> None:
    assert flagged(n, 3.0, lambda t: 10.0) <= 0.03, "scores that never got better: a third of their value is noise"
    assert flagged(n, 3.0, lambda t: 10 + 100 * math.exp(-8 * t)) <= 0.03, "scores that have converged"


def test_the_end_of_a_training_that_collapsed_is() -> None:
    def fell(t: float) -> float:  # as StudioGAN's own DCGAN: 49.0 at a fifth, 137.4 at the end
        return 49 + 200 * math.exp(-25 * t) + 88.4 * max(0.0, (t - 0.3) / 0.7)

    assert flagged(100, 3.0, fell) == 1
    assert flagged(10, 2.0, fell) > 0.8
    found = collapse_of(curve(100, 0.0, 0, fell))
    assert found is not None
    assert found.final == pytest.approx(137.4, abs=0.1)
    assert found.best == pytest.approx(49, abs=1)


def test_what_is_certain_and_small_is_no_collapse() -> None:
    assert flagged(100, 0.0, lambda t: 50 + 5 * t) == 0
    assert flagged(100, 0.0, lambda t: -500 + 100 * t) == 0, "scores may be negative"
    assert flagged(100, 0.0, lambda t: -500 + 300 * t) == 1


def test_too_few_scores_say_nothing() -> None:
    assert collapse_of([1.0, 1.0, 1.0, 99.0]) is None
    found = collapse_of([1.0] * (FEWEST - 1) + [99.0])
    assert found is not None
    assert found.collapsed


# Curves and pictures


def test_a_resumed_run_goes_on_with_the_curves_of_a_killed_one(tmp_path: Path) -> None:
    def run(folder: Path, *others: Probe) -> None:
        scores = iter([5.0, 4.0, 3.0, 2.0])
        diagnosed(new_model("bigan", POINTS.spec), POINTS, folder, every_probe(), *others, scores=scores)

    run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "parts", Kill(5))
    assert len(column(tmp_path / "parts", "collapse", "examples_seen")) == 2
    assert not list((tmp_path / "parts").glob("*.png"))
    # A point after the checkpoint that the run goes on from: it was killed between the two.
    torn = tmp_path / "parts" / "probe-discriminator.csv"
    write_curve(torn, [*read_curve(torn), {"examples_seen": 96.0, "discriminator_gap": 7.0}])
    scores = iter([3.0, 2.0])
    diagnosed(new_model("bigan", POINTS.spec), POINTS, tmp_path / "parts", every_probe(), scores=scores)
    names = sorted(file.name for file in (tmp_path / "whole").glob("probe-*"))
    assert names == sorted(file.name for file in (tmp_path / "parts").glob("probe-*"))
    assert len([name for name in names if name.endswith(".csv")]) == 6
    for name in names:
        if name.endswith(".csv"):
            assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text(), name


def test_a_training_that_diverges_leaves_its_pictures(tmp_path: Path) -> None:
    scores = iter([1.0, 2.0, math.nan])
    with pytest.raises(DivergedError):
        diagnosed(new_model("vae", VECTORS.spec), VECTORS, tmp_path, {"g": GradientNorm()}, scores=scores)
    assert len(column(tmp_path, "g", "gradient_norm")) == 2
    assert width_of(tmp_path / "probe-g.png") == 700


def test_a_curve_is_read_as_it_was_written_and_nothing_else_is(tmp_path: Path) -> None:
    points = [{"examples_seen": 1.0, "a": 0.1 + 0.2}, {"examples_seen": 2.0, "b": -1e-300}]
    write_curve(tmp_path / "c.csv", points)
    assert read_curve(tmp_path / "c.csv") == points
    for number, text in enumerate(["", "a,b\n1\n", "a\nno number\n", "a\n\x00\n"]):
        (tmp_path / f"{number}.csv").write_text(text)
        assert read_curve(tmp_path / f"{number}.csv") == []
    assert read_curve(tmp_path / "none.csv") == []


def test_a_picture_names_its_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    built = Figure.__init__

    def kept(self: Figure, *arguments: Any, **named: Any) -> None:
        built(self, *arguments, **named)
        figures.append(self)

    monkeypatch.setattr(Figure, "__init__", kept)
    points = [{"x": float(n), "a": n - 1.0, "b": 2.0} for n in range(4)]
    panels = [
        Panel("height [m]", {"a": "first", "b": "second"}, lines={"half": 0.5}, log=True),
        Panel("b [s]", {"b": ""}),
    ]
    draw_curves(points, panels, tmp_path / "p.png", title="A title", x="x", x_label="time [s]")
    (figure,) = figures
    above, below = figure.axes
    assert figure.get_suptitle() == "A title"
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == ("height [m]", "b [s]", "time [s]")
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["first", "second", "half"]  # type: ignore[union-attr]
    assert above.get_yscale() == "log"
    assert above.lines[0].get_xdata().tolist() == [2, 3], "what is not positive is not drawn"  # type: ignore[union-attr]
    assert below.get_legend() is None
    assert width_of(tmp_path / "p.png") == 700


# From the command line


TOY = ["run", "model=bigan", "model.width=4", "model.latent_dim=2", "data=ring8", "data.n_train=400", "data.n_val=100",
       "data.n_test=100", "train.examples=640", "train.validate_every=128", "evaluate.n_samples=20"]  # fmt: skip


def test_a_run_keeps_the_curves_of_its_probes_and_both_checkpoints_have_lines(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = "probe=[discriminator,modes_over_time,clipped_weights,collapse]"
    assert main([*TOY, probes, "metric=[modes,collapse]", "evaluate.checkpoints=[best,final]", "logger=csv"]) == 0
    said = capsys.readouterr()
    assert "probe clipped_weights is passed over: the model clips no weights" in said.err
    assert "bigan (best)" in said.out
    assert "bigan (final)" in said.out
    (run,) = workplace.glob("runs/*/*")
    found = {file.name for file in run.glob("probe-*")}
    assert found == {f"probe-{name}.{kind}" for name in ("discriminator", "modes_over_time", "collapse")
                     for kind in ("csv", "png")}  # fmt: skip
    with (run / "curves" / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["modes_hit"]) for line in lines] == column(run, "modes_over_time", "modes_hit")
    rows = read_rows(run / "rows.jsonl")
    trained = [row for row in rows if row.model == "bigan"]
    assert {row.checkpoint for row in trained if row.metric == "modes"} == {"best", "final"}
    assert {row.value for row in trained if row.metric == "collapsed"} <= {0.0, 1.0}
    assert {(run / f"samples-{name}.png").exists() for name in ("best", "final")} == {True}


def test_a_collapsed_run_says_so_and_its_cell_has_a_note(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.2, 1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr("bench.runs.run.validation_score", lambda *_: lambda model: next(scores))
    assert main([*TOY, "metric=[collapse]"]) == 0
    said = capsys.readouterr()
    assert "the final validation score is 9, the best was 1, at 256 examples" in said.err
    assert "the final checkpoint is much worse than the best one" in " ".join(said.out.split())
    (row,) = [row for row in read_rows(next(workplace.glob("runs/*/*/rows.jsonl"))) if row.metric == "collapsed"]
    assert row.value == 1
