"""Measure more: on runs and checkpoints that are there, or on samples of others. Nothing is trained."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.checkpoint import stored_config
from bench.config.build import build_data, build_metrics, check_arguments
from bench.config.spec import KEYS, Evaluation, Measurement, Node, RunSpec, check_name, typed
from bench.config.trust import check_targets, look_here_too
from bench.data.base import Data
from bench.errors import UserError
from bench.evaluation.given import given_samples
from bench.evaluation.measure import measure
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.run import logged, measure_checkpoint, no_tf32
from bench.schema import ResultRow
from bench.training.console import Reporter

__all__ = ["Asked", "Target", "evaluate_run", "evaluate_samples", "on_samples", "target_of"]

log = logging.getLogger("genbench")

_LARGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class Target:
    """A run whose checkpoints are to be measured.

    Attributes:
        path: Its folder; of a checkpoint that lies somewhere alone, None.
        checkpoint: The one that was named, or None: those that are asked for.
        config: What it was trained with.
    """

    path: Path | None
    checkpoint: Path | None
    config: Node


@dataclass(frozen=True)
class Asked:
    """What is asked of every target.

    Attributes:
        compose: Makes the configuration of ``evaluate`` from the defaults of a target.
        data: Keys of the data's configuration to change, by name.
    """

    compose: Callable[[list[str]], dict[str, Any]]
    metrics_named: bool
    checkpoints_named: bool
    data: Mapping[str, Any]


def target_of(path: Path) -> Target | None:
    """The run at a path: a run's folder, a checkpoint in one, or a checkpoint alone. None where there is none.

    Raises:
        UserError: The file is no checkpoint, or the folder's configuration cannot be read.
    """
    if path.is_dir():
        folder = RunFolder(path)
        return Target(path, None, _config(folder.config)) if folder.config.is_file() else None
    if not path.is_file() and path.suffix != ".ckpt":
        return None
    config = stored_config(path)  # of the file itself: the folder beside it may be of another run
    folder = RunFolder(path.parent)
    at_home = folder.config.is_file() and path == folder.checkpoint(path.stem) and _config(folder.config) == config
    return Target(path.parent if at_home else None, path, config)


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise UserError(f"{path}: is larger than any run's configuration")
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no run's configuration ({str(error)[:100]})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no run's configuration")
    return config


def evaluate_run(target: Target, asked: Asked) -> tuple[list[ResultRow], RunSpec, Path]:
    """Measure what is asked and not measured yet on a run's checkpoints.

    Returns:
        The rows asked for, measured now or before; the run; and its folder.

    Raises:
        UserError: The run cannot be measured here: names what is wrong.
    """
    spec, composed = _spec(target, asked)
    path = target.path or spec.folder
    folder = RunFolder(path)
    check_arguments({**spec.config, "data": {**spec.data, **asked.data}})
    look_here_too(spec.trust)
    no_tf32()
    measurements = spec.measurements
    with folder.locked(), logged(folder), Reporter(spec.run_id, log) as say:
        outcome = folder.outcome(spec.run_id) if folder.ended else None
        identity = _identity(folder, spec)
        data = build_data({**spec.data, **asked.data})
        elsewhere = data.spec.revision != _trained_on(folder, spec) if asked.data else False
        if elsewhere:
            others = {**spec.data, **asked.data}
            measurements = tuple(dataclasses.replace(one, data=others) for one in measurements)
        known = set() if composed["rerun"] else folder.measured(identity["training_key"])
        folder.reopen()
        try:
            for checkpoint in spec.evaluation.checkpoints:
                missing = [one for one in measurements if one.checkpoint == checkpoint and one.key not in known]
                if missing:
                    file = target.checkpoint or folder.checkpoint(checkpoint)
                    made = measure_checkpoint(spec, data, file, missing, say, None)
                    folder.add_rows([_adopted(row, spec, identity) for row in made])
        finally:  # the marker says how training ended, and vouches for the rows there are
            if outcome is not None or target.path is None:
                folder.end(outcome or Outcome(spec.run_id, Ended.OK, "measured elsewhere than it was trained"))
    return folder.rows_of(measurements, identity["training_key"]), spec, path


def _spec(target: Target, asked: Asked) -> tuple[RunSpec, dict[str, Any]]:
    """The run as it was trained, with what is measured now."""
    stored = {key: value for key, value in target.config.items() if key in KEYS}  # what a later version adds is left
    # Only what is certainly a name or a number becomes an override: a stranger's file may hold any text.
    evaluate, metrics = (stored[key] if isinstance(stored.get(key), dict) else {} for key in ("evaluate", "metric"))
    names = [name for name in metrics if re.fullmatch(r"\w+", name)]
    defaults = [
        f"evaluate.{key}={value}" for key, value in evaluate.items() if type(value) is int and key.isidentifier()
    ]
    defaults += [] if asked.metrics_named or not names else [f"metric=[{','.join(names)}]"]
    composed = asked.compose(defaults)
    settings = dict(composed["evaluate"])
    if target.checkpoint is not None:
        settings["checkpoints"] = [target.checkpoint.stem if target.checkpoint.stem in ("best", "final") else "best"]
    elif not asked.checkpoints_named and "checkpoints" in evaluate:
        settings["checkpoints"] = evaluate["checkpoints"]
    changed = {"metric": composed.get("metric", {}), "evaluate": settings, "trust": composed["trust"], "rerun": False}
    later = {"probe": {}, "logger": None, "runs_dir": composed["runs_dir"], "results_dir": composed["results_dir"]}
    spec = RunSpec.parse({**later, **stored, **changed, "runs_dir": composed["runs_dir"]})
    check_targets(spec.config)
    return spec, composed


def _identity(folder: RunFolder, spec: RunSpec) -> dict[str, str]:
    """What the run's rows call it. A run of an earlier version keeps its name, so that it stays one line of a table."""
    for row in folder.read_rows():
        if (row.model, row.seed) == (spec.choices["model"], spec.seed) and row.model_family != "data":
            return {"run_id": row.run_id, "training_key": row.training_key, "group": row.group}
    return {"run_id": spec.run_id, "training_key": spec.training_key, "group": spec.group}


