"""One run: train what is not trained, measure what is not measured, in a folder of its own.

What lies in the folder decides what is left to do: a finished run is not run again, an interrupted one goes on from its
last checkpoint, and of a trained one only the missing numbers are measured.
"""

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bench.checkpoint import Progress, load_checkpoint
from bench.config.build import build_data, build_logger, build_metrics, build_model, build_probes
from bench.config.spec import Measurement, RunSpec
from bench.data.base import Data
from bench.errors import BusyError, DivergedError, UnavailableError, UserError, is_out_of_memory
from bench.evaluation.measure import (
    failed_run,
    known_density,
    measure,
    measure_density,
    rows_of_nothing,
    save_picture,
    trained_model,
)  # fmt: skip
from bench.metrics.collapse import collapse_of
from bench.processes import is_worker, place
from bench.provenance import device_name
from bench.rng import seeded
from bench.runs.controls import measure_controls
from bench.runs.ddp import run_workers
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.log import RunLog
from bench.runs.process import set_up_process
from bench.runs.sweep import Stage
from bench.schema import ResultRow, Status
from bench.seeds import derive_seed, sampling_seed_of
from bench.stopping import is_stopping
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.training.console import Reporter
from bench.training.diagnostics import Diagnostics
from bench.training.fit import fit
from bench.training.halves import why_not_halved
from bench.training.select import validation_score
from bench.training.trackers import Forgiving
from models.base import GenerativeModel

__all__ = ["execute", "logged", "measure_checkpoint", "note_end"]

log = logging.getLogger("genbench")

_NO_CURVES = "it has no curves, because the model is fitted in one pass"


def execute(spec: RunSpec, stage: Stage | None = None) -> Outcome:
    """Do what is left of a run. A failure is a row, a line and an exit code, never an exception.

    Arguments:
        stage: Where the sweep stands that the run belongs to.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the same call goes on.
    """
    folder = RunFolder(spec.folder)
    if not spec.rerun and folder.finished(spec):
        return Outcome(spec.run_id, Ended.OK, before=True)
    try:
        if spec.hardware.devices > 1 and not is_worker():
            with folder.locked(owner=_owner()):  # before there are several who read the folder
                trained = _prepare(spec, folder, lambda: build_data(spec.data))
            if not trained:
                return _with_workers(spec, folder)
        if stage is None:
            reporter = Reporter(spec.run_id, log, spec.schedule)
        else:
            reporter = Reporter(
                stage.words + spec.run_id, log, spec.schedule, own=stage.own, rest=stage.rest, hear=stage.hear
            )
        with folder.locked(follower=_is_follower(), owner=_owner()), logged(folder), reporter as say:
            outcome = _guarded(spec, folder, say)
            say.ended = "failed" if outcome.exit_code else "done"
            if not _is_follower():
                folder.end(outcome)
        return outcome
    except BusyError as error:
        return Outcome(spec.run_id, Ended.BUSY, str(error))
    except UserError as error:  # the folder cannot be written: nothing is left there
        return Outcome(spec.run_id, Ended.REFUSED, str(error))


def note_end(spec: RunSpec, outcome: Outcome, *, with_data: bool = True) -> None:
    """Write rows and a marker for a run that another process left without a word.

    Arguments:
        with_data: Whether to read the data set, from which the rows take what they say of it.

    Raises:
        UserError: Another process is at work there, or the folder cannot be written.
    """
    folder = RunFolder(spec.folder)
    with folder.locked(), logged(folder):
        log.error(outcome.reason)
        _write_failure(spec, folder, outcome.reason, with_data=with_data)
        folder.end(outcome)


def _guarded(spec: RunSpec, folder: RunFolder, say: Reporter) -> Outcome:
    try:
        return _run(spec, folder, say)
    except UserError as error:  # nothing was measured, and the next run of this command may be right: no rows
        log.error(error)
        return Outcome(spec.run_id, Ended.REFUSED, str(error))
    except DivergedError as error:
        ended, reason = Ended.DIVERGED, str(error)
        log.error(reason)
    except Exception as error:
        if is_stopping():  # a library made another error of it
            raise KeyboardInterrupt from error
        ended = Ended.OUT_OF_MEMORY if is_out_of_memory(error) else Ended.FAILED
        what = ended if ended is Ended.OUT_OF_MEMORY else f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = f"{what} (details in {folder.log})"
        log.exception("%s failed", spec.run_id)
    if not _is_follower():
        _write_failure(spec, folder, reason)
    return Outcome(spec.run_id, ended, reason)


