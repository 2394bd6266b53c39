"""Training loops as one writes them in a script, around the networks of our models: no Trainer, no Lightning.

Each takes a new model, the training examples, a batch size and a number of steps, and returns CPU seconds of this
process. Losses of models that are trained by one optimizer are the models' own; those of GANs are written out here.
Adam is fused as in a run.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bench.training.fused import fuse
from models.base import GenerativeModel
from models.distributions import bounded_log_scale
from models.gans.adversarial import Adversarial
from models.gans.bigan import BiGAN

__all__ = ["bare_loop"]


def bare_loop(model: GenerativeModel, x: Tensor, batch_size: int, steps: int) -> float:
    """Train a model for some steps on ``x``, and return the CPU seconds that they took."""
    torch.manual_seed(0)
    model.train()
    if isinstance(model, Adversarial):
        step = _adversarial(model)
    else:
        step = _bidirectional(model) if isinstance(model, BiGAN) else _one_optimizer(model)
    batches = _batches(x, batch_size, steps)
    start = time.process_time()
    for number, batch in enumerate(batches):
        step(batch, number)
    return time.process_time() - start


def _batches(x: Tensor, size: int, steps: int) -> Iterator[Tensor]:
    order = torch.randperm(len(x))
    at = 0
    for _ in range(steps):
        if at + size > len(x):
            order, at = torch.randperm(len(x)), 0
        yield x[order[at : at + size]]
        at += size


def _one_optimizer(model: GenerativeModel) -> Callable[[Tensor, int], None]:
    optimizer = model.configure_optimizers()
    fuse([optimizer])  # type: ignore[list-item]
    model.train_generator = torch.Generator().manual_seed(0)

    def step(batch: Tensor, number: int) -> None:
        optimizer.zero_grad()  # type: ignore[union-attr]
        loss = model.training_step((batch, None), number)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()  # type: ignore[union-attr]
        loss.item()  # type: ignore[union-attr]  # a script prints it

    return step


def _adversarial(model: Adversarial) -> Callable[[Tensor, int], None]:
    generator, discriminator, pack = model.generator, model.discriminator, model.packing
    optimizer = model.generator_optimizer(generator.parameters())
    of_discriminator = model.discriminator_optimizer(discriminator.parameters())
    fuse([optimizer, of_discriminator])

    def generated(n: int) -> Tensor:
        fake: Tensor = generator(torch.randn(n, model.latent_dim))
        return fake.view(n // pack, pack * fake.shape[1], *fake.shape[2:])

    def step(batch: Tensor, number: int) -> None:
        n, scale = len(batch), (model.levels or 2) - 1
        real = (2 * batch.float() / scale - 1).view(n // pack, pack * batch.shape[1], *batch.shape[2:])
        with torch.set_grad_enabled(model.shared_noise):
            fake = generated(n)
        loss = model.objective.discriminator(discriminator(real), discriminator(fake.detach()))
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        if model.clip is not None:
            with torch.no_grad():
                for parameter in discriminator.parameters():
                    parameter.clamp_(-model.clip, model.clip)
        if model.kind_of_step(number):
            with _frozen(discriminator):
                if not model.shared_noise:
                    fake = generated(n)
                optimizer.zero_grad()
                model.objective.generator(discriminator(fake)).backward()
            optimizer.step()
        loss.item()

    return step


def _bidirectional(model: BiGAN) -> Callable[[Tensor, int], None]:
    discriminator = model.discriminator
    optimizer = model.generator_optimizer([*model.generator.parameters(), *model.encoder.parameters()])
    of_discriminator = model.discriminator_optimizer(discriminator.parameters())
    fuse([optimizer, of_discriminator])

    def step(batch: Tensor, number: int) -> None:
        real = 2 * batch.float() / ((model.levels or 2) - 1) - 1
        z = torch.randn(len(batch), model.latent_dim)
        fake, code = model.generator(z), model.encoder(real)
        if model.stochastic:
            mean, raw = code.chunk(2, 1)
            code = mean + bounded_log_scale(raw).exp() * torch.randn_like(mean)
        loss = _told_apart(discriminator(real, code.detach()), discriminator(fake.detach(), z))
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        with _frozen(discriminator):
            optimizer.zero_grad()
            _told_apart(discriminator(fake, z), discriminator(real, code)).backward()
        optimizer.step()
        loss.item()

    return step


def _told_apart(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return softplus(-on_real).mean() + softplus(on_fake).mean()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """A network keeps no gradients inside the block."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)
