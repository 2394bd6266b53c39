"""A training step that takes its batch in two halves, where the whole does not fit into a GPU's memory."""

import copy
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Generator, Tensor, nn

from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from models.base import Batch, GenerativeModel

__all__ = ["take_halves", "why_not_halved"]


def why_not_halved(model: GenerativeModel, data: Data, schedule: Schedule, hardware: Hardware) -> str:
    """Why two halves of a batch would not train a model as the whole batch does; empty where they would.

    A step in halves has the gradient of the whole batch if the loss is a mean over examples that do not meet. In batch
    normalization they do. A model that steps its optimizers itself decides when gradients are added. One that counts
    its steps would count two; whether it does is tried on two examples. Counts of examples stay right.

    Arguments:
        model: A newly constructed model. It is not changed.
    """
    if not model.automatic_optimization:
        return "the model steps its optimizers itself"
    if model.examples_meet:
        return "the examples of a batch meet in its loss"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return "batch normalization would see half batches"
    if hardware.devices > 1 or schedule.batch_size % 2:
        return "one device and an even train.batch_size are needed"
    try:
        return _counted(copy.deepcopy(model).train(), data)
    except Exception as error:  # whatever a model does with two examples
        return f"a step on two examples: {' '.join(f'{type(error).__name__}: {error}'.split())[:160]}"


def _counted(model: GenerativeModel, data: Data) -> str:
    """What a model counts besides examples; empty where nothing."""
    model.train_generator = Generator().manual_seed(0)
    batch = data.train.x[:2], None if data.train.y is None else data.train.y[:2]
    model.training_step(batch, 0)  # layers set themselves from the first batch
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.training_step(batch, 1)
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, before[name]) and not torch.equal(buffer, before[name] + len(batch[0])):
            return f"every step changes the model's {name}"
    return ""


def take_halves(model: GenerativeModel, trainer: Trainer) -> None:
    """Let each of the model's training steps take its batch in two halves and add up their gradients, for good.

    The optimizer steps once a batch, as before, and the loss is the mean over the batch.
    """
    whole = model.training_step

    def step(batch: Batch, batch_idx: int) -> dict[str, Any]:
        model.zero_grad()
        x, y = batch
        middle = len(x) // 2
        first = _named(whole((x[:middle], None if y is None else y[:middle]), batch_idx))["loss"] / 2
        trainer.strategy.backward(first, trainer.optimizers[0])  # before the second half needs the memory
        outputs = _named(whole((x[middle:], None if y is None else y[middle:]), batch_idx))
        return {**outputs, "loss": outputs["loss"] / 2 + first.detach()}

    model.training_step = step  # type: ignore[method-assign]
    # Lightning would forget the first half's gradients between the step and its backward pass.
    model.optimizer_zero_grad = lambda *_, **__: None  # type: ignore[method-assign]


def _named(outputs: Any) -> dict[str, Any]:
    return {"loss": outputs} if isinstance(outputs, Tensor) else dict(outputs)