def _run(spec: RunSpec, folder: RunFolder, say: Reporter) -> Outcome:
    set_up_process()
    data = build_data(spec.data)
    if not _is_follower():
        for note in data.notes:
            say.warn(note)
    build_metrics(spec.metrics)  # a metric that cannot be made is told before hours of training
    trained = folder.trained(spec) if is_worker() else _prepare(spec, folder, lambda: data)
    why = "measured what was missing" if trained else _train(spec, folder, data, say)
    if _is_follower():
        return Outcome(spec.run_id, Ended.OK)
    if not folder.logged(spec):
        say.tell(_log_history(spec, folder, say))
    rows: list[ResultRow] = []
    missing = folder.missing(spec)
    for checkpoint, sampling_seed in spec.passes:
        asked = [one for one in missing if (one.checkpoint, one.sampling_seed) == (checkpoint, sampling_seed)]
        if asked:
            made, subject, examples = measure_checkpoint(
                spec, data, folder.checkpoint(checkpoint), asked, say, folder.path
            )
            folder.add_rows(made)
            rows += made
            picture, first = folder.samples(checkpoint), sampling_seed == spec.evaluation.sampling_seeds[0]
            if first and (not trained or not picture.with_suffix(".png").exists()):
                save_picture(subject, examples, spec.evaluation.n_samples, picture)
    # Without new rows, too: the command before may have been stopped among the controls.
    measure_controls(data, spec.data, spec.choices["data"], spec.measurements, folder.path.parent, say)
    failures = [f"{row.metric}: {row.reason}" for row in rows if row.status is Status.FAILED]
    if failures:
        reason = f"{len(failures)} metrics failed, first {failures[0]} (details in {folder.log})"
        short_of_memory = any(failure.endswith(f": {Ended.OUT_OF_MEMORY}") for failure in failures)
        return Outcome(spec.run_id, Ended.OUT_OF_MEMORY if short_of_memory else Ended.FAILED, reason)
    return Outcome(spec.run_id, Ended.OK, why)


def _prepare(spec: RunSpec, folder: RunFolder, data: Callable[[], Data]) -> bool:
    """Begin; return whether the model is trained.

    Training begins anew where a run that ended is to be run again, and where its data are others now.
    """
    if folder.ended and spec.rerun:
        folder.train_anew()
    elif folder.trained(spec):
        if data().spec.revision != folder.data_revision:
            folder.train_anew()
        elif not folder.data_seen(spec.data):
            folder.note_data(spec)
    folder.begin(spec)
    return folder.trained(spec)


def _with_workers(spec: RunSpec, folder: RunFolder) -> Outcome:
    """Let a process for each device train and measure. The first one leaves the marker."""
    exit_code, reason = run_workers(folder.config, spec.hardware.devices)
    told = folder.outcome(spec.run_id)
    if told.ended.exit_code == exit_code and folder.ended:
        return told
    ended = Ended.of(exit_code)
    outcome = Outcome(spec.run_id, Ended.FAILED if ended is Ended.OK else ended, reason)
    if outcome.ended is Ended.FAILED and not folder.ended:  # a process was killed, and the first one, too
        with contextlib.suppress(UserError):
            note_end(spec, outcome)
    return outcome


def _train(spec: RunSpec, folder: RunFolder, data: Data, say: Reporter) -> str:
    """Train to the end of the budget; return why it ended. What a GPU is too small for is tried once in halves."""
    if spec.hardware.accelerator == "auto":
        say.note(f"trainer=auto: training on {device_name('auto', spec.hardware.devices)}")
    try:
        progress: Progress | None = _fit(spec, folder, data, say)
    except torch.OutOfMemoryError:
        why = why_not_halved(_new_model(spec, data), data, spec.schedule, spec.hardware)
        if why:
            log.info("not tried again in halves: %s", why)
            raise
        log.info("out of memory", exc_info=True)
        progress = None
    if progress is None:  # here, because the error holds on to what did not fit
        gc.collect()
        torch.cuda.empty_cache()
        say.warn("out of memory; once more with every batch in two halves, whose gradients are added")
        progress = _fit(spec, folder, data, say, halved=True)
    if not _is_follower():
        folder.note_trained(spec, data.spec.revision)
        found = collapse_of([score for _, score in progress.history])
        if found is not None and found.collapsed:
            say.tell(
                "ended much worse than its best (collapsed or overfitted): the final validation score is "
                f"{found.final:.4g}, the best was {found.best:.4g}, at {progress.best_examples} examples; "
                "evaluate.checkpoints=[best,final] measures both"
            )
        if spec.logger is not None and not progress.history:
            say.tell(_NO_CURVES)
    return progress.finished


