"""What each probe of training measures, against numbers that are known or computed by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_diagnostics import IMAGES, POINTS, VECTORS, column, diagnosed, silent
from helpers_models import new_model
from torch import Generator, Tensor

from bench.checkpoint import Progress
from bench.data.base import ClassifiedModes, Data, Modes, Split
from bench.probe import Probe
from bench.training.probes import (
    ActiveUnits,
    ClippedWeights,
    Discriminator,
    GeneratorGradient,
    ModesOverTime,
    accuracy,
)
from models.base import Autoencodes, Batch, GenerativeModel, HasDiscriminator
from models.gans.adversarial import Adversarial
from models.gans.bigan import BiGAN
from models.gans.wgan import WGAN


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


def test_the_variance_of_a_code_is_that_over_all_examples() -> None:
    """More than one chunk, and sorted: within a chunk there is hardly any variance."""
    x = torch.arange(600.0)[:, None] / 100
    data = Data(VECTORS.spec, VECTORS.train, Split(x), VECTORS.test)
    probe, model = ActiveUnits(1000), Codes(torch.ones(1, 1))
    assert probe.begin(model, data, silent) == ""  # type: ignore[arg-type]
    numbers = probe.validated(model, Progress(), None)  # type: ignore[arg-type]
    assert numbers["code_variance_largest"] == pytest.approx(float(x.double().var()), rel=1e-9)
