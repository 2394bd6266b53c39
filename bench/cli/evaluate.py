"""``genbench evaluate``: measure more on runs and checkpoints, or measure samples of others."""

import glob
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.compose import compose_evaluation, overridden
from bench.errors import UserError
from bench.paths import at_home
from bench.plain import plain
from bench.regular import check_output

if TYPE_CHECKING:
    from bench.runs.evaluate import Target
    from bench.schema import ResultRow

__all__ = ["main"]

USAGE = "usage: genbench evaluate [RUN FOLDER | CHECKPOINT | GLOB ...] [KEY=VALUE ...]"
HELP = f"""\
{USAGE}
       genbench evaluate samples=FILE data=NAME [label=NAME] [KEY=VALUE ...]
       genbench evaluate samples=FILE reference=FILE [data=NAME] [label=NAME] [KEY=VALUE ...]
       genbench evaluate subject._target_=PACKAGE.NAME data=NAME trust=[PACKAGE] [label=NAME] [KEY=VALUE ...]

Measure what is asked and not measured yet. Nothing is trained; rows are added to the runs, and their leaderboard is
printed again. Without metric=[...] the metrics of each run are meant.

  genbench evaluate 'runs/quickstart/*' metric=[birthday] evaluate.n_samples=5000
  genbench evaluate runs/mnist5k/RUN metric=[fid] metric.fid.features=pixels
  genbench evaluate RUN/final.ckpt evaluate.n_draws=256 out=tight.jsonl
  genbench evaluate RUN data.path=/elsewhere/table.csv
  genbench evaluate samples=fakes.npz label=theirs data=mnist5k metric=[fid,inception_score,birthday]
  genbench evaluate samples=fakes/ reference=real/ metric=[fid] metric.fid.features=pixels
  genbench evaluate subject._target_=mypkg.load subject.weights=net.pt data=mnist5k 'trust=[mypkg]' metric=[fid]

Samples of molecules may be a .smi file, too, a SMILES a line (data=moses).
Samples and references are a .npy, .npz or .pt file or a folder of images, in the data's own space (images: levels
0 .. L-1); a reference may be an .npz of the mean mu and the covariance sigma of features, too.
rerun=true measures again; out=FILE.jsonl writes the rows that were asked for; trust=[PACKAGE] allows your own package.
Exit codes: 0 all well, 1 a metric failed, 2 a mistake in the command, 75 the run is being run by another process,
130 Ctrl-C, 143 SIGTERM.
"""

_KEY = re.compile(r"(\+{0,2}|~)[A-Za-z_][\w.@/]*=")
_ASKED = ("metric", "evaluate", "trust", "rerun", "out", "runs_dir", "results_dir", "hydra", "features", "reference")
_FLAGS = {"--metric": "metric", "--samples": "evaluate.n_samples", "--draws": "evaluate.n_draws", "--trust": "trust",
          "--out": "out"}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure what the arguments ask for.

    Returns:
        0, or 1 if a metric failed. The command ends with 75 if another process is at work on the run.

    Raises:
        UserError: A mistake in the command, or nothing to measure.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    places, overrides = _split(_without_flags(arguments))
    # The arguments of a model of the user's own are keys that no file has.
    overrides = [f"++{text}" if text.startswith("subject.") else text for text in overrides]
    keys = {key: value for text in overrides for key, value in [overridden(text)]}
    subject = any(re.split(r"[.@/]", key)[0] == "subject" for key in keys)
    for key, given in (("samples", "samples" in keys), ("subject", subject)):
        if given and places:
            raise UserError(f"{places[0]}: either runs or {key}=... can be measured, not both at once")
    if "samples" in keys and subject:
        raise UserError("subject: either samples=... or subject=... can be measured, not both at once")
    out = None if keys.get("out") is None else at_home("out", str(keys["out"]))
    if out is not None:  # before the minutes that the rows take
        check_output("out", out, _inputs(places, keys))
    if "samples" in keys:
        found = _samples(overrides)
    elif subject:
        found = _own(overrides)
    elif places:
        found = _runs(places, overrides, keys, out)
    else:
        raise UserError(f"evaluate: nothing to measure is named; {USAGE}; --help shows examples")
    return _finish(found, out)


