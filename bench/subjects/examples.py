"""What the metrics of one subject share, computed once: samples, log-weights, features."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from bench.chunks import CHUNK
from bench.data.base import Data
from bench.data.formats.molecule_facts import MoleculeFacts
from bench.data.formats.moments import Moments
from bench.data.formats.smiles import Judged, judged
from bench.errors import UnavailableError
from bench.features.base import Classifier, Extractor, Note, Recipe
from bench.features.stored import digest, stored_features
from bench.schema import DataSpec, Kind
from bench.subjects.base import Report, Subject, silent
from bench.subjects.copies import said_of_copies

__all__ = ["Examples"]


class Examples:
    """Real examples, the subject's samples and its log-weights, with their features. Tensors are on the CPU.

    Nothing is computed before it is asked for, and nothing twice. What cannot be had raises UnavailableError with the
    reason; a metric asks for what may be lacking before it asks for what takes long.

    Arguments:
        subject: What is measured.
        data: The data set; its test split is what is reported on.
        seed: For metrics that draw random numbers: they derive from it and never use the global generator.
        report: Told what is being computed.
        note: Told a line where something takes a while.
    """

    def __init__(
        self, subject: Subject, data: Data, *, seed: int, report: Report = silent, note: Note | None = None
    ) -> None:
        self.subject = subject
        self.data = data
        self.seed = seed
        self.report = report
        self._note = note
        self._samples: dict[int, Tensor] = {}
        self._copies: dict[int, str] = {}
        self._molecules: dict[int, Judged] = {}
        self._log_weights: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._extractors: list[tuple[Recipe, Data, Extractor]] = []
        self._features: dict[tuple[int, int], tuple[Extractor, Tensor, Tensor]] = {}
        self._chunks: dict[tuple[int, str], Tensor] = {}
        self._probabilities: dict[tuple[int, int], tuple[Extractor, Tensor, Tensor]] = {}

    @property
    def spec(self) -> DataSpec:
        return self.data.spec

    @property
    def real(self) -> Tensor:
        """The test split, ``(N, *shape)``, in the data's own dtype.

        Raises:
            UnavailableError: Only its mean and covariance are known.
        """
        self._need_examples()
        return self.data.test.x

    @property
    def train(self) -> Tensor:
        """The training split, ``(N, *shape)``, in the data's own dtype.

        Raises:
            UnavailableError: There is none: somebody's reference stands alone.
        """
        if len(self.data.train) == 0:
            raise UnavailableError(f"{self.spec.name} has no training split, only examples to compare with; name the "
                                   "data, too, if they are of a data set")  # fmt: skip
        return self.data.train.x

    @property
    def moments(self) -> Moments | None:
        """Mean and covariance of features, where nothing else is known of the test split."""
        return self.data.moments

    @cached_property
    def held_out(self) -> Tensor:
        """Validation and test split together: real examples that no model was trained on."""
        self._need_examples()
        return torch.cat([self.data.val.x, self.data.test.x])

    def samples(self, n: int) -> Tensor:
        """Samples of the subject, ``(n, *shape)``, or fewer where it has no more.

        Raises:
            UnavailableError: The subject cannot be sampled.
            ValueError: Its samples are of another shape or dtype than the data, or not finite.
        """
        if n not in self._samples:
            larger = max(self._samples, default=0)
            whole = larger > n and len(self._samples[larger]) == larger
            if whole and n % CHUNK == 0:  # the same chunks are drawn, in the same order
                self._samples[n] = self._samples[larger][:n]
                return self._samples[n]
            made, real = self.subject.samples(n, self.report), self.data.test.x
            if made.dtype != real.dtype or made.shape[1:] != real.shape[1:]:
                raise ValueError(f"the model's samples are {made.dtype} {tuple(made.shape)}, "
                                 f"the data {real.dtype} {tuple(real.shape)}")  # fmt: skip
            if made.is_floating_point() and not torch.isfinite(made).all():
                raise ValueError("samples contain NaN or infinity")
            self._samples[n] = made
        return self._samples[n]

    def copies(self, n: int) -> str:
        """What a reader of numbers that were made of n samples must know of copies among them; usually nothing.

        Of a control nothing is said: its line says that it hands out training examples.
        """
        drawn = next((made for made in self._samples.values() if len(made) == n), None)
        if drawn is None or self.subject.origin.model_family == "control":
            return ""
        if n not in self._copies:
            self._copies[n] = said_of_copies(drawn, self.data)
        return self._copies[n]

    @property
    def chemistry(self) -> MoleculeFacts:
        """What is known of the molecules that the data are.

        Raises:
            UnavailableError: They are none.
        """
        if self.data.molecules is None:
            raise UnavailableError(f"{self.spec.name} holds no molecules")
        return self.data.molecules

    def molecules(self, n: int) -> Judged:
        """The first n samples as molecules, or fewer where there are no more.

        Raises:
            UnavailableError: The data are no molecules, or the subject cannot be sampled.
        """
        facts = self.chemistry
        if n not in self._molecules:
            given = self.subject.smiles(n)
            self._molecules[n] = judged(self.samples(n).numpy() if given is None else given, facts.chemistry)
        return self._molecules[n]

    def real_molecules(self, n: int) -> Judged:
        """At most n molecules of the test split, and at most half of it: the other half is the control ``held_out``.

        Raises:
            UnavailableError: The data are no molecules.
        """
        facts = self.chemistry
        if -n not in self._molecules:
            reference, _ = facts.halves(len(self.real))
            self._molecules[-n] = judged(self.real[torch.from_numpy(reference[:n])].numpy(), facts.chemistry)
        return self._molecules[-n]

    def log_weights(self, draws: int, x: Tensor | None = None) -> Tensor:
        """``(K, N)`` float64 draws of log w in nats; K = 1 if the likelihood is exact, else ``draws``.

        Arguments:
            x: Examples, ``real`` unless given; computed once for each tensor.
        """
        x = self.real if x is None else x
        key = (id(x), draws)  # x is kept beside the result, so that its id cannot be given to another
        if key not in self._log_weights:
            self._log_weights[key] = (x, self.subject.log_weights(x, draws, self.report))
        return self._log_weights[key][1]

    @property
    def relation(self) -> str:
        """How the log-weights relate to log p(x); empty where there is no likelihood."""
        return self.subject.relation

    def need(self, recipe: Recipe, data: Data | None = None) -> None:
        """Raise UnavailableError where there is no such extractor for the data (the subject's, unless given).

        There is none for colourings: samples have the graphs of the test split, so they are no independent examples.
        """
        colourings = self.spec.kind is Kind.COLOURINGS
        reason = "samples are new colours of the test graphs" if colourings else recipe.lacks(self._learned(data))
        if reason:
            raise UnavailableError(reason)

    def extractor(self, recipe: Recipe, data: Data | None = None) -> Extractor:
        """The extractor that a recipe makes for the data. Two equal recipes have one extractor."""
        data = self._learned(data)
        self.need(recipe, data)
        for known, of, extractor in self._extractors:
            if _same(known, recipe) and of is data:
                return extractor
        made = recipe.extractor(data, self._note)
        for _, of, extractor in self._extractors:
            if of is data and made.hash and (extractor.name, extractor.hash) == (made.name, made.hash):
                made = extractor
        self._extractors.append((recipe, data, made))
        return made

    def _learned(self, data: Data | None) -> Data:
        """The data that extractors are made for: beside a reference, those of the data set that it stands in."""
        data = self.data if data is None else data
        return data if data.learned is None else data.learned

    def _need_examples(self) -> None:
        if self.moments is not None:
            raise UnavailableError(f"the reference {self.moments.name} is a mean and a covariance alone; this metric "
                                   "needs its examples")  # fmt: skip

    def classifier(self, recipe: Recipe, data: Data | None = None) -> Classifier:
        """The same, where class probabilities are needed as well."""
        extractor = self.extractor(recipe, data)
        if not isinstance(extractor, Classifier):
            raise UnavailableError(f"{extractor.name} gives features but no class probabilities")
        return extractor

    def caveat(self, name: str | None, hash: str | None) -> str:
        """What a reader of numbers that were made with an extractor must know; usually nothing."""
        return next((one.caveat for *_, one in self._extractors if (one.name, one.hash) == (name, hash)), "")

    def features(self, extractor: Extractor, x: Tensor) -> Tensor:
        """``(N, F)`` features, computed once for each tensor; of real examples, if slow, once for all commands."""
        # The extractor and the tensor are kept beside the result, so that their ids cannot be given to others.
        key = (id(extractor), id(x))
        if key not in self._features:
            self._features[key] = (extractor, x, self._extracted(extractor, x))
        return self._features[key][2]

    def _extracted(self, extractor: Extractor, x: Tensor) -> Tensor:
        if not extractor.is_slow:
            return extractor.features(x)
        if any(x is split.x for split in (self.data.train, self.data.val, self.data.test)):
            return stored_features(extractor, x)
        if x is vars(self).get("held_out"):
            splits = [split.x for split in (self.data.val, self.data.test) if len(split)]
            return torch.cat([stored_features(extractor, x) for x in splits])
        # Samples of different numbers have chunks in common.
        return torch.cat([self._chunk(extractor, part) for part in x.split(CHUNK)])

    def _chunk(self, extractor: Extractor, x: Tensor) -> Tensor:
        key = (id(extractor), digest(x))
        if key not in self._chunks:
            self._chunks[key] = extractor.features(x)
        return self._chunks[key]

    def probabilities(self, classifier: Classifier, x: Tensor) -> Tensor:
        """``(N, classes)`` class probabilities, computed once for each tensor."""
        key = (id(classifier), id(x))
        if key not in self._probabilities:
            self._probabilities[key] = (classifier, x, classifier.probabilities(x))
        return self._probabilities[key][2]


def _same(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes are the same: of one class with the same plain settings, or one object."""
    if a is b:
        return True
    plain = all(isinstance(value, str | int | float | Path | None) for one in (a, b) for value in vars(one).values())
    return plain and type(a) is type(b) and vars(a) == vars(b)
