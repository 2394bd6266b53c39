"""Measure more: on runs and checkpoints that are there, or on samples of others. Nothing is trained."""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bench.checkpoint import load_checkpoint, stored_config
from bench.config.build import build_data, build_metrics, check_arguments
from bench.config.limits import LARGEST_FILE, check_sizes
from bench.config.spec import (
    CHECKPOINTS,
    KEYS,
    Evaluation,
    Measurement,
    Node,
    RunSpec,
    called,
    check_name,
    digest,
    typed,
)
from bench.config.trust import check_targets, look_here_too
from bench.data.base import Data
from bench.errors import UserError
from bench.evaluation.given import given_samples
from bench.evaluation.measure import measure
from bench.regular import read_regular
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.run import logged, measure_checkpoint, no_tf32
from bench.schema import ResultRow
from bench.training.console import Reporter

__all__ = ["Asked", "Target", "evaluate_run", "evaluate_samples", "on_samples", "target_of"]

log = logging.getLogger("genbench")


@dataclass(frozen=True)
class Target:
    """A run whose checkpoints are to be measured.

    Attributes:
        path: Its folder; None for a checkpoint that lies somewhere alone.
        checkpoint: The file that was named, or None: those in the folder that are asked for.
        config: What it was trained with.
    """

    path: Path | None
    checkpoint: Path | None
    config: Node

    @property
    def data_path(self) -> str | None:
        """Where its data were read, if that was a path of the user's."""
        data = self.config.get("data")
        path = data.get("path") if isinstance(data, Mapping) else None
        return path if isinstance(path, str) else None


@dataclass(frozen=True)
class Asked:
    """What is asked of every target.

    Attributes:
        compose: Makes the configuration of ``evaluate`` from the defaults of a target.
        keys: The keys that the user gave.
        data: Keys of the data's configuration to change, by name.
    """

    compose: Callable[[list[str]], dict[str, Any]]
    keys: frozenset[str]
    data: Mapping[str, Any]


class Identity(NamedTuple):
    """What rows call a training."""

    run_id: str
    training_key: str
    group: str


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
    config = stored_config(path)  # of the file itself: the folder around it may be of another run
    folder = RunFolder(path.parent)
    at_home = path.name in ("best.ckpt", "final.ckpt") and folder.complete and _config(folder.config) == config
    return Target(path.parent if at_home else None, path, config)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_regular(path, LARGEST_FILE))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no run's configuration ({str(error)[:100]})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no run's configuration")
    return config


def evaluate_run(target: Target, asked: Asked) -> tuple[list[ResultRow], RunSpec, Path]:
    """Measure what is asked and not measured yet on a run's checkpoints.

    Returns:
        The rows asked for, measured now or before; the run; and its folder.

    Raises:
        UserError: The run cannot be measured here, or is not trained to its end: names what is wrong.
    """
    spec, again = _spec(target, asked)
    node = {**spec.data, **asked.data}
    check_arguments({**spec.config, "data": node})
    look_here_too(spec.trust)
    no_tf32()
    if target.path is not None and not RunFolder(target.path).complete:
        raise UserError(
            f"{target.path}: is not trained to its end; `genbench run` goes on, or name one of its .ckpt files"
        )
    identity = _identity(target, spec)
    folder = RunFolder(target.path or spec.runs_dir / spec.name / identity.run_id)
    with folder.locked(), logged(folder), Reporter(identity.run_id, log) as say:
        outcome = folder.outcome(identity.run_id) if folder.ended else None
        data = build_data(node)
        for note in data.notes:
            say.warn(note)
        files = {name: target.checkpoint or folder.checkpoint(name) for name in spec.evaluation.checkpoints}
        measurements = _on_these_data(spec, asked, node, data, next(iter(files.values())))
        known = set() if again else folder.measured(identity.training_key)
        folder.reopen()
        try:
            for checkpoint, sampling_seed in spec.passes:
                missing = [
                    one for one in measurements
                    if (one.checkpoint, one.sampling_seed) == (checkpoint, sampling_seed) and one.key not in known
                ]  # fmt: skip
                if missing:
                    made, _, _ = measure_checkpoint(spec, data, files[checkpoint], missing, say)
                    folder.add_rows([_adopted(row, spec, identity) for row in made])
        finally:  # the marker says how training ended, and vouches for the rows there are
            if outcome is not None or target.path is None:
                folder.end(outcome or Outcome(identity.run_id, Ended.OK, "measured elsewhere than it was trained"))
    return folder.rows_of(measurements, identity.training_key), spec, folder.path


def _on_these_data(spec: RunSpec, asked: Asked, node: Node, data: Data, file: Path) -> tuple[Measurement, ...]:
    """The measurements, with keys of their own where the data are others than the model was trained on.

    Raises:
        UserError: The data are others, and nobody asked for others.
    """
    progress = load_checkpoint(file).get("progress")
    trained_on = progress.get("data_revision", "") if isinstance(progress, dict) else ""
    now = data.spec.revision
    if trained_on in ("", now):
        return spec.measurements
    if not asked.data:
        raise UserError(
            f"{file}: was trained on {data.spec.name} of revision {str(trained_on)[:10]}, which is now {now[:10]}; "
            "`genbench run` trains again, data.path=PATH or another data.KEY=VALUE measures on what is there"
        )
    others = {**node, "revision": now}
    return tuple(dataclasses.replace(measurement, data=others) for measurement in spec.measurements)


