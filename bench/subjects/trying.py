"""Whether a model takes other data than those that it was trained on."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from bench.data.base import Data
from bench.errors import UnavailableError, UserError
from bench.rng import seeded
from bench.schema import DataSpec
from models.base import ClosedForm, CountsTraining, GenerativeModel, SamplesGiven

__all__ = ["try_on"]


def try_on(make: Callable[[DataSpec], GenerativeModel], data: Data, seed: int) -> None:
    """Make a model for the data, take the loss of the training split and its gradient, and draw two examples.

    Raises:
        UserError: The constructor refuses the data, as models do with a ValueError. What else it raises is raised.
        UnavailableError: The model has a training of its own, which cannot be tried in one step.
        ValueError: What it draws are no examples of the data's shape and dtype.
    """
    with seeded(seed):  # whatever a model draws from the global generators, other metrics are measured as without it
        model = _made(make, data.spec)
        _tried(model, data.train.x, seed)


def _made(make: Callable[[DataSpec], GenerativeModel], spec: DataSpec) -> GenerativeModel:
    try:
        return make(spec)
    except UserError as error:
        cause: BaseException = error  # whoever builds from a configuration calls every error of a constructor a user's
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | UserError):
            raise
        raise cause from None


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
