"""One ``fit`` for every model, over the Lightning Trainer.

The Trainer brings devices, precision and distribution. What a comparison needs on top is one callback: a budget in
examples or seconds, the same for all models; validation on a schedule counted in examples; the best and the last
weights; a stop at the first NaN; and a resume that continues to the same bits.
"""

import io
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from bench.checkpoint import DurableCheckpointIO, load_checkpoint, save_checkpoint
from bench.data.base import Data
from bench.data.loader import Batches
from bench.errors import DivergedError, UserError
from bench.provenance import device_name, git_state
from bench.rng import rng_state, seeded, set_rng_state
from bench.seeds import derive_seed
from bench.training.ema import EMA
from models.base import ClosedForm, GenerativeModel
from models.transforms.base import checkpoint_activations

__all__ = ["Hardware", "Progress", "Schedule", "TrainingReport", "fit", "load_model_weights"]

log = logging.getLogger("genbench")

LAST, BEST, FINAL = "last.ckpt", "best.ckpt", "final.ckpt"


class TrainingReport(Protocol):
    """Whoever wants to hear how training goes: a progress bar, a log file."""

    def step(self, progress: "Progress", loss: Tensor, schedule: "Schedule") -> None: ...
    def validated(self, progress: "Progress", score: float) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How long and how a model is trained (group ``train`` in the configuration).

    Attributes:
        examples: Budget: training examples seen, over all processes. None: only ``seconds`` counts.
        seconds: Budget of wall-clock training time (validation and checkpoints not counted), or None.
        batch_size: Examples in one step, over all processes.
        validate_every: Examples between two validations; a checkpoint is written after each.
        patience: Stop after this many validations without a better score, or None.
        clip_norm: Largest norm of the gradient, or None.
        ema_decay: Decay of the moving average of the weights that is evaluated instead of the weights, or None.
    """

    examples: int | None = 60_000
    seconds: float | None = None
    batch_size: int = 64
    validate_every: int = 10_000
    patience: int | None = None
    clip_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if self.examples is None and self.seconds is None:
            raise UserError("train.examples and train.seconds are both null; give one, say train.examples=60000")
        for name in ("examples", "seconds", "batch_size", "validate_every", "patience", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"train.{name}={value}: must be greater than 0 and finite")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"train.ema_decay={self.ema_decay}: must lie between 0 and 1")

    @property
    def budget(self) -> str:
        """In words, for the rows."""
        parts = [] if self.examples is None else [f"{self.examples} examples"]
        return " or ".join(parts + ([] if self.seconds is None else [f"{self.seconds:g} s"]))


@dataclass(frozen=True)
class Hardware:
    """Where a model is trained (group ``trainer``): one CPU, one GPU, or several processes with DDP.

    Attributes:
        checkpoint_activations: Spend about one more forward pass a step to keep a flow's activations out of memory.
            Gradients are the same. Models without chains of transforms have nothing to checkpoint.
    """

    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UserError(f"trainer.devices={self.devices}: must be at least 1")


@dataclass
class Progress:
    """Where training stands. Part of every checkpoint."""

    steps: int = 0
    examples_seen: int = 0
    train_seconds: float = 0.0
    best_score: float | None = None
    best_examples: int = 0
    validations_since_best: int = 0
    finished: str = ""  # why training ended; empty while it goes on
    device: str = ""  # what it was trained on
    data_revision: str = ""  # what of
    commit: str = ""  # by what code
    dirty: bool | None = None  # whether that differed from the commit, or changed on the way
    history: list[list[float]] = field(default_factory=list)  # [examples_seen, validation score]

    def made_with(self, hardware: Hardware, data: Data) -> None:
        """Note what training goes on with from here. No commit stands for code that changed on the way."""
        commit, dirty = git_state()
        changed = self.commit not in ("", commit)
        self.commit, self.dirty = commit, True if changed or self.dirty else dirty
        self.device = device_name(hardware.accelerator, hardware.devices)
        self.data_revision = data.spec.revision


def fit(
    model: GenerativeModel,
    data: Data,
    schedule: Schedule,
    hardware: Hardware,
    *,
    seed: int,
    folder: Path,
    config: dict[str, Any],
    validate: Callable[[GenerativeModel], float] | None = None,
    report: TrainingReport | None = None,
    logger: Logger | None = None,
) -> Progress:
    """Train ``model`` to the end of its budget, or go on where ``folder``'s last checkpoint stands.

    Leaves ``final.ckpt`` and ``best.ckpt`` in ``folder``: the weights to evaluate (averaged ones with EMA), the
    configuration and the progress. While training, ``last.ckpt`` holds everything that is needed to go on.

    Arguments:
        model: Fresh from its constructor. Changed in place.
        validate: Score of a model on the validation split, lower is better, or None where nothing is to be selected.
            It must be deterministic, for a resumed run to select the same checkpoint.
        seed: Base of every stream of random numbers in training.
        config: Plain configuration, stored in the checkpoints.

    Errors:
        DivergedError: a loss, weight or score became NaN or infinite. ``best.ckpt`` and ``last.ckpt`` are the last
            good ones.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint stands.
    """
    if isinstance(model, ClosedForm):
        return _fit_closed_form(model, data, hardware, folder, config, validate)
    if schedule.batch_size % hardware.devices or schedule.batch_size > len(data.train):
        raise UserError(
            f"train.batch_size={schedule.batch_size}: must be a multiple of trainer.devices={hardware.devices}"
            f" and at most the {len(data.train)} training examples of {data.spec.name}"
        )
    last = folder / LAST
    resume = last if last.exists() else None
    supervisor = _Supervisor(schedule, seed, folder, config, validate, report)
    if resume is not None:
        stored = load_checkpoint(resume)["callbacks"][supervisor.state_key]
        begun_on = stored["progress"].get("data_revision", "")
        if begun_on not in ("", data.spec.revision):
            log.warning(
                "%s has changed (revision %s, now %s): training starts again", data.spec.name, begun_on[:10],
                data.spec.revision[:10],
            )  # fmt: skip
            resume = None
        else:
            supervisor.restore(stored)
    if supervisor.progress.finished:  # killed after training, before the end of its evaluation
        return supervisor.progress
    supervisor.progress.made_with(hardware, data)
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
    if hardware.checkpoint_activations:
        checkpoint_activations(model)
    if hardware.compile:
        supervisor.to_compile = list(model.children())
    try:
        with _quiet_lightning(), seeded(derive_seed(seed, "train")):
            trainer.fit(model, train_dataloaders=batches, ckpt_path=resume, weights_only=True)
    except SystemExit as stopped:
        # Lightning turns Ctrl-C into exit code 1; callers should see what it was.
        raise KeyboardInterrupt from stopped
    return supervisor.progress


def load_model_weights(model: GenerativeModel, path: Path) -> tuple[dict[str, Any], Progress]:
    """Load ``best.ckpt`` or ``final.ckpt`` into a fresh model; return the configuration and progress stored with it."""
    payload = load_checkpoint(path)
    try:
        model.load_state_dict(payload["state_dict"])
        return json.loads(payload["config"]), Progress(**payload["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"checkpoint {path}: does not fit this model ({reason})") from error


class _Supervisor(Callback):
    """The budget, the schedule, the checkpoints and the stop at the first NaN.

    One callback with one hook per step: every further one costs about as much as a small model's forward pass.
    """

    def __init__(
        self,
        schedule: Schedule,
        seed: int,
        folder: Path,
        config: dict[str, Any],
        validate: Callable[[GenerativeModel], float] | None,
        report: TrainingReport | None,
    ) -> None:
        self.schedule = schedule
        self.seed = seed
        self.folder = folder
        self.config = config
        self.validate = validate
        self.report = report
        self.progress = Progress()
        self.total_steps = None if schedule.examples is None else -(-schedule.examples // schedule.batch_size)
        self.interval = max(1, schedule.validate_every // schedule.batch_size)
        # After the first step, in which layers that set themselves from data do so eagerly.
        self.to_compile: list[nn.Module] = []
        self._restored: dict[str, Any] | None = None
        self._ema: EMA | None = None
        self._generator = torch.Generator()
        self._loss_sum: Tensor | None = None
        self._outputs: dict[str, Any] = {}
        self._clock = 0.0

    # Where training stands.

    def state_dict(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "rng": _of_all_processes({"global": rng_state(), "train": self._generator.get_state()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._restored = state
        self.progress = Progress(**state["progress"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        model = _generative(module)
        self._generator = torch.Generator(device=module.device)
        self._generator.manual_seed(derive_seed(self.seed, "train", trainer.global_rank))
        model.train_generator = self._generator
        model.clip_norm = self.schedule.clip_norm
        if self.schedule.ema_decay is not None:
            self._ema = EMA(model.averaged(), trainer.optimizers, self.schedule.ema_decay)
        if self._restored is not None:
            rng = self._restored["rng"][trainer.global_rank]
            set_rng_state(rng["global"])
            self._generator.set_state(rng["train"])
            if self._ema is not None:
                self._ema.load_state_dict(self._restored["ema"])
        for seen, score in self.progress.history:  # a CSV file of curves starts again with every process
            _log_curve(trainer, {"validation_score": score}, int(seen))
        self._clock = time.perf_counter()

    # One step.

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        progress = self.progress
        progress.steps += 1
        progress.examples_seen += self.schedule.batch_size
        if not outputs or "loss" not in outputs:
            raise ValueError("training_step returned no loss: it must return a tensor, or a dictionary with 'loss'")
        loss = outputs["loss"].detach()
        self._outputs = outputs
        while self.to_compile:
            self.to_compile.pop().compile()
        # A sum keeps every NaN and infinity, so that a GPU need not be waited for at every step.
        self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
        spent = progress.steps == self.total_steps
        if loss.device.type == "cpu" or spent or progress.steps % 50 == 0:
            if not math.isfinite(self._loss_sum):
                raise DivergedError(progress.examples_seen, "the loss")
            self._loss_sum = None
        now = time.perf_counter()
        progress.train_seconds += now - self._clock
        self._clock = now
        if self.report is not None:
            self.report.step(progress, loss, self.schedule)
        if self.schedule.seconds is not None:
            late = progress.train_seconds >= self.schedule.seconds
            spent = spent or trainer.strategy.reduce_boolean_decision(late, all=False)
        if spent or progress.steps % self.interval == 0:
            self._end_of_interval(trainer, _generative(module), "budget spent" if spent else "")
            self._clock = time.perf_counter()

    def _end_of_interval(self, trainer: Trainer, model: GenerativeModel, finished: str) -> None:
        progress, patience = self.progress, self.schedule.patience
        _check_finite(model, progress.examples_seen)
        with self._evaluated_weights():
            score = self._score(trainer, model)
            _log_curve(trainer, {**self._outputs, "validation_score": score}, progress.examples_seen)
            if progress.best_score is None or score is None or score < progress.best_score:
                progress.best_score, progress.best_examples = score, progress.examples_seen
                progress.validations_since_best = 0
                self._export(trainer, model, BEST)
            else:
                progress.validations_since_best += 1
            if patience is not None and progress.validations_since_best >= patience:
                finished = finished or f"no better score in {patience} validations"
            progress.finished = finished
            if finished:
                self._export(trainer, model, FINAL)
        trainer.save_checkpoint(self.folder / LAST)
        trainer.should_stop = bool(finished)

    def _score(self, trainer: Trainer, model: GenerativeModel) -> float | None:
        if self.validate is None:
            return None
        score = _validate(self.validate, model) if trainer.is_global_zero else 0.0
        score = float(trainer.strategy.broadcast(score))
        if not math.isfinite(score):
            raise DivergedError(self.progress.examples_seen, "the validation score")
        self.progress.history.append([self.progress.examples_seen, score])
        if self.report is not None:
            self.report.validated(self.progress, score)
        return score

    def _export(self, trainer: Trainer, model: GenerativeModel, name: str) -> None:
        if trainer.is_global_zero:
            _export(model, self.folder / name, self.config, self.progress)

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ema is None else self._ema.swapped_in()


def _log_curve(trainer: Trainer, values: dict[str, Any], examples_seen: int) -> None:
    """Single numbers to the tracker, if there is one, over the examples seen."""
    if trainer.logger is not None:
        single = {name: float(value) for name, value in values.items() if value is not None and _is_number(value)}
        try:
            trainer.logger.log_metrics(single, step=examples_seen)
        except Exception:  # whatever a tracker trips over, the run is worth more
            log.exception("the tracker failed; training goes on")


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)


def _fit_closed_form(
    model: GenerativeModel,
    data: Data,
    hardware: Hardware,
    folder: Path,
    config: dict[str, Any],
    validate: Callable[[GenerativeModel], float] | None,
) -> Progress:
    """One pass over the training set; nothing to resume and nothing to select."""
    assert isinstance(model, ClosedForm)
    start = time.perf_counter()
    model.fit(data.train.x.split(1024))
    seconds = time.perf_counter() - start
    progress = Progress(examples_seen=len(data.train), train_seconds=seconds, finished="closed form")
    progress.made_with(hardware, data)
    _check_finite(model, progress.examples_seen)
    progress.best_examples = progress.examples_seen
    progress.best_score = None if validate is None else _validate(validate, model)
    for name in (BEST, FINAL):
        _export(model, folder / name, config, progress)
    return progress


def _validate(validate: Callable[[GenerativeModel], float], model: GenerativeModel) -> float:
    # Compiled code is specialised to training batches; validation has other shapes.
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        score = validate(model)
    model.train(was_training)
    return score


def _export(model: GenerativeModel, path: Path, config: dict[str, Any], progress: Progress) -> None:
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_checkpoint(path, {"state_dict": state, "config": json.dumps(config), "progress": asdict(progress)})


@torch.no_grad()
def _check_finite(model: nn.Module, examples_seen: int) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergedError(examples_seen, f"the parameter {name}")


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every process has its own random numbers; the one that writes the checkpoint needs them all."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [state]
    # As bytes of our own: gathering tensors as objects goes through a format that torch 2.13 cannot read back.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, buffer.getvalue())
    return [torch.load(io.BytesIO(part), weights_only=True) for part in gathered]


def _generative(module: LightningModule) -> GenerativeModel:
    assert isinstance(module, GenerativeModel)
    return module


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's hints and its advice about settings that are chosen here on purpose."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
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
        # Two optimizers alternate in a GAN, so a step leaves some gradients unused; and broadcasting buffers between
        # the forward passes of one step breaks batch normalization's backward pass.
        strategy = DDPStrategy(find_unused_parameters=not model.automatic_optimization, broadcast_buffers=False)
    try:
        return Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy=strategy,
            precision=hardware.precision,  # type: ignore[arg-type]
            max_epochs=1,  # one pass over a loader that ends with the budget
            gradient_clip_val=schedule.clip_norm if model.automatic_optimization else None,
            callbacks=[supervisor],
            plugins=[DurableCheckpointIO()],
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
