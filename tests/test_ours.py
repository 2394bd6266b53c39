"""Our packages are found, whatever lies in the folder where a command is given."""

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import pytest

from bench import ours
from bench.rows.store import read_rows

ROOT = Path(__file__).resolve().parent.parent
TINY = ["data=two_moons", "data.n_train=256", "data.n_val=64", "data.n_test=64", "metric=[likelihood]"]

# What setuptools makes of an editable installation: a finder that is asked after every folder on Python's path.
EDITABLE = f"""
import importlib.machinery, importlib.util, sys

class Editable:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("bench", "models", "conf"):
            return importlib.util.spec_from_file_location(name, {str(ROOT)!r} + f"/{{name}}/__init__.py")

sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Editable)
"""


@pytest.fixture
def decoys(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with modules of our names and of a library's, which leave a file when they are imported."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    regular = getattr(request, "param", True)
    for place in ["models/base.py", "models/baselines.py", "conf/__init__.py", "torchmetrics.py"]:
        file = folder / place
        file.parent.mkdir(exist_ok=True)
        if regular or file.name != "__init__.py":
            file.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n")
    if regular:
        (folder / "models" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n")
    (folder / "conf" / "run.yaml").write_text("theirs: true\n")
    return folder


def python(folder: Path, *command: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder with a ``PYTHONPATH``; a script lies elsewhere."""
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=folder, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def command(tmp_path: Path, way: str) -> tuple[list[str], str]:
    """How ``genbench`` is called, and the ``PYTHONPATH``."""
    if way == "python -m bench":
        return ["-m", "bench"], str(ROOT)
    script = tmp_path / "bin" / "genbench"
    script.parent.mkdir()
    script.write_text("import sys\nfrom bench.cli.main import main\nsys.exit(main())\n")
    if way == "PYTHONPATH=. genbench":
        return [str(script)], os.pathsep.join([".", str(ROOT)])
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EDITABLE)
    return [str(script)], os.pathsep.join([".", str(site)])


WAYS = ["python -m bench", "PYTHONPATH=. genbench", "PYTHONPATH=. genbench, editable"]


@pytest.mark.parametrize("decoys", [True, False], indirect=True, ids=["packages", "folders"])
@pytest.mark.parametrize("way", WAYS)
def test_our_configurations_are_listed(way: str, decoys: Path, tmp_path: Path) -> None:
    begin, path = command(tmp_path, way)
    done = python(decoys, *begin, "list", "models", path=path)
    assert done.returncode == 0, done.stderr
    assert "  gaussian " in done.stdout
    assert not (tmp_path / "ran").exists()


def test_another_folder_on_the_path_hides_nothing_of_ours(decoys: Path, tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "bench", "list", "models", path=os.pathsep.join([str(decoys), str(ROOT)]))
    assert done.returncode == 0, done.stderr
    assert "  gaussian " in done.stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("decoys", "way"), [(True, WAYS[0]), (True, WAYS[1]), (False, WAYS[2])], indirect=["decoys"], ids=WAYS
)
def test_a_run_takes_our_models_and_the_installed_libraries(way: str, decoys: Path, tmp_path: Path) -> None:
    begin, path = command(tmp_path, way)
    done = python(decoys, *begin, "run", "model=gaussian", *TINY, path=path)
    assert done.returncode == 0, done.stderr
    assert {row.model for row in read_rows(decoys / "results" / "rows" / "two_moons.jsonl")} == {"gaussian", "oracle"}
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_processes_of_ddp_take_them_too(decoys: Path, tmp_path: Path) -> None:
    (decoys / "bench").mkdir()  # a folder of results, say: no package, and yet Python would take it for one
    begin, path = command(tmp_path, WAYS[2])
    path = path.removeprefix(f".{os.pathsep}")  # or that folder would hide our package from the command itself
    two = ["trainer=ddp", "trainer.accelerator=cpu", "train.examples=128", "train.validate_every=128"]
    done = python(decoys, *begin, "run", "model=linear", *two, *TINY, path=path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.parametrize("decoys", [True, False], indirect=True, ids=["packages", "folders"])
def test_a_notebook_takes_them_too(decoys: Path, tmp_path: Path) -> None:
    (decoys / "torchmetrics.py").unlink()  # in a notebook, the user's own modules come first
    code = "import bench, models.base, conf\nprint(conf.__file__, models.base.__file__)"
    done = python(decoys, "-c", code, path=str(ROOT))
    assert done.stdout.split() == [str(ROOT / "conf" / "__init__.py"), str(ROOT / "models" / "base.py")], done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("decoys", [True, False], indirect=True, ids=["packages", "folders"])
@pytest.mark.parametrize("name", ["models", "conf"])
def test_what_was_imported_first_is_named(name: str, decoys: Path) -> None:
    done = python(decoys, "-c", f"import sys\nimport {name}\nsys.path.append({str(ROOT)!r})\nimport bench", path="")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {decoys / name} hides the package '{name}' of genbench"), done.stderr


def test_ours_are_not_imported_a_second_time() -> None:
    import models

    before = sys.modules["models"]
    ours.claim()
    assert sys.modules["models"] is before is models


def test_an_installed_folder_stays_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    library = os.path.dirname(os.__file__)
    monkeypatch.setattr(sys, "path", ["", library, str(ROOT)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for folder in (library, str(ROOT)):
        monkeypatch.chdir(folder)
        ours.working_folder_last()
        assert sys.path == ["", library, str(ROOT)]


def test_the_working_folder_comes_last_if_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").touch()
    (tmp_path / "something_of_a_user.py").touch()
    monkeypatch.chdir(tmp_path)
    for asked in (False, True):
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}/elsewhere" if asked else "/elsewhere")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
        ours.working_folder_last()
        assert str(tmp_path) not in sys.path
        found = importlib.util.find_spec("something_of_a_user")
        assert (found is not None) is asked
        json = importlib.util.find_spec("json")
        assert json is not None
        assert json.origin != str(tmp_path / "json.py")


def test_a_finder_of_something_installed_is_asked_before_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "here", tmp_path / "installed"):
        folder.mkdir()
        (folder / "something_of_a_user.py").touch()

    class Editable:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return PathFinder.find_spec(name, [str(tmp_path / "installed")]) if name == "something_of_a_user" else None

    monkeypatch.chdir(tmp_path / "here")
    for finders, where in (([], "here"), ([Editable], "installed")):
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, *finders])
        ours.find_here_too()
        found = importlib.util.find_spec("something_of_a_user")
        assert found is not None
        assert found.origin == str(tmp_path / where / "something_of_a_user.py")
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path / "here")


def test_other_processes_find_what_this_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/one", "/two"])
    assert ours.python_path() == os.pathsep.join([str(ROOT), "/one", "/two"])
    monkeypatch.setattr(sys, "path", ["/one", str(ROOT), "/two"])
    assert ours.python_path() == os.pathsep.join(["/one", str(ROOT), "/two"])
