"""The command line's overrides, composed by Hydra into runs: the only file that knows how Hydra composes and sweeps.

Everything is composed and checked before the first run starts, so that a typo in the last of a hundred runs costs a
second and not a night.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from hydra import main as hydra_main
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import conf
from bench.config.catalogue import GROUPS
from bench.did_you_mean import nearest
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.runs.run import Outcome

__all__ = ["compose_runs", "main", "stored"]

_seen: dict[str, "Outcome"] = {}
"""How the runs of this process ended; those of other launchers' processes left it in their folders."""

USAGE = "genbench run [-m] [--cfg job] [KEY=VALUE ...]"
HELP = f"""\
usage: {USAGE}

Train and evaluate one model, or with -m every combination of comma-separated values, and print the leaderboard.

  genbench run model=vae data=mnist5k            one run
  genbench run -m model=vae,dcgan seed=0,1,2     a sweep; finished runs are not run again
  genbench run experiment=quickstart             a sweep that an experiment file describes
  genbench run model=vae --cfg job               show the configuration and stop

`genbench list` names the models, data sets and metrics; conf/run.yaml holds every key with its default.
Results: runs/NAME/RUN/ for each run, results/leaderboard/NAME.{{md,csv,tex}} for the comparison.
"""


def main(arguments: list[str]) -> int:
    """``genbench run``: compose, check, run, tabulate.

    Returns:
        0 if every run ended well, 1 if one failed, 2 for a mistake in the command.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    parser = get_args_parser()
    parser.prog, parser.usage = "genbench run", USAGE  # Hydra's own names options that are refused here
    flags = parser.parse_args(arguments)
    for flag in ("config_name", "config_path", "config_dir", "experimental_rerun", "hydra_help"):
        if getattr(flags, flag):
            option = f"--{flag.replace('_', '-')}"
            raise UserError(f"{option}: not an option here; for a folder of your own hydra.searchpath=[file:///FOLDER]")
    configs: list[dict[str, Any]] = []
    if not flags.shell_completion:
        configs = compose_runs(flags.overrides, multirun=flags.multirun)
    if flags.cfg or flags.info:
        configs = []  # shown, not run
    if configs:
        from bench.runs.run import check

        for config in configs:
            check(config)
        for key in ("runs_dir", "results_dir"):
            for folder in {config[key] for config in configs}:
                _make_folder(key, folder)
    sys.argv = ["genbench run", *arguments]
    hydra_main(version_base="1.3", config_path="pkg://conf", config_name="run")(_task)()
    return _report(configs) if configs else 0


def _make_folder(key: str, folder: str) -> None:
    """Before anything is trained, and before Hydra makes it, who would say with a traceback that it cannot."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder}: {error.strerror}; give another folder") from error


def _task(config: DictConfig) -> None:
    """One run, as Hydra's launcher calls it: here, or in a process of its own."""
    from bench.runs.run import execute

    outcome = execute(plain(config, HydraConfig.get().runtime.choices))
    _seen[outcome.run_id] = outcome


