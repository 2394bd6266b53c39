"""One run: from a plain configuration to rows, in a folder of its own.

The folder is named by the configuration's hash. What is there decides what is left to do: a finished run is not run
again, an interrupted one goes on from its last checkpoint, a trained one is only evaluated.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.checkpoint import load_checkpoint
from bench.config.build import (
    build_data,
    build_logger,
    build_metrics,
    build_model,
    check_arguments,
    check_targets,
    typed,
)
from bench.did_you_mean import nearest
from bench.errors import DivergedError, UserError
from bench.evaluation.rows import Evaluation, failed_rows, measure, oracle_rows, run_id, validation_score
from bench.files import durable_write, sweep_orphans
from bench.provenance import config_hash
from bench.rng import seeded
from bench.rows.store import read_rows, write_rows
from bench.runs.ddp import is_worker, run_workers
from bench.schema import ResultRow, Status
from bench.seeds import derive_seed
from bench.training.console import Reporter
from bench.training.fit import Hardware, Schedule, fit

__all__ = ["FINISHED_BEFORE", "Outcome", "check", "evaluate_checkpoint", "execute", "outcome_of", "run_folder"]

log = logging.getLogger("genbench")

LONGEST_NAME = 200  # bytes; file systems have 255, and endings are put to it
FINISHED_BEFORE = "finished before"
CONFIG, ROWS, DONE, LOG, LAST = "config.json", "rows.jsonl", "done.json", "run.log", "last.ckpt"
KEYS = ("name", "seed", "rerun", "data", "model", "metric", "train", "trainer", "evaluate", "logger", "trust",
        "runs_dir", "results_dir", "choices")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``exit_code`` is 0 for ok, 1 for a failure, 2 for a mistake the user can mend."""

    run_id: str
    folder: Path
    exit_code: int
    reason: str = ""


def run_folder(config: Mapping[str, Any]) -> Path:
    """Where the run of this configuration lives."""
    return Path(config["runs_dir"], config["name"], run_id(config))


