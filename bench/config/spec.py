"""What a run is, parsed once: how it is trained, what is measured, and the two keys that tell runs and numbers apart.

The **training key** is a hash of everything that training depends on: model, data, schedule, hardware, seed. It names
the run's folder and, without the seed, the line of a table. The **measuring key** is a hash of everything a number
depends on besides: the metric with its settings (number of samples n, draws K, features, version) and the checkpoint. A
metric added later has a new measuring key and the old training key, so that it is measured and nothing is trained.

Imports no torch: whether a run is finished must be known at once.
"""

import hashlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.launching import DEFAULTS, Launching
from bench.config.limits import check_sizes
from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.titles import is_title

__all__ = [
    "CHECKPOINTS",
    "Evaluation",
    "Hardware",
    "Measurement",
    "Node",
    "RunSpec",
    "Schedule",
    "called",
    "digest",
    "fingerprint",
    "typed",
]

Node = Mapping[str, Any]
"""A part of a configuration, resolved and plain: what JSON can hold."""

CHECKPOINTS = ("best", "final")
KEYS = ("name", "seed", "rerun", "data", "model", "metric", "train", "trainer", "evaluate", "logger", "probe", "trust",
        "runs_dir", "results_dir", "choices")  # fmt: skip
_SINCE: Mapping[str, Any] = {"probe": {}}
"""Keys that older configurations lack, and what stands for them."""

_CHOICE = re.compile(r"[\w-][\w.-]{0,80}(/[\w-][\w.-]{0,80})*")
_MOST_FILES = 5_000_000  # in a folder of data: a stranger's configuration may name the root of all folders
_LONGEST_NAME = 200  # bytes; file systems allow 255, and endings are added
_T = TypeVar("_T")


@dataclass(frozen=True)
class Schedule:
    """How long and how a model is trained (group ``train`` in the configuration).

    A field that stands at its default is not part of the training key. So a field that is added here later, with a
    default that means what was done before, leaves every finished run finished; and no default may change its meaning.

    Attributes:
        examples: Budget: training examples seen, over all processes. None: only ``seconds`` counts.
        seconds: Budget of wall-clock training time (validation and checkpoints not counted), or None.
        batch_size: Examples in one step, over all processes.
        validate_every: Examples between two validations; a checkpoint is written after each.
        patience: Stop after this many validations without a better score, or None.
        clip_norm: Largest norm of the gradient, or None.
        ema_decay: Decay of the moving average of the weights that is evaluated instead of the weights, or None.

    Raises:
        UserError: A number is out of range, or there is no budget.
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
        whole = " or ".join(parts + ([] if self.seconds is None else [f"{self.seconds:g} s"]))
        return whole if self.patience is None else f"{whole}, patience {self.patience}"


@dataclass(frozen=True)
class Hardware:
    """Where a model is trained (group ``trainer``): one CPU, one GPU, or several processes with DDP.

    Like ``Schedule``'s, a field at its default is not part of the training key.

    Attributes:
        checkpoint_activations: Spend about one more forward pass a step to keep a flow's activations out of memory.
            Gradients are the same. Models without chains of transforms have nothing to checkpoint.
        capture: Replay training steps from a CUDA graph: ``auto``, on one CUDA device where a recorded step agrees
            with an eager one; ``on``, or else end with an error; ``off``, never, and neither samples nor draws of
            log-weights are replayed.

    Raises:
        UserError: There is less than one device, or ``capture`` is none of the three.
    """

    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    checkpoint_activations: bool = False
    capture: str = "auto"

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UserError(f"trainer.devices={self.devices}: must be at least 1")
        # YAML reads on and off as true and false.
        object.__setattr__(self, "capture", {"true": "on", "false": "off"}.get(self.capture.lower(), self.capture))
        if self.capture not in ("auto", "on", "off"):
            raise UserError(f"trainer.capture={self.capture}: must be auto, on or off")


@dataclass(frozen=True)
class Evaluation:
    """On how much is measured (group ``evaluate``). Metrics take their n and K from here unless they have their own.

    Attributes:
        n_samples: Samples drawn from the model for every sample metric.
        n_draws: Draws K per test example of a bounded or estimated likelihood.
        checkpoints: Which weights are evaluated: ``best`` on validation, ``final``, or both.
        sampling_seeds: Seeds of the model's samples and of what metrics draw; everything is measured under each. 0
            means that they derive from the run's own seed. Every other one is the same stream for all runs, so that
            training seeds and sampling seeds are crossed.

    Raises:
        UserError: A number is out of range, a checkpoint is not one of the two, or a sampling seed is given twice.
    """

    n_samples: int = 1000
    n_draws: int = 16
    checkpoints: list[str] = field(default_factory=lambda: ["best"])
    sampling_seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        if self.n_samples < 2 or self.n_draws < 1:
            raise UserError("evaluate: n_samples must be at least 2 and n_draws at least 1")
        named = set(self.checkpoints)
        if not named or not named <= set(CHECKPOINTS) or len(named) < len(self.checkpoints):
            raise UserError(f"evaluate.checkpoints={self.checkpoints}: must be [best], [final] or [best,final]")
        seeds = self.sampling_seeds
        if not seeds or min(seeds) < 0 or max(seeds) >= 2**63 or len(set(seeds)) < len(seeds):
            raise UserError(f"evaluate.sampling_seeds={seeds}: different whole numbers from 0 up, as in [1,2,3,4]")


@dataclass(frozen=True)
class Measurement:
    """One metric, with all its settings, on one checkpoint.

    Attributes:
        name: Of the metric in the configuration (``metric.NAME``).
        node: Its configuration.
        checkpoint: ``best`` or ``final``; ``given`` for samples of others.
        data: The data's configuration where it is measured on other data than the subject was trained on, else None.
        sampling_seed: As in ``Evaluation``.
    """

    name: str
    node: Node
    checkpoint: str
    data: Node | None = None
    sampling_seed: int = 0

    @cached_property
    def key(self) -> str:
        """The measuring key, 16 hexadecimal digits. The metric's name in the configuration is no part of it."""
        settings = {key: value for key, value in self.node.items() if key != "_convert_"}
        settings.setdefault("version", 1)
        other: dict[str, Any] = {} if self.data is None else {"data": self.data}
        features = self.node.get("features")
        if isinstance(features, Mapping) and features.get("weights") is not None:  # the file may change
            other["weights"] = fingerprint(features["weights"])
        more = self.node.get("data")
        if isinstance(more, Mapping) and more.get("path") is not None:
            other["more data"] = fingerprint(more["path"])
        if self.sampling_seed != 0:
            other["sampling_seed"] = self.sampling_seed
        return digest({"metric": settings, "checkpoint": self.checkpoint, **other})


