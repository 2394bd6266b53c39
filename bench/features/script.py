"""A network stored as TorchScript, a file that holds the code of a network beside its weights, as extractor.

Loading such a file runs its code. So genbench loads only files whose SHA-256 it knows and files that the user
trusts: ``conf/features/script.yaml`` needs ``trust=[bench.features.script]`` on the command line.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import sha256
from bench.device import on_fastest
from bench.errors import UserError, is_out_of_memory
from bench.features.base import Extractor, Note, Recipe, check_features, check_name
from bench.regular import open_regular
from bench.schema import DataSpec

__all__ = ["Network", "OwnScript", "OwnScriptExtractor", "extract", "load_script"]

BATCH = 25  # divides the chunks and blocks that features are shared and kept by
LARGEST = 8 << 30  # bytes
NOTE_SECONDS = 10.0

Network = Callable[[Tensor], Tensor]
"""From a prepared batch to features. Not a module to the eye of a configuration, which may build modules by name."""


def load_script(path: Path, fuse: bool = False) -> Network:
    """Return the network of a trusted TorchScript file in evaluation mode, on the GPU where there is one.

    Arguments:
        fuse: Fold constants and fuse layers: Inception is then 1.3 times as fast, the same but for rounding.

    Raises:
        UserError: The file cannot be read, or is no TorchScript.
    """
    with open_regular(path, LARGEST):  # no pipe, no device
        pass
    try:
        with warnings.catch_warnings():
            # torch advises to export networks in another way, which is not for those who read them.
            warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=on_fastest()).eval()
            made: Network = torch.jit.optimize_for_inference(torch.jit.freeze(network)) if fuse else network
            return made
    except Exception as error:  # whatever the archive reader or the compiler trips over
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: is no TorchScript file ({' '.join(str(error).split())[:120]})") from error


@torch.no_grad()
def extract(name: str, network: Network, prepare: Callable[[Tensor], Tensor], x: Tensor, note: Note | None) -> Tensor:
    """Return the features of examples, ``(N, *shape)`` to ``(N, F)`` on the CPU, 25 at a time.

    Arguments:
        name: Of the features, for messages.
        network: Maps a prepared batch to features.
        prepare: Maps a batch on the network's device to what the network is given.
        note: Told every ten seconds how far it is.

    Raises:
        ValueError: The network returned another shape, or numbers that are not floating point.
    """
    device, made = on_fastest(), []
    begin = said = time.monotonic()
    for number, part in enumerate(x.split(BATCH)):
        made.append(check_features(name, network(prepare(part.to(device))), len(part)).cpu())
        now = time.monotonic()
        if note is not None and now > said + NOTE_SECONDS:
            n = BATCH * number + len(part)
            note(f"features {name}: {n:,} of {len(x):,} examples, {n / (now - begin):.1f} a second")
            said = now
    return torch.cat(made)


class OwnScriptExtractor(Extractor):
    """A TorchScript network of the user's.

    Images reach it as float32 levels over L - 1, from 0 to 1; real data reach it as they are.

    Attributes:
        hash: Of the file and of L: the same bytes are other pictures where L is another.
    """

    is_slow = True

    def __init__(self, name: str, path: Path, digest: str, levels: int | None, note: Note | None = None) -> None:
        self.name = name
        self.hash = revision(digest, f"{levels} levels")
        self._network = load_script(path)
        self._scale = 1 if levels is None else levels - 1
        self._note = note

    def features(self, x: Tensor) -> Tensor:
        return extract(self.name, self._network, lambda part: part.float() / self._scale, x, self._note)


class OwnScript(Recipe):
    """Features of a TorchScript file that the user brings: ``conf/features/script.yaml``.

    Arguments:
        name: As in ``fid[name]``: letters, digits, ``_``, ``.`` and ``-``.
        weights: The file. Its forward maps ``(N, *shape)`` float32 to ``(N, F)``.
        sha256: The file's SHA-256, all digits or at least the first 16; None: any file is taken.

    Raises:
        UserError: The name is none, the file cannot be read, or has another SHA-256.
    """

    def __init__(self, name: str, weights: str, sha256: str | None = None) -> None:
        check_name(name)
        self._name, self._path = name, Path(weights).expanduser()
        self._digest = _pinned(name, self._path, sha256)

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return self._name

    def extractor(self, data: Data, note: Note | None = None) -> OwnScriptExtractor:
        return OwnScriptExtractor(self._name, self._path, self._digest, data.spec.levels, note)


def _pinned(name: str, path: Path, wanted: str | None) -> str:
    """Return the SHA-256 of a file, if it begins with the wanted digits."""
    with open_regular(path, LARGEST):
        pass
    found = sha256(path)
    if wanted is not None and (len(wanted) < 16 or not found.startswith(wanted.lower())):
        raise UserError(f"features {name}: {path} has the SHA-256 {found}, and sha256 is {wanted!r}: write the file's "
                        "own, all digits or at least 16, if this is the file you mean")  # fmt: skip
    return found
