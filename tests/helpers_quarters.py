"""Pictures of four classes, features of them that cost nothing, and the metrics that need more than such samples."""

import torch
from torch import Generator, Tensor

from bench.data.base import Data, Modes, Split
from bench.features.base import Classifier
from bench.schema import DataSpec

__all__ = ["OF_MODELS", "N", "Quarters", "data", "draw"]

N = 240
# These need a model, a second data set, molecules, points of the plane, or more examples of each class;
# tests/test_contract_conf.py gives them that.
OF_MODELS = {
    "ais", "class_likelihood", "classification", "collapse", "fcd", "general", "inverse", "kl_divergence", "latent",
    "library_size", "mass_outside", "molecules", "ood", "path_length", "reconstruction", "structure",
    "support_by_class", "wasserstein",
}  # fmt: skip


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures ``(n, 1, 8, 8)`` of four classes, each bright in another quarter."""
    generator = Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    quarter = torch.nn.functional.one_hot(y, 4).view(n, 1, 2, 2).float()
    level = 60 + 120 * quarter.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (level + 20 * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 255).to(torch.uint8), y


def quarters(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.float(), 4).flatten(1)


class Quarters(Classifier):
    """Features: the mean level of each quarter."""

    name, hash, accuracy, n_test = "quarters", "q", 1.0, N

    def features(self, x: Tensor) -> Tensor:
        return quarters(x) / 30

    def probabilities(self, x: Tensor) -> Tensor:
        return self.features(x).softmax(dim=1)

    def classes(self, x: Tensor) -> Tensor:
        return self.features(x).argmax(dim=1)


def data() -> Data:
    modes = Modes(4, lambda x: torch.where(quarters(x).amax(1) > 140, quarters(x).argmax(1), -1))
    train, val, test = (Split(*draw(n, seed)) for n, seed in ((N, 1), (60, 2), (N, 3)))
    spec = DataSpec("quarters", "q", (1, 8, 8), 256, N, 60, N, 4)
    known = {"log_density": lambda x: -quarters(x).double().sum(1) / 10, "valid": lambda x: quarters(x).amax(1) > 140}
    return Data(spec, train, val, test, modes=modes, **known)
