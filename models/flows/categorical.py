r"""Categorical normalizing flow: categories encoded as vectors, and a flow over all vectors of a set.

.. math:: \log w = \log N(f(z); 0, I) + \log\Big|\det \frac{\partial f}{\partial z}\Big| + \log p(x|z) - \log q(z|x),
    \quad z \sim q(z|x)

f moves half of each vector's numbers by amounts that a transformer computes from the other halves of all vectors.
Without places it treats all entries alike: every order of the same entries is equally likely.

The baseline it is compared with is the same flow over dequantized categories: one number an entry, and couplings that
keep every other entry.

References:
    Lippe, Gavves (2021): Categorical normalizing flows via continuous transformations, arXiv:2006.09790.
    Ho, Chen, Srinivas, Duan, Abbeel (2019): Flow++, arXiv:1902.00275 (the couplings' law).
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel, HasLikelihood, OptimizerFactory, Relation
from ..distributions import log_standard_normal, standard_normal
from ..nn.set_transformer import SetTransformer
from ..options import at_least, sequence_of
from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.categories import encoding as make_encoding
from ..transforms.coupling import Coupling, MaskedCoupling, checkerboard_mask, halves
from ..transforms.linear import Conv1x1
from ..transforms.logistic_mixture import LogisticMixtureCDF

__all__ = ["CategoricalFlow"]

ENCODING_COUPLINGS = 2  # of the variational encoding's own flow


class CategoricalFlow(GenerativeModel, HasLikelihood):
    """Categorical normalizing flow over sets and sequences.

    In training the decoder's term counts ``decoder_weight`` times at first and once after ``decoder_steps`` steps, so
    that encodings of different categories do not overlap; likelihoods always count it once.

    Differs from the paper: the conditioners of sets are transformers as in its code, but every coupling follows a full
    1x1 convolution; there is no regularizer on the log-determinant; samples draw x from p(x|z), so that they have the
    distribution whose likelihood is reported, where the paper takes the most probable category (``temperature=0``).

    Arguments:
        shape: Of one example, ``(D,)``.
        levels: Number L of categories, 2 to 256.
        optimizer: Makes the optimizer from the parameters.
        encoding: ``mixture``, ``linear_flows`` or ``variational``; ``uniform_dequantization`` or
            ``variational_dequantization`` for the baseline.
        encoding_dim: Numbers d of each vector, at least 2; of a dequantization 1.
        couplings: Number of couplings.
        components: Logistics in each mixture.
        channels, layers, heads: Of each coupling's transformer.
        places: Whether entries at different places may differ: true for sequences, false for sets. The masks of the
            baseline tell them apart in any case.
        decoder_weight, decoder_steps: See above.

    Raises:
        ValueError: The data are real-valued or no sequences, or an option is out of range.
    """

    family: ClassVar[str] = "flow"
    kinds: ClassVar[frozenset[str]] = frozenset({"categories"})

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        encoding: str = "mixture",
        encoding_dim: int = 4,
        couplings: int = 8,
        components: int = 8,
        channels: int = 64,
        layers: int = 2,
        heads: int = 4,
        places: bool = False,
        decoder_weight: float = 2.0,
        decoder_steps: int = 2000,
    ) -> None:
        super().__init__(shape, levels)
        _, categories = sequence_of(self.shape, levels, "the categorical flow")
        at_least(
            1,
            encoding_dim=encoding_dim,
            couplings=couplings,
            components=components,
            channels=channels,
            layers=layers,
            heads=heads,
        )
        at_least(0, decoder_steps=decoder_steps)
        if not decoder_weight >= 1:
            raise ValueError(f"decoder_weight must be at least 1, not {decoder_weight}")
        self.make_optimizer = optimizer
        self.encoding_dim = encoding_dim
        self.decoder_weight, self.decoder_steps = decoder_weight, decoder_steps
        law = LogisticMixtureCDF(components)

        def network(n_in: int, n_moved: int, n_context: int) -> SetTransformer:
            return SetTransformer(
                n_in, law.n_parameters * n_moved, self.dim,
                channels=channels, layers=layers, heads=heads, places=places, n_context=n_context,
            )  # fmt: skip

        def flow(n: int, n_context: int) -> Transform:
            parts: list[Transform] = []
            for i in range(n):
                parts.append(ActNorm(encoding_dim))
                if encoding_dim == 1:
                    mask = checkerboard_mask(self.dim, 1, i % 2)
                    parts.append(MaskedCoupling(mask, network(1, 1, n_context), law))
                else:
                    kept, moved = halves(encoding_dim, i % 2)
                    parts.append(Conv1x1(encoding_dim))
                    parts.append(Coupling(kept, moved, network(len(kept), len(moved), n_context), law))
            return Chain(*parts)

        self.encoding = make_encoding(encoding, categories, encoding_dim, partial(flow, ENCODING_COUPLINGS))
        self.flow = flow(couplings, 0)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        ratio, decoder = self._terms(x, generator)
        return ratio + decoder

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound with its sign changed, its decoder's term weighted, in bits/dim."""
        ratio, decoder = self._terms(batch[0], self.train_generator)
        share = (1 - self.steps / max(1, self.decoder_steps)).clamp(min=0)
        self.steps += 1
        weighted = ratio + (1 + (self.decoder_weight - 1) * share) * decoder
        return -weighted.mean() / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature scales the latent noise, and the Gumbel noise with which the decoder draws categories."""
        like = next(self.parameters())
        noise = temperature * standard_normal((n, self.encoding_dim, self.dim, 1), like, generator)
        return self.encoding.decode(self.flow.decode(noise), temperature, generator).to(torch.uint8)

    def _terms(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """log p(z) - log q(z|x) and log p(x|z), ``(B,)`` nats each, for one z."""
        x = x.long()
        z, log_q = self.encoding.encode(x, generator)
        noise, log_det = self.flow(z)
        return log_standard_normal(noise) + log_det - log_q, self.encoding.log_prob(x, z)
