"""What is measured: a trained model, a known density, somebody's samples. A metric does not know which."""

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.data.base import Data
from bench.data.formats.smiles_files import Line
from bench.errors import UnavailableError
from bench.schema import Source

__all__ = ["Decoder", "Origin", "Report", "Subject", "silent"]

Report = Callable[[str, int, int], None]
"""Called as ``report(what, done, total)`` while something is computed."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Origin:
    """Where a subject comes from: what its rows say besides the numbers. Fields as in ``bench.schema.ResultRow``."""

    run_id: str
    training_key: str
    group: str
    model: str
    model_family: str
    checkpoint: str
    seed: int = 0
    n_params: int | None = None
    budget: str = "none"
    examples_seen: int = 0
    train_seconds: float = 0.0
    git_commit: str = ""
    dirty: bool | None = None
    device: str = ""
    precision: str = "32-true"
    versions: str = ""
    source: Source = Source.MEASURED
    config: str = ""


@dataclass(frozen=True)
class Decoder:
    """A differentiable map from codes, standard normal in the model, to examples.

    Attributes:
        latent_dim: Z.
        mean: ``(B, Z)`` to ``(B, *shape)``, both on the CPU: on [-1, 1] for integer data, in the data's unit for reals.
    """

    latent_dim: int
    mean: Callable[[Tensor], Tensor]


class Subject(ABC):
    """Something that can be measured. Each method answers, or raises UnavailableError with the reason in words.

    All tensors come out on the CPU. The same question has the same answer, whatever else was asked before.

    Attributes:
        origin: For its rows.
        relation: How its ``log_weights`` relate to log p(x): ``exact``, ``lower_bound`` or ``estimate``; empty where it
            has no likelihood.
        caveat: What a reader of its likelihood must know; usually nothing.
        likelihood_of: As in ``models.base.HasLikelihood``.
        shown_relation: The relation that its likelihood is shown with; empty where it has none.
        largest_component: Whether its samples are known to be the largest connected parts of others.
        solves_ode: Whether its likelihood is the solution of a differential equation.
        cost_names: What it counts besides the costs that everything has; known without counting.
        lost: How many samples of those asked for could not be computed; rows made from the others say so.
    """

    origin: Origin
    relation: str = ""
    caveat: str = ""
    likelihood_of: str = ""
    largest_component: bool = False
    solves_ode: bool = False
    cost_names: tuple[str, ...] = ()
    lost: str = ""

    @property
    def shown_relation(self) -> str:
        return self.relation

    def samples(self, n: int, report: Report = silent) -> Tensor:
        """``(n, *shape)`` samples, or fewer where there are no more, in the data's own space and dtype.

        They are drawn in chunks of 250, one after another: the first 250 k of them are the samples for n = 250 k.
        """
        raise UnavailableError("there is nothing to sample")

    def class_samples(self, y: Tensor, report: Report = silent) -> Tensor:
        """One sample of each of the classes ``(n,)`` int64, ``(n, *shape)``."""
        raise UnavailableError("samples of chosen classes cannot be drawn")

    def smiles(self, n: int) -> Sequence[Line] | None:
        """The first n samples, or fewer where there are no more, of a subject of SMILES; of all others None."""
        return None

    def outside(self, n: int, report: Report = silent) -> Tensor:
        """Which of the ``samples`` lie outside the data's range before they are clipped to it, ``(n,)`` bool."""
        raise UnavailableError("what was clipped to the data's range is not known")

    def round_trips(self, x: Tensor, factor: float) -> Tensor:
        """Largest error of an entry after the model's bijection and its inverse, ``(N,)``, at ``factor`` times x."""
        raise UnavailableError("the model is no flow")

    def beyond_float32(self, n: int) -> tuple[Tensor, str]:
        """Which of n samples float32 does not hold on the way, ``(n,)`` bool, and where the worst of them leaves it."""
        raise UnavailableError("the model is no flow")

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        """``(K, N)`` float64 draws of log w with E[w] = p(x), in nats; K = 1 if that is exact, else ``draws``."""
        raise UnavailableError("the model has no likelihood")

    def class_log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        """``(K, N, classes)`` float64 draws of log p(x, y) for every class y, in nats; K as in ``log_weights``."""
        raise UnavailableError("the model has no likelihood given a class")

    def ode_changes(self, x: Tensor) -> Tensor:
        """By how much log w moves when the solver's steps are halved, the noise being the same: ``(N,)`` nats."""
        raise UnavailableError("the likelihood is not the solution of a differential equation")

    def codes(self, x: Tensor) -> Tensor:
        """``(N, Z)`` latent codes of examples."""
        raise UnavailableError("the model has no latent codes")

    def scores(self) -> list[float]:
        """The validation scores of its training in their order, lower is better."""
        raise UnavailableError("its training is not known")

    def reconstructions(self, x: Tensor, report: Report = silent) -> Tensor:
        """Examples encoded and decoded again, ``(N, *shape)``."""
        raise UnavailableError("the model has no latent codes")

    def elbo_terms(self, x: Tensor, draws: int, report: Report = silent) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the terms of the ELBO: two ``(K, N)`` float64 in nats, and codes ``(K, N, Z)``.

        They are those of ``models.base.ElboTerms``: reconstruction, KL divergence, posterior mean.
        """
        raise UnavailableError("the model has no approximate posterior")

    def latent_dim(self) -> int:
        """Dimension of the codes that the model decodes, of a class besides where it is conditional."""
        raise UnavailableError("the model has no decoder of standard normal codes")

    def decoder(self) -> Decoder:
        """The model's decoder."""
        raise UnavailableError("the model has no decoder of standard normal codes")

    def try_on(self, data: Data) -> None:
        """Make a model with the same options for other data, and try it: ``bench.subjects.trying``.

        Raises:
            UserError: Its constructor refuses the data.
        """
        raise UnavailableError("how the model was made is not known, so that it cannot be made for other data")

    def costs(self, x: Tensor, n: int) -> dict[str, float]:
        """Costs by name, those known: parameters, seconds, speeds, and the counts of ``cost_names``.

        Arguments:
            x: Examples on which calls are counted.
            n: The speed of sampling is that of ``samples(n)``.
        """
        raise UnavailableError("there is no model")

    def loads(self, n: int) -> dict[str, float]:
        """The load under which costs were timed on the CPU, by their names; as in ``bench.schema.Estimate``.

        Arguments:
            n: As for ``costs``.
        """
        return {}
