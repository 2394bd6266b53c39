"""A Lightning callback with the budget, validation, checkpoints and resumption of a run.

The budget counts examples or seconds, the same for all models. Validation is scheduled by examples. The best and the
last weights are kept. Training stops at the first NaN or infinity. A resumed run gives bit-identical results.
"""

import io
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from bench.checkpoint import Progress, export
from bench.config.spec import Schedule
from bench.errors import DivergedError, UserError
from bench.memory import forget_peak, peak_memory
from bench.probe import Probe
from bench.rng import rng_state, seeded, set_rng_state
from bench.seeds import derive_seed
from bench.training.diagnostics import evaluating, untouched
from bench.training.ema import EMA
from bench.training.fused import fuse
from models.base import GenerativeModel

__all__ = ["BEST", "FINAL", "LAST", "Score", "Supervisor", "check_finite", "scored"]

log = logging.getLogger("genbench")

LAST, BEST, FINAL = "last.ckpt", "best.ckpt", "final.ckpt"

Score = Callable[[GenerativeModel], float]
"""A function that scores a model on the validation split; lower is better.

It is deterministic, so that a resumed run selects the same checkpoint.
"""


class Supervisor(Callback):
    """Enforces the budget and the schedule, writes checkpoints, and stops at the first NaN.

    It is a single callback with one hook per step, because each further callback costs about as much as the forward
    pass of a small model.
    """

    def __init__(
        self,
        schedule: Schedule,
        seed: int,
        folder: Path,
        config: Mapping[str, Any],
        validate: Score | None,
        probes: Sequence[Probe] = (),
    ) -> None:
        self.schedule = schedule
        self.seed = seed
        self.folder = folder
        self.config = config
        self.validate = validate
        self.probes = tuple(probes)
        self.progress = Progress()
        self.total_steps = None if schedule.examples is None else -(-schedule.examples // schedule.batch_size)
        self.interval = max(1, schedule.validate_every // schedule.batch_size)
        # Compiled after the first step, in which layers that initialize themselves from data run eagerly.
        self.to_compile: list[nn.Module] = []
        self.capturable = False  # steps may be replayed from a graph, in which no Python runs
        self._restored: dict[str, Any] | None = None
        self._ema: EMA | None = None
        self._generator = torch.Generator()
        self._loss_sum: Tensor | None = None
        self._outputs: dict[str, Any] = {}
        self._clock = 0.0
        self._cpu = 0.0

    # State of training

    @property
    def state_key(self) -> str:
        return "supervisor"  # fixed, because the class's name may change

    def state_dict(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "rng": _of_all_processes({"global": rng_state(), "train": self._generator.get_state()}),
        }

    @property
    def generator(self) -> torch.Generator:
        """The random numbers of training on this process."""
        return self._generator

    @property
    def averages(self) -> list[Tensor]:
        """What a step changes of the moving average of the weights."""
        return [] if self._ema is None else self._ema.tensors

    def restore(self, state: dict[str, Any]) -> None:
        self._restored = state
        self.progress = Progress.of(state["progress"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        model = _generative(module)
        self._generator = torch.Generator(device=module.device)
        self._generator.manual_seed(derive_seed(self.seed, "train", trainer.global_rank))
        model.train_generator = self._generator
        model.clip_norm = self.schedule.clip_norm
        if module.device.type == "cpu":
            fuse(trainer.optimizers)
        if self.schedule.ema_decay is not None:
            self._ema = EMA(model.averaged(), trainer.optimizers, self.schedule.ema_decay, capturable=self.capturable)
        if self._restored is not None:
            rng = self._restored["rng"][trainer.global_rank]
            set_rng_state(rng["global"])
            try:
                self._generator.set_state(rng["train"])
            except RuntimeError as error:  # of another size
                before = self._restored["progress"].get("device") or "another device"
                raise UserError(
                    f"{self.folder / LAST}: was trained on {before}, whose random numbers {module.device.type} cannot"
                    " go on with; go on there, or start again with rerun=true"
                ) from error
            if self._ema is not None:
                self._ema.load_state_dict(self._restored["ema"])
        for seen, score in self.progress.history:  # every process starts a new CSV file of curves
            _log_curve(trainer, {"validation_score": score}, int(seen))
        forget_peak(module.device)
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def note_peak(self, peak: int | None) -> None:
        """Keep the largest number of bytes that training steps took; None: they were not counted."""
        if peak is not None:
            self.progress.peak_memory = max(peak, self.progress.peak_memory or 0)

    # One step

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:  # Lightning counts anew in a resumed run; it changes learning rates by this count
            trainer.fit_loop.epoch_loop.batch_progress.current.ready = self.progress.steps + 1

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
        # A sum keeps every NaN and infinity, so we need not wait for the GPU at every step. Before a validation we do:
        # the steps that are still under way belong to the time of training.
        self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
        spent = progress.steps == self.total_steps
        if loss.device.type == "cpu" or spent or progress.steps % 50 == 0 or progress.steps % self.interval == 0:
            if not math.isfinite(self._loss_sum):
                raise DivergedError(progress.examples_seen, "the loss")
            self._loss_sum = None
        now, cpu = time.perf_counter(), time.process_time()
        progress.train_seconds += now - self._clock
        if progress.cpu_seconds is not None:
            progress.cpu_seconds += cpu - self._cpu
        self._clock, self._cpu = now, cpu
        for probe in self.probes:
            probe.step(_generative(module), progress, outputs)
        if self.schedule.seconds is not None:
            late = progress.train_seconds >= self.schedule.seconds
            spent = spent or trainer.strategy.reduce_boolean_decision(late, all=False)
        if spent or progress.steps % self.interval == 0:
            self._end_of_interval(trainer, _generative(module), "budget spent" if spent else "")
            self._clock, self._cpu = time.perf_counter(), time.process_time()

    def _end_of_interval(self, trainer: Trainer, model: GenerativeModel, finished: str) -> None:
        progress, patience = self.progress, self.schedule.patience
        self.note_peak(peak_memory(model.device))
        check_finite(model, progress.examples_seen)
        with self._evaluated_weights():
            score = self._score(trainer, model)
            probed = self._probed(model, score)
            _log_curve(trainer, {**self._outputs, **probed, "validation_score": score}, progress.examples_seen)
            if progress.best_score is None or score is None or score < progress.best_score:
                progress.best_score, progress.best_examples = score, progress.examples_seen
                progress.best_seconds = progress.train_seconds
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
        forget_peak(model.device)  # that of validation is not one of training
        trainer.should_stop = bool(finished)

    def _score(self, trainer: Trainer, model: GenerativeModel) -> float | None:
        if self.validate is None:
            return None
        score = scored(self.validate, model) if trainer.is_global_zero else 0.0
        score = float(trainer.strategy.broadcast(score))
        if not math.isfinite(score):
            raise DivergedError(self.progress.examples_seen, "the validation score")
        self.progress.history.append([self.progress.examples_seen, score])
        return score

    def _probed(self, model: GenerativeModel, score: float | None) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if self.probes:
            with seeded(derive_seed(self.seed, "probe")), untouched(model), torch.compiler.set_stance("force_eager"):
                for probe in self.probes:
                    numbers |= probe.validated(model, self.progress, score)
        return numbers

    def _export(self, trainer: Trainer, model: GenerativeModel, name: str) -> None:
        if trainer.is_global_zero:
            export(model, self.folder / name, self.config, self.progress)

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ema is None else self._ema.swapped_in()


def _log_curve(trainer: Trainer, values: dict[str, Any], examples_seen: int) -> None:
    """Log the scalar values to the tracker, if there is one, at this number of examples."""
    if trainer.logger is not None:
        single = {name: float(value) for name, value in values.items() if value is not None and _is_number(value)}
        try:
            trainer.logger.log_metrics(single, step=examples_seen)
        except Exception:  # an error in a tracker must not end the run
            log.exception("the tracker failed; training goes on")


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)


def scored(validate: Score, model: GenerativeModel) -> float:
    """Return the validation score of a model. The model is in evaluation mode for this and restored afterwards."""
    # Run eagerly, because compiled code is specialised to training batches and validation has other shapes.
    with evaluating(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return validate(model)


@torch.no_grad()
def check_finite(model: nn.Module, examples_seen: int) -> None:
    """Check that all parameters are finite.

    Raises:
        DivergedError: A parameter is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergedError(examples_seen, f"the parameter {name}")


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Gather the random number states of all processes, for the process that writes the checkpoint."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [state]
    # Gather bytes, because torch 2.13 cannot read back the format in which it gathers tensors as objects.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, buffer.getvalue())
    return [torch.load(io.BytesIO(part), weights_only=True) for part in gathered]


def _generative(module: LightningModule) -> GenerativeModel:
    assert isinstance(module, GenerativeModel)
    return module
