"""Whether a model takes other data than those that it was trained on."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from bench.data.base import Data
from bench.errors import UnavailableError
from bench.rng import seeded
from bench.schema import DataSpec
from models.base import ClosedForm, CountsTraining, GenerativeModel, SamplesGiven

__all__ = ["try_on"]


def try_on(make: Callable[[DataSpec], GenerativeModel], data: Data, seed: int) -> None:
    """Make a model for the data, take the loss of the training split and its gradient, and draw two examples.

    Raises:
        UserError: The constructor refuses the data.
        UnavailableError: The model has a training of its own, which cannot be tried in one step.
        ValueError: What it draws are no examples of the data's shape and dtype.
    """
    with seeded(seed):  # whatever a model draws from the global generators, other metrics are measured as without it
        model = make(data.spec)
        _tried(model, data.train.x, seed)


def _tried(model: GenerativeModel, x: Tensor, seed: int) -> None:
    if not model.automatic_optimization:
        raise UnavailableError("the model optimizes by hand: one step of it cannot be tried")
    generator = Generator().manual_seed(seed)
    model.train_generator = generator
    if isinstance(model, ClosedForm):
        model.fit([x])
    else:
        if isinstance(model, CountsTraining):
            model.count([x])
        loss = model.training_step((x, None), 0)
        assert isinstance(loss, Tensor), "Lightning's step optimizes by itself, so it returns a loss"
        loss.backward()
    model.eval()
    with torch.no_grad():
        if isinstance(model, SamplesGiven):
            made = model.sample_given(x[:2], generator=generator)
        else:
            made = model.sample(2, generator=generator)
    if made.shape != x[:2].shape or made.dtype != x.dtype:
        raise ValueError(f"samples are {made.dtype} {tuple(made.shape)}, the data {x.dtype} {tuple(x[:2].shape)}")