def check(config: dict[str, Any]) -> None:
    """Everything about a configuration that can be wrong before anything is loaded or trained.

    Errors:
        UserError: names the key.
    """
    unknown = [key for key in config if key not in KEYS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such key{nearest(unknown[0], KEYS)}; the keys are {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in config]
    if missing == ["metric"]:
        raise UserError("metric: none is chosen; name at least one, as in metric=[likelihood]")
    if missing:
        raise UserError(f"{missing[0]}: is missing from the configuration; `genbench run --cfg job` shows it")
    _check_kinds(config)
    check_targets(config)
    typed(Schedule, config["train"], "train")
    typed(Hardware, config["trainer"], "trainer")
    typed(Evaluation, config["evaluate"], "evaluate")
    check_arguments(config)


def _check_kinds(config: Mapping[str, Any]) -> None:
    """What a key may hold, where no dataclass or target says it. A checkpoint's configuration may hold anything."""
    seed, trust, name = config["seed"], config["trust"], config["name"]
    if type(seed) is not int or abs(seed) >= 2**63:
        raise UserError(f"seed={seed!r}: a whole number of at most 63 bits is expected")
    if not isinstance(trust, list) or not all(isinstance(package, str) for package in trust):
        raise UserError(f"trust={trust!r}: a list of packages is expected, trust=[PACKAGE]")
    if not isinstance(config["rerun"], bool):
        raise UserError(f"rerun={config['rerun']!r}: true or false is expected")
    if isinstance(name, str) and len(name.encode()) > LONGEST_NAME:
        raise UserError(f"name={name[:20]}...: a name of at most {LONGEST_NAME} bytes is expected")
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UserError(f"name={name!r}: the name of a folder is expected, without a path; that goes to runs_dir")
    for key in ("runs_dir", "results_dir"):
        if not isinstance(config[key], str):
            raise UserError(f"{key}={config[key]!r}: the path of a folder is expected")
    for key in ("data", "model", "metric", "train", "trainer", "evaluate", "choices"):
        if not isinstance(config[key], dict):
            raise UserError(f"{key}={config[key]!r}: keys and values are expected, as in conf/{key}")
    if not all(isinstance(config["choices"].get(group), str) for group in ("data", "model")):
        raise UserError("choices: names the data set and the model, as texts")
    built = {"data": config["data"], "model": config["model"], "logger": config["logger"]}
    built |= {f"metric.{metric}": node for metric, node in config["metric"].items()}
    for path, node in built.items():
        if not (path == "logger" and node is None) and not (isinstance(node, dict) and "_target_" in node):
            raise UserError(f"{path}={node!r}: keys and values with a _target_ are expected")


def execute(config: dict[str, Any]) -> Outcome:
    """Do what is left of a run. Never raises but for Ctrl-C: a failure is a row, a line and an exit code.

    Arguments:
        config: Resolved and plain (what JSON can hold), as ``bench.config.compose`` composes it.
    """
    check(config)
    folder, name = run_folder(config), run_id(config)
    if not config["rerun"] and is_done(folder, config_hash(config)) and not _data_changed(config, folder):
        return Outcome(name, folder, 0, FINISHED_BEFORE)
    hardware = typed(Hardware, config["trainer"], "trainer")
    if hardware.devices > 1 and not is_worker():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _reopen(config, folder)  # before there are several who read the checkpoint
            durable_write(folder / CONFIG, json.dumps(config, indent=2))
        except OSError as error:
            return Outcome(name, folder, 2, f"run folder {folder}: {error.strerror}; give another with runs_dir=FOLDER")
        except UserError as error:
            return Outcome(name, folder, 2, str(error))
        return Outcome(name, folder, *run_workers(folder / CONFIG, hardware.devices))
    try:
        with _locked(folder), _logged(folder), Reporter(name, log) as reporter:
            outcome = _guarded(config, folder, name, hardware, reporter)
            if not _is_follower():
                _write_outcome(config, outcome)
        return outcome
    except UserError as error:  # the folder is another's, or cannot be written: nothing is left there
        return Outcome(name, folder, 2, str(error))


def _guarded(config: dict[str, Any], folder: Path, name: str, hardware: Hardware, reporter: Reporter) -> Outcome:
    try:
        return _run(config, folder, name, hardware, reporter)
    except UserError as error:  # nothing was measured, and the next run of this command may be right: no rows
        log.error(error)
        return Outcome(name, folder, 2, str(error))
    except DivergedError as error:
        exit_code, reason = 1, str(error)
        log.error(reason)
    except Exception as error:
        exit_code, reason = 1, f"{type(error).__name__}: {' '.join(str(error).split())} (details in {folder / LOG})"
        log.exception("%s failed", name)
    if not _is_follower():
        _write_failure(config, folder, reason)
    return Outcome(name, folder, exit_code, reason)


def outcome_of(config: dict[str, Any]) -> Outcome:
    """How a run ended, as its folder tells: it may have been another process's."""
    folder, name = run_folder(config), run_id(config)
    try:
        stored = json.loads((folder / DONE).read_text())
        return Outcome(name, folder, int(stored["exit_code"]), str(stored["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Outcome(name, folder, 1, "ended without a word; see its run.log")


def _write_outcome(config: dict[str, Any], outcome: Outcome) -> None:
    """The marker that a run is over, with the hash of what it stands for."""
    rows = outcome.folder / ROWS
    digest = hashlib.sha256(rows.read_bytes()).hexdigest() if rows.exists() else ""
    stored: dict[str, object] = {"config_hash": config_hash(config), "rows_sha256": digest}
    stored |= {"exit_code": outcome.exit_code, "reason": outcome.reason}
    durable_write(outcome.folder / DONE, json.dumps(stored))
    if outcome.exit_code == 0:
        (outcome.folder / LAST).unlink(missing_ok=True)


def is_done(folder: Path, wanted_hash: str) -> bool:
    """Whether the folder holds the rows of a finished run of this configuration, unchanged since."""
    try:
        done = json.loads((folder / DONE).read_text())
        same_rows = hashlib.sha256((folder / ROWS).read_bytes()).hexdigest() == done["rows_sha256"]
        return bool(done["exit_code"] == 0 and done["config_hash"] == wanted_hash and same_rows)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _no_tf32() -> None:
    """Of a convolution's float32 operands cuDNN by itself reads 10 bits of mantissa, too few to invert a flow."""
    torch.backends.cudnn.allow_tf32 = False


def _data_changed(config: dict[str, Any], folder: Path) -> bool:
    """Whether a finished run's data are no longer what it was trained on: files of the user's own may change."""
    if config["data"].get("path") is None:
        return False
    try:
        known = {row.data_revision for row in read_rows(folder / ROWS)}
        return build_data(config).spec.revision not in known
    except UserError:  # they are gone; what was measured on them stands
        return False


def _reopen(config: dict[str, Any], folder: Path) -> None:
    """Take back the marker of a run that is over, and where it is to begin anew, what it would go on from.

    An interrupted run has no marker: it goes on, also where it was a rerun. Its rows stay until there are others.
    """
    if (folder / DONE).exists():
        if config["rerun"] or is_done(folder, config_hash(config)):
            (folder / LAST).unlink(missing_ok=True)
        (folder / DONE).unlink()


def _run(config: dict[str, Any], folder: Path, name: str, hardware: Hardware, reporter: Reporter) -> Outcome:
    _no_tf32()
    seed = config["seed"]
    schedule = typed(Schedule, config["train"], "train")
    evaluation = typed(Evaluation, config["evaluate"], "evaluate")
    data, metrics = build_data(config), build_metrics(config)
    if not is_worker():
        _reopen(config, folder)
    with seeded(derive_seed(seed, "init")):
        model = build_model(config, data.spec)
    durable_write(folder / CONFIG, json.dumps(config, indent=2))
    logger = build_logger(config, str(folder))
    progress = fit(
        model, data, schedule, hardware,
        seed=seed, folder=folder, config=config, validate=validation_score(data, seed), report=reporter, logger=logger,
    )  # fmt: skip
    if _is_follower():
        return Outcome(name, folder, 0)
    rows = oracle_rows(config, data, metrics)
    for checkpoint in evaluation.checkpoints:
        path = folder / f"{checkpoint}.ckpt"
        rows += measure(path, config, data, metrics, evaluation, reporter, folder / f"samples-{checkpoint}")
    write_rows(folder / ROWS, rows)
    failures = [f"{row.metric}: {row.reason}" for row in rows if row.status is Status.FAILED]
    if failures:
        reason = f"{len(failures)} metrics failed, first {failures[0]} (details in {folder / LOG})"
        return Outcome(name, folder, 1, reason)
    return Outcome(name, folder, 0, progress.finished)


def evaluate_checkpoint(
    path: Path,
    overrides: Mapping[str, Any],
    trust: tuple[str, ...],
    metrics: Mapping[str, dict[str, Any] | None] | None,
) -> list[ResultRow]:
    """Measure a checkpoint again, or on something else: ``genbench evaluate``.

    Arguments:
        path: A checkpoint whose configuration says which model and data set it is.
        overrides: Keys of ``Evaluation`` to change.
        trust: Packages that the configuration may name besides our own. The checkpoint's own list is not followed.
        metrics: To compute, by name, each with its configuration where the checkpoint has none of that name (None:
            there is none); None: those it was trained with.
    """
    payload = load_checkpoint(path)
    try:
        config = json.loads(payload["config"])
        config = {**config, "trust": list(trust), "evaluate": {**config["evaluate"], **overrides}}
        if metrics is not None:
            config["metric"] = {name: config["metric"].get(name) or ours for name, ours in metrics.items()}
            unknown = [name for name, node in config["metric"].items() if node is None]
            if unknown:
                raise UserError(f"metric {unknown[0]!r}: no such metric; `genbench list metrics` shows all")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: holds no run's configuration; give a best.ckpt or final.ckpt") from error
    check(config)
    _no_tf32()
    data = build_data(config)
    evaluation = typed(Evaluation, config["evaluate"], "evaluate")
    with Reporter(run_id(config), log) as reporter:
        return measure(path, config, data, build_metrics(config), evaluation, reporter)


def _write_failure(config: dict[str, Any], folder: Path, reason: str) -> None:
    """Rows that say why there is nothing else, as far as the data set and the metrics can be made at all."""
    try:
        write_rows(folder / ROWS, failed_rows(config, build_data(config), build_metrics(config), reason))
    except Exception:
        log.exception("no rows for the failure either")


def _is_follower() -> bool:
    """Whether another process of this run writes what there is to write."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process a folder: two runs of one configuration would overwrite each other's checkpoints."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"run folder {folder}: {error.strerror}; give another one with runs_dir=FOLDER") from error
    with lock:
        if not _is_follower():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"run folder {folder}: another process is at work there; wait for it to end") from None
            sweep_orphans(folder)
        yield


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Everything that is worth keeping goes to the run's log file."""
    try:
        handler = logging.FileHandler(folder / LOG)
    except OSError as error:
        raise UserError(f"{folder / LOG}: {error.strerror}; give another folder with runs_dir=FOLDER") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
