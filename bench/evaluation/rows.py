"""From a trained model to rows: what is measured on a checkpoint, and what every row says of where it came from."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from bench.config.build import build_model, typed
from bench.data.base import Data
from bench.data.bytes.cache import cache_dir
from bench.errors import UserError
from bench.evaluation.evaluate import CHUNK, DataDensity, EvalContext, evaluate, failed_estimates, one_draw
from bench.evaluation.pictures import Landscape, draw_samples, landscape
from bench.features.classifier import Classifier, load_or_train, unsuitable
from bench.metrics.base import Metric, Need
from bench.metrics.frechet import frechet_distance_from_features
from bench.provenance import config_hash, device_name, git_state, versions
from bench.rng import seeded
from bench.schema import Estimate, ResultRow, Source, Status
from bench.seeds import derive_seed
from bench.training.console import Reporter
from bench.training.fit import Hardware, Progress, Schedule, load_model_weights
from models.base import ClosedForm, GenerativeModel, HasLikelihood

__all__ = ["Evaluation", "failed_rows", "measure", "oracle_rows", "run_id", "validation_score"]

log = logging.getLogger("genbench")

VALIDATION_EXAMPLES = 2000


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and on how much (group ``evaluate`` in the configuration).

    Attributes:
        n_samples: Samples drawn from the model for every sample metric.
        n_draws: Draws K per test example of a bounded or estimated likelihood.
        checkpoints: Which weights are evaluated: ``best`` on validation, ``final``, or both.
    """

    n_samples: int = 1000
    n_draws: int = 16
    checkpoints: list[str] = field(default_factory=lambda: ["best"])

    def __post_init__(self) -> None:
        if self.n_samples < 2 or self.n_draws < 1:
            raise UserError("evaluate: n_samples must be at least 2 and n_draws at least 1")
        named = set(self.checkpoints)
        if not named or not named <= {"best", "final"} or len(named) < len(self.checkpoints):
            raise UserError(f"evaluate.checkpoints={self.checkpoints}: must be [best], [final] or [best,final]")


def run_id(config: Mapping[str, Any]) -> str:
    """``mnist5k-vae-s0-1a2b3c4d``: data set, model, seed, and the configuration's hash."""
    # A file in a subfolder of a group has a name with slashes; a run has one folder.
    names = [config["choices"][group].replace("/", "-") for group in ("data", "model")]
    return f"{names[0]}-{names[1]}-s{config['seed']}-{config_hash(dict(config))[:8]}"


