"""From a run's checkpoint, a known density or a failure to rows."""

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.checkpoint import Progress, load_checkpoint, load_weights
from bench.config.build import build_metrics, build_model
from bench.config.spec import Measurement, Node, RunSpec, digest
from bench.data.base import Data
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.evaluation.pictures import Landscape, draw_samples, landscape
from bench.evaluation.rows import rows_of
from bench.features.base import Note
from bench.files import durable_write
from bench.metrics.base import Metric
from bench.provenance import device_name, git_state, versions
from bench.rng import seeded
from bench.rows.items import items_path, write_items
from bench.schema import DataSpec, Estimate, Kind, MetricInfo, ResultRow, Status
from bench.seeds import derive_seed, sampling_seed_of
from bench.subjects.base import Origin, Report, Subject, silent
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from bench.tables.pictures import GRID, POINTS
from models.base import ClosedForm, GenerativeModel, HasLikelihood

__all__ = [
    "failed_run", "known_density", "measure", "measure_density", "rows_of_nothing", "save_picture", "trained_model",
]  # fmt: skip

log = logging.getLogger("genbench")


def trained_model(spec: RunSpec, data: Data, checkpoint: str, path: Path, sampling_seed: int = 0) -> TrainedModel:
    """The model of a checkpoint, in full float32 on the GPU where there is one.

    Arguments:
        checkpoint: What its rows call it: ``best`` or ``final``.
        path: The file.
        sampling_seed: As in ``Evaluation``.

    Raises:
        UserError: The file cannot be read, or is of another model.
    """
    with seeded(derive_seed(spec.seed, "init")):
        model = build_model(spec.model, data.spec)
    progress = load_weights(model, path)
    model.to("cuda" if spec.hardware.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    seed = sampling_seed_of(spec.seed, sampling_seed)
    origin = _origin(spec, model, checkpoint, progress)
    make, capture = partial(build_model, spec.model), spec.hardware.capture != "off"
    whole = _whole(progress, path)
    return TrainedModel(model, whole, seed, origin, given=data.test.x, make=make, capture=capture)


def _whole(progress: Progress, path: Path) -> Progress | None:
    """The progress at the end of a checkpoint's training: its own, or that of ``final.ckpt`` beside it, or None."""
    if progress.finished:
        return progress
    final = path.with_name("final.ckpt")
    if not final.is_file():
        return None
    try:
        whole = Progress.of(load_checkpoint(final)["progress"])
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    same = (whole.best_examples, whole.best_score) == (progress.best_examples, progress.best_score)
    return whole if same else None


def failed_run(spec: RunSpec, data: Data, checkpoint: str, reason: str) -> FailedModel:
    """A run that ended before there was anything to measure."""
    with seeded(derive_seed(spec.seed, "init")):
        model = build_model(spec.model, data.spec)
    return FailedModel(model, reason, _origin(spec, model, checkpoint, Progress()))


def rows_of_nothing(
    spec: RunSpec, checkpoint: str, reason: str, measurements: Sequence[Measurement]
) -> list[ResultRow]:
    """Rows that failed, where the data set or the model cannot even be made: one a metric, by its name there."""
    name = spec.choices["data"]
    data = DataSpec(name.rpartition("/")[2], "", (), None, 0, 0, 0)
    commit, dirty = git_state()
    origin = Origin(
        run_id=spec.run_id, training_key=spec.training_key, group=spec.group, model=spec.choices["model"],
        model_family="", checkpoint=checkpoint, seed=spec.seed, budget=spec.schedule.budget, git_commit=commit,
        dirty=dirty, device=device_name("cpu", 1), precision=spec.hardware.precision, versions=versions(),
    )  # fmt: skip
    estimates = {
        one.name: [Estimate(MetricInfo(one.name, "", None, title=one.name), status=Status.FAILED, reason=reason)]
        for one in measurements
    }
    return rows_of(estimates, measurements, origin, data)


def known_density(name: str, node: Node, data: Data) -> KnownDensity | None:
    """The data's own density, where it is known. It knows nothing of the run: its rows are the same for all runs.

    Arguments:
        name, node: Of the data, as chosen and as configured.
    """
    if data.log_density is None:
        return None
    # Whether entries are called numbers or categories, the density is the same.
    key = digest({"density": {name: value for name, value in node.items() if name != "as_numbers"}})
    commit, dirty = git_state()
    origin = Origin(
        run_id=f"{name.replace('/', '-')}-oracle-{key[:8]}", training_key=key, group=key,
        model="oracle", model_family="data", checkpoint="best", n_params=0, git_commit=commit, dirty=dirty,
        device=device_name("cpu", 1), versions=versions(),
    )  # fmt: skip
    return KnownDensity(data.log_density, origin)


def measure(
    subject: Subject,
    data: Data,
    measurements: Sequence[Measurement],
    *,
    seed: int,
    report: Report = silent,
    note: Note | None = None,
    beside: Path | None = None,
) -> tuple[list[ResultRow], Examples]:
    """The rows of a subject, and the examples they were computed from.

    Arguments:
        measurements: Of one checkpoint.
        seed: Base of what metrics draw.
        beside: A folder for what metrics make besides numbers: values of single examples, pictures. It is written
            before anybody can write the rows, so that rows are never without their values.
    """
    metrics = build_metrics({measurement.name: measurement.node for measurement in measurements})
    examples = Examples(subject, data, seed=seed, report=report, note=note)
    with seeded(derive_seed(seed, "evaluate")):
        estimates = evaluate(examples, metrics)
        for one in measurements:
            if beside is not None and estimates[one.name][0].status is Status.OK:
                _keep(metrics[one.name], one, examples, beside)
    return rows_of(estimates, measurements, subject.origin, data.spec, data.split), examples


def _keep(metric: Metric, measurement: Measurement, examples: Examples, folder: Path) -> None:
    items = metric.items(examples)
    if items is not None:
        write_items(items_path(folder, measurement.checkpoint, measurement.key), items.numpy())
    try:
        found = metric.picture(examples)
        if found is not None:
            name, picture = found
            png = io.BytesIO()
            picture.save(png, format="PNG")
            split = examples.data.split  # a picture of somebody's reference stands beside that of the test split
            name += f"-{measurement.checkpoint}" + (f"-{split}" if split != "test" else "")
            name += f"-seed{measurement.sampling_seed}" if measurement.sampling_seed != 0 else ""
            durable_write(folder / f"{name}.png", png.getvalue())
    except Exception:  # the numbers count without it
        log.exception("no picture of %s", measurement.name)


def measure_density(subject: KnownDensity, data: Data, measurements: Sequence[Measurement]) -> list[ResultRow]:
    """The rows that are made of log-weights. A density is not sampled, so all others are left out."""
    of_density = [replace(measurement, checkpoint=subject.origin.checkpoint) for measurement in measurements]
    rows, _ = measure(subject, data, of_density, seed=0)
    return [row for row in rows if row.status is Status.OK and row.n_draws is not None]


def save_picture(subject: TrainedModel, examples: Examples, n: int, path: Path) -> None:
    """Save n samples and, of data in the plane, the density, as ``<path>.npz`` and ``<path>.png``.

    A model that cannot make any keeps its other numbers.
    """
    try:
        with seeded(derive_seed(subject.seed, "evaluate", "picture")):
            samples, density = examples.samples(n), _landscape(subject, examples.data)
        origin, spec, constraint = subject.origin, examples.spec, examples.data.valid
        draw_samples(
            samples, spec.levels, path, density, real=_some(examples.data), columns=spec.columns,
            graph=spec.graph, conflicts=spec.kind == Kind.COLOURINGS,
            title=f"{origin.model} on {spec.name}, seed {origin.seed}, {origin.checkpoint}",
            categories=spec.kind is Kind.CATEGORIES, valid=None if constraint is None else constraint(samples),
        )  # fmt: skip
    except Exception:  # whatever a model or the disk trips over; metrics that need samples have said so in their rows
        log.exception("no picture")


def _some(data: Data) -> torch.Tensor:
    """Real examples for pictures, the same for every run: the test split may be sorted by class."""
    n = min(len(data.test), GRID * GRID if data.spec.is_image else POINTS)
    generator = torch.Generator().manual_seed(derive_seed(0, "pictures"))
    return data.test.x[torch.randperm(len(data.test), generator=generator)[:n]]


def _landscape(subject: TrainedModel, data: Data) -> Landscape | None:
    """The plane's density under the model and under the truth, which samples alone show poorly."""
    model = subject.model
    if data.spec.shape != (2,) or data.spec.levels is not None:
        return None
    if not isinstance(model, HasLikelihood):
        return landscape(data.test.x, None, data.log_density)
    generator = torch.Generator(device=model.device)
    generator.manual_seed(derive_seed(subject.seed, "evaluate", "landscape"))
    with torch.no_grad():
        return landscape(
            data.test.x, lambda x: model.log_weight(x.to(model.device), generator=generator), data.log_density
        )


def _origin(spec: RunSpec, model: GenerativeModel, checkpoint: str, progress: Progress) -> Origin:
    commit, dirty = git_state()
    libraries = versions()
    if progress.commit not in ("", commit):
        libraries += f", evaluated at commit {commit[:10]}"
    hardware = spec.hardware
    # Evaluation is on the CPU where there is no CUDA: an Apple GPU has no float64.
    device = device_name(hardware.accelerator if torch.cuda.is_available() else "cpu", hardware.devices)
    if progress.device not in ("", device):  # its times are not those of a run on either alone
        device = f"{progress.device}, evaluated on {device}"
    if progress.halved:
        device += ", batches in two halves for want of memory"
    return Origin(
        run_id=spec.run_id, training_key=spec.training_key, group=spec.group, model=spec.choices["model"],
        model_family=model.family, checkpoint=checkpoint, seed=spec.seed, n_params=model.n_parameters,
        budget="one pass" if isinstance(model, ClosedForm) else spec.schedule.budget,
        examples_seen=progress.best_examples if checkpoint == "best" else progress.examples_seen,
        train_seconds=progress.train_seconds, git_commit=progress.commit or commit,
        dirty=True if progress.dirty else dirty, device=device, precision=hardware.precision, versions=libraries,
        config=spec.flat,
    )  # fmt: skip
