"""How the runs of a command are launched: how many at a time, for how long, and by which engine.

Nothing of this changes what a run computes, so it is part of no key, and no run stores it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["DEFAULTS", "ENGINES", "Launching"]

DEFAULTS: Mapping[str, Any] = {"jobs": None, "jobs_per_gpu": 1, "timeout": None, "launcher": {"engine": "local"}}
"""The keys of a configuration that say how it is launched, and what stands for them where they are missing."""

ENGINES: Mapping[str, Mapping[str, type]] = {
    "local": {},
    "joblib": {},
    "submitit_local": {},
    "slurm": {"partition": str, "account": str, "qos": str, "minutes": int, "memory_gb": int, "cpus_per_job": int,
              "gpus_per_job": int},
    "ray": {"address": str, "cpus_per_job": int, "gpus_per_job": float},
}  # fmt: skip
"""The engines, and the keys that each takes."""

_WORD = re.compile(r"[\w.,:/@+-]{1,200}")  # Slurm reads it in a script


@dataclass(frozen=True)
class Launching:
    """How the runs of a command are launched.

    Attributes:
        jobs: Runs at the same time, each in a process of its own. 0: one after another in this process. None: 1 for a
            sweep of the command ``genbench``, 0 for a single run and in notebooks.
        jobs_per_gpu: How many of them may share a GPU.
        timeout: Seconds after which a run is ended, or None.
        engine: One of ``ENGINES``.
        settings: Of the engine.
    """

    jobs: int | None = None
    jobs_per_gpu: int = 1
    timeout: float | None = None
    engine: str = "local"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Launching":
        """Read the keys of ``DEFAULTS`` from a configuration.

        Raises:
            UserError: A key is unknown or holds what it may not; names the key.
        """
        node = {key: config.get(key, value) for key, value in DEFAULTS.items()}
        jobs, per_gpu, timeout, launcher = (node[key] for key in ("jobs", "jobs_per_gpu", "timeout", "launcher"))
        if jobs is not None and (type(jobs) is not int or not 0 <= jobs <= 1024):
            raise UserError(f"jobs={_shown(jobs)}: a whole number from 0 to 1024 is expected, as in jobs=2")
        if type(per_gpu) is not int or per_gpu < 1:
            raise UserError(f"jobs_per_gpu={_shown(per_gpu)}: a whole number from 1 is expected")
        if timeout is not None and (type(timeout) not in (int, float) or not 0 < timeout < 1e9):
            raise UserError(f"timeout={_shown(timeout)}: seconds greater than 0 are expected, as in timeout=3600")
        if not isinstance(launcher, Mapping):
            raise UserError(f"launcher={_shown(launcher)}: a name is expected, as in launcher=slurm")
        engine = launcher.get("engine", "local")
        settings = {key: value for key, value in launcher.items() if key != "engine"}
        if not isinstance(engine, str) or engine not in ENGINES:
            raise UserError(
                f"launcher.engine={_shown(engine)}: the engines are {', '.join(ENGINES)}; write launcher=NAME"
            )
        for key, value in settings.items():
            _check_setting(engine, key, value)
        return cls(jobs, per_gpu, timeout, engine, settings)


def _check_setting(engine: str, key: str, value: object) -> None:
    known = ENGINES[engine]
    if key not in known:
        raise UserError(f"launcher.{key}: no such key of launcher={engine}{nearest(key, list(known))}")
    if value is None:
        return
    kind = known[key]
    if kind is str and not (isinstance(value, str | int) and _WORD.fullmatch(str(value))):
        raise UserError(f"launcher.{key}={_shown(value)}: a name is expected")
    if kind is not str and (type(value) not in (int, kind) or not 0 <= value < 1e6):  # type: ignore[operator]
        raise UserError(f"launcher.{key}={_shown(value)}: a number is expected")


def _shown(value: object) -> str:
    """A value in an error; of a number with thousands of digits Python makes no text."""
    return "(a large number)" if isinstance(value, int) and value.bit_length() > 100 else repr(value)[:80]
