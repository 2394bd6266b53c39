"""The command line's overrides, composed by Hydra into plain configurations: the only file that composes and launches.

Everything is composed before the first run starts, so that a typo in the last of a hundred runs costs a second and not
a night.
"""

import functools
import logging
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_module
from hydra import main as hydra_main
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.catalogue import GROUPS, Catalogue, is_name
from bench.config.explain import explained
from bench.config.foreign import SCHEME, use_foreign_files
from bench.config.grammar import check_one_value, check_overrides, check_sweeps, parsed, quoted
from bench.config.spec import called
from bench.config.trust import check_targets, look_here_too
from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.paths import at_home
from bench.titles import title_of

__all__ = [
    "compose_evaluation", "compose_runs", "flags_of", "launch", "overridden", "plain", "searched", "trusted_by",
]  # fmt: skip

# Hydra composes some lines that its grammar allows with errors that are not its own: a group that is null or a list.
_OF_COMPOSING = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError,
                 AssertionError, RecursionError, OSError)  # fmt: skip
_GROUPS = ("model", "data", "trainer")  # whose chosen names are kept
_PATHS = ("runs_dir", "results_dir", "samples", "reference", "out")
_SEARCHPATH = re.compile(r"\+{0,2}hydra\.searchpath=")
_TRUST = re.compile(r"\+{0,2}trust=")
_PLAIN_KEY = re.compile(r"(seed|(model|data|metric|train|trainer|evaluate|probe)(\.[A-Za-z_]\w*)+)=")
_PLACES = {"runs_dir": "runs", "results_dir": "results"}  # with what stands in our own files
_FLAGS = ("config_name", "config_path", "config_dir", "experimental_rerun", "hydra_help")


def flags_of(arguments: list[str], usage: str) -> Namespace:
    """Hydra's command line: ``overrides``, and flags such as ``multirun`` and ``cfg``.

    Raises:
        UserError: A flag of Hydra's that has no use here.
    """
    parser = get_args_parser()
    parser.prog, parser.usage = "genbench run", usage  # Hydra's own names options that are refused here
    flags = parser.parse_intermixed_args(arguments)  # flags may stand between overrides
    for flag in _FLAGS:
        if getattr(flags, flag):
            option = f"--{flag.replace('_', '-')}"
            raise UserError(f"{option}: not an option here; for a folder of your own hydra.searchpath=[file:///FOLDER]")
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve: is for --cfg; write --cfg job --resolve")
    if flags.cfg and flags.info:
        raise UserError("--cfg and --info: only one can be shown; leave out --info")
    if flags.package and not flags.cfg:
        raise UserError(f"--package {flags.package}: is for --cfg; write --cfg job --package {flags.package}")
    return flags


def launch(arguments: list[str], task: Callable[[dict[str, Any]], None]) -> None:
    """Let Hydra call ``task`` with the plain configuration of every run, here or wherever its launcher goes."""

    def composed(config: DictConfig) -> None:
        hydra = HydraConfig.get()
        task(plain(config, hydra.runtime.choices, Catalogue.of(hydra.searchpath)))

    before, root = sys.argv, logging.getLogger()
    handlers, level = list(root.handlers), root.level
    options, overrides = _apart(arguments)
    try:
        # Hydra's sweeper writes a multirun.yaml wherever it sweeps, over what is there.
        with TemporaryDirectory(prefix="genbench-") as folder:
            # Paths are relative to the folder in which the command starts, whatever hydra.job.chdir says.
            fixed = ["hydra.job.chdir=false", quoted(f"hydra.sweep.dir={folder}")]
            sys.argv = ["genbench run", *options, *_searching(overrides, searched(overrides)), *fixed]
            hydra_main(version_base="1.3", config_path="pkg://conf", config_name="run")(composed)()
    finally:
        sys.argv = before
        root.handlers[:] = handlers  # --info and hydra.verbose=true add one, for good
        root.setLevel(level)


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's options and the overrides. Its own command line does not read options between overrides."""
    flags = get_args_parser().parse_intermixed_args(arguments)
    named = {"--cfg": flags.cfg, "--package": flags.package, "--info": flags.info}
    options = [text for option, value in named.items() if value is not None for text in (option, value)]
    switches = ("multirun", "resolve", "shell_completion")  # --run is what Hydra does by itself
    return [*options, *(f"--{name.replace('_', '-')}" for name in switches if getattr(flags, name))], flags.overrides