def _without_flags(arguments: list[str]) -> list[str]:
    """The arguments with the flags of earlier versions as KEY=VALUE: ``--draws 4`` is ``evaluate.n_draws=4``."""
    made: list[str] = []
    lists: dict[str, list[str]] = {"metric": [], "trust": []}
    rest = iter(arguments)
    for text in rest:
        flag, joined, value = text.partition("=")
        if flag not in _FLAGS:
            if text.startswith("-"):
                raise UserError(f"evaluate {text}: no such option; options are KEY=VALUE, --help shows examples")
            made.append(text)
            continue
        if not joined:
            value = next(rest, "")
        if not value:
            raise UserError(f"evaluate {flag}: wants a value, as in {_FLAGS[flag]}=VALUE")
        key = _FLAGS[flag]
        if key in lists:
            lists[key].append(value)
        else:
            made.append(f"{key}={value}")
    return made + [f"{key}=[{','.join(values)}]" for key, values in lists.items() if values]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Places and overrides. What exists is a place, whatever its name; a long value is no name, and no error here."""
    overrides = [text for text in arguments if _KEY.match(text) and not os.path.exists(text)]
    return [text for text in arguments if text not in overrides], overrides


@dataclass
class _Found:
    """What was measured: rows, the folders of leaderboards with where their tables go, and what could not be."""

    rows: list["ResultRow"] = field(default_factory=list)
    leaderboards: set[tuple[Path, Path]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


def _inputs(places: list[str], keys: dict[str, Any]) -> list[Path]:
    """Files and folders that the command line names and that are read."""
    named = [str(keys[key]) for key in ("samples", "reference", "data.path") if keys.get(key) is not None]
    matches = [match for place in places for match in glob.glob(str(Path(place).expanduser()), recursive=True)]
    return [Path(name).expanduser() for name in (*places, *matches, *named)]


def _runs(places: list[str], overrides: list[str], keys: dict[str, Any], out: Path | None) -> _Found:
    from bench.runs.evaluate import Asked, evaluate_run

    for key in keys:
        group = re.split(r"[.@/]", key)[0]
        if group not in (*_ASKED, "data") or key == "data":
            raise UserError(f"{key}: a run is measured as it was trained; `genbench run` trains with another {group}")
    data = {key.removeprefix("data."): value for key, value in keys.items() if key.startswith("data.")}
    if isinstance(data.get("path"), str):
        data["path"] = str(at_home("data.path", data["path"]).absolute())
    ours = [text for text in overrides if not overridden(text)[0].startswith("data.")]
    reference = None if keys.get("reference") is None else at_home("reference", str(keys["reference"]))
    asked = Asked(lambda defaults: compose_evaluation(ours, defaults), frozenset(keys), data, reference)
    found = _Found()
    errors: list[UserError] = []
    targets = _targets(places)
    if out is not None:
        check_output("out", out, [path for target in targets if (path := target.data_path) is not None])
    for target in targets:
        try:
            measured, spec, folder = evaluate_run(target, asked)
        except UserError as error:
            errors.append(error)  # the others are measured all the same
            continue
        found.rows += measured
        found.leaderboards.add((folder.parent, spec.results_dir))
    if not found.leaderboards:
        raise errors[0]
    found.refused += map(str, errors)
    return found


def _targets(places: Iterable[str]) -> list["Target"]:
    """The runs that the places name: folders, checkpoints, patterns of them, and folders full of runs."""
    from bench.runs.evaluate import target_of

    targets = []
    for place in places:
        path = at_home("evaluate", place)
        found = (
            [path] if os.path.exists(path) else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        )
        if not found:
            what = "no such file or folder" if not glob.has_magic(place) else "nothing matches"
            raise UserError(f"{place}: {what}; give the folder of a run, as in runs/NAME/RUN, or its best.ckpt")
        here = [target for one in found for target in _at(one, target_of)]
        if not here:
            raise UserError(f"{place}: is no run and holds none; give a folder with config.json and best.ckpt")
        targets += here
    return targets


def _at(path: Path, target_of: Any) -> list["Target"]:
    target = target_of(path)
    inside = [path] if target is not None or not path.is_dir() else sorted(path.iterdir())
    if target is not None:
        return [target]
    return [found for one in inside if one.is_dir() for found in [target_of(one)] if found is not None]


def _samples(overrides: list[str]) -> _Found:
    from bench.data.formats.samples import read_samples, sha256_of, spec_of
    from bench.data.formats.smiles_files import is_smiles_file
    from bench.runs.evaluate import evaluate_samples

    config = compose_evaluation(overrides, [])
    path = Path(str(config["samples"]))
    label = str(config["label"] or path.stem)

    def read(data: Any) -> Any:
        if is_smiles_file(path):
            return _smiles(path, data)
        x = read_samples(path, data.spec)
        return x, sha256_of(x)

    referred = _referred(config, lambda: spec_of(path, "samples"))
    rows, folder = evaluate_samples(config, read, label, referred)
    return _Found(rows, {(folder.parent, Path(config["results_dir"]))})


def _smiles(path: Path, data: Any) -> Any:
    """The SMILES of a file and their hash, for data that are molecules."""
    from bench.data.formats.smiles_files import read_smiles, sha256_of_lines

    if data.molecules is None:
        raise UserError(f"samples {path}: are SMILES, but {data.spec.name} holds no molecules; name data=moses, qm9 or "
                        "zinc250k")  # fmt: skip
    lines = read_smiles(path)
    return lines, sha256_of_lines(lines)


def _own(overrides: list[str]) -> _Found:
    from bench.runs.evaluate import evaluate_own

    config = compose_evaluation(overrides, [])
    node = config["subject"] if isinstance(config["subject"], dict) else {}
    label = str(config["label"] or str(node.get("_target_")).rpartition(".")[2])
    rows, folder = evaluate_own(config, label, _referred(config, None))
    return _Found(rows, {(folder.parent, Path(config["results_dir"]))})


def _referred(config: dict[str, Any], shown: Any) -> Any:
    """What reads the reference for data, or None where there is none."""
    from bench.data.reference import read_reference

    if config["reference"] is None:
        return None
    return lambda data: read_reference(Path(str(config["reference"])), None if data is None else data.spec, shown)


def _finish(found: _Found, out: Path | None) -> int:
    from bench.rows.store import write_rows
    from bench.schema import Status
    from bench.tables.leaderboard import publish

    if out is not None:
        check_output("out", out)  # again: the file may be another by now
        write_rows(out, found.rows)
    for folder, results in sorted(found.leaderboards):
        publish(folder, results, folder.name)
    failed = [f"{row.run_id}: {row.metric} failed: {row.reason}" for row in found.rows if row.status is Status.FAILED]
    for line in [*found.refused, *failed]:
        print(f"genbench: {plain(line)}", file=sys.stderr)
    return 1 if failed or found.refused else 0
