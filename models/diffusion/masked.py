r"""Masked (absorbing) diffusion of integers: entries are masked one group after another, and a network restores them.

A random order :math:`\sigma` of the D entries is cut into S groups :math:`G_1, \dots, G_S` of sizes that differ by one
at most. The model starts from nothing but masks and draws one group after another, the entries of a group
independently:

.. math:: p(x) = E_\sigma \prod_{s=1}^S \prod_{i \in G_s} p_\theta(x_i \mid x_{G_1}, \dots, x_{G_{s-1}})

So the product for one random order is a weight w with :math:`E[w] = p(x)`, and p is the distribution of the samples.
With S = D it is the order-agnostic autoregressive model, whose bound :math:`E[\log w]` is that of masked diffusion in
continuous time, and is what training maximizes: with m entries visible, m uniform in 0 .. D-1,

.. math:: E[\log w] = E_{\sigma, m}\, \frac{D}{D - m} \sum_{i \text{ masked}} \log p_\theta(x_i \mid x_\text{visible})

References:
    Austin, Johnson, Ho, Tarlow, van den Berg (2021): Structured denoising diffusion models in discrete state-spaces,
    arXiv:2107.03006 (D3PM, the absorbing state).
    Hoogeboom, Gritsenko, Bastings, Poole, van den Berg, Salimans (2022): Autoregressive diffusion models,
    arXiv:2110.02037 (the bound over orders).
    Sahoo et al. (2024): Simple and effective masked diffusion language models, arXiv:2406.07524; Shi, Han, Wang,
    Doucet, Titsias (2024): Simplified and generalized masked diffusion for discrete data, arXiv:2406.04329.
"""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel, HasLikelihood, OptimizerFactory, Relation, ReportsCost, ValidatedByLoss
from ..distributions import gumbel, uniform
from ..nn.timed import timed_network

__all__ = ["MaskedDiffusion"]


class MaskedDiffusion(GenerativeModel, HasLikelihood, ReportsCost, ValidatedByLoss):
    """Masked diffusion with a perceptron for vectors and a U-Net for images.

    Levels are categories: each, and the mask, has a learned embedding, and the order of levels means nothing. The
    network sees the embeddings of all entries and the masked share, and gives L logits for each entry.

    Samples and likelihood take ``sampling_steps`` evaluations of the network, S above, and belong to the same
    distribution; with fewer steps both are cheaper and worse. Training does not depend on S. Checkpoints are compared
    by the training loss.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, 2 to 256.
        optimizer: Makes the optimizer from the parameters.
        sampling_steps: S; if there are fewer entries, as many as there are.
        embedding: Numbers of each embedding.
        hidden, depth: For vectors: units of each hidden layer, and hidden layers.
        channels, multipliers, blocks: For images: see :class:`~models.nn.unet.UNet`.

    Raises:
        ValueError: The data are real-valued, their shape is neither a vector's nor an image's, an image is too small,
            or a number is out of range.
    """

    family: ClassVar[str] = "diffusion"
    kinds: ClassVar[frozenset[str]] = frozenset({"numbers", "categories"})
    cost_names: ClassVar[tuple[str, ...]] = ("nfe_log_weight", "nfe_sample")

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        sampling_steps: int = 64,
        embedding: int = 4,
        hidden: int = 256,
        depth: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
    ) -> None:
        super().__init__(shape, levels)
        if levels is None:
            raise ValueError("levels: masked diffusion is for integers, and these data are real-valued")
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be from 2 to 256, not {levels}")
        if min(sampling_steps, embedding) < 1:
            raise ValueError(f"sampling_steps and embedding must be at least 1, not {sampling_steps} and {embedding}")
        self.make_optimizer = optimizer
        self.categories = levels
        steps = min(sampling_steps, self.dim)
        self.revealed = [round(step * self.dim / steps) for step in range(steps + 1)]  # entries visible after each step
        self.embed = nn.Embedding(levels + 1, embedding)  # the last one is of the mask
        self.network = timed_network(
            self.shape, n_in=embedding, n_out=levels, hidden=hidden, depth=depth, channels=channels,
            multipliers=multipliers, blocks=blocks,
        )  # fmt: skip

    @property
    def relation(self) -> Relation:
        return "exact" if len(self.revealed) == 2 else "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Log-probability of x when its entries are drawn in one random order: ``(B, *shape) -> (B,)`` nats."""
        place = self._places(len(x), generator)
        log_w = torch.zeros(len(x), device=x.device, dtype=self._like.dtype)
        for seen, then in zip(self.revealed, self.revealed[1:], strict=False):
            masked = place >= seen
            log_w = log_w + (self._log_probs(x, masked) * (masked & (place < then))).flatten(1).sum(1)
        return log_w

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound with its sign changed, in bits/dim, from one number of visible entries for each example."""
        return self.validation_loss(batch[0], generator=self.train_generator).mean()

    def validation_loss(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """An unbiased estimate of the bound for S = D, with its sign changed: ``(B,)`` bits/dim.

        The numbers of visible entries of a batch are spread evenly, with one random offset, to lower the variance.
        """
        offset = uniform((1,), self._like, generator)
        share = (torch.arange(len(x), device=x.device) / len(x) + offset) % 1
        visible = (share * self.dim).floor().clamp(max=self.dim - 1)  # (B,), each uniform in 0 .. D-1
        masked = self._places(len(x), generator) >= visible.reshape(-1, *[1] * len(self.shape))
        log_probs = (self._log_probs(x, masked) * masked).flatten(1).sum(1)
        return -log_probs / ((self.dim - visible) * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw the entries group after group, in a random order for each example.

        ``temperature`` multiplies the Gumbel noise by which a category is drawn: at 0 it is the most probable one.
        """
        x = torch.zeros(n, *self.shape, device=self._like.device, dtype=torch.long)
        place = self._places(n, generator)
        for seen, then in zip(self.revealed, self.revealed[1:], strict=False):
            logits = self._logits(x, place >= seen)
            drawn = (logits + temperature * gumbel(logits, generator)).argmax(1)
            x = torch.where((place >= seen) & (place < then), drawn, x)
        return x.to(torch.uint8)

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        return dict.fromkeys(self.cost_names, float(len(self.revealed) - 1))

    def _places(self, n: int, generator: Generator | None) -> Tensor:
        """The place of each entry in a random order of its example's entries: ``(n, *shape)``, 0 .. D-1."""
        order = uniform((n, self.dim), self._like, generator).argsort(1)
        return order.argsort(1).unflatten(1, self.shape)

    def _logits(self, x: Tensor, masked: Tensor) -> Tensor:
        """Logits of each entry's categories given the entries that are not masked: ``(B, L, *shape)``."""
        tokens = torch.where(masked, self.categories, x.long())
        seen = self.embed(tokens).movedim(-1, 1).flatten(1, 2)  # (B, E D) or (B, E C, H, W)
        share = masked.flatten(1).to(seen.dtype).mean(1)
        made: Tensor = self.network(share, seen)
        # No likelihood in half precision.
        return made.to(self._like.dtype).unflatten(1, (self.categories, self.shape[0]))

    def _log_probs(self, x: Tensor, masked: Tensor) -> Tensor:
        """Log-probability of each entry of x given those that are not masked: ``(B, *shape)`` nats."""
        log_probs = self._logits(x, masked).log_softmax(1)
        return log_probs.gather(1, x.long().unsqueeze(1)).squeeze(1)

    @property
    def _like(self) -> Tensor:
        return self.embed.weight
