"""Train any model with the Lightning Trainer, which handles devices, precision and distribution."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from bench.checkpoint import Progress, export
from bench.config.spec import Hardware, Schedule
from bench.cuda_graphs import recorder_for
from bench.data.base import Data
from bench.data.loader import Batches
from bench.errors import UserError
from bench.probe import Probe
from bench.processes import place
from bench.provenance import device_name
from bench.rng import seeded
from bench.seeds import derive_seed
from bench.training.captured import CapturedSteps
from bench.training.checkpoint import DurableCheckpointIO
from bench.training.cluster import OwnProcesses
from bench.training.halves import take_halves
from bench.training.resume import resumable
from bench.training.supervisor import BEST, FINAL, LAST, Score, Supervisor, check_finite, scored
from models.base import ClosedForm, CountsTraining, GenerativeModel
from models.transforms.base import checkpoint_activations

__all__ = ["fit"]

log = logging.getLogger("genbench")


def fit(
    model: GenerativeModel,
    data: Data,
    schedule: Schedule,
    hardware: Hardware,
    *,
    seed: int,
    folder: Path,
    config: Mapping[str, Any],
    validate: Score | None = None,
    probes: Sequence[Probe] = (),
    logger: Logger | None = None,
    say: Callable[[str], None] = log.warning,
    halved: bool = False,
) -> Progress:
    """Train ``model`` to the end of its budget and return its progress. Resumes from ``last.ckpt`` in ``folder``.

    Writes ``final.ckpt`` and ``best.ckpt`` to ``folder``: the weights to evaluate (averaged if EMA is on), the
    configuration and the progress. During training ``last.ckpt`` holds everything needed to resume.

    Arguments:
        model: A newly constructed model. It is changed in place.
        data: The data set; models are trained on its train split.
        schedule: Budget, batch size, validation interval and other settings of training.
        hardware: Accelerator, devices, strategy and precision.
        seed: Base seed of all random numbers in training.
        folder: Folder of the checkpoints.
        config: Plain configuration, stored in the checkpoints.
        validate: Score of a model on the validation split, or None to select no checkpoint.
        probes: Called at every step and every validation.
        logger: Lightning logger for the training curves, or None.
        say: Called with one line if training cannot go on from ``last.ckpt``, and so starts again.
        halved: Take each batch in two halves (``bench.training.halves``), as ``last.ckpt`` may ask for, too.

    Raises:
        UserError: The batch size does not fit, the trainer cannot be made, or steps must be captured and cannot be.
        DivergedError: A loss, weight or score became NaN or infinite. ``best.ckpt`` and ``last.ckpt`` hold the last
            finite state.
        KeyboardInterrupt: The user pressed Ctrl-C. The last checkpoint is kept.
    """
    if isinstance(model, ClosedForm):
        return _fit_closed_form(model, data, hardware, folder, config, validate)
    if schedule.batch_size % hardware.devices or schedule.batch_size > len(data.train):
        raise UserError(
            f"train.batch_size={schedule.batch_size}: must be a multiple of trainer.devices={hardware.devices}"
            f" and at most the {len(data.train)} training examples of {data.spec.name}"
        )
    if schedule.clip_norm is not None and hardware.precision == "16-mixed" and not model.automatic_optimization:
        # It clips between its backward pass and its optimizer's step, in which Lightning divides by the scale.
        raise UserError(
            "train.clip_norm: would clip scaled gradients of this model in half precision; write"
            " trainer.precision=bf16-mixed"
        )
    supervisor = Supervisor(schedule, seed, folder, config, validate, probes)
    stored = resumable(folder / LAST, model, supervisor.state_key, schedule.ema_decay is not None, say)
    resume = None if stored is None else folder / LAST
    if stored is not None:
        begun_on = stored["progress"].get("data_revision", "")
        if begun_on not in ("", data.spec.revision):
            log.warning(
                "%s has changed (revision %s, now %s): training starts again", data.spec.name, begun_on[:10],
                data.spec.revision[:10],
            )  # fmt: skip
            resume = None
        else:
            supervisor.restore(stored)
    supervisor.progress.halved = supervisor.progress.halved or halved
    if supervisor.progress.finished:  # the run was killed after training, during its evaluation
        return supervisor.progress
    supervisor.progress.made_with(device_name(hardware.accelerator, hardware.devices), data.spec.revision)
    if isinstance(model, CountsTraining):  # a checkpoint that training goes on from holds the same counts
        model.count(data.train.x.split(1024))
    with _quiet_lightning():
        trainer = _trainer(schedule, hardware, model, folder, logger, supervisor)
    batches = Batches(
        data.train,
        schedule.batch_size // hardware.devices,
        derive_seed(seed, "loader"),
        device=trainer.strategy.root_device,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        first_step=supervisor.progress.steps,
        last_step=supervisor.total_steps,
    )
    if supervisor.progress.halved:
        take_halves(model, trainer)
    if hardware.checkpoint_activations:
        checkpoint_activations(model)
    if hardware.compile:
        supervisor.to_compile = list(model.children())
    if resume is not None:  # Lightning loads weights before it makes them float64, and would round them
        trainer.precision_plugin.convert_module(model)
    _capture(hardware, trainer, supervisor, batches)
    try:
        with _quiet_lightning(), seeded(derive_seed(seed, "train")):
            trainer.fit(model, train_dataloaders=batches, ckpt_path=resume, weights_only=True)
    except SystemExit as stopped:
        # Lightning turns Ctrl-C into SystemExit; turn it back for the caller.
        raise KeyboardInterrupt from stopped
    return supervisor.progress


def _capture(hardware: Hardware, trainer: Trainer, supervisor: Supervisor, batches: Batches) -> None:
    """Let steps be replayed from a graph, if that is wanted and the device can.

    Raises:
        UserError: It is required and the device cannot.
    """
    alone = hardware.devices == 1 and not hardware.compile
    graphs = recorder_for(trainer.strategy.root_device) if hardware.capture != "off" and alone else None
    required = hardware.capture == "on"
    if graphs is not None:
        supervisor.capturable = True
        trainer.callbacks.append(CapturedSteps(supervisor, batches, graphs, required=required))  # type: ignore[attr-defined]
    elif required:
        raise UserError("trainer.capture=on needs one CUDA device and trainer.compile=false; auto trains without")


def _fit_closed_form(
    model: GenerativeModel,
    data: Data,
    hardware: Hardware,
    folder: Path,
    config: Mapping[str, Any],
    validate: Score | None,
) -> Progress:
    """Fit a closed-form model in one pass over the training set. There is nothing to resume or to select."""
    assert isinstance(model, ClosedForm)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(data.train.x.split(1024))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    progress = Progress(
        examples_seen=len(data.train), train_seconds=seconds, cpu_seconds=cpu, best_seconds=seconds,
        finished="closed form",
    )  # fmt: skip
    progress.made_with(device_name(hardware.accelerator, hardware.devices), data.spec.revision)
    check_finite(model, progress.examples_seen)
    progress.best_examples = progress.examples_seen
    progress.best_score = None if validate is None else scored(validate, model)
    for name in (BEST, FINAL):
        export(model, folder / name, config, progress)
    return progress


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's hints and its warnings about settings that we choose on purpose."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        # Of 1x1 convolutions with channels last; the strides that differ are those of axes of length 1.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _trainer(
    schedule: Schedule,
    hardware: Hardware,
    model: GenerativeModel,
    folder: Path,
    logger: Logger | None,
    supervisor: Callback,
) -> Trainer:
    strategy: str | Strategy = hardware.strategy
    if strategy == "ddp":
        # In a GAN two optimizers alternate, so each step leaves some gradients unused. Broadcasting buffers between the
        # forward passes of one step would break the backward pass of batch normalization.
        strategy = DDPStrategy(find_unused_parameters=not model.automatic_optimization, broadcast_buffers=False)
    try:
        return Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy=strategy,
            precision=hardware.precision,  # type: ignore[arg-type]
            max_epochs=1,  # the loader ends with the budget, after any number of passes over the data
            gradient_clip_val=schedule.clip_norm if model.automatic_optimization else None,
            callbacks=[supervisor],
            plugins=[DurableCheckpointIO(), OwnProcesses(place())],
            logger=False if logger is None else logger,
            default_root_dir=folder,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"trainer: {reason} (trainer=cpu works everywhere)") from error
