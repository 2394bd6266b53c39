"""What every metric shares is computed once; each metric is then a pure function of it."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from bench.data.base import ClassifiedModes, Data, Modes
from bench.features.classifier import Classifier, unsuitable
from bench.metrics.base import Metric, Need, classifier_name
from bench.schema import DataSpec, Estimate, MetricInfo, Relation, Status
from bench.seeds import derive_seed
from bench.training.fit import Progress
from models.base import GenerativeModel, HasLikelihood, ReportsCost

__all__ = ["CHUNK", "DataDensity", "EvalContext", "evaluate", "failed_estimates", "one_draw"]

log = logging.getLogger("genbench")

CHUNK = 250
"""Examples that pass through a model at once: bounds the memory, changes no number."""


class EvalContext:
    """Samples, features and log-weights of one model on one data set, lazily and once. Tensors come out on the CPU.

    Arguments:
        model: To be evaluated, on its device; None where only the data matter.
        data: The data set.
        likelihood: Whose log-weights are taken: the model's, unless given (the data's own density).
        seed: The run's seed; sampling and likelihood draw from streams derived from it.
        n_samples: Model samples to draw.
        n_draws: Draws K per example for a likelihood that is bounded or estimated.
        progress: Of the training, for the costs.
        load_classifier: Makes the in-domain classifier of a data set, when first asked.
        report: Called as ``report(what, done, total)``.
    """

    def __init__(
        self,
        model: GenerativeModel | None,
        data: Data,
        *,
        seed: int,
        n_samples: int,
        n_draws: int,
        progress: Progress,
        load_classifier: Callable[[Data], Classifier],
        likelihood: HasLikelihood | None = None,
        report: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self.model = None if model is None else model.eval()
        self.likelihood = model if likelihood is None and isinstance(model, HasLikelihood) else likelihood
        self.report = report
        self.data = data
        self.seed = seed
        self.n_samples = n_samples
        self.n_draws = n_draws
        self.progress = progress
        self._load_classifier = load_classifier
        self._sampling_seconds = 0.0
        self._features: dict[int, tuple[Tensor, Tensor]] = {}
        self._probabilities: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def spec(self) -> DataSpec:
        return self.data.spec

    @property
    def real(self) -> Tensor:
        return self.data.test.x

    @cached_property
    def held_out(self) -> Tensor:
        return torch.cat([self.data.val.x, self.data.test.x])

    def missing(self, need: Need) -> str:
        """Why ``need`` is not met; empty if it is."""
        return self.lacking(need) or self._missing_of_model(need)

    def lacking(self, need: Need) -> str:
        """Why the data do not meet ``need``, whatever the model; empty if they do, or if it is no need of data."""
        if need is Need.INTEGER_DATA and self.spec.levels is None:
            return "the data are real-valued: a density has no bits per dimension"
        if need is Need.CLASSIFIER:
            return unsuitable(self.data)
        if need is Need.MODES and self.data.modes is None:
            return f"the modes of {self.spec.name} are not known"
        return ""

    def _missing_of_model(self, need: Need) -> str:
        if need is Need.LIKELIHOOD and self.likelihood is None:
            return "the model has no likelihood"
        if need is Need.SAMPLES and self.model is None:
            return "there is no model to sample"
        if need is Need.SAMPLES and self.model is not None and self.model.cannot_sample:
            return f"the model cannot be sampled: {self.model.cannot_sample}"
        return ""

    # What the model makes.

    @cached_property
    def samples(self) -> Tensor:
        model = self._model()
        generator = torch.Generator(device=model.device)
        generator.manual_seed(derive_seed(self.seed, "evaluate", "samples"))
        chunks: list[Tensor] = []
        start = time.perf_counter()
        with torch.no_grad():
            for done in range(0, self.n_samples, CHUNK):
                self.report("sampling", done, self.n_samples)
                chunks.append(model.sample(min(CHUNK, self.n_samples - done), generator=generator).cpu())
        self._sampling_seconds = time.perf_counter() - start
        samples = torch.cat(chunks)
        if samples.dtype != model.data_dtype or samples.shape[1:] != self.real.shape[1:]:
            made, asked = (samples.dtype, tuple(samples.shape)), (self.real.dtype, tuple(self.real.shape))
            raise ValueError(f"the model's samples are {made[0]} {made[1]}, the data {asked[0]} {asked[1]}")
        if not torch.isfinite(samples).all():
            raise ValueError("samples contain NaN or infinity")
        return samples

    @cached_property
    def log_weights(self) -> Tensor:
        likelihood = self._likelihood()
        device = torch.device("cpu") if self.model is None else self.model.device
        generator = torch.Generator(device=device)
        generator.manual_seed(derive_seed(self.seed, "evaluate", "log_weight"))
        draws = 1 if likelihood.relation == Relation.EXACT else self.n_draws
        rows: list[Tensor] = []
        with torch.no_grad():
            for draw in range(draws):
                self.report("likelihood", draw, draws)
                rows.append(one_draw(likelihood, self.real, device, generator))
        return torch.stack(rows)

    @property
    def relation(self) -> str:
        return "" if self.likelihood is None else self.likelihood.relation

    @property
    def cost_names(self) -> tuple[str, ...]:
        return self.model.cost_names if isinstance(self.model, ReportsCost) else ()

    @property
    def costs(self) -> dict[str, float]:
        model, progress = self._model(), self.progress
        _ = self.samples  # its time is one of the costs
        costs = {"parameters": float(model.n_parameters)}
        costs["train_seconds"] = progress.train_seconds
        if progress.train_seconds > 0:
            costs["train_examples_per_second"] = progress.examples_seen / progress.train_seconds
        if self._sampling_seconds > 0:
            costs["samples_per_second"] = self.n_samples / self._sampling_seconds
        if isinstance(model, ReportsCost):
            generator = torch.Generator(device=model.device)
            generator.manual_seed(derive_seed(self.seed, "evaluate", "costs"))
            with torch.no_grad():
                costs |= model.cost_report(self.real[:CHUNK].to(model.device), generator=generator)
        return costs

    # What the data set's classifier makes of it.

    @cached_property
    def extractor(self) -> Classifier:
        return self._load_classifier(self.data)

    def features(self, x: Tensor) -> Tensor:
        return self._once(self._features, x, self.extractor.features)

    def probabilities(self, x: Tensor) -> Tensor:
        return self._once(self._probabilities, x, self.extractor.probabilities)

    def _once(self, cache: dict[int, tuple[Tensor, Tensor]], x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        # The tensor is kept beside its features, so that its id cannot be given to another one.
        if id(x) not in cache:
            cache[id(x)] = (x, compute(x))
        return cache[id(x)][1]

    # What the data's modes are.

    @cached_property
    def modes(self) -> Modes:
        modes, classifier = self.data.modes, self.mode_extractor
        if isinstance(modes, ClassifiedModes):
            assert classifier is not None
            return modes.read(classifier.classes)
        assert modes is not None, "asked for without Need.MODES"
        return modes

    @property
    def mode_classifier(self) -> str:
        modes = self.data.modes
        return classifier_name(modes.labelled.spec) if isinstance(modes, ClassifiedModes) else ""

    @cached_property
    def mode_extractor(self) -> Classifier | None:
        modes = self.data.modes
        return self._load_classifier(modes.labelled) if isinstance(modes, ClassifiedModes) else None

    def _model(self) -> GenerativeModel:
        assert self.model is not None, "asked for without Need.SAMPLES"
        return self.model

    def _likelihood(self) -> HasLikelihood:
        assert self.likelihood is not None, "asked for without Need.LIKELIHOOD"
        return self.likelihood


def one_draw(likelihood: HasLikelihood, x: Tensor, device: torch.device, generator: Generator) -> Tensor:
    """One draw of log w for each example, ``(N,)`` float64 on the CPU. ValueError for a log_weight of another shape."""
    chunks: list[Tensor] = []
    for part in x.split(CHUNK):
        log_w = likelihood.log_weight(part.to(device), generator=generator)
        if log_w.shape != (len(part),):
            made = f"returned shape {tuple(log_w.shape)} for {len(part)} examples"
            raise ValueError(f"log_weight {made}; wanted is one number an example, shape ({len(part)},)")
        chunks.append(log_w.double().cpu())
    return torch.cat(chunks)


def evaluate(context: EvalContext, metrics: Mapping[str, Metric]) -> list[Estimate]:
    """Every metric's estimates. One that cannot apply is skipped, one that raises has failed; the others go on."""
    estimates: list[Estimate] = []
    for name, metric in metrics.items():
        context.report(name, 0, 0)
        reasons = [reason for reason in map(context.missing, metric.needs) if reason]
        if reasons:
            estimates += [_without_value(info, Status.SKIPPED, reasons[0]) for info in metric.infos(context)]
            continue
        try:
            estimates += metric.compute(context)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.error("metric %s failed: %s", name, reason)
            log.info("where metric %s failed:", name, exc_info=True)  # for a run's log; nobody else is shown it
            estimates += [_without_value(info, Status.FAILED, reason) for info in metric.infos(context)]
    return estimates


def failed_estimates(context: EvalContext, metrics: Mapping[str, Metric], reason: str) -> list[Estimate]:
    """The rows of a run that ended before there was anything to measure: failed, but skipped what cannot apply.

    What applies is asked of the data, and of the model where the context has one.
    """
    ask = context.lacking if context.model is None else context.missing
    estimates: list[Estimate] = []
    for metric in metrics.values():
        for info in metric.infos(context):
            needs = (*metric.needs, *metric.needs_of.get(info.name, ()))
            lacks = [lack for lack in map(ask, needs) if lack]
            status = Status.SKIPPED if lacks else Status.FAILED
            estimates.append(_without_value(info, status, (*lacks, reason)[0]))
    return estimates


def _without_value(info: MetricInfo, status: Status, reason: str) -> Estimate:
    return Estimate(info, status=status, reason=" ".join(reason.split()))


@dataclass(frozen=True)
class DataDensity(HasLikelihood):
    """The data's own density, as the likelihood that no model can beat in expectation."""

    log_density: Callable[[Tensor], Tensor]

    @property
    def relation(self) -> Literal["exact"]:
        return "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return self.log_density(x)
