"""What is searched by ``genbench tune``: overrides in Hydra's grammar of sweeps, as ranges of parameters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from bench.config.grammar import check_sweeps, parsed
from bench.errors import UserError

__all__ = ["Parameter", "Value", "space_of"]

Value = int | float | str
"""Of a parameter: a number of a range, or the text of a choice as an override has it."""

_SEARCHED = re.compile(r"(model|train)(\.\w+)+")


@dataclass(frozen=True)
class Parameter:
    """A key that is searched, and the values it may take.

    Attributes:
        key: Dotted, as on the command line.
        text: The override.
        choices: Texts of its values; empty for a range.
        low, high: Both ends of a range of whole or real numbers belong to it.
        step: Between two values of a range; None for real numbers without one.
        log: Whether the logarithm is what is searched evenly.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: int | float = 0
    high: int | float = 0
    step: int | float | None = None
    log: bool = False

    @property
    def first(self) -> Value:
        return self.choices[0] if self.choices else self.low

    def has(self, value: object) -> bool:
        """Whether a value can be one of this parameter's."""
        if self.choices:
            return value in self.choices
        kinds = (int,) if isinstance(self.low, int) else (int, float)
        if not (isinstance(value, int | float) and type(value) in kinds and self.low <= value <= self.high):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8


def space_of(overrides: Sequence[str]) -> tuple[list[str], list[Parameter]]:
    """The overrides that give one value each, and the parameters of the others.

    ``KEY=a,b`` and ``choice(a,b)`` are choices, ``range(0,10,2)`` is what it is elsewhere, ``interval(0,1)`` holds all
    real numbers between two, ``int(interval(1,8))`` all whole ones, ends included, and ``tag(log,interval(1e-4,1e-2))``
    searches the logarithm.

    Raises:
        UserError: An override cannot be read or searched, or none is searched.
    """
    fixed, space = [], []
    for text in overrides:
        made = parsed(text)
        if made.is_sweep_override():
            space.append(_parameter(text, made))
        else:
            fixed.append(text)
    if not space:
        raise UserError(
            "tune: nothing to search; give a key of the model or of training several values, as in "
            '"model.learning_rate=tag(log,interval(1e-4,1e-2))" or train.batch_size=32,64'
        )
    twice = next((one.key for one in space if sum(one.key == other.key for other in space) > 1), None)
    if twice is not None:
        raise UserError(f"tune: {twice} is searched twice; leave one out")
    return fixed, space


def _parameter(text: str, made: Override) -> Parameter:
    key, value = made.get_key_element(), made.value()
    if not _SEARCHED.fullmatch(key):
        raise UserError(
            f"{text}: only keys of the model and of training are searched, model.KEY and train.KEY, because scores of "
            "other models, data and seeds are not compared; give one value, or sweep it with `genbench run -m`"
        )
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        low, high, log = value.start, value.end, "log" in value.tags
        if not (low < high and abs(low) < 1e300 and abs(high) < 1e300):
            raise UserError(f"{text}: the first number must be less than the second, and both finite")
        if log and low <= 0:
            raise UserError(f"{text}: a logarithm needs numbers greater than 0")
        return Parameter(key, text, low=low, high=high, log=log, step=1 if isinstance(low, int) else None)
    if isinstance(value, Glob):
        raise UserError(f"{text}: glob() is for names of files; list the values")
    check_sweeps([text], multirun=True)
    if isinstance(value, RangeSweep) and not value.shuffle and value.step > 0:
        numbers = list(value.range())
        return Parameter(key, text, low=numbers[0], high=numbers[-1], step=value.step)
    assert isinstance(value, ChoiceSweep | RangeSweep)
    return Parameter(key, text, choices=tuple(dict.fromkeys(made.sweep_string_iterator())))