def _spec(target: Target, asked: Asked) -> tuple[RunSpec, bool]:
    """The run as it was trained, with what is measured now; and whether that is to be measured again."""
    stored = {key: value for key, value in target.config.items() if key in KEYS}  # what a later version adds is left
    # Only what is certainly a name or a number becomes an override: a stranger's file may hold any text.
    evaluate, metrics = (stored[key] if isinstance(stored.get(key), dict) else {} for key in ("evaluate", "metric"))
    names = [name for name in metrics if re.fullmatch(r"\w+", name)]
    defaults = [
        f"evaluate.{key}={value}" for key, value in evaluate.items() if type(value) is int and key.isidentifier()
    ]
    named = "metric" in asked.keys
    composed = asked.compose(defaults + ([] if named or not names else [f"metric=[{','.join(names)}]"]))
    chosen = composed.get("metric", {})
    settings = dict(composed["evaluate"])
    if target.checkpoint is not None:
        settings["checkpoints"] = [target.checkpoint.stem if target.checkpoint.stem in CHECKPOINTS else "best"]
    elif "evaluate.checkpoints" not in asked.keys and "checkpoints" in evaluate:
        settings["checkpoints"] = evaluate["checkpoints"]
    if "evaluate.sampling_seeds" not in asked.keys and "sampling_seeds" in evaluate:
        settings["sampling_seeds"] = evaluate["sampling_seeds"]
    ours = {key: composed[key] for key in ("trust", "runs_dir", "results_dir")}  # never a stranger's
    measured = {"metric": chosen if named else _as_trained(metrics, chosen, asked.keys), "evaluate": settings}
    spec = RunSpec.parse({"probe": {}, "logger": None, **stored, **ours, **measured, "rerun": False})
    check_targets(spec.config)
    return spec, composed["rerun"]


def _as_trained(stored: Node, composed: Mapping[str, Node], keys: frozenset[str]) -> dict[str, Node]:
    """The composed metrics with the settings that the run's own had, less those that the user gives now."""

    def kept(name: str, node: Node) -> Node:
        before = stored[name] if isinstance(stored.get(name), dict) else {}
        given = {key.rpartition(".")[2] for key in keys if key.startswith((f"metric.{name}.", "evaluate."))}
        return {key: before[key] for key in node if key in before and key not in given | {"_target_", "version"}}

    return {name: {**node, **kept(name, node)} for name, node in composed.items()}


def _identity(target: Target, spec: RunSpec) -> Identity:
    """What the run's rows call it.

    A run of an earlier version keeps its names, so that it stays one line of a table. A checkpoint alone is known by
    its bytes: nothing says that it is the run's of the same configuration.
    """
    if target.path is None:
        assert target.checkpoint is not None
        sha256 = hashlib.sha256(target.checkpoint.read_bytes()).hexdigest()
        key, group = (digest({"of": whole, "checkpoint": sha256}) for whole in (spec.training_key, spec.group))
        return Identity(f"{spec.run_id.rpartition('-')[0]}-{key[:8]}", key, group)
    for row in RunFolder(target.path).read_rows():
        if (row.model, row.seed) == (spec.choices["model"], spec.seed) and row.model_family != "data":
            return Identity(row.run_id, row.training_key, row.group)
    return Identity(spec.run_id, spec.training_key, spec.group)


def _adopted(row: ResultRow, spec: RunSpec, identity: Identity) -> ResultRow:
    if row.training_key != spec.training_key:  # of the data's density
        return row
    return dataclasses.replace(row, run_id=identity.run_id, training_key=identity.training_key, group=identity.group)


def on_samples(config: Node) -> tuple[Measurement, ...]:
    """What is to be measured on samples of others, after a look at everything that the configuration names.

    Arguments:
        config: Composed from conf/evaluate.yaml.

    Raises:
        UserError: No metric is chosen, or something cannot be built; names it.
    """
    if not config.get("metric"):
        raise UserError("metric: none is chosen; name at least one, as in metric=[fid]")
    check_sizes(config)
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
    if evaluation.sampling_seeds != [0]:
        raise UserError("evaluate.sampling_seeds: samples of others cannot be drawn again; seed=1 orders them anew")
    data = build_data(config["data"])
    x, sha256 = read(data)
    subject = given_samples(
        x, sha256, label, data=config["data"], data_name=called(config["data"], config["choices"]),
        revision=data.spec.revision, seed=config["seed"],
    )  # fmt: skip
    folder = RunFolder(Path(config["runs_dir"]) / config["name"] / subject.origin.run_id)
    with folder.locked(), logged(folder), Reporter(subject.origin.run_id, log) as say:
        known = set() if config["rerun"] else folder.measured(subject.origin.training_key)
        missing = [one for one in measurements if one.key not in known]
        folder.reopen()
        if missing:
            if len(x) > evaluation.n_samples:
                say.note(f"{evaluation.n_samples} of {len(x)} samples are measured, taken at random; "
                         f"evaluate.n_samples={len(x)} measures all")  # fmt: skip
            rows, _ = measure(subject, data, missing, seed=config["seed"], report=say.evaluating, note=say.note)
            folder.add_rows(rows)
        folder.end(Outcome(subject.origin.run_id, Ended.OK, "samples of others"))
    return folder.rows_of(measurements, subject.origin.training_key), folder.path
