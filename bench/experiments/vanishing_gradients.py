r"""Vanishing gradients: a frozen generator, a fresh discriminator, and what the generator would learn from it.

The better a discriminator D is trained against a fixed generator, the smaller is the gradient of the saturating loss
:math:`E_z[\log(1 - D(G(z)))]`: it goes to 0 where D can tell every example. That of the non-saturating loss
:math:`-E_z[\log D(G(z))]` does not, but grows and is noisy. A critic of Wasserstein GANs may be trained to its optimum:
its gradient stays.

The generator is trained as a non-saturating GAN for ``warm_up`` steps and then frozen. A fresh discriminator is trained
with the cross-entropy, and a fresh critic with a gradient penalty, on the same batches. The norm of the generator's
gradient is taken on one large batch of noise, the same every time.

``python -m bench.experiments.vanishing_gradients --out FOLDER`` writes ``vanishing_gradients.csv`` and
``vanishing_gradients.png``; it takes a minute.

References:
    Arjovsky, Bottou (2017): Towards principled methods for training generative adversarial networks, arXiv:1701.04862
    (figures 2 and 3).
    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017): Improved training of Wasserstein GANs, arXiv:1704.00028.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from bench.data.base import Data
from bench.data.digits import mnist5k
from bench.data.loader import Batches
from bench.data.toy import ring8
from bench.experiments.out import add_out, folder_of
from bench.rng import seeded
from bench.seeds import derive_seed
from bench.tables.curves import Curve, Panel, draw_curves, write_curve
from models.distributions import standard_normal, to_symmetric, uniform
from models.gans.objectives import (
    minimax_discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from models.gans.penalty import gradient_penalty
from models.nn.dcgan import discriminator_network, generator_network

__all__ = ["DATA", "LOSSES", "gradient_norm", "main", "run", "vanishing_gradients"]

DATA: dict[str, Callable[[], Data]] = {"ring8": ring8, "mnist5k": mnist5k}
BATCH = 128
LATENT = 8
PENALTY = 10.0

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "saturating": minimax_generator_loss,
    "non_saturating": non_saturating_generator_loss,
    "wasserstein": wasserstein_generator_loss,
}
"""Losses of the generator, by name, as functions of the outputs on generated examples."""


def gradient_norm(loss: Tensor, generator: nn.Module) -> float:
    """The Euclidean norm of the gradient of a loss by the generator's parameters. No ``.grad`` is changed."""
    gradients = torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True)
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in gradients])))


def vanishing_gradients(data: Data, *, warm_up: int = 50, steps: int = 200, every: int = 5, seed: int = 0) -> Curve:
    """The generator's gradient while a fresh discriminator and a fresh critic are trained.

    Arguments:
        data: Examples, images or vectors.
        warm_up: Steps of the generator before it is frozen.
        steps: Steps of the discriminator and of the critic.
        every: Steps between two points.
        seed: Of networks, noise and batches.

    Returns:
        Points with ``step``, the gradient norms by the names of ``LOSSES``, ``discriminator_loss`` (nats; 2 ln 2 where
        it cannot tell) and ``critic_loss``, both on a batch.
    """
    shape, levels = data.spec.shape, data.spec.levels
    with seeded(derive_seed(seed, "init")):
        generator = generator_network(shape, LATENT, 32, bounded=levels is not None)
        first, fresh, critic = (discriminator_network(shape, 32, batch_norm=False) for _ in range(3))
    like, noise = next(generator.parameters()), Generator().manual_seed(derive_seed(seed, "noise"))
    batches = (to_symmetric(x, levels) for x, _ in Batches(data.train, BATCH, derive_seed(seed, "loader")))

    def generated(n: int) -> Tensor:
        made: Tensor = generator(standard_normal((n, LATENT), like, noise))
        return made

    of_generator, of_first = (adam(network) for network in (generator, first))
    for _ in range(warm_up):
        real, fake = next(batches), generated(BATCH)
        descend(of_first, minimax_discriminator_loss(first(real), first(fake.detach())))
        descend(of_generator, non_saturating_generator_loss(first(fake)))

    generator.eval()
    fixed = generator(standard_normal((4 * BATCH, LATENT), like, noise))
    of_fresh, of_critic = adam(fresh), adam(critic)
    curve: Curve = []
    for step in range(steps + 1):
        real = next(batches)
        with torch.no_grad():
            fake = generated(BATCH)
        loss = minimax_discriminator_loss(fresh(real), fresh(fake))
        critic_loss = wasserstein_critic_loss(critic(real), critic(fake))
        if step % every == 0:
            norms = {
                name: gradient_norm(function((critic if name == "wasserstein" else fresh)(fixed)), generator)
                for name, function in LOSSES.items()
            }
            losses = {"discriminator_loss": float(loss.detach()), "critic_loss": float(critic_loss.detach())}
            curve.append({"step": float(step), **norms, **losses})
        descend(of_fresh, loss)
        penalty = gradient_penalty(critic, real, fake, uniform((BATCH,), like, noise))
        descend(of_critic, critic_loss + PENALTY * penalty)
    return curve


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def run(folder: Path, data: Data, **settings: int) -> None:
    """Write ``vanishing_gradients.csv`` and ``vanishing_gradients.png`` into a folder."""
    curve = vanishing_gradients(data, **settings)
    write_curve(folder / "vanishing_gradients.csv", curve)
    panels = [
        Panel(
            "norm of the frozen generator's\ngradient [loss unit per weight]",
            {"saturating": "saturating", "non_saturating": "non-saturating", "wasserstein": "Wasserstein"}, log=True,
        ),
        Panel("discriminator's loss [nats]", {"discriminator_loss": ""}, lines={"cannot tell": 1.386}, low=0.0),
        Panel("critic's loss [critic's unit]", {"critic_loss": ""}),
    ]  # fmt: skip
    draw_curves(
        curve, panels, folder / "vanishing_gradients.png", title=f"A fresh discriminator on {data.spec.name}", x="step",
        x_label="steps of the fresh discriminator and critic [count]",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment from the command line.

    Raises:
        UserError: The folder cannot be made, or the data cannot be had.
    """
    parser = argparse.ArgumentParser(
        "python -m bench.experiments.vanishing_gradients", description=__doc__.partition("\n")[0]
    )
    add_out(parser)
    parser.add_argument("--data", choices=list(DATA), default="mnist5k", help="default: mnist5k")
    parser.add_argument("--warm-up", type=int, default=50, help="generator steps before it is frozen; default: 50")
    parser.add_argument("--steps", type=int, default=200, help="discriminator and critic steps; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    given = parser.parse_args(arguments)
    if given.warm_up < 0 or given.steps < 1:
        parser.error("--warm-up must be at least 0 and --steps at least 1")
    every = max(1, given.steps // 40)
    run(
        folder_of(parser, given.out),
        DATA[given.data](),
        warm_up=given.warm_up,
        steps=given.steps,
        every=every,
        seed=given.seed,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
