"""Time sampling from TarFlow with cached keys and values against running the whole transformer for each patch."""

from functools import partial

import torch
from paired import Ratio, measure
from torch import Generator, Tensor

from models.flows.tarflow import TarFlow
from models.transforms.base import Transform
from models.transforms.sequence import TokenAutoregressive

__all__ = ["ratios"]

SHAPE, LEVELS = (1, 28, 28), 256


def random_tarflow(patch: int) -> TarFlow:
    """Return the model of conf/model/tarflow.yaml with random last layers instead of zeros."""
    torch.manual_seed(0)
    flow = TarFlow(SHAPE, LEVELS, partial(torch.optim.AdamW, lr=1e-3), patch=patch).eval()
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for part in flow.modules():
            if isinstance(part, TokenAutoregressive):
                for parameter in part.network.last.parameters():
                    parameter.normal_(std=0.05, generator=generator)
    return flow


@torch.no_grad()
def kept(flow: TarFlow, z: Tensor) -> Tensor:
    for part in reversed(parts_of(flow)):
        z = part.inverse(z)[0]
    return z


@torch.no_grad()
def naive(flow: TarFlow, z: Tensor) -> Tensor:
    """Return the same samples without a cache: token i comes from output i of a pass over all earlier tokens."""
    for part in reversed(parts_of(flow)):
        z = reevaluated(part, z) if isinstance(part, TokenAutoregressive) else part.inverse(z)[0]
    return z


def reevaluated(part: TokenAutoregressive, z: Tensor) -> Tensor:
    x = torch.zeros_like(z)
    for i in range(z.shape[1]):
        outputs = part.network(x)[:, i]
        token, _ = part.univariate.inverse(z[:, i], outputs.unflatten(1, (part.univariate.n_parameters, -1)))
        x[:, i] = token
    return x


def parts_of(flow: TarFlow) -> list[Transform]:
    """Return all parts of the flow except the floor to integer levels."""
    return list(flow.get_submodule("transform.parts"))[1:]  # type: ignore[call-overload,no-any-return]


def ratios(rounds: int) -> list[Ratio]:
    """Time 49 patches of 4 x 4 pixels and 196 patches of 2 x 2."""
    found = []
    for patch, samples in ((4, 16), (2, 4)):
        flow = random_tarflow(patch)
        z = torch.randn(samples, flow.dim, generator=Generator().manual_seed(1))
        ours, theirs = kept(flow, z), naive(flow, z)
        assert ours.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        found.append(
            measure(
                f"TarFlow sampling, {(28 // patch) ** 2} patches, {samples} samples",
                ("keys and values kept", partial(kept, flow, z)),
                ("re-evaluation", partial(naive, flow, z)),
                rounds=rounds,
            )
        )
    return found


if __name__ == "__main__":
    ratios(11)