def compose_runs(overrides: list[str], *, multirun: bool = False) -> list[dict[str, Any]]:
    """The configuration of every run that the overrides ask for, resolved and plain.

    Raises:
        UserError: One line naming what was asked, the nearest names and where to list them.
    """
    catalogue = searched(overrides)
    overrides = _searching(overrides, catalogue)
    _check_names(overrides, catalogue)
    with initialize_config_module("conf", version_base="1.3"):
        try:
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            whole = hydra.compose_config("run", overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
            jobs = [overrides]
            verbose = whole.hydra.verbose
            names = list(verbose) if isinstance(verbose, ListConfig) else []
            if not isinstance(verbose, bool | str | ListConfig) or not all(isinstance(name, str) for name in names):
                raise UserError("hydra.verbose: true, false or names of loggers are expected; write hydra.verbose=true")
            multirun = multirun or whole.hydra.mode is RunMode.MULTIRUN
            check_sweeps(overrides, multirun=multirun, loader=hydra.config_loader)
            if multirun:
                jobs = _sweep(overrides, whole, hydra.config_loader)
                for job in jobs:  # an experiment's file may name what is swept
                    _check_names(job, catalogue)
            _check_origin([whole], overrides)
            return _compose_each(jobs, overrides, catalogue)
        except _OF_COMPOSING as error:
            raise explained(error, overrides, catalogue) from error


def _compose_each(jobs: list[list[str]], overrides: list[str], catalogue: Catalogue) -> list[dict[str, Any]]:
    """The plain configuration of every job. Jobs that differ in values of plain keys alone are composed once.

    Composing takes a tenth of a second, and a sweep has many seeds and learning rates. Hydra applies values last, to
    what the chosen files compose to, so setting them there again gives what it would give.
    """
    made: list[dict[str, Any]] = []
    known: dict[tuple[str, ...], tuple[DictConfig, Mapping[str, Any]]] = {}
    for job in jobs:
        settings = {text: _setting(text) for text in job}
        if any(text.startswith("~") or "{" in text for text in job):  # what takes away or merges depends on its place
            settings = dict.fromkeys(job)
        kind = tuple(text if setting is None else setting[0] for text, setting in settings.items())
        if kind not in known:
            config = compose("run", job, return_hydra_config=True)
            _check_origin([config], overrides)
            ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            known[kind] = ours, config.hydra.runtime.choices
        ours, choices = known[kind]
        for setting in settings.values():
            if setting is not None:
                OmegaConf.update(ours, *setting)
        made.append(plain(ours, choices, catalogue))
    return made


@functools.cache
def _setting(text: str) -> tuple[str, Any] | None:
    """The key and the value of an override that gives a plain key one value; None for any other.

    What ``_check_origin`` looks at is none: it is checked in every job.
    """
    if not _PLAIN_KEY.match(text):
        return None
    key, value = overridden(text)
    return (key, value) if value is None or isinstance(value, bool | int | float | str) else None


def compose_evaluation(overrides: list[str], defaults: list[str]) -> dict[str, Any]:
    """The configuration of ``genbench evaluate`` (conf/evaluate.yaml), resolved and plain.

    Arguments:
        overrides: The user's.
        defaults: Overrides that hold where the user's say nothing else, because they come first.

    Raises:
        UserError: As ``compose_runs``.
    """
    catalogue = searched(overrides)
    check_one_value(overrides)
    overrides = _searching(overrides, catalogue)
    _check_names(overrides, catalogue)
    with initialize_config_module("conf", version_base="1.3"):
        try:
            config = compose("evaluate", [*defaults, *overrides], return_hydra_config=True)
            _check_origin([config], overrides)
            return plain(config, config.hydra.runtime.choices, catalogue)
        except _OF_COMPOSING as error:
            raise explained(error, overrides, catalogue) from error


def overridden(text: str) -> tuple[str, Any]:
    """The key and the value of one override, ``KEY=VALUE``.

    Raises:
        UserError: It cannot be read.
    """
    override = parsed(text)
    return override.get_key_element().lstrip("+~"), override.value()


def searched(overrides: list[str]) -> Catalogue:
    """The catalogue of the search path that the overrides name: every command takes its files from there.

    A folder on it may belong to a trusted package in the working folder, which is found from here on.

    Raises:
        UserError: An override cannot be read, or an entry of the search path is no folder.
    """
    look_here_too(trusted_by(overrides))
    entries = []
    for text in overrides:
        if _SEARCHPATH.match(text):
            value = overridden(text)[1]
            named = value if isinstance(value, list) else [value]
            if not all(isinstance(entry, str) for entry in named):
                raise UserError(f"{text}: a list of folders is expected, hydra.searchpath=[file:///FOLDER]")
            entries += named
    catalogue = Catalogue.of(entries)
    check_overrides(overrides, catalogue)
    return catalogue


def trusted_by(overrides: list[str]) -> list[str]:
    """The packages that the overrides trust.

    Raises:
        UserError: An override cannot be read, or holds no list of names.
    """
    packages = []
    for text in overrides:
        if _TRUST.match(text):
            value = overridden(text)[1]
            if not isinstance(value, list) or not all(isinstance(package, str) for package in value):
                raise UserError(f"trust={value!r}: a list of packages is expected, trust=[PACKAGE]")
            packages += value
    return packages


def _searching(arguments: list[str], catalogue: Catalogue) -> list[str]:
    """The arguments with the catalogue's folders, less our own, as Hydra's search path.

    Hydra would import a package to find its folder, and warn where there is none instead of stopping. Every file in the
    folders is checked when it is read (``bench.config.foreign``).
    """
    use_foreign_files()
    folders = [str(folder).replace("'", r"\'") for folder in catalogue.folders[1:]]
    rest = [text for text in arguments if not _SEARCHPATH.match(text)]
    entries = ",".join(f"'{SCHEME}://{folder}'" for folder in folders)
    return [*rest, f"hydra.searchpath=[{entries}]"] if folders else rest


def _check_names(overrides: list[str], catalogue: Catalogue) -> None:
    """Refuse a name that would lead out of its group, as ``model=../../x`` would.

    Raises:
        UserError: Names the group.
    """
    for text in overrides:
        into = text.partition("=")[0].partition("@")[2]
        if "hydra" in into:
            raise UserError(f"{text}: what is chosen cannot become Hydra's own configuration; take out @{into}")
        group, _, chosen = text.lstrip("+").partition("=")
        if group in (*_GROUPS, "logger") and chosen.lstrip().startswith("["):
            names = chosen.strip(" []")
            more = f"; for a sweep write -m {group}={names}" if "," in names else ""
            raise UserError(f"{text}: one {group} is expected, as in {group}=NAME{more}")
        listed = group in ("metric", "probe") and chosen.lstrip().startswith("[")
        if not (listed or "/" in chosen) or _SEARCHPATH.match(text):
            continue
        key, value = overridden(text)
        group = key.partition("@")[0]
        if catalogue.files(group):
            _check_chosen(group, value)


def _check_chosen(group: str, value: Any) -> None:
    if isinstance(value, ChoiceSweep | list):
        for one in value if isinstance(value, list) else value.list:
            _check_chosen(group, one)
            if not isinstance(one, str | QuotedString) and not isinstance(value, ChoiceSweep):
                raise UserError(f"{group}={one!r}: names are expected, as in {group}=[NAME]")
    name = value.text if isinstance(value, QuotedString) else value
    if isinstance(name, str) and not is_name(name):
        listed = next((word for word, folder in GROUPS.items() if folder == group), None)
        where = "" if listed is None else f"; `genbench list {listed}` shows all"
        raise UserError(f"{group} {name!r}: no such {group}; a name is expected, not a path{where}")


def _check_origin(composed: list[DictConfig], overrides: list[str]) -> None:
    """What only the user may say: a file cannot trust itself, choose where results go, nor hand Hydra code to run."""
    said = any(_TRUST.match(text) for text in overrides)
    for config in composed:
        for group, chosen in config.hydra.runtime.choices.items():  # files choose too
            if not str(group).startswith("hydra"):
                _check_chosen(str(group), list(chosen) if isinstance(chosen, ListConfig) else chosen)
        if config.get("trust") and not said:
            named = ",".join(map(str, config.trust))
            raise UserError(f"trust: set by a configuration file; if you trust it, add trust=[{named}] yourself")
        for key, ours in _PLACES.items():
            there = config.get(key, ours)
            if there != ours and not any(re.match(rf"\+{{0,2}}{key}=", text) for text in overrides):
                raise UserError(f"{key}={there!r}: set by a configuration file, and only you say where results go: add "
                                f"{key}=FOLDER")  # fmt: skip
        engine = (config.get("launcher") or {}).get("engine", "local")
        if engine != "local" and not any(re.match(r"\+{0,2}launcher[=.]", text) for text in overrides):
            raise UserError(f"launcher={engine!r}: set by a configuration file, and only you say where runs go: add "
                            f"launcher={engine}")  # fmt: skip
        parts = {part: config.hydra.get(part) for part in ("callbacks", "launcher", "sweeper")}
        node = {part: OmegaConf.to_container(value, resolve=True) for part, value in parts.items() if value is not None}
        check_targets({"hydra": node, "trust": config.get("trust")})


def _sweep(overrides: list[str], whole: DictConfig, loader: ConfigLoader) -> list[list[str]]:
    """What Hydra's basic sweeper will make of the overrides. Other sweepers decide as they go: the base is checked."""
    if not str(whole.hydra.sweeper["_target_"]).endswith(BasicSweeper.__name__):
        parser = OverridesParser.create()
        return [[text for text in overrides if not parser.parse_override(text).is_sweep_override()]]
    params = {key: f"{key}={value}" for key, value in (whole.hydra.sweeper.params or {}).items()}
    given = {parsed(text).get_key_element() for text in overrides}
    check_sweeps(
        [*(text for key, text in params.items() if key not in given), *overrides], multirun=True, loader=loader
    )
    asked = OverridesParser.create(loader).parse_overrides([*params.values(), *overrides])
    return [job for batch in BasicSweeper.split_arguments(asked, None) for job in batch]


def plain(config: DictConfig, choices: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """What a run needs to know, as JSON can hold it: values, and the names under which they were chosen.

    In every path ``~`` is the user's home. Paths of data are made absolute, because the checkpoint that stores them may
    be read from another folder; names of features, and of data in metrics, are replaced by their configurations. Data
    of the user's own (those that take a title) get the name of their file or folder as title, if they have no other.
    """
    content = {key: value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    made = OmegaConf.to_container(OmegaConf.create(content), resolve=True, throw_on_missing=True)
    assert isinstance(made, dict)
    run: dict[str, Any] = {str(key): value for key, value in made.items()}
    run["logger"] = run.get("logger") or None
    run["probe"] = run.get("probe") or {}
    chosen = {group: name for group, name in choices.items() if group in _GROUPS and name is not None}
    run["choices"] = chosen
    data = run["data"] if isinstance(run.get("data"), dict) else {}
    _make_absolute("data", data, "path")
    if "title" in data and data["title"] is None and isinstance(data.get("path"), str):  # the user's own data
        data["title"] = title_of(data["path"])
    # A number is a name too: name=2024, data.title=2024.
    for node, key in ((run, "name"), (data, "title")):
        if isinstance(node.get(key), int):
            node[key] = str(node[key])
    if run.get("name") is None:
        run["name"] = called(data, chosen)
    for key in _PATHS:
        if isinstance(run.get(key), str):
            run[key] = str(at_home(key, run[key]))
    if isinstance(run.get("metric"), dict):
        for metric, node in run["metric"].items():
            if isinstance(node, dict) and isinstance(node.get("features"), str):
                node["features"] = _stored(f"metric.{metric}.features", "features", node["features"], catalogue)
            if isinstance(node, dict) and isinstance(node.get("features"), dict):
                _make_absolute(f"metric.{metric}.features", node["features"], "weights")
            if isinstance(node, dict) and isinstance(node.get("data"), str):
                node["data"] = _stored(f"metric.{metric}.data", "data", node["data"], catalogue)
            if isinstance(node, dict) and isinstance(node.get("data"), dict):
                _make_absolute(f"metric.{metric}.data", node["data"], "path")
    return run


def _stored(path: str, group: str, name: str, catalogue: Catalogue) -> dict[str, Any]:
    """The configuration of the features or the data that a metric names."""
    node = catalogue.stored(group, name)
    if node is not None and "defaults" in node:
        raise UserError(f"{path}={name}: a file in {group}/ has no defaults here; write all of its keys")
    if node is None:
        known = catalogue.files(group)
        raise UserError(f"{path}={name}: no such {group}{nearest(name, known)}; `genbench list {group}` shows all")
    unset = [key for key, value in node.items() if value == "???"]
    if unset:
        raise UserError(f"{path}={name}: {unset[0]} has no default; write a file of your own like it, in a folder "
                        f"{group}/ on hydra.searchpath")  # fmt: skip
    return node


def _make_absolute(path: str, node: dict[str, Any], key: str) -> None:
    """Make a key's path absolute, in a node and in those inside it."""
    if isinstance(node.get(key), str):
        node[key] = str(at_home(f"{path}.{key}", node[key]).absolute())
    for name, inside in node.items():
        if isinstance(inside, dict):
            _make_absolute(f"{path}.{name}", inside, key)
