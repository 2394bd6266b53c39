"""Restricted Boltzmann machine of binary data."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear, softplus
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel, OptimizerFactory, Relation, Unnormalized
from ..distributions import uniform

__all__ = ["RBM"]

CHUNK = 1024  # chains run at once in ``sample``, so that memory does not grow with the number of samples


class RBM(GenerativeModel, Unnormalized):
    r"""Restricted Boltzmann machine: binary visible units v, binary hidden units h, none linked with its own kind.

    .. math:: p(v, h) = \frac1Z e^{-E(v, h)}, \quad E = -b^T v - c^T h - h^T W v, \qquad
        p(v) = \frac1Z e^{-F(v)}, \quad F(v) = -b^T v - \sum_j \log(1 + e^{c_j + W_j v})

    Smolensky 1986, Information processing in dynamical systems: foundations of harmony theory; Hinton 2002, Training
    products of experts by minimizing contrastive divergence.

    Training follows :math:`E_{data}[\nabla F] - E_{chain}[\nabla F]`. Contrastive divergence starts its chains of
    ``cd_steps`` Gibbs steps at the data; with ``persistent`` the chains go on where they ended (Tieleman 2008, Training
    restricted Boltzmann machines using approximations to the likelihood gradient), each batch taking the next of
    them in turn.

    The likelihood needs :math:`\log Z`, which is **estimated** by annealed importance sampling from a base-rate model
    of the same b and no W (Salakhutdinov, Murray 2008, On the quantitative analysis of deep belief networks),

    .. math:: p_\beta^*(v) = e^{b_0^T (1 - \beta) v + \beta b^T v} \prod_j (1 + e^{\beta (c_j + W_j v)}),

    whose biases :math:`b_0` are those of the training data's mean. The estimate of Z is unbiased, so that of log Z is
    too low on average, and the likelihood **too high**; chains that miss a mode make it so by more than their
    variance shows.

    Arguments:
        shape: Of one example; images are flattened.
        levels: 2.
        optimizer: Makes the optimizer from the parameters.
        hidden: Number of hidden units.
        cd_steps: Gibbs steps of a chain in each training step, the k of CD-k.
        persistent: Whether the chains go on from one training step to the next.
        chains: Number of persistent chains.
        sample_steps: Gibbs steps of a sample, from independent units at the data's mean.
        ais_chains, ais_temperatures: Of one estimate of log Z.

    Raises:
        ValueError: The data are not binary, or a number is out of range.
    """

    family = "energy"
    caveat = "log Z is estimated by AIS, which is too low on average: the likelihood is biased upwards"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        hidden: int = 500,
        cd_steps: int = 1,
        persistent: bool = False,
        chains: int = 100,
        sample_steps: int = 1000,
        ais_chains: int = 100,
        ais_temperatures: int = 1000,
    ) -> None:
        super().__init__(shape, levels)
        if levels != 2:
            raise ValueError(f"an RBM takes binary data, levels 2, not levels {levels}")
        sizes = {
            "hidden": hidden, "cd_steps": cd_steps, "chains": chains, "sample_steps": sample_steps,
            "ais_chains": ais_chains, "ais_temperatures": ais_temperatures,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        self.make_optimizer = optimizer
        self.cd_steps, self.persistent, self.sample_steps = cd_steps, persistent, sample_steps
        self.ais_chains, self.ais_temperatures = ais_chains, ais_temperatures
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, self.dim))
        self.visible_bias = nn.Parameter(torch.zeros(self.dim))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.ones: Tensor
        self.seen: Tensor
        self.register_buffer("ones", torch.zeros(self.dim, dtype=torch.float64))  # how often each entry was 1
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))  # examples, in training
        self.chains: Tensor
        self.register_buffer("chains", torch.zeros(chains if persistent else 0, self.dim))
        self.turn: Tensor
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))  # the next persistent chain

    @property
    def relation(self) -> Relation:
        return "estimate"

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), ``(B, D) -> (B,)``."""
        return -v @ self.visible_bias - softplus(linear(v, self.weight, self.hidden_bias)).sum(1)

    def log_unnormalized(self, x: Tensor) -> Tensor:
        return -self.free_energy(x.flatten(1).to(self.weight.dtype)).double()

    @torch.no_grad()
    def log_normalizer(self, *, generator: Generator | None = None) -> Tensor:
        r"""One estimate of log Z by AIS, :math:`\log \frac1M \sum_m w_m` over the chains: a number, float64."""
        return torch.logsumexp(self.ais(generator), 0) - math.log(self.ais_chains)

    @torch.no_grad()
    def ais(self, generator: Generator | None = None) -> Tensor:
        """The logarithms of the chains' weights, each an unbiased estimate of Z, ``(ais_chains,)`` float64."""
        base = self._base_rate()
        v = self._bernoulli(base.expand(self.ais_chains, -1), generator)
        # At beta = 0 hidden units are 0 or 1 alike, and Z counts both.
        log_w = (softplus(base.double()).sum() + len(self.hidden_bias) * math.log(2)).repeat(self.ais_chains)
        betas = torch.linspace(0, 1, self.ais_temperatures + 1, dtype=torch.float64).tolist()
        for before, beta in pairwise(betas):
            inputs = linear(v, self.weight, self.hidden_bias)
            log_w += self._annealed(v, inputs, base, beta) - self._annealed(v, inputs, base, before)
            h = self._bernoulli(beta * inputs, generator)
            v = self._bernoulli((1 - beta) * base + beta * (self.visible_bias + h @ self.weight), generator)
        return log_w

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean free energy of the data minus that of the chains, which measures no fit: only its gradient counts."""
        v = batch[0].flatten(1).to(self.weight.dtype)
        # In half precision units of small probability would fire far too often, and the free energies' difference is
        # lost in their rounding.
        with torch.autocast(v.device.type, enabled=False):
            self.ones += v.sum(0)
            self.seen += len(v)
            with torch.no_grad():
                end = self._gibbs(self._starts(v), self.cd_steps, self.train_generator)
                if self.persistent:
                    self.chains.index_copy_(0, self._turns(len(v)), end)
                    self.turn += len(end)
            return self.free_energy(v).mean() - self.free_energy(end).mean()

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """The ends of n Gibbs chains. Temperature changes nothing: there is no latent noise to scale."""
        parts = []
        for start in range(0, n, CHUNK):
            size = min(CHUNK, n - start)
            v = self._bernoulli(self._base_rate().expand(size, -1), generator)
            parts.append(self._gibbs(v, self.sample_steps, generator))
        return torch.cat(parts).to(torch.uint8).unflatten(1, self.shape)

    def _starts(self, v: Tensor) -> Tensor:
        return self.chains[self._turns(len(v))] if self.persistent else v

    def _turns(self, n: int) -> Tensor:
        """The numbers of the persistent chains that a batch takes: at most as many as there are."""
        steps = torch.arange(min(n, len(self.chains)), device=self.turn.device)
        return (self.turn + steps) % len(self.chains)

    def _gibbs(self, v: Tensor, steps: int, generator: Generator | None) -> Tensor:
        for _ in range(steps):
            h = self._bernoulli(linear(v, self.weight, self.hidden_bias), generator)
            v = self._bernoulli(self.visible_bias + h @ self.weight, generator)
        return v

    def _base_rate(self) -> Tensor:
        """Logits of the training data's mean, ``(D,)``, smoothed by one example of 0 and one of 1."""
        return torch.logit((self.ones + 1) / (self.seen + 2)).to(self.weight.dtype)

    def _annealed(self, v: Tensor, inputs: Tensor, base: Tensor, beta: float) -> Tensor:
        """The unnormalised log-probability at one temperature, ``(chains,)`` float64."""
        visible = v @ ((1 - beta) * base + beta * self.visible_bias)
        return (visible + softplus(beta * inputs).sum(1)).double()

    @staticmethod
    def _bernoulli(logits: Tensor, generator: Generator | None) -> Tensor:
        return (uniform(logits.shape, logits, generator) < logits.sigmoid()).to(logits.dtype)
