"""PixelCNN and gated PixelCNN: what an output reads, samples against masses, one pixel against the whole picture."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import all_examples, randomize, resumed_to_the_same_bits, sampler_p_value
from helpers_models import small_data
from torch import Tensor
from torch.autograd.functional import jacobian

from models.autoregressive.base import Autoregressive
from models.autoregressive.gated_pixelcnn import GatedPixelCNN
from models.autoregressive.pixelcnn import PixelCNN

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def plain(shape: tuple[int, ...], levels: int, **options: Any) -> Autoregressive:
    return ready(PixelCNN(shape, levels, ADAM, **{"channels": 4, "blocks": 2, "head": 5} | options))


def gated(shape: tuple[int, ...], levels: int, **options: Any) -> Autoregressive:
    return ready(GatedPixelCNN(shape, levels, ADAM, **{"channels": 4, "dilations": [1, 2]} | options))


def ready(model: Autoregressive) -> Autoregressive:
    randomize(model, 0.5)
    return model.double().eval()


MODELS: dict[str, Callable[..., Autoregressive]] = {
    "plain": plain,
    "gated": gated,
    "conditional": functools.partial(gated, classes=3, conditional=True),
}
each = pytest.mark.parametrize("name", list(MODELS))


def context_of(model: Autoregressive, n: int) -> Tensor | None:
    return None if model.classes == 0 else torch.eye(model.classes, dtype=torch.float64)[torch.arange(n) % 3]


def in_order(jacobian: Tensor) -> Tensor:
    """``(P, C, H, W, C, H, W)`` to ``(P, D, D)``, entries in the order in which they are drawn."""
    p, c, h, w = jacobian.shape[:4]
    return jacobian.permute(0, 2, 3, 1, 5, 6, 4).reshape(p, c * h * w, c * h * w)


def reads(model: Autoregressive) -> Tensor:
    seen = torch.randn(model.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    context = context_of(model, 1)
    return in_order(jacobian(lambda x: model.outputs(x[None], context)[0], seen)) != 0


@each
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 3, 3), (2, 1, 4), (1, 5, 1)])
def test_outputs_read_no_entry_that_is_not_before_theirs(name: str, shape: tuple[int, ...]) -> None:
    read = reads(MODELS[name](shape, 256, output="logistic"))
    assert not read.triu().any()
    assert read.any() == (shape[0] * shape[1] * shape[2] > 1)


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 4, 4)])
def test_gated_outputs_read_every_entry_before_theirs(shape: tuple[int, ...]) -> None:
    read = reads(gated(shape, 256, output="logistic", first_kernel=9, channels=6))
    d = read.shape[1]
    assert read[:, torch.ones(d, d).tril(-1).bool()].all()


def test_plain_outputs_have_a_blind_spot_and_gated_ones_of_the_same_kernels_have_none() -> None:
    """Two kernels of 3x3 reach two rows up: the pixel there, two to the right, is read through the row between."""
    blind = reads(plain((1, 4, 6), 256, first_kernel=3, blocks=2, output="logistic"))
    seeing = reads(gated((1, 4, 6), 256, first_kernel=3, dilations=[1, 1], output="logistic"))
    at, right_above = 3 * 6 + 1, 2 * 6 + 5  # four columns to the right, one row above
    assert not blind[:, at, right_above].any()
    assert not seeing[:, at, right_above].any()  # three kernels reach three columns
    above = 2 * 6 + 3  # two columns to the right
    assert not blind[:, at, above].any()
    assert seeing[:, at, above].all()


@each
@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 3, 3)])
def test_entry_after_entry_has_the_outputs_of_the_whole_picture(name: str, shape: tuple[int, ...]) -> None:
    model = MODELS[name](shape, 256, output="mixture", components=2)
    n, x = 3, torch.zeros(3, model.dim, dtype=torch.float64)
    found: dict[int, Tensor] = {}

    def emit(i: int, outputs: Tensor) -> Tensor:
        found[i] = outputs
        x[:, i] = (outputs.sum(1) + i).sin()
        return x[:, i]

    with torch.no_grad():
        model.generate(emit, n, context_of(model, n))
        whole = model.outputs(x.unflatten(1, shape), context_of(model, n))
    assert sorted(found) == list(range(model.dim))
    torch.testing.assert_close(torch.stack([found[i] for i in range(model.dim)], 2), whole.flatten(2))


@each
@pytest.mark.parametrize(
    ("shape", "levels", "output"),
    [((1, 2, 3), 2, "logistic"), ((2, 1, 2), 3, "categorical"), ((1, 2, 1), 5, "mixture")],
)
def test_masses_sum_to_one_and_samples_have_them(name: str, shape: tuple[int, ...], levels: int, output: str) -> None:
    model = MODELS[name](shape, levels, output=output)
    with torch.no_grad():
        mass = float(model.log_weight(all_examples(shape, levels)).exp().sum())
    assert mass == pytest.approx(1, abs=1e-9)
    assert sampler_p_value(model, 8000) > 1e-3


def test_a_conditional_model_trains_on_labels_and_mixes_over_them() -> None:
    model = MODELS["conditional"]((1, 2, 2), 2)
    x = all_examples((1, 2, 2), 2)
    with torch.no_grad():
        each_class = torch.stack([model._log_joint(x, torch.full((len(x),), y)) for y in range(3)])
        torch.testing.assert_close(model.log_weight(x), each_class.logsumexp(0))
        loss = model.training_step((x, torch.ones(len(x), dtype=torch.long)), 0)
        torch.testing.assert_close(loss, model.scaled(-each_class[1].mean()))
    with pytest.raises(ValueError, match="no labels"):
        model.training_step((x, None), 0)
    with pytest.raises(ValueError, match="class labels"):
        GatedPixelCNN((1, 2, 2), 2, ADAM, classes=None, conditional=True)


@each
def test_resumed_training_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    data = small_data((1, 3, 3), 2)
    options: dict[str, Any] = {"classes": 2, "conditional": True} if name == "conditional" else {}

    def new(seed: int) -> Autoregressive:
        torch.manual_seed(seed)
        make: Any = PixelCNN if name == "plain" else GatedPixelCNN
        sizes: dict[str, Any] = {"blocks": 1, "head": 4} if name == "plain" else {"dilations": [1]}
        return make((1, 3, 3), 2, ADAM, channels=4, **sizes, **options)  # type: ignore[no-any-return]

    assert resumed_to_the_same_bits(new, data, tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 1}, "channels"),
        ({"kernel": 4}, "kernel"),
        ({"first_kernel": 2}, "first_kernel"),
        ({"output": "softmax"}, "output"),
    ],
)
@pytest.mark.parametrize("name", ["plain", "gated"])
def test_bad_options_are_refused_by_name(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MODELS[name]((3, 4, 4), 8, **options)


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_vectors_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="images"):
        MODELS[name]((5,), 4)
