"""Every GAN at a small size, and a Lightning trainer that shows it fixed batches and records what moves."""

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor

from models.base import Batch
from models.gans.adversarial import Adversarial
from models.gans.dcgan import DCGAN
from models.gans.gan import GAN
from models.gans.sngan import SNGAN
from models.gans.wgan import WGAN
from models.gans.wgan_gp import WGANGP

__all__ = [
    "ADAM",
    "Batches",
    "CRITICS",
    "GANS",
    "Recorder",
    "SGD",
    "dcgan",
    "fit",
    "gan",
    "seeded",
    "sngan",
    "wgan",
    "wgan_gp",
]

ADAM = functools.partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
RMSPROP = functools.partial(torch.optim.RMSprop, lr=5e-5)
SGD = functools.partial(torch.optim.SGD, lr=0.1)

Shape = tuple[int, ...]


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def dcgan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def wgan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = RMSPROP, **kw: Any) -> WGAN:
    torch.manual_seed(0)
    return WGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def wgan_gp(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def sngan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> SNGAN:
    torch.manual_seed(0)
    return SNGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def gan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> GAN:
    torch.manual_seed(0)
    sizes = {"latent_dim": 6, "generator_hidden": 8, "discriminator_hidden": 8}
    return GAN(shape, levels, optimizer, optimizer, **sizes | kw)


GANS: dict[str, Callable[..., Adversarial]] = {
    "gan": gan,
    "dcgan": dcgan,
    "wgan": wgan,
    "wgan_gp": wgan_gp,
    "sngan": sngan,
    "pacgan": functools.partial(gan, packing=2, pieces=3),
    "pacdcgan": functools.partial(dcgan, packing=2),
    "conditional": functools.partial(dcgan, classes=3, conditional=True, packing=2),
}
CRITICS = ("wgan", "wgan_gp")  # which take n_critic


class Batches:
    """A loader of fixed batches."""

    def __init__(self, model: Adversarial, start: int, stop: int, size: int = 4) -> None:
        self.model, self.start, self.stop, self.size = model, start, stop, size

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.start, self.stop):
            shape = (self.size, *self.model.shape)
            y = (torch.arange(self.size) + i) % 3 if self.model.classes else None
            if self.model.levels is None:
                yield torch.randn(shape, generator=seeded(i)), y
            else:
                yield torch.randint(0, self.model.levels, shape, generator=seeded(i), dtype=torch.uint8), y

    def __len__(self) -> int:
        return self.stop - self.start


class Recorder(Callback):
    """Copies of both networks before and after every batch, and what the steps returned."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.outputs: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Any, batch_idx: int) -> None:
        self.before.append(copy.deepcopy(dict(model.named_parameters())))

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.after.append(copy.deepcopy(dict(model.named_parameters())))
        self.outputs.append(outputs)

    def moved(self, step: int, network: str) -> bool:
        pairs = [(self.before[step][k], v) for k, v in self.after[step].items() if k.startswith(f"{network}.")]
        return any(not torch.equal(old, new) for old, new in pairs)


def fit(
    model: Adversarial, start: int, stop: int, *, epochs: int = 1, resume: Path | None = None
) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
    )
    trainer.fit(model, Batches(model, start, stop), ckpt_path=resume)
    return trainer, recorder