def _fit(spec: RunSpec, folder: RunFolder, data: Data, say: Reporter, *, halved: bool = False) -> Progress:
    model = _new_model(spec, data)
    title = f"{spec.choices['model']} on {data.spec.name}, seed {spec.seed}"
    probes = dict(zip(spec.probes, build_probes(spec.probes), strict=True))
    with Diagnostics(probes, folder.path, title, writes=not _is_follower()) as diagnostics:
        diagnostics.start(model, data, say.tell, say.note)
        return fit(
            model, data, spec.schedule, spec.hardware, seed=spec.seed, folder=folder.path, config=spec.config,
            validate=validation_score(data, spec.seed, say.note), probes=[say, diagnostics],
            logger=_tracker(spec, folder, say), say=say.warn, halved=halved,
        )  # fmt: skip


def _new_model(spec: RunSpec, data: Data) -> GenerativeModel:
    with seeded(derive_seed(spec.seed, "init")):
        return build_model(spec.model, data.spec)


def _tracker(spec: RunSpec, folder: RunFolder, say: Reporter) -> Forgiving | None:
    """The tracker that the configuration names; its errors end no run."""
    logger = build_logger(spec.logger, str(folder.path))
    return None if logger is None else Forgiving(logger, say.warn)


def _log_history(spec: RunSpec, folder: RunFolder, say: Reporter) -> str:
    """Write the curve of a training that has ended, as its checkpoint holds it; return what was written."""
    history = Progress.of(load_checkpoint(folder.checkpoint("final"))["progress"]).history
    if history:
        logger = _tracker(spec, folder, say)
        assert logger is not None
        for seen, score in history:
            logger.log_metrics({"validation_score": score}, step=int(seen))
        logger.save()
        logger.finalize("success")
    folder.note_logged(spec)
    if not history:
        return _NO_CURVES
    return f"its {len(history)} validation scores are logged now; losses and probes were not kept, rerun=true logs them"


def measure_checkpoint(
    spec: RunSpec, data: Data, path: Path, asked: Sequence[Measurement], say: Reporter, beside: Path
) -> tuple[list[ResultRow], TrainedModel, Examples]:
    """The rows of one checkpoint under one sampling seed; the model and its examples.

    The first rows come with those of the data's own density, where that is known.

    Arguments:
        path: The checkpoint's file; its rows bear the checkpoint that ``asked`` names.
        asked: Of one checkpoint and one sampling seed.
        beside: The folder for values of single examples and for pictures.
    """
    checkpoint, sampling_seed = asked[0].checkpoint, asked[0].sampling_seed
    subject = trained_model(spec, data, checkpoint, path, sampling_seed)
    seed = sampling_seed_of(spec.seed, sampling_seed)
    rows, examples = measure(subject, data, asked, seed=seed, report=say.evaluating, note=say.note, beside=beside)
    density = known_density(spec.choices["data"], asked[0].data or spec.data, data)
    if density is not None and (checkpoint, sampling_seed) == spec.passes[0]:
        rows += measure_density(density, data, asked)
    return rows, subject, examples


def _write_failure(spec: RunSpec, folder: RunFolder, reason: str, *, with_data: bool = True) -> None:
    """Rows that say why there is nothing else. What was measured before on a model that is trained stands."""
    try:
        trained = folder.trained(spec)
        missing = folder.missing(spec) if trained else spec.measurements
        asked = {
            checkpoint: [measurement for measurement in missing if measurement.checkpoint == checkpoint]
            for checkpoint in spec.evaluation.checkpoints
        }
        rows: list[ResultRow] = []
        try:
            if not with_data:
                raise UnavailableError("the data set is not read again")
            data = build_data(spec.data)
            for checkpoint, ones in asked.items():
                rows += measure(failed_run(spec, data, checkpoint, reason), data, ones, seed=spec.seed)[0]
        except Exception:  # the data set or the model cannot be made
            log.info("rows without the data set and the model:", exc_info=True)
            rows = [row for name, ones in asked.items() for row in rows_of_nothing(spec, name, reason, ones)]
        folder.add_rows(rows, alone=not trained)
    except Exception:
        log.exception("no rows for the failure either")


def _is_follower() -> bool:
    """Whether another process of this run writes what there is to write."""
    return place().rank > 0


def _owner() -> int:
    """The process that was started by hand, and that ends the others of this run with it."""
    return os.getppid() if is_worker() else os.getpid()


@contextlib.contextmanager
def logged(folder: RunFolder) -> Iterator[None]:
    """Write what is logged inside the block, from INFO on, to the run's log file.

    Raises:
        UserError: The file may not be written, or is a link.
    """
    handler = RunLog(folder.log)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
