r"""Graph colouring by a categorical normalizing flow: vectors at the nodes of a graph that is given.

.. math:: \log w = \sum_{i \le n} \log N(f(z)_i; 0, I) + \log\Big|\det \frac{\partial f}{\partial z}\Big|
    + \sum_{i \le n} \log \frac{p(c_i|z_i)}{q(z_i|c_i)}, \quad z \sim q(z|c)

f is the first step of GraphCNF: couplings that move half of the numbers of each node by amounts which a relational
graph network computes from the other halves of all nodes and from the edges. All nodes are treated alike.

Reference: Lippe, Gavves (2021): Categorical normalizing flows via continuous transformations, arXiv:2006.09790.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from ..base import Batch, OptimizerFactory, Relation
from ..distributions import standard_normal
from ..options import at_least
from ..transforms.categories import OF_EACH, Encoding
from ..transforms.graph import NodeBlock
from ..transforms.logistic_mixture import LogisticMixtureCDF
from .base import ColouringModel, Given

__all__ = ["ColouringFlow"]


class ColouringFlow(ColouringModel):
    """Categorical normalizing flow of the colours of a graph's nodes.

    In training the decoder's term counts ``decoder_weight`` times at first and once after ``decoder_steps`` steps;
    likelihoods always count it once. Differs from the paper as ``models.flows.categorical.CategoricalFlow`` does.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, the number of colours K, and L.
        encoding: ``mixture`` or ``linear_flows``.
        encoding_dim: Numbers d of each node, at least 2.
        couplings: Number of couplings.
        components: Logistics in each mixture.
        channels, layers: Of each coupling's network.
        decoder_weight, decoder_steps: See above.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "flow"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        encoding: str = "mixture",
        encoding_dim: int = 4,
        couplings: int = 8,
        components: int = 8,
        channels: int = 64,
        layers: int = 3,
        decoder_weight: float = 2.0,
        decoder_steps: int = 2000,
    ) -> None:
        super().__init__(shape, levels, optimizer, nodes, node_types, edge_types)
        at_least(2, encoding_dim=encoding_dim)
        at_least(1, couplings=couplings, components=components, channels=channels, layers=layers)
        at_least(0, decoder_steps=decoder_steps)
        if encoding not in OF_EACH:
            raise ValueError(f"encoding must be one of {', '.join(OF_EACH)}, not {encoding!r}")
        if not decoder_weight >= 1:
            raise ValueError(f"decoder_weight must be at least 1, not {decoder_weight}")
        self.encoding_dim = encoding_dim
        self.decoder_weight, self.decoder_steps = decoder_weight, decoder_steps
        self.encoding: Encoding = OF_EACH[encoding](node_types, encoding_dim)
        law = LogisticMixtureCDF(components)
        self.flow = nn.ModuleList(
            NodeBlock(encoding_dim, i % 2, law, edge_types, channels=channels, layers=layers) for i in range(couplings)
        )
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        ratio, decoder = self._terms(*self.read(x), generator)
        return ratio + decoder

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound with its sign changed, its decoder's term weighted, in bits a node."""
        colours, given = self.read(batch[0])
        ratio, decoder = self._terms(colours, given, self.train_generator)
        share = (1 - self.steps / max(1, self.decoder_steps)).clamp(min=0)
        self.steps += 1
        return self.bits_a_node(-ratio - (1 + (self.decoder_weight - 1) * share) * decoder, given)

    def colours(self, given: Given, temperature: float, generator: Generator | None) -> Tensor:
        """Temperature scales the latent noise, and the Gumbel noise with which the decoder draws colours."""
        like = next(self.parameters())
        z = temperature * standard_normal((*given.mask.shape, self.encoding_dim), like, generator)
        for block in reversed(list(self.flow)):
            z = block.inverse(z, given.mask, given.adjacency)  # type: ignore[operator]  # a ModuleList forgets its type
        each = z.flatten(0, 1)[:, :, None, None]  # the encoding's sets have one element
        return self.encoding.decode(each, temperature, generator).reshape(given.mask.shape)

    def latents(self, z: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """Vectors ``(B, N, d)`` to latents of the same shape and the log-determinant, ``(B,)`` nats."""
        log_det = z.new_zeros(len(z))
        for block in self.flow:
            z, term = block(z, given.mask, given.adjacency)
            log_det = log_det + term
        return z, log_det

    def _terms(self, colours: Tensor, given: Given, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """log p(z) - log q(z|c) and log p(c|z), ``(B,)`` nats each, for one z."""
        each, log_q = self.encoding.encode(colours.reshape(-1, 1), generator)  # (B N, d, 1, 1) and (B N,)
        decoder = self.encoding.log_prob(colours.reshape(-1, 1), each)
        noise, log_det = self.latents(each[:, :, 0, 0].unflatten(0, colours.shape), given)
        log_p = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(2)
        ratio = ((log_p - log_q.unflatten(0, colours.shape)) * given.mask).sum(1) + log_det
        return ratio, (decoder.unflatten(0, colours.shape) * given.mask).sum(1)