def compose_runs(overrides: list[str], *, multirun: bool = False) -> list[dict[str, Any]]:
    """The configuration of every run that the overrides ask for, resolved and plain.

    Errors:
        UserError: one line naming what was asked, the nearest names and where to list them.
    """
    with initialize_config_module("conf", version_base="1.3"):
        try:
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            whole = hydra.compose_config("run", overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
            jobs = [overrides]
            if multirun or whole.hydra.mode is RunMode.MULTIRUN:
                jobs = _sweep(overrides, whole)
            composed = [compose("run", job, return_hydra_config=True) for job in jobs]
            _check_origin([whole, *composed], overrides)
            return [plain(config, config.hydra.runtime.choices) for config in composed]
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: model=null
            raise _explained(error, overrides) from error


def _check_origin(composed: list[DictConfig], overrides: list[str]) -> None:
    """What only the user may say: a file of somebody else's cannot trust itself, nor hand Hydra code to run."""
    from bench.config.build import check_targets

    said = any(re.match(r"\+{0,2}trust=", text) for text in overrides)
    for config in composed:
        if config.get("trust") and not said:
            named = ",".join(map(str, config.trust))
            raise UserError(f"trust: set by a configuration file; if you trust it, add trust=[{named}] yourself")
        parts = {part: config.hydra.get(part) for part in ("callbacks", "launcher", "sweeper")}
        node = {part: OmegaConf.to_container(value, resolve=True) for part, value in parts.items() if value is not None}
        check_targets({"hydra": node, "trust": config.get("trust")})
        if config.hydra.job.env_set and not any("hydra.job.env_set" in text for text in overrides):
            raise UserError("hydra.job.env_set: set by a configuration file; set the environment yourself")


def _sweep(overrides: list[str], whole: DictConfig) -> list[list[str]]:
    """What Hydra's basic sweeper will make of the overrides. Other sweepers decide as they go: the base is checked."""
    if not str(whole.hydra.sweeper["_target_"]).endswith(BasicSweeper.__name__):
        parser = OverridesParser.create()
        return [[text for text in overrides if not parser.parse_override(text).is_sweep_override()]]
    params = [f"{key}={value}" for key, value in (whole.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *overrides])
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def plain(config: Any, choices: Any) -> dict[str, Any]:
    """What a run needs to know, as JSON can hold it: values, and the names under which they were chosen."""
    content = {key: value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    made = OmegaConf.to_container(OmegaConf.create(content), resolve=True, throw_on_missing=True)
    assert isinstance(made, dict)
    plain_config: dict[str, Any] = {str(key): value for key, value in made.items()}
    plain_config["logger"] = plain_config.get("logger") or None
    chosen = {group: name for group, name in choices.items() if group in ("model", "data", "trainer")}
    plain_config["choices"] = chosen
    name = plain_config.get("name")
    # A number is a name too: name=2024.
    if name is None:
        name = chosen.get("data", "").replace("/", "-")
    plain_config["name"] = str(name) if isinstance(name, int) else name
    return plain_config


def stored(group: str, name: str) -> dict[str, Any] | None:
    """One of our configuration files as it stands: nothing is composed, and what must be given is ``???``.

    None where there is no such file.
    """
    path = Path(conf.__file__).parent / group / f"{name}.yaml"
    if not path.is_file():
        return None
    made = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


def _explained(error: Exception, overrides: list[str]) -> UserError:
    """Hydra's words, as one line for the user."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = list(error.options or _options(group))
        listed = next((name for name, folder in GROUPS.items() if folder == group), None)
        where = f"there are: {', '.join(known)}" if listed is None else f"`genbench list {listed}` shows all"
        return UserError(f"{group} {name!r}: no such {group}{nearest(name, known)}; {where}")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key}: has no default; add {error.full_key}=VALUE")
    if isinstance(error, OverrideParseException):
        reason = text.splitlines()[1] if "\n" in text else text
        return UserError(f"cannot read {error.override!r} ({reason}); write KEY=VALUE, and quote spaces and brackets")
    asked = re.search(r"Could not override '([^']+)'", text)
    if asked:
        key = asked.group(1)
        group = key.split(".")[0]
        if any(re.match(rf"{group}=.*,", text) for text in overrides):
            advice = f"if all of the sweep have it, write ++{key}=VALUE"
            return UserError(f"{key}: not a key of the default {group}; {advice}")
        near = nearest(key, _known_keys(overrides))
        return UserError(f"{key}: no such key{near}; `genbench run --cfg job` shows all keys")
    if "must be a string or a list" in text:
        return UserError("a group cannot be null: give a name, as in model=vae, or names, as in metric=[likelihood]")
    if "Ambiguous value" in text or "--multirun" in text:
        return UserError(f"{text.splitlines()[0]}: add -m to run each of these values, or write KEY=[A,B] for a list")
    return UserError(" ".join(text.split())[:300])


def _options(group: str) -> list[str]:
    hydra = GlobalHydra.instance().hydra
    return [] if hydra is None else list(hydra.config_loader.get_group_options(group))


def _known_keys(overrides: list[str]) -> list[str]:
    """Every key of the configuration, with the model and data set that were chosen."""
    groups = [text for text in overrides if text.split("=")[0] in ("model", "data", "trainer", "experiment")]
    for chosen in (groups, []):
        try:
            config = compose("run", [text for text in chosen if "," not in text])
        except (HydraException, OmegaConfBaseException):
            continue
        keys: list[str] = []
        _collect_keys(OmegaConf.to_container(config), "", keys)
        return keys
    return []


def _collect_keys(node: Any, path: str, keys: list[str]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            keys.append(name)
            _collect_keys(value, name, keys)


def _report(configs: list[dict[str, Any]]) -> int:
    """Tables from whatever rows there are, a line for each run that failed, and the exit code."""
    from bench.evaluation.rows import run_id
    from bench.runs.run import FINISHED_BEFORE, outcome_of
    from bench.tables.leaderboard import publish

    outcomes = [_seen.get(run_id(config)) or outcome_of(config) for config in configs]
    places = {(config["runs_dir"], config["results_dir"], config["name"]) for config in configs}
    try:
        for runs, results, name in sorted(places):
            publish(Path(runs) / name, Path(results), name)
    finally:  # last, so that they are seen; and also where one of the tables cannot be written
        before = sum(outcome.reason == FINISHED_BEFORE for outcome in outcomes)
        if before:
            print(f"genbench: {before} of {len(outcomes)} runs were finished before; after a change of code "
                  "rerun=true runs them again", file=sys.stderr)  # fmt: skip
        for outcome in outcomes:
            if outcome.exit_code:
                print(f"genbench: {outcome.run_id} failed: {outcome.reason}", file=sys.stderr)
    codes = [outcome.exit_code for outcome in outcomes if outcome.exit_code]
    return 0 if not codes else codes[0] if len(outcomes) == 1 else 1