@dataclass(frozen=True)
class RunSpec:
    """One run of ``genbench run``: what is trained, what is measured, and where it goes.

    Attributes:
        choices: The names under which ``model`` and ``data`` were chosen.
        model, data, logger: Configurations with a ``_target_``; ``logger`` may be None.
        metrics, probes: The same by name.
        config: The whole configuration as it is stored beside the checkpoints.
        launching: How it is launched, which is not stored.
    """

    name: str
    seed: int
    rerun: bool
    choices: Node
    model: Node
    data: Node
    metrics: Mapping[str, Node]
    probes: Mapping[str, Node]
    logger: Node | None
    schedule: Schedule
    hardware: Hardware
    evaluation: Evaluation
    trust: tuple[str, ...]
    runs_dir: Path
    results_dir: Path
    config: Node
    launching: Launching = field(default_factory=Launching)

    @classmethod
    def parse(cls, config: Node) -> "RunSpec":
        """A specification from a resolved and plain configuration. Nothing that it names is imported.

        Raises:
            UserError: A key is unknown or missing, or holds what it may not; names the key.
        """
        if isinstance(config, Mapping):
            launching = Launching.parse(config)
            config = {key: value for key, value in {**_SINCE, **config}.items() if key not in DEFAULTS}
        check_sizes(config)
        _check_keys(config)
        _check_kinds(config)
        return cls(
            name=config["name"], seed=config["seed"], rerun=config["rerun"], choices=config["choices"],
            model=config["model"], data=config["data"], metrics=config["metric"], probes=config["probe"],
            logger=config["logger"],
            schedule=typed(Schedule, config["train"], "train"), hardware=typed(Hardware, config["trainer"], "trainer"),
            evaluation=typed(Evaluation, config["evaluate"], "evaluate"), trust=tuple(config["trust"]),
            runs_dir=Path(config["runs_dir"]), results_dir=Path(config["results_dir"]), config=config,
            launching=launching,
        )  # fmt: skip

    @cached_property
    def training_key(self) -> str:
        """Hash of all that training depends on, 16 hexadecimal digits."""
        return digest({**self._trained(), "seed": self.seed})

    @cached_property
    def group(self) -> str:
        """The training key without the seed: runs of one group may be averaged over seeds."""
        return digest(self._trained())

    @cached_property
    def flat(self) -> str:
        """What the group is a hash of, for the rows: a JSON object whose keys are dotted, as on the command line.

        Rows are published, so paths of this machine stay out.
        """
        whole = _flattened({**self._trained(), "train": asdict(self.schedule), "trainer": asdict(self.hardware)})
        public = {key: value for key, value in whole.items() if not str(value).startswith(("/", "~"))}
        return json.dumps(public, sort_keys=True, ensure_ascii=False)

    def _trained(self) -> dict[str, Any]:
        return {
            "model": self.model, "data": self.data, "train": _changed(self.schedule), "trainer": _changed(self.hardware)
        }  # fmt: skip

    @property
    def run_id(self) -> str:
        """``mnist5k-vae-s0-1a2b3c4d``: data set or title, model, seed, and the beginning of the training key."""
        model = self.choices["model"].replace("/", "-")
        return f"{called(self.data, self.choices)}-{model}-s{self.seed}-{self.training_key[:8]}"

    @property
    def folder(self) -> Path:
        """Where the run lives: ``runs_dir/name/run_id``."""
        return self.runs_dir / self.name / self.run_id

    @property
    def passes(self) -> list[tuple[str, int]]:
        """What is measured together, on the same samples: a checkpoint and a sampling seed."""
        return list(itertools.product(self.evaluation.checkpoints, self.evaluation.sampling_seeds))

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every metric on every checkpoint under every sampling seed, in the order of the configuration; of equal ones
        the first."""
        asked = [
            Measurement(name, node, checkpoint, sampling_seed=sampling_seed)
            for checkpoint, sampling_seed in self.passes
            for name, node in self.metrics.items()
        ]
        first: dict[str, Measurement] = {}
        for measurement in asked:
            first.setdefault(measurement.key, measurement)
        return tuple(first.values())


def _flattened(node: Node, prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def digest(content: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``content`` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(path: object) -> str:
    """Names, sizes and times of the files at a path, hashed; empty where there is no path, or nothing at it.

    It differs where the files' content differs, unless somebody sets their times back. Nothing is read.
    """
    if not isinstance(path, str):
        return ""
    try:
        place = Path(path).expanduser()
        files = sorted(itertools.islice(place.rglob("*"), _MOST_FILES)) if place.is_dir() else [place]
        found = [(str(file.relative_to(place)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except (OSError, ValueError, RuntimeError):  # a text that is no path: too long, a zero byte, ~ of nobody
        return ""
    return digest(found)


def called(data: Node, choices: Node) -> str:
    """What folders and tables call the data: the title of a data set of the user's own, else the name it was chosen by.

    A title that could be a path is not used: a stranger's checkpoint may hold any text.
    """
    title = data.get("title")
    # A file in a subfolder of a group has a name with slashes; a run has one folder.
    return str(title if is_title(title) else choices.get("data", "")).replace("/", "-")


def typed(schema: type[_T], node: Node, path: str) -> _T:
    """A dataclass from a configuration node.

    Raises:
        UserError: A key is unknown or its value has the wrong type; names it.
    """
    known = list(inspect.signature(schema).parameters)
    for key in node:
        if key not in known:
            raise UserError(f"{path}.{key}: no such key{nearest(key, known)}; the keys are {', '.join(known)}")
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(node)))
    except OmegaConfBaseException as error:
        key = f"{path}.{error.full_key or ''}"
        value = node.get(error.full_key or "")
        whole = f"; write {key}={int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise UserError(f"{key}: {str(error.msg).splitlines()[0]}{whole}") from error
    assert isinstance(made, schema)
    return made


def _changed(settings: Schedule | Hardware) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    plain = type(settings)()
    return {name: value for name, value in asdict(settings).items() if value != getattr(plain, name)}


def _check_keys(config: Node) -> None:
    if not isinstance(config, Mapping):
        raise UserError("a run's configuration has keys and values")
    unknown = [key for key in config if key not in KEYS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such key{nearest(unknown[0], KEYS)}; the keys are {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in config]
    if missing == ["metric"]:
        raise UserError("metric: none is chosen; name at least one, as in metric=[likelihood]")
    if missing:
        raise UserError(f"{missing[0]}: is missing from the configuration; `genbench run --cfg job` shows it")


def _check_kinds(config: Node) -> None:
    """Check what no dataclass or target checks. A checkpoint's configuration may hold anything."""
    seed, trust = config["seed"], config["trust"]
    if type(seed) is not int or abs(seed) >= 2**63:
        raise UserError(f"seed={seed!r}: a whole number of at most 63 bits is expected")
    if not isinstance(trust, list) or not all(isinstance(package, str) for package in trust):
        raise UserError(f"trust={trust!r}: a list of packages is expected, trust=[PACKAGE]")
    if not isinstance(config["rerun"], bool):
        raise UserError(f"rerun={config['rerun']!r}: true or false is expected")
    check_name("name", config["name"])
    for key in ("runs_dir", "results_dir"):
        if not isinstance(config[key], str):
            raise UserError(f"{key}={config[key]!r}: the path of a folder is expected")
    for key in ("data", "model", "metric", "probe", "train", "trainer", "evaluate", "choices"):
        if not isinstance(config[key], dict):
            raise UserError(f"{key}={config[key]!r}: keys and values are expected, as in conf/{key}")
    chosen = [config["choices"].get(group) for group in ("data", "model")]
    if not all(isinstance(name, str) and _CHOICE.fullmatch(name) for name in chosen):
        raise UserError("choices: names the data set and the model, as `genbench list` does")
    built = {"data": config["data"], "model": config["model"], "logger": config["logger"]}
    built |= {f"{group}.{name}": node for group in ("metric", "probe") for name, node in config[group].items()}
    for path, node in built.items():
        if not (path == "logger" and node is None) and not (isinstance(node, dict) and "_target_" in node):
            raise UserError(f"{path}={node!r}: keys and values with a _target_ are expected")


def check_name(key: str, name: object) -> None:
    """Refuse what cannot be the name of one folder.

    Raises:
        UserError: Names the key.
    """
    if isinstance(name, str) and len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise UserError(f"{key}={name[:20]}...: a name of at most {_LONGEST_NAME} bytes is expected")
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise UserError(f"{key}={name!r}: the name of a folder is expected, without a path; that goes to runs_dir")
