"""Training steps replayed from a CUDA graph: forward, loss, backward, clipping, optimizer and averaging in one launch.

A step of a small model is hundreds of kernels, and launching them takes most of its time on a GPU. Recorded once and
replayed, they take the time that they need to run. The recorded step is Lightning's own; the supervisor counts it,
validates and stops as after any other step.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from bench.cuda_graphs import CudaGraphs, Uncapturable, why_not
from bench.data.loader import Batches
from bench.errors import UserError
from bench.memory import allocated, forget_peak, peak_memory
from bench.training.state import State, differs
from bench.training.supervisor import Supervisor
from models.base import Batch, GenerativeModel

__all__ = ["CapturedSteps"]

log = logging.getLogger("genbench")

REHEARSED = 3
"""Steps that are taken eagerly and replayed, and compared. More than one: what a step counts must count on."""

Outputs = dict[str, Any]
Take = Callable[[], Outputs]


class CapturedSteps(Callback):
    """Takes over from Lightning's loop as soon as a step can be recorded, and ends training in its place.

    Lightning takes the first step, in which layers set themselves from data and optimizers make their state. A resumed
    run has both, and is taken over before its first step, so that it gives the same bits as one that was never
    interrupted. What cannot be recorded, or gives other numbers when replayed, is left to Lightning, unchanged, and
    the log says why.

    A model whose steps differ (``GenerativeModel.kind_of_step``) gets a graph for each kind.

    Arguments:
        supervisor: Counts every step. It comes before this callback.
        batches: Of the training set.
        graphs: Records the steps.
        required: End with an error where steps cannot be replayed.
    """

    def __init__(self, supervisor: Supervisor, batches: Batches, graphs: CudaGraphs, *, required: bool = False) -> None:
        self.supervisor = supervisor
        self.batches = batches
        self.graphs = graphs
        self.required = required
        self._decided = False

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.graphs.prepare(trainer.optimizers, lr_changes=bool(trainer.lr_scheduler_configs))
        self._take_over(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._decided and not trainer.should_stop:
            self._take_over(trainer, module)

    def _take_over(self, trainer: Trainer, model: LightningModule) -> None:
        """Take all steps that are left, if the next one can be recorded."""
        assert isinstance(model, GenerativeModel)
        step = self.supervisor.progress.steps
        known = {model.kind_of_step(number) for number in range(step)}
        kind = model.kind_of_step(step)
        if kind not in known:  # its first step is Lightning's
            return
        self._decided = True
        batch = self.batches.buffers()
        try:
            _check_hooks(trainer, model)
            first = self._recorded(trainer, model, batch, step)
        except Uncapturable as reason:
            if self.required:
                raise UserError(f"trainer.capture=on: {reason}; trainer.capture=auto trains without") from reason
            log.info("training steps are not captured: %s", reason)
            return
        log.info("training steps are replayed from a CUDA graph")
        self._train(trainer, model, batch, known, {kind: first})

    def _train(
        self, trainer: Trainer, model: GenerativeModel, batch: Batch, known: set[int], ways: dict[int, Take]
    ) -> None:
        """Take steps until the supervisor stops.

        Arguments:
            known: Kinds of which a step has been taken.
            ways: For each kind, how its steps are taken. Kinds are added as they come.
        """
        shown: Take | None = None
        with closing(self.batches.into(batch, self.supervisor.progress.steps)) as steps:
            for step in steps:
                kind = model.kind_of_step(step)
                if kind not in ways and kind in known:
                    try:
                        ways[kind] = self._recorded(trainer, model, batch, step)
                    except Uncapturable as reason:
                        log.info("training steps of kind %s are not captured: %s", kind, reason)
                        # A recording that failed may have given the generators a new state, which others do not know.
                        ways = {other: way for other, way in ways.items() if not isinstance(way, _Replayed)}
                        ways[kind] = partial(_eager, trainer, model, batch)
                    shown = None
                    list(_first(1, self.batches.into(batch, step)))  # the comparison has used other batches
                known.add(kind)
                take = ways.get(kind, partial(_eager, trainer, model, batch))
                if isinstance(take, _Replayed):
                    if take is not shown:
                        take.show_gradients()
                    outputs = take()
                else:
                    with _numbered(model, step):
                        outputs = take()
                shown = take
                _change_learning_rates(trainer, step + 1)
                self.supervisor.on_train_batch_end(trainer, model, outputs, batch, step)
                if trainer.should_stop:
                    return

    def _recorded(self, trainer: Trainer, model: GenerativeModel, batch: Batch, step: int) -> "_Replayed":
        """Record the kind of step that comes at number ``step``, and compare it with eager steps.

        Raises:
            Uncapturable: As ``_compared``.
        """
        try:
            return self._compared(trainer, model, batch, step)
        finally:
            forget_peak(model.device)  # copies for the comparison are no part of a step

    def _compared(self, trainer: Trainer, model: GenerativeModel, batch: Batch, step: int) -> "_Replayed":
        """The recording. The state is afterwards what it was before.

        Raises:
            Uncapturable: Says why it cannot be recorded, or in what it differs.
        """
        optimizers, generator = trainer.optimizers, self.supervisor.generator
        state = partial(State, model, optimizers, self.supervisor.averages, generator)
        held = allocated(model.device)
        start = state()
        copied = allocated(model.device) - held
        take = partial(_lightning_step, trainer, model, batch, _Unread())
        try:
            with _numbered(model, step):
                with self.graphs.aside():
                    forget_peak(model.device)
                    take()  # layers that look at their state once do so now
                    peak = peak_memory(model.device)
                    self.supervisor.note_peak(None if peak is None else peak - copied)
                    start.restore()
                    losses = []
                    for _ in _first(REHEARSED, self.batches.into(batch, step)):
                        with self.graphs.strict():
                            losses.append(take()["loss"].clone())
                    eager = state()
                    start.restore()
                for parameter in model.parameters():
                    parameter.grad = None
                replay, outputs = self.graphs.record(take, generator)
                start.restore()
                replayed = _Replayed(replay, outputs, [(p, p.grad) for p in model.parameters()])
                again = [replayed()["loss"] for _ in _first(REHEARSED, self.batches.into(batch, step))]
            for number, (ours, theirs) in enumerate(zip(again, losses, strict=True), 1):
                if abs(float(ours) - float(theirs)) > 1e-4 * abs(float(theirs)) + 1e-6:
                    raise Uncapturable(
                        f"replayed step {number} has loss {float(ours):.8g}, the eager step {float(theirs):.8g}"
                    )
            if what := differs(state(), eager, start):
                raise Uncapturable(f"replayed steps differ from eager steps in {what}")
        except Uncapturable:
            raise
        except Exception as error:
            raise Uncapturable(why_not(error)) from error
        finally:
            start.restore()
        return replayed


@dataclass(frozen=True, eq=False)
class _Replayed:
    """A recorded step."""

    replay: Callable[[], None]
    outputs: Outputs  # filled by every replay
    gradients: list[tuple[nn.Parameter, Tensor | None]]  # the same

    def __call__(self) -> Outputs:
        """Take a step; return copies of its outputs, because the next step is written to the same place."""
        self.replay()
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in self.outputs.items()}

    def show_gradients(self) -> None:
        """Make the parameters show the gradients of this graph. Those that it does not write stay, as they would."""
        for parameter, gradient in self.gradients:
            if gradient is not None:
                parameter.grad = gradient


class _Unread:
    """Stands for the number of the batch, which a recorded step would take for a constant."""

    def _refuse(self, *_: object) -> NoReturn:
        raise Uncapturable("training_step reads batch_idx, which a recorded step cannot follow")

    __bool__ = __int__ = __index__ = __float__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __floordiv__ = __mod__ = _refuse


def _lightning_step(trainer: Trainer, model: GenerativeModel, batch: Batch, batch_idx: Any) -> Outputs:
    """Do what Lightning's loop does with a batch, hooks of the optimizer included; return detached outputs."""
    loop = trainer.fit_loop.epoch_loop
    given = loop._build_kwargs(OrderedDict(), batch, batch_idx)
    if model.automatic_optimization:
        outputs = loop.automatic_optimization.run(trainer.optimizers[0], 0, given)
    else:
        outputs = loop.manual_optimization.run(given)
    if not outputs or "loss" not in outputs:
        raise Uncapturable("training_step returned no loss")
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in outputs.items()}