def _adopted(row: ResultRow, spec: RunSpec, identity: Mapping[str, str]) -> ResultRow:
    if row.training_key != spec.training_key:
        return row
    return dataclasses.replace(
        row, run_id=identity["run_id"], training_key=identity["training_key"], group=identity["group"]
    )


def _trained_on(folder: RunFolder, spec: RunSpec) -> str:
    """The revision of the data that the run was trained on, as far as it is known."""
    if folder.data_revision:
        return folder.data_revision
    return next((row.data_revision for row in folder.read_rows() if row.model == spec.choices["model"]), "")


def on_samples(config: Node) -> tuple[Measurement, ...]:
    """What is to be measured on samples of others, after a look at everything that the configuration names.

    Arguments:
        config: Composed from conf/evaluate.yaml.

    Raises:
        UserError: No metric is chosen, or something cannot be built; names it.
    """
    if not config.get("metric"):
        raise UserError("metric: none is chosen; name at least one, as in metric=[fid]")
    check_targets({key: config.get(key) for key in ("data", "metric", "trust")})
    check_arguments(config)
    build_metrics(config["metric"])
    return tuple(Measurement(name, node, "given") for name, node in config["metric"].items())


def evaluate_samples(
    config: Node, read: Callable[[Data], tuple[Tensor, str]], label: str
) -> tuple[list[ResultRow], Path]:
    """Measure samples of others; their rows are kept in a folder of their own under runs/.

    Arguments:
        config: Composed from conf/evaluate.yaml.
        read: Gives the samples and their hash, for data that say what they must be.
        label: What tables call them.

    Returns:
        The rows asked for, and the folder.

    Raises:
        UserError: The configuration or the samples are wrong.
    """
    check_name("label", label)
    if not isinstance(config.get("data"), dict):
        raise UserError("samples: name the data that they are samples of, as in data=mnist5k")
    check_name("name", config["name"])
    measurements = on_samples(config)
    evaluation = typed(Evaluation, config["evaluate"], "evaluate")
    data = build_data(config["data"])
    x, sha256 = read(data)
    subject = given_samples(x, sha256, label, config["data"], config["choices"]["data"], config["seed"])
    folder = RunFolder(Path(config["runs_dir"]) / config["name"] / subject.origin.run_id)
    with folder.locked(), logged(folder), Reporter(subject.origin.run_id, log) as say:
        known = set() if config["rerun"] else folder.measured(subject.origin.training_key)
        missing = [one for one in measurements if one.key not in known]
        if missing:
            if len(x) > evaluation.n_samples:
                say.note(f"{evaluation.n_samples} of {len(x)} samples are measured, taken at random; "
                         f"evaluate.n_samples={len(x)} measures all")  # fmt: skip
            rows, _ = measure(subject, data, missing, seed=config["seed"], report=say.evaluating, note=say.note)
            folder.add_rows(rows)
        folder.end(Outcome(subject.origin.run_id, Ended.OK, "samples of others"))
    return folder.rows_of(measurements, subject.origin.training_key), folder.path
