"""Two processes give the gradients of one that has the batches of both, for every GAN."""

import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_gans import GANS, SGD, seeded
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from models.base import Batch
from models.gans import adversarial
from models.gans.adversarial import Adversarial
from models.gans.schedule import _over_processes

# They are frozen on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")

SIZE = 8  # of the joined batch
PROCESSES = 2


class Share:
    """One batch: the share of a process, or all of it."""

    def __init__(self, model: Adversarial, part: slice) -> None:
        self.model, self.part = model, part

    def __iter__(self) -> Iterator[Batch]:
        x = torch.randint(0, 256, (SIZE, *self.model.shape), generator=seeded(0), dtype=torch.uint8)
        yield x[self.part], (torch.arange(SIZE) % 3)[self.part] if self.model.classes else None

    def __len__(self) -> int:
        return 1


def gradients(name: str, part: slice, strategy: Any = "auto", devices: int = 1) -> dict[str, Tensor]:
    """The gradients of both networks after one training step, in which batch normalization is frozen."""
    model = GANS[name](optimizer=SGD, **({"n_critic": 1} if name in ("wgan", "wgan_gp") else {}))
    for i, (key, parameter) in enumerate(model.named_parameters()):
        if "bias" in key:  # they start at zero, and so would some gradients
            nn.init.normal_(parameter, 0, 0.1, generator=seeded(i))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    frozen = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    draws = seeded(1)  # every process draws for all, and takes its share

    def noise(n: int) -> Tensor:
        return torch.randn(SIZE, model.latent_dim, generator=draws)[part]

    def mix(shape: tuple[int, ...], like: Tensor, generator: object) -> Tensor:
        return torch.rand(SIZE, generator=draws)[part]

    model.noise = noise  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversarial, "uniform", mix)
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", devices=devices, strategy=strategy, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(model, Share(model, part))
    assert all(torch.equal(value, frozen[key]) for key, value in model.named_buffers() if key in frozen)
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0",
    }  # fmt: skip
    share = SIZE // PROCESSES
    found = {}
    for name in GANS:
        # As in bench/training/fit.py.
        strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False, process_group_backend="gloo")
        found[name] = gradients(name, slice(rank * share, (rank + 1) * share), strategy, PROCESSES)
    found["mean"] = {"of 0 and 1": _over_processes(torch.tensor(float(rank)))}
    torch.save(found, folder / f"{rank}.pt")
    # As bench/runs/worker.py: the end of the interpreter destroys the process group beside its threads, and may abort.
    os._exit(0)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """The gradients of every GAN on each of two processes."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=worker, args=(rank, port, folder)) for rank in range(PROCESSES)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=300)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", list(GANS))
def test_two_processes_have_the_gradients_of_the_joined_batch(
    name: str, together: list[dict[str, dict[str, Tensor]]]
) -> None:
    expected, half = gradients(name, slice(0, SIZE)), gradients(name, slice(0, SIZE // 2))
    apart = 0
    for key, gradient in expected.items():
        first, second = (found[name][key] for found in together)
        assert torch.equal(first, second), key
        torch.testing.assert_close(first, gradient, rtol=1e-4, atol=1e-6 + 1e-5 * float(gradient.abs().max()))
        apart += not torch.allclose(half[key], gradient, rtol=1e-2)
    networks = {key.split(".")[0] for key in expected}
    assert networks == {"generator", "discriminator"}
    assert apart > len(expected) / 2, "the halves alone say something else"


def test_a_loss_is_averaged_over_the_processes(together: list[dict[str, dict[str, Tensor]]]) -> None:
    assert [found["mean"]["of 0 and 1"].item() for found in together] == [0.5, 0.5]
