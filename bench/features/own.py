"""A network of the user's own as feature extractor."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.checkpoint import load_checkpoint
from bench.data.base import Data
from bench.errors import UserError
from bench.features.base import Extractor, Note, Recipe, check_features, check_name
from bench.schema import DataSpec

__all__ = ["OwnExtractor", "OwnModule"]

BATCH = 250


class OwnExtractor(Extractor):
    """A module in evaluation mode, from examples to ``(N, F)`` features.

    Images reach the module as float32 levels over L - 1, from 0 to 1; real data reach it as they are.

    Raises:
        ValueError: In ``features``: the module returned another shape, or numbers that are not floating point.
    """

    def __init__(self, name: str, module: nn.Module, levels: int | None) -> None:
        self.name = name
        self._module = module.eval()
        self._scale = 1 if levels is None else levels - 1
        # The class's name, because two modules of the same weights may compute different things.
        digest = hashlib.sha256(f"{type(module).__qualname__}\n{module}".encode())
        for key, value in sorted(module.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        self.hash = digest.hexdigest()[:16]

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        parts = x.split(BATCH)
        return torch.cat(
            [check_features(self.name, self._module(part.float() / self._scale), len(part)) for part in parts]
        )


class OwnModule(Recipe):
    """Features of a module that the user brings: ``conf/features/own.yaml``.

    Arguments:
        name: As in ``fid[name]``: letters, digits, ``_``, ``.`` and ``-``.
        module: With one argument, the batch.
        weights: A file of the module's state dict, or of one under the key ``state_dict``; tensors only, nothing in it
            is run. None: the module's weights are set by its constructor, and must not depend on chance.

    Raises:
        UserError: The name is none, the weights cannot be read or do not fit.
    """

    def __init__(self, name: str, module: nn.Module, weights: str | None = None) -> None:
        check_name(name)
        self._name, self._module = name, module
        if weights is not None:
            stored = load_checkpoint(Path(weights).expanduser())
            try:
                module.load_state_dict(stored.get("state_dict", stored))
            except (RuntimeError, TypeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"features {name}: weights {weights} do not fit the module ({reason})") from error

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return self._name

    def extractor(self, data: Data, note: Note | None = None) -> OwnExtractor:
        return OwnExtractor(self._name, self._module, data.spec.levels)
