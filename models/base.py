"""The contract of every generative model, and the capabilities that some have besides.

A model is a distribution over the data's own space: integer levels 0 .. L-1 (uint8) for images, reals (float32) for
vectors. Scaling, dequantization and logit are its own first layers. So every likelihood is already a log-probability
of the data, every sample is already data, and no metric ever asks how a model scaled its inputs.

Capabilities are base classes, asked with ``isinstance``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from .nn.masked import n_masked

__all__ = [
    "Autoencodes",
    "Batch",
    "ChecksInverse",
    "ClassConditional",
    "ClipsSamples",
    "ClosedForm",
    "CountsTraining",
    "ElboTerms",
    "GenerativeModel",
    "HasDecoder",
    "HasDiscriminator",
    "HasLikelihood",
    "HasPosterior",
    "LostSamples",
    "OptimizerFactory",
    "Relation",
    "ReportsCost",
    "SamplesClasses",
    "SamplesGiven",
    "SettlesSamples",
    "SolvesODE",
    "Unnormalized",
    "ValidatedByLoss",
]

Relation = Literal["exact", "lower_bound", "estimate"]
"""How ``log E[exp log_weight]`` from finitely many draws relates to log p(x)."""

Batch = tuple[Tensor, Tensor | None]
"""Examples ``(B, *shape)`` in the data's own space and dtype, and class labels ``(B,)`` where the data have them."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimizer from parameters: an optimizer class with all its other arguments already given."""


class LostSamples(ArithmeticError):  # noqa: N818 - most samples are there
    """Some samples cannot be computed: they left the range of floating-point numbers. The message says how many, where.

    Attributes:
        kept: The others, in their order, as ``sample`` returns them.
    """

    def __init__(self, message: str, kept: Tensor) -> None:
        super().__init__(message)
        self.kept = kept


