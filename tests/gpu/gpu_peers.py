"""Times of a training step of other libraries' flows of the same size, eager and compiled.

    python tests/gpu/gpu_peers.py "nflows maf" --compiled

prints the milliseconds of one of them. Compiling may take minutes, so check.py gives it a process and a time limit.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_common import CAPTURED, HERE, Row, compute_as_runs_do, data_of, milliseconds
from torch import Tensor, nn

__all__ = ["PEERS", "compiled", "eager", "ours_of_glow"]

COMPILE_SECONDS = 45
Loss = Callable[[], Tensor]


def _of_zuko(kind: str) -> tuple[nn.Module, Loss]:
    import zuko

    make, layers = (zuko.flows.NSF, 10) if kind == "nsf" else (zuko.flows.MAF, 5)
    flow = make(2, 0, transforms=layers, hidden_features=(256, 256)).to(HERE.device)
    x = data_of(kind)[0].train.x[:512].to(HERE.device)
    return flow, lambda: -flow().log_prob(x).mean()


def _of_nflows(kind: str) -> tuple[nn.Module, Loss]:
    from nflows import distributions, flows, transforms, utils
    from nflows import nn as networks

    if kind == "maf":
        flow: nn.Module = flows.MaskedAutoregressiveFlow(2, 256, num_layers=5, num_blocks_per_layer=2)
    elif kind == "realnvp":
        flow = flows.SimpleRealNVP(2, 128, num_layers=8, num_blocks_per_layer=2)
    else:
        couplings = [
            transforms.PiecewiseRationalQuadraticCouplingTransform(
                utils.create_alternating_binary_mask(2, even=number % 2 == 0),
                lambda n_in, n_out: networks.nets.ResidualNet(n_in, n_out, hidden_features=256, num_blocks=2),
                num_bins=8, tails="linear", tail_bound=3.0,
            )
            for number in range(10)
        ]  # fmt: skip
        flow = flows.Flow(transforms.CompositeTransform(couplings), distributions.StandardNormal([2]))
    flow.to(HERE.device)
    x = data_of(kind)[0].train.x[:512].to(HERE.device)
    return flow, lambda: -flow.log_prob(x).mean()


def _of_normflows(kind: str) -> tuple[nn.Module, Loss]:
    if kind == "glow":
        return _with_loss(_glows()[1], _pictures())
    import flows_splines

    flow = flows_splines.RealNVP((1, 28, 28), None, torch.optim.Adam, channels=16, blocks=1)
    [ours] = flow.transform.parts
    x = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return _with_loss(flows_splines.PeerRealNVP(ours), x)


def _glows() -> tuple[nn.Module, nn.Module]:
    """Our Glow and normflows' of the same parameters, of (3, 32, 32), on the CPU."""
    import flows_glow

    torch.manual_seed(0)
    ours = flows_glow.our_glow()
    ours(_pictures())  # sets the activation normalization
    return ours, flows_glow.PeerGlow(ours)


def _pictures() -> Tensor:
    return torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5


def _with_loss(transform: nn.Module, x: Tensor) -> tuple[nn.Module, Loss]:
    transform.to(HERE.device)
    x = x.to(HERE.device)

    def loss() -> Tensor:
        z, log_det = transform(x)
        return (0.5 * z.square().sum(1) - log_det).mean()

    return transform, loss


PEERS: dict[str, Callable[[], tuple[nn.Module, Loss]]] = {
    "zuko nsf": lambda: _of_zuko("nsf"),
    "zuko maf": lambda: _of_zuko("maf"),
    "nflows nsf": lambda: _of_nflows("nsf"),
    "nflows maf": lambda: _of_nflows("maf"),
    "nflows realnvp": lambda: _of_nflows("realnvp"),
    "normflows realnvp_small": lambda: _of_normflows("realnvp"),
    "normflows glow": lambda: _of_normflows("glow"),
}
"""Library and the model of ours that it is compared with; each with its parameters and its loss."""


def step_time(flow: nn.Module, loss: Loss) -> float:
    """Milliseconds of forward, backward and Adam: the median of three times ten steps."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)

    def ten() -> None:
        for _ in range(10 if HERE.is_cuda else 1):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    return milliseconds(ten, 3) / (10 if HERE.is_cuda else 1)


def captured_time(flow: nn.Module, loss: Loss) -> float:
    """Milliseconds of the same step replayed from a graph, without our Trainer."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, capturable=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return statistics.median(milliseconds(graph.replay, 10) for _ in range(3))


def eager(peer: str) -> Iterator[Row]:
    """An eager step of a peer."""
    theirs = step_time(*PEERS[peer]())
    yield f"step, {peer}, eager", theirs, "ms", ""
    if (ours := CAPTURED.get(peer.split()[1])) is not None:
        yield f"step, {peer} eager / ours captured", theirs / ours, "x", ""


def ours_of_glow(_: str) -> Iterator[Row]:
    """Our step of the Glow that normflows is compared with, eager and captured."""
    yield "step, ours of (3, 32, 32), eager", step_time(*_with_loss(_glows()[0], _pictures())), "ms", ""
    if HERE.is_cuda:
        captured = captured_time(*_with_loss(_glows()[0], _pictures()))
        yield "step, ours of (3, 32, 32), captured", captured, "ms", ""


def compiled(peer: str) -> Iterator[Row]:
    """A step of a peer whose loss is compiled, in a process that ends when compiling takes too long."""
    command = [sys.executable, str(Path(__file__)), peer, "--compiled"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ImportError(f"not compiled after {COMPILE_SECONDS} s") from None
    if ended.returncode != 0:
        raise ImportError(f"torch.compile: {' '.join(ended.stderr.split())[-200:]}")
    yield f"step, {peer}, compiled", float(ended.stdout.split()[-1]), "ms", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--compiled", action="store_true")
    chosen = parser.parse_args()
    compute_as_runs_do()
    flow, loss = PEERS[chosen.peer]()
    print(step_time(flow, torch.compile(loss) if chosen.compiled else loss))


if __name__ == "__main__":
    main()