def measure(
    path: Path,
    config: dict[str, Any],
    data: Data,
    metrics: Mapping[str, Metric],
    evaluation: Evaluation,
    reporter: Reporter,
    picture: Path | None = None,
) -> list[ResultRow]:
    """The rows of one checkpoint, evaluated in full float32 by a fresh instance of the model.

    Arguments:
        path: ``best.ckpt`` or ``final.ckpt``.
        picture: Where the samples go, as ``<picture>.png`` and ``<picture>.npz``; None: nowhere.
    """
    hardware = typed(Hardware, config["trainer"], "trainer")
    with seeded(derive_seed(config["seed"], "init")):
        model = build_model(config, data.spec)
    _, progress = load_model_weights(model, path)
    model.to("cuda" if hardware.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    with seeded(derive_seed(config["seed"], "evaluate")):
        context = _context(model, data, evaluation, progress, config["seed"], reporter)
        estimates = evaluate(context, metrics)
        if picture is not None:
            _draw(context, picture)
    return _rows(estimates, config, data, model, path.stem, progress)


def _draw(context: EvalContext, picture: Path) -> None:
    """The samples' picture, where there are samples: a model that cannot make any keeps its other numbers."""
    try:
        samples, density = context.samples, _landscape(context)
    except Exception:  # whatever a model trips over; the metrics that need it have said so in their rows
        log.exception("no picture: the model cannot be sampled or its density not be computed")
        return
    draw_samples(samples, context.spec.levels, picture, density)


def _landscape(context: EvalContext) -> Landscape | None:
    """The plane's density under the model, and under the truth: what samples alone show poorly."""
    model, data = context.model, context.data
    if data.spec.shape != (2,) or data.spec.levels is not None:
        return None
    real = data.test.x
    if not isinstance(model, HasLikelihood):
        return landscape(real, None, data.log_density)
    generator = torch.Generator(device=model.device)
    generator.manual_seed(derive_seed(context.seed, "evaluate", "landscape"))
    with torch.no_grad():
        return landscape(real, lambda x: model.log_weight(x.to(model.device), generator=generator), data.log_density)


def oracle_rows(config: dict[str, Any], data: Data, metrics: Mapping[str, Metric]) -> list[ResultRow]:
    """The likelihood of the test split under the data's own density, where that is known."""
    if data.log_density is None:
        return []
    context = _context(None, data, Evaluation(), Progress(), 0, None, DataDensity(data.log_density))
    wanted = {name: metric for name, metric in metrics.items() if Need.LIKELIHOOD in metric.needs}
    estimates = [estimate for estimate in evaluate(context, wanted) if estimate.status is Status.OK]
    # The density knows nothing of the run: its rows are the same whichever run wrote them.
    of_data = {"data": config["data"], "choices": {"model": "oracle", "data": config["choices"]["data"]}, "seed": 0,
               "train": {"examples": None, "seconds": None}, "trainer": {}}  # fmt: skip
    return _rows(estimates, of_data, data, None, "best", Progress())


def failed_rows(config: dict[str, Any], data: Data, metrics: Mapping[str, Metric], reason: str) -> list[ResultRow]:
    """A row for every metric of a run that ended before there was anything to measure."""
    with seeded(derive_seed(config["seed"], "init")):
        model = build_model(config, data.spec)
    context = _context(model, data, typed(Evaluation, config["evaluate"], "evaluate"), Progress(), 0, None)
    return _rows(failed_estimates(context, metrics, reason), config, data, model, "best", Progress())


def validation_score(data: Data, seed: int) -> Callable[[GenerativeModel], float]:
    """Lower is better: negative log-likelihood (one draw) where there is one, else a Fréchet distance."""
    real = data.val.x[:VALIDATION_EXAMPLES]
    if len(real) < 2:
        raise UserError(f"{data.spec.name}: {len(real)} validation examples cannot tell one checkpoint from another; "
                        "bring at least 20 examples")  # fmt: skip

    @functools.cache
    def classifier() -> Classifier:
        # Scores are taken without gradients, but the classifier may have to be trained first.
        with torch.enable_grad():
            return load_or_train(data, cache_dir())

    def score(model: GenerativeModel) -> float:
        generator = torch.Generator(device=model.device).manual_seed(derive_seed(seed, "validate"))
        if isinstance(model, HasLikelihood):
            return -float(one_draw(model, real, model.device, generator).mean())
        fake = torch.cat([model.sample(len(x), generator=generator).cpu() for x in real.split(CHUNK)])
        if not unsuitable(data):
            features = classifier().features
            return frechet_distance_from_features(features(fake), features(real))
        return frechet_distance_from_features(fake.flatten(1).float(), real.flatten(1).float())

    return score


def _context(
    model: GenerativeModel | None,
    data: Data,
    evaluation: Evaluation,
    progress: Progress,
    seed: int,
    reporter: Reporter | None,
    likelihood: HasLikelihood | None = None,
) -> EvalContext:
    note = None if reporter is None else reporter.note
    told = {} if reporter is None else {"report": reporter.evaluating}
    return EvalContext(
        model, data, seed=seed, n_samples=evaluation.n_samples, n_draws=evaluation.n_draws, progress=progress,
        load_classifier=lambda labelled: load_or_train(labelled, cache_dir(), note), likelihood=likelihood, **told,
    )  # fmt: skip


def _rows(
    estimates: list[Estimate],
    config: dict[str, Any],
    data: Data,
    model: GenerativeModel | None,
    checkpoint: str,
    progress: Progress,
) -> list[ResultRow]:
    commit, dirty = git_state()
    libraries = versions()
    if progress.commit not in ("", commit):
        libraries += f", evaluated at commit {commit[:10]}"
    hardware = typed(Hardware, config["trainer"], "trainer")
    # Evaluation is on the CPU where there is no CUDA: an Apple GPU has no float64.
    device = device_name(hardware.accelerator if torch.cuda.is_available() else "cpu", hardware.devices)
    if progress.device not in ("", device):  # its times are not those of a run on either alone
        device = f"{progress.device}, evaluated on {device}"
    shared: dict[str, Any] = {
        "run_id": run_id(config),
        "training_key": config_hash(config),
        "group": config_hash(config, without_seed=True),
        "git_commit": progress.commit or commit,
        "dirty": True if progress.dirty else dirty,
        "model": config["choices"]["model"],
        "model_family": "data" if model is None else model.family,
        "n_params": 0 if model is None else model.n_parameters,
        "dataset": data.spec.name,
        "data_revision": data.spec.revision,
        "split": "test",
        "seed": config["seed"],
        "budget": _budget(model, config),
        "examples_seen": progress.best_examples if checkpoint == "best" else progress.examples_seen,
        "train_seconds": progress.train_seconds,
        "checkpoint": checkpoint,
        "device": device,
        "precision": hardware.precision,
        "versions": libraries,
        "source": Source.MEASURED,
    }
    return [_row(estimate, shared) for estimate in estimates]


def _row(estimate: Estimate, shared: dict[str, Any]) -> ResultRow:
    info = estimate.info
    measured = {item.name: getattr(estimate, item.name) for item in fields(estimate) if item.name != "info"}
    return ResultRow(
        **shared, **measured,
        metric=info.name, metric_title=info.title, metric_version=info.version,
        unit=info.unit, higher_is_better=info.higher_is_better, rank=info.rank,
    )  # fmt: skip


def _budget(model: GenerativeModel | None, config: dict[str, Any]) -> str:
    if model is None:
        return "none"
    return "one pass" if isinstance(model, ClosedForm) else typed(Schedule, config["train"], "train").budget
