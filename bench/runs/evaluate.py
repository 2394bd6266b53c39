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
from bench.config.build import build_data, build_metrics, build_subject, check_arguments
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
from bench.data.formats.smiles_files import Line
from bench.data.reference import Reference, read_reference
from bench.errors import UserError
from bench.evaluation.given import given_model, given_samples, given_smiles
from bench.evaluation.measure import measure, trained_model
from bench.regular import read_regular
from bench.rng import seeded
from bench.runs.controls import measure_controls
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.process import set_up_process
from bench.runs.run import logged, measure_checkpoint
from bench.schema import ResultRow
from bench.seeds import derive_seed
from bench.subjects.base import Subject
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import TrainedModel
from bench.training.console import Reporter

__all__ = [
    "Asked", "Target", "evaluate_own", "evaluate_run", "evaluate_samples", "on_samples", "subject_of_run",
    "subject_of_samples", "target_of",
]  # fmt: skip

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
        reference: Examples, or their mean and covariance, that are compared with in place of the test split.
    """

    compose: Callable[[list[str]], dict[str, Any]]
    keys: frozenset[str]
    data: Mapping[str, Any]
    reference: Path | None = None


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
    spec, again, node = _ready(target, asked)
    identity = _identity(target, spec)
    folder = RunFolder(target.path or spec.runs_dir / spec.name / identity.run_id)
    with folder.locked(), logged(folder), Reporter(identity.run_id, log) as say:
        outcome = folder.outcome(identity.run_id) if folder.ended else None
        data = build_data(node)
        for note in data.notes:
            say.warn(note)
        files = {name: target.checkpoint or folder.checkpoint(name) for name in spec.evaluation.checkpoints}
        measurements = _on_these_data(spec, asked, node, data, next(iter(files.values())))
        if asked.reference is not None:
            reference = read_reference(asked.reference, data.spec, lambda: data.spec)
            data = reference.in_place_of_test(data)
            measurements = tuple(
                dataclasses.replace(one, data={**(one.data or node), "reference": reference.revision})
                for one in measurements
            )
        known = set() if again else folder.measured(identity.training_key)
        folder.reopen()
        try:
            for checkpoint, sampling_seed in spec.passes:
                missing = [
                    one for one in measurements
                    if (one.checkpoint, one.sampling_seed) == (checkpoint, sampling_seed) and one.key not in known
                ]  # fmt: skip
                if missing:
                    made, _, _ = measure_checkpoint(spec, data, files[checkpoint], missing, say, folder.path)
                    folder.add_rows([_adopted(row, spec, identity) for row in made])
            if asked.reference is None:
                measure_controls(data, node, spec.choices["data"], measurements, folder.path.parent, say)
        finally:  # the marker says how training ended, and vouches for the rows there are
            if outcome is not None or target.path is None:
                folder.end(outcome or Outcome(identity.run_id, Ended.OK, "measured elsewhere than it was trained"))
    return folder.rows_of(measurements, identity.training_key), spec, folder.path


def _ready(target: Target, asked: Asked) -> tuple[RunSpec, bool, dict[str, Any]]:
    """The run and whether it is measured again, as ``_spec`` says, and its data's configuration. Sets up the process.

    Raises:
        UserError: Something cannot be built, or the run is not trained to its end.
    """
    spec, again = _spec(target, asked)
    node = {**spec.data, **asked.data}
    check_arguments({**spec.config, "data": node})
    look_here_too(spec.trust)
    set_up_process()
    if target.path is not None and not RunFolder(target.path).complete:
        raise UserError(
            f"{target.path}: is not trained to its end; `genbench run` goes on, or name one of its .ckpt files"
        )
    return spec, again, node


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
        ours = (f"metric.{name}.", "evaluate.")
        given = {key.removeprefix(ours[0]).removeprefix(ours[1]).split(".")[0] for key in keys if key.startswith(ours)}
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
    check_targets({key: config.get(key) for key in ("data", "metric", "subject", "trust")})
    check_arguments(config)
    build_metrics(config["metric"])
    return tuple(Measurement(name, node, "given") for name, node in config["metric"].items())


def evaluate_samples(
    config: Node,
    read: Callable[[Data], tuple[Tensor | list[Line], str]],
    label: str,
    referred: Callable[[Data | None], Reference] | None = None,
) -> tuple[list[ResultRow], Path]:
    """Measure samples of others, as ``_evaluate`` does.

    Arguments:
        config: Composed from conf/evaluate.yaml.
        read: Gives the samples and their hash, for data that say what they must be.
        label: What tables call them.
        referred: Gives the reference in place of the test split, for the data set that is named besides.

    Returns:
        The rows asked for, and the folder.

    Raises:
        UserError: The configuration or the samples are wrong.
    """
    if not isinstance(config.get("data"), dict) and referred is None:
        raise UserError("samples: name the data that they are samples of, as in data=mnist5k, or real examples to "
                        "compare with, as in reference=FOLDER")  # fmt: skip
    asked_for = typed(Evaluation, config["evaluate"], "evaluate").n_samples

    def made(data: Data, node: Node, data_name: str) -> tuple[Subject, str]:
        x, sha256 = read(data)
        note = (f"{asked_for} of {len(x)} samples are measured, taken at random; evaluate.n_samples={len(x)} measures "
                "all")  # fmt: skip
        about = {"data": node, "data_name": data_name, "revision": data.spec.revision, "seed": config["seed"]}
        subject: Subject
        if isinstance(x, list):
            subject = given_smiles(x, sha256, label, **about)
        else:
            subject = given_samples(x, sha256, label, in_place=True, **about)
        return subject, note if len(x) > asked_for else ""

    return _evaluate(config, made, label, referred)


def evaluate_own(
    config: Node, label: str, referred: Callable[[Data | None], Reference] | None = None
) -> tuple[list[ResultRow], Path]:
    """Measure a model of the user's own, as ``_evaluate`` does; again each time, because its code may have changed.

    Arguments:
        config: Composed from conf/evaluate.yaml; ``subject`` is what makes the model.
        label, referred: As in ``evaluate_samples``.

    Raises:
        UserError: The configuration is wrong, or the model is none.
    """
    node = config["subject"]
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError("subject: name what makes the model, as in subject._target_=mypkg.Net")
    if not isinstance(config.get("data"), dict):
        raise UserError("subject: name the data that it is a model of, as in data=mnist5k")

    def made(data: Data, compared: Node, data_name: str) -> tuple[Subject, str]:
        with seeded(derive_seed(config["seed"], "init")):
            model = build_subject(node, data.spec)
        return given_model(
            model, node, label, data=compared, data_name=data_name, spec=data.spec, revision=data.spec.revision,
            seed=config["seed"],
        ), ""  # fmt: skip

    return _evaluate({**config, "rerun": True}, made, label, referred)


def _evaluate(
    config: Node,
    made: Callable[[Data, Node, str], tuple[Subject, str]],
    label: str,
    referred: Callable[[Data | None], Reference] | None,
) -> tuple[list[ResultRow], Path]:
    """Measure what is given; its rows are kept in a folder of their own under runs/.

    Arguments:
        made: Makes the subject for data, what stands for their configuration in its key, and their name; and says what
            the user should know.

    Returns:
        The rows asked for, and the folder.
    """
    check_name("label", label)
    named = isinstance(config.get("data"), dict)
    measurements = on_samples(config)
    if typed(Evaluation, config["evaluate"], "evaluate").sampling_seeds != [0]:
        raise UserError("evaluate.sampling_seeds: is for runs; here seed=1 draws samples anew, or orders them anew")
    data, node = _compared(config["data"] if named else None, referred)
    name = config["name"] or data.spec.name
    check_name("name", name)
    data_name = called(config["data"], config["choices"]) if named else data.spec.name
    subject, note = made(data, node, data_name)
    folder = RunFolder(Path(config["runs_dir"]) / name / subject.origin.run_id)
    with folder.locked(), logged(folder), Reporter(subject.origin.run_id, log) as say:
        known = set() if config["rerun"] else folder.measured(subject.origin.training_key)
        missing = [one for one in measurements if one.key not in known]
        folder.reopen()
        if missing:
            if note:
                say.note(note)
            rows, _ = measure(subject, data, missing, seed=config["seed"], report=say.evaluating, note=say.note)
            folder.add_rows(rows)
        measure_controls(data, node, data_name, measurements, folder.path.parent, say)
        folder.end(Outcome(subject.origin.run_id, Ended.OK, "measured as it was given"))
    return folder.rows_of(measurements, subject.origin.training_key), folder.path


def _compared(node: Node | None, referred: Callable[[Data | None], Reference] | None) -> tuple[Data, Node]:
    """The data to compare samples with, and what stands for their configuration in the key of the samples.

    Arguments:
        node: The configuration of a data set; None: a reference stands alone.
    """
    data = None if node is None else build_data(node)
    reference = None if referred is None else referred(data)
    if reference is None:
        assert data is not None
        assert node is not None
        return data, node
    whole = reference.as_data() if data is None else reference.in_place_of_test(data)
    return whole, {**(node or {}), "reference": reference.revision}


def subject_of_samples(
    config: Node, read: Callable[[Data], tuple[Tensor, str]], label: str
) -> tuple[GivenSamples, Data, Path]:
    """The subject, the data and the folder of samples of others. Arguments and errors as for ``evaluate_samples``."""
    check_name("label", label)
    if not isinstance(config.get("data"), dict):
        raise UserError("samples: name the data that they are samples of, as in data=mnist5k")
    on_samples(config)
    data = build_data(config["data"])
    name = config["name"] or data.spec.name
    check_name("name", name)
    x, sha256 = read(data)
    subject = given_samples(
        x, sha256, label, data=config["data"], data_name=called(config["data"], config["choices"]),
        revision=data.spec.revision, seed=config["seed"],
    )  # fmt: skip
    return subject, data, Path(config["runs_dir"]) / name / subject.origin.run_id


def subject_of_run(target: Target, asked: Asked) -> tuple[TrainedModel, Data, RunSpec]:
    """The trained model of a run's first checkpoint, or of the checkpoint that was named, with its data.

    Raises:
        UserError: As for ``evaluate_run``.
    """
    spec, _, node = _ready(target, asked)
    data, checkpoint = build_data(node), spec.evaluation.checkpoints[0]
    file = target.checkpoint or RunFolder(target.path or Path()).checkpoint(checkpoint)
    _on_these_data(spec, asked, node, data, file)
    return trained_model(spec, data, checkpoint, file), data, spec
