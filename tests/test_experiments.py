"""Experiments outside the trainer: the bilinear game against its closed form, and gradients that vanish."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_models import small_data
from PIL import Image
from torch import nn

from bench.experiments import bilinear, vanishing_gradients
from bench.experiments.bilinear import METHODS, exact_radii, iterates
from bench.experiments.vanishing_gradients import LOSSES, gradient_norm
from bench.rng import seeded
from bench.seeds import derive_seed
from models.distributions import standard_normal
from models.nn.dcgan import discriminator_network, generator_network


def columns(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name]) for line in lines] for name in lines[0]}


def drawn(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.width >= 700


@pytest.mark.parametrize("step", [0.05, 0.3, 1.0, 1.9])
@pytest.mark.parametrize("method", list(METHODS))
def test_distances_are_those_of_the_closed_form(method: str, step: float) -> None:
    start = (0.6, -1.1)
    found = np.linalg.norm(iterates(method, start, step, 200), axis=1)
    np.testing.assert_allclose(found, exact_radii(method, start, step, 200), rtol=1e-8, atol=1e-12)


def test_who_converges_cycles_and_diverges() -> None:
    last = {method: float(np.linalg.norm(iterates(method, (1.0, 0.0), 0.1, 2000)[-1])) for method in METHODS}
    assert last["simultaneous"] > 1e4
    assert 0.9 < last["alternating"] < 1.1
    assert last["averaged"] < 0.02
    assert last["extragradient"] < 1e-4


def test_alternating_steps_keep_a_quadratic_form() -> None:
    x, y = iterates("alternating", (1.0, 0.5), 0.7, 500).T
    np.testing.assert_allclose(x**2 + y**2 - 0.7 * x * y, 0.9, rtol=1e-10)


def test_steps_are_those_of_the_gradient() -> None:
    point = torch.tensor([1.3, -0.4], dtype=torch.float64, requires_grad=True)
    (by_x, by_y) = torch.autograd.grad(point.prod(), point)[0].tolist()
    assert bilinear.simultaneous(1.3, -0.4, 0.2) == pytest.approx((1.3 - 0.2 * by_x, -0.4 + 0.2 * by_y))


def test_the_bilinear_game_leaves_a_csv_and_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert bilinear.main(["--out", str(folder), "--steps", "50", "--step", "0.2"]) == 0
    found = columns(folder / "bilinear.csv")
    assert found["step"] == list(range(51))
    for method in METHODS:
        assert found[method] == pytest.approx(found[f"{method}_exact"], rel=1e-9)
    assert drawn(folder / "bilinear.png")


@pytest.mark.parametrize("wrong", [["--step", "0"], ["--step", "2"], ["--steps", "0"]])
def test_numbers_out_of_range_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bilinear.main(wrong)
    assert ended.value.code == 2
    assert f"{wrong[0]} must be" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for main in (bilinear.main, vanishing_gradients.main):
        with pytest.raises(SystemExit) as ended:
            main(["--out", str(tmp_path / "file" / "folder")])
        assert ended.value.code == 2
        assert "give another folder" in capsys.readouterr().err.splitlines()[-1]


class Point(nn.Module):
    """The generator of one point."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([at]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.at.expand(len(z))


@pytest.mark.parametrize("logit", [-8.0, 0.0, 3.0])
def test_gradients_are_those_of_the_losses_by_hand(logit: float) -> None:
    """With outputs f = a theta, the norms are a times sigmoid(f), sigmoid(-f) and 1."""
    slope = 2.5
    generator = Point(logit / slope)
    outputs = slope * generator(torch.zeros(7))
    found = {name: gradient_norm(loss(outputs), generator) for name, loss in LOSSES.items()}
    sure = 1 / (1 + math.exp(logit))  # that it is generated
    expected = {"saturating": 1 - sure, "non_saturating": sure, "wasserstein": 1.0}
    assert found == pytest.approx({name: slope * factor for name, factor in expected.items()}, rel=1e-4)
    assert generator.at.grad is None


def test_the_saturating_gradient_vanishes_and_the_others_stay(tmp_path: Path) -> None:
    data = small_data((16,), None, n=256)
    vanishing_gradients.run(tmp_path, data, warm_up=0, steps=120, every=40)
    found = columns(tmp_path / "vanishing_gradients.csv")
    assert found["step"] == [0, 40, 80, 120]
    assert found["discriminator_loss"][-1] < 0.01 * found["discriminator_loss"][0]
    assert found["saturating"][-1] < 0.01 * found["saturating"][0]
    assert found["non_saturating"][-1] > found["non_saturating"][0]
    assert found["wasserstein"][-1] > 0.3 * found["wasserstein"][0]
    assert drawn(tmp_path / "vanishing_gradients.png")


def test_the_same_seed_gives_the_same_curve_and_touches_no_global_generator() -> None:
    data = small_data((3,), None, n=256)
    before = torch.get_rng_state()
    first, again, other = (
        vanishing_gradients.vanishing_gradients(data, warm_up=2, steps=4, every=2, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert first == again
    assert first != other


@pytest.mark.parametrize(("shape", "levels"), [((16,), None), ((1, 8, 8), 256)])
def test_each_gradient_is_that_of_its_own_network(shape: tuple[int, ...], levels: int | None) -> None:
    """At step 0, where the networks are those of the seed: the generator as it is used, one batch of noise for all."""
    data = small_data(shape, levels, n=256)
    (first,) = vanishing_gradients.vanishing_gradients(data, warm_up=0, steps=0, every=1, seed=3)
    with seeded(derive_seed(3, "init")):
        generator = generator_network(shape, 8, 32, bounded=levels is not None).eval()
        _, fresh, critic = (discriminator_network(shape, 32, batch_norm=False) for _ in range(3))
    noise = torch.Generator().manual_seed(derive_seed(3, "noise"))
    made = generator(standard_normal((512, 8), next(generator.parameters()), noise))
    for name, loss in LOSSES.items():
        network = critic if name == "wasserstein" else fresh
        assert first[name] == pytest.approx(gradient_norm(loss(network(made)), generator), rel=1e-5)


def test_the_penalty_holds_the_critic_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((3,), None, n=256)
    curves = []
    for penalty in (0.0, 1000.0):
        monkeypatch.setattr(vanishing_gradients, "PENALTY", penalty)
        curves.append(vanishing_gradients.vanishing_gradients(data, warm_up=0, steps=30, every=30)[-1])
    without, held = curves
    assert held["wasserstein"] != pytest.approx(without["wasserstein"], rel=0.01)
    assert (held["saturating"], held["discriminator_loss"]) == (without["saturating"], without["discriminator_loss"])


def test_the_command_passes_on_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(vanishing_gradients, "run", lambda folder, data, **settings: given.update(settings))
    monkeypatch.setitem(vanishing_gradients.DATA, "ring8", lambda: small_data((2,), None))
    options = ["--data", "ring8", "--warm-up", "3", "--steps", "80", "--seed", "5"]
    assert vanishing_gradients.main(["--out", str(tmp_path), *options]) == 0
    assert given == {"warm_up": 3, "steps": 80, "every": 2, "seed": 5}
