"""``genbench new model``: the files of a new model, small but complete, to begin from. Imports no torch."""

import argparse
import importlib.util
import keyword
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import conf
from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.paths import at_home

__all__ = ["FAMILIES", "Home", "add_arguments", "main", "new_model"]

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = sorted(file.stem for file in TEMPLATES.glob("*.yaml"))
OWN_PACKAGE = "my_models"
CLASS = "Mine"  # in the templates
HYDRAS_WORDS = {"null", "true", "false", "nan", "inf"}  # which model=NAME would not read as a name

EPILOG = """\
genbench new model mine                    a flow
genbench new model mine --family vae       another family
genbench new model mine --into my_models   in a package of your own, which need not exist

In a checkout of genbench the files go to models/ and conf/model/; elsewhere they go to the package my_models.
"""


@dataclass(frozen=True)
class Home:
    """Where the files of a model go.

    Attributes:
        code: Folder of its Python file.
        configs: Folder of configurations: ``configs/model/NAME.yaml``.
        package: Dotted name of ``code``.
        root: Folder that must be on Python's path for the package to be found; None for a checkout, which is.
    """

    code: Path
    configs: Path
    package: str
    root: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench new`` to a parser."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    words = "a Python file and a YAML that run and pass the contract tests"
    model = kinds.add_parser("model", help=words, description=f"Write {words}.", epilog=EPILOG)
    model.formatter_class = argparse.RawDescriptionHelpFormatter
    model.add_argument("name", metavar="NAME", help="its name on the command line, and of its files")
    model.add_argument("--family", default="flow", metavar="FAMILY", help=f"flow unless given: {', '.join(FAMILIES)}")
    model.add_argument("--into", type=Path, metavar="FOLDER", help="a checkout of genbench, or a package of your own")


def main(args: argparse.Namespace) -> int:
    """Write the files and print what to run next. Returns 0."""
    home = _home(None if args.into is None else at_home("--into", args.into), args.family)
    for file in new_model(args.name, args.family, home):
        print(f"wrote {file}")
    print("\n".join(_next(args.name, home)))
    return 0


def new_model(name: str, family: str, home: Home) -> list[Path]:
    """Write a model's Python file and YAML, and what its package lacks; return what was written.

    Raises:
        UserError: The name cannot be a model's, there is no such family, or a file exists already; nothing was written.
    """
    _check_name(name)
    if family not in FAMILIES:
        raise UserError(
            f"--family {family}: no such family{nearest(family, FAMILIES)}; there are: {', '.join(FAMILIES)}"
        )
    code = (TEMPLATES / f"{family}.py").read_text(encoding="utf-8")
    yaml = (TEMPLATES / f"{family}.yaml").read_text(encoding="utf-8")
    class_name = _class_name(name, code)
    files = {
        home.code / f"{name}.py": re.sub(rf"\b{CLASS}\b", class_name, code),
        home.configs / "model" / f"{name}.yaml": yaml.replace(
            f"bench.cli.templates.{family}.{CLASS}", f"{home.package}.{name}.{class_name}"
        ).replace(f"# {CLASS}:", f"# {class_name}:", 1),
    }
    for file in files:
        if os.path.lexists(file):
            raise UserError(f"{file}: exists already, and is left as it is; choose another name than {name}")
    init = home.code / "__init__.py"
    if not init.exists():
        files = {init: "", **files}
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}; give another folder with --into FOLDER") from error
    return list(files)


def _home(into: Path | None, family: str) -> Home:
    """A checkout of this project, or a package of the user's own.

    Raises:
        UserError: The folder's name cannot be a package's, or is that of another package.
    """
    folder = Path() if into is None else into
    if (folder / "models" / "base.py").is_file() and (folder / "conf" / "model").is_dir():
        kind = f"{family}s" if (folder / "models" / f"{family}s" / "__init__.py").is_file() else family
        return Home(folder / "models" / kind, folder / "conf", f"models.{kind}", None)
    folder = Path(OWN_PACKAGE) if into is None else into
    package = Path(os.path.abspath(folder)).name  # not resolved: a link's name is the package's
    if not _is_identifier(package):
        raise UserError(f"--into {folder}: {package!r} cannot be the name of a Python package; give another folder")
    taken = importlib.util.find_spec(package)
    if taken is not None and os.path.realpath(folder) not in map(
        os.path.realpath, taken.submodule_search_locations or ()
    ):
        raise UserError(f"--into {folder}: Python has another package {package!r}; give another folder")
    return Home(folder, folder / "conf", package, folder.parent)


def _check_name(name: str) -> None:
    if not _is_identifier(name) or name.lower() in HYDRAS_WORDS:
        raise UserError(f"new model {name!r}: must be a Python name that is no keyword, as in my_flow")
    if (Path(conf.__file__).parent / "model" / f"{name}.yaml").exists():
        raise UserError(f"new model {name!r}: there is a model of this name already; `genbench list models` shows all")


def _is_identifier(name: str) -> bool:
    """Whether it can be the name of a module, and is none of those that Python and Hydra begin with ``_``."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def _class_name(name: str, code: str) -> str:
    """``my_flow`` to ``MyFlow``, or ``MyFlowModel`` where the template uses that name already."""
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    used = set(re.findall(r"\w+", code)) - {CLASS}
    while class_name in used or keyword.iskeyword(class_name):
        class_name += "Model"
    return class_name


def _next(name: str, home: Home) -> list[str]:
    """Commands that train and test the model, for a shell in this folder."""
    runs = [f"genbench run model={name} data={data}" for data in ("two_moons", "mnist5k")]
    test = "python -m pytest tests/test_contract_models.py"
    if home.root is None:
        return ["train it:", *(f"  {run}" for run in runs), "test it:", f"  {test} -k {name}"]
    options = shlex.join([f"hydra.searchpath=[file://{home.configs}]", f"trust=[{home.package}]"])
    train = [f"  PYTHONPATH={shlex.quote(str(home.root))} {run} {options}" for run in runs]
    # In another folder relative paths would lead elsewhere.
    root, configs = shlex.quote(os.path.abspath(home.root)), shlex.quote(os.path.abspath(home.configs))
    test = f"  PYTHONPATH={root} {test} --searchpath {configs} --trust {home.package} -k {name}"
    return ["train it:", *train, "test it, in a checkout of genbench:", test]