def _eager(trainer: Trainer, model: GenerativeModel, batch: Batch) -> Outputs:
    return _lightning_step(trainer, model, batch, model.train_step)


def _check_hooks(trainer: Trainer, model: GenerativeModel) -> None:
    """Refuse what happens on the host at every step.

    Raises:
        Uncapturable: Names it.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        # It is not even tried: a step that ends where the scaler reads them would leave it in the middle of one, and
        # the next step would raise.
        raise Uncapturable("with trainer.precision=16-mixed the scale of the loss depends on the gradients")
    for hook in ("on_train_batch_start", "on_train_batch_end"):
        if is_overridden(hook, model):
            raise Uncapturable(f"the model does something of its own at every step, in {hook}")
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau or not model.automatic_optimization:
            raise Uncapturable(f"{type(config.scheduler).__name__} changes the learning rate")


def _change_learning_rates(trainer: Trainer, steps: int) -> None:
    """Step the schedulers of learning rates that go by steps, as Lightning's loop does after every batch."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step" and steps % config.frequency == 0:
            config.scheduler.step()  # type: ignore[call-arg]


@contextmanager
def _numbered(model: GenerativeModel, step: int) -> Iterator[None]:
    """Tell the model the number of the step inside the block."""
    model.train_step = step
    try:
        yield
    finally:
        model.train_step = None


def _first(n: int, steps: Generator[int, None, None]) -> Iterator[int]:
    """The first n elements. The iterator is closed, not left waiting with a thread."""
    try:
        for _ in range(n):
            yield next(steps)
    finally:
        steps.close()