class GenerativeModel(LightningModule, ABC):
    """A distribution that can be sampled.

    Subclasses are final: they implement ``sample``, ``training_step`` (Lightning's) and ``configure_optimizers``. The
    constructor sees no data: its first two arguments are the data's ``shape`` and ``levels``. If it has an argument
    ``classes``, it is given the data's number of classes, or None. If it has arguments ``nodes``, ``node_types`` and
    ``edge_types``, it is given the sizes of the data's graphs (``models.graphs``).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels L of each entry, or None for real-valued data.

    Attributes:
        family: ``flow``, ``gan``, ``vae``, ``baseline``, ... as shown in tables. A ``control`` learns nothing; it shows
            what a metric gives for copies of the training examples, and tables never rank it.
        kinds: What an example may be: entries that are ``numbers``, whose differences mean something, or
            ``categories``; ``graphs``; or ``colourings``, the colours of the nodes of a graph that is given.
        largest_component: Whether a sample is the largest connected part of a graph that was drawn.
        examples_meet: Whether the loss of an example depends on the others of its batch, as where noise is assigned to
            the examples of a batch. Then two halves of a batch do not train as the whole does.
        train_generator: The stream of random numbers that ``training_step`` draws from. The trainer sets it, and
            checkpoints it; None means torch's global generator.
        clip_norm: Largest gradient norm, or None. Set by the trainer for models that optimize by hand.
        train_step: Number of this training step, from 0, where the trainer tells it; else None.
    """

    family: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset({"numbers"})
    largest_component: bool = False

    def __init__(self, shape: Iterable[int], levels: int | None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.levels = levels
        self.examples_meet = False
        self.train_generator: Generator | None = None
        self.clip_norm: float | None = None
        self.train_step: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the running hook here some forty times a step. Looking for parameters and
        # submodules in it, as nn.Module does with whatever is assigned, would cost as much as a small layer.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def dim(self) -> int:
        """Number of entries D of one example."""
        return math.prod(self.shape)

    @property
    def n_parameters(self) -> int:
        """Numbers that fitting sets: the trainable parameters without masked weights. Some models override it."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad) - n_masked(self)

    @property
    def data_dtype(self) -> torch.dtype:
        """uint8 for integer levels, float32 for reals."""
        return torch.float32 if self.levels is None else torch.uint8

    @property
    def cannot_sample(self) -> str:
        """Why ``sample`` raises NotImplementedError; the empty string for a model that can be sampled."""
        return ""

    @abstractmethod
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw ``(n, *shape)`` examples in the data's own space and dtype, on the model's device.

        Arguments:
            n: Number of examples.
            temperature: Factor on the standard deviation of the latent noise; 1 is the model itself.
            generator: Where every random number comes from. The same seed gives the same samples.

        Raises:
            LostSamples: Some of them left the range of floating-point numbers.
        """

    def kind_of_step(self, step: int) -> int:
        """Which kind of training step number ``step`` (from 0) is. Steps of one kind do the same operations.

        A model whose ``training_step`` does more at every n-th step overrides this, and asks it about ``train_step``.
        """
        return 0

    def averaged(self) -> nn.Module:
        """The part whose weights a moving average tracks: the whole model, or of a GAN the generator."""
        return self


class SettlesSamples(GenerativeModel):
    """A model whose samples are looked at before they are returned: ``sample`` is ``settle`` of what ``draw`` returns.

    What looks at values waits for the device. ``draw`` does not, so that it can be recorded as a CUDA graph.
    """

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        return self.settle(*self.draw(n, temperature=temperature, generator=generator))

    @abstractmethod
    def draw(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """What n samples are made of, without looking at it; arguments as for ``sample``."""

    @abstractmethod
    def settle(self, *drawn: Tensor) -> Tensor:
        """Samples ``(n, *shape)`` of what ``draw`` returned; raises LostSamples as ``sample`` does."""


class HasLikelihood(ABC):
    """A model whose likelihood can be computed, bounded or estimated.

    Attributes:
        caveat: What a reader of its likelihood must know, in words that go into rows and tables; usually nothing.
        likelihood_of: Of a model of graphs: ``any-order`` if all orders of the same nodes are equally likely to it, so
            that it cannot know the order of the data; ``data-order`` if it can learn that order; empty if it does not
            say.
        enough_draws: Draws of log w that are worth their cost, where a draw is expensive and more of them do not change
            what is estimated; None: as many as are asked for.
    """

    caveat: str = ""
    likelihood_of: ClassVar[str] = ""
    enough_draws: int | None = None

    @property
    @abstractmethod
    def relation(self) -> Relation:
        """``exact`` if ``log_weight`` is deterministic and equals log p(x). Derived from the parts, never typed in."""

    @abstractmethod
    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        r"""ONE draw of log w with :math:`E[w] = p(x)`, in nats, ``(B, *shape) -> (B,)``.

        A flow on continuous data: log p(x). A flow on integer data: one dequantization draw,
        :math:`\log p(x + u) - \log q(u|x)`. A VAE: :math:`\log p(x,z) - \log q(z|x)` with one z. By Jensen's inequality
        :math:`E[\log w] \le \log p(x)`, and the mean of K draws tightens the bound (Burda, Grosse, Salakhutdinov 2016,
        Importance weighted autoencoders, arXiv:1509.00519).

        Where the relation is ``estimate``, the log-determinant itself is estimated: then log w is an unbiased estimate
        of log p(x), and draws of log w are averaged.
        """


class Unnormalized(HasLikelihood):
    r"""A model that gives :math:`\log p^*(x)`, and an estimate of :math:`\log Z` with :math:`p(x) = p^*(x) / Z`."""

    @abstractmethod
    def log_unnormalized(self, x: Tensor) -> Tensor:
        r""":math:`\log p^*(x)` in nats, deterministic, ``(B, *shape) -> (B,)``."""

    @abstractmethod
    def log_normalizer(self, *, generator: Generator | None = None) -> Tensor:
        """One estimate of log Z, a number: for all examples of a draw, because it may take long."""

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return self.log_unnormalized(x) - self.log_normalizer(generator=generator)


class ClassConditional(ABC):
    """A model whose likelihood is a mixture of p(x|y) over classes y, weighted by p(y).

    Attributes:
        classes: Number of classes; 0 where it was made without any. Then it is not asked about them.
    """

    classes: int

    @abstractmethod
    def class_log_weights(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """One draw of log p(x, y) for each class y, ``(B, *shape) -> (B, classes)`` nats; related as ``log_weight``."""


class Autoencodes(ABC):
    """A model with a latent code for every example: exact for flows, approximate for VAEs."""

    @abstractmethod
    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """``(B, *shape)`` data to ``(B, Z)`` latent codes."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """``(B, Z)`` latent codes to ``(B, *shape)`` data, in the data's own space and dtype."""


class ElboTerms(NamedTuple):
    r"""One unbiased draw of each part of :math:`E_q[\log p(x|z)] - KL(q(z|x) \| p(z))`, in nats.

    Attributes:
        reconstruction: Of :math:`E_q[\log p(x|z)]`, ``(B,)``.
        kl: Of the KL divergence of q from the prior, ``(B,)``: the divergence itself where it is known.
        code: Of :math:`E_q[z]`, ``(B, Z)``: the mean itself where it is known.
    """

    reconstruction: Tensor
    kl: Tensor
    code: Tensor


class HasPosterior(ABC):
    """A model with latent variables and an approximate posterior q(z|x), whose evidence lower bound has two terms."""

    @abstractmethod
    def elbo_terms(self, x: Tensor, *, generator: Generator | None = None) -> ElboTerms:
        """One draw of the terms of the bound, for examples ``(B, *shape)``."""


class HasDecoder(ABC):
    """A model that makes examples of codes z ~ N(0, I), by a map that has gradients.

    Attributes:
        latent_dim: Z, dimension of the codes.
    """

    latent_dim: int

    @property
    def cannot_decode(self) -> str:
        """Why codes alone make no example; the empty string where they do."""
        return ""

    @abstractmethod
    def decoder_mean(self, z: Tensor) -> Tensor:
        """``(B, Z)`` codes to the means of the examples, ``(B, *shape)``: on [-1, 1] for integers, not rounded."""


class ClipsSamples(ABC):
    """A model of integers that draws reals and clips those outside [0, L) to the first and last level.

    Its ``log_weight`` counts the mass inside alone: the masses of all examples and the share outside sum to 1.
    """

    @property
    @abstractmethod
    def clips_samples(self) -> bool:
        """Whether ``outside`` can be asked: not for real-valued data, which nothing clips."""

    @abstractmethod
    def outside(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Whether any entry lies outside [0, L) before it is clipped, ``(n,)`` bool.

        With a generator of the same seed it is about the n examples that ``sample`` draws at temperature 1.
        """


class ChecksInverse(ABC):
    """A model whose samples are the inverse of a map of examples: in floating point the two agree up to rounding.

    Asked only where ``cannot_sample`` is empty.
    """

    @abstractmethod
    def round_trip(self, x: Tensor, factor: float = 1.0, *, generator: Generator | None = None) -> Tensor:
        r"""Largest entry of :math:`|f^{-1}(f(c y)) - c y|` for each example, ``(B, *shape) -> (B,)``; NaN where there
        is none.

        Arguments:
            x: Examples. y are the reals that the bijection f begins with: real-valued data themselves, integers after
                dequantization and logit.
            factor: c.
        """

    @abstractmethod
    def beyond_float32(self, n: int, *, generator: Generator | None = None) -> tuple[Tensor, str]:
        """Which of n samples are NaN or infinite in float32, ``(n,)`` bool, and at which layer how far they go.

        With a generator of the same seed they are the n that ``sample`` draws at temperature 1.
        """


class SamplesClasses(ABC):
    """A model that can be sampled from chosen classes.

    Attributes:
        classes: Number of classes; 0 where it was made without any. Then it is not asked for samples of them.
    """

    classes: int

    @abstractmethod
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw one example of each of the classes ``(n,)`` int64: ``(n, *shape)``, as ``sample`` returns them."""


class SamplesGiven(ABC):
    """A model of one part of an example given the rest: of the colours of the nodes of a graph, given its edges.

    Its likelihood is that of the one part given the other. Its ``cannot_sample`` says that something must be given.
    """

    @abstractmethod
    def sample_given(self, x: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Examples ``(B, *shape)`` like x in what is given; the rest is drawn anew, and that of x is not looked at."""


class HasDiscriminator(ABC):
    """A model whose generator is trained against a network that tells its samples from data: a discriminator or critic.

    Attributes:
        generator, discriminator: The two networks.
        clip: Largest absolute value of the discriminator's parameters, where they are clipped to it after each of its
            steps; else None.
    """

    generator: nn.Module
    discriminator: nn.Module
    clip: float | None = None

    @abstractmethod
    def verdicts(self, batch: Batch, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """What the discriminator says of real examples, ``(B,)``, and of as many generated ones, ``(B,)``.

        The larger, the more it takes them for data. One that judges packs of m examples says it of each whole pack,
        ``(B // m,)``.

        Arguments:
            batch: As for ``training_step``.
            generator: Where the noise of the generated examples comes from.
        """


class ReportsCost(ABC):
    """A model that counts what its calls cost, because its size does not determine it: solvers, power series and fixed
    points take as many steps as they need.

    Attributes:
        cost_names: What it counts: ``nfe_log_weight`` and ``nfe_sample``, evaluations of its networks in one call,
            summed over its parts; ``passes_sample``, passes through its networks one after another in one call of
            ``sample``, however many examples each is of: the fewer, the more of an example is made in parallel;
            ``series_terms``, terms of a power series in one call of ``log_weight``, the mean over its parts.
    """

    cost_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        """The counts, by name, for one ``log_weight`` of x, ``(B, *shape)``, and one ``sample`` of as many."""


class SolvesODE(ABC):
    """A model whose likelihood is the solution of a differential equation, by a solver whose error is not known.

    The error is judged by a finer solution: a solver that is too coarse would give any number.
    """

    @property
    def shown_relation(self) -> Relation:
        """How its likelihood is labelled: also a certified solution is an estimate."""
        return "estimate"

    @abstractmethod
    def halved(self) -> AbstractContextManager[None]:
        """Inside the block ``log_weight`` is computed with steps of half the length, or a tolerance for that."""


class ValidatedByLoss(ABC):
    """A model whose checkpoints are compared by a loss, because its likelihood or its samples take too long."""

    @abstractmethod
    def validation_loss(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The training loss of examples ``(B, *shape)``, ``(B,)``; the lower, the better."""


class ClosedForm(ABC):
    """A model that is fitted in one pass over the training set, without gradients."""

    @abstractmethod
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set the buffers from the training examples, ``(B, *shape)`` at a time, each example once."""


class CountsTraining(ABC):
    """A model that is trained by gradients, and counts something in the training examples before its first step."""

    @abstractmethod
    def count(self, batches: Iterable[Tensor]) -> None:
        """Set buffers from the training examples, ``(B, *shape)`` at a time, each example once."""
