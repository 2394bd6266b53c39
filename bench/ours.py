"""Which code a name finds: our own packages first, then what is installed, and the working folder last.

``bench``, ``models`` and ``conf`` are names that many repositories use. ``import bench`` therefore takes the ``models``
and ``conf`` that lie beside it, whatever else Python's path has of these names.
"""

import importlib.util
import os
import site
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["ROOT", "claim", "find_here_too", "python_path", "working_folder_last"]

ROOT = Path(os.path.abspath(__file__)).parent.parent
PACKAGES = ("models", "conf")


def claim(root: Path = ROOT) -> None:
    """Import the packages ``models`` and ``conf`` of a folder, so that every later import of these names gives them.

    Raises:
        ImportError: Another module of the name is imported already.
    """
    for name in PACKAGES:
        there = sys.modules.get(name)
        if there is None:
            _import(name, root / name)
        elif not _is_at(there, root / name):
            raise ImportError(
                f"{_place(there)} hides the package {name!r} of genbench, {root / name}: it was imported first; "
                "import bench before it, or rename it"
            )


def _import(name: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_at(module: ModuleType, folder: Path) -> bool:
    return os.path.realpath(_place(module)) == os.path.realpath(folder)


def _place(module: ModuleType) -> str:
    """The folder of a package, or the file of a module."""
    folders = list(getattr(module, "__path__", ()))
    return folders[0] if folders else str(getattr(module, "__file__", None))


def working_folder_last() -> None:
    """In a process of the command ``genbench``: what lies in the working folder hides nothing that is installed.

    ``python -m bench`` puts the folder first on Python's path, and ``PYTHONPATH=.`` before what is installed. It is
    taken from there. If the user named it in ``PYTHONPATH``, it is searched after everything else.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # the same for every other Python that is started from here
    here = os.path.realpath(os.getcwd())
    installed = {str(ROOT), os.path.dirname(os.__file__), *site.getsitepackages(), site.getusersitepackages()}
    if here in map(os.path.realpath, installed):
        return
    named = [] if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]
    if any(os.path.realpath(entry) == here for entry in named if entry):
        find_here_too()


class _WorkingFolder(MetaPathFinder):
    """Finds modules in the working folder. It is asked last, after the finders of everything that is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [os.getcwd()], target) if path is None else None


def find_here_too() -> None:
    """Let modules be found in the working folder, after everything that is installed.

    An entry of ``sys.path`` would not do: the finder of a package in an editable installation comes after all of them.
    """
    if not any(isinstance(finder, _WorkingFolder) for finder in sys.meta_path):
        sys.meta_path.append(_WorkingFolder())


def python_path() -> str:
    """A ``PYTHONPATH`` with which another Python, started with ``-P``, finds what this one finds, and our packages."""
    found = [entry for entry in sys.path if entry]
    return os.pathsep.join(found if str(ROOT) in found else [str(ROOT), *found])
